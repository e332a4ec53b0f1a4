"""The optimizers and their schedule."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from luthier.base.tuning import Training


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


def optimizers(parameters: Mapping[str, Tensor], how: Training) -> dict[str, torch.optim.Optimizer]:
    """The optimizers of a stage by name, over parameters by name: AdamW (Loshchilov & Hutter 2019), and, if the recipe
    says so, Muon (Jordan et al. 2024) for the matrices of the blocks, scaled to AdamW's update size so that one
    learning rate serves both (Liu et al. 2025, eq. 4).

    Decay is on matrices only: a norm's gain has no direction to shrink.
    """
    hidden = {n: p for n, p in parameters.items() if how.optimizer == "muon" and is_hidden_matrix(n, p)}
    rest = [p for n, p in parameters.items() if n not in hidden]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": how.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    made: dict[str, torch.optim.Optimizer] = {}
    if any(g["params"] for g in groups):
        kept = [g for g in groups if g["params"]]
        made["adamw"] = torch.optim.AdamW(kept, lr=how.learning_rate, betas=how.betas, fused=True)
    if hidden:
        made["muon"] = torch.optim.Muon(
            hidden.values(), lr=how.learning_rate, weight_decay=how.weight_decay, adjust_lr_fn="match_rms_adamw"
        )
    return made


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon is for it: a whole matrix inside a block, not an embedding, a head, or an adapter's factor."""
    # Blocks are a numbered list, whatever it is called: layers.0 (Llama), h.0 (GPT-2), blocks.0 (MPT).
    return parameter.ndim == 2 and re.search(r"\.\d+\.", name) is not None and "lora_" not in name
