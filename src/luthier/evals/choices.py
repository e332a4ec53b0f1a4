"""Multiple choice by log-likelihood: the options of an item share its context, which is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from luthier.base.errors import UserError
from luthier.base.nouns import Choice, Tokens
from luthier.evals.engine import BATCH_TOKENS, Request, loglikelihoods
from luthier.model.score import LanguageModel
from luthier.model.verify import room_of
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


def pick_options(
    lm: LanguageModel,
    renderer: Renderer,
    items: Sequence[Choice],
    normalise: Normalise = "none",
    batch_tokens: int = BATCH_TOKENS,
) -> list[Picked]:
    """The likeliest option of every item; of equal ones the first. Raises UserError where one is longer than the
    model's context."""
    sequences = [renderer.plain(item.context, option, item.origin) for item in items for option in item.options]
    context = room_of(lm)
    if long := list(dict.fromkeys(s.origin for s in sequences if len(s.ids) > context)):
        raise UserError(
            f"{long[0]}: with an option it is longer than the model's context of {context} tokens"
            f"{f' ({len(long) - 1} more are)' if long[1:] else ''}. Shorten it, or leave it out."
        )
    requests = [Request(np.array(s.ids, dtype=np.int32), int(sum(s.weights))) for s in sequences]
    scored = iter(zip(loglikelihoods(lm, requests, tokens=batch_tokens), sequences, strict=True))
    picked = []
    for item in items:
        here = [(option, *next(scored)) for option in item.options]
        scores = tuple(found.logp / length(option, tokens, normalise) for option, found, tokens in here)
        picked.append(Picked(item.origin, max(range(len(scores)), key=scores.__getitem__), item.gold, scores))
    return picked


def length(option: str, tokens: Tokens, normalise: Normalise) -> float:
    """What an option's log-prob is divided by."""
    if normalise == "tokens":
        return sum(tokens.weights)
    return float(len(option.encode())) if normalise == "bytes" else 1.0
