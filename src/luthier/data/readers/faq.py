"""Frequently asked questions: headings that ask and what stands below them -> rows {question, answer}."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from luthier.base.nouns import Rejected, Row
from luthier.data.readers.headings import LONGEST_HEADING, Heading, clean, headings, numbered, slug_of
from luthier.data.text import Read

FEWEST, MOST_ASK = 3, 0.6
"""A document is a FAQ if it has so many questions, and so large a share of its sections ask."""
DEEP = 7
"""Level of a question that is no heading: a line in bold, or one that begins with Q:."""
WORDS = r"i|we|you|he|she|it|they|there|my|our|your|the|this|that|these|a|an|any|some\w*"
DOES = r"do|does|did|can|could|should|shall|will|would|is|are|was|were|am|has|have|had|may|might|must"
ASKS = re.compile(
    rf"(?:how (?:to|much|many|long|often|{DOES})|(?:what|which|who|whom|whose|where|when|why) (?:{DOES}) \S"
    rf"|(?:what|which|whose|how) \w+ (?:{DOES}) (?:{WORDS})|(?:{DOES}) (?:{WORDS}))\b.*",
    re.I,
)
NO_FAQ = "no FAQ: it holds no heading that asks. format: text reads it as a document"
LABEL = re.compile(
    r"\s*(?:\*\*|__)?(?:Q|Question|Frage|F)\s*\d*\s*[:.)](?:\*\*|__)?\s+(?P<words>\S.*?)(?:\*\*|__)?\s*", re.I
)
BOLD = re.compile(r"\s*(?:[-*+]\s+|\d+[.)]\s+)?(?:\*\*|__)(?P<words>[^*_\n]+\?)(?:\*\*|__)\s*")
ANSWER = re.compile(r"\s*(?:\*\*|__)?(?:A|Answer|Antwort)\s*\d*\s*[:.)](?:\*\*|__)?\s+(?=\S)", re.I)


class Asked(NamedTuple):
    """A question, the heading it stands under, and its answer in Markdown."""

    question: str
    under: str
    answer: str


def asks(words: str) -> bool:
    """Whether a heading is a question, with or without its mark."""
    return words.rstrip(" *_").endswith(("?", "？")) or ASKS.fullmatch(words) is not None


def questions(text: str) -> tuple[list[Asked], int]:
    """The questions of a document with their answers, and how many other sections have text of their own."""
    found = [part for heading in headings(text) for part in with_lines_that_ask(heading)]
    asked: list[Asked] = []
    others, above = 0, list[Heading]()
    current: tuple[Heading, list[str]] | None = None

    def close() -> None:
        if current and (answer := without_label("\n\n".join(current[1]).strip())):
            under = " > ".join(h.words for h in above if h.level < current[0].level and not asks(h.words))
            asked.append(Asked(current[0].words, under, answer))

    for heading in found:
        if current and heading.level > current[0].level and not asks(heading.words):
            current[1].extend((f"{'#' * heading.level} {heading.words}", heading.body.strip()))
            continue
        close()
        current = None
        while above and above[-1].level >= heading.level:
            above.pop()
        above.append(heading)
        if heading.level and asks(heading.words):
            current = (heading, [heading.body.strip()])
        elif heading.body.strip():
            others += 1
    close()
    return asked, others


def with_lines_that_ask(heading: Heading) -> Iterator[Heading]:
    """A heading, and as further ones the lines below it that are a question in bold or behind a Q:."""
    level, words, begun, body, fenced = heading.level, heading.words, heading.line, list[str](), False
    for number, line in enumerate(heading.body.split("\n"), heading.line + 1):
        fenced ^= line.lstrip().startswith(("```", "~~~"))
        short = not fenced and len(line) <= LONGEST_HEADING
        said = LABEL.fullmatch(line) or BOLD.fullmatch(line) if short else None
        if said is None:
            body.append(line)
            continue
        yield Heading(level, words, "\n".join(body), begun)
        words = clean(said["words"])
        level, begun, body = DEEP, number, []
        if not asks(words):  # behind a Q: everything is a question
            words += "?" if words[-1:].isalnum() else ""
    yield Heading(level, words, "\n".join(body), begun)


def without_label(answer: str) -> str:
    """An answer without the A: before it."""
    label = ANSWER.match(answer)
    return answer[label.end() :] if label else answer


def is_faq(text: str) -> bool:
    """Whether most of a document's sections are questions with their answers."""
    asked, others = questions(text)
    return len(asked) >= FEWEST and len(asked) >= MOST_ASK * (len(asked) + others)


def faq_rows(text: str, origin: str, about: Mapping[str, Any]) -> Iterator[Read]:
    """A row a question; what stands below other headings is no answer and is left out."""
    asked, _ = questions(text)
    seen: Counter[str] = Counter()
    for one in asked:
        row = {"question": one.question, "answer": one.answer, **({"heading": one.under} if one.under else {})}
        yield Row({**row, **about}, f"{origin}#{numbered(slug_of(one.question), seen)}")
    if not asked:
        yield Rejected(origin, NO_FAQ, aside=True)


def questions_or_not(rows: Sequence[Row]) -> tuple[int, int]:
    """Of documents: how many are a FAQ, or pages that say so, and how many there are."""
    texts = [row for row in rows if isinstance(row.fields.get("text"), str)]
    return sum(row.fields.get("schema") == "FAQPage" or is_faq(row.fields["text"]) for row in texts), len(texts)
