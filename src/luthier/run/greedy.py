"""Whether two models that should be one write the same, greedily.

Where two tokens are equally likely, the last bit of a sum decides between them, and a merged model sums in another
order than base and adapter apart. Such a tie is no difference; what follows it is not compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from luthier.base.nouns import Tokens
from luthier.model.score import LanguageModel, score
from luthier.tokens.pack import forest

MOST_NATS = 1e-3
"""Largest difference of a log-prob, in float32, that counts as rounding."""

Answers = Sequence[tuple[int, ...]]


class Same(NamedTuple):
    """The verdict, and what to say of it."""

    ok: bool
    words: str


def same_answers(lm: LanguageModel, prompts: Answers, one: Answers, other: Answers) -> Same:
    """Whether two models' greedy answers to the same prompts are the same, but for ties, which `lm`, one of the two,
    is asked about. An encoder's answers are a token a place: they must be equal."""
    apart = [(p, a, b) for p, a, b in zip(prompts, one, other, strict=True) if a != b]
    if not apart:
        return Same(True, "greedy tokens equal")
    if lm.encoder is not None or not all(is_tie(lm, *answers) for answers in apart):
        return Same(False, "greedy tokens differ")
    return Same(True, f"greedy tokens equal up to {len(apart)} tie{'s' if len(apart) > 1 else ''}")


@torch.no_grad()
def is_tie(lm: LanguageModel, prompt: tuple[int, ...], one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether the first two tokens that differ are equally likely."""
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    if at is None:  # one goes on where the other, without an end token, does not
        return False
    rows = [Tokens(prompt + ids[: at + 1], (0.0,) * (len(prompt) + at) + (1.0,), "tie") for ids in (one, other)]
    exact = replace(lm, dtype=torch.float32)
    first, second = (float(score(exact, forest([row]))) for row in rows)
    return abs(first - second) <= MOST_NATS
