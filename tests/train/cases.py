"""A small job of every objective, on every kind of weights that it may train; each takes six steps. The tests of
equivalence and those of several processes run them."""

from __future__ import annotations

import contextlib
import copy
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

from architectures import tiny, tiny_encoder
from luthier.base.alignment import Dpo, Grpo, Kto, Orpo, Ppo, Reward, Simpo
from luthier.base.events import EventLog
from luthier.base.nouns import Chat
from luthier.base.recipe import Pretrain
from luthier.base.tuning import Lora, Masking, Quantize
from luthier.model.adapt import add_adapter, checkpoint_adapter, only, restore_adapter, trainable
from luthier.model.heads import scalar_head
from luthier.model.load import wrap
from luthier.model.quantise import loading
from luthier.model.roles import Roles, separate_roles, shared_roles
from luthier.model.score import LanguageModel
from luthier.model.verify import choose_layout
from luthier.run.reward import pair_loss
from luthier.run.tune import lm_loss
from luthier.tokens.masking import Vocabulary, hiding
from luthier.train.average import Average
from luthier.train.checkpoint import Checkpoints, Weights
from luthier.train.group import Asked, GroupRollouts, Judge, group_loss
from luthier.train.job import Job, Loss
from luthier.train.noise import Noise
from luthier.train.optim import optimizers
from luthier.train.preference import (
    KtoReference,
    Marked,
    answer_logps,
    kto_loss,
    mismatched,
    preference_loss,
    shuffled_steps,
)
from luthier.train.rollout import Rollouts, Steering, ppo_loss
from luthier.train.sources import Micro, Packed, Pairs, Pool
from train.rows import END, draw, draw_answers, draw_pairs

CPU = torch.device("cpu")
WAYS = ("full", "LoRA", "QLoRA")


class Case(NamedTuple):
    """What a job is made of, besides its folder. The loss is that of any model in place of `lm`."""

    lm: LanguageModel
    how: Any
    source: Any
    loss: Callable[[LanguageModel, Micro], Loss]
    weights: Weights
    heads: dict[str, Any] = {}
    states: dict[str, Any] = {}


def job_of(case: Case, folder: Path, look: Callable[[int], None] = lambda step: None, every: int = 1) -> Job:
    """The job of a case; its folder is `folder`. It looks at every step, and keeps a checkpoint at `every` one that it
    may."""
    how = case.how.model_copy(update={"checkpoint_every_steps": every, "evaluate_every_steps": 1})
    parameters = {**trainable(case.lm.module), **{name: head.weight for name, head in case.heads.items()}}
    steppers = optimizers(parameters, case.how)
    states = {**steppers, **case.heads, **case.states}
    average = Average(how.ema) if how.ema else None
    states |= {} if average is None else {"average": average}
    checkpoints = Checkpoints(folder / "checkpoints", case.weights, states, parameters)
    return Job(
        case.lm.module, list(parameters.values()), steppers, case.source, lambda micro: case.loss(case.lm, micro),
        look, how, checkpoints, EventLog(folder / "events.jsonl"), 7, CPU,
        average=average, noise=Noise(case.lm, how.neftune, 7) if how.neftune else None,
    )  # fmt: skip


def tamed(module: PreTrainedModel) -> PreTrainedModel:
    """With weights of ordinary size: a step of 1e-3 must not throw them about."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.mul_(0.3)
    return module


@cache
def made(kind: str, in_few_bits: bool = False) -> LanguageModel:
    """A small causal or masked model, also with its weights in 4 bits. Shared: `model` gives copies."""
    lm = choose_layout(tamed(tiny_encoder(kind) if kind == "bert" else tiny(kind)))[0]
    if not in_few_bits:
        return lm
    with tempfile.TemporaryDirectory() as folder:
        # Saved by hand: transformers' save_pretrained writes on the first of several ranks only.
        weights = {name: value.clone() for name, value in lm.core.state_dict().items()}
        save_file(weights, Path(folder) / "model.safetensors", {"format": "pt"})
        lm.core.config.to_json_file(Path(folder) / "config.json", use_diff=False)
        auto = AutoModelForMaskedLM if kind == "bert" else AutoModelForCausalLM
        module = auto.from_pretrained(folder, dtype=torch.float32, **loading(Quantize(), "cpu"))
    return wrap(module, None, "cpu", torch.float32).lm


def model(kind: str = "llama", in_few_bits: bool = False) -> LanguageModel:
    """A small model of one's own."""
    return copy.deepcopy(made(kind, in_few_bits))


