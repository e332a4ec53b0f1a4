"""The optimizer and its schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from luthier.base.recipe import Training


def lr_at(step: int, steps: int, how: Training) -> float:
    """Learning rate of optimizer step `step` (from 0) of `steps`: linear warm-up, then the schedule's shape from the
    peak down to `final_lr_frac` of it, reached on the last step."""
    warmup = math.ceil(how.warmup_frac * steps)
    if step < warmup:
        return how.learning_rate * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - warmup - 1)
    shape = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[how.schedule]
    if how.schedule != "constant":
        shape = how.final_lr_frac + (1 - how.final_lr_frac) * shape
    return how.learning_rate * shape


def adamw(parameters: Iterable[Tensor], how: Training) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019); decay on matrices only, since a norm's gain has no direction to shrink."""
    wanted = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in wanted if p.ndim >= 2], "weight_decay": how.weight_decay},
        {"params": [p for p in wanted if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=how.learning_rate, betas=how.betas, fused=True)
