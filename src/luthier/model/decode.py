"""Attention while sampling: one new token for each live row, the rows of a prompt reading its keys once."""

from __future__ import annotations

import torch
from torch import Tensor

from luthier.model.attention import Allowed, Extras, Store
from luthier.model.kept import Kept

FIRST_ROOM = 32
"""Tokens that a row's own keys have room for at first; doubled as they grow."""
PAID_BACK = 5
"""Steps in which letting rows go has to save what it costs."""


class DecodePlan:
    """One new token for each of N rows, which stand in the order of their prompts. A row attends to the keys of what
    all prompts begin with, stored and read once for all; to its prompt's, once for all its samples; and to its own.
    Rows that have ended are let go one by one: the model computes live rows only; new ones may join at any step."""

    def __init__(self, samples: int, room: int) -> None:
        """`samples`: rows of a prompt; `room`: most tokens a row may get."""
        self.samples, self.room = samples, room
        self.kept = Kept()
        """The prompts' keys and values."""
        self.prompt_N = self.start_N = torch.zeros(0, dtype=torch.int64)
        """Of each row its prompt, and the step at which it joined."""
        self.step = self.widest = 0
        self.own: Store = {}
        """Layer -> keys, values of the rows' own tokens [N, Hkv, steps, d]; before a row joined, zeros. (Few of them:
        values that lie as the prompts' do would be slower to go through, and to write.)"""
        self.unseen: dict[Allowed | None, Tensor | None] = {}
        self.place_N: Tensor | None = None
        """Where each row stands in the rectangle [B, widest] of prompts and their rows; None: they fill it."""

    def admit(self, count: int) -> None:
        """The rows of the last so many prompts that are kept, after those that are there."""
        fresh_b = torch.arange(len(self.kept) - count, len(self.kept), device=self.kept.lengths_B.device)
        fresh_N = fresh_b.repeat_interleave(self.samples)
        for layer, (k, v) in self.own.items():
            self.own[layer] = (with_rows(k, len(fresh_N)), with_rows(v, len(fresh_N)))
        self.prompt_N = torch.cat([self.prompt_N.to(fresh_N.device), fresh_N])
        self.start_N = torch.cat([self.start_N.to(fresh_N.device), torch.full_like(fresh_N, self.step)])
        self._place()

    def pays(self, going: int) -> bool:
        """Whether going on with so many rows only is worth it: what the others read at each step is saved, what these
        have written is read and written once."""
        gone, prompt = len(self.prompt_N) - going, self.kept.shared + self.kept.longest
        return gone * (prompt / self.samples + self.step) * PAID_BACK >= 2 * going * self.step

    def keep(self, rows_N: Tensor) -> Tensor:
        """Goes on with some of the rows only (indices); returns them in the order in which they stand from here on."""
        prompts_B, of_N = torch.unique(self.prompt_N[rows_N], return_inverse=True)
        slot_B = torch.argsort(self.kept.drop(prompts_B))
        self.prompt_N, order_N = torch.sort(slot_B[of_N], stable=True)
        rows_N = rows_N[order_N]
        self.start_N = self.start_N[rows_N]
        if len(rows_N) == 0:  # those that join later begin anew
            self.own, self.step = {}, 0
            return rows_N
        first = int(self.start_N.min())  # what only rows wrote that have gone is not kept
        # Layer by layer, so that at no time there are two of all.
        for layer in self.own:
            self._resize(layer, rows_N, first)
        self.step, self.start_N = self.step - first, self.start_N - first
        self._place()
        return rows_N

    def _place(self) -> None:
        """Where the rows stand."""
        counts_B = torch.bincount(self.prompt_N, minlength=len(self.kept))
        self.widest = int(counts_B.max())
        first_B = counts_B.cumsum(0) - counts_B
        slot_N = torch.arange(len(self.prompt_N), device=counts_B.device) - first_B[self.prompt_N]
        full = len(self.prompt_N) == self.widest * len(self.kept)
        self.place_N = None if full else self.prompt_N * self.widest + slot_N
        self.unseen = {}

    def positions(self) -> Tensor:
        """The position of each row's next token [N]."""
        return self.kept.lengths_B[self.prompt_N] + self.step - self.start_N

    def advance(self) -> None:
        """The token of this step is done in every layer."""
        self.step += 1
        self.unseen = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, allowed: Allowed | None, extras: Extras) -> Tensor:
        """See Plan; T is N here."""
        H, N, Hkv = q.shape[1], q.shape[2], k.shape[1]
        own_k, own_v = self._grow(layer, k.to(v.dtype), v)
        prompt_k, prompt_v = self.kept.of(layer)
        common_k, common_v = self.kept.common[layer]
        C = common_k.shape[2]
        L = C + prompt_k.shape[2]
        # Queries of one key/value head together: [N, Hkv, H/Hkv, d]
        q_N = q[0].to(v.dtype).transpose(0, 1).contiguous().view(N, Hkv, H // Hkv, -1)
        on_prompt = self._rows(products(self._by_prompt(q_N), prompt_k))
        on_common = [_apart(products(_together(q_N), common_k), N)] if C else []
        score = torch.cat([*on_common, on_prompt, products(q_N, own_k)], dim=-1).float().mul_(extras.scale)
        if extras.softcap is not None:
            score = extras.softcap * torch.tanh(score / extras.softcap)
        if (unseen := self._unseen(L, allowed)) is not None:
            score.masked_fill_(unseen[:, None, None, :], float("-inf"))
        if extras.sinks_H is not None:
            sinks = extras.sinks_H.view(1, Hkv, H // Hkv, 1).expand(N, -1, -1, 1).to(score.dtype)
            score = torch.cat([score, sinks], dim=-1)
        probs = torch.softmax(score, dim=-1).to(v.dtype)
        out = self._rows(products(self._by_prompt(probs[..., C:L]), prompt_v))
        out = out + probs[..., L : L + own_v.shape[2]] @ own_v
        if C:
            out = out + _apart(products(_together(probs[..., :C]), common_v), N)
        return out.reshape(N, H, -1).transpose(0, 1)[None]

    def _by_prompt(self, x_N: Tensor) -> Tensor:
        """[N, Hkv, g, e] -> [B, Hkv, widest·g, e], zeros where a prompt has fewer rows."""
        size = len(self.kept) * self.widest
        if self.place_N is not None:
            x_N = x_N.new_zeros(size, *x_N.shape[1:]).index_copy_(0, self.place_N, x_N)
        _, Hkv, g, e = x_N.shape
        return x_N.view(-1, self.widest, Hkv, g, e).transpose(1, 2).reshape(-1, Hkv, self.widest * g, e)

    def _rows(self, x_B: Tensor) -> Tensor:
        """The way back: [B, Hkv, widest·g, e] -> [N, Hkv, g, e]."""
        B, Hkv, _, e = x_B.shape
        x_N = x_B.view(B, Hkv, self.widest, -1, e).transpose(1, 2).reshape(B * self.widest, Hkv, -1, e)
        return x_N if self.place_N is None else x_N.index_select(0, self.place_N)

    def _unseen(self, L: int, allowed: Allowed | None) -> Tensor | None:
        """[N, L + t]: which of the prompt's and of its own keys a row does not see; None: it sees all. The same in
        every layer of a kind, so made once a step."""
        if allowed not in self.unseen:
            length_N1, start_N1 = self.kept.lengths_B[self.prompt_N, None], self.start_N[:, None]
            column, own = (torch.arange(n, device=length_N1.device) for n in (L, self.step + 1))
            unseen = torch.cat([column >= length_N1, own < start_N1], dim=1)
            if allowed is not None:
                k_pos = torch.cat([column.expand(len(length_N1), L), length_N1 + own - start_N1], dim=1)
                unseen = unseen | ~allowed(length_N1 + self.step - start_N1, k_pos)
            self.unseen[allowed] = unseen if bool(unseen.any()) else None
        return self.unseen[allowed]

    def _grow(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The rows' own keys and values [N, Hkv, t, d], this step's included."""
        if layer not in self.own:
            room = max(min(FIRST_ROOM, self.room), self.step + 1)
            self.own[layer] = (
                k.new_zeros(k.shape[2], k.shape[1], room, k.shape[3]),
                v.new_zeros(v.shape[2], v.shape[1], room, v.shape[3]),
            )
        elif self.own[layer][0].shape[2] == self.step:
            # Rows that joined later go on where the others have all they may get.
            self._resize(layer, None, 0, max(min(2 * self.step, self.room), self.step + FIRST_ROOM))
        for store, new in zip(self.own[layer], (k, v), strict=True):
            store[:, :, self.step] = new[0].transpose(0, 1)
        own_k, own_v = self.own[layer]
        return own_k[:, :, : self.step + 1], own_v[:, :, : self.step + 1]

    def _resize(self, layer: int, rows_N: Tensor | None, first: int, room: int | None = None) -> None:
        """Goes on with some of the rows' own keys and values from a step on, with room for `room` tokens; what was
        never written is not copied."""

        def resized(store: Tensor) -> Tensor:
            done = store[:, :, first : self.step]
            done = done if rows_N is None else done.index_select(0, rows_N)
            (N, Hkv, steps, d), kept = done.shape, store.shape[2] - first
            grown = store.new_empty(N, Hkv, kept if room is None else room, d)
            grown[:, :, :steps] = done
            return grown

        own_k, own_v = self.own[layer]
        self.own[layer] = resized(own_k), resized(own_v)


def _together(x_N: Tensor) -> Tensor:
    """[N, Hkv, g, e] -> [1, Hkv, N·g, e]: all rows' queries of a key/value head."""
    return x_N.transpose(0, 1).reshape(1, x_N.shape[1], -1, x_N.shape[3])


def _apart(x: Tensor, N: int) -> Tensor:
    """The way back: [1, Hkv, N·g, e] -> [N, Hkv, g, e]."""
    return x.reshape(x.shape[1], N, -1, x.shape[3]).transpose(0, 1)


def products(q: Tensor, k: Tensor) -> Tensor:
    """Of each row with each row: [..., Q, d], [..., K, d] -> [..., Q, K]. In float32 one query is a matrix times a
    column, which goes through the keys a fifth faster on a CPU than a row times their transpose, if it is the view of a
    row (a column that is contiguous takes three times as long). In bfloat16 a row takes half the time of a column."""
    if q.shape[-2] == 1 and q.dtype == torch.float32:
        return (k @ q.transpose(-1, -2)).transpose(-1, -2)
    return q @ k.transpose(-1, -2)


def with_rows(own: Tensor, count: int) -> Tensor:
    """A store of rows' own tokens with so many rows more, which have written nothing: zeros, never garbage, because
    what is not seen is multiplied by 0."""
    return torch.cat([own, own.new_zeros(count, *own.shape[1:])])
