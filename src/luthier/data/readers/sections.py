"""A document in Markdown -> its sections by heading, and the rows that a recipe asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from luthier.base.nouns import Row
from luthier.data.readers.faq import faq_rows
from luthier.data.readers.headings import Heading, headings, numbered, plain_words, slug_of
from luthier.data.text import Read, Wanted


class Section(NamedTuple):
    """A heading with the text below it, up to the next heading."""

    path: tuple[str, ...]
    """The headings above it and its own, as words; empty for what stands before the first one."""
    place: str
    """The same as an address: "travel/per-diem"."""
    text: str
    """With its headings on top, in Markdown."""


def document_rows(text: str, origin: str, wanted: Wanted, about: Mapping[str, Any]) -> Iterator[Read]:
    """A document as one row, or by section, or as questions and answers. `about`: columns that every row gets."""
    if wanted.faq:
        yield from faq_rows(text, origin, about)
    elif wanted.parts == "section":
        yield from section_rows(text, origin, about)
    else:
        yield Row({"text": text, **about}, origin)


def section_rows(text: str, origin: str, about: Mapping[str, Any]) -> Iterator[Row]:
    """A row a section that has text of its own; its group is the document."""
    title = str(about.get("title", ""))
    for section in sections(text, title):
        fields = {"text": section.text, "heading": " > ".join(section.path), **about, "group": origin}
        yield Row(fields, f"{origin}#{section.place}" if section.place else origin)


def sections(text: str, title: str = "") -> Iterator[Section]:
    """The sections of a document that have text of their own. The title stands above them all unless a heading of the
    document's own does."""
    found = list(headings(text))
    top = (
        () if not title or any(h.level == 1 or plain_words(h.words) == plain_words(title) for h in found) else (title,)
    )
    above: list[tuple[Heading, str]] = []
    seen: Counter[str] = Counter()
    for heading in found:
        while above and above[-1][0].level >= heading.level:
            above.pop()
        place = ""
        if heading.level:
            place = numbered("/".join((*(slug for _, slug in above[-1:]), slug_of(heading.words))), seen)
            above.append((heading, place))
        if heading.body.strip():
            marks = [*(f"# {words}" for words in top), *(f"{'#' * h.level} {h.words}" for h, _ in above)]
            path = (*top, *(h.words for h, _ in above))
            yield Section(path, place, "\n\n".join((*marks, heading.body.strip())))
