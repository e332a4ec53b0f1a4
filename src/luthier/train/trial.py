"""What is tried before step 0, and changes nothing: whether the largest step fits into memory, and how fast steps are.

A trial steps with a learning rate of 0 and gradients of 0, which moves no weight and gives the optimizers their states;
then those are forgotten, and whatever else has a state gets back the one that it had.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from luthier.base.errors import RunError
from luthier.model.quantise import numbers
from luthier.train.guards import Guard, disk
from luthier.train.job import Job, clear_gradients
from luthier.train.memory import halved, make_room, no_room, peak_bytes, reset_peak, tell_limit, within_memory
from luthier.train.optim import set_rate
from luthier.train.pace import Speed
from luthier.train.ranks import here
from luthier.train.sources import BatchSource, Step
from luthier.train.step import accumulate

SPEED_FRAC = 0.02
"""Share of the time that is left in which the speed is measured."""
SPEED_STEPS = (3, 20)
"""Fewest and most steps for that, after one that is not counted."""
HEADROOM_FRAC = 0.05
"""Of the memory that is asked for, this much is left free by the first choice of microbatches."""


@contextmanager
def trial(job: Job, made: BatchSource | None = None) -> Iterator[BatchSource]:
    """Inside this block steps are only tried; yields the source to take them from (`made`, if that is given)."""
    held = {n: copy.deepcopy(s.state_dict()) for n, s in job.checkpoints.states.items() if n not in job.optimizers}
    job.together.cut()
    job.module.train()
    try:
        # A shallow copy: what a source makes anew (a rollout) is the copy's alone.
        yield made or copy.copy(job.source)
    finally:
        clear_gradients(job)
        for optimizer in job.optimizers.values():
            optimizer.state.clear()
            set_rate(optimizer, job.how.learning_rate)
        for name, state in held.items():
            job.checkpoints.states[name].load_state_dict(state)
        make_room(job)


def stand_still(job: Job) -> None:
    """All that a step does once it has its gradients, at rate 0 and with gradients of 0: 0 · NaN is no 0."""
    job.together.sum_gradients()
    job.together.clip(job.how.clip_norm or math.inf)
    for parameter in job.parameters:
        if parameter.grad is not None:
            parameter.grad.zero_()
    for optimizer in job.optimizers.values():
        set_rate(optimizer, 0.0)
    job.together.step()


def rehearse(job: Job, item: Step, step: int) -> None:
    """A whole step of rate 0, then its largest microbatch again: now with gradients and optimizer states in memory, as
    at the peak of training."""
    accumulate(job, item, step)
    stand_still(job)
    # The gradients stay where they are meanwhile, as they do while a step's last microbatch runs.
    largest = max(item.micros, key=lambda micro: micro.batch.tokens)
    accumulate(job, item._replace(micros=[largest]), step, anew=False)


def try_largest(job: Job, step: int, made: BatchSource | None = None) -> Guard:
    """Runs the largest step, and changes nothing: memory runs out now or not at all. Where it does, or takes more than
    it may, the microbatches are cut smaller. `made` is a copy of the source that has its samples already."""
    name = "largest batch fits"
    with trial(job, made) as source:
        with job.together.looking():
            item = source.at(step)
        if (few := too_few_rows(item)) is not None:
            return few
        found = within_memory(job, source, step, lambda item: rehearse(job, item, step))
        if isinstance(found, str):
            return Guard(name, False, no_room(job, f"a step of {item.tokens} tokens", found))
        if job.most_bytes is not None:
            if (problem := fit_into(job, source, step, job.most_bytes)) is not None:
                return Guard(name, False, problem)
            with job.together.looking():
                found = source.at(step), None
    item = found[0]
    return Guard(name, True, f"{item.tokens} tokens in {len(item.micros)} microbatches, tried")


def fit_into(job: Job, source: BatchSource, step: int, most_bytes: int) -> str | None:
    """Chooses the microbatch limit that keeps the peak of a step within `most_bytes`: measured at two sizes, drawn out
    in a line to the largest that fits, and tried. What is wrong, where one sequence at a time takes more."""
    limit = source.microbatch_tokens
    (few, low), (many, high) = (peak_at(job, source, step, part) for part in (limit // 8, limit // 3))
    wanted = limit
    if many > few and high > low:
        a_token = (high - low) / (many - few)
        wanted = min(limit, few + int((most_bytes * (1 - HEADROOM_FRAC) - low) / a_token))
    wanted = max(wanted, 1)
    while True:
        size, peak = peak_at(job, source, step, wanted)
        if peak <= most_bytes:
            break
        with job.together.looking():
            smaller = halved(source, source.at(step), step)
        if smaller is None:
            return (
                f"a step takes {peak / 2**30:.2f} GiB, one sequence of {size} tokens at a time; budget.memory_gib is "
                f"{most_bytes / 2**30:.2f}. Raise it, lower max_length, set gradient_checkpointing: true, or train an "
                "adapter."
            )
        wanted = smaller
    if wanted < limit:
        tell_limit(job, source, step, wanted, f"is cut to fit into {most_bytes / 2**30:.2f} GiB")
    source.microbatch_tokens = job.source.microbatch_tokens
    return None


def peak_at(job: Job, source: BatchSource, step: int, limit: int) -> tuple[int, int]:
    """Tokens of the largest microbatch under a limit, and the peak memory of a step of such."""
    source.microbatch_tokens = max(1, limit)
    with job.together.looking():
        item = source.at(step)
    largest = max(item.micros, key=lambda micro: micro.batch.tokens)
    make_room(job)
    reset_peak(job.device.type)
    rehearse(job, item._replace(micros=[largest]), step)
    return largest.batch.tokens, max(here().gathered(peak_bytes(job.device.type)))


def measure_speed(job: Job, evaluate_s: float, save_s: float, most_s: float) -> Speed:
    """Seconds of a step, and tokens a second, over the first few steps (of whole rollouts, where there are any), which
    take no more than about `most_s` seconds. Raises RunError where memory runs out."""
    period, asked = job.source.period, job.pace.asked
    fewest, most = (-(-n // period) * period for n in SPEED_STEPS)
    skipped = 1 if period == 1 and asked > 1 else 0
    tokens, measured, began = 0, 0, time.monotonic()
    with trial(job) as source:
        for step in range(min(skipped + most, asked)):
            found = within_memory(job, source, step, lambda item, step=step: accumulate(job, item, step))  # type: ignore[misc]
            if isinstance(found, str):
                raise RunError(no_room(job, f"step {step}", found))
            stand_still(job)
            if step < skipped:
                began = time.monotonic()
                continue
            tokens, measured = tokens + found[0].tokens, measured + 1
            seconds = time.monotonic() - began
            enough = seconds > most_s and (measured >= fewest or seconds > 5 * most_s)
            if here().told(enough and measured % period == 0):
                break
    return Speed(seconds / measured, tokens / seconds, evaluate_s, save_s)


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


def disk_for(job: Job) -> Guard:
    """The disk guard for a job's checkpoints: the last, the best, the one being written; two more for a watchdog."""
    whole, kept = numbers(job.module), job.checkpoints.weights.numbers
    trained = sum(p.numel() for p in job.parameters)
    keeps = 3 + 2 * (job.watch is not None) + (job.average is not None)
    return disk(job.checkpoints.folder.parent, whole if kept is None else kept, trained, whole + (kept or 0), keeps)
