"""The sampler. A prompt is read once, its keys are shared by its samples, and every row has its own randomness.

What it samples from is exactly what `score` scores: no hidden top-k, no suppressed end token. Greedy output equals
transformers' `generate` token for token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.base.errors import UserError
from luthier.base.nouns import Sample, Tokens
from luthier.model.attention import ForestPlan, using
from luthier.model.decode import DecodePlan
from luthier.model.score import LanguageModel, logits_of
from luthier.model.verify import room_of
from luthier.model.virtual import NOTHING, Virtual, virtual_of
from luthier.tokens.pack import forest, paths

BLOCK = 128
"""Tokens of the vocabulary that are summed together when one is drawn."""
READ_TOKENS = 8192
"""Most tokens of prompts that are read at once."""
DROP_BELOW = 5 / 6
"""Share of the computed rows still growing at which the others are let go."""


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


class Stops(NamedTuple):
    """Strings at which a row ends; they stay in its text."""

    strings: tuple[str, ...] = ()
    decode: Callable[[Sequence[int]], str] = lambda ids: ""

    def met(self, ids: Sequence[int]) -> bool:
        """Whether the last of some tokens completed a string: one of n bytes lies in the last n tokens."""
        longest = max(len(string.encode()) for string in self.strings)
        tail = self.decode(ids[-longest - 1 :])
        return any(string in tail for string in self.strings)


class Rows:
    """The state of N = B·G rows while they grow: which ids they have, and what they drew."""

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        first_row: int,
        samples: int,
        how: Sampling,
        vocab: int,
        device: torch.device,
        context: int,
        stops: Stops = Stops(),  # noqa: B008  # immutable
    ) -> None:
        self.how, self.samples, n = how, samples, len(prompts) * samples
        self.stops = stops
        # Row r of the whole call draws from its own stream, so its text does not depend on how rows are batched.
        uniform = (
            [
                np.random.Generator(np.random.Philox(key=[how.seed, first_row + r])).random(how.max_new_tokens)
                for r in range(n)
            ]
            if how.temperature > 0
            else [np.zeros(how.max_new_tokens)] * n
        )
        self.uniform = torch.from_numpy(np.stack(uniform)).to(device)
        self.ids = torch.zeros(n, how.max_new_tokens, dtype=torch.int64, device=device)
        self.logps = torch.zeros(n, how.max_new_tokens, device=device)
        self.length = torch.zeros(n, dtype=torch.int64, device=device)
        self.ended = torch.zeros(n, dtype=torch.bool, device=device)
        self.halted = torch.zeros(n, dtype=torch.bool, device=device)
        """Rows that met a stop string."""
        rooms = [context - len(prompt) for prompt in prompts]
        self.room = torch.tensor(rooms, device=device).repeat_interleave(samples)
        """Tokens until the context is full: no row grows beyond it."""
        self.least_room = min(rooms)
        self.alive = torch.arange(n, device=device)
        """Rows that the model still computes, in order; some of them may have ended already."""
        self.seen: Tensor | None = None
        if how.repetition_penalty != 1.0:
            self.seen = torch.zeros(n, vocab, dtype=torch.bool, device=device)
            for r in range(n):
                self.seen[r, list(prompts[r // samples])] = True

    def draw(self, logits_NV: Tensor, step: int, end_ids: Tensor) -> Tensor:
        """Draws the next token of every live row, records it where the row has not ended, and returns it [N]."""
        rows = self.alive
        drawn = choose(logits_NV, self.uniform[rows, step], self.how, None if self.seen is None else self.seen[rows])
        going = ~self.over()[rows]
        self.ids[rows[going], step] = drawn.token_N[going]
        self.logps[rows[going], step] = drawn.logp_N[going]
        self.length[rows[going]] += 1
        self.ended[rows[going]] = torch.isin(drawn.token_N[going], end_ids)
        if self.seen is not None:
            self.seen[rows, drawn.token_N] = True
        if self.stops.strings:
            for r in rows[going].tolist():
                self.halted[r] = self.stops.met(self.ids[r, : step + 1].tolist())
        return drawn.token_N

    def unfinished(self) -> Tensor:
        """Indices, among the live rows, of those that go on."""
        return torch.nonzero(~self.over()[self.alive]).squeeze(1)

    def over(self) -> Tensor:
        """Whether each row has ended, met a stop string, or filled the context."""
        return self.ended | self.halted | (self.length >= self.room)

    def keep(self, rows_N: Tensor) -> None:
        """Stops computing all other rows."""
        self.alive = self.alive[rows_N]


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
    token_N = probs_NV.argmax(-1) if how.temperature == 0 else invert(probs_NV, uniform_N)
    if how.temperature == 0 and seen_NV is None:
        token_N = logits_NV.argmax(-1)  # two logits may be one probability
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
) -> list[list[Sample]]:
    """Draws `samples` completions of each prompt (token ids), returned in the prompts' order.

    A row ends at the first of `end_ids`, which stays its last id, where it has written one of the strings `stops`, at
    `max_new_tokens`, or where it fills the model's context. `logps` are log-probs in nats under
    softmax(logits / temperature) (temperature 1 when greedy). At most `max_rows` rows grow at once; `progress` hears
    how many are done. Raises ValueError on an empty prompt, UserError for an encoder, and for a prompt that leaves no
    room.
    """
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
    was_training = lm.module.training
    lm.module.eval()
    grow = grow_forest if lm.layout == "forest" else grow_rows
    ends = torch.tensor(sorted(end_ids), dtype=torch.int64, device=lm.device)
    found: list[list[Sample]] = []
    try:
        for start, stop in waves(prompts, samples, max_rows, equal_lengths=lm.layout == "rows"):
            wave = prompts[start:stop]
            halts = Stops(tuple(stops), decode)
            rows = Rows(wave, start * samples, samples, how, lm.core.config.vocab_size, lm.device, context, halts)
            grow(lm, wave, rows, ends)
            found.extend(collect(rows, wave, decode))
            progress(len(found) * samples)
    finally:
        lm.module.train(was_training)
    return found


def waves(
    prompts: Sequence[Sequence[int]], samples: int, max_rows: int, equal_lengths: bool
) -> Iterator[tuple[int, int]]:
    """Runs `start:stop` of prompts that grow together; of one length where the model cannot mix lengths."""
    start = 0
    while start < len(prompts):
        stop = start + 1
        while (
            stop < len(prompts)
            and (stop + 1 - start) * samples <= max_rows
            and not (equal_lengths and len(prompts[stop]) != len(prompts[start]))
        ):
            stop += 1
        yield start, stop
        start = stop


def grow_forest(lm: LanguageModel, prompts: Sequence[Sequence[int]], rows: Rows, ends: Tensor) -> None:
    """Reads the prompts as one forest, then adds a token to every row at each step."""
    how = rows.how
    read = read_prompts(lm, prompts)
    plan = DecodePlan(read.kept, read.lengths_B, rows.samples, how.max_new_tokens)
    hidden_BD = read.hidden_BD
    del read
    logits_NV = logits_of(lm, hidden_BD).repeat_interleave(rows.samples, 0)
    for step in range(how.max_new_tokens):
        next_N = rows.draw(logits_NV, step, ends)
        going_N = rows.unfinished()
        if len(going_N) == 0 or step + 1 == how.max_new_tokens:
            return
        # Letting rows go copies the others' keys: worth it once some have ended. One that fills the context must go.
        enough = DROP_BELOW if step + 1 < rows.least_room else 1
        if len(going_N) < len(rows.alive) and len(going_N) <= len(rows.alive) * enough:
            next_N = next_N[going_N]
            plan.keep(going_N)
            rows.keep(going_N)
        logits_NV = logits_of(lm, forward(lm, plan, next_N, plan.positions()))
        plan.advance()


class Read(NamedTuple):
    """What reading some prompts left behind: each one's length, its last hidden state, and every layer's keys and
    values [B, Hkv, L, d], left-aligned."""

    lengths_B: Tensor
    hidden_BD: Tensor
    kept: dict[int, tuple[Tensor, Tensor]]


def pieces(prompts: Sequence[Sequence[int]]) -> Iterator[tuple[int, int]]:
    """Runs `start:stop` of prompts that are read together: of at most READ_TOKENS tokens."""
    start = size = 0
    for at, prompt in enumerate(prompts):
        if at > start and size + len(prompt) > READ_TOKENS:
            yield start, at
            start, size = at, 0
        size += len(prompt)
    yield start, len(prompts)


def read_prompts(lm: LanguageModel, prompts: Sequence[Sequence[int]]) -> Read:
    """Reads some prompts, as one forest at a time. Each forest's keys and values go to their place at once, so that
    there are never two of them all."""
    lengths: list[int] = []
    hidden: list[Tensor] = []
    kept: dict[int, tuple[Tensor, Tensor]] = {}
    for start, stop in pieces(prompts):
        found, read, paths_b, last_D = read_forest(lm, prompts[start:stop])
        lengths += map(len, paths_b)
        hidden.append(last_D)
        longest = found + max(map(len, prompts))
        for layer in list(read):
            k, v = read.pop(layer)
            if layer not in kept:
                # Values come in the arithmetic's own type; keys may not, where autocast let the rotation widen them.
                kept[layer] = (
                    v.new_zeros(len(prompts), k.shape[1], longest, k.shape[3]),
                    v.new_zeros(len(prompts), v.shape[1], longest, v.shape[3]),
                )
            for b, path in enumerate(paths_b, start):
                kept[layer][0][b, :, : len(path)] = k[0][:, path].to(v.dtype)
                kept[layer][1][b, :, : len(path)] = v[0][:, path]
    return Read(torch.tensor(lengths, device=lm.device), torch.cat(hidden), kept)


def read_forest(
    lm: LanguageModel, prompts: Sequence[Sequence[int]]
) -> tuple[int, dict[int, tuple[Tensor, Tensor]], list[Tensor], Tensor]:
    """Reads some prompts as one forest: how many virtual keys stand before their tokens' own, every layer's keys and
    values [1, Hkv, T, d], which of those each prompt sees, and its last hidden state [B, D]."""
    device, virtual = lm.device, virtual_of(lm.module, lm.core)
    batch = virtual.above(forest([Tokens(tuple(p), (0.0,) * len(p), "") for p in prompts]).to(device))
    kept: dict[int, tuple[Tensor, Tensor]] = {}
    plan = ForestPlan(batch, keep=kept, prefix=virtual.prefix)
    hidden_TD = forward(lm, plan, batch.ids_T, batch.pos_T, virtual)
    prefix_K = torch.arange(plan.lead, device=device)  # its keys are kept in front of the tokens' own
    path_B = [torch.cat([prefix_K, plan.lead + path]) for path in paths(batch)]
    return len(path_B[0]) - len(prompts[0]), kept, path_B, hidden_TD[batch.last_N]


def forward(lm: LanguageModel, plan: Any, ids_T: Tensor, pos_T: Tensor, virtual: Virtual = NOTHING) -> Tensor:
    """Final hidden states [T, D] under a plan; `virtual` tokens are the first of a batch that is below them."""
    with torch.autocast(lm.device.type, dtype=lm.dtype, enabled=lm.dtype != torch.float32), using(plan):
        out = lm.backbone(
            **virtual.inputs(lm.core, ids_T),
            position_ids=pos_T[None],
            attention_mask=torch.ones_like(ids_T)[None],
            use_cache=False,
        )
    return out.last_hidden_state[0]


def grow_rows(lm: LanguageModel, prompts: Sequence[Sequence[int]], rows: Rows, ends: Tensor) -> None:
    """For architectures that do not attend by a plan: prompts of equal length, the library's own cache, no padding
    (padding changes what recurrent layers see)."""
    ids_NL = torch.tensor([list(p) for p in prompts], device=lm.device).repeat_interleave(rows.samples, 0)
    carried: dict[str, Any] = {"use_cache": True, "attention_mask": torch.ones_like(ids_NL)}
    fresh_NL = ids_NL
    for step in range(rows.how.max_new_tokens):
        inputs = lm.core.prepare_inputs_for_generation(
            ids_NL, next_sequence_length=fresh_NL.shape[1], is_first_iteration=step == 0, **carried
        )
        out = lm.module(**inputs)
        fresh_NL = rows.draw(out.logits[:, -1].float(), step, ends)[:, None]
        if len(rows.unfinished()) == 0:
            return
        ids_NL = torch.cat([ids_NL, fresh_NL], dim=1)
        carried = lm.core._update_model_kwargs_for_generation(out, carried)


def collect(rows: Rows, prompts: Sequence[Sequence[int]], decode: Callable[[Sequence[int]], str]) -> list[list[Sample]]:
    """The finished rows as Samples, by prompt."""
    ids, logps = rows.ids.tolist(), rows.logps.tolist()
    lengths, ended = rows.length.tolist(), rows.ended.tolist()
    found: list[list[Sample]] = [[] for _ in prompts]
    for r, (n, stopped) in enumerate(zip(lengths, ended, strict=True)):
        prompt = prompts[r // rows.samples]
        text = decode(ids[r][: n - 1] if stopped else ids[r][:n])
        found[r // rows.samples].append(Sample(tuple(prompt), tuple(ids[r][:n]), tuple(logps[r][:n]), text, stopped))
    return found
