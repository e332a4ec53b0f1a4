"""The ppo stage: the policy is sampled, scored by the reward model and moved, held near the model it came from."""

from __future__ import annotations

from pathlib import Path

from luthier.base.alignment import Ppo
from luthier.base.errors import RunError, UserError
from luthier.base.events import EventLog
from luthier.data.dataset import write_rejected
from luthier.evals.answers import answer_all
from luthier.generate import Sampling
from luthier.model.adapt import load_adapter
from luthier.model.heads import load_head, scalar_head
from luthier.model.load import Loaded, load_folder
from luthier.model.roles import Roles, separate_roles, shared_roles
from luthier.model.score import LanguageModel
from luthier.run.context import Context, ModelRef, asked_prompts
from luthier.run.fitting import job_for, microbatch_tokens
from luthier.run.learner import ADAPTER, Learner, as_learner
from luthier.run.memo import StageFolder
from luthier.run.result import close
from luthier.run.reward import REWARD
from luthier.run.tune import leak_guard
from luthier.train import guards as g
from luthier.train.loop import disk_for, fit
from luthier.train.rollout import Rollouts, Steering, ppo_loss

FIRST_KL = 1e-4
"""Nats an answer: the most that rounding may make of a KL that is 0."""


def train_ppo(context: Context, index: int, stage: Ppo) -> None:
    """Runs, resumes or skips the stage."""
    start = context.start(stage.init)
    made = [f for f in context.stages if f.kind == "reward" and stage.reward in (None, f.name)]
    if start is None or not made:
        raise UserError("ppo: there is no reward model. Put a `reward` stage before it.")
    reward = made[-1]
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
    learner, roles = cast(context, folder, stage, reward, context.load(start))
    renderer = learner.renderer
    log.emit(
        "note",
        text="policy, reference, reward and value share one set of base weights"
        if roles.shared
        else "policy, reference and reward each have their own weights",
    )
    prompts = asked_prompts(context.dataset(stage.prompts).train)
    room = learner.loaded.context - stage.max_new_tokens
    ids = [renderer.prompt(chat.prompt, chat.origin) for chat in prompts]
    fitting = [one for one in ids if len(one) <= room]
    steering, ends = Steering(stage.kl), sorted(renderer.end_ids)
    source = Rollouts(
        roles, fitting, stage, steering, context.seed(folder), ends, renderer.decode, microbatch_tokens(stage)
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
    said = f"{len(fitting)} of {len(ids)} prompts leave room for {stage.max_new_tokens} new tokens"
    passed = g.enforce(
        [
            g.Guard("prompts fit", bool(fitting), said + ("" if fitting else ". Lower max_new_tokens.")),
            leak_guard(context, {stage.prompts: context.dataset(stage.prompts)}),
        ],
        log,
    )
    passed += g.enforce([first_rollout(source), disk_for(job)], log)
    close(context, folder, learner, job, fit(job), passed, {"shared_base": roles.shared})


def cast(
    context: Context, folder: StageFolder, stage: Ppo, reward: StageFolder, loaded: Loaded
) -> tuple[Learner, Roles]:
    """Gives out the roles: on one base where policy and reward are both adapters of the same model, else apart."""
    start = context.start(stage.init)
    assert start is not None
    learner = as_learner(context, folder, stage, loaded, ADAPTER)
    lm, width = learner.lm, learner.lm.core.config.hidden_size
    scorer = reward.path / "scorer"
    head = load_head(scorer / "head.safetensors", width, lm.device)
    value = scalar_head(width, context.seed(folder), "value head", zero=True).to(lm.device)
    adapted = (scorer / "adapter_config.json").exists()
    if adapted and stage.adapter is not None and reward.record.get("shared_with") == start.hash:
        load_adapter(lm, REWARD, scorer)
        lm.module.set_adapter(ADAPTER)
        return learner, shared_roles(lm, ADAPTER, REWARD, head, value)
    reference = context.load(start).lm
    rewarder = (
        reward_model(context, scorer)
        if not adapted
        else load_adapter(context.load(reward_base(context, reward)).lm, REWARD, scorer)
    )
    for role in (reference, rewarder):
        role.module.requires_grad_(False)
    return learner, separate_roles(lm, reference, rewarder, head, value)


def reward_base(context: Context, reward: StageFolder) -> ModelRef:
    """The model whose adapter the reward model is."""
    for ref in context.models.values():
        if ref.hash == reward.record.get("shared_with"):
            return ref
    raise RunError(f"{reward.path}: the model that this reward adapter belongs to is not part of the run any more.")


def reward_model(context: Context, scorer: Path) -> LanguageModel:
    """A reward model with weights of its own."""
    return load_folder(scorer, context.device, context.dtype).lm


def first_rollout(source: Rollouts) -> g.Guard:
    """Samples a first rollout: before the first step the policy is the reference, so their KL is 0; and the sampler's
    log-probs are the trainer's."""
    moments = source.steering.state_dict()
    rollout = source.make(0)
    source.steering.load_state_dict(moments)
    kl, drift = rollout.stats["kl"], rollout.stats["sampler_drift"]
    tolerance = 1e-3 if source.roles.policy.dtype.itemsize == 4 else 0.2
    ok = kl <= FIRST_KL and drift <= tolerance
    return g.Guard(
        "KL starts at 0",
        ok,
        f"{kl:.1g} nats an answer; sampler and trainer differ by {drift:.1g} nats a "
        "token"
        + (
            ""
            if ok
            else ". Policy and reference are not the same model, or they are scored differently: please report it."
        ),
    )


def show_answer(context: Context, learner: Learner, log: EventLog, step: int) -> None:
    """A sampled text at every evaluation."""
    for chat in context.shown_prompts()[:1]:
        how = Sampling(context.recipe.answer_tokens, temperature=0)
        answer = answer_all(learner.lm, learner.renderer, [chat], how)[0]
        log.emit("sample", step=step, prompt=answer.prompt[-1].content, answer=answer.text)
