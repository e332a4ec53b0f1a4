"""Products of float32 matrices on a CPU, by whichever of torch's two libraries is the quicker one there.

torch hands them to MKL, which runs its AVX-512 kernels on Intel's CPUs only. On another CPU that has AVX-512 the same
product takes about half the time through oneDNN, which torch carries too (docs/benchmarks.md has the figures). The
results differ as two orders of summation do: by rounding.

oneDNN compiles code for every shape it meets, and keeps it: up to half a megabyte and some milliseconds each. Batches
have a shape of their own every time. So rows are filled up, or multiplied in blocks, to a few sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

LEAST, LEAST_FORWARD = 1 << 26, 1 << 21
"""Multiplications of a product below which the calls cost more than they save, with gradients and without."""
ROWS = (2048, 512, 128)
"""Rows of the blocks that oneDNN multiplies."""
SIZES = ((64, 8), (1024, 128))
"""Up to so many rows are filled up to a multiple of so many; more to one of `SIZE`."""
SIZE = 256


@cache
def onednn_is_quicker() -> bool:
    """Whether this CPU is one that MKL holds back: it has AVX-512, and Intel did not make it."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()):
        return False
    try:
        maker = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False  # no Linux: nobody has measured it
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and "GenuineIntel" not in maker


def linear(x: Tensor, weight_ND: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """x·Wᵀ + b over the last dimension of x [..., D] -> [..., N], with gradients. What oneDNN is not the quicker one
    for (another type or device, autocast, little work) is torch's own."""
    if not _suits(x, weight_ND):
        return nn.functional.linear(x, weight_ND, bias_N)
    if torch.is_grad_enabled():
        made: Tensor = _Linear.apply(x, weight_ND, bias_N)
        return made
    return _forward(x, weight_ND, bias_N)


def across(g_TN: Tensor, x_TD: Tensor) -> Tensor:
    """gᵀ·x [N, D], without gradients."""
    if len(g_TN) < ROWS[-1] or not _suits(g_TN, x_TD.T):
        return g_TN.T @ x_TD
    # oneDNN makes a copy of the left factor: it is given the smaller one.
    if g_TN.shape[1] > x_TD.shape[1]:
        return _summed(x_TD, g_TN).T
    return _summed(g_TN, x_TD)


def _suits(x: Tensor, weight_ND: Tensor) -> bool:
    return (
        onednn_is_quicker()
        and x.dtype is weight_ND.dtype is torch.float32
        and x.device.type == "cpu"
        and type(weight_ND) in (Tensor, nn.Parameter)
        and x.numel() * len(weight_ND) >= (LEAST if torch.is_grad_enabled() else LEAST_FORWARD)
        and not torch.is_autocast_enabled("cpu")
    )


def _filled(count: int) -> int:
    """The size that so many rows are filled up to."""
    multiple = next((multiple for most, multiple in SIZES if count <= most), SIZE)
    return -(-count // multiple) * multiple


def _blocks(count: int) -> Iterator[slice]:
    """Blocks of `ROWS` that cover all rows but the last few, the largest first."""
    start = 0
    for rows in ROWS:
        while count - start >= rows:
            yield slice(start, start + rows)
            start += rows


def _forward(x: Tensor, weight_ND: Tensor, bias_N: Tensor | None) -> Tensor:
    """Either the rows or the results have to be copied, unless their number is one of the sizes: whichever is less."""
    x_TD = x.reshape(-1, x.shape[-1])
    (count, depth), width = x_TD.shape, len(weight_ND)
    if count == (filled := _filled(count)):
        made_TN = _onednn(x_TD, weight_ND, bias_N)
    elif depth <= width or count < ROWS[-1]:
        made_TN = _onednn(nn.functional.pad(x_TD, (0, 0, 0, filled - count)), weight_ND, bias_N)[:count]
    else:
        made_TN, done = x.new_empty(count, width), 0
        for part in _blocks(count):
            made_TN[part] = _onednn(x_TD[part], weight_ND, bias_N)
            done = part.stop
        if done < count:
            made_TN[done:] = nn.functional.linear(x_TD[done:], weight_ND, bias_N)
    return made_TN.view(*x.shape[:-1], width)


def _summed(a_TN: Tensor, b_TD: Tensor) -> Tensor:
    """aᵀ·b [N, D], over a block of rows at least."""
    first, *others = _blocks(len(a_TN))
    sum_ND = _onednn(a_TN[first].T, b_TD[first].T)
    for part in others:
        sum_ND += _onednn(a_TN[part].T, b_TD[part].T)
    rest = slice([first, *others][-1].stop, None)
    return sum_ND.addmm_(a_TN[rest].T, b_TD[rest])


def _onednn(x_TD: Tensor, weight_ND: Tensor, bias_N: Tensor | None = None) -> Tensor:
    try:
        made: Tensor = torch.ops.mkldnn._linear_pointwise(x_TD, weight_ND, bias_N, "none", [], "")
    except RuntimeError:  # no memory for its own copies ("could not create a primitive"): MKL makes none
        return nn.functional.linear(x_TD, weight_ND, bias_N)
    return made


class _Linear(torch.autograd.Function):
    """Gradients are two products of the same kind: ∂x = g·W, ∂W = gᵀ·x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_ND: Tensor, bias_N: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if weight_ND.requires_grad else None, weight_ND if x.requires_grad else None)
        return _forward(x, weight_ND, bias_N)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_ND = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        grad_TN = grad.reshape(-1, grad.shape[-1])
        grad_x = linear(grad_TN, weight_ND.T).view(*grad.shape[:-1], -1) if needs_x else None
        grad_weight = across(grad_TN, x.reshape(-1, x.shape[-1])) if needs_weight else None
        return grad_x, grad_weight, grad_TN.sum(0) if needs_bias else None


def _linear_forward(layer: nn.Linear, x: Tensor) -> Tensor:
    return linear(x, layer.weight, layer.bias)


def _conv1d_forward(layer: Any, x: Tensor) -> Tensor:
    return linear(x, layer.weight.T, layer.bias)


def quicken(module: nn.Module) -> None:
    """Gives the module's matrices this product, where it is the quicker one. Weights and names stay as they are."""
    if not onednn_is_quicker():
        return
    for layer in module.modules():
        if type(layer) is nn.Linear:
            layer.forward = partial(_linear_forward, layer)  # type: ignore[method-assign]
        elif type(layer) is Conv1D:
            layer.forward = partial(_conv1d_forward, layer)  # type: ignore[method-assign]
