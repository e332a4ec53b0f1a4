"""The schedule in closed form, and the first step of each optimizer."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from architectures import tiny
from luthier.base.tuning import Lora, Training
from luthier.model.adapt import add_adapter, trainable
from luthier.model.verify import choose_layout
from luthier.train.optim import lr_at, optimizers


def rates(steps, **settings):
    how = Training(learning_rate=0.8, **settings)
    return [lr_at(step, steps, how) for step in range(steps)]


def test_warm_up_and_linear():
    # 2 of 10 steps rise by thirds of the peak: 0.8/3, 1.6/3; then 0.8 down to 0 in 7 equal moves
    expected = [0.8 / 3, 1.6 / 3, *(0.8 * (7 - k) / 7 for k in range(8))]
    assert rates(10, schedule="linear", warmup_frac=0.2) == pytest.approx(expected)


def test_linear_to_a_share_of_the_peak():
    # from 0.8 to a quarter of it in 4 moves of 0.15
    found = rates(5, schedule="linear", warmup_frac=0, final_lr_frac=0.25)
    assert found == pytest.approx([0.8, 0.65, 0.5, 0.35, 0.2])


def test_cosine():
    # half a turn in 4 moves: (1 + cos 0)/2, (1 + √½)/2, ½, (1 − √½)/2, 0
    root = math.sqrt(0.5)
    assert rates(5, schedule="cosine", warmup_frac=0) == pytest.approx(
        [0.8, 0.8 * (1 + root) / 2, 0.4, 0.8 * (1 - root) / 2, 0.0]
    )
    # with an end at half the peak everything shrinks towards it: ½ + ½·shape
    assert rates(3, schedule="cosine", warmup_frac=0, final_lr_frac=0.5) == pytest.approx([0.8, 0.6, 0.4])


def test_constant_after_the_warm_up():
    # 3 % of 50 steps is 1.5, so 2 rise; what `final_lr_frac` says is not for a constant rate
    assert rates(50, schedule="constant", final_lr_frac=0.1) == pytest.approx([0.8 / 3, 1.6 / 3, *[0.8] * 48])


@given(st.integers(1, 300), st.floats(0, 1), st.floats(0, 1), st.sampled_from(["cosine", "linear", "constant"]))
def test_a_rate_is_never_zero_at_first_never_above_the_peak_and_never_rises_after_it(steps, warm, final, schedule):
    found = rates(steps, schedule=schedule, warmup_frac=warm, final_lr_frac=final)
    assert found[0] > 0 and max(found) <= 0.8 + 1e-12 and min(found) >= 0
    top = found.index(max(found))
    assert found[: top + 1] == sorted(found[: top + 1])
    assert all(a >= b - 1e-12 for a, b in zip(found[top:], found[top + 1 :], strict=False))


def one_step(parameters, how):
    """Parameters after one step with gradients that were set before."""
    made = optimizers(parameters, how)
    for optimizer in made.values():
        optimizer.step()
    return made


def test_adamws_first_step_and_what_decays():
    matrix, gain = torch.nn.Parameter(torch.full((2, 2), 3.0)), torch.nn.Parameter(torch.full((2,), 3.0))
    matrix.grad, gain.grad = torch.tensor([[1.0, -2.0], [0.5, 4.0]]), torch.tensor([7.0, -0.1])
    one_step({"a.weight": matrix, "norm.weight": gain}, Training(learning_rate=0.1, weight_decay=0.2))
    # bias-corrected moments of one gradient make its sign; the matrix decays by 0.1 · 0.2 first: 3 · 0.98 = 2.94
    torch.testing.assert_close(matrix.data, torch.tensor([[2.84, 3.04], [2.84, 2.84]]))
    torch.testing.assert_close(gain.data, torch.tensor([2.9, 3.1]))


def test_frozen_parameters_keep_the_settings_of_the_rest():
    made = optimizers({"norm.weight": torch.nn.Parameter(torch.ones(2))}, Training(betas=(0.8, 0.9)))
    (group,) = made["adamw"].param_groups
    assert (group["weight_decay"], group["betas"]) == (0.0, (0.8, 0.9))


@pytest.mark.parametrize("shape", [(16, 16), (8, 32), (48, 12)])
def test_muons_first_step_is_orthogonal_and_as_large_as_adamws(shape):
    torch.manual_seed(0)
    matrix = torch.nn.Parameter(torch.zeros(shape))
    matrix.grad = torch.randn(shape)
    made = one_step({"model.layers.0.up.weight": matrix}, Training(learning_rate=0.1, optimizer="muon"))
    assert list(made) == ["muon"]
    # Liu et al. 2025, eq. 4: U·Vᵀ · 0.2 √max(A, B) has root mean square 0.2, and all singular values equal;
    # Newton-Schulz leaves them within about 0.7 .. 1.2
    update = matrix.data / -0.1
    singular = torch.linalg.svdvals(update) / (0.2 * max(shape) ** 0.5)
    assert singular.min() > 0.6 and singular.max() < 1.3
    assert update.square().mean().sqrt().item() == pytest.approx(0.2, rel=0.2)
    u, _, v = torch.linalg.svd(matrix.grad, full_matrices=False)
    assert torch.nn.functional.cosine_similarity(update.flatten(), (u @ v).flatten(), dim=0) > 0.95


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "gpt_neox", "bloom", "mpt", "gemma2"])
def test_muon_takes_the_matrices_of_the_blocks_and_nothing_else(kind):
    model = tiny(kind)
    made = optimizers(dict(model.named_parameters()), Training(optimizer="muon"))
    ours = {id(p) for group in made["muon"].param_groups for p in group["params"]}
    blocks = next(child for child in model.modules() if isinstance(child, torch.nn.ModuleList))
    assert len(blocks) == 2
    assert ours == {id(p) for p in blocks.parameters() if p.ndim == 2}
    theirs = {id(p) for group in made["adamw"].param_groups for p in group["params"]}
    assert theirs == {id(p) for p in model.parameters()} - ours


def test_adapters_go_through_adamw():
    lm = add_adapter(choose_layout(tiny("llama"))[0], Lora(rank=2), "policy", seed=0)
    assert list(optimizers(trainable(lm.module), Training(optimizer="muon"))) == ["adamw"]
