"""What one training run is made of, and what it used when it is done."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from luthier.base.events import EventLog
from luthier.base.tuning import Training
from luthier.model.quantise import held_bytes, numbers
from luthier.tokens.pack import Batch
from luthier.train.average import Average
from luthier.train.checkpoint import Checkpoints
from luthier.train.pace import Pace
from luthier.train.sources import BatchSource, Micro
from luthier.train.together import Together
from luthier.train.watchdog import Watch


class Loss(NamedTuple):
    """The summed loss of a microbatch, and sums (value, count) of what is worth watching."""

    total: Tensor
    watched: dict[str, tuple[Tensor | float, float]]


@dataclass(frozen=True)
class Job:
    """All that one training run is made of."""

    module: torch.nn.Module
    """What is switched to train mode."""
    parameters: list[Tensor]
    """What a step changes, and what is clipped."""
    optimizers: dict[str, torch.optim.Optimizer]
    source: BatchSource
    loss: Callable[[Micro], Loss]
    evaluate: Callable[[int], float | None]
    """Measures held-out data at a step, emits its own events, returns the value to be least (None: nothing)."""
    how: Training
    checkpoints: Checkpoints
    log: EventLog
    seed: int
    device: torch.device
    dtype: torch.dtype = torch.float32
    """Arithmetic of matrix products."""
    average: Average | None = None
    """What is evaluated and kept instead of the last weights; also one of the checkpoints' states, as `watch` is."""
    noise: Callable[[Batch, int], AbstractContextManager[None]] | None = None
    """Around the forward of a batch at a step."""
    watch: Watch | None = None
    """Goes back when the loss runs away; None: a loss that is no number stops the run."""
    most_bytes: int | None = None
    """Peak memory that microbatches are cut to."""
    pace: Pace = None  # type: ignore[assignment]  # filled below
    """How many steps are taken; default: as many as the source has."""
    together: Together = field(init=False)
    """The same parts as the ranks of a run share them."""
    asked_tokens: int = field(init=False)
    """The source's microbatch limit before memory had its say."""

    def __post_init__(self) -> None:
        made = Together(self.module, self.parameters, self.optimizers, self.checkpoints, self.dtype)
        object.__setattr__(self, "together", made)
        object.__setattr__(self, "asked_tokens", self.source.microbatch_tokens)
        if self.pace is None:
            object.__setattr__(self, "pace", Pace(self.source.steps, self.source.period, self.how.evaluate_every_steps))


def clear_gradients(job: Job) -> None:
    """Forgets the gradients."""
    for parameter in job.parameters:
        parameter.grad = None


class Totals(NamedTuple):
    """What a finished fit used, over all its sessions."""

    steps: int
    tokens: int
    train_seconds: float
    kept_step: int | None = None
    """The step whose weights were the best evaluated and are kept; None: the last ones are."""

    def facts(self, job: Job) -> dict[str, Any]:
        """As stage.json has it."""
        kept = {} if self.kept_step is None else {"kept_step": self.kept_step}
        return {
            "steps": self.steps,
            "tokens": self.tokens,
            "tokens_per_s": round(self.tokens / max(self.train_seconds, 1e-9), 1),
            "parameters": numbers(job.module),
            "trainable_parameters": sum(p.numel() for p in job.parameters),
            "weights_bytes": held_bytes(job.module),
            "microbatch_tokens": {"asked": job.asked_tokens, "used": job.source.microbatch_tokens},
            **job.pace.facts(),
            **kept,
        }
