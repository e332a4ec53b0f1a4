"""The headings of a Markdown document, and what stands below each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

ATX = re.compile(r" {0,3}(?P<marks>#{1,6})(?:[ \t]+(?P<words>.*?))?(?:[ \t]+#+)?[ \t]*")
FENCE = re.compile(r"[ \t]*(?P<ticks>`{3,}|~{3,})")
UNDERLINE = re.compile(r" {0,3}(?P<mark>=+|-+)[ \t]*")
NO_PARAGRAPH = re.compile(r"\s*(?:[-*+>|]|\d+[.)]\s|#|$)| {4}|\t")
"""A line that is no paragraph's: what is underlined below it is no heading."""
ANCHOR = re.compile(r"\s*\{[:#][^}]*\}\s*$")
MARKUP = re.compile(
    r"!\[[^\]]*\]\([^)]*\)|<[^<>]*>|\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])|(?<!\w)[*_]{1,3}|[*_]{1,3}(?!\w)|`"
)


class Heading(NamedTuple):
    """A heading with what stands below it, up to the next one."""

    level: int
    """1 to 6; 0: what stands before the first heading."""
    words: str
    """Without markup."""
    body: str
    line: int
    """Of the heading, from 1."""


def headings(text: str) -> Iterator[Heading]:
    """The headings in order, with what stands before them as the first if there is anything. A # in fenced code is no
    heading."""
    level, words, begun, body = 0, "", 1, list[str]()
    fence = ""
    for number, line in enumerate(text.split("\n"), 1):
        if ticks := FENCE.match(line):
            mark = ticks["ticks"]
            if not fence:
                fence = mark
            elif mark.startswith(fence) and line.strip() == mark:
                fence = ""
        found = None if fence or ticks else heading_of(line, body)
        if found is None:
            body.append(line)
            continue
        if found.body:  # underlined: the line before is the heading
            body.pop()
        if level or "".join(body).strip():
            yield Heading(level, words, "\n".join(body), begun)
        level, words, begun, body = found.level, found.words, number, []
    if level or "".join(body).strip():
        yield Heading(level, words, "\n".join(body), begun)


def heading_of(line: str, before: list[str]) -> Heading | None:
    """The heading that a line is, or that it makes of the line before (then `body` is that line)."""
    if atx := ATX.fullmatch(line):
        return Heading(len(atx["marks"]), clean(atx["words"] or ""), "", 0)
    if before and (under := UNDERLINE.fullmatch(line)) and not NO_PARAGRAPH.match(before[-1]):
        alone = len(before) == 1 or not before[-2].strip()
        if alone:
            return Heading(1 if under["mark"][0] == "=" else 2, clean(before[-1]), before[-1], 0)
    return None


def clean(words: str) -> str:
    """A heading's words without its markup: links become their words, emphasis, code marks and anchors go."""
    return " ".join(MARKUP.sub(lambda m: m[1] or "", ANCHOR.sub("", words)).split())


def plain_words(words: str) -> str:
    """For comparing: case, blanks and punctuation aside."""
    return "".join(re.findall(r"\w+", words.casefold()))


def slug_of(words: str) -> str:
    """A heading as an address, as GitHub makes them: "What's a per diem?" is "whats-a-per-diem"."""
    return re.sub(r"[^\w\- ]", "", words.lower()).strip().replace(" ", "-") or "section"


def numbered(place: str, seen: Counter[str]) -> str:
    """An address that none before it has: the second "travel" is "travel-1"."""
    seen[place] += 1
    return place if seen[place] == 1 else numbered(f"{place}-{seen[place] - 1}", seen)
