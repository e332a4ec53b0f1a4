"""BM25 over texts: which of them share the rare words of a query. Robertson & Zaragoza 2009; Lucene's variant, in
which a word in every text still counts a little and no score is below 0."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, Self

import bm25s
import numpy as np

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+(?:['’][^\W_]+)*")
"""A run of letters and digits ("don't" is one); of scripts that put no spaces between words, each sign."""


class Found(NamedTuple):
    """The best texts of each query, best first, equal ones in the order they were given.

    `index_QK` is −1 (and the score 0) where fewer than k texts share a word with the query."""

    index_QK: np.ndarray
    score_QK: np.ndarray


def words_of(text: str) -> list[str]:
    """The words that are looked up, in lower case."""
    return _WORD.findall(text.lower())


class Index:
    """Texts prepared for search. Same texts, same query, same answer, on any machine: numpy alone computes it."""

    def __init__(self, bm25: bm25s.BM25 | None, count: int) -> None:
        self._bm25 = bm25
        self.count = count
        """How many texts there are."""

    @classmethod
    def build(cls, texts: Sequence[str], k1: float = 1.5, b: float = 0.75) -> Self:
        """The index of texts; `k1` says how soon a word's repetition stops counting, `b` how much length is held
        against a text. No text, or none with a word in it, is an index that finds nothing."""
        words = [words_of(text) for text in texts]
        if not any(words):
            return cls(None, len(words))
        bm25 = bm25s.BM25(k1=k1, b=b, method="lucene", backend="numpy")
        bm25.index(words, create_empty_token=False, show_progress=False)
        return cls(bm25, len(words))

    def search(self, queries: Sequence[str], k: int) -> Found:
        """The `k` best texts for each query (all, where there are fewer)."""
        k = max(0, min(k, self.count))
        index_QK = np.full((len(queries), k), -1, dtype=np.int64)
        score_QK = np.zeros((len(queries), k))
        for row, query in enumerate(queries):
            score_N = self._scores(query)
            if not k or score_N is None:
                continue
            # All that reach the k-th best, so that ties are cut by their order and not by how a partition fell.
            least = np.partition(score_N, -k)[-k]
            kept = np.flatnonzero((score_N >= least) & (score_N > 0))
            kept = kept[np.argsort(-score_N[kept], kind="stable")][:k]
            index_QK[row, : len(kept)], score_QK[row, : len(kept)] = kept, score_N[kept]
        return Found(index_QK, score_QK)

    def _scores(self, query: str) -> np.ndarray | None:
        """The score of every text; None where no text has a word of the query. A word said twice counts once."""
        if self._bm25 is None:
            return None
        known = self._bm25.get_tokens_ids(sorted(set(words_of(query))))
        return self._bm25.get_scores_from_ids(known) if known else None
