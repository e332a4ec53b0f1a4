"""The ppo stage: the policy is sampled, scored by the reward model and moved, held near the model it came from."""

from __future__ import annotations

import copy

from luthier.base.alignment import Ppo
from luthier.base.events import EventLog
from luthier.data.dataset import write_rejected
from luthier.model.heads import scalar_head, state_width
from luthier.model.load import Loaded
from luthier.model.roles import Roles
from luthier.run.context import Context, asked_prompts
from luthier.run.fitting import job_for, microbatch_tokens
from luthier.run.learner import ADAPTER, Learner, as_learner
from luthier.run.memo import StageFolder
from luthier.run.result import close
from luthier.run.reward import REWARD
from luthier.run.rewards import reward_stage, scorer_of
from luthier.run.rollouts import fitting_prompts, one_distribution, reference_of, show_answer
from luthier.run.tune import leak_guard
from luthier.train import guards as g
from luthier.train.loop import fit
from luthier.train.rollout import Rollouts, Steering, ppo_loss
from luthier.train.trial import disk_for, try_largest


def train_ppo(context: Context, index: int, stage: Ppo) -> None:
    """Runs, resumes or skips the stage."""
    start = context.start(stage.init)
    assert start is not None
    reward = reward_stage(context, stage.reward)
    data = context.dataset(stage.prompts)
    folder = context.stage(
        index,
        stage.name or stage.kind,
        stage,
        {"model": start.hash, "reward": reward.hash, f"data.{stage.prompts}": data.hash},
    )
    if not folder.done:
        log = folder.open()
        log.emit("begin", stage=folder.name, stage_kind=folder.kind)
        write_rejected(folder.path / "rejected.jsonl", data.rejected)
        run_ppo(context, folder, stage, reward, log)
    context.made(folder)


def run_ppo(context: Context, folder: StageFolder, stage: Ppo, reward: StageFolder, log: EventLog) -> None:
    """Roles, guards, training, certificate, saved model."""
    start = context.start(stage.init)
    assert start is not None
    learner, roles = cast(context, folder, stage, reward, context.load(start, stage.quantize))
    renderer = learner.renderer
    apart = "policy, reference and reward each have" if learner.adapter is None else "policy and reward each have"
    whole = "policy, reference, reward and value share one set of base weights"
    log.emit("note", text=whole if roles.shared else f"{apart} their own weights")
    asked, fits = fitting_prompts(
        asked_prompts(context.dataset(stage.prompts).train), renderer, learner.loaded.context, stage.max_new_tokens
    )
    steering, ends, prompts = Steering(stage.kl), sorted(renderer.end_ids), [one.ids for one in asked]
    source = Rollouts(
        roles, prompts, stage, steering, context.seed(folder), ends, renderer.decode, microbatch_tokens(context, stage)
    )
    job = job_for(
        context,
        folder,
        stage,
        learner,
        source,
        loss=lambda m: ppo_loss(roles, stage, m, source.rollout.stats if source.rollout else {}),
        evaluate=lambda step: show_answer(context, learner, log, step),
        log=log,
        heads={"value": roles.value_head},
        states={"steering": steering},
    )
    passed = g.enforce([fits, leak_guard(context, {stage.prompts: context.dataset(stage.prompts)})], log)
    tried = copy.copy(source)
    passed += g.enforce([first_rollout(tried), try_largest(job, 0, tried), disk_for(job)], log)
    close(context, folder, learner, job, fit(job), passed, {"shared_base": roles.shared})


def cast(
    context: Context, folder: StageFolder, stage: Ppo, reward: StageFolder, loaded: Loaded
) -> tuple[Learner, Roles]:
    """Gives out the roles: on one base where policy and reward are both adapters of the same model, else apart."""
    start = context.start(stage.init)
    assert start is not None
    learner = as_learner(context, folder, stage, loaded, ADAPTER)
    lm = learner.lm
    value = scalar_head(state_width(lm), context.seed(folder), "value head", zero=True).to(lm.device)
    scorer = scorer_of(context, reward, lm, start, REWARD)
    reference = reference_of(context, learner, start)
    return learner, Roles(lm, reference, scorer.role, scorer.head, value, scorer.shared)


def first_rollout(source: Rollouts) -> g.Guard:
    """Gives the source its first rollout: before the first step the policy is the reference, and the sampler is the
    trainer."""
    moments = source.steering.state_dict()
    source.rollout, source.iteration = source.make(0), 0
    source.steering.load_state_dict(moments)
    rollout = source.rollout
    return one_distribution(rollout.stats["kl"], rollout.stats["sampler_drift"], source.roles.policy.dtype)
