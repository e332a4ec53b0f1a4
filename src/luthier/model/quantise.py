"""The base in 4 or 8 bits under an adapter, through bitsandbytes. QLoRA: Dettmers et al. 2023; int8: Dettmers et al.
2022, without its rounding of activations.

Few bits are how the weights are *held*. The arithmetic is that of the dequantised weights, in training and in
evaluation alike, so the model that is measured, sampled and saved is the one that was trained. Left to itself,
bitsandbytes 0.50 does otherwise. On AVX-512 CPUs the first evaluation repacks 4-bit weights in place, for kernels in
bfloat16, and what dequantises them afterwards reads garbage, without an error; its CPU kernels take the scales of other
blocks where a row is no multiple of 64 numbers; and evaluation rounds 8-bit layers' inputs. So only its quantisation
is used here, and its dequantisation of whole blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from luthier.base.errors import UserError
from luthier.base.tuning import Quantize

HELD = {"Linear4bit": "nf4", "Linear8bitLt": "int8"}
"""bitsandbytes' layers that hold a weight in few bits. PEFT's layers around them have the same names."""


def require_bitsandbytes(what: str = "quantize") -> None:
    """Raises UserError where it is not installed; `what` needs it."""
    if find_spec("bitsandbytes") is None:
        raise UserError(f'{what}: needs bitsandbytes, which is not installed. pip install "luthier[quant]"')


def adamw_8bit(groups: list[dict[str, Any]], lr: float, betas: tuple[float, float]) -> torch.optim.Optimizer:
    """AdamW whose two moments are held in 8 bits, in blocks of 256 numbers with a scale each (Dettmers et al. 2022,
    "8-bit optimizers via block-wise quantization"); tensors of fewer than 4,096 numbers keep 32. Raises UserError
    without bitsandbytes."""
    require_bitsandbytes("optimizer: adamw8bit")
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(groups, lr=lr, betas=betas)


STATE_SPACE = ("mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h")
"""Architectures that read the weights of some layers without calling them."""


def refuse_in_few_bits(how: Quantize, kind: str) -> None:
    """Raises UserError for a model (`kind` is its model_type) that computes with its weights past its layers."""
    if kind in STATE_SPACE:
        raise UserError(
            f"quantize.kind: {how.kind}: a {kind} model reads some weights without calling their layers, and could not "
            "read them in few bits. Remove quantize."
        )


def loading(how: Quantize, device: str) -> dict[str, Any]:
    """What transformers' `from_pretrained` needs to read each weight straight into few bits on the device: the whole
    model in full precision is never in memory. Raises UserError without bitsandbytes."""
    require_bitsandbytes()
    config = (
        BitsAndBytesConfig(load_in_8bit=True)
        if how.kind == "int8"
        else BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=how.double,
            bnb_4bit_compute_dtype=torch.float32,
        )
    )
    return {"quantization_config": config, "device_map": {"": device}}


def layers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every layer that holds its weight in few bits, by name."""
    for name, layer in module.named_modules():
        kind = type(layer)  # compared by name, so that a model without any needs no bitsandbytes
        if kind.__name__ in HELD and kind.__module__.startswith("bitsandbytes."):
            yield name, layer


def is_quantised(module: nn.Module) -> bool:
    """Whether any layer holds its weight in few bits."""
    return next(layers(module), None) is not None


def leave_file(module: nn.Module) -> None:
    """Copies what a quantised model holds in full precision out of the file that it was mapped from. One tensor left
    there keeps all pages of the file resident, the unquantised weights' among them."""
    held = {id(layer.weight) for _, layer in layers(module)}
    for tensor in [*module.parameters(), *module.buffers()]:
        if id(tensor) not in held:
            tensor.data = tensor.data.clone()


def held_as(module: nn.Module) -> Quantize | None:
    """How a model's base is held; None: in full precision."""
    layer = next((layer for _, layer in layers(module)), None)
    if layer is None or HELD[type(layer).__name__] == "int8":
        return None if layer is None else Quantize(kind="int8")
    return Quantize(kind="nf4", double=bool(layer.weight.quant_state.nested))


