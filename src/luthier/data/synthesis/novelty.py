"""How near two texts are in their words: ROUGE-L, and a pool of texts that takes only what is far from all it holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from luthier.base.rouge import rouge_l, words_of


def likeness(a: Sequence[str], b: Sequence[str]) -> float:
    """ROUGE-L of two texts' words; two texts without a word are the same."""
    return rouge_l(a, b) if a or b else 1.0


@dataclass
class Pool:
    """Texts that are far from each other."""

    words: list[list[str]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    counts: list[Counter[str]] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Takes a text, however near it is."""
        words = words_of(text)
        self.words.append(words)
        self.texts.append(text)
        self.counts.append(Counter(words))

    def nearest(self, text: str, at_least: float) -> tuple[float, str]:
        """(ROUGE-L, text) of the nearest one, where that is `at_least`; else (0, ""). Words in common bound the
        longest common subsequence, so most of the pool is never compared."""
        words, best = words_of(text), (0.0, "")
        count = Counter(words)
        for other, known, text_ in zip(self.words, self.counts, self.texts, strict=True):
            length = len(words) + len(other)
            bound = 2 * min(len(words), len(other)) / length if length else 1.0
            if bound < max(at_least, best[0]) or 2 * (count & known).total() < max(at_least, best[0]) * length:
                continue
            score = likeness(words, other)
            if score >= at_least and score > best[0]:
                best = (score, text_)
        return best


def pool_of(texts: Iterable[str]) -> Pool:
    """A pool of these."""
    pool = Pool()
    for text in texts:
        pool.add(text)
    return pool
