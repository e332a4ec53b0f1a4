"""What a masked language model knows: fillings of hidden places, pseudo-perplexity, loss under a fixed mask."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from luthier.base.errors import UserError
from luthier.base.nouns import Tokens
from luthier.base.seeds import seed_for
from luthier.model.logp import CHUNK_LOGITS
from luthier.model.score import LanguageModel, logits_of, score, sequence_sums, states
from luthier.tokens.masking import Hidden, frame, hide_at, pack_hidden, vocabulary, word_numbers
from luthier.tokens.pack import split_by_tokens

TOP = 5
"""Fillings shown of each place."""
ROWS_AT_ONCE = 32
"""Rows whose copies, one a token, are laid out together for pseudo-perplexity."""


class Filling(NamedTuple):
    """What the model puts in one hidden place: its likeliest tokens, and how many are likelier than the truth."""

    ids: tuple[int, ...]
    probs: tuple[float, ...]
    rank: int


@torch.no_grad()
def fillings(lm: LanguageModel, rows: Sequence[Hidden], batch_tokens: int = 8192) -> list[list[Filling]]:
    """The likeliest tokens of every hidden place, row by row."""
    was_training = lm.module.training
    lm.module.eval()
    found: list[list[Filling]] = []
    for run in split_by_tokens(rows, batch_tokens):
        batch = pack_hidden(run).to(lm.device)
        hidden_MD = states(lm, batch, batch.from_M, batch.seq_M)
        size = max(1, CHUNK_LOGITS // lm.core.config.vocab_size)
        places: list[Filling] = []
        for hidden, target in zip(hidden_MD.split(size), batch.target_M.split(size), strict=True):
            logits_MV = logits_of(lm, hidden)
            truth_M1, id_V = logits_MV.gather(1, target[:, None]), torch.arange(logits_MV.shape[1], device=lm.device)
            # Of equals the first comes first: a model that prefers nothing is not right everywhere.
            rank_M = ((logits_MV > truth_M1) | ((logits_MV == truth_M1) & (id_V < target[:, None]))).sum(-1)
            best = torch.softmax(logits_MV, -1).topk(TOP)
            told = zip(best.indices.tolist(), best.values.tolist(), rank_M.tolist(), strict=True)
            places += [Filling(tuple(ids), tuple(probs), rank) for ids, probs, rank in told]
        for row in run:
            found.append(places[: len(row.at)])
            places = places[len(row.at) :]
    lm.module.train(was_training)
    return found


def places(rows: Sequence[Tokens], count: int, seed: int, mask: int, goes_on: np.ndarray | None) -> list[Hidden]:
    """Rows with one place hidden each, a token or (with `goes_on`) a whole word; `count` of all there are, drawn by
    the seed without drawing any twice."""
    candidates: list[tuple[int, tuple[int, ...]]] = []
    for number, row in enumerate(rows):
        at = np.flatnonzero(row.weights)
        word = at if goes_on is None else word_numbers(np.asarray(row.ids), goes_on)[at]
        candidates += [(number, tuple(at[word == one].tolist())) for one in np.unique(word)]
    random = np.random.default_rng(seed_for(seed, "places"))
    chosen = sorted(random.permutation(len(candidates))[:count].tolist())
    return [hide_at(rows[candidates[i][0]], candidates[i][1], mask) for i in chosen]


def right_fillings(lm: LanguageModel, rows: Sequence[Hidden]) -> tuple[list[int], list[int]]:
    """Of each row, whether the truth is the likeliest filling, and whether it is among the five likeliest; where
    several tokens are hidden, of each."""
    ranks = [max(place.rank for place in row) for row in fillings(lm, rows)]
    return [int(rank < 1) for rank in ranks], [int(rank < TOP) for rank in ranks]


@torch.no_grad()
def masked_losses(lm: LanguageModel, rows: Sequence[Hidden], batch_tokens: int = 8192) -> tuple[np.ndarray, np.ndarray]:
    """Summed −log p (nats) of what is hidden, and the number of hidden tokens, of each row."""
    was_training = lm.module.training
    lm.module.eval()
    nats: list[float] = []
    for run in split_by_tokens(rows, batch_tokens):
        batch = pack_hidden(run).to(lm.device)
        nats += sequence_sums(-score(lm, batch), batch).tolist()
    lm.module.train(was_training)
    return np.array(nats), np.array([float(len(row.at)) for row in rows])


def pseudo_losses(lm: LanguageModel, rows: Sequence[Tokens], mask: int) -> tuple[np.ndarray, np.ndarray]:
    """−PLL of each row, Σ_t −log p(w_t | all others) in nats, and its number of tokens. exp of the quotient of their
    sums is the pseudo-perplexity. Salazar et al. 2020, eqs. 1 and 3."""
    nats: list[float] = []
    counts = [int(np.count_nonzero(row.weights)) for row in rows]
    for start in range(0, len(rows), ROWS_AT_ONCE):
        here = rows[start : start + ROWS_AT_ONCE]
        copies = [hide_at(row, (int(at),), mask) for row in here for at in np.flatnonzero(row.weights)]
        each, _ = masked_losses(lm, copies)
        ends = np.cumsum(counts[start : start + ROWS_AT_ONCE])
        nats += [float(part.sum()) for part in np.split(each, ends[:-1])]
    return np.array(nats), np.array(counts, dtype=np.float64)


class Blank(NamedTuple):
    """A text with a hidden word, for people: what stood there, and what the model would put there."""

    origin: str
    text: str
    truth: str
    filled: str
    right: bool


def blanks(lm: LanguageModel, tokenizer: Any, rows: Sequence[Tokens], seed: int) -> list[Blank]:
    """One word of each row hidden, drawn by the seed, of a single token where the row has such a word; filled."""
    words, shown = vocabulary(tokenizer, whole_words=True), []
    assert words.goes_on is not None
    for number, row in enumerate(rows):
        at = np.flatnonzero(row.weights)
        word = word_numbers(np.asarray(row.ids), words.goes_on)[at]
        alone = [int(i) for i, one in zip(at, word, strict=True) if np.count_nonzero(word == one) == 1]
        letters = [i for i in alone if tokenizer.decode([row.ids[i]]).strip().isalpha()]
        among = letters or alone or at.tolist()
        shown.append(hide_at(row, (among[seed_for(seed, "blank", number) % len(among)],), words.mask))
    around = frame(tokenizer)
    found = []
    for hidden, (place,) in zip(shown, fillings(lm, shown), strict=True):
        bare = hidden.ids[len(around[0]) : len(hidden.ids) - len(around[1])]
        truth, text = tokenizer.decode([hidden.targets[0]]), tokenizer.decode(bare)
        if truth.startswith(" "):  # the hidden token brought its space along
            text = re.sub(rf"(?<=\S){re.escape(tokenizer.mask_token)}", f" {tokenizer.mask_token}", text)
        found.append(Blank(hidden.origin, text, truth.strip(), in_words(place, tokenizer), place.rank == 0))
    return found


def in_words(place: Filling, tokenizer: Any) -> str:
    """The likeliest fillings with their probabilities: "red 62 %, blue 20 %, …"."""
    texts = [tokenizer.decode([id]).strip() or repr(tokenizer.decode([id])) for id in place.ids]
    return ", ".join(f"{text} {prob * 100:.0f} %" for text, prob in zip(texts, place.probs, strict=True))


def fill(lm: LanguageModel, tokenizer: Any, text: str, context: int) -> list[str]:
    """The likeliest fillings of every mask in a text, in words. `[MASK]` means the tokenizer's own mask token too.
    Raises UserError for a text without one, or longer than the model's context."""
    mask, mask_id = tokenizer.mask_token, vocabulary(tokenizer).mask
    ids = tokenizer(text.replace("[MASK]", mask), verbose=False)["input_ids"]
    at = tuple(i for i, id in enumerate(ids) if id == mask_id)
    if not at:
        raise UserError(f"there is no {mask} in this text. Write {mask} where a word is missing: the model fills it.")
    if len(ids) > context:
        raise UserError(f"this text has {len(ids)} tokens, and the model reads {context}. Shorten it.")
    (found,) = fillings(lm, [Hidden(tuple(ids), at, tuple(ids[i] for i in at), "text")])
    return [in_words(place, tokenizer) for place in found]
