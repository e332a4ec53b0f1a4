"""A forest's attention in bfloat16 on a CPU: products of each node written out, with a backward of their own.

torch's fused call has a slow backward there: on 32 conversations of about 100 tokens (12 heads of 64) forward and
backward took 74 ms by one fused call a node, 25 ms like this. In float32 the two take the same time, and on long nodes
the fused call needs less memory; both stay with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from luthier.tokens.pack import Node

LONGEST_PATH = 512
"""Most keys of a node that is written out: its scores are kept for the backward."""

_masks: dict[torch.dtype, Tensor] = {}


def lower_right_bias(queries: int, keys: int, dtype: torch.dtype) -> Tensor:
    """What is added to the scores [queries, keys] of a causal block whose last query sees every key."""
    if dtype not in _masks:
        _masks[dtype] = torch.full((LONGEST_PATH, LONGEST_PATH), float("-inf"), dtype=dtype).triu(1)
    return _masks[dtype][keys - queries : keys, :keys]


def keys_of(nodes: Sequence[Node], lead: int) -> list[int]:
    """How many keys each node's queries see: `lead`, the nodes above it, its own."""
    return [lead + node.size + sum(nodes[above].size for above in node.above) for node in nodes]


def write_out(q: Tensor, k: Tensor, v: Tensor, nodes: Sequence[Node], lead: int, scale: float) -> Tensor:
    """Attention output [1, H, T, d]. `q` is [1, H, T, d]; `k` and `v` are [1, Hkv, lead + T, d], whose first `lead`
    keys every query sees."""
    out: Tensor = _Written.apply(q, k, v, nodes, lead, scale)
    return out


def path_of(x: Tensor, node: Node, nodes: Sequence[Node], lead: int) -> Tensor:
    """A node's keys or values [Hkv, K, d]: what all see, then its path from the root, then its own."""
    own = x[:, lead + node.start : lead + node.stop]
    if not node.above and not lead:
        return own
    above = [x[:, lead + nodes[i].start : lead + nodes[i].stop] for i in node.above]
    return torch.cat([x[:, :lead], *above, own], dim=1)


def add_to_path(total: Tensor, part: Tensor, node: Node, nodes: Sequence[Node], lead: int) -> None:
    """Adds gradients [Hkv, K, d] of a node's path to where they belong."""
    total[:, :lead] += part[:, :lead]
    at = lead
    for other in (*(nodes[i] for i in node.above), node):
        total[:, lead + other.start : lead + other.stop] += part[:, at : at + other.size]
        at += other.size


class _Written(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, nodes: Sequence[Node], lead: int, scale: float) -> Tensor:
        heads, groups = q.shape[1], q.shape[1] // k.shape[1]
        out = torch.empty_like(q)
        probs: list[Tensor] = []
        for node in nodes:
            # Query heads of one key/value head are stacked: [Hkv, G·L, d]
            queries = q[0, :, node.start : node.stop].reshape(heads // groups, groups * node.size, -1)
            keys, values = (path_of(x[0], node, nodes, lead) for x in (k, v))
            bias = lower_right_bias(node.size, keys.shape[1], q.dtype)
            bias = bias.expand(groups, -1, -1).reshape(1, groups * node.size, -1)
            weights = torch.softmax(torch.baddbmm(bias, queries, keys.transpose(1, 2), alpha=scale), dim=-1)
            out[0, :, node.start : node.stop] = torch.bmm(weights, values).view(heads, node.size, -1)
            probs.append(weights)
        ctx.save_for_backward(q, k, v, *probs)
        ctx.nodes, ctx.lead, ctx.scale = nodes, lead, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *probs = ctx.saved_tensors
        nodes, lead, scale = ctx.nodes, ctx.lead, ctx.scale
        heads, groups = q.shape[1], q.shape[1] // k.shape[1]
        branched = lead > 0 or any(node.above for node in nodes)
        grad_q = torch.empty_like(q)
        grad_k, grad_v = ((torch.zeros_like if branched else torch.empty_like)(x) for x in (k, v))
        for node, weights in zip(nodes, probs, strict=True):
            rows = slice(node.start, node.stop)
            stacked = (heads // groups, groups * node.size, -1)
            queries, grad_out = q[0, :, rows].reshape(stacked), grad[0, :, rows].reshape(stacked)
            keys, values = (path_of(x[0], node, nodes, lead) for x in (k, v))
            by_value = torch.bmm(weights.transpose(1, 2), grad_out)
            by_weight = torch.bmm(grad_out, values.transpose(1, 2))
            by_score = torch._softmax_backward_data(by_weight, weights, -1, weights.dtype).mul_(scale)
            grad_q[0, :, rows] = torch.bmm(by_score, keys).view(heads, node.size, -1)
            by_key = torch.bmm(by_score.transpose(1, 2), queries)
            if branched:
                add_to_path(grad_k[0], by_key, node, nodes, lead)
                add_to_path(grad_v[0], by_value, node, nodes, lead)
            else:
                grad_k[0, :, rows], grad_v[0, :, rows] = by_key, by_value
        return grad_q, grad_k, grad_v, None, None, None
