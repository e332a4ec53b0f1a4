"""Documents in passages that a prompt has room for, cut where people cut: at headings, between paragraphs, then between
sentences, and between words only where a sentence is too long by itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from luthier.base.nouns import Text

HEADING = re.compile(r"^(#{1,6})\s+(.+?)\s*#*\s*$")
CUTS = (
    (re.compile(r"\n\s*\n"), "\n\n"),
    (re.compile(r"\n"), "\n"),
    (re.compile(r"(?<=[.!?。！？])\s+"), " "),
    (re.compile(r"\s+"), " "),
)
"""Where a text may be cut, and what stands between neighbours that stay together."""


class Passage(NamedTuple):
    """Part of a document."""

    text: str
    """Its heading, where it has one, and its words."""
    origin: str


def passages(documents: Sequence[Text], most_tokens: int, count: Callable[[str], int]) -> list[Passage]:
    """Every word of every document, in passages of at most `most_tokens` by `count`. Neighbouring paragraphs under one
    heading share a passage where they fit. A word longer than that is a passage of its own."""
    found = []
    for document in documents:
        for heading, body in sections(document.text):
            head = f"{heading}\n" if heading else ""
            if head and count(head) > most_tokens // 2:  # a heading that leaves no room is text like any other
                head, body = "", f"{heading}\n\n{body}"
            room = most_tokens - (count(head) if head else 0)
            made = list(fitted(body, room, count))
            found += [Passage(f"{head}{piece}", document.origin) for piece in made]
            if head and not made:
                found.append(Passage(heading, document.origin))
    return found


def sections(text: str) -> Iterator[tuple[str, str]]:
    """(headings above it, "Leave > Parents", and the text below) of each part of a Markdown text; a plain text is one
    part without a heading. Lines in fenced code are no headings."""
    path: list[tuple[int, str]] = []
    lines: list[str] = []
    fenced = False
    for line in text.splitlines():
        fenced ^= line.lstrip().startswith(("```", "~~~"))
        match = None if fenced else HEADING.match(line)
        if match is None:
            lines.append(line)
            continue
        if path or "".join(lines).strip():
            yield " > ".join(title for _, title in path), "\n".join(lines).strip()
        level = len(match[1])
        path = [(depth, title) for depth, title in path if depth < level] + [(level, match[2])]
        lines = []
    yield " > ".join(title for _, title in path), "\n".join(lines).strip()


def fitted(body: str, room: int, count: Callable[[str], int]) -> Iterator[str]:
    """A text in pieces that fit, each as long as whole paragraphs, else lines, sentences, words allow."""
    if body.strip():
        yield from pieces(body.strip(), 0, room, count)


def pieces(text: str, level: int, room: int, count: Callable[[str], int]) -> Iterator[str]:
    """A text cut at one level of CUTS, neighbours put together while they fit; what does not fit by itself is cut one
    level finer. A single word stays whole."""
    if level == len(CUTS):
        yield text
        return
    cut, glue = CUTS[level]
    held = ""
    for part in filter(None, (part.strip() for part in cut.split(text))):
        both = f"{held}{glue}{part}" if held else part
        if count(both) <= room:
            held = both
            continue
        if held:
            yield held
        held = part if count(part) <= room else ""
        if not held:
            yield from pieces(part, level + 1, room, count)
    if held:
        yield held
