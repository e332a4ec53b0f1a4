"""Which evaluation rows a model may have seen while it was trained: whole, or in runs of n words.

The rule is the one by which curation leaves such training rows out: see luthier.data.curate.contamination.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from luthier.base.nouns import Example
from luthier.data.curate.contamination import NGRAM, Run, Seen, beginning, enough, known, shared

__all__ = ["NGRAM", "Overlap", "Seen", "overlap"]


class Overlap(NamedTuple):
    """What was found."""

    rows: int
    """Evaluation rows looked at."""
    training_rows: int
    seen: tuple[Seen, ...]
    """In the order of the evaluation rows, each once."""

    @property
    def origins(self) -> frozenset[str]:
        return frozenset(row.origin for row in self.seen)


def overlap(evaluation: Sequence[Example], training: Iterable[Example], ngram: int = NGRAM) -> Overlap:
    """The evaluation rows that stand in the training rows. Reads the training rows once; what is remembered is of the
    size of the evaluation rows."""
    of = known(evaluation, ngram)
    exact: dict[int, str] = {}
    hits: dict[int, dict[Run, str]] = {}
    looked = 0
    for row in training:
        looked += 1
        same = shared(row, of)
        for index in same.exact:
            exact.setdefault(index, row.origin)
        for index, runs in same.runs.items():
            for run in runs:
                hits.setdefault(index, {}).setdefault(run, row.origin)
    found = []
    for index, row in enumerate(evaluation):
        if index in exact:
            found.append(Seen(row.origin, "exact", exact[index], beginning(row)))
        elif index in hits and enough(row, len(hits[index]), of.sizes[index]):
            run, where = next(iter(hits[index].items()))
            found.append(Seen(row.origin, "ngram", where, " ".join(run)))
    return Overlap(len(evaluation), looked, tuple(found))
