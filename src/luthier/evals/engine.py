"""Log-likelihoods of many requests at once: what lies between a benchmark and the model.

Requests are sorted into one trie and cut into batches along it, so that a context, or the few-shot examples before a
thousand questions, is computed once a batch; only the tokens that are scored meet the head. What is done is kept on
disk as it is done, by a hash of the request: a killed evaluation goes on, and two tasks that ask the same ask once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise, repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from luthier.base.lines import add_lines, read_lines
from luthier.model.score import LanguageModel, score_and_top, sequence_sums
from luthier.tokens.pack import in_trie_order, scored_forest, shared_lengths

BATCH_TOKENS = 8192
"""Stored tokens in one batch: enough that a shared prefix is seldom computed twice, little beside a model's weights."""
BATCH_PREDICTIONS = 16384
"""Scored tokens in one batch."""
RAMP = (512, 2048)
"""Stored tokens of the first batches: what the rest will take is known early, however slow the model."""
MIN_SHARED = 4
"""Shorter shared prefixes are stored per sequence: a branch costs an attention call in every layer."""


class Request(NamedTuple):
    """A token sequence (int32) whose last `scored` tokens are scored."""

    ids: np.ndarray
    scored: int

    @property
    def key(self) -> str:
        """What its answer is kept under."""
        return hashlib.blake2b(self.ids.tobytes() + self.scored.to_bytes(4, "little"), digest_size=12).hexdigest()


class Scored(NamedTuple):
    """A request's answer: Σ log p (nats) of its scored tokens, and whether greedy decoding would write them."""

    logp: float
    greedy: bool


class Work(NamedTuple):
    """How much there is to do, or was done: requests, tokens through the blocks, tokens scored."""

    requests: int
    tokens: int
    predictions: int


@dataclass
class Answers:
    """What is known already, in memory and in a file of JSON lines; None: in memory only."""

    path: Path | None = None
    known: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path is not None:
            self.known |= {key: row["answer"] for key, row in read_lines(self.path).items()}

    def add(self, found: Mapping[str, Any]) -> None:
        """Keeps some answers; they are on disk when this returns. Raises RunError where they cannot be written."""
        self.known.update(found)
        if self.path is not None:
            add_lines(self.path, {key: {"answer": value} for key, value in found.items()})


class Watch(NamedTuple):
    """Who hears how an evaluation goes: what there is to do, before it begins, and what each batch has done."""

    plan: Callable[[Work], None] = lambda work: None
    done: Callable[[Work], None] = lambda work: None


class Run(NamedTuple):
    """One batch: indices of its requests, and what it takes."""

    indices: list[int]
    work: Work


def batches(requests: Sequence[Request], shares: bool, tokens: int = BATCH_TOKENS) -> Iterator[Run]:
    """The requests in batches. Where prefixes are shared: in the trie's order, as many as store at most `tokens` tokens
    together. Else by length, as many as make a rectangle of that size. A request that is larger stands alone."""
    if not shares or not requests:
        yield from _rectangles(requests, tokens)
        return
    inputs = [request.ids[:-1] for request in requests]
    order = in_trie_order(inputs)
    shared = shared_lengths([inputs[n] for n in order], MIN_SHARED)
    limits = chain((min(size, tokens) for size in RAMP), repeat(tokens))
    limit = next(limits)
    run: list[int] = []
    stored = scored = 0
    for n, common in zip(order, shared, strict=True):
        own = len(inputs[n]) - common
        if run and (stored + own > limit or scored + requests[n].scored > BATCH_PREDICTIONS):
            yield Run(run, Work(len(run), stored, scored))
            run, stored, scored, own, limit = [], 0, 0, len(inputs[n]), next(limits)
        run.append(n)
        stored, scored = stored + own, scored + requests[n].scored
    if run:
        yield Run(run, Work(len(run), stored, scored))


def _rectangles(requests: Sequence[Request], tokens: int) -> Iterator[Run]:
    """Longest first, so that little of a rectangle is padding."""
    order = sorted(range(len(requests)), key=lambda n: (-len(requests[n].ids), n))
    starts = [0]
    for at in range(len(order)):
        width = len(requests[order[starts[-1]]].ids)
        if at > starts[-1] and width * (at + 1 - starts[-1]) > tokens:
            starts.append(at)
    for start, stop in pairwise([*starts, len(order)]):
        run = order[start:stop]
        if run:
            yield Run(run, Work(len(run), len(run) * len(requests[run[0]].ids), sum(requests[n].scored for n in run)))


def score_batch(lm: LanguageModel, requests: Sequence[Request]) -> list[Scored]:
    """One batch through the model."""
    ids, scored = [request.ids for request in requests], [request.scored for request in requests]
    batch = scored_forest(ids, scored, MIN_SHARED).to(lm.device)
    logp_M, top_M = score_and_top(lm, batch)
    sums_N = sequence_sums(logp_M.double(), batch).tolist()
    others_N = sequence_sums((~top_M).double(), batch).tolist()
    return [Scored(logp, others == 0) for logp, others in zip(sums_N, others_N, strict=True)]


@torch.no_grad()
def loglikelihoods(
    lm: LanguageModel,
    requests: Sequence[Request],
    answers: Answers | None = None,
    watch: Watch = Watch(),  # noqa: B008  # immutable
    tokens: int = BATCH_TOKENS,
) -> list[Scored]:
    """Σ log p (nats) of each request's scored tokens, and whether they are what greedy decoding writes. Each distinct
    request is computed once, and not at all where `answers` has it. `watch` hears how it goes.

    Raises ValueError on a request that scores its first token, or none."""
    if any(not 0 < request.scored < len(request.ids) for request in requests):
        raise ValueError("a request scores at least one token, and has one before it")
    answers = answers or Answers()
    keys = [request.key for request in requests]
    left = {key: request for key, request in zip(keys, requests, strict=True) if key not in answers.known}
    names, fresh = list(left), list(left.values())
    runs = list(batches(fresh, lm.layout == "forest", tokens))
    watch.plan(Work(*(sum(run.work[part] for run in runs) for part in range(3))))
    was_training = lm.module.training
    lm.module.eval()
    try:
        for run in runs:
            scored = score_batch(lm, [fresh[n] for n in run.indices])
            answers.add(dict(zip((names[n] for n in run.indices), scored, strict=True)))
            watch.done(run.work)
    finally:
        lm.module.train(was_training)
    return [Scored(*answers.known[key]) for key in keys]
