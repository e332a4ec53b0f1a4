"""luthier's side of `peers.py`: its own loop, sources, losses and sampler, as its stages use them."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import peer_workload as work
import torch

from luthier.base.alignment import Dpo, Grpo
from luthier.base.events import EventLog
from luthier.base.nouns import Chat, Tokens
from luthier.base.pages import keep_freed_pages
from luthier.base.tuning import Lora, Training
from luthier.generate import sample
from luthier.model.adapt import add_adapter, trainable
from luthier.model.draw import Sampling
from luthier.model.heads import scalar_head, sequence_scores
from luthier.model.load import wrap
from luthier.model.score import LanguageModel, score
from luthier.objectives import bradley_terry, nll
from luthier.run.fitting import MICROBATCH_TOKENS
from luthier.tokens.pack import forest, split_by_tokens
from luthier.train.checkpoint import Checkpoints, Weights
from luthier.train.group import Asked, GroupRollouts, Judge, group_loss
from luthier.train.loop import Job, Loss, fit
from luthier.train.optim import optimizers
from luthier.train.preference import answer_logps, preference_loss
from luthier.train.sources import Micro, Pairs, Step


class Fixed:
    """The workload's rows in its order, `rows` a step, as one microbatch each."""

    period = 1
    microbatch_tokens = MICROBATCH_TOKENS["cpu"]

    def __init__(self, steps: list[Step]) -> None:
        self.steps, self.made = len(steps), steps

    def at(self, step: int) -> Step:
        """See BatchSource."""
        return self.made[step]


class Clock:
    """A watcher of events that times all steps but the first."""

    began = ended = 0.0

    def __call__(self, event: dict[str, Any]) -> None:
        """A step is told of when it is done."""
        if event["kind"] != "step":
            return
        self.ended = time.perf_counter()
        if event["step"] == 1:
            self.began = self.ended
            work.reset_peak()


def language_model(job: dict[str, Any], answer_tokens: float | None = None) -> LanguageModel:
    """The model, checked, with an adapter if the job asks for one."""
    dtype = torch.bfloat16 if job["dtype"] == "bf16" else torch.float32
    lm = wrap(work.model(job["shape"], answer_tokens), work.tokenizer(job["shape"]), "cpu", dtype).lm
    if job["adapter"] != "lora":
        return lm
    return add_adapter(lm, Lora(rank=16, alpha=32), "policy", 0)


def train(lm: LanguageModel, steps: Any, loss: Any, heads: dict[str, Any] | None = None) -> dict[str, Any]:
    """One measured run of the loop."""
    clock = Clock()
    parameters = trainable(lm.module) | {name: head.weight for name, head in (heads or {}).items()}
    how = Training(learning_rate=1e-6, schedule="constant", warmup_frac=0, weight_decay=0.0)
    folder = Path(tempfile.mkdtemp())
    nothing = Weights(lambda path: None, lambda path: None)
    fit(
        Job(
            module=lm.module,
            parameters=list(parameters.values()),
            optimizers=optimizers(parameters, how),
            source=Fixed(steps) if isinstance(steps, list) else steps,
            loss=loss,
            evaluate=lambda step: None,
            how=how,
            checkpoints=Checkpoints(folder / "checkpoints", nothing, {}),
            log=EventLog(folder / "events.jsonl", (clock,)),
            seed=0,
            device=lm.device,
        )
    )
    peak = work.resident_bytes(peak=True)
    return {"seconds": clock.ended - clock.began, "peak": peak, "state": work.state_bytes(lm.module)}


def tokens_of(prompt: list[int], answer: list[int]) -> Tokens:
    """A sequence whose answer carries weight."""
    return Tokens(tuple(prompt + answer), (0.0,) * len(prompt) + (1.0,) * len(answer), "")


def sft(job: dict[str, Any]) -> Any:
    """Packed rows through the loop."""
    rows, count = job["rows"], job["steps"] + 1
    made = work.conversations(job["shape"], rows * count)
    data, flops = [tokens_of(p, a) for p, a in made], work.training_flops(job["shape"], made[rows:])
    groups = [data[i * rows : (i + 1) * rows] for i in range(count)]
    tokens = sum(len(s.ids) for s in data[rows:])

    def go() -> dict[str, Any]:
        steps = [
            Step(
                [Micro(forest(run), {}) for run in split_by_tokens(group, MICROBATCH_TOKENS["cpu"])],
                sum(sum(s.weights) for s in group),
                sum(len(s.ids) for s in group),
            )
            for group in groups
        ]
        lm = language_model(job)
        return train(lm, steps, lambda m: Loss(nll(score(lm, m.batch), m.batch.weight_M), {})) | {
            "tokens": tokens,
            "flops": flops,
        }

    return go


