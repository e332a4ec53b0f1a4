"""The optimizers: which of them steps which parameters, with what decay, at what share of the learning rate."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from luthier.base.errors import UserError
from luthier.base.tuning import Training
from luthier.model.quantise import adamw_8bit

BLOCK = re.compile(r"\.(\d+)\.")
"""Blocks are a numbered list, whatever it is called: layers.0 (Llama), h.0 (GPT-2), blocks.0 (MPT)."""
EMBEDDING = re.compile(r"(^|\.)(wte|wpe|\w*embed\w*)\.")
"""Modules of the input embedding: embed_tokens, wte, word_embeddings."""
VIRTUAL = "prompt_encoder."
"""What makes virtual tokens (PEFT): it stands outside the model, whatever its layers are called."""

Groups = list[dict[str, Any]]


class Lion(torch.optim.Optimizer):
    """Evolved sign momentum with decoupled decay; one moment. Chen et al. 2023, algorithm 2:
    θ ← θ − η·(sign(β₁·m + (1−β₁)·g) + λ·θ), then m ← β₂·m + (1−β₂)·g."""

    def __init__(self, params: Groups, lr: float, betas: tuple[float, float]) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step of every parameter that has a gradient."""
        for group in self.param_groups:
            lr, (beta1, beta2) = group["lr"], group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                if p not in self.state:
                    self.state[p]["moment"] = torch.zeros_like(p)
                moment = self.state[p]["moment"]
                p.mul_(1 - lr * group["weight_decay"])
                p.add_(moment.lerp(p.grad, 1 - beta1).sign_(), alpha=-lr)
                moment.lerp_(p.grad, 1 - beta2)


def adamw(groups: Groups, how: Training) -> torch.optim.Optimizer:
    """Loshchilov & Hutter 2019."""
    return torch.optim.AdamW(groups, lr=how.learning_rate, betas=how.betas, fused=True)


def adafactor(groups: Groups, how: Training) -> torch.optim.Optimizer:
    """Shazeer & Stern 2018, algorithm 4, at AdamW's rates: the steps are not scaled by the size of the weights, which
    would hold an adapter that begins at 0 there (ε₂ = 1 does it, as the root mean square of weights is less)."""
    return torch.optim.Adafactor(groups, lr=how.learning_rate, eps=(None, 1.0))


def lion(groups: Groups, how: Training) -> torch.optim.Optimizer:
    """See Lion."""
    return Lion(groups, how.learning_rate, how.betas)


def muon(groups: Groups, how: Training) -> torch.optim.Optimizer:
    """Jordan et al. 2024, scaled to AdamW's update size so that one learning rate serves both (Liu et al. 2025,
    eq. 4)."""
    return torch.optim.Muon(groups, lr=how.learning_rate, adjust_lr_fn="match_rms_adamw")


MAKERS: dict[str, Callable[[Groups, Training], torch.optim.Optimizer]] = {
    "adamw": adamw,
    "adamw8bit": lambda groups, how: adamw_8bit(groups, how.learning_rate, how.betas),
    "adafactor": adafactor,
    "lion": lion,
    "muon": muon,
}


def optimizers(parameters: Mapping[str, Tensor], how: Training) -> dict[str, torch.optim.Optimizer]:
    """The optimizers of a stage by name, over parameters by name: the one that the recipe names; muon has the blocks'
    matrices only, and AdamW the rest. Raises UserError where an optional library is not installed.

    Decay is on matrices only: a norm's gain has no direction to shrink. Each group's `lr_share` is its part of the
    stage's learning rate (see `set_rate`).
    """
    owners = {n: "adamw" if how.optimizer == "muon" and not is_hidden_matrix(n, p) else how.optimizer
              for n, p in parameters.items()}  # fmt: skip
    check_shares(list(parameters), how)
    shares = lr_shares(list(parameters), how.layer_decay, how.embedding_lr_frac)
    made: dict[str, torch.optim.Optimizer] = {}
    for owner in sorted(set(owners.values())):
        groups: dict[tuple[bool, float], dict[str, Any]] = {}
        for name in (n for n in parameters if owners[n] == owner):
            p, share = parameters[name], shares[name]
            decay = how.weight_decay if p.ndim >= 2 else 0.0
            group = groups.setdefault((p.ndim < 2, share), {"params": [], "weight_decay": decay, "lr_share": share})
            group["params"].append(p)
        made[owner] = MAKERS[owner]([groups[key] for key in sorted(groups)], how)
    return made


def check_shares(names: Sequence[str], how: Training) -> None:
    """Raises UserError where a share of the learning rate would be nobody's: what it is for is not trained."""
    embedded = any(EMBEDDING.search(name) and VIRTUAL not in name for name in names)
    if how.embedding_lr_frac != 1 and not embedded:
        raise UserError(
            "embedding_lr_frac: no embeddings are trained here (they are frozen, or an adapter is). Remove it."
        )
    if how.layer_decay != 1 and all(block_of(name) is None for name in names):
        raise UserError("layer_decay: no blocks are trained here. Remove it.")


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Every group's learning rate: its share of `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_share"]


def lr_shares(names: Sequence[str], layer_decay: float, embedding_lr_frac: float) -> dict[str, float]:
    """Each parameter's share of the learning rate: 1 for the head and whatever else stands above the blocks,
    `layer_decay` for the highest block, its square for the one below, and one power more than the lowest block for the
    embeddings (Clark et al. 2020, §3.1, and Bao et al. 2021, with the head as the top), which are also multiplied by
    `embedding_lr_frac`. A head that is tied to the embeddings is one of them."""
    blocks = {name: block_of(name) for name in names}
    depth = 1 + max((block for block in blocks.values() if block is not None), default=-1)
    shares = {}
    for name, block in blocks.items():
        if block is not None:
            shares[name] = layer_decay ** (depth - block)
        elif EMBEDDING.search(name) and VIRTUAL not in name:
            shares[name] = layer_decay ** (depth + 1) * embedding_lr_frac
        else:
            shares[name] = 1.0
    return shares


def block_of(name: str) -> int | None:
    """The number of the block that a parameter is in; None for those outside."""
    found = BLOCK.search(name) if VIRTUAL not in name else None
    return None if found is None else int(found[1])


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon is for it: a whole matrix inside a block, not an embedding, a head, or an adapter's factor."""
    return parameter.ndim == 2 and block_of(name) is not None and "lora_" not in name
