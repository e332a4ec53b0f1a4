"""The loop: what must not change a run's trajectory does not, and a loss that is not a number stops it."""

from __future__ import annotations

import copy
import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from architectures import tiny
from luthier.base.alignment import Ppo
from luthier.base.errors import RunError
from luthier.base.events import EventLog, read_events
from luthier.base.recipe import Pretrain
from luthier.base.tuning import Lora
from luthier.model.adapt import add_adapter, trainable
from luthier.model.heads import scalar_head
from luthier.model.roles import separate_roles
from luthier.model.score import score
from luthier.model.verify import choose_layout
from luthier.objectives import nll
from luthier.train.checkpoint import Checkpoints, Weights
from luthier.train.loop import Job, Loss, fit
from luthier.train.optim import optimizers
from luthier.train.rollout import Rollouts, Steering, ppo_loss
from luthier.train.schedule import lr_at
from luthier.train.sources import Micro, Packed, Pool
from luthier.train.trial import try_largest
from train.rows import END, draw

CPU = torch.device("cpu")


def model():
    """A small Llama. Weights of ordinary size: a step of 1e-3 must not throw it about."""
    torch.manual_seed(0)
    module = tiny("llama")
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.mul_(0.3)
    return choose_layout(module)[0]


def whole(lm) -> Weights:
    """All weights, by torch."""
    return Weights(
        lambda path: torch.save(lm.module.state_dict(), path / "weights.pt"),
        lambda path: lm.module.load_state_dict(torch.load(path / "weights.pt", weights_only=True)) and None,
    )


def job_of(tmp_path, lm, how, source, loss, parameters=None, states=None, evaluate=lambda step: None) -> Job:
    """A Job around a model; its folder is `tmp_path`."""
    parameters = parameters or trainable(lm.module)
    steppers = optimizers(parameters, how)
    states = {**steppers, **(states or {})}
    log = EventLog(tmp_path / "events.jsonl")
    checkpoints = Checkpoints(tmp_path / "checkpoints", whole(lm), states)
    return Job(lm.module, list(parameters.values()), steppers, source, loss, evaluate, how, checkpoints, log, 7, CPU)


def lm_loss(lm):
    """The loss of pretraining and sft."""
    return lambda micro: Loss(nll(score(lm, micro.batch), micro.batch.weight_M), {})


def steps_of(tmp_path) -> list[dict]:
    """The step events a job has told."""
    return [e for e in read_events(tmp_path / "events.jsonl") if e["kind"] == "step"]


def language(tmp_path, microbatch_tokens, change=lambda lm: None, steps=8, **settings):
    """(losses, weights) of a language-model run of 8 steps, about 8 sequences each."""
    lm = model()
    change(lm)
    how = Pretrain(kind="pretrain", data="x", learning_rate=1e-3, batch_tokens=160, **settings)
    source = Packed([Pool(draw(60), 160, "x")], 3, microbatch_tokens, None, steps)
    fit(job_of(tmp_path, lm, how, source, lm_loss(lm)))
    return trajectory(tmp_path, lm)


def reinforcement(tmp_path, microbatch_tokens, change=lambda lm: None):
    """(losses, weights) of three rollouts of PPO, 8 samples and 4 steps each."""
    lm, reference = model(), model()
    change(lm)
    rewarder = model()
    value = scalar_head(32, 0, "value", zero=True)
    roles = separate_roles(lm, reference, rewarder, scalar_head(32, 0, "reward"), value)
    how = Ppo(
        kind="ppo", prompts="x", iterations=3, rollout_prompts=4, samples=2, max_new_tokens=8, learning_rate=1e-3,
        entropy_weight=0.01, kl_target=1.0,
    )  # fmt: skip
    prompts = [s.ids[:10] for s in draw(9, 12, 30, seed=4)]
    steering = Steering(how.kl)
    source = Rollouts(roles, prompts, how, steering, 3, [END], lambda ids: "", microbatch_tokens)
    loss = lambda micro: ppo_loss(roles, how, micro, source.rollout.stats)  # noqa: E731
    parameters = {**trainable(lm.module), "value": value.weight}
    fit(job_of(tmp_path, lm, how, source, loss, parameters, {"value": value, "steering": steering}))
    return trajectory(tmp_path, lm)


def trajectory(tmp_path, lm):
    """The losses that were told and the weights that came out."""
    return [e["loss"] for e in steps_of(tmp_path)], {k: v.clone() for k, v in lm.module.state_dict().items()}


