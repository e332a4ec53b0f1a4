"""Batch sources: anything with `.at(step)`. Batch k is a function of (data, seed, k)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from luthier.train.deal import evenly
from luthier.train.plan import Plan
from luthier.train.shuffle import Passes


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
    lengths: np.ndarray | None = None
    """Of sequences on disk, that nobody has to read them for it: they are then shuffled by a rule. None: they are in
    memory, and so is their order."""


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
        held = [pool.lengths is None for pool in pools]
        lengths = [np.array([len(s.ids) for s in p.sequences]) if p.lengths is None else p.lengths for p in pools]
        passes = [Passes(len(p.sequences), p.name, seed, h) for p, h in zip(pools, held, strict=True)]
        self.plan = Plan(lengths, passes, [pool.tokens for pool in pools])
        self.steps = steps if steps is not None else max(1, round((epochs or 1.0) * self.plan.pass_steps()))

    def largest(self) -> int:
        """The step with the most tokens: the one to try first."""
        return self.plan.largest(self.steps)

    def at(self, step: int) -> Step:
        """See BatchSource."""
        taken = zip(self.pools, self.plan.at(step), strict=True)
        chosen = [pool.sequences[i] for pool, rows in taken for i in rows.tolist()]
        tokens = sum(len(s.ids) for s in chosen)
        if self.hiding is not None:  # before the microbatches are cut: how they are changes nothing that is hidden
            shown = [self.hiding(sequence, step, row) for row, sequence in enumerate(chosen)]
            hidden = evenly(lambda n: split_by_tokens(shown, n), self.microbatch_tokens)
            micros = [Micro(pack_hidden(run), {}) for run in hidden]
            return Step(micros, float(sum(len(row.at) for row in shown)), tokens)
        runs = evenly(lambda n: split_by_tokens(chosen, n), self.microbatch_tokens)
        micros = [Micro(forest(run), {}) for run in runs]
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
        pairs = [self.pairs[i] for i in chosen]
        for run in evenly(lambda n: split_pairs(pairs, n), self.microbatch_tokens):
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
