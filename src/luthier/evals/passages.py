"""Documents in passages that a prompt has room for, cut where people cut: at headings, between paragraphs, then between
sentences, and between words only where a sentence is too long by itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from luthier.base.nouns import Text

HEADING = re.compile(r"^(#{1,6})\s+(.+?)\s*#*\s*$")
SENTENCE = re.compile(r"(?<=[.!?。！？])\s+")


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
            pieces = list(fitted(body, room, count))
            found += [Passage(f"{head}{piece}", document.origin) for piece in pieces]
            if heading and head and not pieces:
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
    """A text in pieces that fit, each as long as whole paragraphs, else sentences, else words allow."""
    return joined([p.strip() for p in re.split(r"\n\s*\n", body) if p.strip()], "\n\n", room, count)


def joined(parts: Sequence[str], between: str, room: int, count: Callable[[str], int]) -> Iterator[str]:
    """Neighbouring parts put together while they fit; a part that does not fit by itself is cut finer."""
    held = ""
    for part in parts:
        both = f"{held}{between}{part}" if held else part
        if count(both) <= room:
            held = both
            continue
        if held:
            yield held
        held = part
        if count(part) > room:
            held = ""
            yield from finer(part, between, room, count)
    if held:
        yield held


def finer(part: str, between: str, room: int, count: Callable[[str], int]) -> Iterator[str]:
    """A part that is too long: its lines, its sentences, its words; a single word stays whole."""
    for cut, glue in ((re.compile(r"\n"), "\n"), (SENTENCE, " "), (re.compile(r"\s+"), " ")):
        pieces = [piece for piece in cut.split(part) if piece]
        if len(pieces) > 1 and glue != between:
            yield from joined(pieces, glue, room, count)
            return
    yield part
