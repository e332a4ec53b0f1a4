"""How texts end, and those that do not: a text that breaks off in a sentence or within a code block."""

from __future__ import annotations

import re
from typing import NamedTuple

_DANGLES = re.compile(r"(?:[,;:(\[{\-–—]|\b(?:a|an|the|and|or|but|because|of|to|with|from|into|such as|than|which|that|"
                      r"is|are|was|were|your|my|our|their|if|when|while|by|for|in|at|has|have))\s*\Z")  # fmt: skip
_ENDS = re.compile(r"(?:[.!?…。！？:;)\]}»”\"'’*_`|>$%]|```|https?://\S+)\s*\Z")
"""How prose, a quotation, a list's line, a table, a formula or an address ends."""
LEAST_WORDS = 5
"""Of a text that is judged by its last word: shorter ones are names and values, which end as they like."""


class Break(NamedTuple):
    """Where a text breaks off, and why it counts."""

    start: int
    end: int
    why: str


def broken_off(text: str, said_its_end: bool = False) -> Break | None:
    """Where a text breaks off: within a code block, behind a comma or a word that asks for another where the sentences
    before it end in a full stop. `said_its_end`: the writer ended it by itself, and a colon is then an end."""
    text = text.rstrip()
    if not text:
        return None
    if text.count("```") % 2:
        return Break(text.rindex("```"), len(text), "a code block is not closed")
    found = _DANGLES.search(text) if len(text.split()) >= LEAST_WORDS else None
    if found is None or (found[0].strip() == ":" and said_its_end):
        return None
    # "What it is made of", "the room I live in": short answers end on such words by right.
    hard = (*",;:([{-–—", "a", "an", "the", "and", "or", "but", "because")
    prose = re.search(r"[.!?]\s", text) or found[0].strip() in hard
    return Break(found.start(), len(text), "breaks off in a sentence") if prose else None


def finished(text: str) -> bool:
    """Whether a text ends as texts do: with a mark, a closed code block, an address; or it is a word or a few, or a
    list, whose lines end without."""
    text = text.rstrip()
    if broken_off(text):
        return False
    last = text.splitlines()[-1].strip() if text else ""
    listed = re.match(r"(?:[-*•+]|\d{1,3}[.)])\s", last) is not None
    return bool(_ENDS.search(text)) or listed or len(last.split()) < LEAST_WORDS
