"""Drawing a token from logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 128
"""Tokens of the vocabulary that are looked at together when one is drawn."""


@dataclass(frozen=True)
class Sampling:
    """How to draw. `temperature` 0 is greedy. Filters apply in this order: repetition penalty, temperature, top-k,
    top-p; they change what is drawn, never the log-probs that are reported."""

    max_new_tokens: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    repetition_penalty: float = 1.0
    seed: int = 0


class Drawn(NamedTuple):
    """A token for each row, and its log-prob under softmax(logits / temperature) in nats (temperature 1 if greedy)."""

    token_N: Tensor
    logp_N: Tensor


def choose(logits_NV: Tensor, uniform_N: Tensor, how: Sampling, seen_NV: Tensor | None = None) -> Drawn:
    """Draws one token a row by inverting the cumulative distribution at `uniform_N` (in [0, 1))."""
    if how.temperature not in (0, 1):
        logits_NV = logits_NV / how.temperature
    probs_NV = torch.softmax(logits_NV, dim=-1)
    # log Σe^z through the likeliest token, whose probability is no rounding error.
    log_total_N = logits_NV.amax(-1) - probs_NV.amax(-1).log()
    if seen_NV is not None or (how.temperature > 0 and (how.top_k is not None or how.top_p < 1)):
        probs_NV = filtered(logits_NV, how, seen_NV)
    if how.temperature > 0:
        token_N = invert(probs_NV, uniform_N)
    else:  # two logits may be one probability
        token_N = likeliest(logits_NV if seen_NV is None else probs_NV)
    return Drawn(token_N, logits_NV.gather(1, token_N[:, None]).squeeze(1) - log_total_N)


def likeliest(x_NV: Tensor) -> Tensor:
    """The first of the largest of each row: first the block, then the token in it. (On a CPU torch's argmax takes many
    times as long as its maximum, and as the softmax.)"""
    whole = x_NV.shape[1] // BLOCK * BLOCK
    if whole == 0:
        return x_NV.argmax(-1)
    blocks = x_NV[:, :whole].unflatten(1, (-1, BLOCK))
    value_N, block_N = blocks.amax(-1).max(-1)
    inside = blocks[torch.arange(len(x_NV), device=x_NV.device), block_N]
    token_N = block_N * BLOCK + inside.argmax(-1)
    if whole == x_NV.shape[1]:
        return token_N
    rest_N, at_N = x_NV[:, whole:].max(-1)
    return torch.where(rest_N > value_N, whole + at_N, token_N)


def filtered(logits_NV: Tensor, how: Sampling, seen_NV: Tensor | None) -> Tensor:
    """Probabilities (not normalised) after repetition penalty, top-k and top-p; `logits_NV` are over the temperature
    already."""
    if seen_NV is not None:  # Keskar et al. 2019, §4.1, in the form that transformers uses
        p = how.repetition_penalty
        logits_NV = torch.where(seen_NV, torch.where(logits_NV > 0, logits_NV / p, logits_NV * p), logits_NV)
    if how.temperature > 0 and how.top_k is not None:
        kth = logits_NV.topk(min(how.top_k, logits_NV.shape[-1]), dim=-1).values[:, -1:]
        logits_NV = logits_NV.masked_fill(logits_NV < kth, float("-inf"))
    probs_NV = torch.softmax(logits_NV.double(), dim=-1)
    if how.temperature > 0 and how.top_p < 1:  # the smallest set of the likeliest tokens whose mass reaches top_p
        ranked, order = probs_NV.sort(dim=-1, descending=True)
        beyond = ranked.cumsum(-1) - ranked >= how.top_p
        probs_NV = probs_NV.masked_fill(torch.zeros_like(beyond).scatter(1, order, beyond), 0)
    return probs_NV


def invert(probs_NV: Tensor, uniform_N: Tensor) -> Tensor:
    """The token at which the cumulative sum of `probs_NV` first exceeds `uniform_N` times its total: first the block
    of tokens, then the token in it, so that no sum runs over all V. A token of probability 0 is never drawn."""
    blocks = F.pad(probs_NV, (0, -probs_NV.shape[1] % BLOCK)).view(len(probs_NV), -1, BLOCK)
    mass = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    target_N1 = (uniform_N.double() * mass[:, -1])[:, None]
    block_N1 = torch.searchsorted(mass, target_N1, right=True).clamp(max=blocks.shape[1] - 1)
    before_N1 = torch.where(block_N1 > 0, mass.gather(1, (block_N1 - 1).clamp(min=0)), 0.0)
    inside = blocks.gather(1, block_N1[:, :, None].expand(-1, 1, BLOCK)).squeeze(1).double().cumsum(-1)
    token_N1 = torch.searchsorted(inside, target_N1 - before_N1, right=True)
    last_N1 = torch.searchsorted(inside, inside[:, -1:].contiguous())  # where rounding would pass the block's end
    return (block_N1 * BLOCK + torch.minimum(token_N1, last_N1)).squeeze(1)
