"""The sampler. A prompt is read once, its keys are shared by its samples, and every row has its own randomness.

What it samples from is exactly what `score` scores: no hidden top-k, no suppressed end token. Greedy output equals
transformers' `generate` token for token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.base.errors import UserError
from luthier.base.nouns import Sample
from luthier.model.decode import DecodePlan
from luthier.model.prefill import forward, in_common, read_prompts
from luthier.model.score import LanguageModel, logits_of
from luthier.model.verify import room_of

BLOCK = 128
"""Tokens of the vocabulary that are summed together when one is drawn."""
REFILL = 1 / 8
"""Share of the rows that there is room for at which new ones are taken in."""


@dataclass(frozen=True)
class Sampling:
    """How to draw. `temperature` 0 is greedy. Filters apply in this order: repetition penalty, temperature, top-k,
    top-p; they change what is drawn, never the log-probs that are reported."""

    max_new_tokens: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    repetition_penalty: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Stops:
    """Strings at which a row ends; they stay in its text."""

    strings: tuple[str, ...] = ()
    decode: Callable[[Sequence[int]], str] = lambda ids: ""

    @cached_property
    def reach(self) -> int:
        """How many tokens back to look: a string of n bytes lies in the last n tokens (that have a text), and the one
        before them takes what decoding does to a beginning: a blank that is left out."""
        return max((len(string.encode()) for string in self.strings), default=0) + 1

    def met(self, ids: Sequence[int]) -> bool:
        """Whether a string stands in the last `reach` of a row's tokens."""
        tail = self.decode(ids[-self.reach :])
        return any(string in tail for string in self.strings)