def settle(module: nn.Module, dtype: torch.dtype) -> None:
    """Makes every quantised layer compute with its dequantised weight, in `dtype`, whether it trains or not."""
    for _, layer in layers(module):
        if HELD[type(layer).__name__] == "int8":
            if layer.weight.CB is not None:
                layer.init_8bit_state()
            layer.register_buffer("scale", layer.state.SCB, persistent=False)  # PEFT loses the others on the way
        layer.product_dtype = dtype
        layer.forward = MethodType(forward, layer)


def forward(layer: Any, x: Tensor) -> Tensor:
    """x·Wᵀ + b in the layer's product type; the result is of x's type."""
    product = Product.apply(x.to(layer.product_dtype), layer)
    out = product if layer.bias is None else product + layer.bias.to(product.dtype)
    return out.to(x.dtype)


class Product(torch.autograd.Function):
    """x·Wᵀ that keeps nothing but the few bits for the backward, where W is dequantised again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Any) -> Tensor:
        ctx.layer = layer
        return F.linear(x, weight_of(layer, x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad @ weight_of(ctx.layer, grad.dtype), None


def weight_of(layer: Any, dtype: torch.dtype = torch.float32) -> Tensor:
    """A quantised layer's weight [out, in]."""
    if HELD[type(layer).__name__] == "int8":
        weight = torch.empty(layer.weight.shape, dtype=dtype, device=layer.weight.device)
        return torch.mul(layer.weight.data, (layer.scale / 127).unsqueeze(1), out=weight)  # rounded once
    from bitsandbytes.functional import dequantize_blockwise

    bits, state = layer.weight.data, layer.weight.quant_state
    assert not vars(state).get("packing_format_for_cpu"), "4-bit weights were repacked for evaluation"
    scales = dequantize_blockwise(state.absmax, state.state2) + state.offset if state.nested else state.absmax
    count, size = state.shape.numel(), state.blocksize
    rows = (count // size, size) if count % size == 0 else (1, count)  # whole blocks, whatever the matrix's rows are
    return torch.ops.bitsandbytes.dequantize_4bit(bits, scales, size, "nf4", rows, dtype).view(state.shape)


def broken_blocks(module: nn.Module) -> list[str]:
    """The 4-bit layers that bitsandbytes' own dequantisation, which PEFT calls for DoRA, gets wrong on a CPU."""
    return [
        name
        for name, layer in layers(module)
        if HELD[type(layer).__name__] == "nf4" and layer.weight.device.type == "cpu" and layer.in_features % 64
    ]


@torch.no_grad()
def dequantise(module: Any) -> None:
    """Turns a model's quantised layers, in place and one by one, into the layers they were made of, with the weights
    that were computed with. Where the GPU has no room for them, the model moves to the CPU."""
    held, home = list(layers(module)), room_for(module)
    for name, layer in held:
        weight = weight_of(layer)
        if layer.source_cls is Conv1D:  # GPT-2 keeps its weights transposed
            plain: nn.Module = Conv1D(layer.out_features, layer.in_features)
            weight = weight.T.contiguous()
        else:
            plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        plain.weight = nn.Parameter(weight.to(home), requires_grad=False)
        plain.bias = layer.bias
        module.set_submodule(name, plain.train(layer.training))
    if held:
        module.hf_quantizer.remove_quantization_config(module)
        module.is_loaded_in_4bit = module.is_loaded_in_8bit = False  # PEFT looks here
        module.to(home)


def room_for(module: nn.Module) -> torch.device:
    """Where a model has room in float32: its own device, or else the CPU."""
    device = next(module.parameters()).device
    if device.type == "cuda" and torch.cuda.mem_get_info(device)[0] < 4.4 * numbers(module):
        return torch.device("cpu")
    return device


def numbers(module: nn.Module) -> int:
    """How many numbers a model's weights are; those that are held in few bits count as many as they stand for."""
    held = {id(layer.weight): layer.in_features * layer.out_features for _, layer in layers(module)}
    return sum(held.get(id(parameter), parameter.numel()) for parameter in module.parameters())


def held_bytes(module: nn.Module) -> int:
    """Memory that a model's weights take, with the scales of those in few bits."""
    total = sum(p.numel() * p.element_size() for p in module.parameters())
    for _, layer in layers(module):
        if HELD[type(layer).__name__] == "int8":
            scales = [layer.scale]
        else:
            state = layer.weight.quant_state
            scales = [state.absmax, *([state.state2.absmax] if state.nested else [])]
        total += sum(s.numel() * s.element_size() for s in scales)
    return total
