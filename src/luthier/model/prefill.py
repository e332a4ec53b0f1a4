"""Reading prompts: what sampling goes on from, the keys and values of every layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from luthier.base.nouns import Tokens
from luthier.model.attention import ForestPlan, Store, using
from luthier.model.score import LanguageModel
from luthier.model.virtual import NOTHING, Virtual, virtual_of
from luthier.tokens.pack import forest, paths

READ_TOKENS = 4096
"""Most tokens of prompts that are read at once."""


LEAST_COMMON = 64
"""Fewer first tokens that all prompts have in common are read as often as there are prompts: it costs nothing."""


class Read(NamedTuple):
    """What reading some prompts left behind: each one's length and its last hidden state; every layer's keys and values
    of the first tokens, which they have in common [1, Hkv, C, d], and of the others [B, Hkv, L, d], left-aligned."""

    lengths_B: Tensor
    hidden_BD: Tensor
    common: Store
    kept: Store


def in_common(prompts: Sequence[Sequence[int]]) -> int:
    """How many first tokens all prompts share (few-shot examples, a system text); 0 where it is not worth the while.
    Every prompt keeps one of its own at least."""
    if len(prompts) < 2:
        return 0
    rows = [tuple(prompt) for prompt in prompts]
    first, last = min(rows), max(rows)  # what these two share, all share that stand between them in order
    most = min(map(len, rows)) - 1
    shared = next((n for n in range(most) if first[n] != last[n]), most)
    return shared if shared >= LEAST_COMMON else 0


def pieces(prompts: Sequence[Sequence[int]]) -> Iterator[tuple[int, int]]:
    """Runs `start:stop` of prompts that are read together: of at most READ_TOKENS tokens."""
    start = size = 0
    for at, prompt in enumerate(prompts):
        if at > start and size + len(prompt) > READ_TOKENS:
            yield start, at
            start, size = at, 0
        size += len(prompt)
    yield start, len(prompts)


def read_prompts(lm: LanguageModel, prompts: Sequence[Sequence[int]], shared: int = 0) -> Read:
    """Reads some prompts, as one forest at a time; their first `shared` tokens are the same. Each forest's keys and
    values go to their place at once, so that there are never two of them all."""
    lengths: list[int] = []
    hidden: list[Tensor] = []
    common: Store = {}
    kept: Store = {}
    for start, stop in pieces(prompts):
        found, read, paths_b, last_D = read_forest(lm, prompts[start:stop])
        lengths += map(len, paths_b)
        hidden.append(last_D)
        first = found + shared if shared else 0
        longest = found + max(map(len, prompts)) - first
        for layer in list(read):
            k, v = read.pop(layer)
            if layer not in kept:
                start_C = paths_b[0][:first]
                common[layer] = (k[:, :, start_C].to(v.dtype), v[:, :, start_C])
                # Values come in the arithmetic's own type; keys may not, where autocast let the rotation widen them.
                kept[layer] = (
                    v.new_empty(len(prompts), k.shape[1], longest, k.shape[3]),
                    v.new_empty(len(prompts), v.shape[1], longest, v.shape[3]),
                )
            for b, path in enumerate(paths_b, start):
                own = len(path) - first
                for store, full in zip(kept[layer], (k, v), strict=True):
                    store[b, :, :own] = full[0][:, path[first:]].to(v.dtype)
                    store[b, :, own:] = 0  # never garbage: what is not seen is multiplied by 0
    return Read(torch.tensor(lengths, device=lm.device), torch.cat(hidden), common, kept)


def read_forest(lm: LanguageModel, prompts: Sequence[Sequence[int]]) -> tuple[int, Store, list[Tensor], Tensor]:
    """Reads some prompts as one forest: how many virtual keys stand before their tokens' own, every layer's keys and
    values [1, Hkv, T, d], which of those each prompt sees, and its last hidden state [B, D]."""
    device, virtual = lm.device, virtual_of(lm.module, lm.core)
    batch = virtual.above(forest([Tokens(tuple(p), (0.0,) * len(p), "") for p in prompts]).to(device))
    kept: Store = {}
    plan = ForestPlan(batch, keep=kept, prefix=virtual.prefix)
    hidden_TD = forward(lm, plan, batch.ids_T, batch.pos_T, virtual)
    prefix_K = torch.arange(plan.lead, device=device)  # its keys are kept in front of the tokens' own
    path_B = [torch.cat([prefix_K, plan.lead + path]) for path in paths(batch)]
    return len(path_B[0]) - len(prompts[0]), kept, path_B, hidden_TD[batch.last_N]


def forward(lm: LanguageModel, plan: Any, ids_T: Tensor, pos_T: Tensor, virtual: Virtual = NOTHING) -> Tensor:
    """Final hidden states [T, D] under a plan; `virtual` tokens are the first of a batch that is below them."""
    with torch.autocast(lm.device.type, dtype=lm.dtype, enabled=lm.dtype != torch.float32), using(plan):
        out = lm.backbone(
            **virtual.inputs(lm.core, ids_T),
            position_ids=pos_T[None],
            attention_mask=torch.ones_like(ids_T)[None],
            use_cache=False,
        )
    return out.last_hidden_state[0]
