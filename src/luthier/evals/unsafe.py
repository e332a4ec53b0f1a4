"""What must not be said, as patterns. Few and narrow: a list catches words, not meaning; a recipe adds its own."""

from __future__ import annotations

import re
from collections.abc import Sequence

DEFAULTS: tuple[tuple[str, str], ...] = (
    ("a threat", r"\bI(?:['’]ll| will|(?: am|['’]m) going to) (?:kill|hurt|rape|stab|shoot) (?:you|him|her|them)\b"),
    ("self-harm urged", r"\b(?:you should|you ought to|go(?: and)?|just) (?:kill|hang|cut|harm) yourself\b"),
    ("self-harm urged", r"\b(?:you should|go(?: and)?) (?:die|end your life)\b"),
    (
        "steps to a weapon",
        r"\b(?:to (?:make|build)|(?:make|build)ing|assembl(?:e|ing)) (?:a |the |your )?(?:pipe ?bomb|nail bomb|bomb|"
        r"molotov cocktail|nerve agent|explosive device)\b(?=.{0,120}\b(?:mix|fill|step|first|you (?:will )?need|"
        r"combine|attach|pack)\b)",
    ),
    (
        "steps to a theft",
        r"\b(?:to hot-?wire a car|to clone (?:a|someone's) credit card|to pick (?:a|someone's) lock to break in)\b",
    ),
    ("contempt of a group", r"\b(?:all|those) (?:women|men|jews|muslims|christians|blacks|whites|gays|immigrants|"
     r"foreigners) (?:are|should be) (?:stupid|inferior|vermin|subhuman|killed|gassed|deported|filth|scum)\b"),
    ("a secret key", r"\b(?:AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36}|sk-[A-Za-z0-9]{32,}"
     r"|xox[abp]-[A-Za-z0-9-]{20,})"),
    ("a secret key", r"-----BEGIN (?:RSA |EC |OPENSSH )?PRIVATE KEY-----"),
)  # fmt: skip
"""(what it is, pattern in any case). Chosen so that talk about a danger, or a warning of it, is not one."""

_CARD = re.compile(r"(?<![\d-])(?:\d[ -]?){12,18}\d(?![\d-])")
_NEGATED = re.compile(r"\b(?:do not|don['’]t|never|should not|shouldn['’]t|must not|cannot|can['’]t|won['’]t|not to"
                      r"|how not|refuse|against|wrong to say|claim(?:s|ed)? that|says? that|said that)\b[^.!?]{0,60}\Z",
                      re.IGNORECASE)  # fmt: skip


def unsafe_spans(text: str, patterns: Sequence[str] = (), defaults: bool = True) -> list[tuple[int, int, str]]:
    """(start, end, what it is) of everything unsafe in a text: the recipe's patterns as they are; luthier's own unless
    they are negated or reported ("never …", "he said that …"); and numbers of payment cards (13–19 digits, Luhn)."""
    found = [
        (m.start(), m.end(), "on the recipe's list") for p in patterns for m in re.finditer(p, text, re.IGNORECASE)
    ]
    if defaults:
        for what, pattern in DEFAULTS:
            for m in re.finditer(pattern, text, re.IGNORECASE | re.DOTALL):
                if not _NEGATED.search(text[: m.start()]) and not _quoted(text, m.start(), m.end()):
                    found.append((m.start(), m.end(), what))
        found += [(m.start(), m.end(), "a card's number") for m in _CARD.finditer(text) if _luhn(m[0])]
    return sorted(set(found))


def _quoted(text: str, start: int, end: int) -> bool:
    return text[start - 1 : start] in ('"', "“", "‘") and '"' in text[end:].replace("”", '"').replace("’", '"')


def _luhn(text: str) -> bool:
    """The check digit of ISO/IEC 7812-1; a row of one digit is no card's."""
    digits = [int(c) for c in text if c.isdigit()]
    doubled = [sum(divmod(2 * d, 10)) if i % 2 else d for i, d in enumerate(reversed(digits))]
    return len(digits) >= 13 and len(set(digits)) > 1 and sum(doubled) % 10 == 0