class Rows:
    """The state of N = B·G rows: which ids they have, what they drew, and which of them grow."""

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        first_row: int,
        samples: int,
        how: Sampling,
        lm: LanguageModel,
        stops: Stops = Stops(),  # immutable
    ) -> None:
        self.how, self.prompts, self.samples, self.stops = how, prompts, samples, stops
        self.first_row, n, device = first_row, len(prompts) * samples, lm.device
        self.uniform = torch.zeros(n, how.max_new_tokens, device=device, dtype=torch.float64)
        self.ids = torch.zeros(n, how.max_new_tokens, dtype=torch.int64, device=device)
        self.logps = torch.zeros(n, how.max_new_tokens, device=device)
        self.length = torch.zeros(n, dtype=torch.int64, device=device)
        self.ended = torch.zeros(n, dtype=torch.bool, device=device)
        self.halted = torch.zeros(n, dtype=torch.bool, device=device)
        """Rows that met a stop string."""
        context = room_of(lm)
        room = torch.tensor([context - len(prompt) for prompt in prompts], device=device).repeat_interleave(samples)
        self.room = room.clamp(max=how.max_new_tokens)
        """Tokens until a row has all that it may have, or the context is full: no row grows beyond it."""
        self.alive = torch.zeros(0, dtype=torch.int64, device=device)
        """Rows that the model computes, in order; some of them may have ended already."""
        self.age = torch.zeros(0, dtype=torch.int64, device=device)
        """Tokens that the model has been asked for in each of those."""
        vocab = lm.core.config.vocab_size if how.repetition_penalty != 1.0 else 0
        self.seen = torch.zeros(0, vocab, dtype=torch.bool, device=device)
        """Of each of those rows: which tokens it has, where that is asked for [N, V]."""

    def admit(self, start: int, stop: int) -> None:
        """The rows of prompts `start:stop` begin to grow."""
        fresh = range(start * self.samples, stop * self.samples)
        self.alive = torch.cat([self.alive, torch.tensor(fresh, device=self.alive.device)])
        self.age = torch.cat([self.age, self.age.new_zeros(len(fresh))])
        if self.how.temperature > 0:
            # Row r of the whole call draws from its own stream, so its text does not depend on how rows are batched.
            for r in fresh:
                stream = np.random.Generator(np.random.Philox(key=[self.how.seed, self.first_row + r]))
                self.uniform[r] = torch.from_numpy(stream.random(self.how.max_new_tokens))
        seen = self.seen.new_zeros(len(fresh), self.seen.shape[1])
        if self.how.repetition_penalty != 1.0:
            for n, r in enumerate(fresh):
                seen[n, list(self.prompts[r // self.samples])] = True
        self.seen = torch.cat([self.seen, seen])

    def draw(self, logits_NV: Tensor, end_ids: Tensor) -> Tensor:
        """Draws the next token of every live row, records it where the row has not ended, and returns it [N]."""
        rows, penalised = self.alive, self.how.repetition_penalty != 1.0
        at = self.length[rows].clamp(max=self.how.max_new_tokens - 1)
        drawn = choose(logits_NV, self.uniform[rows, at], self.how, self.seen if penalised else None)
        going = ~self.over()[rows]
        self.age += 1
        rows, at = rows[going], at[going]
        self.ids[rows, at] = drawn.token_N[going]
        self.logps[rows, at] = drawn.logp_N[going]
        self.length[rows] += 1
        self.ended[rows] = torch.isin(drawn.token_N[going], end_ids)
        if penalised:
            self.seen[torch.arange(len(self.alive), device=self.alive.device), drawn.token_N] = True
        if self.stops.strings:
            reach = self.stops.reach
            back = torch.arange(reach - 1, -1, -1, device=at.device)
            tails = self.ids[rows[:, None], (at[:, None] - back).clamp(min=0)]
            for r, n, tail in zip(rows.tolist(), at.tolist(), tails.tolist(), strict=True):
                self.halted[r] = self.stops.met(tail[max(0, reach - n - 1) :])
        return drawn.token_N

    def unfinished(self) -> Tensor:
        """Indices, among the live rows, of those that go on."""
        return torch.nonzero(~self.over()[self.alive]).squeeze(1)

    def over(self) -> Tensor:
        """Whether each row has ended, met a stop string, or has all the tokens that it may have."""
        return self.ended | self.halted | (self.length >= self.room)

    def crowded(self) -> bool:
        """Whether a row that is still computed would grow beyond the context or the limit."""
        return bool((self.age >= self.room[self.alive]).any())

    def keep(self, rows_N: Tensor) -> None:
        """Stops computing all other rows."""
        self.alive, self.age, self.seen = self.alive[rows_N], self.age[rows_N], self.seen[rows_N]


class Drawn(NamedTuple):
    """A token for each row, and its log-prob under softmax(logits / temperature) in nats (temperature 1 if greedy)."""

    token_N: Tensor
    logp_N: Tensor


def choose(logits_NV: Tensor, uniform_N: Tensor, how: Sampling, seen_NV: Tensor | None = None) -> Drawn:
    """Draws one token a row by inverting the cumulative distribution at `uniform_N` (in [0, 1))."""
    if how.temperature not in (0, 1):
        logits_NV = logits_NV / how.temperature
    probs_NV = torch.softmax(logits_NV, dim=-1)
    # log Σe^z through the likeliest token, whose probability is no rounding error.
    log_total_N = logits_NV.amax(-1) - probs_NV.amax(-1).log()
    if seen_NV is not None or (how.temperature > 0 and (how.top_k is not None or how.top_p < 1)):
        probs_NV = filtered(logits_NV, how, seen_NV)
    if how.temperature > 0:
        token_N = invert(probs_NV, uniform_N)
    else:  # two logits may be one probability
        token_N = (logits_NV if seen_NV is None else probs_NV).argmax(-1)
    return Drawn(token_N, logits_NV.gather(1, token_N[:, None]).squeeze(1) - log_total_N)


def filtered(logits_NV: Tensor, how: Sampling, seen_NV: Tensor | None) -> Tensor:
    """Probabilities (not normalised) after repetition penalty, top-k and top-p; `logits_NV` are over the temperature
    already."""
    if seen_NV is not None:  # Keskar et al. 2019, §4.1, in the form that transformers uses
        p = how.repetition_penalty
        logits_NV = torch.where(seen_NV, torch.where(logits_NV > 0, logits_NV / p, logits_NV * p), logits_NV)
    if how.temperature > 0 and how.top_k is not None:
        kth = logits_NV.topk(min(how.top_k, logits_NV.shape[-1]), dim=-1).values[:, -1:]
        logits_NV = logits_NV.masked_fill(logits_NV < kth, float("-inf"))
    probs_NV = torch.softmax(logits_NV.double(), dim=-1)
    if how.temperature > 0 and how.top_p < 1:  # the smallest set of the likeliest tokens whose mass reaches top_p
        ranked, order = probs_NV.sort(dim=-1, descending=True)
        beyond = ranked.cumsum(-1) - ranked >= how.top_p
        probs_NV = probs_NV.masked_fill(torch.zeros_like(beyond).scatter(1, order, beyond), 0)
    return probs_NV


def invert(probs_NV: Tensor, uniform_N: Tensor) -> Tensor:
    """The token at which the cumulative sum of `probs_NV` first exceeds `uniform_N` times its total: first the block
    of tokens, then the token in it, so that no sum runs over all V. A token of probability 0 is never drawn."""
    blocks = F.pad(probs_NV, (0, -probs_NV.shape[1] % BLOCK)).view(len(probs_NV), -1, BLOCK)
    mass = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    target_N1 = (uniform_N.double() * mass[:, -1])[:, None]
    block_N1 = torch.searchsorted(mass, target_N1, right=True).clamp(max=blocks.shape[1] - 1)
    before_N1 = torch.where(block_N1 > 0, mass.gather(1, (block_N1 - 1).clamp(min=0)), 0.0)
    inside = blocks.gather(1, block_N1[:, :, None].expand(-1, 1, BLOCK)).squeeze(1).double().cumsum(-1)
    token_N1 = torch.searchsorted(inside, target_N1 - before_N1, right=True)
    last_N1 = torch.searchsorted(inside, inside[:, -1:].contiguous())  # where rounding would pass the block's end
    return (block_N1 * BLOCK + torch.minimum(token_N1, last_N1)).squeeze(1)


@torch.no_grad()
def sample(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    how: Sampling,
    end_ids: Sequence[int],
    decode: Callable[[Sequence[int]], str],
    samples: int = 1,
    max_rows: int = 256,
    progress: Callable[[int], None] = lambda rows: None,
    stops: Sequence[str] = (),
    max_tokens: int | None = None,
    finished: Callable[[list[tuple[int, list[Sample]]]], None] = lambda done: None,
) -> list[list[Sample]]:
    """Draws `samples` completions of each prompt (token ids), returned in the prompts' order.

    A row ends at the first of `end_ids`, which stays its last id, where it has written one of the strings `stops`, at
    `max_new_tokens`, or where it fills the model's context. `logps` are log-probs in nats under
    softmax(logits / temperature) (temperature 1 when greedy). At most `max_rows` rows grow at once, with `max_tokens`
    tokens read and still to be written between them; rows that end make room for the next (of models that are not
    computed as forests all rows must end first). `progress` hears how many are done, `finished` which prompts (index,
    samples), as soon as they are. Raises ValueError on an empty prompt, UserError for an encoder, and for a prompt that
    leaves no room.
    """
    check_prompts(lm, prompts)
    was_training = lm.module.training
    lm.module.eval()
    ends = torch.tensor(sorted(end_ids), dtype=torch.int64, device=lm.device)
    halts = Stops(tuple(stops), decode)
    found: list[list[Sample]] = [[] for _ in prompts]
    told = 0

    def tell(first: int, rows: Rows, done: Sequence[int]) -> None:
        """Some prompts' rows, of those that stand in `rows`, have all ended."""
        nonlocal told
        for b, group in zip(done, collect(rows, done, decode), strict=True):
            found[first + b] = group
        told += len(done)
        progress(told * samples)
        finished([(first + b, found[first + b]) for b in done])

    try:
        if lm.layout == "forest":
            rows = Rows(prompts, 0, samples, how, lm, halts)
            grow_forest(lm, rows, ends, Most(max_rows, max_tokens), lambda done: tell(0, rows, done))
        else:
            for start, stop in waves(prompts, samples, max_rows):
                rows = Rows(prompts[start:stop], start * samples, samples, how, lm, halts)
                grow_rows(lm, rows, ends)
                tell(start, rows, range(stop - start))
    finally:
        lm.module.train(was_training)
    return found


def check_prompts(lm: LanguageModel, prompts: Sequence[Sequence[int]]) -> None:
    """Raises what `sample` does of a model or of prompts that nothing can be drawn from."""
    if lm.encoder is not None:
        raise UserError(
            f"{type(lm.core).__name__} is an encoder: it fills masks and cannot write. Ask it with fill_mask or "
            "`luthier chat`, or give a decoder (Llama, Qwen, Gemma)."
        )
    if any(len(prompt) == 0 for prompt in prompts):
        raise ValueError("an empty prompt has nothing to predict from")
    context = room_of(lm)
    if (longest := max(map(len, prompts), default=0)) >= context:
        raise UserError(f"a prompt of {longest} tokens leaves no room in the model's context of {context}. Shorten it.")


def waves(prompts: Sequence[Sequence[int]], samples: int, max_rows: int) -> Iterator[tuple[int, int]]:
    """Runs `start:stop` of prompts of one length that grow together, where the model cannot mix lengths."""
    start = 0
    while start < len(prompts):
        stop = start + 1
        while (
            stop < len(prompts)
            and (stop + 1 - start) * samples <= max_rows
            and len(prompts[stop]) == len(prompts[start])
        ):
            stop += 1
        yield start, stop
        start = stop


class Most(NamedTuple):
    """What may be in memory at once: rows, and tokens of their prompts and answers."""

    rows: int
    tokens: int | None

    def next(self, rows: Rows, start: int, live: Sequence[int]) -> int:
        """Up to which prompt, from `start` on, there is room beside the rows `live`; `start` where it is not worth the
        while yet: taking rows in copies what the others wrote."""
        stop, G = start, rows.samples
        lengths = [len(rows.prompts[b]) for b in {r // G for r in live}]
        longest, room = max(lengths, default=0), self.rows
        while stop < len(rows.prompts):
            longest = max(longest, len(rows.prompts[stop]))
            if self.tokens is not None:
                room = min(self.rows, self.tokens // (longest + rows.how.max_new_tokens))
            if len(live) + (stop + 1 - start) * G > max(room, G):
                break
            stop += 1
        worth = not live or stop == len(rows.prompts) or (stop - start) * G >= REFILL * room
        return stop if worth else start


def grow_forest(lm: LanguageModel, rows: Rows, ends: Tensor, most: Most, tell: Callable[[Sequence[int]], None]) -> None:
    """Adds a token to every live row at each step. Prompts are read, as a forest, when others have made room for them
    (continuous batching); `tell` hears of those whose rows have all ended."""
    plan = DecodePlan(rows.samples, rows.how.max_new_tokens)
    count, taken, stop = len(rows.prompts), 0, most.next(rows, 0, [])
    shared = in_common(rows.prompts)
    told_B = torch.zeros(count, dtype=torch.bool, device=lm.device)
    logits_NV: Tensor | None = None
    while stop > taken or len(rows.alive):
        if stop > taken:
            hidden_BD = read_prompts(lm, rows.prompts[taken:stop], shared, plan.kept)
            plan.admit(stop - taken)
            rows.admit(taken, stop)
            fresh_NV = logits_of(lm, hidden_BD).repeat_interleave(rows.samples, 0)
            logits_NV, taken = fresh_NV if logits_NV is None else torch.cat([logits_NV, fresh_NV]), stop
        assert logits_NV is not None
        next_N = rows.draw(logits_NV, ends)
        going_N = rows.unfinished()
        if len(going_N) < len(rows.alive):
            over_B = rows.over().view(count, rows.samples).all(1)
            if done := torch.nonzero(over_B & ~told_B).squeeze(1).tolist():
                told_B = over_B
                tell(done)
            stop = most.next(rows, taken, rows.alive[going_N].tolist())
            if plan.pays(len(going_N)) or stop > taken or rows.crowded():
                going_N = plan.keep(going_N)
                next_N = next_N[going_N]
                rows.keep(going_N)
        logits_NV = None
        if len(rows.alive):
            logits_NV = logits_of(lm, forward(lm, plan, next_N, plan.positions()))
            plan.advance()


def grow_rows(lm: LanguageModel, rows: Rows, ends: Tensor) -> None:
    """For architectures that do not attend by a plan: prompts of equal length, the library's own cache, no padding
    (padding changes what recurrent layers see)."""
    rows.admit(0, len(rows.prompts))
    ids_NL = torch.tensor([list(p) for p in rows.prompts], device=lm.device).repeat_interleave(rows.samples, 0)
    carried: dict[str, Any] = {"use_cache": True, "attention_mask": torch.ones_like(ids_NL)}
    fresh_NL = ids_NL
    while True:
        inputs = lm.core.prepare_inputs_for_generation(
            ids_NL,
            next_sequence_length=fresh_NL.shape[1],
            is_first_iteration=fresh_NL is ids_NL,
            **carried,
        )
        out = lm.module(**inputs)
        fresh_NL = rows.draw(out.logits[:, -1].float(), ends)[:, None]
        if len(rows.unfinished()) == 0:
            return
        ids_NL = torch.cat([ids_NL, fresh_NL], dim=1)
        carried = lm.core._update_model_kwargs_for_generation(out, carried)


def collect(rows: Rows, done: Sequence[int], decode: Callable[[Sequence[int]], str]) -> Iterator[list[Sample]]:
    """The finished rows of some prompts as Samples."""
    for b in done:
        of = slice(b * rows.samples, (b + 1) * rows.samples)
        ids, logps, prompt = rows.ids[of].tolist(), rows.logps[of].tolist(), tuple(rows.prompts[b])
        found = []
        for r, (n, stopped) in enumerate(zip(rows.length[of].tolist(), rows.ended[of].tolist(), strict=True)):
            text = decode(ids[r][: n - 1] if stopped else ids[r][:n])
            found.append(Sample(prompt, tuple(ids[r][:n]), tuple(logps[r][:n]), text, stopped))
        yield found
