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
    """Attention within one Batch, forward and backward. `keep` collects each layer's keys and values (prefill).

    `prefix` holds keys and values [1, Hkv, K, d] of every layer, which every query sees: they stand at the positions
    0 to K, and those of the batch begin at K.
    """

    def __init__(
        self,
        batch: Batch,
        keep: dict[int, tuple[Tensor, Tensor]] | None = None,
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
            self.keep[layer] = (k, v)
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


class DecodePlan:
    """One new token for each of N = B·G rows: G samples of each of B prompts, the rows of a prompt standing together.
    A row attends to its prompt's keys, stored and read once for its G samples, and to its own."""

    def __init__(self, prompts: dict[int, tuple[Tensor, Tensor]], lengths_B: Tensor, samples: int, room: int) -> None:
        """`prompts`: layer -> keys, values [B, Hkv, L, d], left-aligned; `room`: most tokens a row may get."""
        self.prompts, self.lengths_B, self.samples, self.room = prompts, lengths_B, samples, room
        self.step = 0
        self.own: dict[int, tuple[Tensor, Tensor]] = {}

    def keep_prompts(self, keep_B: Tensor) -> None:
        """Goes on with some of the prompts only (indices), and with all samples of each."""
        rows = (keep_B[:, None] * self.samples + torch.arange(self.samples, device=keep_B.device)).flatten()
        self.lengths_B = self.lengths_B[keep_B]
        self.prompts = {layer: (k[keep_B], v[keep_B]) for layer, (k, v) in self.prompts.items()}
        self.own = {layer: (k[rows], v[rows]) for layer, (k, v) in self.own.items()}

    def advance(self) -> None:
        """The token of this step is done in every layer."""
        self.step += 1

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, allowed: Allowed | None, extras: Extras) -> Tensor:
        """See Plan; T is N here."""
        H, N, Hkv, t = q.shape[1], q.shape[2], k.shape[1], self.step + 1
        by_prompt = (N // self.samples, self.samples)
        own_k, own_v = (store[:, :, :t] for store in self._grow(layer, k, v))
        prompt_k, prompt_v = self.prompts[layer]
        q = q[0].transpose(0, 1).reshape(N, Hkv, H // Hkv, -1)  # queries of one key/value head together
        on_prompt = torch.einsum("bshgd,bhld->bshgl", q.unflatten(0, by_prompt), prompt_k).flatten(0, 1)
        score = torch.cat([on_prompt, torch.einsum("nhgd,nhtd->nhgt", q, own_k)], dim=-1) * extras.scale
        if extras.softcap is not None:
            score = extras.softcap * torch.tanh(score / extras.softcap)
        score = score.masked_fill(~self._seen(prompt_k.shape[2], t, allowed)[:, None, None, :], float("-inf"))
        if extras.sinks_H is not None:
            sinks = extras.sinks_H.view(1, Hkv, H // Hkv, 1).expand(N, -1, -1, 1).to(score.dtype)
            score = torch.cat([score, sinks], dim=-1)
        probs = torch.softmax(score.float(), dim=-1).to(v.dtype)
        on_prompt, on_own = probs[..., : prompt_k.shape[2]], probs[..., prompt_k.shape[2] :][..., :t]
        out = torch.einsum("bshgl,bhld->bshgd", on_prompt.unflatten(0, by_prompt), prompt_v).flatten(0, 1)
        out = out + torch.einsum("nhgt,nhtd->nhgd", on_own, own_v)
        return out.reshape(N, H, -1).transpose(0, 1)[None]

    def _seen(self, L: int, t: int, allowed: Allowed | None) -> Tensor:
        """[N, L + t]: which of the prompt's and of its own keys a row sees."""
        length_N = self.lengths_B.repeat_interleave(self.samples)[:, None]
        column, own = (torch.arange(n, device=length_N.device) for n in (L, t))
        seen = torch.cat([column < length_N, (own >= 0).expand(len(length_N), t)], dim=1)
        if allowed is None:
            return seen
        k_pos = torch.cat([column.expand(len(length_N), L), length_N + own], dim=1)
        return seen & allowed(length_N + self.step, k_pos)

    def _grow(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if layer not in self.own:
            self.own[layer] = (
                k.new_empty(k.shape[2], k.shape[1], self.room, k.shape[3]),
                v.new_empty(v.shape[2], v.shape[1], self.room, v.shape[3]),
            )
        for store, new in zip(self.own[layer], (k, v), strict=True):
            store[:, :, self.step] = new[0].transpose(0, 1)
        return self.own[layer]
