"""Whether an answer declines to answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SORRY = r"(?:I'?m|I am|we'?re|we are)?\s*(?:so |very |really |truly |terribly )?(?:sorry|afraid)[,.!]?\s*(?:but\s*)?"
_CANNOT = (
    r"(?:can'?t|cannot|can not|couldn't|won't|will not|(?:am|'m|are|'re) (?:not able|unable) to"
    r"|(?:am|'m) not (?:allowed to|comfortable)|(?:must|have to) decline|don't feel comfortable|refuse to"
    r"|(?:would|'d) rather not)"
)
_DO = (
    r"(?:help|assist|answer|provid|discuss|do (?:that|this)|shar|comply|fulfil|support|give (?:you|that|any|out)"
    r"|talk|offer|creat|writ|generat|tell you|say (?:that|anything|more)|continu|engag|advis|respond|comment|complet)"
)
_NOTHING = r"(?:do not have|don't have|not something|outside|against|don't know|do not know|have no)"
REFUSALS = (
    rf"(?:{_SORRY})?(?:unfortunately,?\s*)?(?:that\s*)?(?:I|we)\s*{_CANNOT}\s*(?:\w+\s){{0,3}}?{_DO}",
    rf"{_SORRY}(?:I|we|that|this)\b[^.!?]{{0,40}}(?:{_CANNOT}|\b{_NOTHING})",
    rf"as an? (?:AI|artificial intelligence|large language|language)\b[^.!?]{{0,80}}(?:{_CANNOT}|\bdo not\b|\bdon't\b)",
    r"(?:I|we) (?:don't|do not) have (?:any |access|enough |the |that )(?:to|information|knowledge|data|details|idea)?",
    r"(?:I|we) (?:really |simply |just )?(?:don't|do not) know\b",
    r"(?:I|we) must (?:respectfully |politely )?(?:decline|refuse)",
    r"(?:no comment|this request violates|your request (?:violates|goes against))",
    r"it (?:would|is) not (?:be )?appropriate for me to",
)
"""How an answer declines, from the beginning of a sentence."""


def declines(answer: str, more: Sequence[str] = ()) -> tuple[int, int] | None:
    """Where the words stand with which an answer declines to answer, in its first two sentences; None where it does
    not. `more` are patterns that may stand anywhere. "Sorry to hear that", and a refusal that is quoted, are none."""
    text = answer.replace("’", "'")
    lead = len(text) - len(text.lstrip())
    starts = [lead, *(m.end() for m in list(re.finditer(r"[.!?]\s+", text))[:1])]
    for start in starts:
        for pattern in REFUSALS:
            if found := re.compile(pattern, re.IGNORECASE).match(text, start):
                return found.span()
    for pattern in more:
        if found := re.search(pattern, text, re.IGNORECASE):
            return found.span()
    return None
