"""Multiple choice by log-likelihood: the options of an item share its context, which is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch

from luthier.base.errors import UserError
from luthier.base.nouns import Choice, Tokens
from luthier.model.score import LanguageModel, score, sequence_sums
from luthier.model.verify import room_of
from luthier.tokens.pack import forest, split_by_tokens
from luthier.tokens.render import Renderer

Normalise = Literal["none", "tokens", "bytes"]


class Picked(NamedTuple):
    """What the model chose for one item."""

    origin: str
    pick: int
    gold: int
    scores: tuple[float, ...]
    """Log-prob of each option, in nats, after normalising."""

    @property
    def right(self) -> bool:
        """Whether the pick is the gold option."""
        return self.pick == self.gold


def fitting(lm: LanguageModel, renderer: Renderer, items: Sequence[Choice]) -> list[Choice]:
    """The items that fit into the model's context with each of their options."""
    context = room_of(lm)
    return [
        item
        for item in items
        if all(len(renderer.plain(item.context, option, item.origin).ids) <= context for option in item.options)
    ]


@torch.no_grad()
def pick_options(
    lm: LanguageModel,
    renderer: Renderer,
    items: Sequence[Choice],
    normalise: Normalise = "none",
    batch_tokens: int = 8192,
) -> list[Picked]:
    """The likeliest option of every item; of equal ones the first. Raises UserError where one is longer than the
    model's context."""
    lm.module.eval()
    sequences: list[Tokens] = []
    for item in items:
        sequences += [renderer.plain(item.context, option, item.origin) for option in item.options]
    context = room_of(lm)
    if long := list(dict.fromkeys(s.origin for s in sequences if len(s.ids) > context)):
        raise UserError(
            f"{long[0]}: with an option it is longer than the model's context of {context} tokens"
            f"{f' ({len(long) - 1} more are)' if long[1:] else ''}. Shorten it, or leave it out."
        )
    sums: list[float] = []
    for run in split_by_tokens(sequences, batch_tokens):
        batch = forest(run, min_shared=4).to(lm.device)
        sums += sequence_sums(score(lm, batch), batch).tolist()
    picked, at = [], 0
    for item in items:
        here = range(at, at + len(item.options))
        at += len(item.options)
        sizes = [length(item.options[i - here.start], sequences[i], normalise) for i in here]
        scores = tuple(sums[i] / size for i, size in zip(here, sizes, strict=True))
        picked.append(Picked(item.origin, max(range(len(scores)), key=scores.__getitem__), item.gold, scores))
    return picked


def length(option: str, tokens: Tokens, normalise: Normalise) -> float:
    """What an option's log-prob is divided by."""
    if normalise == "tokens":
        return sum(tokens.weights)
    return float(len(option.encode())) if normalise == "bytes" else 1.0
