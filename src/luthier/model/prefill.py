"""Reading prompts: what sampling goes on from, the keys and values of every layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from luthier.base.nouns import Tokens
from luthier.model.attention import ForestPlan, using
from luthier.model.kept import Kept
from luthier.model.score import LanguageModel
from luthier.model.virtual import NOTHING, Virtual, virtual_of
from luthier.tokens.pack import forest, paths

READ_TOKENS = 4096
"""Most tokens of prompts that are read at once."""
LEAST_COMMON = 64
"""Fewer first tokens that all prompts have in common are read as often as there are prompts: it costs nothing."""


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


def read_prompts(lm: LanguageModel, prompts: Sequence[Sequence[int]], shared: int, kept: Kept) -> Tensor:
    """Reads some prompts, as one forest at a time, into `kept`; their first `shared` tokens are the same, and those of
    all that stand there. Each one's last hidden state [B, D]."""
    virtual = virtual_of(lm.module, lm.core)
    lengths_b = torch.tensor([virtual.size + len(prompt) for prompt in prompts], device=lm.device)
    first = kept.open(lengths_b, virtual.size + shared if shared else 0)
    return torch.cat(
        [read_forest(lm, prompts[start:stop], virtual, kept, first + start) for start, stop in pieces(prompts)]
    )


def read_forest(
    lm: LanguageModel, prompts: Sequence[Sequence[int]], virtual: Virtual, kept: Kept, first: int
) -> Tensor:
    """Reads some prompts as one forest into the slots from `first` on. Each one's last hidden state [B, D]."""
    batch = virtual.above(forest([Tokens(tuple(p), (0.0,) * len(p), "") for p in prompts]).to(lm.device))
    lead = virtual.size - virtual.embedded
    prefix_K = torch.arange(lead, device=lm.device)  # its keys stand in front of the tokens' own
    paths_b = [torch.cat([prefix_K, lead + path]) for path in paths(batch)]
    common_C, own_b = paths_b[0][: kept.shared], [run_of(path[kept.shared :]) for path in paths_b]
    keep = partial(kept.write, common_C=common_C, own_b=own_b, first=first)
    plan = ForestPlan(batch, keep, virtual.prefix)
    return forward(lm, plan, batch.ids_T, batch.pos_T, virtual)[batch.last_N]


def run_of(path: Tensor) -> slice | Tensor:
    """Indices as a slice where they are a run, which is no copy."""
    start, stop = int(path[0]), int(path[-1]) + 1
    return slice(start, stop) if stop - start == len(path) else path


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
