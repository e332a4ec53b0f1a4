"""Batch sources: anything with `.at(step)`. Batch k is a function of (data, seed, k)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from luthier.base.errors import UserError
from luthier.base.nouns import Tokens
from luthier.base.seeds import seed_for
from luthier.tokens.masking import Hiding, pack_hidden
from luthier.tokens.pack import Batch, forest, split_by_tokens


class Micro(NamedTuple):
    """What one forward sees: a Batch and what its loss needs besides, aligned with M or N."""

    batch: Batch
    data: dict[str, Tensor]

    def to(self, device: torch.device) -> Micro:
        """The same on another device."""
        return Micro(self.batch.to(device), {name: value.to(device) for name, value in self.data.items()})


class Step(NamedTuple):
    """One optimizer step. `total` divides the summed loss of all its microbatches; it is known before the first."""

    micros: list[Micro]
    total: float
    tokens: int


class BatchSource(Protocol):
    """Where steps come from. Checkpoints are made only at multiples of `period`."""

    steps: int
    period: int
    microbatch_tokens: int
    """Most tokens in one forward; may be lowered between two calls of `at`, which then cuts smaller."""

    def at(self, step: int) -> Step:
        """The step's microbatches."""
        ...


@dataclass(frozen=True)
class Pool:
    """Sequences of which each step takes about `tokens` tokens."""

    sequences: Sequence[Tokens]
    tokens: int
    name: str


def epoch_batches(lengths: np.ndarray, limit: int, seed: int) -> list[np.ndarray]:
    """One shuffled pass, cut into runs of at most `limit` tokens (a longer sequence stands alone)."""
    order = np.random.default_rng(seed).permutation(len(lengths))
    runs: list[np.ndarray] = []
    current: list[int] = []
    size = 0
    for index in order.tolist():
        length = int(lengths[index])
        if current and size + length > limit:
            runs.append(np.array(current))
            current, size = [], 0
        current.append(index)
        size += length
    runs.append(np.array(current))
    return runs


def rounds(count: int, name: str, seed: int) -> Iterator[int]:
    """Shuffled passes over `count` rows, without end."""
    for epoch in itertools.count():
        yield from np.random.default_rng(seed_for(seed, f"order {name}", epoch)).permutation(count).tolist()


class Packed:
    """Shuffled passes over one or several pools of sequences. The first decides what a step and an epoch are; the
    others go round beside it and keep their shares of the tokens, to within one sequence over a whole run. Under a
    masked objective `hiding` says what is hidden of each row at each step. Raises UserError on a pool without
    sequences."""

    period = 1

    def __init__(
        self,
        pools: Sequence[Pool],
        seed: int,
        microbatch_tokens: int,
        epochs: float | None,
        steps: int | None,
        hiding: Hiding | None = None,
    ) -> None:
        self.pools, self.seed, self.microbatch_tokens, self.hiding = pools, seed, microbatch_tokens, hiding
        if empty := [pool.name for pool in pools if not pool.sequences]:
            raise UserError(f"data: {', '.join(empty)}: no rows are left to train on. Check max_length and overlong.")
        self.lengths = [np.array([len(s.ids) for s in pool.sequences]) for pool in pools]
        self.runs: list[list[np.ndarray]] = [[] for _ in pools]
        self.passes = 0
        self.rows = [rounds(len(pool.sequences), pool.name, seed) for pool in pools]
        self.owed = [0.0] * len(pools)
        """Tokens that each pool but the first is behind its share."""
        if steps is None:
            whole = epochs or 1.0
            first = len(self._runs(0, 0))
            steps = max(1, round(whole * first))
        self.steps = steps

    def _runs(self, pool: int, k: int) -> list[np.ndarray]:
        """The pool's runs, at least up to the k-th."""
        while len(self.runs[pool]) <= k:
            if pool > 0:
                self.runs[pool].append(self._beside(pool))
            else:
                seed = seed_for(self.seed, f"order {self.pools[0].name}", self.passes)
                self.runs[0] += epoch_batches(self.lengths[0], self.pools[0].tokens, seed)
                self.passes += 1
        return self.runs[pool]

    def _beside(self, pool: int) -> np.ndarray:
        """The pool's next run: rows until its tokens so far are in proportion to the first pool's."""
        step = len(self.runs[pool])
        leading = self.lengths[0][self._runs(0, step)[step]].sum()
        self.owed[pool] += leading * self.pools[pool].tokens / self.pools[0].tokens
        run: list[int] = []
        while self.owed[pool] > 0:
            run.append(next(self.rows[pool]))
            self.owed[pool] -= self.lengths[pool][run[-1]]
        return np.array(run, dtype=np.int64)

    def largest(self) -> int:
        """The step with the most tokens: the one to try first."""
        sizes = sum(
            np.array([self.lengths[p][run].sum() for run in self._runs(p, self.steps - 1)[: self.steps]])
            for p in range(len(self.pools))
        )
        return int(np.argmax(sizes))

    def at(self, step: int) -> Step:
        """See BatchSource."""
        chosen = [pool.sequences[i] for p, pool in enumerate(self.pools) for i in self._runs(p, step)[step].tolist()]
        tokens = sum(len(s.ids) for s in chosen)
        if self.hiding is not None:  # before the microbatches are cut: how they are changes nothing that is hidden
            shown = [self.hiding(sequence, step, row) for row, sequence in enumerate(chosen)]
            micros = [Micro(pack_hidden(run), {}) for run in split_by_tokens(shown, self.microbatch_tokens)]
            return Step(micros, float(sum(len(row.at) for row in shown)), tokens)
        micros = [Micro(forest(run), {}) for run in split_by_tokens(chosen, self.microbatch_tokens)]
        return Step(micros, float(sum(sum(s.weights[1:]) for s in chosen)), tokens)


