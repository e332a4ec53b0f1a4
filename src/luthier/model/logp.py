"""Log-probs of chosen tokens straight from hidden states, forward and backward, without a graph over M×V logits.

∂ log p_t / ∂ logits = onehot(t) − p, so all the backward needs is p. Where the M×V probabilities fit a small budget
they are kept, and a training step multiplies by the head's matrix three times (once forward, twice backward), which is
the least there is; beyond it the chunks are recomputed, a fourth time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from luthier.model.products import across, linear

CHUNK_LOGITS = 1 << 22
"""Most logits in float32 at once: 16 MiB."""
SCORED_STATES, SCORED_VOCAB = 512, 2048
"""States and tokens of a block of logits that are only looked at: 4 MiB. On a CPU this way a product of states with
50 thousand tokens takes three quarters of the time."""
KEPT_LOGITS = 1 << 25
"""Most probabilities kept for the backward, in the arithmetic's own type: 128 MiB in float32, 64 in bfloat16."""


class Scores(NamedTuple):
    """What the head says at the M predictions."""

    logp_M: Tensor
    entropy_M: Tensor | None


class Scaled(NamedTuple):
    """A chunk's probabilities, and what its log-probs are made of."""

    probs: Tensor
    logp: Tensor
    entropy: Tensor | None


def is_plain(layer: Any) -> bool:
    """Whether a head is one matrix (and bias) that can be multiplied by directly."""
    return type(layer) is nn.Linear and type(layer.weight) in (Tensor, nn.Parameter)


def fused_logp(
    layer: nn.Linear, hidden_MD: Tensor, target_M: Tensor, dtype: torch.dtype, scale: float, entropy: bool
) -> Scores:
    """Log-probs (nats, float32) of `target_M` under softmax(scale · (hidden·Wᵀ + b)), with the distribution's
    entropy if asked. Products are in `dtype`, everything else in float32."""
    found = _LogProbs.apply(hidden_MD, layer.weight, layer.bias, target_M, dtype, scale, entropy)
    return Scores(found[0], found[1] if entropy else None)


def scaled_chunk(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, scale: float, entropy: bool
) -> Scaled:
    """Softmax of one chunk, in place in its logits."""
    logits = linear(hidden, weight, bias).float()
    if scale != 1.0:
        logits.mul_(scale)
    probs = torch.softmax(logits, dim=-1)
    # log Σe^z through the likeliest token, whose probability is at least 1/V: torch's softmax is several times
    # quicker than its exp, and log p_t itself may underflow.
    log_total = logits.amax(-1) - probs.amax(-1).log()
    logp = logits.gather(1, target[:, None]).squeeze(1) - log_total
    # H = log Σe^z − Σ p·z
    return Scaled(probs, logp, log_total - torch.linalg.vecdot(probs, logits) if entropy else None)


@torch.no_grad()
def logp_and_top(
    layer: nn.Linear, hidden_UD: Tensor, from_M: Tensor, target_M: Tensor, dtype: torch.dtype, scale: float
) -> tuple[Tensor, Tensor]:
    """Log-probs (nats, float32) of `target_M`, and whether each is the likeliest token, where prediction m is made by
    the hidden state `from_M[m]` of U: one projection for all targets of a state. `from_M` ascends.

    Logits are made block by block of the vocabulary, and never leave the cache."""
    weight, hidden = layer.weight.to(dtype), hidden_UD.to(dtype)
    bias = None if layer.bias is None else layer.bias.to(dtype)
    logp_M, top_M = torch.empty(len(from_M), device=hidden.device), torch.empty_like(from_M, dtype=torch.bool)
    block = SCORED_VOCAB if hidden.device.type == "cpu" else len(weight)
    for part in parts(len(hidden), SCORED_STATES):
        some = hidden[part]
        first, last = torch.searchsorted(from_M, torch.tensor([part.start, part.stop], device=from_M.device)).tolist()
        at, targets = from_M[first:last] - part.start, target_M[first:last]
        chosen = torch.empty(last - first, device=hidden.device)
        totals, largest = [], torch.full((len(some),), -torch.inf, device=hidden.device)
        for tokens in parts(len(weight), block):
            logits = linear(some, weight[tokens], None if bias is None else bias[tokens]).float()
            if scale != 1.0:
                logits.mul_(scale)
            here = torch.nonzero((targets >= tokens.start) & (targets < tokens.stop)).squeeze(1)
            chosen[here] = logits[at[here], targets[here] - tokens.start]
            most = logits.amax(1)
            # As in scaled_chunk: torch's softmax is several times quicker than its exp.
            totals.append(most - torch.softmax(logits, dim=1).amax(1).log())
            largest = torch.maximum(largest, most)
        logp_M[first:last] = chosen - torch.logsumexp(torch.stack(totals), 0)[at]
        top_M[first:last] = chosen == largest[at]
    return logp_M, top_M