def reward(job: dict[str, Any]) -> Any:
    """Pairs that share their prompt, a scalar head."""
    rows, count = job["rows"], job["steps"] + 1
    data = [(tokens_of(p, c), tokens_of(p, r)) for p, c, r in work.pairs(job["shape"], rows * count)]

    def go() -> dict[str, Any]:
        lm = language_model(job)
        head = scalar_head(lm.core.config.hidden_size, 0, "head")

        def loss(micro: Micro) -> Loss:
            scores_N = sequence_scores(lm, head, micro.batch)
            return Loss(bradley_terry(scores_N[0::2], scores_N[1::2]), {})

        source = Pairs(data, 0, rows, MICROBATCH_TOKENS["cpu"], 1.0)
        steps = [source.at(step) for step in range(count)]
        return train(lm, steps, loss, {"head": head}) | {"pairs": rows * (count - 1)}

    return go


def rollouts(job: dict[str, Any]) -> Any:
    """The sampler: 8 samples a prompt."""
    lm = language_model(job, answer_tokens=48)
    prompts = [p for p, _ in work.conversations(job["shape"], job["prompts"])]

    def go() -> dict[str, Any]:
        began = time.perf_counter()
        groups = sample(lm, prompts, Sampling(job["longest"], 1.0), [work.END], lambda ids: "", samples=8)
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "tokens": sum(len(s.ids) for group in groups for s in group)}

    return go


def dpo(job: dict[str, Any]) -> Any:
    """DPO with the reference's log-probs as data, scored before the clock starts."""
    rows, count = job["rows"], job["steps"] + 1
    data = [(tokens_of(p, c), tokens_of(p, r)) for p, c, r in work.pairs(job["shape"], rows * count)]
    how = Dpo(kind="dpo")

    def go() -> dict[str, Any]:
        lm = language_model(job)
        flat = [sequence for pair in data for sequence in pair]
        logps = torch.tensor(answer_logps(lm, flat, MICROBATCH_TOKENS["cpu"])).view(-1, 2)
        facts = {"ref_chosen_P": logps[:, 0], "ref_rejected_P": logps[:, 1]}
        source = Pairs(data, 0, rows, MICROBATCH_TOKENS["cpu"], 1.0, facts)
        steps = [source.at(step) for step in range(count)]
        return train(lm, steps, lambda m: preference_loss(lm, how, m)) | {"pairs": rows * (count - 1)}

    return go


def grpo(job: dict[str, Any]) -> Any:
    """Group rollouts judged by a program, one update each."""
    rows, count = job["rows"], job["steps"] + 1
    prompts = [p for p, _ in work.conversations(job["shape"], rows * count)]
    how = Grpo(
        kind="grpo",
        rewards={"even": 1.0},
        prompts="made",
        iterations=count,
        rollout_prompts=rows,
        samples=8,
        max_new_tokens=job["longest"],
    )

    def even(chats: Any, samples: Any) -> list[float]:
        """The share of even words: something that differs between samples."""
        return [sum(i % 2 == 0 for i in one.ids) / 64 for one in samples]

    def go() -> dict[str, Any]:
        lm = language_model(job, answer_tokens=48)
        asked = [Asked(Chat((), str(i)), tuple(p)) for i, p in enumerate(prompts)]
        source = GroupRollouts(
            lm, None, [Judge("even", 1.0, even)], asked, how, 0, [work.END], lambda ids: "", MICROBATCH_TOKENS["cpu"]
        )
        return train(lm, source, lambda m: group_loss(lm, how, m, {})) | {"steps": count - 1}

    return go


def matmul(job: dict[str, Any]) -> Any:
    """This machine's rate at the products of a block and the head, forward and backward, alone."""
    s, T = work.SHAPES[job["shape"]], MICROBATCH_TOKENS["cpu"]
    dtype = torch.bfloat16 if job["dtype"] == "bf16" else torch.float32
    D, inner, vocab = s["hidden_size"], s["intermediate_size"], s["vocab_size"]
    shapes = [(T, D, D)] * 4 + [(T, D, inner)] * 2 + [(T, inner, D)] + [(T // 2, D, vocab)]
    made = [tuple(torch.randn(size, dtype=dtype) for size in ((m, k), (n, k), (m, n))) for m, k, n in shapes]

    def go() -> dict[str, Any]:
        began = time.perf_counter()
        for x, w, y in made:
            torch.nn.functional.linear(x, w)
            y @ w
            y.T @ x
        return {"seconds": time.perf_counter() - began, "flops": sum(6.0 * m * k * n for m, k, n in shapes)}

    return go


TASKS = {"matmul": matmul, "sft": sft, "dpo": dpo, "reward": reward, "rollouts": rollouts, "grpo": grpo}

if __name__ == "__main__":
    keep_freed_pages()  # as every run does
    work.serve(lambda job: TASKS[job["task"]](job))