def same(one, other, most=5e-6, mean=1e-8):
    """Two trajectories are one: losses and weights, by their largest and their mean difference."""
    losses = np.abs(np.array(one[0]) - np.array(other[0]))
    gaps = torch.cat([(one[1][name] - other[1][name]).abs().flatten() for name in one[1]])
    assert losses.max() <= most
    assert gaps.max() <= most and gaps.mean() <= mean
    assert max(one[0]) - min(one[0]) > 1e-3, "nothing was learned: equality would say nothing"


@pytest.mark.parametrize("run", [language, reinforcement], ids=lambda run: run.__name__)
def test_one_microbatch_of_eight_is_eight_of_one(run, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "eight").mkdir()
    # 100,000 tokens: a step is one forward; 16: hardly two sequences fit into one.
    same(run(tmp_path / "one", 100_000), run(tmp_path / "eight", 16))


def checkpointing(lm) -> None:
    """As the setting gradient_checkpointing does it."""
    lm.core.gradient_checkpointing_enable({"use_reentrant": False})


@pytest.mark.parametrize("run", [language, reinforcement], ids=lambda run: run.__name__)
def test_gradient_checkpointing_changes_nothing(run, tmp_path):
    (tmp_path / "off").mkdir()
    (tmp_path / "on").mkdir()
    same(run(tmp_path / "off", 100_000), run(tmp_path / "on", 100_000, checkpointing), most=1e-6)


def adapted(tmp_path, checkpointed: bool):
    """A run that trains an adapter with dropout, as the sft stage does."""
    tmp_path.mkdir()
    lm = model()
    if checkpointed:
        checkpointing(lm)
    lm.core.enable_input_require_grads()
    lm = add_adapter(lm, Lora(rank=4, alpha=8, dropout=0.2), "policy", 0)
    how = Pretrain(kind="pretrain", data="x", learning_rate=1e-2)
    source = Packed([Pool(draw(60), 160, "x")], 3, 64, None, 8)
    fit(job_of(tmp_path, lm, how, source, lm_loss(lm)))
    return trajectory(tmp_path, lm)


def test_gradient_checkpointing_recomputes_the_same_dropout(tmp_path):
    same(adapted(tmp_path / "off", False), adapted(tmp_path / "on", True), most=1e-6)


def test_loop_equals_a_plain_training_loop(tmp_path):
    """Losses, gradient norms, learning rates and weights equal those of plain PyTorch: the library's own forward, one
    sequence at a time, torch's AdamW, the schedule written out."""
    how = Pretrain(
        kind="pretrain", data="x", learning_rate=2e-3, warmup_frac=0.25, final_lr_frac=0.1, clip_norm=0.5,
        weight_decay=0.1, betas=(0.8, 0.9),
    )  # fmt: skip
    rows = draw(40)
    lm = model()
    twin = copy.deepcopy(lm.module)
    twin.set_attn_implementation("sdpa")
    source = Packed([Pool(rows, 160, "x")], 3, 64, None, 8)
    fit(job_of(tmp_path, lm, how, source, lm_loss(lm)))

    by_origin = {row.origin: row for row in rows}
    decayed = [p for p in twin.parameters() if p.ndim > 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": [p for p in twin.parameters() if p.ndim == 1]}]
    optimizer = torch.optim.AdamW(groups, betas=(0.8, 0.9), weight_decay=0, fused=False, foreach=False)
    # 8 steps, 2 of warm-up: 1/3 and 2/3 of the peak, then a half cosine over 5 intervals from the peak to a tenth.
    shapes = [1 / 3, 2 / 3, *(0.1 + 0.9 * (1 + math.cos(math.pi * k / 5)) / 2 for k in range(6))]
    told = steps_of(tmp_path)
    for step, shape in enumerate(shapes):
        batch = [by_origin[o] for micro in source.at(step).micros for o in micro.batch.origins]
        loss = torch.zeros(())
        for row in batch:
            ids, weights_L = torch.tensor([row.ids]), torch.tensor(row.weights[1:])
            logp_LV = torch.log_softmax(twin(input_ids=ids, use_cache=False).logits[0, :-1], -1)
            loss = loss - (weights_L * logp_LV.gather(1, ids[0, 1:, None]).squeeze(1)).sum()
        loss = loss / sum(sum(row.weights[1:]) for row in batch)
        optimizer.zero_grad()
        loss.backward()
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in twin.parameters()))
        for p in twin.parameters():
            p.grad.mul_(min(1, 0.5 / norm))
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * shape
        optimizer.step()
        assert told[step]["lr"] == pytest.approx(2e-3 * shape, rel=1e-12)
        assert told[step]["loss"] == pytest.approx(float(loss.detach()), abs=5e-6)
        assert told[step]["grad_norm"] == pytest.approx(norm, rel=1e-5)
        assert told[step]["tokens"] == sum(source.at(k).tokens for k in range(step + 1))
    assert max(e["grad_norm"] for e in told) > 0.5, "nothing was clipped"
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(lm.module.state_dict()[name], value, atol=2e-5, rtol=0)


