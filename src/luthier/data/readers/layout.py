"""Lines on pages -> paragraphs: what the eye sees from distances, margins and sizes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

HYPHEN = "\ufffe"
"""PDFium's mark for the hyphen of a word that goes on in the next line."""
EDGE_LINES, NEAR_PAGES, SAME = 3, 6, 3
"""A line among so many first or last ones of a page is a running head if so many of the pages near it (its own
included) have the same, numbers aside."""
HEADING_SIZE, LONGEST_HEADING, LEVELS = 1.15, 200, 4
"""A heading is larger than the text by this factor, and no longer than this."""
APART = 1.35
"""Lines further apart than this many times the usual distance are two paragraphs'."""
LETTER = 0.5
"""Width of a letter over its size, about."""
NUMBER = re.compile(r"\b(?:\d+|[ivxlc]+)\b", re.I)
BULLET = re.compile(r"(?:[•◦▪‣·●○–—*-]|\(?\d{1,3}[.)]|\(?[a-z][.)])\s+(?=\S)")
SIGN = re.compile(r"^[•◦▪‣·●○–—]\s+")
END = re.compile(r"[.!?:;…][\"'”’)\]]*$")
Box = tuple[float, float, float, float]
NoLayout: Box = (0.0, 0.0, 0.0, 0.0)


class Line(NamedTuple):
    """A line of a page."""

    text: str
    page: int
    box: Box
    """Left, bottom, right, and the size of its letters, in points; `NoLayout`: not known."""


class Paragraph(NamedTuple):
    """Lines that belong together, as Markdown."""

    text: str
    page: int
    """Where it begins."""


def without_running_heads(pages: Sequence[Sequence[Line]]) -> list[Line]:
    """All lines in order, but those at the edges of a page that pages near it have too (numbers aside): titles of books
    and chapters, page numbers."""
    tops = [{form(line) for line in page[:EDGE_LINES]} for page in pages]
    ends = [{form(line) for line in page[-EDGE_LINES:]} for page in pages]

    def running(line: Line, index: int, edge: Sequence[set[str]]) -> bool:
        near = edge[max(0, index - NEAR_PAGES) : index + NEAR_PAGES + 1]
        return sum(form(line) in lines for lines in near) >= SAME

    kept: list[Line] = []
    for index, page in enumerate(pages):
        first, last = 0, len(page)
        while first < min(EDGE_LINES, last) and running(page[first], index, tops):
            first += 1
        while last > max(first, len(page) - EDGE_LINES) and running(page[last - 1], index, ends):
            last -= 1
        kept += page[first:last]
    return kept


def form(line: Line) -> str:
    """A line by which it is known on other pages: numbers aside."""
    return " ".join(NUMBER.sub("#", line.text.casefold()).split())


def paragraphs(lines: Sequence[Line]) -> Iterator[Paragraph]:
    """Lines put together: a heading's with its marks, an item's, a paragraph's. Where the lines of a paragraph end
    early, as in verse and addresses, they stay lines."""
    sizes = levels(lines)
    usual = usual_distance(lines)
    words = {word for line in lines for word in re.findall(r"[\w-]+", line.text.casefold())}
    margins = right_margins(lines)
    text, before = "", None
    begun = 0
    for line in lines:
        if before is None or parted(before, line, sizes, usual):
            if text:
                yield Paragraph(shown(text), begun)
            level = sizes.get(size(line), 0)
            text, begun = ("#" * level + " " if level else "") + line.text, line.page
        elif text.endswith(HYPHEN):
            text = joined(text, line.text, words)
        else:
            early = not sizes.get(size(line)) and ends_early(before, line, margins)
            text += ("\n" if early else " ") + line.text
        before = line
    if text:
        yield Paragraph(shown(text), begun)


def shown(text: str) -> str:
    """A paragraph's text; what came as a bullet is Markdown's."""
    return SIGN.sub("- ", text).replace(HYPHEN, "-")


def size(line: Line) -> float:
    """Of its letters, to half a point."""
    return round(2 * line.box[3]) / 2


def levels(lines: Sequence[Line]) -> dict[float, int]:
    """Size of letters -> level of a heading, for the sizes above that of most letters."""
    letters: Counter[float] = Counter()
    for line in lines:
        letters[size(line)] += len(line.text)
    body = letters.most_common(1)[0][0] if letters else 0.0
    short = {size(line) for line in lines if len(line.text) <= LONGEST_HEADING and re.search(r"\w", line.text)}
    larger = sorted((s for s in short if body and s >= HEADING_SIZE * body), reverse=True)
    return {s: min(level, LEVELS) for level, s in enumerate(larger, 1)}


def usual_distance(lines: Sequence[Line]) -> float:
    """From one line of a paragraph to the next, in points."""
    steps = [a.box[1] - b.box[1] for a, b in pairwise(lines) if a.page == b.page and size(a) == size(b)]
    return median([step for step in steps if step > 0] or [0.0])


def right_margins(lines: Sequence[Line]) -> dict[tuple[int, int], float]:
    """(page, left edge in steps of 30 points) -> where the lines of that column end on the right."""
    margins: dict[tuple[int, int], float] = {}
    for line in lines:
        column = int(line.box[0] // 30)
        for near in (column - 1, column, column + 1):
            margins[line.page, near] = max(margins.get((line.page, near), 0.0), line.box[2])
    return margins


def parted(before: Line, line: Line, sizes: dict[float, int], usual: float) -> bool:
    """Whether a line begins a new paragraph."""
    if before.text.endswith(HYPHEN):
        return False
    if sizes.get(size(before), 0) != sizes.get(size(line), 0) or BULLET.match(line.text):
        return True
    if NoLayout in (before.box, line.box):
        return END.search(before.text) is not None and before.page != line.page
    down = before.box[1] - line.box[1]
    if before.page != line.page or down < 0:  # the next page, or the next column
        return END.search(before.text) is not None or line.text[:1].isupper()
    apart = APART * (usual if not sizes.get(size(line)) else max(usual, 1.4 * size(line)))
    indented = 0.5 * size(line) < line.box[0] - before.box[0] < 4 * size(line) and END.search(before.text) is not None
    return down > apart or indented


def ends_early(before: Line, line: Line, margins: dict[tuple[int, int], float]) -> bool:
    """Whether the first word of a line would have fitted in the one before: the break is meant."""
    if NoLayout in (before.box, line.box) or before.page != line.page:
        return False
    room = margins[before.page, int(before.box[0] // 30)] - before.box[2]
    return room > LETTER * size(before) * (len(line.text.split()[0]) + 3)


def joined(text: str, rest: str, words: set[str]) -> str:
    """A word that was parted at the end of a line; with its hyphen if the document writes it so elsewhere."""
    left = re.search(r"[\w-]*$", text[: -len(HYPHEN)])
    right = re.match(r"[\w-]*", rest)
    head, tail = left[0].casefold() if left else "", right[0].casefold() if right else ""
    hyphened = f"{head}-{tail}" in words and head + tail not in words
    return f"{text[: -len(HYPHEN)]}{'-' if hyphened else ''}{rest}"
