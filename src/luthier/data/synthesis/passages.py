"""Documents cut into passages that a model is asked about, each with what it is about."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from luthier.base.nouns import Text
from luthier.data.synthesis.pages import MOST_LINKED, page_of
from luthier.data.synthesis.wording import content_words

LEAST_WORDS = 25
"""Of a passage: a shorter one has nothing to ask about."""


class Passage(NamedTuple):
    """A piece of a document."""

    text: str
    title: str
    """The document's, with the headings it stands under."""
    item: int
    """Index of the document."""
    origin: str


def passages(documents: Sequence[Text], words: int) -> Iterator[Passage]:
    """Blocks together, of about so many words, cut between sections and blocks; lists of links are left out."""
    for number, document in enumerate(documents):
        page = page_of(number, document)
        for section in page.sections:
            title = " › ".join(dict.fromkeys([page.title, *section.path]))
            pieces: list[str] = []
            for block in [*section.blocks, None]:
                size = sum(len(piece.split()) for piece in pieces)
                long = len(block.text.split()) if block is not None else 0
                if pieces and (block is None or (size + long > words and not pieces[-1].endswith(":"))):
                    if size >= LEAST_WORDS:
                        yield Passage("\n\n".join(pieces), title, number, page.origin)
                    pieces = []
                if block is not None and not (block.linked > MOST_LINKED and block.kind == "list"):
                    pieces.append(block.text)


class Nearest:
    """Finds the passages that share the rarest words with a question: cosine of tf-idf."""

    def __init__(self, found: Sequence[Passage]) -> None:
        self.counts = [Counter(content_words(f"{passage.title} {passage.text}")) for passage in found]
        frequency = Counter(word for count in self.counts for word in count)
        self.weight = {word: math.log(1 + len(found) / seen) for word, seen in frequency.items()}
        self.places: dict[str, list[int]] = {}
        for k, count in enumerate(self.counts):
            for word in count:
                self.places.setdefault(word, []).append(k)
        self.length = [self.norm(count) for count in self.counts]

    def norm(self, count: Counter[str]) -> float:
        """Length of a text's vector."""
        return math.sqrt(sum((n * self.weight.get(word, 0.0)) ** 2 for word, n in count.items())) or 1.0

    def __call__(self, text: str, most: int) -> list[int]:
        """Indices of the nearest passages, nearest first."""
        scores: Counter[int] = Counter()
        for word, n in Counter(content_words(text)).items():
            for k in self.places.get(word, ()):
                scores[k] += n * self.counts[k][word] * self.weight[word] ** 2 / self.length[k]  # type: ignore[assignment]
        return [k for k, _ in scores.most_common(most)]


def found_in(quote: str, passage: str) -> bool:
    """Whether a quote stands in a passage word for word: marks, capitals and white space aside, and pieces around
    "..." each by itself."""
    there = f" {bare(passage)} "
    pieces = [bare(piece) for piece in re.split(r"\.\.\.|…|\[\.\.\.\]", quote)]
    pieces = [piece for piece in pieces if piece]
    return bool(pieces) and all(f" {piece} " in there for piece in pieces)


def bare(text: str) -> str:
    """Words alone, in small letters."""
    return " ".join(re.findall(r"[^\W_]+", text.casefold().replace("’", "").replace("'", "")))