class Pairs:
    """Shuffled passes over preference pairs; a Batch holds chosen and rejected alternately, sharing their prompt.
    `facts` are numbers that a loss needs of each pair (a margin, a reference's log-prob): [P] in its Micro's data."""

    period = 1

    def __init__(
        self,
        pairs: Sequence[tuple[Tokens, Tokens]],
        seed: int,
        batch_pairs: int,
        microbatch_tokens: int,
        epochs: float,
        facts: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        self.pairs, self.seed, self.batch_pairs, self.microbatch_tokens = pairs, seed, batch_pairs, microbatch_tokens
        self.facts = {name: torch.tensor(values, dtype=torch.float32) for name, values in (facts or {}).items()}
        self.per_epoch = -(-len(pairs) // batch_pairs)
        self.steps = max(1, round(epochs * self.per_epoch))

    def largest(self) -> int:
        """The step with the most tokens: the one to try first."""
        sizes = [len(chosen.ids) + len(rejected.ids) for chosen, rejected in self.pairs]
        return max(range(self.steps), key=lambda step: sum(sizes[i] for i in self._chosen(step)))

    def _chosen(self, step: int) -> list[int]:
        epoch, k = divmod(step, self.per_epoch)
        order = np.random.default_rng(seed_for(self.seed, "pairs", epoch)).permutation(len(self.pairs))
        return order[k * self.batch_pairs : (k + 1) * self.batch_pairs].tolist()

    def at(self, step: int) -> Step:
        """See BatchSource."""
        chosen = self._chosen(step)
        micros, begin = [], 0
        for run in split_pairs([self.pairs[i] for i in chosen], self.microbatch_tokens):
            which = chosen[begin : begin + len(run)]
            begin += len(run)
            micros.append(pair_micro(run, {name: values_P[which] for name, values_P in self.facts.items()}))
        return Step(micros, float(len(chosen)), sum(len(s.ids) for i in chosen for s in self.pairs[i]))


def pair_micro(pairs: Sequence[tuple[Tokens, Tokens]], data: dict[str, Tensor] | None = None) -> Micro:
    """Sequences 2p (chosen) and 2p+1 (rejected) of each pair p, with what is known of the pairs, [P] each."""
    return Micro(forest([sequence for pair in pairs for sequence in pair]), data or {})


def split_pairs(pairs: Sequence[tuple[Tokens, Tokens]], limit: int) -> list[list[tuple[Tokens, Tokens]]]:
    """Runs of pairs of at most `limit` tokens each; a pair is never cut."""
    runs: list[list[tuple[Tokens, Tokens]]] = []
    size = 0
    for pair in pairs:
        length = len(pair[0].ids) + len(pair[1].ids)
        if not runs or size + length > limit:
            runs.append([])
            size = 0
        runs[-1].append(pair)
        size += length
    return runs
