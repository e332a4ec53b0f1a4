"""When memory runs out: smaller microbatches, the same losses, and a word about it. Once for real, in a process that
has little; else where a loss says so at a certain size, as the allocators do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from luthier.base.alignment import Reward
from luthier.base.errors import RunError
from luthier.model.heads import scalar_head, sequence_scores
from luthier.objectives import bradley_terry
from luthier.train.job import Loss
from luthier.train.loop import fit
from luthier.train.memory import ran_out
from luthier.train.sources import Pairs
from luthier.train.trial import try_largest
from train.jobs import equal, job, lm_loss, small, told, weights
from train.rows import draw, draw_pairs
from train.starved import allowed, alone, starved

FULL = {
    "gpu": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you "
                        "tried to allocate 160256 bytes. Error code 12 (Cannot allocate memory)"),
    "python": MemoryError(),
}  # fmt: skip


class Small:
    """A language-model loss on a machine that holds so many tokens, from the call `since` on."""

    def __init__(self, lm, tokens, error, since=0) -> None:
        self.lm, self.tokens, self.error, self.since, self.calls = lm, tokens, error, since, 0

    def __call__(self, micro):
        self.calls += 1
        loss = lm_loss(self.lm)(micro)
        if micro.batch.tokens > self.tokens and self.calls > self.since:
            raise self.error  # after the forward: the graph is there, as where a backward fails
        return loss


def losses_of(folder):
    return np.array([e["loss"] for e in told(folder, "step")])


@pytest.mark.parametrize("kind", FULL)
def test_the_largest_step_is_tried_in_smaller_and_smaller_microbatches(kind, tmp_path):
    """160 tokens a step, room for 50. The run is then that of the limit that fits, bit for bit, and that of one
    microbatch up to rounding."""
    lm, same, whole = small(), small(), small()
    made = job(tmp_path / "full", lm, loss=Small(lm, 50, FULL[kind]))
    guard = try_largest(made, made.source.largest())
    limit = made.source.microbatch_tokens
    assert guard.ok and 30 <= limit <= 50
    assert [e["microbatch_tokens"] for e in told(tmp_path / "full", "memory")][-1] == limit
    assert all("with the same mathematics" in e["text"] for e in told(tmp_path / "full", "memory"))
    used = fit(made)
    assert used.facts(made)["microbatch_tokens"] == {"asked": 100_000, "used": limit}
    assert told(tmp_path / "full", "memory"), "what was told before step 0 stays"

    fit(job(tmp_path / "same", same, microbatch_tokens=limit))
    fit(job(tmp_path / "whole", whole))
    assert equal(weights(lm), weights(same))
    gaps = np.abs(losses_of(tmp_path / "full") - losses_of(tmp_path / "whole"))
    assert gaps.max() < 5e-6 and gaps.mean() < 1e-6
    drift = torch.cat([(v - weights(whole)[n]).abs().flatten() for n, v in weights(lm).items()])
    assert drift.max() < 5e-6 and drift.mean() < 1e-8


def test_in_the_middle_of_training_the_step_begins_anew(tmp_path):
    """From the 4th step's second microbatch on there is less room: nothing of what was begun is left in that step."""
    lm, whole, again = small(), small(), small()
    made = job(tmp_path / "full", lm, microbatch_tokens=90, loss=Small(lm, 50, FULL["gpu"], since=7))
    fit(made)
    (first, *_), limit = told(tmp_path / "full", "memory"), made.source.microbatch_tokens
    assert limit <= 50 and first["step"] in (2, 3, 4)
    fit(job(tmp_path / "whole", whole))
    assert np.abs(losses_of(tmp_path / "full") - losses_of(tmp_path / "whole")).max() < 5e-6
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(lm)[name], value, atol=5e-6, rtol=0)

    # Killed afterwards and resumed on a machine with more room: the checkpoint knows the limit.
    killed = small()

    def kill(step):
        if step == 7:
            raise KeyboardInterrupt

    settings = {"microbatch_tokens": 90, "checkpoint_every_steps": 3, "evaluate_every_steps": 7}
    with pytest.raises(KeyboardInterrupt):
        fit(job(tmp_path / "killed", killed, loss=Small(killed, 50, FULL["gpu"], since=7), evaluate=kill, **settings))
    fit(job(tmp_path / "killed", again, **settings))
    assert equal(weights(lm), weights(again))


