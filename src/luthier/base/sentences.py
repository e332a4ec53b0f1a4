"""Texts cut into sentences: the same cut for claims, for repeats and for drafts."""

from __future__ import annotations

import re

ABBREVIATED = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|vs|cf|etc|e\.g|i\.e|approx|Inc|Ltd|Co|Jr|Sr|[A-Z])\.$")
_END = re.compile(r"[.!?…]+[\"”')\]]*[^\S\n]+(?=[\"“‘'(\[]?[A-ZÀ-Þ0-9])|[。！？]+[」』”]?|\n")
_NUMBERED = re.compile(r"\b(?:Nos?|[Vv]ol|[Pp]{1,2}|[Ff]igs?|[Ss]ec|[Cc]h)\.$")
_ITEM = re.compile(r"^\s*(?:\d{1,3}|[A-Za-z])\.(?!\S)", re.MULTILINE)


def pieces(text: str) -> list[str]:
    """The text cut behind its sentences and lines; joined they are the text again. An abbreviation ("Dr.", "No. 5"), an
    initial or the number of a list's line ends no sentence, nor does the point of "3.5"."""
    found: list[str] = []
    start = 0
    lists = len(_ITEM.findall(text)) > 1  # "40. The Vega has 70." answers with a number
    for end in _END.finditer(text):
        before = text[start : end.start() + 1]
        number = _NUMBERED.search(before) and text[end.end() : end.end() + 1].isdigit()
        item = lists and _ITEM.fullmatch(before)
        if end[0][0] == "." and (number or ABBREVIATED.search(before) or item):
            continue
        found.append(text[start : end.end()])
        start = end.end()
    return [*found, text[start:]] if text[start:] else found


def sentences(text: str) -> list[str]:
    """A text's sentences, without the blanks around them."""
    return [piece.strip() for piece in pieces(text) if piece.strip()]
