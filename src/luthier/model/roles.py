"""Policy, reference, reward and value: four roles on one set of base weights.

policy = base + adapter · reference = base with the adapter off · reward = base + reward adapter + scalar head ·
value = a head on the policy's states. The same interface serves four separate models; a test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from luthier.model.adapt import only
from luthier.model.heads import sequence_scores
from luthier.model.score import LanguageModel, score
from luthier.tokens.pack import Batch

Role = Callable[[], AbstractContextManager[LanguageModel]]


@dataclass(frozen=True)
class Roles:
    """Who plays what. `policy` trains; the others are entered, used without gradients, and left."""

    policy: LanguageModel
    reference: Role
    rewarder: Role
    reward_head: nn.Linear
    value_head: nn.Linear
    shared: bool
    """Whether one set of base weights serves all."""

    @torch.no_grad()
    def reference_logp(self, batch: Batch, temperature: float) -> Tensor:
        """The reference's log-probs [M], in nats."""
        with self.reference() as lm, evaluating(lm):
            return score(lm, batch, temperature)

    @torch.no_grad()
    def rewards(self, batch: Batch) -> Tensor:
        """The reward model's scores [N]."""
        with self.rewarder() as lm, evaluating(lm):
            return sequence_scores(lm, self.reward_head, batch)


@contextmanager
def evaluating(lm: LanguageModel) -> Iterator[None]:
    """Dropout off inside the block."""
    was_training = lm.module.training
    lm.module.eval()
    try:
        yield
    finally:
        lm.module.train(was_training)


def shared_roles(lm: LanguageModel, policy: str, reward: str, reward_head: nn.Linear, value_head: nn.Linear) -> Roles:
    """One PEFT model with a policy adapter (active) and a reward adapter."""
    return Roles(lm, lambda: only(lm, None), lambda: only(lm, reward), reward_head, value_head, shared=True)


def separate_roles(
    policy: LanguageModel,
    reference: LanguageModel,
    rewarder: LanguageModel,
    reward_head: nn.Linear,
    value_head: nn.Linear,
) -> Roles:
    """Every role its own weights (the value head sits on the policy)."""
    return Roles(
        policy, lambda: nullcontext(reference), lambda: nullcontext(rewarder), reward_head, value_head, shared=False
    )


def steady(lm: LanguageModel) -> None:
    """Dropout off until the module is next put into training mode, with gradient checkpointing as it was: what is
    trained is then exactly what was sampled. Not a block: a checkpointed forward runs again in the backward."""
    lm.module.eval()
    layers: list[Any] = [part for part in lm.core.modules() if isinstance(part, GradientCheckpointingLayer)]
    for layer in layers:
        if layer.gradient_checkpointing:
            layer.training = True  # or transformers would not checkpoint it
            checkpointed = layer._gradient_checkpointing_func
            if not isinstance(checkpointed, partial) or checkpointed.func is not as_its_parts:
                layer._gradient_checkpointing_func = partial(as_its_parts, checkpointed, layer)


def as_its_parts(checkpointed: Callable[..., Any], layer: nn.Module, forward: Callable[..., Any], *inputs: Any) -> Any:
    """A checkpointed forward of a layer that trains only where its parts do: some (OPT's) drop out in the layer itself,
    not in a part of it."""

    def run(*inputs: Any) -> Any:
        marked, layer.training = layer.training, any(part.training for part in layer.children())
        try:
            return forward(*inputs)
        finally:  # also where the backward has seen enough and leaves the forward by an error
            layer.training = marked

    return checkpointed(run, *inputs)
