"""The one loop. Every stage that trains calls `fit`; what differs is the batch source and the loss.

No trainer classes, no callbacks: a loss is a function of a microbatch, an evaluation is a function of a step.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import Any

import numpy as np

from luthier.base.errors import RunError
from luthier.train.job import Job, Loss, Totals
from luthier.train.pace import Written
from luthier.train.ranks import here
from luthier.train.schedule import rate
from luthier.train.step import take_step
from luthier.train.trial import SPEED_FRAC, measure_speed
from luthier.train.watchdog import gone_too_often

__all__ = ["Job", "Loss", "Totals", "fit", "stop_if_broken"]

CHECKPOINT_EVERY_S = 30.0

Facts = dict[str, Any]
"""What a checkpoint knows besides weights and states, as JSON."""


def fit(job: Job) -> Totals:
    """Trains from the last checkpoint, or from the start, to the last step of the plan.

    Resumed or not, step k does the same arithmetic: the batch, the learning rate and the dropout seed are functions
    of k. Raises RunError on a non-finite loss or gradient, after writing what led to it.
    """
    how, source, pace, together = job.how, job.source, job.pace, job.together
    began = time.monotonic()
    facts = restored(job) or started(job, began)
    step, before = facts["step"], facts["seconds"] - (time.monotonic() - began)
    last_saved = time.monotonic()
    while step < pace.steps:
        step_began = time.monotonic()
        lr = rate(step, pace.plan, how) * (job.watch.slowed if job.watch else 1.0)
        item, watched = take_step(job, step, lr, facts)
        if job.watch is not None and (why := job.watch.see(watched["loss"])) is not None:
            facts = gone_back(job, step, why, before + time.monotonic() - began)
            step = facts["step"]
            continue
        if job.average is not None:
            job.average.update(job.parameters)
        step += 1
        step_s = time.monotonic() - step_began
        facts |= {"step": step, "tokens": facts["tokens"] + item.tokens, "seconds": before + time.monotonic() - began}
        told = {"lr": lr, "tokens": facts["tokens"], "seconds": step_s, **watched}
        job.log.emit("step", step=step, steps=pace.steps, **told)
        look_began, looked = time.monotonic(), step % pace.evaluate_every == 0 or step == pace.steps
        value = evaluated(job, step) if looked else None
        improved = value is not None and step % source.period == 0 and is_better(job, value, facts)
        if improved:
            facts |= {"best": value, "best_step": step}
        if step == pace.steps or (step % source.period == 0 and (improved or due(job, step, last_saved))):
            save(job, facts)
            last_saved = time.monotonic()
        if pace.allowed is not None:
            facts["seconds"] = before + time.monotonic() - began
            look_s = time.monotonic() - look_began if looked else None
            turn(job, here().told(pace.passed(step, step_s, facts["seconds"], look_s)))
    kept = keep_best(job, facts)
    if job.average is not None:
        job.average.swap(job.parameters)
    together.mend()
    return Totals(step, facts["tokens"], facts["seconds"], kept)


def restored(job: Job) -> Facts | None:
    """The last checkpoint into the live objects, and what it knows; None where there is none. The log forgets what was
    told after it, as that is about to happen again."""
    if job.pace.to_be_planned:  # what came before the plan was for nothing
        here().once(job.checkpoints.clear)
    facts = job.together.restore()
    if facts is None:
        job.log.rewind(-1)  # steps that were told, and lost before their first checkpoint
        return None
    job.source.microbatch_tokens = min(job.source.microbatch_tokens, facts["microbatch_tokens"])
    job.log.rewind(facts["step"])
    job.log.emit("resume", step=facts["step"])
    with job.together.looking():
        plan = here().told(job.pace.resumed(facts["seconds"]))
    if plan is not None:
        job.pace.write(plan)
    return facts


def started(job: Job, began: float) -> Facts:
    """What is done before the first step: a look at the model as it is, the plan where there is a budget, and a
    checkpoint to go back to where one may be needed."""
    facts: Facts = {"step": 0, "best": None, "best_step": None, "tokens": 0, "seconds": 0.0}
    facts["microbatch_tokens"] = job.source.microbatch_tokens
    look_began = time.monotonic()
    facts["best"] = evaluated(job, 0)
    evaluate_s = time.monotonic() - look_began
    if job.pace.allowed is not None or job.watch is not None:
        save_began = time.monotonic()
        save(job, facts)
        save_s = time.monotonic() - save_began
    if job.pace.to_be_planned:
        assert job.pace.allowed is not None
        with job.together.looking():
            most_s = here().told(SPEED_FRAC * job.pace.allowed(evaluate_s, save_s).seconds)
        speed = measure_speed(job, evaluate_s, save_s, max(0.0, most_s))
        with job.together.looking():
            plan = here().told(job.pace.planned(speed, time.monotonic() - began))
        job.pace.write(plan)
        tell_plan(job, plan)
    return facts | {"seconds": time.monotonic() - began}


def tell_plan(job: Job, plan: Written) -> None:
    """What the budget makes of the steps that the stage asks for."""
    all_of_them = plan.planned_steps == plan.asked_steps
    which = "all" if all_of_them else f"{plan.planned_steps:,} of the"
    kept = ", ".join(f"{seconds:.3g} s for {name}" for name, seconds in plan.reserve_s.items())
    job.log.emit(
        "plan",
        step=0,
        steps=plan.planned_steps,
        asked=plan.asked_steps,
        tokens_per_s=round(plan.tokens_per_s, 1),
        reserve_s=plan.reserve_s,
        text=f"{which} {plan.asked_steps:,} steps asked for fit into the budget ({plan.tokens_per_s:,.0f} tokens/s, "
        f"{plan.step_s:.3g} s a step; kept back: {kept})",
    )


def turn(job: Job, plan: Written | None) -> None:
    """Goes by a new plan, if there is one."""
    if plan is not None:
        before = job.pace.steps
        job.pace.write(plan)
        at, steps = plan.turns[-1]
        how = "slower" if steps < before else "faster again"
        text = f"the machine has become {how}: {steps:,} steps instead of {before:,}, the schedule ends with them"
        job.log.emit("plan", step=at, steps=steps, asked=plan.asked_steps, text=text)


def evaluated(job: Job, step: int) -> float | None:
    """What the job measures at a step, the same on every rank; of the averaged weights, if they are kept."""
    average = job.average.shown(job.parameters) if job.average is not None else nullcontext()
    with average, job.together.looking():
        return here().told(job.evaluate(step))


def is_better(job: Job, value: float, facts: Facts) -> bool:
    """Whether this is the least value so far. Where the best weights are kept in the end, those before the first step
    are none of them."""
    first = job.pace.allowed is not None and facts["best_step"] is None
    return first or facts["best"] is None or value < facts["best"]


def due(job: Job, step: int, last_saved: float) -> bool:
    """Whether it is time for a checkpoint. What may be gone back to is made at steps, not at times: so is the way on
    from there, whatever the machine."""
    every = job.how.checkpoint_every_steps or (job.how.watchdog.window if job.how.watchdog else None)
    if every is not None:
        return step % every == 0
    return here().told(time.monotonic() - last_saved > CHECKPOINT_EVERY_S)


def save(job: Job, facts: Facts) -> None:
    """A checkpoint. Those that the watchdog may go back to are kept besides the last and the best."""
    facts["microbatch_tokens"] = job.source.microbatch_tokens
    keep: list[int] = []
    if job.watch is not None:
        facts["sane"] = job.watch.sane
        saved = job.checkpoints.facts() | {facts["step"]: facts}
        keep = job.watch.wanted(saved, facts["step"])
    job.checkpoints.save(facts["step"], {k: v for k, v in facts.items() if k != "step"}, keep)


def gone_back(job: Job, step: int, why: str, seconds: float) -> Facts:
    """Goes back to the last good checkpoint, to go on from there at a lower rate; what that checkpoint knows, and the
    `seconds` of training so far. Raises RunError when that has been done often enough."""
    watch, folder = job.watch, job.checkpoints.folder.parent
    assert watch is not None
    saved = here().told(job.checkpoints.facts())
    target = watch.good(saved, step)
    if watch.rollbacks >= watch.how.rollbacks or target is None:
        raise RunError(gone_too_often(watch, f"{folder}: step {step}", why, sorted(saved)))
    times = watch.rollbacks + 1  # the checkpoint knows of those before it only
    here().once(lambda: job.checkpoints.forget_after(target))
    facts = job.together.restore()
    assert facts is not None
    watch.rollbacks, facts["seconds"] = times, seconds
    if facts["best_step"] not in saved:
        facts |= {"best": None, "best_step": None}
    job.log.rewind(target)
    job.log.emit(
        "rollback",
        step=target,
        since=step,
        lr_share=watch.slowed,
        text=f"step {step}: {why}: back to step {target}, and on from there at {watch.slowed:g} of the learning rate",
    )
    save(job, facts)
    return facts


def keep_best(job: Job, facts: Facts) -> int | None:
    """Under a budget, the best evaluated weights into the live objects, and their step; None where the last stay."""
    best = facts["best_step"]
    if job.pace.allowed is None or best is None or best == facts["step"]:
        return None
    job.together.restore(best)
    value = f"{facts['best']:.4g}"
    job.log.emit("note", step=facts["step"], text=f"the weights of step {best} are kept: the best evaluated ({value})")
    return best


def stop_if_broken(step: int, measured: np.ndarray) -> None:
    """For evaluations. Raises RunError where what they measured is no number: the step before broke the weights,
    though its own loss and gradient were finite."""
    if not np.isfinite(measured).all():
        raise RunError(
            f"step {step}: {np.count_nonzero(~np.isfinite(measured))} of {len(measured)} held-out values are not "
            "finite: the last step broke the weights. Lower learning_rate or raise warmup_frac."
        )
