"""One job of each kind, small, to be run by one process or by several: the curve must be the same.

`main` is one rank of those that its environment names; the main one writes each case's curve to FOLDER/CASE.pt.
`CASE@4` stops before the evaluation of step 4, as a lost machine does, and is resumed by `CASE`. `shards` holds the
gradients of models in shards to those of whole ones.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

from architectures import tiny, tiny_encoder
from luthier.base.alignment import Dpo, Grpo, Kto, Ppo, Reward
from luthier.base.errors import UserError
from luthier.base.events import EventLog, read_events
from luthier.base.nouns import Chat
from luthier.base.recipe import Pretrain
from luthier.base.tuning import Lora, Masking, Quantize
from luthier.model.adapt import add_adapter, checkpoint_adapter, only, restore_adapter, trainable
from luthier.model.heads import scalar_head, sequence_scores
from luthier.model.load import wrap
from luthier.model.quantise import loading
from luthier.model.roles import separate_roles, shared_roles
from luthier.model.score import LanguageModel, score
from luthier.model.shard import Shards, is_cut
from luthier.model.shard import full as full_tensor
from luthier.model.verify import choose_layout
from luthier.objectives import bradley_terry, nll
from luthier.tokens.masking import Vocabulary, hiding
from luthier.tokens.pack import forest
from luthier.train.average import Average
from luthier.train.checkpoint import Checkpoints, Weights
from luthier.train.group import Asked, GroupRollouts, Judge, group_loss
from luthier.train.loop import Job, Loss, fit
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
from luthier.train.ranks import here, joined
from luthier.train.rollout import Rollouts, Steering, ppo_loss
from luthier.train.sources import Packed, Pairs, Pool
from luthier.train.together import step_as_they_lie
from train.rows import END, draw, draw_pairs

CPU = torch.device("cpu")
ALONE = 1
"""Tokens in a microbatch: each sequence stands alone, however many ranks there are, and has the same dropout."""
LORA = Lora(rank=4, dropout=0.1)


def model(kind: str = "llama", **changes: Any) -> LanguageModel:
    """A small model. Weights of ordinary size: a step of 1e-3 must not throw it about."""
    module = tiny(kind)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.mul_(0.3)
    if changes.get("tied"):
        module.config.tie_word_embeddings = True
        module.tie_weights()
    if changes.get("checkpointing"):
        module.gradient_checkpointing_enable({"use_reentrant": False})
    return choose_layout(module)[0]


class Case(NamedTuple):
    """What a job is made of, besides its folder."""

    lm: LanguageModel
    how: Any
    source: Any
    loss: Callable[..., Loss]
    heads: dict[str, Any]
    states: dict[str, Any]
    weights: Weights


def whole(lm: LanguageModel) -> Weights:
    """All weights, by torch."""
    return Weights(
        lambda path: torch.save(lm.module.state_dict(), path / "weights.pt"),
        lambda path: lm.module.load_state_dict(torch.load(path / "weights.pt", weights_only=True)) and None,
    )


def adapter(lm: LanguageModel, name: str) -> Weights:
    """An adapter, by PEFT."""
    return Weights(lambda path: checkpoint_adapter(lm, name, path), lambda path: restore_adapter(lm, name, path))


def language(lm: LanguageModel, weights: Weights, microbatch_tokens: int = 60, **settings: Any) -> Case:
    """A language model on sequences."""
    how = Pretrain(kind="pretrain", data="x", learning_rate=1e-3, batch_tokens=160, **settings)
    source = Packed([Pool(draw(60), 160, "x")], 3, microbatch_tokens, None, 6)
    return Case(lm, how, source, lambda m: Loss(nll(score(lm, m.batch), m.batch.weight_M), {}), {}, {}, weights)


def full(**settings: Any) -> Case:
    lm = model()
    return language(lm, whole(lm), **settings)


def tied() -> Case:
    """Tied embeddings, activations recomputed; one process takes a step in one microbatch."""
    lm = model(tied=True, checkpointing=True)
    return language(lm, whole(lm), microbatch_tokens=100_000)


def masked() -> Case:
    """An encoder: ranks are dealt rows in which the same tokens are hidden as for one process."""
    module = tiny_encoder("bert")
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.mul_(0.3)
    lm, how = choose_layout(module)[0], hiding(Masking(), Vocabulary(3, np.arange(4, 128), None), 5)
    made = language(lm, whole(lm))
    return made._replace(source=Packed([Pool(draw(60), 160, "x")], 3, ALONE, None, 6, how))


def rows() -> Case:
    """An architecture that runs on padded rows."""
    lm = model("gptj")
    return language(lm, whole(lm))


def lora() -> Case:
    """An adapter with dropout, rows of new tokens beside it."""
    lm = add_adapter(model(), LORA, "policy", 0, (125, 126, 127))
    return language(lm, adapter(lm, "policy"), ALONE)


def qlora() -> Case:
    """An adapter on a base in few bits, which every rank holds whole."""
    with tempfile.TemporaryDirectory() as folder:
        core = model().core  # saved by hand: transformers' save_pretrained writes on the first of several ranks only
        core.config.to_json_file(Path(folder) / "config.json", use_diff=False)
        save_file(core.state_dict(), Path(folder) / "model.safetensors", {"format": "pt"})
        module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **loading(Quantize(), "cpu"))
    lm = add_adapter(wrap(module, None, "cpu", torch.float32).lm, Lora(rank=4), "policy", 0)
    return language(lm, adapter(lm, "policy"))


def reward() -> Case:
    """A reward model with all its weights, and a head that every rank holds whole."""
    lm, head = model(), scalar_head(32, 0, "head")
    source = Pairs(draw_pairs(32), 3, 8, 120, 1.5)

    def loss(micro: Any) -> Loss:
        scores_N = sequence_scores(lm, head, micro.batch)
        margin_P = scores_N[0::2] - scores_N[1::2]
        right = ((margin_P > 0).sum(), float(len(margin_P)))
        return Loss(bradley_terry(scores_N[0::2], scores_N[1::2]), {"accuracy": right})

    return Case(lm, Reward(kind="reward", learning_rate=1e-3), source, loss, {"head": head}, {}, whole(lm))


def dpo() -> Case:
    """DPO of an adapter; the reference is the base."""
    lm, how = add_adapter(model(), Lora(rank=4), "policy", 0), Dpo(kind="dpo", learning_rate=3e-3)
    pairs = draw_pairs(32)
    with only(lm, None) as base:
        logps = answer_logps(base, [answer for pair in pairs for answer in pair], 1000)
    facts = {"ref_chosen_P": logps[0::2], "ref_rejected_P": logps[1::2]}
    source = Pairs(pairs, 3, 8, 120, 1.5, facts)
    return Case(lm, how, source, lambda m: preference_loss(lm, how, m), {}, {}, adapter(lm, "policy"))


def kto() -> Case:
    """KTO, whose steps look at the model before they are taken."""
    lm, answers = model(), [answer for pair in draw_pairs(20) for answer in pair]
    how, which = Kto(kind="kto", learning_rate=1e-3), shuffled_steps(40, 8, 1.2, 3)
    strangers = [answer_logps(lm, mismatched([answers[i] for i in step], 100), 1000) for step in which]
    reference = KtoReference(answer_logps(lm, answers, 1000), strangers)
    source = Marked(lm, answers, [i % 2 == 0 for i in range(40)], which, reference, 80, 100)
    return Case(lm, how, source, lambda m: kto_loss(lm, how, m), {}, {}, whole(lm))


PPO = Ppo(
    kind="ppo", prompts="x", iterations=3, rollout_prompts=5, samples=2, max_new_tokens=8, learning_rate=1e-3,
    entropy_weight=0.01, kl_target=1.0, epochs=1,
)  # fmt: skip
PROMPTS = [s.ids[:10] for s in draw(9, 12, 30, seed=4)]


def ppo() -> Case:
    """PPO of an adapter: policy, reference and reward on one base."""
    lm = add_adapter(add_adapter(model(), Lora(rank=4), "policy", 0), Lora(rank=2), "reward", 0)
    lm.module.set_adapter("policy")
    value = scalar_head(32, 0, "value", zero=True)
    roles = shared_roles(lm, "policy", "reward", scalar_head(32, 0, "reward").requires_grad_(False), value)
    return rollouts(roles, value, adapter(lm, "policy"))


def ppo_apart() -> Case:
    """PPO of all weights, each role a model of its own."""
    lm, value = model(), scalar_head(32, 0, "value", zero=True)
    roles = separate_roles(lm, model(), model(), scalar_head(32, 0, "reward"), value)
    return rollouts(roles, value, whole(lm))


def rollouts(roles: Any, value: Any, weights: Weights) -> Case:
    steering = Steering(PPO.kl)
    source = Rollouts(roles, PROMPTS, PPO, steering, 3, [END], lambda ids: "", 60)
    loss = lambda m: ppo_loss(roles, PPO, m, source.rollout.stats)  # noqa: E731
    return Case(roles.policy, PPO, source, loss, {"value": value}, {"steering": steering}, weights)


def grpo() -> Case:
    """GRPO against a program that counts."""
    lm = model()
    how = Grpo(
        kind="grpo", prompts="x", rewards={"x:y": 1.0}, iterations=3, rollout_prompts=5, samples=4, max_new_tokens=6,
        learning_rate=1e-3, minibatches=2, kl=0.05,
    )  # fmt: skip
    reference = model()
    even = lambda chats, samples: [sum(i % 2 for i in one.ids) / len(one.ids) for one in samples]  # noqa: E731
    judges = [Judge("even", 1.0, even)]
    asked = [Asked(Chat((), "x"), tuple(ids)) for ids in PROMPTS]
    source = GroupRollouts(lm, lambda: contextlib.nullcontext(reference), judges, asked, how, 3, [END], str, 60)
    return Case(lm, how, source, lambda m: group_loss(lm, how, m, source.rollout.stats), {}, {}, whole(lm))


CASES: dict[str, Callable[[], Case]] = {
    "full": full,
    "muon": lambda: full(optimizer="muon"),
    "adafactor": lambda: full(optimizer="adafactor"),
    "lion": lambda: full(optimizer="lion"),
    "extras": lambda: full(ema=0.8, neftune=2.0, layer_decay=0.7),
    "tied": tied,
    "masked": masked,
    "rows": rows,
    "lora": lora,
    "qlora": qlora,
    "reward": reward,
    "dpo": dpo,
    "kto": kto,
    "ppo": ppo,
    "ppo_apart": ppo_apart,
    "grpo": grpo,
}


class Curve(NamedTuple):
    """What a job has told of its steps, and the weights that it came to."""

    loss: list[float]
    norm: list[float]
    watched: dict[str, list[float]]
    weights: dict[str, Tensor]


class Lost(Exception):
    """The machine is gone."""


def job_of(case: Case, folder: Path, lost_at: int | None = None) -> Job:
    """The job of a case; its folder is `folder`. It looks at every step, and keeps every checkpoint that it may."""

    def evaluate(step: int) -> None:
        if step == lost_at:
            raise Lost

    how = case.how.model_copy(update={"checkpoint_every_steps": 1, "evaluate_every_steps": 1})
    parameters = {**trainable(case.lm.module), **{name: head.weight for name, head in case.heads.items()}}
    steppers = optimizers(parameters, case.how)
    states = {**steppers, **case.heads, **case.states}
    average = Average(how.ema) if how.ema else None
    states |= {} if average is None else {"average": average}
    checkpoints = Checkpoints(folder / "checkpoints", case.weights, states, parameters)
    log = EventLog(folder / "events.jsonl")
    return Job(
        case.lm.module, list(parameters.values()), steppers, case.source, case.loss, evaluate, how, checkpoints, log, 7,
        CPU, average=average, noise=Noise(case.lm, how.neftune, 7) if how.neftune else None,
    )  # fmt: skip


def lose(name: str, folder: Path, at: int) -> None:
    """Runs a case until its machine is lost."""
    with contextlib.suppress(Lost):
        fit(job_of(CASES[name](), folder, at))


def curve(name: str, folder: Path) -> Curve:
    """Runs, or goes on with, a case."""
    case = CASES[name]()
    fit(job_of(case, folder))
    told = [e for e in read_events(folder / "events.jsonl") if e["kind"] == "step"]
    other = {"kind", "t", "step", "steps", "lr", "tokens", "seconds", "loss", "grad_norm"}
    watched = {key: [e[key] for e in told] for key in told[0] if key not in other}
    heads = {f"head {n}": head.weight.detach() for n, head in case.heads.items()}
    weights = {n: p.detach() for n, p in case.lm.module.named_parameters()}
    return Curve([e["loss"] for e in told], [e["grad_norm"] for e in told], watched, weights | heads)


SHARDED = ("llama", "gemma2", "gpt2", "mixtral", "opt", "qwen3_next")
"""Tied heads and own ones, learned positions, experts, other names for the blocks, padded rows."""


def shards_drift() -> dict[str, float]:
    """Largest difference of gradients and log-probs, over three steps, between a model in shards of which each rank
    sees half of the sequences, and a whole one that sees all."""
    drift, ranks = {}, here()
    batches = [forest(half) for half in (draw(8)[:4], draw(8)[4:])]
    own = batches[ranks.rank]
    for kind, dtype in [*((kind, torch.float32) for kind in SHARDED), ("llama", torch.bfloat16)]:
        one, other = (replace(choose_layout(tiny(kind))[0], dtype=dtype) for _ in range(2))
        plain = dict(other.module.named_parameters())
        shards = Shards(one.module, ranks.world, dtype)
        cut = dict(one.module.named_parameters())
        assert list(cut) == list(plain)
        matrices = [p for p in cut.values() if min(p.shape) > 1 and p.ndim > 1]
        assert all(isinstance(p, DTensor) and p.to_local().shape != p.shape for p in matrices)
        optimizers = [torch.optim.AdamW(p.values(), lr=1e-3, fused=True) for p in (cut, plain)]
        worst = 0.0
        for _ in range(3):
            shards.within(lambda one=one: nll(score(one, own), own.weight_M)).backward()
            for batch in batches:
                nll(score(other, batch), batch.weight_M).backward()
            ranks.add_gradients([p for p in cut.values() if not isinstance(p, DTensor)])
            for name, p in plain.items():
                assert (p.grad is None) == (cut[name].grad is None), name
                if p.grad is not None:
                    gap = (full_tensor(cut[name].grad) - p.grad).abs().max() / p.grad.abs().max().clamp(min=1)
                    worst = max(worst, float(gap))
            for optimizer in optimizers:
                step_as_they_lie(optimizer)
                optimizer.zero_grad()
            with torch.no_grad(), shards.gathered():
                worst = max(worst, float((score(one, batches[0]) - score(other, batches[0])).abs().max()))
        shards.mend()
        mended = dict(one.module.named_parameters())
        assert type(one.module) is type(other.module) and not is_cut(one.module) and list(mended) == list(plain)
        tied = [m.module.get_output_embeddings().weight is m.module.get_input_embeddings().weight for m in (one, other)]
        assert tied[0] == tied[1]
        worst = max(worst, *(float((mended[n].detach() - p.detach()).abs().max()) for n, p in plain.items()))
        drift[f"{kind} {dtype}"] = worst
    return drift


def refused() -> str:
    """What is said of an optimizer that cannot step shards."""
    case = full(optimizer="adamw8bit")
    with tempfile.TemporaryDirectory() as folder, pytest.raises(UserError) as stop:
        fit(job_of(case, Path(folder)))
    return str(stop.value)


def main(folder: Path, names: list[str]) -> None:
    """One rank at work on some cases."""
    with joined() as ranks:
        for name in names:
            case, _, at = name.partition("@")
            if at:
                lose(case, folder / case, int(at))
            else:
                other = {"shards": shards_drift, "refused": refused}
                found = other[case]() if case in other else curve(case, folder / case)._asdict()
                if ranks.is_main:
                    torch.save(found, folder / f"{case}.pt")
            ranks.meet()
