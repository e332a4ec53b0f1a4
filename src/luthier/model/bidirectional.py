"""Attention to both sides, for encoders: query q sees key k iff both lie in the same sequence.

Sequences stand one behind the other and share nothing: a token's state depends on all of its sequence, so a common
prefix has no common states. On a CPU: one fused call for all sequences of one length. On a GPU: FlexAttention with the
rule as its mask; where attention has dropout, which FlexAttention lacks, fused calls there too.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import bidirectional_mask_function

from luthier.model.attention import Allowed, Extras, Rule, active_plan, compiled_flex, plain, repeat_heads
from luthier.tokens.pack import Batch, nodes

NAME = "luthier_both_sides"


class BothSidesPlan:
    """Attention within one Batch of whole sequences, forward and backward."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        runs = nodes(batch.end_T)
        assert len(runs) == batch.n and not any(run.above for run in runs), "an encoder's sequences share nothing"
        # Sequences of one length that stand together are one call. Short ones are many, and a call for each would cost
        # more than what it computes.
        self.groups = [(len(list(same)), size) for size, same in groupby(run.size for run in runs)]
        self.block_masks: dict[Allowed | None, BlockMask] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, allowed: Allowed | None, extras: Extras) -> Tensor:
        """See Plan. `layer` is of no use here: nothing is kept for later."""
        plainly = extras.softcap is None and extras.sinks_H is None
        if q.device.type == "cuda" and plainly and not extras.dropout:
            return self._by_flex(q, k, v, allowed, extras)
        heads, cuts = q.shape[1], [count * size for count, size in self.groups]
        parts = zip(*(x.split(cuts, dim=2) for x in (q, repeat_heads(k, heads), repeat_heads(v, heads))), strict=True)
        outs = []
        for group, qkv in zip(self.groups, parts, strict=True):
            q_N, k_N, v_N = (x[0].unflatten(1, group).transpose(0, 1) for x in qkv)
            outs.append(whole_sequences(q_N, k_N, v_N, allowed, extras).transpose(0, 1).flatten(1, 2)[None])
        return torch.cat(outs, dim=2)

    def block_mask(self, allowed: Allowed | None) -> BlockMask:
        """The rule as a FlexAttention mask; one per layer type and batch. Where nothing is shared, tokens whose
        subtree ends at the same place are those of one sequence."""
        if allowed not in self.block_masks:
            end_T, pos_T, size = self.batch.end_T, self.batch.pos_T, self.batch.tokens

            def seen(_b: Tensor, _h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
                rule = end_T[q_idx] == end_T[kv_idx]
                return rule if allowed is None else rule & allowed(pos_T[q_idx], pos_T[kv_idx])

            self.block_masks[allowed] = create_block_mask(seen, None, None, size, size, device=end_T.device.type)
        return self.block_masks[allowed]

    def _by_flex(self, q: Tensor, k: Tensor, v: Tensor, allowed: Allowed | None, extras: Extras) -> Tensor:
        grouped = q.shape[1] != k.shape[1]
        mask = self.block_mask(allowed)
        out: Tensor = compiled_flex()(q, k, v, block_mask=mask, scale=extras.scale, enable_gqa=grouped)
        return out


def whole_sequences(q: Tensor, k: Tensor, v: Tensor, allowed: Allowed | None, extras: Extras) -> Tensor:
    """One fused call: every token of some sequences of one length [N, H, L, d] over all of its own sequence, or over
    what its layer's window lets it see."""
    seen = None
    if allowed is not None:
        position = torch.arange(q.shape[2], device=q.device)
        window = allowed(position[:, None], position[None, :])
        seen = None if bool(window.all()) else window
    if extras.softcap is not None or extras.sinks_H is not None:
        everything = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device)
        return plain(q, k, v, everything if seen is None else seen, extras)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=extras.dropout, scale=extras.scale)


def _mask(*, mask_function: Callable[..., Tensor], **_: Any) -> Rule:
    if mask_function is bidirectional_mask_function:
        return Rule(active_plan(), None)
    # Rules on indices; within one sequence they say the same of positions.
    return Rule(active_plan(), lambda q_pos, k_pos: mask_function(0, 0, q_pos, k_pos))


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
    # As attention.py's, but for the layer's number: some encoders (DistilBERT) give their layers none.
    extras = Extras(query.shape[-1] ** -0.5 if scaling is None else scaling, dropout, softcap, s_aux)
    return attention_mask.plan.attend(0, query, key, value, attention_mask.allowed, extras).transpose(1, 2), None


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, _mask)
