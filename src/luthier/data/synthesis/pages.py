"""Documents as the rules see them: sections under a title, and what an answer may quote of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from luthier.base.nouns import Text
from luthier.data.synthesis.sections import Block, Section, plain, sections

LEAST_WORDS = 4
"""Of an answer."""
MOST_LINKED = 0.5
"""Share of a block's letters in links; above it is there to be clicked, not read."""


@dataclass(frozen=True)
class Page:
    """A document, taken apart."""

    number: int
    origin: str
    title: str
    sections: tuple[Section, ...]


@dataclass(frozen=True)
class Candidate:
    """A question with its answer, before it is weighed."""

    question: str
    answer: str
    step: str
    page: Page
    heading: str
    topic: bool = False
    """Whether the question is only whole with the page's title."""
    explained: bool = False
    """Whether it asks for a term, and so says what it is about."""
    vague: bool = False
    """Whether it only asks what there is to know."""


def page_of(number: int, text: Text) -> Page:
    """A document with its title: the one it came with, else its first heading of the first level, else its file's
    name in words."""
    given = (text.meta or {}).get("title")
    first = re.search(r"^# (?!#)(.+)$", text.text, re.MULTILINE)
    title = given if isinstance(given, str) and given.strip() else plain(first[1]) if first else name_of(text.origin)
    return Page(number, text.origin, title.strip(" #:"), tuple(sections(text.text)))


def name_of(origin: str) -> str:
    """A file's name in words: "handbook/travel-guide.md" is "travel guide"; "" where it says nothing."""
    path = PurePath(re.sub(r"(?:[#?].*|:\d+)$", "", origin))
    stem = path.stem if path.stem.casefold() not in ("index", "readme", "main", "home") else path.parent.name
    words = re.sub(r"[-_.]+", " ", stem).strip()
    return words if re.search(r"[A-Za-z]{3}", words) and not re.search(r"\d{3}", words) else ""


def quoted(found: Sequence[Block], most_words: int) -> str:
    """The beginning of some blocks as an answer, cut between blocks; "" where there is none, or none that is whole."""
    kept: list[Block] = []
    words = 0
    for block in found:
        if block.linked > MOST_LINKED and block.kind != "steps":
            if kept and kept[-1].text.endswith(":"):
                kept.pop()
            break
        if block.kind == "table":
            break
        long = len(block.text.split())
        if kept and words + long > most_words and not kept[-1].text.endswith(":"):
            break
        kept.append(block)
        words += long
    while kept and kept[-1].text.endswith(":"):
        kept.pop()
    if not kept:
        return ""
    if sum(len(block.text.split()) for block in kept) > 2 * most_words:
        return "" if kept[0].kind != "paragraph" else of_sentences(kept[0].text, most_words)
    return "\n\n".join(fenced(block) for block in kept)


def fenced(block: Block) -> str:
    """A block as an answer shows it."""
    return f"```\n{block.text}\n```" if block.kind == "code" else block.text


def of_sentences(text: str, most_words: int) -> str:
    """The first sentences of a text."""
    kept, words = list[str](), 0
    for sentence in sentences_of(text):
        words += len(sentence.split())
        if kept and words > most_words:
            break
        kept.append(sentence)
    return " ".join(kept)


def sentences_of(text: str) -> list[str]:
    """A paragraph's sentences."""
    parts = re.split(r"(?<=[.!?])[\"”’)]?\s+(?=[A-Z\"“(])", text)
    joined: list[str] = []
    for part in parts:
        if joined and re.search(
            r"(?:\b(?:e\.g|i\.e|etc|vs|Mr|Ms|Mrs|Dr|No|St|U\.S|approx|Inc)\.|\b[A-Z]\.)$", joined[-1]
        ):
            joined[-1] += f" {part}"
        else:
            joined.append(part)
    return joined
