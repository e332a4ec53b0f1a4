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

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from architectures import tiny
from luthier.base.errors import UserError
from luthier.base.events import read_events
from luthier.base.tuning import Lora
from luthier.model.adapt import add_adapter
from luthier.model.score import score
from luthier.model.shard import Shards, is_cut
from luthier.model.shard import full as full_tensor
from luthier.model.verify import choose_layout
from luthier.objectives import nll
from luthier.tokens.pack import forest
from luthier.train.loop import fit
from luthier.train.ranks import here, joined
from luthier.train.together import step_as_they_lie
from train.cases import OBJECTIVES, Case, job_of, language, learner, masked, model, tamed
from train.rows import draw

ALONE = 1
"""Tokens in a microbatch: each sequence stands alone, however many ranks there are, and has the same dropout."""


def full(**settings: Any) -> Case:
    """A language model with all its weights."""
    return language(model(), **settings)


def tied() -> Case:
    """Tied embeddings, activations recomputed; one process takes a step in one microbatch."""
    module = tamed(tiny("llama"))
    module.config.tie_word_embeddings = True
    module.tie_weights()
    return recomputed(language(choose_layout(module)[0], microbatch_tokens=100_000))


def lora() -> Case:
    """An adapter with dropout, rows of new tokens beside it."""
    return language(add_adapter(model(), Lora(rank=4, dropout=0.1), "policy", 0, (125, 126, 127)), None, ALONE)


def recomputed(case: Case) -> Case:
    """The same with gradient checkpointing."""
    case.lm.core.gradient_checkpointing_enable({"use_reentrant": False})
    return case


CASES: dict[str, Callable[[], Case]] = {
    "full": full,
    "muon": lambda: full(optimizer="muon"),
    "adafactor": lambda: full(optimizer="adafactor"),
    "lion": lambda: full(optimizer="lion"),
    "extras": lambda: full(ema=0.8, neftune=2.0, layer_decay=0.7),
    "tied": tied,
    "rows": lambda: language(model("gptj")),
    "lora": lora,
    "qlora": lambda: language(learner("QLoRA")),
    "sft": lambda: OBJECTIVES["sft"]("full"),
    "masked": lambda: masked("full", microbatch_tokens=ALONE),
    "reward": lambda: OBJECTIVES["reward"]("full"),
    "dpo": lambda: OBJECTIVES["dpo"]("LoRA"),
    "dpo_qlora": lambda: OBJECTIVES["dpo"]("QLoRA"),
    "dpo_full": lambda: OBJECTIVES["dpo with all"]("full"),
    "orpo": lambda: OBJECTIVES["orpo"]("full"),
    "simpo": lambda: OBJECTIVES["simpo"]("LoRA"),
    "kto": lambda: OBJECTIVES["kto"]("full"),
    "kto_lora": lambda: OBJECTIVES["kto"]("LoRA"),
    "ppo": lambda: OBJECTIVES["ppo"]("LoRA"),
    "ppo_apart": lambda: recomputed(OBJECTIVES["ppo"]("full")),
    "grpo": lambda: OBJECTIVES["grpo"]("full"),
    "rloo": lambda: OBJECTIVES["rloo"]("LoRA"),
}


class Curve(NamedTuple):
    """What a job has told of its steps, and the weights that it came to."""

    loss: list[float]
    norm: list[float]
    watched: dict[str, list[float]]
    weights: dict[str, Tensor]


class Lost(Exception):
    """The machine is gone."""


def lose(name: str, folder: Path, at: int) -> None:
    """Runs a case until its machine is lost, before the evaluation of a step."""

    def look(step: int) -> None:
        if step == at:
            raise Lost

    with contextlib.suppress(Lost):
        fit(job_of(CASES[name](), folder, look))


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
