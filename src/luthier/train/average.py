"""A moving average of the weights (EMA), which is what is evaluated and saved in place of the last ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from luthier.model.shard import full
from luthier.train.sharded import like


class Average:
    """The average of what a step changes, after t steps Σ dᵗ⁻ᵏ·θₖ / Σ dᵗ⁻ᵏ over k = 1..t: unbiased from the first
    step on, as Adam's moments are (Kingma & Ba 2015, §3). Owns a second copy of those weights; see Stateful."""

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.count = 0
        self.mean: list[Tensor] = []
        """In the order of the parameters; empty before the first step."""

    @torch.no_grad()
    def update(self, parameters: Sequence[Tensor]) -> None:
        """Takes in the weights after a step."""
        self.count += 1
        if self.count == 1:
            self.mean = [p.detach().clone() for p in parameters]
            return
        weight = (1 - self.decay) / (1 - self.decay**self.count)
        self.lay(parameters)
        for mean, p in zip(self.mean, parameters, strict=True):
            mean.lerp_(p.detach(), weight)

    @torch.no_grad()
    def swap(self, parameters: Sequence[Tensor]) -> None:
        """Exchanges the weights with their average, number for number; a second time puts everything back."""
        if self.count == 0:
            return
        self.lay(parameters)
        for mean, p in zip(self.mean, parameters, strict=True):
            last = p.detach().clone()
            p.copy_(mean)
            mean.copy_(last)

    @contextmanager
    def shown(self, parameters: Sequence[Tensor]) -> Iterator[None]:
        """Inside this block the model has the averaged weights, where there are any."""
        self.swap(parameters)
        try:
            yield
        finally:
            self.swap(parameters)

    def lay(self, parameters: Sequence[Tensor]) -> None:
        """Brings the average to where the parameters lie now: on their device, whole or in shards."""
        for index, p in enumerate(parameters):
            mean = self.mean[index]
            mean = like(mean.to(p.device), p) if isinstance(p, DTensor) else full(mean).to(p.device)
            self.mean[index] = mean

    def state_dict(self) -> dict[str, Any]:
        """See Stateful."""
        return {"count": self.count, "mean": list(self.mean)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See Stateful."""
        self.count, self.mean = state["count"], list(state["mean"])