def learner(way: str, dropout: float = 0.0, kind: str = "llama") -> LanguageModel:
    """A model to train: all its weights, or an adapter."""
    if way == "full":
        return model(kind)
    return add_adapter(model(kind, way == "QLoRA"), Lora(rank=4, dropout=dropout), "policy", 0)


def weights_of(lm: LanguageModel) -> Weights:
    """All that trains of a model: an adapter, by PEFT; or all weights, by torch."""
    if lm.module is not lm.core:
        return Weights(
            lambda path: checkpoint_adapter(lm, "policy", path), lambda path: restore_adapter(lm, "policy", path)
        )
    return Weights(
        lambda path: torch.save(lm.module.state_dict(), path / "weights.pt"),
        lambda path: lm.module.load_state_dict(torch.load(path / "weights.pt", weights_only=True)) and None,
    )


def language(
    lm: LanguageModel, rows: Any = None, microbatch_tokens: int = 60, hide: Any = None, **settings: Any
) -> Case:
    """A language model on sequences."""
    how = Pretrain(kind="pretrain", data="x", learning_rate=1e-3, batch_tokens=160, **settings)
    source = Packed([Pool(rows or draw(60), 160, "x")], 3, microbatch_tokens, None, 6, hide)
    return Case(lm, how, source, lm_loss, weights_of(lm))


def causal(way: str, dropout: float = 0.0) -> Case:
    """Every token of documents that begin alike; what they share is learned once for each."""
    rows = [replace(row, weights=(0.0,) + (1.0,) * (len(row.ids) - 1)) for row in draw_answers(3, 16)]
    return language(learner(way, dropout), rows)


def sft(way: str, dropout: float = 0.0) -> Case:
    """Answers to prompts that several of them share."""
    return language(learner(way, dropout), draw_answers(3, 16))


def masked(way: str, dropout: float = 0.0, microbatch_tokens: int = 60) -> Case:
    """An encoder, which fills what is hidden of its rows."""
    hide = hiding(Masking(), Vocabulary(3, np.arange(4, 128), None), 5)
    return language(learner(way, dropout, "bert"), None, microbatch_tokens, hide)


def reward(way: str, dropout: float = 0.0) -> Case:
    """A reward model and its head; the pairs say how strongly one answer was preferred, and how unanimously."""
    lm, head = learner(way, dropout), scalar_head(32, 0, "head")
    facts = {"margin_P": [i % 3 / 2 for i in range(32)], "agreement_P": [0.6 + i % 5 / 10 for i in range(32)]}
    source = Pairs(draw_pairs(32), 3, 8, 120, 1.5, facts)

    how = Reward(kind="reward", learning_rate=1e-3)
    return Case(lm, how, source, lambda lm, micro: pair_loss(lm, head, micro), weights_of(lm), {"head": head})


def at_start(lm: LanguageModel, rows: Any) -> list[float]:
    """What the reference says of answers: the model before its first step, without its adapter."""
    with only(lm, None) if lm.module is not lm.core else contextlib.nullcontext(lm) as base:
        return answer_logps(base, rows, 1000)


def preference(how: Dpo | Orpo | Simpo, way: str, dropout: float = 0.0) -> Case:
    """Pairs without a reward model between."""
    lm, pairs = learner(way, dropout), draw_pairs(32)
    logps = at_start(lm, [answer for pair in pairs for answer in pair])
    facts = {"ref_chosen_P": logps[0::2], "ref_rejected_P": logps[1::2]}
    source = Pairs(pairs, 3, 8, 120, 1.5, facts if isinstance(how, Dpo) else None)
    return Case(lm, how, source, lambda lm, micro: preference_loss(lm, how, micro), weights_of(lm))


def kto(way: str, dropout: float = 0.0) -> Case:
    """KTO, whose steps look at the model before they are taken; strangers' answers have gained two nats, for a KL that
    is above 0."""
    lm, answers = learner(way, dropout), [answer for pair in draw_pairs(20) for answer in pair]
    how, which = Kto(kind="kto", good_weight=1.3, learning_rate=1e-3), shuffled_steps(40, 8, 1.2, 3)
    others = [at_start(lm, mismatched([answers[i] for i in step], 100)) for step in which]
    strangers = [[logp - 2 for logp in step] for step in others]
    known = KtoReference(at_start(lm, answers), strangers)
    source = Marked(lm, answers, [i % 2 == 0 for i in range(40)], which, known, 80, 100)
    return Case(lm, how, source, lambda lm, micro: kto_loss(lm, how, micro), weights_of(lm))


