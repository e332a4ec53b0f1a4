"""What an answer says, held against what it should say: accepted values, the topic, the source."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from luthier.base.stems import STOP
from luthier.base.values import contains
from luthier.data.text import words_only
from luthier.evals.languages import NAMES
from luthier.evals.support import stems
from luthier.evals.values import values, written

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def plainly(text: str) -> str:
    """The text as values are compared: no accents, no case, hyphens as blanks; numbers and dates as `values` reads
    them, with their units: "14mm", "fourteen mm" and "1.4 cm" are one, so are "5 pm" and "17:00"."""
    text = re.sub(r"(?<=\d)[\u202f\u00a0](?=\d{3}(?!\d))", "", text)
    said, at = [], 0
    for value in values(text):
        code = re.match(r"0\d", value.text) and value.kind == "number" and value.dimension != "clock"  # "extension 073"
        if value.kind in ("number", "date") and value.start >= at and not code:
            said += [text[at : value.start], f" {written(value)} "]
            at = value.start + len(value.text)
    whole = "".join([*said, text[at:]]).casefold()
    bare = "".join(c for c in unicodedata.normalize("NFKD", whole) if not unicodedata.combining(c))
    bare = re.sub(r"(?<=\w)[-–‐‑](?=\w)", " ", re.sub(r"\bone\b", "1", re.sub(r"\bzero\b", "0", bare)))
    return re.sub(r"\s+(?=[.,;:!?)])", "", " ".join(bare.split()))


def holds_value(text: str, accept: Sequence[str]) -> bool:
    """Whether a text holds an accepted value, as written or in other clothes: "14mm", "fourteen mm", "1,000" for
    "1000"."""
    return contains(text, accept) or contains(plainly(text), [plainly(value) for value in accept])


def value_instead(answer: str, accept: Sequence[str], prompt: str) -> tuple[int, int]:
    """Where the wrong value stands, as far as a rule can tell: the first number where a number was wanted; else the
    last name or word that the question did not have. An empty span: nowhere to point at."""
    asked = {w.lower() for w in _WORD.findall(prompt)} | STOP
    if any(value.kind in ("number", "date") for text in accept for value in values(text)):
        given = {words_only(value.text) for value in values(prompt)}
        for value in values(answer):
            if value.kind in ("number", "date") and words_only(value.text) not in given:
                return value.start, value.start + len(value.text)
    fresh = [w for w in _WORD.finditer(answer) if w[0].lower() not in asked]
    return (fresh[-1].start(), fresh[-1].end()) if fresh else (0, 0)


def off_topic(
    prompt: str, answer: str, accept: Sequence[str] = (), reference: str | None = None, source: str | None = None
) -> str:
    """Why an answer has nothing to do with its question; '' where it may have.

    It asks on instead of answering (two questions or more and no statement); or, where it is known what a right answer
    speaks of (`accept`, a reference, a source), it has four words or more that mean something and shares none, to the
    stem, with those or with the question. The question alone tells too little: "Your parcel comes on Tuesday" shares no
    word with "When will it arrive?".
    """
    if not answer.strip() or (accept and holds_value(answer, accept)):
        return ""
    if answer.count("?") >= 2 and not re.search(r"[^?!.\s][^?!.]{8,}[.!](?:\s|\Z)", answer):
        return "asks on instead of answering"
    known = " ".join([reference or "", source or "", *accept])
    own = meaning(answer)
    if not known.strip() or len(own) < 4 or own & meaning(f"{prompt} {known}"):
        return ""
    return "shares no word with its question"


def meaning(text: str) -> set[str]:
    """The stems of the words that mean something, and the numbers."""
    return {*stems(text), *re.findall(r"\d+", text)}


def named_language(prompt: str) -> bool:
    """Whether a prompt asks for a language, or for a translation."""
    words = {w.lower() for w in _WORD.findall(prompt)}
    return bool(words & set(NAMES.values())) or any(w.startswith(("translat", "language")) for w in words)
