"""The one loop. Every stage that trains calls `fit`; what differs is the batch source and the loss.

No trainer classes, no callbacks: a loss is a function of a microbatch, an evaluation is a function of a step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from luthier.base.errors import RunError
from luthier.base.events import EventLog
from luthier.base.files import write_json
from luthier.base.seeds import seed_for
from luthier.base.tuning import Training
from luthier.model.quantise import held_bytes, numbers
from luthier.train.checkpoint import Checkpoints
from luthier.train.guards import Guard, disk
from luthier.train.optim import set_rate
from luthier.train.ranks import here
from luthier.train.schedule import lr_at
from luthier.train.sources import BatchSource, Micro, Step
from luthier.train.together import Together, dealt

CHECKPOINT_EVERY_S = 30.0


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
    together: Together = field(init=False)
    """The same parts as the ranks of a run share them."""

    def __post_init__(self) -> None:
        made = Together(self.module, self.parameters, self.optimizers, self.checkpoints, self.dtype)
        object.__setattr__(self, "together", made)


class Totals(NamedTuple):
    """What a finished fit used, over all its sessions."""

    steps: int
    tokens: int
    train_seconds: float

    def facts(self, job: Job) -> dict[str, Any]:
        """As stage.json has it."""
        return {
            "steps": self.steps,
            "tokens": self.tokens,
            "tokens_per_s": round(self.tokens / max(self.train_seconds, 1e-9), 1),
            "parameters": numbers(job.module),
            "trainable_parameters": sum(p.numel() for p in job.parameters),
            "weights_bytes": held_bytes(job.module),
        }


def fit(job: Job) -> Totals:
    """Trains from the last checkpoint, or from the start, to the source's last step.

    Resumed or not, step k does the same arithmetic: the batch, the learning rate and the dropout seed are functions
    of k. Raises RunError on a non-finite loss or gradient, after writing what led to it.
    """
    how, source, steps, together = job.how, job.source, job.source.steps, job.together
    facts: dict[str, Any] = {"best": None, "best_step": None, "tokens": 0, "seconds": 0.0}
    saved = together.restore()
    start = 0
    if saved is None:
        job.log.rewind(-1)  # steps that were told, and lost before their first checkpoint
    else:
        start = saved["step"]
        facts = {key: saved[key] for key in facts}
        job.log.rewind(start)
        job.log.emit("resume", step=start)
    evaluate_every = how.evaluate_every_steps or max(1, steps // 10)
    last_saved, began, before = time.monotonic(), time.monotonic(), facts["seconds"]
    for step in range(start, steps):
        step_began = time.monotonic()
        if step == 0:
            facts["best"] = evaluated(job, 0)
        job.module.train()
        with together.looking():
            item = source.at(step)
        lr = lr_at(step, steps, how)
        watched = take_step(job, item, lr, step, facts)
        done = step + 1
        facts["tokens"] += item.tokens
        facts["seconds"] = before + time.monotonic() - began
        job.log.emit(
            "step",
            step=done,
            steps=steps,
            lr=lr,
            tokens=facts["tokens"],
            seconds=time.monotonic() - step_began,
            **watched,
        )
        value = evaluated(job, done) if done % evaluate_every == 0 or done == steps else None
        improved = value is not None and (facts["best"] is None or value < facts["best"])
        if improved:
            facts |= {"best": value, "best_step": done}
        due = how.checkpoint_every_steps and done % how.checkpoint_every_steps == 0
        if how.checkpoint_every_steps is None:
            due = here().told(time.monotonic() - last_saved > CHECKPOINT_EVERY_S)
        if done == steps or ((due or improved) and done % source.period == 0):
            job.checkpoints.save(done, facts)
            last_saved = time.monotonic()
    together.mend()
    return Totals(steps, facts["tokens"], facts["seconds"])


def evaluated(job: Job, step: int) -> float | None:
    """What the job measures at a step, the same on every rank."""
    with job.together.looking():
        return here().told(job.evaluate(step))


def backward(job: Job, item: Step, step: int) -> Iterator[tuple[Loss, float]]:
    """Forward and backward over this rank's microbatches of a step, each with dropout of its own; yields their losses,
    and the weight of each."""
    for index, micro, weight in dealt(item.micros):
        torch.manual_seed(seed_for(job.seed, f"dropout {index}", step))
        loss = job.together.within(lambda micro=micro: job.loss(micro.to(job.device)))  # type: ignore[misc]
        (loss.total * weight / item.total if weight != 1 else loss.total / item.total).backward()
        yield loss, weight


def try_largest(job: Job, step: int) -> Guard:
    """Runs the largest step forward and backward, and changes nothing: memory runs out now or not at all."""
    job.together.cut()
    with job.together.looking():
        item = job.source.at(step)
    if (few := too_few_rows(item)) is not None:
        return few
    job.module.train()
    try:
        for _ in backward(job, item, step):
            pass
    except (torch.OutOfMemoryError, MemoryError) as error:
        return Guard(
            "largest batch fits",
            False,
            f"{item.tokens} tokens ran out of memory ({str(error)[:80]}). Lower "
            "microbatch_tokens (same mathematics) or max_length, or set gradient_checkpointing: true.",
        )
    finally:
        clear_gradients(job)
    return Guard("largest batch fits", True, f"{item.tokens} tokens in {len(item.micros)} microbatches, tried")


def too_few_rows(item: Step) -> Guard | None:
    """Refuses a run on more ranks than the largest step has rows: some would never have anything to do."""
    rows, world = sum(micro.batch.n for micro in item.micros), here().world
    if rows >= world:
        return None
    return Guard(
        "rows for every rank",
        False,
        f"{world} ranks, but no step has more than {rows} rows. Start at most {rows} ranks (--gpus, --nodes), or let a "
        "step take more (batch_tokens, batch_pairs).",
    )


def clear_gradients(job: Job) -> None:
    """Forgets the gradients."""
    for parameter in job.parameters:
        parameter.grad = None


def disk_for(job: Job) -> Guard:
    """The disk guard for a job's checkpoints."""
    whole, kept = numbers(job.module), job.checkpoints.weights.numbers
    trained = sum(p.numel() for p in job.parameters)
    return disk(job.checkpoints.folder.parent, whole if kept is None else kept, trained, whole + (kept or 0))