PROMPTS = [s.ids[:10] for s in draw(9, 12, 30, seed=4)]
PPO = Ppo(
    kind="ppo", prompts="x", iterations=3, rollout_prompts=5, samples=2, max_new_tokens=8, learning_rate=1e-3,
    entropy_weight=0.01, kl_target=1.0, epochs=1,
)  # fmt: skip


def ppo(way: str, dropout: float = 0.0) -> Case:
    """PPO: each role a model of its own, or policy, reference and reward on one base."""
    value, scorer = scalar_head(32, 0, "value", zero=True), scalar_head(32, 0, "reward").requires_grad_(False)
    lm = learner(way, dropout)
    if way == "full":
        roles = separate_roles(lm, model(), model(), scorer, value)
    else:
        lm = add_adapter(lm, Lora(rank=2), "reward", 0)
        lm.module.set_adapter("policy")
        roles = shared_roles(lm, "policy", "reward", scorer, value)
    steering = Steering(PPO.kl)
    source = Rollouts(roles, PROMPTS, PPO, steering, 3, [END], lambda ids: "", 60)

    def loss(lm: LanguageModel, micro: Micro) -> Loss:
        cast: Roles = replace(roles, policy=lm)
        return ppo_loss(cast, PPO, micro, source.rollout.stats)

    return Case(lm, PPO, source, loss, weights_of(lm), {"value": value}, {"steering": steering})


def grpo(way: str, dropout: float = 0.0, **settings: Any) -> Case:
    """GRPO against a program that counts; without dropout, which it refuses."""
    lm, apart = learner(way), model()
    given = {"rollout_prompts": 5, "samples": 4, "max_new_tokens": 6, "learning_rate": 1e-3, **settings}
    how = Grpo(kind="grpo", prompts="x", rewards={"x:y": 1.0}, **given)
    even = lambda chats, samples: [sum(i % 2 for i in one.ids) / len(one.ids) for one in samples]  # noqa: E731
    asked = [Asked(Chat((), "x"), tuple(ids)) for ids in PROMPTS]
    reference = (lambda: contextlib.nullcontext(apart)) if way == "full" else (lambda: only(lm, None))
    source = GroupRollouts(
        lm, reference if how.kl else None, [Judge("even", 1.0, even)], asked, how, 3, [END], str, 60
    )  # fmt: skip
    loss = lambda lm, micro: group_loss(lm, how, micro, source.rollout.stats)  # noqa: E731
    return Case(lm, how, source, loss, weights_of(lm))


RATE = {"learning_rate": 3e-3}
DPO = Dpo(kind="dpo", **RATE)
DPO_WITH_ALL = Dpo(kind="dpo", beta=0.5, label_smoothing=0.1, sft_weight=0.3, length_normalise=True, **RATE)
IPO = Dpo(kind="dpo", loss="ipo", beta=0.5, **RATE)
ORPO, SIMPO = Orpo(kind="orpo", beta=0.5, **RATE), Simpo(kind="simpo", **RATE)

OBJECTIVES: dict[str, Callable[..., Case]] = {
    "causal": causal,
    "sft": sft,
    "masked": masked,
    "reward": reward,
    "dpo": lambda way, dropout=0.0: preference(DPO, way, dropout),
    "dpo with all": lambda way, dropout=0.0: preference(DPO_WITH_ALL, way, dropout),
    "ipo": lambda way, dropout=0.0: preference(IPO, way, dropout),
    "orpo": lambda way, dropout=0.0: preference(ORPO, way, dropout),
    "simpo": lambda way, dropout=0.0: preference(SIMPO, way, dropout),
    "kto": kto,
    "ppo": ppo,
    "grpo": lambda way, dropout=0.0: grpo(way, iterations=3, minibatches=2, kl=0.05, clip_high=0.28),
    "dapo": lambda way, dropout=0.0: grpo(way, iterations=6, average="tokens"),
    "rloo": lambda way, dropout=0.0: grpo(way, iterations=6, advantage="rloo", average="constant"),
}
