"""What must not change what is learned does not, for every objective on every kind of weights that it may train: loss
and gradient of a step laid out as a forest, as sequences apart, in one microbatch or in many, recomputed or kept; and
a run that was lost and goes on from its checkpoint."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch

from luthier.base.events import read_events
from luthier.model.verify import library_attention
from luthier.tokens.pack import paths
from luthier.train.loop import fit
from luthier.train.step import accumulate
from train.cases import OBJECTIVES, WAYS, job_of

WIDE, ALONE = 100_000, 1
"""Tokens in a microbatch: a whole step; one sequence, or one pair."""
NEAR = 1e-5
"""Relative: of the loss, and of the whole gradient by its norm. Float32 has 24 bits, 6e-8."""
EVERY = pytest.mark.parametrize("way", WAYS)


def stirred(parameters) -> None:
    """As training might leave them: no longer the reference, no adapter's half and no head at 0."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=rng))


def near(found, expected, why) -> None:
    """Loss and gradients are one."""
    loss, gradients = expected
    assert found[0] == pytest.approx(loss, rel=NEAR, abs=NEAR / 10), why
    whole = torch.cat([g.flatten() for g in gradients]).norm()
    gap = torch.cat([(a - b).flatten() for a, b in zip(found[1], gradients, strict=True)]).norm()
    assert whole > 1e-3 and gap <= NEAR * whole, f"{why}: {gap / whole}"
    for n, (a, b) in enumerate(zip(found[1], gradients, strict=True)):
        # A key's bias moves no softmax: its gradient is rounding, next to that of all.
        torch.testing.assert_close(
            a, b, rtol=0, atol=1e-4 * float(b.abs().max()) + 1e-6 * float(whole), msg=f"{why} {n}"
        )


def gradients(job, item):
    """Loss and gradients of a step's microbatches; of what a loss does not reach (a reward's old head), 0."""
    loss = accumulate(job, item, 0).total / item.total
    return loss, [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in job.parameters]


@EVERY
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_step_has_one_gradient_however_it_is_computed(name, way, tmp_path):
    case = OBJECTIVES[name](way, dropout=0.2)
    job, source, rows = job_of(case, tmp_path), case.source, replace(case.lm, layout="rows")
    source.at(0)  # what is sampled is sampled by the model of before
    stirred(job.parameters)
    job.module.eval()  # dropout is drawn forward by forward
    source.microbatch_tokens = WIDE
    whole = source.at(0)
    source.microbatch_tokens = ALONE
    pieces = source.at(0)
    assert len(whole.micros) == 1 and len(pieces.micros) > 5 and whole.total == pieces.total
    (batch, _) = whole.micros[0]
    assert name == "masked" or batch.tokens < sum(len(path) for path in paths(batch)), "nothing is shared"
    together = gradients(job, whole)
    near(gradients(job, pieces), together, "one in a microbatch")
    with library_attention(case.lm):
        near(together, gradients(replace(job, loss=lambda micro: case.loss(rows, micro)), whole), "sequences apart")


PART = {"llama": "layers.0.mlp", "bert": "encoder.layer.0.intermediate"}
"""Of a block, that a forward runs it once."""


@EVERY
@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_recomputed_is_what_was_computed(name, way, tmp_path):
    """Dropout included: a checkpointed block is run again with the numbers it had."""
    case = OBJECTIVES[name](way, dropout=0.2)
    job = job_of(case, tmp_path)
    step = case.source.at(0)
    stirred(job.parameters)
    runs = []
    case.lm.backbone.get_submodule(PART[case.lm.core.config.model_type]).register_forward_pre_hook(
        lambda *_: runs.append(1)
    )
    job.module.train()
    kept = gradients(job, step)
    once = len(runs)
    case.lm.core.gradient_checkpointing_enable({"use_reentrant": False})
    again = gradients(job, step)
    assert once == len(step.micros) and len(runs) == 3 * once
    near(again, kept, "recomputed")


def trained(name, way, folder, look=lambda step: None):
    """(step, loss, gradient norm) as told, and the weights that came out."""
    folder.mkdir(exist_ok=True)
    case = OBJECTIVES[name](way, dropout=0.2)
    case.source.microbatch_tokens = 200
    job = job_of(case, folder, look, every=4)
    fit(job)
    told = [(e["step"], e["loss"], e["grad_norm"]) for e in read_events(folder / "events.jsonl") if e["kind"] == "step"]
    return told, [p.detach() for p in (*job.parameters, *case.lm.module.parameters())]


@EVERY
@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in ("causal", "dpo", "ipo", "dapo")])
def test_resumed_is_uninterrupted(name, way, tmp_path):
    """From the disk as it was in step 5, bit for bit, dropout included. Those that are left out have the state of sft,
    `dpo with all` and rloo."""
    whole, lost = tmp_path / "whole", tmp_path / "lost"

    def look(step):
        if step == 5:
            shutil.copytree(whole, lost)

    told, weights = trained(name, way, whole, look)
    told_again, weights_again = trained(name, way, lost)
    resumed = [e["step"] for e in read_events(lost / "events.jsonl") if e["kind"] == "resume"]
    assert resumed == [4]  # where the last rollout, of two steps, began
    assert told_again == told and len({norm for _, _, norm in told}) == 6
    assert all(torch.equal(a, b) for a, b in zip(weights_again, weights, strict=True))
