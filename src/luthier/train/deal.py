"""How samples are dealt out to steps, for every method that trains on its own samples: which prompts a rollout asks,
which of its samples a step takes, and how those are cut into microbatches. All of it is a function of (seed, k). And
how the microbatches of any step are cut so that all ranks have as much to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from luthier.base.nouns import Sample, Tokens
from luthier.base.seeds import seed_for
from luthier.tokens.pack import MIN_SHARED
from luthier.train.ranks import Ranks, here

Run = TypeVar("Run")


def as_tokens(one: Sample, origin: str = "rollout") -> Tokens:
    """A sample as a sequence whose completion carries weight, the end token included."""
    return Tokens(one.prompt_ids + one.ids, (0.0,) * len(one.prompt_ids) + (1.0,) * len(one.ids), origin)


def asked(count: int, seed: int, first: int, number: int) -> list[int]:
    """Which of `count` prompts are the `first`-th ever asked and those after it: shuffled passes over all of them."""
    passes = range(first // count, (first + number - 1) // count + 1)
    order = [np.random.default_rng(seed_for(seed, "prompts", p)).permutation(count) for p in passes]
    start = first - passes[0] * count
    return np.concatenate(order)[start : start + number].tolist()


def minibatch(groups: int, minibatches: int, seed: int, iteration: int, epoch: int, k: int) -> list[int]:
    """The prompts of a rollout whose samples make step k of a pass over it: the samples of a prompt stay together,
    for they share it."""
    order = np.random.default_rng(seed_for(seed, f"minibatches {epoch}", iteration)).permutation(groups)
    return np.array_split(order, minibatches)[k].tolist()


def cut(sequences: Sequence[Tokens], chosen: Sequence[int], limit: int, shared: bool) -> list[list[int]]:
    """The sequences `chosen`, in order, in runs of at most `limit` tokens stored (one that is longer stands alone).
    Where prompts are `shared` (forests), samples of one prompt that follow each other store it once."""
    runs: list[list[int]] = []
    size = 0
    last: tuple[int, ...] = ()
    for i in chosen:
        weights, ids = sequences[i].weights, sequences[i].ids
        prompt = ids[: weights.index(1.0)]
        saved = len(prompt) if shared and prompt == last and len(prompt) >= MIN_SHARED else 0
        cost = len(ids) - saved
        if not runs or size + cost > limit:
            runs.append([])
            size, cost = 0, len(ids)
        runs[-1].append(i)
        size += cost
        last = prompt
    return runs


def evenly(split: Callable[[int], list[Run]], limit: int, ranks: Ranks | None = None) -> list[Run]:
    """The runs that `split` makes of a step at a limit of tokens. Among several ranks, which take them in rounds, at
    the smallest limit that needs no more rounds than that one: then all are of about one size, and no rank waits."""
    runs, world = split(limit), (ranks or here()).world
    if world == 1:
        return runs
    most = -(-len(runs) // world) * world
    low = 1
    while low < limit:
        middle = (low + limit) // 2
        if len(split(middle)) <= most:
            limit = middle
        else:
            low = middle + 1
    return split(limit)
