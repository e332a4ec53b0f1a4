"""The sampler. A prompt is read once, its keys are shared by its samples, and every row has its own randomness.

What it samples from is exactly what `score` scores: no hidden top-k, no suppressed end token. Greedy output equals
transformers' `generate` token for token. Drafts (see `model/drafts.py`) make it fewer steps and no other text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from luthier.base.errors import UserError
from luthier.base.nouns import Sample
from luthier.model.decode import DecodePlan
from luthier.model.drafts import Drafts, Prompt
from luthier.model.draw import Sampling, choose
from luthier.model.prefill import forward, in_common, read_prompts
from luthier.model.score import LanguageModel, logits_of
from luthier.model.verify import room_of

REFILL = 1 / 8
"""Share of the rows that there is room for at which new ones are taken in."""


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


class Row:
    """What one sample has so far. `room`: most tokens it may get; `uniform`: what each of them is drawn with."""

    def __init__(self, room: int, uniform: Sequence[float]) -> None:
        self.room, self.uniform = room, uniform
        self.ids: list[int] = []
        self.logps: list[float] = []
        self.ended = self.halted = False
        """Whether its last token is one that ends a text, and whether it has met a stop string."""

    @property
    def over(self) -> bool:
        """Whether it gets no more."""
        return self.ended or self.halted or len(self.ids) >= self.room


class Rows:
    """The rows of B prompts, `samples` of each, and which of them the model computes."""

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        first_row: int,
        samples: int,
        how: Sampling,
        lm: LanguageModel,
        end_ids: Sequence[int],
        stops: Stops = Stops(),  # immutable
    ) -> None:
        self.how, self.prompts, self.samples, self.stops = how, prompts, samples, stops
        self.first_row, self.ends, self.context = first_row, frozenset(end_ids), room_of(lm)
        self.all: list[Row] = []
        """All that have begun to grow, in order."""
        self.alive: list[int] = []
        """Those that the model computes; some of them may be over already."""
        self.penalised = how.repetition_penalty != 1.0
        vocab = lm.core.config.vocab_size if self.penalised else 0
        self.seen = torch.zeros(0, vocab, dtype=torch.bool, device=lm.device)
        """Of each of those: which tokens it has, where that is asked for [N, V]."""
        self.drafts = Drafts()

    def admit(self, start: int, stop: int) -> list[int]:
        """The rows of prompts `start:stop` begin to grow, behind those that do."""
        fresh = [*range(start * self.samples, stop * self.samples)]
        for b in range(start, stop):
            prompt, most = Prompt(self.prompts[b]), self.how.max_new_tokens
            for r in range(b * self.samples, (b + 1) * self.samples):
                uniform: Any = []
                if self.how.temperature > 0:
                    # Row r of the whole call draws from its own stream: its text does not depend on how rows are
                    # batched.
                    key = [self.how.seed, self.first_row + r]
                    uniform = np.random.Generator(np.random.Philox(key=key)).random(most)
                self.all.append(Row(min(self.context - len(self.prompts[b]), most), uniform))
                self.drafts.begin(r, prompt)
        seen = self.seen.new_zeros(len(fresh), self.seen.shape[1])
        if self.penalised:
            for n, r in enumerate(fresh):
                seen[n, list(self.prompts[r // self.samples])] = True
        self.alive, self.seen = self.alive + fresh, torch.cat([self.seen, seen])
        return fresh

    def drafted(self) -> list[list[int]]:
        """For each live row tokens that it may go on with after its next, as far as there is room."""
        if self.penalised:  # what is likely then hangs on what is drawn in the same step
            return [[] for _ in self.alive]
        rows = [(r, self.all[r]) for r in self.alive]
        return [[] if row.over else self.drafts.of(r, row.room - len(row.ids) - 1, len(rows)) for r, row in rows]

    def draw(self, logits_TV: Tensor, rows: Sequence[int], drafts: Sequence[Sequence[int]]) -> None:
        """Draws what follows the last token of some rows, and each token of their drafts; records what is drawn as far
        as the draft agrees with it and the row is not over. `rows` are the live ones, or the last of them."""
        uniform_T = logits_TV.new_zeros(0, dtype=torch.float64)
        if self.how.temperature > 0:
            places = [(self.all[r], n) for r, draft in zip(rows, drafts, strict=True) for n in range(len(draft) + 1)]
            last = self.how.max_new_tokens - 1
            uniform = [row.uniform[min(len(row.ids) + n, last)] for row, n in places]
            uniform_T = torch.tensor(uniform, dtype=torch.float64, device=logits_TV.device)
        seen_NV = self.seen[len(self.alive) - len(rows) :] if self.penalised else None
        drawn = choose(logits_TV, uniform_T, self.how, seen_NV)
        if seen_NV is not None:
            seen_NV.scatter_(1, drawn.token_N[:, None], True)
        tokens, logps = iter(drawn.token_N.tolist()), iter(drawn.logp_N.tolist())
        for r, draft in zip(rows, drafts, strict=True):
            asked = len(draft) + 1
            self._record(r, draft, [*islice(tokens, asked)], [*islice(logps, asked)])

    def _record(self, r: int, draft: Sequence[int], tokens: Sequence[int], logps: Sequence[float]) -> None:
        row, taken = self.all[r], 0
        while not row.over and taken < len(tokens) and tokens[:taken] == draft[:taken]:
            row.ids.append(tokens[taken])
            row.logps.append(logps[taken])
            row.ended = tokens[taken] in self.ends
            row.halted = bool(self.stops.strings) and self.stops.met(row.ids)
            taken += 1
        if taken:
            self.drafts.add(r, tokens[:taken])
            if row.over:
                self.drafts.end(r)

    def unfinished(self) -> list[int]:
        """Indices, among the live rows, of those that go on."""
        return [n for n, r in enumerate(self.alive) if not self.all[r].over]

    def finished(self, b: int) -> bool:
        """Whether all rows of a prompt are over."""
        return all(row.over for row in self.all[b * self.samples : (b + 1) * self.samples])

    def keep(self, live: Sequence[int]) -> None:
        """Stops computing all live rows but these (indices)."""
        self.seen = self.seen[list(live)]
        self.alive = [self.alive[n] for n in live]


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
            rows = Rows(prompts, 0, samples, how, lm, end_ids, halts)
            grow_forest(lm, rows, Most(max_rows, max_tokens), lambda done: tell(0, rows, done))
        else:
            for start, stop in waves(prompts, samples, max_rows):
                rows = Rows(prompts[start:stop], start * samples, samples, how, lm, end_ids, halts)
                grow_rows(lm, rows)
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


def grow_forest(lm: LanguageModel, rows: Rows, most: Most, tell: Callable[[Sequence[int]], None]) -> None:
    """Every live row gets a token at each step, and those of its draft that are what it would write. Prompts are read,
    as a forest, when others have made room for them (continuous batching); `tell` hears of those whose rows are all
    over."""
    plan = DecodePlan(rows.samples, rows.how.max_new_tokens)
    shared, taken, stop = in_common(rows.prompts), 0, most.next(rows, 0, [])
    growing: list[int] = []
    while stop > taken or rows.alive:
        if rows.alive:
            drafts = rows.drafted()
            live = [rows.all[r].ids for r in rows.alive]
            pos_T = plan.step([len(ids) - 1 for ids in live], [1 + len(draft) for draft in drafts])
            asked = [token for ids, draft in zip(live, drafts, strict=True) for token in (ids[-1], *draft)]
            hidden_TD = forward(lm, plan, torch.tensor(asked, device=lm.device), pos_T)
            rows.draw(logits_of(lm, hidden_TD), rows.alive, drafts)
        if stop > taken:
            hidden_BD = read_prompts(lm, rows.prompts[taken:stop], shared, plan.kept)
            plan.admit(stop - taken)
            fresh = rows.admit(taken, stop)
            rows.draw(logits_of(lm, hidden_BD).repeat_interleave(rows.samples, 0), fresh, [[] for _ in fresh])
            growing, taken = [*growing, *range(taken, stop)], stop
        going = rows.unfinished()
        if len(going) < len(rows.alive):
            if done := [b for b in growing if rows.finished(b)]:
                growing = [b for b in growing if b not in done]
                tell(done)
            stop = most.next(rows, taken, [rows.alive[n] for n in going])
            if plan.pays(len(going)) or stop > taken:
                rows.keep(plan.keep(torch.tensor(going, dtype=torch.int64, device=lm.device)).tolist())


def grow_rows(lm: LanguageModel, rows: Rows) -> None:
    """For architectures that do not attend by a plan: prompts of equal length, the library's own cache, no padding
    (padding changes what recurrent layers see)."""
    alone: list[list[int]] = [[] for _ in rows.admit(0, len(rows.prompts))]
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
        rows.draw(out.logits[:, -1].float(), rows.alive, alone)
        if not rows.unfinished():
            return
        fresh_NL = torch.tensor([row.ids[-1:] for row in rows.all], device=lm.device)
        ids_NL = torch.cat([ids_NL, fresh_NL], dim=1)
        carried = lm.core._update_model_kwargs_for_generation(out, carried)


def collect(rows: Rows, done: Sequence[int], decode: Callable[[Sequence[int]], str]) -> Iterator[list[Sample]]:
    """The finished rows of some prompts as Samples."""
    for b in done:
        prompt, found = tuple(rows.prompts[b]), []
        for row in rows.all[b * rows.samples : (b + 1) * rows.samples]:
            text = decode(row.ids[:-1] if row.ended else row.ids)
            found.append(Sample(prompt, tuple(row.ids), tuple(row.logps), text, row.ended))
        yield found
