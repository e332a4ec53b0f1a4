"""The grpo stage: the policy answers each prompt several times, programs judge, and what is better than its group
becomes likelier (GRPO, Dr. GRPO, RLOO, DAPO's clipping)."""

from __future__ import annotations

from typing import Any

from luthier.base.alignment import Grpo
from luthier.base.events import EventLog, read_events
from luthier.data.dataset import write_rejected
from luthier.run.context import Context, asked_prompts
from luthier.run.fitting import job_for, microbatch_tokens
from luthier.run.learner import Learner, started
from luthier.run.memo import StageFolder
from luthier.run.result import close
from luthier.run.rewards import judges_of, reward_inputs
from luthier.run.rollouts import fitting_prompts, one_distribution, reference_of, show_answer
from luthier.run.tune import leak_guard
from luthier.train import guards as g
from luthier.train.group import GroupRollouts, group_loss
from luthier.train.loop import fit
from luthier.train.trial import disk_for, try_largest

MANY = 0.5
"""Share of groups without spread from which it is told."""


def train_grpo(context: Context, index: int, stage: Grpo) -> None:
    """Runs, resumes or skips the stage."""
    start = context.start(stage.init)
    assert start is not None
    data = context.dataset(stage.prompts)
    inputs = {"model": start.hash, f"data.{stage.prompts}": data.hash, **reward_inputs(context, stage)}
    folder = context.stage(index, stage.name or stage.kind, stage, inputs)
    if not folder.done:
        log = folder.open()
        log.emit("begin", stage=folder.name, stage_kind=folder.kind)
        write_rejected(folder.path / "rejected.jsonl", data.rejected)
        run_grpo(context, folder, stage, log)
    context.made(folder)


def run_grpo(context: Context, folder: StageFolder, stage: Grpo, log: EventLog) -> None:
    """Guards, training, certificate, saved model."""
    start = context.start(stage.init)
    assert start is not None
    learner = started(context, folder, stage)
    data, renderer, limit = context.dataset(stage.prompts), learner.renderer, microbatch_tokens(context, stage)
    prompts, fits = fitting_prompts(asked_prompts(data.train), renderer, learner.loaded.context, stage.max_new_tokens)
    passed = g.enforce([fits, leak_guard(context, {stage.prompts: data})], log)
    judges = judges_of(context, stage, learner.lm, start, limit)
    reference = reference_of(context, learner, start) if stage.kl or stage.kl_stop is not None else None
    ends, seed = sorted(renderer.end_ids), context.seed(folder)
    source = GroupRollouts(learner.lm, reference, judges, prompts, stage, seed, ends, renderer.decode, limit)
    job = job_for(
        context,
        folder,
        stage,
        learner,
        source,
        loss=lambda m: group_loss(learner.lm, stage, m, source.rollout.stats if source.rollout else {}),
        evaluate=lambda step: watch(context, learner, source, log, step),
        log=log,
    )
    kl, drift = source.agreement()
    passed += g.enforce([one_distribution(kl, drift, learner.lm.dtype), try_largest(job, 0), disk_for(job)], log)
    used = fit(job)
    close(context, folder, learner, job, used, passed, rewards_of(folder))


def watch(context: Context, learner: Learner, source: GroupRollouts, log: EventLog, step: int) -> None:
    """Shows an answer, and says where the rewards of a rollout taught little."""
    show_answer(context, learner, log, step)
    stats = source.rollout.stats if source.rollout else {}
    if step and stats.get("no_spread_frac", 0.0) >= MANY:
        log.emit(
            "note",
            step=step,
            text=f"step {step}: {stats['no_spread_frac']:.0%} of the prompts had all their answers rewarded alike "
            f"(reward {stats['reward']:.3g} in the mean): these teach nothing. Ask prompts that are neither too easy "
            "nor too hard, draw more samples, or raise the temperature.",
        )


def rewards_of(folder: StageFolder) -> dict[str, Any]:
    """The mean reward of the first and of the last rollout, from what was told."""
    told = [e["reward"] for e in read_events(folder.path / "events.jsonl") if e["kind"] == "step"]
    return {"reward": {"first": told[0], "last": told[-1]}}