def take_step(job: Job, item: Step, lr: float, step: int, facts: dict[str, Any]) -> dict[str, float]:
    """Forward and backward over the microbatches, clip, update. Returns means of what was watched."""
    sums: dict[str, tuple[float, float]] = {}
    total = 0.0
    for loss, weight in backward(job, item, step):
        total += float(loss.total.detach()) * weight
        for name, (value, count) in loss.watched.items():
            was = sums.get(name, (0.0, 0.0))
            sums[name] = (was[0] + float(value) * weight, was[1] + count * weight)
    job.together.sum_gradients()
    norm = job.together.clip(job.how.clip_norm or math.inf)
    total, *flat = here().sums([total, *(x for pair in sums.values() for x in pair)])
    sums = dict(zip(sums, zip(flat[0::2], flat[1::2], strict=True), strict=True))
    if not (math.isfinite(total) and math.isfinite(norm)):
        raise RunError(not_finite(job, item, step, facts, total / item.total, norm))
    for optimizer in job.optimizers.values():
        set_rate(optimizer, lr)
    job.together.step()
    clear_gradients(job)
    means = {name: value / count for name, (value, count) in sums.items() if count}
    return {"loss": total / item.total, "grad_norm": norm, **means}


def stop_if_broken(step: int, measured: np.ndarray) -> None:
    """For evaluations. Raises RunError where what they measured is no number: the step before broke the weights,
    though its own loss and gradient were finite."""
    if not np.isfinite(measured).all():
        raise RunError(
            f"step {step}: {np.count_nonzero(~np.isfinite(measured))} of {len(measured)} held-out values are not "
            "finite: the last step broke the weights. Lower learning_rate or raise warmup_frac."
        )


def not_finite(job: Job, item: Step, step: int, facts: dict[str, Any], loss: float, norm: float) -> str:
    """Writes what led to a NaN and returns the sentence that says where. The weights are those before the step."""
    clear_gradients(job)
    origins = sorted({origin for micro in item.micros for origin in micro.batch.origins})
    folder, finite = job.checkpoints.folder.parent, job.together.all_finite(job.parameters)
    write_json(
        folder / "failed.json",
        {
            "step": step,
            "loss": repr(loss),
            "grad_norm": repr(norm),
            "origins": origins,
            "weights_finite": finite,
        },
    )
    if step % job.source.period == 0:
        job.checkpoints.save(step, facts)
    return (
        f"{folder}: step {step}: the loss is {loss}, the gradient norm {norm}. Nothing was skipped. The rows of "
        "this step are in failed.json, the weights before it in checkpoints/. Lower learning_rate or raise "
        "warmup_frac, or look at those rows."
    )