def parts(count: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover `count` rows."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_MD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        target_M: Tensor,
        dtype: torch.dtype,
        scale: float,
        entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        weight = weight_VD.detach().to(dtype)
        bias = None if bias_V is None else bias_V.detach().to(dtype)
        hidden = hidden_MD.detach().to(dtype)
        ctx.size = max(1, CHUNK_LOGITS // weight.shape[0])
        ctx.dtype, ctx.scale = dtype, scale
        shape = (len(hidden), len(weight))
        keep = any(ctx.needs_input_grad) and len(hidden) * len(weight) <= KEPT_LOGITS
        kept_MV = hidden.new_empty(shape) if keep else None
        logp_M, entropy_M = (torch.zeros(len(hidden), device=hidden.device) for _ in range(2))
        for part in parts(len(hidden), ctx.size):
            chunk = scaled_chunk(hidden[part], weight, bias, target_M[part], scale, entropy)
            logp_M[part] = chunk.logp
            if chunk.entropy is not None:
                entropy_M[part] = chunk.entropy
            if kept_MV is not None:
                kept_MV[part] = chunk.probs
        ctx.save_for_backward(hidden_MD, weight_VD, bias_V, target_M, entropy_M, kept_MV)
        if not entropy:
            ctx.mark_non_differentiable(entropy_M)
        return logp_M, entropy_M

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logp_M: Tensor, grad_entropy_M: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden_MD, weight_VD, bias_V, target_M, entropy_M, kept_MV = ctx.saved_tensors
        weight, hidden = weight_VD.to(ctx.dtype), hidden_MD.to(ctx.dtype)
        bias = None if bias_V is None else bias_V.to(ctx.dtype)
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight_VD) if needs_weight and kept_MV is None else None
        grad_bias = torch.zeros_like(bias_V) if needs_bias else None
        grad_MV = None if kept_MV is None else torch.empty_like(kept_MV)
        for part in parts(len(hidden), ctx.size):
            target = target_M[part]
            if kept_MV is not None:
                probs = kept_MV[part].float()
            else:
                probs = scaled_chunk(hidden[part], weight, bias, target, ctx.scale, False).probs
            grad = probs * -grad_logp_M[part, None]
            grad.scatter_add_(1, target[:, None], grad_logp_M[part, None])
            if grad_entropy_M is not None and bool(grad_entropy_M.any()):
                # ∂H/∂logits = −p·(log p + H)
                spread = torch.special.entr(probs) - probs * entropy_M[part, None]
                grad += spread * grad_entropy_M[part, None]
            if ctx.scale != 1.0:
                grad.mul_(ctx.scale)
            if grad_bias is not None:
                grad_bias += grad.sum(0)
            if grad_MV is not None:
                grad_MV[part] = grad
                continue
            grad = grad.to(ctx.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = linear(grad, weight.T)
            if grad_weight is not None:
                grad_weight += across(grad, hidden[part])
        if grad_MV is not None:
            grad_hidden = linear(grad_MV, weight.T) if needs_hidden else None
            grad_weight = across(grad_MV, hidden).to(weight_VD.dtype) if needs_weight else None
        return None if grad_hidden is None else grad_hidden.to(hidden_MD.dtype), grad_weight, grad_bias, *[None] * 4
