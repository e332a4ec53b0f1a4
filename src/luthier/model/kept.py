"""Keys and values of the prompts that are sampled from: written once, each into a slot of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from luthier.model.attention import Store


class Kept:
    """The keys and values of B prompts, in the first B slots of a store that may have more. New prompts go into the
    slots behind them; where one has ended, the last one moves into its slot. All others stay where they are: a prompt
    may be most of the memory, and rows come and go every few tokens."""

    def __init__(self) -> None:
        self.lengths_B = torch.zeros(0, dtype=torch.int64)
        """Of each prompt its length, what all have in common included."""
        self.common: Store = {}
        """Layer -> keys [1, Hkv, C, d], values [1, Hkv, d, C] of the first tokens of every prompt; C may be 0."""
        self.store: Store = {}
        """Layer -> keys [S, Hkv, M, d], values [S, Hkv, d, M] of the others, left-aligned, of one type. One query goes
        through values that lie like this in little more than half the time."""
        self.shape = (0, 0)
        """S, M: what every layer's store has when it is written to the next time."""
        self.shared = self.longest = 0
        """C, and the most other tokens that one of the B prompts has."""

    def __len__(self) -> int:
        return len(self.lengths_B)

    def of(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys [B, Hkv, L, d] of all that the prompts have not in common, and their values with zeros behind them
        [B, Hkv, d, M]."""
        k, v = self.store[layer]
        return k[: len(self), :, : self.longest], v[: len(self)]

    def open(self, lengths_b: Tensor, shared: int) -> int:
        """Slots for more prompts of these lengths, `shared` tokens of which all have in common; the first of them."""
        first = len(self)
        self.lengths_B = torch.cat([self.lengths_B.to(lengths_b.device), lengths_b])
        self.shared = shared
        self._measure()
        if len(self) > self.shape[0] or self.longest > self.shape[1]:
            self.shape = (len(self), self.longest)
        return first

    def write(
        self, layer: int, k: Tensor, v: Tensor, common_C: Tensor, own_b: Sequence[slice | Tensor], first: int
    ) -> None:
        """Writes what one layer made of some prompts into the slots from `first` on. k, v are [1, Hkv, T, d]; which of
        the T all have in common, and which are each one's own. Values come in the arithmetic's own type; keys may not,
        where autocast let the rotation widen them."""
        if layer not in self.common:
            self.common[layer] = (k[:, :, common_C].to(v.dtype), v[:, :, common_C].mT.contiguous())
        self.store[layer] = kept_k, kept_v = self._with_room(layer, k, v)
        lengths = (self.lengths_B[first : first + len(own_b)] - self.shared).tolist()
        for slot, (own, length) in enumerate(zip(own_b, lengths, strict=True), first):
            kept_k[slot, :, :length], kept_v[slot, :, :, :length] = k[0][:, own].to(v.dtype), v[0][:, own].mT
            # Never garbage: what is not seen is multiplied by 0.
            kept_k[slot, :, length:], kept_v[slot, :, :, length:] = 0, 0

    def drop(self, going_b: Tensor) -> Tensor:
        """Goes on with some of the prompts (indices, in order); returns which one stands in each slot now."""
        order_b = torch.arange(len(going_b), device=going_b.device)
        free = torch.ones(len(self), dtype=torch.bool, device=going_b.device).index_fill_(0, going_b, False)
        holes, moving = free[: len(going_b)].nonzero().squeeze(1), going_b[going_b >= len(going_b)]
        order_b[holes] = moving
        self.lengths_B = self.lengths_B[order_b]
        self._measure()
        for both in self.store.values():
            for store in both:
                store[holes] = store[moving]
        return order_b

    def _measure(self) -> None:
        self.longest = int(self.lengths_B.max()) - self.shared if len(self) else 0

    def _with_room(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's store, grown to `shape` where it is smaller. Layer by layer, so that there are never two of all."""
        slots, width = self.shape
        old = self.store.pop(layer, None)
        if old is not None and old[0].shape[::2] == (slots, width):
            return old
        made_k = v.new_empty(slots, k.shape[1], width, k.shape[3])
        made_v = v.new_empty(slots, v.shape[1], v.shape[3], width)
        if old is not None:
            old_k, old_v = old[0][:slots, :, :width], old[1][:slots, :, :, :width]
            B, L = len(old_k), old_k.shape[2]
            made_k[:B, :, :L], made_v[:B, :, :, :L] = old_k, old_v
            made_k[:B, :, L:], made_v[:B, :, :, L:] = 0, 0
        return made_k, made_v
