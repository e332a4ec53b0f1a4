"""Which sequences make step k, for one pool or several, as a function of k in little memory.

The steps are cut one after the other, so step k depends on those before it. Where every `BLOCK`-th begins is kept; the
steps between are cut again when they are asked for. Every step is walked over once, when the plan is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from luthier.train.shuffle import Passes

BLOCK = 256
"""Steps from one remembered place to the next."""
WINDOW, BESIDE = 4096, 64
"""Rows looked at together, of the first pool and of the others."""

Run = list[np.ndarray]
"""Rows of one step, int64, for each pool."""


class Place(NamedTuple):
    """Where a step begins."""

    leading: int
    """Rows of the first pool before it, over all passes."""
    beside: tuple[tuple[int, float], ...]
    """(rows before it, tokens owed) of each other pool."""


class Block(NamedTuple):
    """Consecutive steps."""

    runs: list[Run]
    begins: list[int]
    """`Place.leading` of each."""
    sizes: np.ndarray
    """Tokens of each."""
    after: Place


class Plan:
    """Runs of about `tokens[0]` tokens of the first pool's passes (a longer sequence stands alone; a run ends with its
    pass), and beside each of them as many rows of the others as keep their tokens so far in proportion to the first
    pool's, `tokens[p]` to `tokens[0]`."""

    def __init__(self, lengths: Sequence[np.ndarray], passes: Sequence[Passes], tokens: Sequence[int]) -> None:
        self.lengths, self.passes, self.tokens = lengths, passes, tokens
        self.places = [Place(0, ((0, 0.0),) * (len(lengths) - 1))]
        self.tops: list[tuple[int, int]] = []
        """(tokens, step) of the largest step of each block."""
        self.now: tuple[int, Block] | None = None

    def at(self, step: int) -> Run:
        """The rows of a step."""
        return self._block(step // BLOCK).runs[step % BLOCK]

    def pass_steps(self) -> int:
        """Steps in the first pass over the first pool."""
        count, number = len(self.lengths[0]), 0
        while self._known(number + 1).leading < count:
            number += 1
        return number * BLOCK + sum(begin < count for begin in self._block(number).begins)

    def largest(self, steps: int) -> int:
        """The first of the steps below `steps` that has the most tokens."""
        whole, rest = divmod(steps, BLOCK)
        self._known(whole)
        tops = self.tops[:whole]
        if rest:
            sizes = self._block(whole).sizes[:rest]
            top = int(np.argmax(sizes))
            tops = [*tops, (int(sizes[top]), whole * BLOCK + top)]
        return max(tops, key=lambda top: (top[0], -top[1]))[1]

    def _known(self, number: int) -> Place:
        """Where a block begins; those before it are walked over."""
        while len(self.places) <= number:
            block = self._cut(self.places[-1])
            top = int(np.argmax(block.sizes))
            self.tops.append((int(block.sizes[top]), (len(self.places) - 1) * BLOCK + top))
            self.places.append(block.after)
        return self.places[number]

    def _block(self, number: int) -> Block:
        if self.now is None or self.now[0] != number:
            self.now = (number, self._cut(self._known(number)))
        return self.now[1]

    def _cut(self, place: Place) -> Block:
        leading, begins = self._leading(place.leading)
        runs = [[rows] for rows in leading]
        sizes = np.array([self.lengths[0][rows].sum(dtype=np.int64) for rows in leading])
        total, beside = sizes.copy(), []
        for pool, (row, owed) in enumerate(place.beside, 1):
            for step, run in enumerate(runs):
                owed += sizes[step] * self.tokens[pool] / self.tokens[0]
                rows, owed = self._beside(pool, row, owed)
                row += len(rows)
                total[step] += self.lengths[pool][rows].sum(dtype=np.int64)
                run.append(rows)
            beside.append((row, float(owed)))
        return Block(runs, begins, total, Place(begins[-1] + len(leading[-1]), tuple(beside)))

    def _leading(self, row: int) -> tuple[list[np.ndarray], list[int]]:
        """The next runs of the first pool, and where each begins."""
        lengths, passes, window = self.lengths[0], self.passes[0], WINDOW
        runs: list[np.ndarray] = []
        begins: list[int] = []
        while len(runs) < BLOCK:
            rows = passes.rows(row, row + window)
            stops = runs_of(lengths[rows], self.tokens[0], (row + len(rows)) % passes.count == 0)
            if not stops:
                window *= 2
            start = 0
            for stop in stops[: BLOCK - len(runs)]:
                runs.append(rows[start:stop])
                begins.append(row + start)
                start = stop
            row += start
        return runs, begins

    def _beside(self, pool: int, row: int, owed: float) -> tuple[np.ndarray, float]:
        """The pool's rows from this one on that pay what is owed, and what is owed then (nothing or less)."""
        parts = [np.empty(0, dtype=np.int64)]
        while owed > 0:
            rows = self.passes[pool].rows(row, row + BESIDE)
            count, owed = paid_after(owed, self.lengths[pool][rows])
            parts.append(rows[:count])
            row += count
        return np.concatenate(parts), owed


def runs_of(lengths: np.ndarray, limit: int, last: bool) -> list[int]:
    """Where runs of at most `limit` tokens stop (a longer sequence stands alone), for sequences of these lengths in
    this order. Without `last` more will follow, and what may go on with it is no run yet."""
    sums = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    stops: list[int] = []
    start = 0
    while start < len(lengths):
        stop = max(start + 1, int(np.searchsorted(sums, sums[start] + limit, side="right")) - 1)
        if stop == len(lengths) and not last:
            break
        stops.append(stop)
        start = stop
    return stops


def paid_after(owed: float, lengths: np.ndarray) -> tuple[int, float]:
    """(how many of the sequences it takes until `owed` tokens are paid, what is owed then); all where they do not
    suffice. Subtracted one by one: the same floating-point numbers whoever counts."""
    left = np.subtract.accumulate(np.concatenate([[owed], lengths.astype(np.float64)]))
    paid = np.flatnonzero(left <= 0)
    count = int(paid[0]) if len(paid) else len(left) - 1
    return count, float(left[count])