@given(
    steps=st.integers(1, 200),
    warmup=st.floats(0, 1),
    final=st.floats(0, 1),
    schedule=st.sampled_from(["cosine", "linear", "constant"]),
)
def test_the_learning_rate_rises_to_the_peak_and_falls_to_the_end(steps, warmup, final, schedule):
    how = Pretrain(
        kind="pretrain", data="x", learning_rate=1.0, warmup_frac=warmup, final_lr_frac=final, schedule=schedule
    )
    rates = [lr_at(step, steps, how) for step in range(steps)]
    first = math.ceil(warmup * steps)
    assert all(0 <= rate <= 1 + 1e-12 for rate in rates)
    assert all(a < b for a, b in pairwise(rates[:first])), "warm-up rises"
    assert all(a >= b - 1e-12 for a, b in pairwise(rates[first:])), "then it never does"
    if first < steps:
        assert rates[first] == pytest.approx(1)
    if steps - first > 1 and schedule != "constant":
        assert rates[-1] == pytest.approx(final)


def test_muon_steps_the_blocks_matrices_and_adamw_the_rest():
    """Muon's step is orthogonal and scaled to AdamW's size (Liu et al. 2025, eq. 4): all singular values near
    0.2 · lr · √(larger side). Five Newton-Schulz iterations bring them to 1 ± 0.3, no closer (Jordan et al. 2024)."""
    lm = model()
    parameters = trainable(lm.module)
    how = Pretrain(kind="pretrain", data="x", learning_rate=1e-2, weight_decay=0.0, optimizer="muon")
    made = optimizers(parameters, how)
    owned = {name: {id(p) for g in o.param_groups for p in g["params"]} for name, o in made.items()}
    blocks = {n for n, p in parameters.items() if ".layers." in n and p.ndim == 2}
    assert {n for n, p in parameters.items() if id(p) in owned["muon"]} == blocks and len(blocks) == 2 * 7
    assert owned["adamw"] | owned["muon"] == {id(p) for p in parameters.values()}
    assert not owned["adamw"] & owned["muon"]
    before = {n: p.detach().clone() for n, p in parameters.items()}
    for p in parameters.values():
        p.grad = torch.randn_like(p)
        if p.ndim == 2:  # singular values from 1 to 10
            U, _, V = torch.linalg.svd(p.grad, full_matrices=False)
            p.grad = U @ torch.diag(torch.linspace(1, 10, min(p.shape))) @ V
    for optimizer in made.values():
        optimizer.step()
    for n in blocks:
        values = torch.linalg.svdvals(parameters[n].detach() - before[n]) / (0.2 * 1e-2 * max(before[n].shape) ** 0.5)
        assert values.min() > 0.6 and values.max() < 1.3, n
    # AdamW's first step is the sign of the gradient times the learning rate.
    norm = parameters["model.norm.weight"]
    torch.testing.assert_close(norm.detach() - before["model.norm.weight"], -1e-2 * norm.grad.sign(), atol=1e-6, rtol=0)


class Spoiled:
    """A language-model loss that spoils one step; remembers the weights with which that step began."""

    def __init__(self, lm, at: int, factor: float, micros: int = 1) -> None:
        self.lm, self.at, self.factor, self.micros = lm, at, factor, micros
        self.calls, self.before = 0, None

    def __call__(self, micro: Micro) -> Loss:
        step, self.calls = self.calls // self.micros, self.calls + 1
        loss = lm_loss(self.lm)(micro)
        if step == self.at:
            self.before = copy.deepcopy(self.lm.module.state_dict())
            return loss._replace(total=loss.total * self.factor)
        return loss


