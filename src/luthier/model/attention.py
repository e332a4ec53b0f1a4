"""Attention over a Batch, for every architecture that uses transformers' attention interface.

A *plan* knows which keys a query sees. The forward that uses it is wrapped in `using(plan)`; transformers then asks
`_mask` for each layer type's mask, gets a `Rule` (the plan plus the layer's own window or chunk rule) and hands it to
`_attend` in every layer. The rule travels as an argument, so gradient checkpointing recomputes with the right one.

On a CPU: one fused call per node over the node's path. On a GPU: FlexAttention with the one-line rule as its mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import causal_mask_function

from luthier.model.attend import LONGEST_PATH, keys_of, write_out
from luthier.tokens.pack import Batch, Node, nodes

NAME = "luthier"

Allowed = Callable[[Tensor, Tensor], Tensor]
"""(positions of queries, positions of keys) -> bool, broadcast: the layer's own window or chunk rule."""
Store = dict[int, tuple[Tensor, Tensor]]
"""Layer -> keys, values."""


class Extras(NamedTuple):
    """What some architectures add to plain attention."""

    scale: float
    dropout: float = 0.0
    softcap: float | None = None
    sinks_H: Tensor | None = None


class Plan(Protocol):
    """Anything that can attend: `q`, `k`, `v` are [1, heads, T, head width]; returns [1, H, T, width of v]."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, allowed: Allowed | None, extras: Extras) -> Tensor:
        """Attention output of one layer."""
        ...


@dataclass(frozen=True)
class Rule:
    """What transformers carries as the attention mask: the plan, and what this layer type allows besides."""

    plan: Plan
    allowed: Allowed | None


_active: ContextVar[Plan] = ContextVar("plan")


@contextmanager
def using(plan: Plan) -> Iterator[None]:
    """The model's forward inside this block attends by `plan`."""
    token = _active.set(plan)
    try:
        yield
    finally:
        _active.reset(token)


def active_plan() -> Plan:
    """The plan of the block that the forward under way stands in."""
    return _active.get()


def _mask(*, mask_function: Callable[..., Tensor], **_: Any) -> Rule:
    if mask_function is causal_mask_function:
        return Rule(_active.get(), None)
    # transformers' mask functions are rules on indices; on positions of one path they say the same thing.
    return Rule(_active.get(), lambda q_pos, k_pos: mask_function(0, 0, q_pos, k_pos))


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Rule,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    extras = Extras(query.shape[-1] ** -0.5 if scaling is None else scaling, dropout, softcap, s_aux)
    out = attention_mask.plan.attend(module.layer_idx, query, key, value, attention_mask.allowed, extras)
    return out.transpose(1, 2), None


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, _mask)


def repeat_heads(x: Tensor, heads: int) -> Tensor:
    """Grouped-query attention: each key/value head serves `heads / x.shape[1]` query heads in a row."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)


def plain(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, extras: Extras) -> Tensor:
    """Attention written out, for soft-capped scores and attention sinks, which the fused call lacks.
    `seen` is a boolean mask, True where the query sees the key, broadcast to [1, H, Q, K]."""
    score = (q @ k.transpose(-1, -2)) * extras.scale
    if extras.softcap is not None:
        score = extras.softcap * torch.tanh(score / extras.softcap)
    score = score.masked_fill(~seen, float("-inf"))
    if extras.sinks_H is not None:
        sinks = extras.sinks_H.view(1, -1, 1, 1).expand(score.shape[0], -1, score.shape[2], 1).to(score.dtype)
        probs = torch.softmax(torch.cat([score, sinks], dim=-1).float(), dim=-1)[..., :-1]
    else:
        probs = torch.softmax(score.float(), dim=-1)
    return F.dropout(probs.to(v.dtype), extras.dropout) @ v


@cache
def lower_right(queries: int, keys: int, device: torch.device) -> Tensor:
    """Causal mask whose last query sees every key. Cached: branches of equal shape are common in rollouts."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def one_node(q: Tensor, k: Tensor, v: Tensor, allowed: Allowed | None, extras: Extras) -> Tensor:
    """One fused call: a node's queries over the keys of its path, which end with its own."""
    rows, cols = q.shape[2], k.shape[2]
    seen = None if rows == cols or rows == 1 else lower_right(rows, cols, q.device)
    causal = rows == cols and rows > 1
    if allowed is not None:
        positions = torch.arange(cols, device=q.device)
        window = allowed(positions[cols - rows :, None], positions[None, :])
        full = lower_right(rows, cols, q.device)
        if not bool((window & full).equal(full)):  # the window is shorter than the path
            seen, causal = window & full, False
    if extras.softcap is not None or extras.sinks_H is not None:
        return plain(q, k, v, lower_right(rows, cols, q.device) if seen is None else seen, extras)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=seen, is_causal=causal, dropout_p=extras.dropout, scale=extras.scale
    )


