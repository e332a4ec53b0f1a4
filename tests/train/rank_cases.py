"""One job of each kind, small, to be run by one process or by several: the curve must be the same.

`python rank_cases.py FOLDER CASE...` is one rank of those that its environment names; the main one writes each case's
curve to FOLDER/CASE.pt. Importing torch and transformers costs more than the cases, so one start runs them all.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from architectures import tiny, tiny_encoder
from luthier.base.alignment import Dpo, Grpo, Kto, Ppo, Reward
from luthier.base.events import EventLog, read_events
from luthier.base.nouns import Chat
from luthier.base.recipe import Pretrain
from luthier.base.tuning import Lora, Masking
from luthier.model.adapt import add_adapter, checkpoint_adapter, only, restore_adapter, trainable
from luthier.model.heads import scalar_head, sequence_scores
from luthier.model.roles import separate_roles, shared_roles
from luthier.model.score import LanguageModel, score
from luthier.model.verify import choose_layout
from luthier.objectives import bradley_terry, nll
from luthier.tokens.masking import Vocabulary, hiding
from luthier.train.checkpoint import Checkpoints, Weights
from luthier.train.group import Asked, GroupRollouts, Judge, group_loss
from luthier.train.loop import Job, Loss, fit
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
from luthier.train.ranks import joined
from luthier.train.rollout import Rollouts, Steering, ppo_loss
from luthier.train.sources import Packed, Pairs, Pool
from train.rows import END, draw, draw_pairs

CPU = torch.device("cpu")
LORA = Lora(rank=4, dropout=0.1)
HERE = Path(__file__)


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
    """Tied embeddings, activations recomputed, one microbatch a step, so that a rank has nothing of its own to do."""
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
    return made._replace(source=Packed([Pool(draw(60), 160, "x")], 3, 60, None, 6, how))


def rows() -> Case:
    """An architecture that runs on padded rows."""
    lm = model("gptj")
    return language(lm, whole(lm))


def lora() -> Case:
    """An adapter with dropout, rows of new tokens beside it."""
    lm = add_adapter(model(), LORA, "policy", 0, (125, 126, 127))
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
    judges = [
        Judge("even", 1.0, lambda chats, samples: [sum(i % 2 for i in one.ids) / len(one.ids) for one in samples])
    ]
    asked = [Asked(tuple(ids), Chat((), "x")) for ids in PROMPTS]
    source = GroupRollouts(lm, lambda: contextlib.nullcontext(reference), judges, asked, how, 3, [END], str, 60)
    return Case(lm, how, source, lambda m: group_loss(lm, how, m, source.rollout.stats), {}, {}, whole(lm))


CASES: dict[str, Callable[[], Case]] = {
    "full": full,
    "muon": lambda: full(optimizer="muon"),
    "adafactor": lambda: full(optimizer="adafactor"),
    "lion": lambda: full(optimizer="lion"),
    "tied": tied,
    "masked": masked,
    "rows": rows,
    "lora": lora,
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


def job_of(case: Case, folder: Path) -> Job:
    """The job of a case; its folder is `folder`."""
    parameters = {**trainable(case.lm.module), **{name: head.weight for name, head in case.heads.items()}}
    steppers = optimizers(parameters, case.how)
    states = {**steppers, **case.heads, **case.states}
    checkpoints = Checkpoints(folder / "checkpoints", case.weights, states, parameters)
    log = EventLog(folder / "events.jsonl")
    return Job(
        case.lm.module, list(parameters.values()), steppers, case.source, case.loss, lambda step: None, case.how,
        checkpoints, log, 7, CPU,
    )  # fmt: skip


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


def start(world: int, folder: Path, arguments: list[str], program: Path = HERE) -> list[subprocess.Popen]:
    """Starts a program once for each rank, as a launcher does. Their output goes to FOLDER/rank-R.txt."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    ranks = []
    for rank in range(world):
        there = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "OMP_NUM_THREADS": 1}
        there |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "PYTHONPATH": HERE.parents[1]}
        with open(folder / f"rank-{rank}.txt", "w") as said:
            environment = os.environ | {key: str(value) for key, value in there.items()}
            command = [sys.executable, str(program), str(folder), *arguments]
            ranks.append(subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=environment))
    return ranks


def finished(ranks: list[subprocess.Popen], seconds: float = 900) -> list[int]:
    """The exit codes of all ranks; kills those that hang."""
    try:
        return [rank.wait(seconds) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()


def main(folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    with joined() as ranks:
        for name in names:
            found = curve(name, folder / name)
            if ranks.is_main:
                torch.save(found._asdict(), folder / f"{name}.pt")
            ranks.meet()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
