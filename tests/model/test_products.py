"""Products on a CPU: against float64, in any number of rows, with a module's own weights."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from luthier.model import products
from luthier.model.products import across, linear, quicken

LEAST = 1 << 18
needs = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@pytest.fixture(autouse=True)
def quicker(monkeypatch):
    """On whatever CPU the test runs: products are given to oneDNN, also those for which it hardly pays."""
    monkeypatch.setattr(products, "onednn_is_quicker", lambda: True)
    monkeypatch.setattr(products, "LEAST", LEAST)
    monkeypatch.setattr(products, "LEAST_FORWARD", LEAST)


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@needs
@pytest.mark.parametrize("rows", [1, 24, 100, 128, 129, 700, 2048, 2700])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_a_product_and_its_gradients_are_those_of_float64(rows, turned, biased):
    """Rows below the smallest block, on it, between blocks, beyond the largest; a weight of either order in memory."""
    width = -(-LEAST // rows // 256) + 3
    x, weight = drawn(2, rows, 128).requires_grad_(), drawn(*((128, width) if turned else (width, 128)))
    weight.requires_grad_()
    bias = drawn(width).requires_grad_() if biased else None
    grad = drawn(2, rows, width)
    inputs = [x, weight] + ([bias] if biased else [])
    assert products._suits(x, weight.T if turned else weight)
    made = linear(x, weight.T if turned else weight, bias)
    found = torch.autograd.grad(made, inputs, grad)
    with torch.no_grad():
        torch.testing.assert_close(linear(x, weight.T if turned else weight, bias), made, rtol=0, atol=0)
    exact = [one.detach().double().requires_grad_() for one in inputs]
    right = exact[0] @ (exact[1] if turned else exact[1].T) + (exact[2] if biased else 0)
    wanted = torch.autograd.grad(right, exact, grad.double())
    for one, other in zip([made, *found], [right, *wanted], strict=True):
        assert (one - other).abs().max() < 2e-6 * other.abs().max()


@needs
@pytest.mark.parametrize("widths", [(700, 90), (90, 700), (300, 300)])
@pytest.mark.parametrize("rows", [60, 2048, 3001])
def test_a_product_over_the_rows(widths, rows):
    g, x = drawn(rows, widths[0] * 5), drawn(rows, widths[1])
    wanted = g.double().T @ x.double()
    assert (across(g, x) - wanted).abs().max() < 3e-6 * wanted.abs().max()


def test_what_needs_no_gradient_keeps_nothing():
    """A frozen layer under an adapter holds its weight for the backward, and not its input."""
    x, weight = drawn(700, 320).requires_grad_(), drawn(864, 320)
    made = linear(x, weight)
    assert [tensor is None for tensor in made.grad_fn.saved_tensors] == [True, False]


def test_little_work_other_types_and_autocast_are_torchs_own(monkeypatch):
    monkeypatch.setattr(products, "_onednn", lambda *given: pytest.fail("given to oneDNN"))
    linear(drawn(4, 8), drawn(8, 8))
    linear(drawn(700, 320).double(), drawn(864, 320).double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(drawn(700, 320), drawn(864, 320)).dtype == torch.bfloat16


@needs
def test_a_module_keeps_its_weights_its_names_and_its_copies():
    module = nn.Sequential(nn.Linear(320, 864), nn.Tanh(), Conv1D(500, 864))
    x = drawn(700, 320)
    before, names = module(x), list(module.state_dict())
    quicken(module)
    torch.testing.assert_close(module(x), before, rtol=1e-5, atol=1e-5)
    assert list(module.state_dict()) == names
    other = copy.deepcopy(module)
    with torch.no_grad():
        other[0].weight.zero_()
    torch.testing.assert_close(module(x), before, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(other(x), before, atol=1e-3)
    kept = io.BytesIO()
    torch.save(module, kept)
    kept.seek(0)
    torch.testing.assert_close(torch.load(kept, weights_only=False)(x), module(x), rtol=0, atol=0)


def test_where_memory_ends_mkl_goes_on(monkeypatch):
    def full(*given):
        raise RuntimeError("could not create a primitive")

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", full)
    x, weight = drawn(700, 320), drawn(864, 320)
    torch.testing.assert_close(linear(x, weight), x @ weight.T)