def joined(parts: Sequence[Tensor], path: Sequence[int]) -> Tensor:
    """Some of the parts of the keys or values, one after another."""
    return parts[path[0]] if len(path) == 1 else torch.cat([parts[i] for i in path], dim=2)


class ForestPlan:
    """Attention within one Batch, forward and backward. `keep` hears each layer's keys and values (prefill).

    `prefix` holds keys and values [1, Hkv, K, d] of every layer, which every query sees: they stand at the positions
    0 to K, and those of the batch begin at K.
    """

    def __init__(
        self,
        batch: Batch,
        keep: Callable[[int, Tensor, Tensor], None] | None = None,
        prefix: Sequence[tuple[Tensor, Tensor]] = (),
    ) -> None:
        self.batch, self.keep, self.prefix = batch, keep, prefix
        self.lead = prefix[0][0].shape[2] if prefix else 0
        self.flex = batch.ids_T.device.type == "cuda"
        self.nodes: list[Node] = [] if self.flex else nodes(batch.end_T)
        self.longest = max(keys_of(self.nodes, self.lead), default=0)
        self.block_masks: dict[Allowed | None, BlockMask] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, allowed: Allowed | None, extras: Extras) -> Tensor:
        """See Plan."""
        if self.lead:
            k, v = (torch.cat([p.to(x.dtype), x], dim=2) for p, x in zip(self.prefix[layer], (k, v), strict=True))
        if self.keep is not None:
            self.keep(layer, k, v)
        if self.flex:
            return self._by_flex(q, k, v, allowed, extras)
        if self._can_be_written_out(allowed, extras):
            half = torch.get_autocast_dtype("cpu")
            return write_out(q.to(half), k.to(half), v.to(half), self.nodes, self.lead, extras.scale)
        # Split once: a slice per node would cost a whole zero tensor each in the backward.
        sizes = [node.size for node in self.nodes]
        before = [self.lead] if self.lead else []
        q_parts = q.split(sizes, dim=2)
        k_parts, v_parts = (repeat_heads(x, q.shape[1]).split([*before, *sizes], dim=2) for x in (k, v))
        outs = []
        for i, node in enumerate(self.nodes):
            path = [*range(len(before)), *(len(before) + j for j in (*node.above, i))]
            outs.append(one_node(q_parts[i], joined(k_parts, path), joined(v_parts, path), allowed, extras))
        return torch.cat(outs, dim=2)

    def _can_be_written_out(self, allowed: Allowed | None, extras: Extras) -> bool:
        plain = extras.softcap is None and extras.sinks_H is None and not extras.dropout and allowed is None
        half = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
        return plain and half and self.longest <= LONGEST_PATH

    def block_mask(self, allowed: Allowed | None) -> BlockMask:
        """The rule as a FlexAttention mask; one per layer type and batch."""
        if allowed not in self.block_masks:
            end_T, pos_T, size, lead = self.batch.end_T, self.batch.pos_T, self.batch.tokens, self.lead
            end_K, pos_K = end_T, pos_T
            if lead:  # columns that every query sees, before the tokens' own
                end_K = torch.cat([end_T.new_full((lead,), size), end_T])
                pos_K = torch.cat([torch.arange(lead, device=pos_T.device), pos_T])

            def seen(_b: Tensor, _h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
                rule = (kv_idx - lead <= q_idx) & (q_idx < end_K[kv_idx])
                return rule if allowed is None else rule & allowed(pos_T[q_idx], pos_K[kv_idx])

            self.block_masks[allowed] = create_block_mask(seen, None, None, size, lead + size, device=end_T.device.type)
        return self.block_masks[allowed]

    def _by_flex(self, q: Tensor, k: Tensor, v: Tensor, allowed: Allowed | None, extras: Extras) -> Tensor:
        if extras.dropout:
            raise NotImplementedError("FlexAttention has no dropout; set the model's attention_dropout to 0")
        softcap = extras.softcap

        def capped(score: Tensor, *_: Tensor) -> Tensor:
            return softcap * torch.tanh(score / softcap)  # type: ignore[operator]

        out, aux = compiled_flex()(
            q,
            k,
            v,
            score_mod=None if softcap is None else capped,
            block_mask=self.block_mask(allowed),
            scale=extras.scale,
            enable_gqa=q.shape[1] != k.shape[1],
            return_aux=AuxRequest(lse=True),
        )
        if extras.sinks_H is None:
            return out
        # A sink adds exp(sink) to the softmax's denominator: out · e^lse / (e^lse + e^sink).
        return out * torch.sigmoid(aux.lse - extras.sinks_H.view(1, -1, 1)).unsqueeze(-1).to(out.dtype)


@cache
def compiled_flex() -> Callable[..., Any]:
    """FlexAttention is fast, and its backward exists, only when compiled; on a CPU it is used for checking masks."""
    compiled: Any = torch.compile(flex_attention, dynamic=True) if torch.cuda.is_available() else flex_attention
    return compiled
