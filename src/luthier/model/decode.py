"""Attention while sampling: one new token for each live row, the rows of a prompt reading its keys once."""

from __future__ import annotations

import torch
from torch import Tensor

from luthier.model.attention import Allowed, Extras

FIRST_ROOM = 32
"""Tokens that a row's own keys have room for at first; doubled as they grow."""


class DecodePlan:
    """One new token for each of N rows, which stand in the order of their prompts. A row attends to its prompt's keys,
    stored and read once for all its samples, and to its own. Rows that have ended are let go one by one: the model
    computes live rows only."""

    def __init__(self, prompts: dict[int, tuple[Tensor, Tensor]], lengths_B: Tensor, samples: int, room: int) -> None:
        """`prompts`: layer -> keys, values [B, Hkv, L, d], of one type, left-aligned; `room`: most tokens a row may
        get."""
        self.prompts = dict(prompts)
        self.lengths_B, self.room = lengths_B, room
        self.prompt_N = torch.arange(len(lengths_B), device=lengths_B.device).repeat_interleave(samples)
        self.step, self.widest = 0, samples
        self.own: dict[int, tuple[Tensor, Tensor]] = {}
        self.seen: dict[Allowed | None, Tensor | None] = {}
        self.place_N: Tensor | None = None
        """Where each row stands in the rectangle [B, widest] of prompts and their rows; None: they fill it."""

    def keep(self, rows_N: Tensor) -> None:
        """Goes on with some of the rows only (indices, in order)."""
        # Layer by layer, so that at no time there are two of all.
        for layer, (k, v) in self.own.items():
            self.own[layer] = (self._resized(k, rows_N, k.shape[2]), self._resized(v, rows_N, v.shape[2]))
        prompts_B, self.prompt_N = torch.unique_consecutive(self.prompt_N[rows_N], return_inverse=True)
        if len(prompts_B) < len(self.lengths_B):
            self.lengths_B = self.lengths_B[prompts_B]
            longest = int(self.lengths_B.max())
            for layer, (k, v) in self.prompts.items():
                self.prompts[layer] = (k[prompts_B, :, :longest], v[prompts_B, :, :longest])
        counts_B = torch.bincount(self.prompt_N, minlength=len(self.lengths_B))
        self.widest = int(counts_B.max())
        first_B = counts_B.cumsum(0) - counts_B
        slot_N = torch.arange(len(rows_N), device=rows_N.device) - first_B[self.prompt_N]
        full = len(rows_N) == self.widest * len(self.lengths_B)
        self.place_N = None if full else self.prompt_N * self.widest + slot_N

    def positions(self) -> Tensor:
        """The position of each row's next token [N]."""
        return self.lengths_B[self.prompt_N] + self.step

    def advance(self) -> None:
        """The token of this step is done in every layer."""
        self.step += 1
        self.seen = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, allowed: Allowed | None, extras: Extras) -> Tensor:
        """See Plan; T is N here."""
        H, N, Hkv = q.shape[1], q.shape[2], k.shape[1]
        own_k, own_v = self._grow(layer, k.to(v.dtype), v)
        prompt_k, prompt_v = self.prompts[layer]
        L = prompt_k.shape[2]
        # Queries of one key/value head together: [N, Hkv, H/Hkv, d]
        q_N = q[0].to(v.dtype).transpose(0, 1).reshape(N, Hkv, H // Hkv, -1)
        on_prompt = self._rows(self._by_prompt(q_N) @ prompt_k.transpose(-1, -2))
        score = torch.cat([on_prompt, q_N @ own_k.transpose(-1, -2)], dim=-1).float().mul_(extras.scale)
        if extras.softcap is not None:
            score = extras.softcap * torch.tanh(score / extras.softcap)
        if (seen := self._seen(L, allowed)) is not None:
            score.masked_fill_(~seen[:, None, None, :], float("-inf"))
        if extras.sinks_H is not None:
            sinks = extras.sinks_H.view(1, Hkv, H // Hkv, 1).expand(N, -1, -1, 1).to(score.dtype)
            score = torch.cat([score, sinks], dim=-1)
        probs = torch.softmax(score, dim=-1).to(v.dtype)
        out = self._rows(self._by_prompt(probs[..., :L]) @ prompt_v)
        out = out + probs[..., L : L + own_v.shape[2]] @ own_v
        return out.reshape(N, H, -1).transpose(0, 1)[None]

    def _by_prompt(self, x_N: Tensor) -> Tensor:
        """[N, Hkv, g, e] -> [B, Hkv, widest·g, e], zeros where a prompt has fewer rows."""
        size = len(self.lengths_B) * self.widest
        if self.place_N is not None:
            x_N = x_N.new_zeros(size, *x_N.shape[1:]).index_copy_(0, self.place_N, x_N)
        _, Hkv, g, e = x_N.shape
        return x_N.view(-1, self.widest, Hkv, g, e).transpose(1, 2).reshape(-1, Hkv, self.widest * g, e)

    def _rows(self, x_B: Tensor) -> Tensor:
        """The way back: [B, Hkv, widest·g, e] -> [N, Hkv, g, e]."""
        B, Hkv, _, e = x_B.shape
        x_N = x_B.view(B, Hkv, self.widest, -1, e).transpose(1, 2).reshape(B * self.widest, Hkv, -1, e)
        return x_N if self.place_N is None else x_N.index_select(0, self.place_N)

    def _seen(self, L: int, allowed: Allowed | None) -> Tensor | None:
        """[N, L + t]: which of the prompt's and of its own keys a row sees; None: all. The same in every layer of a
        kind, so made once a step."""
        if allowed not in self.seen:
            length_N1 = self.lengths_B[self.prompt_N, None]
            column, own = (torch.arange(n, device=length_N1.device) for n in (L, self.step + 1))
            seen = torch.cat([column < length_N1, (own >= 0).expand(len(length_N1), -1)], dim=1)
            if allowed is not None:
                k_pos = torch.cat([column.expand(len(length_N1), L), length_N1 + own], dim=1)
                seen = seen & allowed(length_N1 + self.step, k_pos)
            self.seen[allowed] = None if bool(seen.all()) else seen
        return self.seen[allowed]

    def _grow(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The rows' own keys and values [N, Hkv, t, d], this step's included."""
        if layer not in self.own:
            room = min(FIRST_ROOM, self.room)
            self.own[layer] = (
                k.new_empty(k.shape[2], k.shape[1], room, k.shape[3]),
                v.new_empty(v.shape[2], v.shape[1], room, v.shape[3]),
            )
        elif self.own[layer][0].shape[2] == self.step:
            room = min(2 * self.step, self.room)
            self.own[layer] = (
                self._resized(self.own[layer][0], None, room),
                self._resized(self.own[layer][1], None, room),
            )
        for store, new in zip(self.own[layer], (k, v), strict=True):
            store[:, :, self.step] = new[0].transpose(0, 1)
        own_k, own_v = self.own[layer]
        return own_k[:, :, : self.step + 1], own_v[:, :, : self.step + 1]

    def _resized(self, store: Tensor, rows_N: Tensor | None, room: int) -> Tensor:
        """Some rows of a store, with room for `room` tokens; what was never written is not copied."""
        done = store[:, :, : self.step]
        done = done if rows_N is None else done.index_select(0, rows_N)
        grown = store.new_empty(len(done), store.shape[1], room, store.shape[3])
        grown[:, :, : self.step] = done
        return grown
