"""GRPO through `fit`: what must not change a trajectory does not, and a killed run goes on at its rollout's start."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from architectures import tiny
from luthier.base.alignment import Grpo
from luthier.base.events import EventLog, read_events
from luthier.base.nouns import Chat, Message
from luthier.base.tuning import Lora
from luthier.model.adapt import add_adapter, only, restore_adapter, save_adapter, trainable
from luthier.model.verify import choose_layout
from luthier.train.checkpoint import Checkpoints, Weights
from luthier.train.group import Asked, GroupRollouts, Judge, group_loss
from luthier.train.loop import Job, fit
from luthier.train.optim import optimizers
from train.rows import END, draw

PROMPTS = [Asked(Chat((Message("user", s.origin),), s.origin), s.ids[:10]) for s in draw(9, 12, 30, seed=4)]


class Killed(Exception):
    """A run that ends between two steps."""


def model():
    """A small Llama. Weights of ordinary size: a step of 1e-3 must not throw it about."""
    module = tiny("llama")
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.mul_(0.3)
    return choose_layout(module)[0]


def odd(chats, samples):
    """A reward that random answers tell apart: the share of odd ids."""
    return [sum(i % 2 for i in one.ids) / len(one.ids) for one in samples]


def run(folder, microbatch_tokens=100_000, adapter=False, checkpointing=False, stop_before=None, **settings):
    """(losses, weights) of three rollouts, 8 answers and 4 steps each; killed before a step if asked."""
    folder.mkdir(exist_ok=True)
    given = {"iterations": 3, "rollout_prompts": 4, "samples": 2, "max_new_tokens": 8, "epochs": 2, "minibatches": 2}
    how = Grpo(kind="grpo", prompts="x", rewards={"odd": 1.0}, learning_rate=1e-3, **(given | settings))
    lm, apart = model(), model()
    if adapter:
        lm = add_adapter(lm, Lora(rank=4), "policy", 0)
        weights = Weights(
            lambda path: save_adapter(lm, "policy", path), lambda path: restore_adapter(lm, "policy", path)
        )
        reference = lambda: only(lm, None)  # noqa: E731
    else:
        weights = Weights(
            lambda path: torch.save(lm.module.state_dict(), path / "weights.pt"),
            lambda path: lm.module.load_state_dict(torch.load(path / "weights.pt", weights_only=True)) and None,
        )
        reference = lambda: nullcontext(apart)  # noqa: E731
    if checkpointing:
        lm.core.gradient_checkpointing_enable({"use_reentrant": False})
        lm.core.enable_input_require_grads()
    source = GroupRollouts(
        lm, reference if how.kl else None, [Judge("odd", 1.0, odd)], PROMPTS, how, 3, [END], lambda ids: "",
        microbatch_tokens,
    )  # fmt: skip

    def loss(micro):
        return group_loss(lm, how, micro, source.rollout.stats)

    step_at = source.at

    def at(step):
        if step == stop_before:
            raise Killed
        return step_at(step)

    source.at = at
    parameters = trainable(lm.module)
    steppers = optimizers(parameters, how)
    checkpoints = Checkpoints(folder / "checkpoints", weights, dict(steppers))
    log = EventLog(folder / "events.jsonl")
    parts = lm.module, list(parameters.values()), steppers, source, loss, lambda step: None, how
    job = Job(*parts, checkpoints, log, 7, torch.device("cpu"))
    try:
        fit(job)
    finally:
        log.close()
    told = [e for e in read_events(folder / "events.jsonl") if e["kind"] == "step"]
    assert [e["step"] for e in told] == list(range(1, source.steps + 1))
    return [e["loss"] for e in told], {k: v.clone() for k, v in lm.module.state_dict().items()}


def same(one, other, most=5e-6, mean=1e-8):
    """Two trajectories are one: losses and weights, by their largest and their mean difference."""
    gaps = torch.cat([(one[1][name] - other[1][name]).abs().flatten() for name in one[1]])
    assert np.abs(np.array(one[0]) - np.array(other[0])).max() <= most
    assert gaps.max() <= most and gaps.mean() <= mean
    assert max(one[0]) - min(one[0]) > 1e-3, "nothing was learned: equality would say nothing"


SETTINGS = {
    "grpo": {"kl": 0.05, "clip_high": 0.28},
    "dapo": {"average": "tokens", "epochs": 1, "minibatches": 1, "iterations": 8},
    "rloo": {"average": "constant", "advantage": "rloo", "epochs": 1, "minibatches": 1, "iterations": 8},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_one_microbatch_of_eight_is_eight_of_one(settings, tmp_path):
    # 16 tokens: one answer of at most 8 behind a prompt of 10 fills a microbatch
    same(run(tmp_path / "one", **settings), run(tmp_path / "eight", 16, **settings))


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_gradient_checkpointing_changes_nothing(adapter, tmp_path):
    settings = {"adapter": adapter, "kl": 0.05}
    same(run(tmp_path / "on", checkpointing=True, **settings), run(tmp_path / "off", **settings))


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("kl", [0.0, 0.05])
def test_resumed_is_uninterrupted(adapter, kl, tmp_path):
    """Killed inside the second rollout of four steps: it is made again, by the weights that made it."""
    settings = {"adapter": adapter, "kl": kl, "checkpoint_every_steps": 1}
    whole = run(tmp_path / "whole", **settings)
    with pytest.raises(Killed):
        run(tmp_path / "cut", stop_before=6, **settings)
    again = run(tmp_path / "cut", **settings)
    resumed = [e["step"] for e in read_events(tmp_path / "cut" / "events.jsonl") if e["kind"] == "resume"]
    assert resumed == [4]
    assert again[0] == whole[0]
    assert all(torch.equal(again[1][name], whole[1][name]) for name in whole[1])