@pytest.mark.parametrize("factor", [math.nan, math.inf], ids=repr)
def test_a_loss_that_is_not_finite_stops_and_skips_nothing(factor, tmp_path):
    lm = model()
    how = Pretrain(kind="pretrain", data="x", checkpoint_every_steps=2)
    source = Packed([Pool(draw(60), 160, "x")], 3, 100_000, None, 8)
    loss = Spoiled(lm, at=3, factor=factor)
    job = job_of(tmp_path, lm, how, source, loss)
    with pytest.raises(RunError) as stop:
        fit(job)
    assert f"{tmp_path}: step 3: the loss is {factor}" in str(stop.value)
    assert "Lower learning_rate" in str(stop.value) and "\n" not in str(stop.value)
    failed = json.loads((tmp_path / "failed.json").read_text())
    batch = source.at(3).micros[0].batch
    assert failed == {
        "step": 3,
        "loss": repr(factor),
        "grad_norm": "nan",
        "origins": sorted(batch.origins),
        "weights_finite": True,
    }
    assert [e["step"] for e in steps_of(tmp_path)] == [1, 2, 3], "steps that were told"
    assert job.checkpoints.steps() == [3]
    kept = torch.load(tmp_path / "checkpoints" / "step-3" / "weights.pt", weights_only=True)
    for name, value in loss.before.items():
        assert torch.equal(kept[name], value), name
        assert torch.equal(lm.module.state_dict()[name], value), name
    assert all(p.grad is None for p in lm.module.parameters())


def test_the_checkpoint_before_the_failure_goes_on_as_if_nothing_had_been(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "failed").mkdir()
    lm = model()
    how = Pretrain(kind="pretrain", data="x")
    source = Packed([Pool(draw(60), 160, "x")], 3, 100_000, None, 8)
    with pytest.raises(RunError):
        fit(job_of(tmp_path / "failed", lm, how, source, Spoiled(lm, at=5, factor=math.nan)))
    again = model()
    fit(job_of(tmp_path / "failed", again, how, source, lm_loss(again)))
    resumed = trajectory(tmp_path / "failed", again)
    whole = model()
    fit(job_of(tmp_path / "whole", whole, how, source, lm_loss(whole)))
    losses, weights = trajectory(tmp_path / "whole", whole)
    assert resumed[0] == losses
    assert all(torch.equal(resumed[1][name], value) for name, value in weights.items())


def test_a_weight_that_is_infinite_stops_the_first_step(tmp_path):
    lm = model()
    with torch.no_grad():
        lm.core.model.layers[1].mlp.up_proj.weight[3, 4] = math.inf
    how = Pretrain(kind="pretrain", data="x")
    source = Packed([Pool(draw(60), 160, "x")], 3, 64, None, 8)
    with pytest.raises(RunError, match="step 0: the loss is nan"):
        fit(job_of(tmp_path, lm, how, source, lm_loss(lm)))
    failed = json.loads((tmp_path / "failed.json").read_text())
    assert failed["step"] == 0 and failed["weights_finite"] is False
    assert failed["origins"] == sorted({o for micro in source.at(0).micros for o in micro.batch.origins})


def test_a_gradient_that_is_not_finite_stops_too(tmp_path):
    """sqrt at 0 has a finite value and an infinite slope: the loss alone would not show it."""
    lm = model()
    how = Pretrain(kind="pretrain", data="x")
    source = Packed([Pool(draw(60), 160, "x")], 3, 100_000, None, 4)

    def loss(micro: Micro) -> Loss:
        fine = lm_loss(lm)(micro)
        return fine._replace(total=fine.total + (lm.core.model.norm.weight * 0).sum().sqrt())

    with pytest.raises(RunError, match="the gradient norm nan"):
        fit(job_of(tmp_path, lm, how, source, loss))
    assert math.isfinite(float(json.loads((tmp_path / "failed.json").read_text())["loss"]))


def test_trying_the_largest_step_changes_nothing(tmp_path):
    lm = model()
    how = Pretrain(kind="pretrain", data="x")
    source = Packed([Pool(draw(60), 160, "x")], 3, 64, None, 8)
    sizes = [source.at(step).tokens for step in range(8)]
    assert source.at(source.largest()).tokens == max(sizes)
    before = copy.deepcopy(lm.module.state_dict())
    job = job_of(tmp_path, lm, how, source, lm_loss(lm))
    guard = try_largest(job, source.largest())
    assert guard.ok and f"{max(sizes)} tokens in" in guard.detail
    assert all(torch.equal(before[name], value) for name, value in lm.module.state_dict().items())
    assert all(p.grad is None for p in lm.module.parameters()) and not job.optimizers["adamw"].state


def test_a_step_too_large_for_the_memory_is_told_before_training(tmp_path):
    lm = model()
    source = Packed([Pool(draw(60), 160, "x")], 3, 64, None, 8)

    def loss(micro: Micro) -> Loss:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    guard = try_largest(job_of(tmp_path, lm, Pretrain(kind="pretrain", data="x"), source, loss), 0)
    assert not guard.ok
    assert "ran out of memory" in guard.detail and "microbatch_tokens" in guard.detail
