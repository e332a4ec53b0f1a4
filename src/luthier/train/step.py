"""One optimizer step: forward and backward over its microbatches, clip, update."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch

from luthier.base.errors import RunError
from luthier.base.files import write_json
from luthier.base.seeds import seed_for
from luthier.train.job import Job, Loss, clear_gradients
from luthier.train.memory import no_room, within_memory
from luthier.train.optim import set_rate
from luthier.train.ranks import here
from luthier.train.sources import Micro, Step
from luthier.train.together import dealt


class Sums(NamedTuple):
    """What the microbatches of a step add up to, on this rank."""

    total: float
    watched: dict[str, tuple[float, float]]


def backward(job: Job, item: Step, step: int) -> Iterator[tuple[Loss, float]]:
    """Forward and backward over this rank's microbatches of a step, each with dropout of its own; yields their losses,
    and the weight of each."""
    for index, micro, weight in dealt(item.micros):
        torch.manual_seed(seed_for(job.seed, f"dropout {index}", step))

        def forward(micro: Micro = micro) -> Loss:
            with job.noise(micro.batch, step) if job.noise else nullcontext():
                return job.loss(micro.to(job.device))

        loss = job.together.within(forward)
        (loss.total * weight / item.total if weight != 1 else loss.total / item.total).backward()
        yield loss, weight


def accumulate(job: Job, item: Step, step: int, anew: bool = True) -> Sums:
    """Gradients of a whole step into the parameters, on top of those that are there unless it begins `anew`; the sums
    of its losses."""
    if anew:
        clear_gradients(job)
    sums: dict[str, tuple[float, float]] = {}
    total = 0.0
    for loss, weight in backward(job, item, step):
        total += float(loss.total.detach()) * weight
        for name, (value, count) in loss.watched.items():
            was = sums.get(name, (0.0, 0.0))
            sums[name] = (was[0] + float(value) * weight, was[1] + count * weight)
    return Sums(total, sums)


def take_step(job: Job, step: int, lr: float, facts: dict[str, Any]) -> tuple[Step, dict[str, float]]:
    """The step's microbatches, and means of what was watched. Where memory runs out the step begins anew, in smaller
    microbatches. Raises RunError where none are small enough, and on a loss or gradient that is not finite; with a
    watchdog, a step that is not finite is not taken, and its loss says so."""
    job.module.train()
    done = within_memory(job, job.source, step, lambda item: accumulate(job, item, step))
    if isinstance(done, str):
        raise RunError(f"{job.checkpoints.folder.parent}: " + no_room(job, f"step {step}", done))
    item, (total, sums) = done
    job.together.sum_gradients()
    norm = job.together.clip(job.how.clip_norm or math.inf)
    total, *flat = here().sums([total, *(x for pair in sums.values() for x in pair)])
    sums = dict(zip(sums, zip(flat[0::2], flat[1::2], strict=True), strict=True))
    if not (math.isfinite(total) and math.isfinite(norm)):
        if job.watch is None:
            raise RunError(not_finite(job, item, step, facts, total / item.total, norm))
        clear_gradients(job)
        return item, {"loss": math.nan, "grad_norm": norm}
    for optimizer in job.optimizers.values():
        set_rate(optimizer, lr)
    job.together.step()
    clear_gradients(job)
    means = {name: value / count for name, (value, count) in sums.items() if count}
    return item, {"loss": total / item.total, "grad_norm": norm, **means}


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