def test_too_little_for_one_sequence_is_said_before_and_while_training(tmp_path):
    lm = small()
    made = job(tmp_path / "none", lm, loss=Small(lm, 0, FULL["cpu"]))
    guard = try_largest(made, 0)
    assert not guard.ok and "ran out of memory, one sequence at a time (DefaultCPUAllocator" in guard.detail
    assert "max_length" in guard.detail and "\n" not in guard.detail
    before = weights(lm)
    with pytest.raises(RunError, match="step 0 ran out of memory, one sequence at a time"):
        fit(job(tmp_path / "none", lm, loss=Small(lm, 0, FULL["cpu"])))
    assert equal(before, weights(lm)) and all(p.grad is None for p in made.parameters)


def test_other_errors_are_not_taken_for_it(tmp_path):
    assert not ran_out(RuntimeError("expected scalar type Float")) and not ran_out(ValueError("memory"))
    lm = small()
    with pytest.raises(RuntimeError, match="expected scalar type"):
        fit(job(tmp_path / "bug", lm, loss=Small(lm, 0, RuntimeError("expected scalar type Float"))))


def test_pairs_are_cut_down_to_one_and_never_through(tmp_path):
    lm, head = small(), scalar_head(32, 0, "head")
    sizes = []

    def loss(micro):
        sizes.append(micro.batch.n)
        scores_N = sequence_scores(lm, head, micro.batch)
        if micro.batch.n > 2:
            raise FULL["gpu"]
        return Loss(bradley_terry(scores_N[0::2], scores_N[1::2]), {})

    made = job(tmp_path / "pairs", lm, loss=loss)
    source = Pairs(draw_pairs(16), 3, 8, 100_000, 1)
    object.__setattr__(made, "source", source)
    object.__setattr__(made, "how", Reward(kind="reward"))
    assert try_largest(made, source.largest()).ok
    assert sizes[0] == 16 and all(n % 2 == 0 for n in sizes) and sizes[-8:] == [2] * 8


def test_trying_changes_nothing_whatever_has_a_state(tmp_path):
    lm, plain = small(), small()
    settings = {"ema": 0.9, "neftune": 1.0, "optimizer": "muon", "watchdog": {}}
    made = job(tmp_path / "tried", lm, **settings)
    states = {name: json.dumps(s.state_dict()) for name, s in made.checkpoints.states.items()}
    try_largest(made, made.source.largest())
    assert {name: json.dumps(s.state_dict()) for name, s in made.checkpoints.states.items()} == states
    fit(made)
    fit(job(tmp_path / "plain", plain, **settings))
    assert equal(weights(lm), weights(plain))


@pytest.mark.parametrize("name", ["adamw", "adafactor", "lion", "muon"])
def test_trying_a_step_that_is_not_finite_leaves_the_weights(name, tmp_path):
    lm = small()
    before = weights(lm)
    spoilt = lambda micro: Loss(lm_loss(lm)(micro).total * float("nan"), {})  # noqa: E731
    made = job(tmp_path / "nan", lm, loss=spoilt, optimizer=name)
    assert try_largest(made, 0).ok and equal(before, weights(lm))
    with pytest.raises(RunError, match="step 0: the loss is nan"):  # which is said when it is to be taken
        fit(made)
    assert json.loads((tmp_path / "nan" / "failed.json").read_text())["weights_finite"]


def test_a_process_with_little_memory_trains_all_the_same(tmp_path):
    """For real: 12,000 tokens take about 100 MiB at once, and there are 40."""
    found = alone(starved, tmp_path, 40)
    asked, used = found["facts"]["microbatch_tokens"].values()
    assert found["tried"][0] and used < 6000 < asked
    whole = small()
    fit(job(tmp_path / "whole", whole, steps=2, rows=draw(80, 100, 200), microbatch_tokens=10**6, batch_tokens=10**6))
    np.testing.assert_allclose(found["losses"], losses_of(tmp_path / "whole"), atol=2e-6)
    ok, said = found["alone"]
    assert not ok and "one sequence at a time (DefaultCPUAllocator: can't allocate memory" in said


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux lets a process reset its peak")
def test_microbatches_are_cut_to_the_memory_that_is_allowed(tmp_path):
    """About 8 KiB a token: of 12,000 tokens, so many go into 40 MiB more than what is held already."""
    found = alone(allowed, tmp_path, 40)
    ok, _ = found["tried"]
    assert ok and 500 < found["limit"] < 9000
    assert "is cut to fit into" in found["text"]
    assert found["peak"] <= found["most"]
    ok, said = found["refused"]
    assert not ok and "budget.memory_gib is 0.00" in said and "one sequence of" in said
