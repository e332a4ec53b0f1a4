"""What stages that learn from their own samples do alike: prompts that fit, the reference, the look at a first rollout,
and an answer shown while they train."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch

from luthier.base.events import EventLog
from luthier.base.nouns import Chat
from luthier.evals.answers import answer_all
from luthier.model.adapt import only
from luthier.model.draw import Sampling
from luthier.model.roles import Role
from luthier.run.context import Context, ModelRef
from luthier.run.learner import Learner
from luthier.tokens.render import Renderer
from luthier.train import guards as g
from luthier.train.group import Asked

FIRST_KL = 1e-4
"""Nats an answer: the most that rounding may make of a KL that is 0."""


def fitting_prompts(
    chats: Sequence[Chat], renderer: Renderer, context_tokens: int, max_new_tokens: int
) -> tuple[list[Asked], g.Guard]:
    """The prompts whose answers have room in the model's context, and the guard that says how many do."""
    asked = [Asked(chat, renderer.prompt(chat.prompt, chat.origin)) for chat in chats]
    fitting = [one for one in asked if len(one.ids) + max_new_tokens <= context_tokens]
    said = f"{len(fitting)} of {len(asked)} prompts leave room for {max_new_tokens} new tokens"
    return fitting, g.Guard("prompts fit", bool(fitting), said + ("" if fitting else ". Lower max_new_tokens."))


def reference_of(context: Context, learner: Learner, start: ModelRef) -> Role:
    """The model that the policy started from: itself without its adapter, or a frozen copy."""
    if learner.adapter is not None:
        return lambda: only(learner.lm, None)
    reference = context.load(start).lm
    reference.module.requires_grad_(False)
    return lambda: nullcontext(reference)


def one_distribution(kl: float | None, drift: float, dtype: torch.dtype) -> g.Guard:
    """Before the first step the policy is the reference, so their KL (nats an answer; None: there is no reference) is
    0; and the sampler's log-probs are the trainer's (`drift`, nats a token)."""
    ok = (kl is None or kl <= FIRST_KL) and drift <= (1e-3 if dtype.itemsize == 4 else 0.2)
    said = "no reference is needed" if kl is None else f"{kl:.1g} nats an answer"
    wrong = ". Policy and reference are not the same model, or they are scored differently: please report it."
    return g.Guard(
        "KL starts at 0", ok, f"{said}; sampler and trainer differ by {drift:.1g} nats a token" + ("" if ok else wrong)
    )


def show_answer(context: Context, learner: Learner, log: EventLog, step: int) -> None:
    """A sampled text at every evaluation."""
    for chat in context.shown_prompts()[:1]:
        how = Sampling(context.recipe.answer_tokens, temperature=0)
        answer = answer_all(learner.lm, learner.renderer, [chat], how)[0]
        log.emit("sample", step=step, prompt=answer.prompt[-1].content, answer=answer.text)
