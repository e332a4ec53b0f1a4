"""Attention while sampling: the next few tokens of each live row, the rows of a prompt reading its keys once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.model.attention import Allowed, Extras, Store
from luthier.model.kept import Kept

FIRST_ROOM = 32
"""Tokens that a row's own keys have room for at first; doubled as they grow."""
PAID_BACK = 5
"""Steps in which letting rows go has to save what it costs."""
FEW = 8
"""Queries up to which their product with keys is quicker with the keys as the left matrix (float32 on a CPU)."""


class DecodePlan:
    """One new token for each of N rows, which stand in the order of their prompts, and as many more as each one was
    drafted. A row attends to the keys of what all prompts begin with, stored and read once for all; to its prompt's,
    once for all its samples; and to its own. Rows that have ended are let go one by one; new ones may join at any step.
    """

    def __init__(self, samples: int, room: int) -> None:
        """`samples`: rows of a prompt; `room`: most tokens a row may get."""
        self.samples, self.room = samples, room
        self.kept = Kept()
        """The prompts' keys and values."""
        self.prompt_N = torch.zeros(0, dtype=torch.int64)
        """Of each row its prompt."""
        self.own: Store = {}
        """Layer -> keys, values of the rows' own tokens [N, Hkv, room, d], left-aligned; zeros behind them, or what was
        drafted and did not come. (Few of them: values that lie as the prompts' do would be slower to go through, and to
        write.)"""
        self.place_N: Tensor | None = None
        """Where each row stands in the rectangle [B, widest] of prompts and their rows; None: they fill it."""
        self.widest = 0
        self.written_N = self.row_T = self.column_T = self.prompt_N
        """Tokens that each row has written before this step; of each of this step's T tokens its row, and the place
        among the row's own."""
        self.most = self.span = 0
        """W, most tokens of a row in this step, and most that a row has with them."""
        self.place_T: Tensor | None = None
        """Where each token stands in the rectangle [N, W]; None: they fill it."""
        self.unseen: dict[Allowed | None, Tensor | None] = {}

    def admit(self, count: int) -> None:
        """The rows of the last so many prompts that are kept, after those that are there."""
        fresh_b = torch.arange(len(self.kept) - count, len(self.kept), device=self.kept.lengths_B.device)
        fresh_N = fresh_b.repeat_interleave(self.samples)
        for layer, (k, v) in self.own.items():
            self.own[layer] = (with_rows(k, len(fresh_N)), with_rows(v, len(fresh_N)))
        self.prompt_N = torch.cat([self.prompt_N.to(fresh_N.device), fresh_N])
        self._place()

    def pays(self, going: int) -> bool:
        """Whether going on with so many rows only is worth it: what the others read at each step is saved, what these
        have written is read and written once."""
        gone, prompt = len(self.prompt_N) - going, self.kept.shared + self.kept.longest
        return gone * (prompt / self.samples + self.span) * PAID_BACK >= 2 * going * self.span

    def keep(self, rows_N: Tensor) -> Tensor:
        """Goes on with some of the rows only (indices); returns them in the order in which they stand from here on."""
        prompts_B, of_N = torch.unique(self.prompt_N[rows_N], return_inverse=True)
        slot_B = torch.argsort(self.kept.drop(prompts_B))
        self.prompt_N, order_N = torch.sort(slot_B[of_N], stable=True)
        rows_N = rows_N[order_N]
        if len(rows_N) == 0:  # those that join later begin anew
            self.own, self.span = {}, 0
            return rows_N
        # Layer by layer, so that at no time there are two of all.
        for layer in self.own:
            self._resize(layer, rows_N)
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

    def step(self, written: Sequence[int], counts: Sequence[int]) -> Tensor:
        """Begins a step: of each row the tokens that it has written, and how many are asked for now, one at least. What
        it wrote of a draft that did not come is written over. The tokens' positions [T]."""
        device = self.prompt_N.device
        self.most, self.span = max(counts), max(map(sum, zip(written, counts, strict=True)))
        of_T = [row for row, count in enumerate(counts) for _ in range(count)]
        nth_T = [nth for count in counts for nth in range(count)]
        self.written_N, self.row_T, nth = (torch.tensor(x, device=device) for x in (written, of_T, nth_T))
        self.column_T = self.written_N[self.row_T] + nth
        self.place_T = None if len(of_T) == self.most * len(counts) else self.row_T * self.most + nth
        self.unseen = {}
        return self.kept.lengths_B[self.prompt_N][self.row_T] + self.column_T

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, allowed: Allowed | None, extras: Extras) -> Tensor:
        """See Plan."""
        H, N, W, Hkv = q.shape[1], len(self.prompt_N), self.most, k.shape[1]
        own_k, own_v = self._write(layer, k.to(v.dtype), v)
        prompt_k, prompt_v = self.kept.of(layer)
        common_k, common_v = self.kept.common[layer]
        C = common_k.shape[2]
        L = C + prompt_k.shape[2]
        q_N = self._by_row(q[0].to(v.dtype).transpose(0, 1), Hkv)
        on_prompt = self._rows(products(self._by_prompt(q_N), prompt_k))
        on_common = [_apart(products(_together(q_N), common_k), N)] if C else []
        score = torch.cat([*on_common, on_prompt, products(q_N, own_k)], dim=-1).float().mul_(extras.scale)
        if extras.softcap is not None:
            score = extras.softcap * torch.tanh(score / extras.softcap)
        if (unseen := self._unseen(L, allowed)) is not None:
            score.view(N, Hkv, -1, W, score.shape[-1]).masked_fill_(unseen[:, None, None], float("-inf"))
        if extras.sinks_H is not None:
            sinks = extras.sinks_H.view(1, Hkv, -1, 1, 1).expand(N, -1, -1, W, -1).to(score.dtype)
            score = torch.cat([score, sinks.reshape(N, Hkv, -1, 1)], dim=-1)
        probs = torch.softmax(score, dim=-1).to(v.dtype)
        out = self._rows(weighted(self._by_prompt(probs[..., C:L]), prompt_v))
        out = out + probs[..., L : L + self.span] @ own_v
        if C:
            out = out + _apart(weighted(_together(probs[..., :C]), common_v), N)
        return self._by_token(out, H)[None]

    def _by_row(self, q_T: Tensor, Hkv: int) -> Tensor:
        """[T, H, d] -> [N, Hkv, g·W, d]: the queries of a row and a key/value head together; zeros where a row has
        fewer than W."""
        (_, H, d), N, W = q_T.shape, len(self.prompt_N), self.most
        if self.place_T is not None:
            q_T = q_T.new_zeros(N * W, H, d).index_copy_(0, self.place_T, q_T)
        return q_T.reshape(N, W, Hkv, H // Hkv, d).permute(0, 2, 3, 1, 4).reshape(N, Hkv, -1, d).contiguous()

    def _by_token(self, out_N: Tensor, H: int) -> Tensor:
        """The way back: [N, Hkv, g·W, d] -> [H, T, d]."""
        (N, Hkv, _, d), W = out_N.shape, self.most
        out_T = out_N.view(N, Hkv, H // Hkv, W, d).permute(0, 3, 1, 2, 4).reshape(N * W, H, d)
        return (out_T if self.place_T is None else out_T.index_select(0, self.place_T)).transpose(0, 1)

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
        """[N, W, L + span]: which of the prompt's and of its own keys a row's tokens do not see; None: they see all.
        The same in every layer of a kind, so made once a step."""
        if allowed not in self.unseen:
            length_N11, device = self.kept.lengths_B[self.prompt_N, None, None], self.prompt_N.device
            column, own, nth = (torch.arange(n, device=device) for n in (L, self.span, self.most))
            at_NW1 = self.written_N[:, None, None] + nth[:, None]
            unseen = torch.cat([(column >= length_N11).expand(-1, self.most, -1), own > at_NW1], dim=2)
            if allowed is not None:
                k_pos = torch.cat([column.expand(len(length_N11), 1, L), length_N11 + own], dim=2)
                unseen = unseen | ~allowed(length_N11 + at_NW1, k_pos)
            self.unseen[allowed] = unseen if bool(unseen.any()) else None
        return self.unseen[allowed]

    def _write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The rows' own keys and values [N, Hkv, span, d], this step's included."""
        if layer not in self.own:
            N, room = len(self.prompt_N), max(min(FIRST_ROOM, self.room), self.span)
            self.own[layer] = (
                k.new_zeros(N, k.shape[1], room, k.shape[3]),
                v.new_zeros(N, v.shape[1], room, v.shape[3]),
            )
        elif self.own[layer][0].shape[2] < self.span:
            self._resize(layer, None, max(min(2 * self.span, self.room), self.span))
        for store, new in zip(self.own[layer], (k, v), strict=True):
            store[self.row_T, :, self.column_T] = new[0].transpose(0, 1)
        own_k, own_v = self.own[layer]
        return own_k[:, :, : self.span], own_v[:, :, : self.span]

    def _resize(self, layer: int, rows_N: Tensor | None, room: int | None = None) -> None:
        """Goes on with some of the rows' own keys and values, with room for `room` tokens; what was never written is
        not copied."""

        def resized(store: Tensor) -> Tensor:
            done = store[:, :, : self.span]
            done = done if rows_N is None else done.index_select(0, rows_N)
            (N, Hkv, steps, d) = done.shape
            grown = store.new_zeros(N, Hkv, store.shape[2] if room is None else room, d)
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
    """Of each row with each row: [..., Q, d], [..., K, d] -> [..., Q, K]. In float32 on a CPU a few queries go through
    the keys a fifth to a half faster as columns, if one alone is the view of a row (a column that is contiguous takes
    three times as long). In bfloat16 a row takes half the time of a column."""
    if q.shape[-2] <= FEW and q.dtype == torch.float32:
        return (k @ q.mT).mT
    return q @ k.mT


def weighted(probs: Tensor, v: Tensor) -> Tensor:
    """Sums of the first K values of those that lie in rows of one number: [..., Q, K], [..., d, M] -> [..., Q, d]. In
    float32 on a CPU a few columns go through whole rows in two thirds of the time, and through rows that are cut off in
    half as long again: so they go through more than they need, if it is not much."""
    K, M = probs.shape[-1], v.shape[-1]
    if probs.shape[-2] <= FEW // 2 and probs.dtype == torch.float32 and 4 * K >= 3 * M:
        return (v @ F.pad(probs, (0, M - K)).mT).mT
    return probs @ v[..., :K].mT


def with_rows(own: Tensor, count: int) -> Tensor:
    """A store of rows' own tokens with so many rows more, which have written nothing: zeros, never garbage, because
    what is not seen is multiplied by 0."""
    return torch.cat([own, own.new_zeros(count, *own.shape[1:])])
