"""Masked language modelling: documents as rows, which of their tokens are hidden, and what is shown instead.

A row is what an encoder's tokenizer makes of a text, its special tokens around it ([CLS] … [SEP]); those carry no
weight and are never hidden. Which tokens are is drawn anew for every step, from the seed alone.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from luthier.base.errors import UserError
from luthier.base.nouns import Example, Text, Tokens
from luthier.base.seeds import seed_for
from luthier.base.tuning import Masking
from luthier.tokens.pack import Batch
from luthier.tokens.prepare import Overlong, Prepared

APART = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2FA1F))
"""Kana and ideographs, which are written without spaces: each stands for a word of its own, as in BERT."""


@dataclass(frozen=True, slots=True)
class Hidden:
    """A row as it is shown: where `at` points, `targets` stood."""

    ids: tuple[int, ...]
    at: tuple[int, ...]
    targets: tuple[int, ...]
    origin: str


@dataclass(frozen=True)
class Vocabulary:
    """What hiding has to know of a tokenizer."""

    mask: int
    """The id shown in place of a hidden token."""
    ordinary: np.ndarray
    """Ids that a random token is drawn from: all but the special ones."""
    goes_on: np.ndarray | None
    """bool [2, V], for whole words: whether a token's text begins, and ends, inside a word."""


def vocabulary(tokenizer: Any, whole_words: bool = False) -> Vocabulary:
    """Raises UserError for a tokenizer without a mask token: it is no masked language model's."""
    mask = tokenizer.mask_token_id
    if mask is None:
        raise UserError(
            "base: its tokenizer has no mask token, so nothing can be hidden. Give an encoder (BERT, RoBERTa, "
            "ModernBERT), or train with objective: causal."
        )
    special = special_ids(tokenizer)
    ordinary = np.array(sorted(set(tokenizer.get_vocab().values()) - special))
    return Vocabulary(mask, ordinary, inside_words(tokenizer) if whole_words else None)


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Ids that stand for no text: never hidden, never drawn."""
    added = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(added | set(tokenizer.all_special_ids))


def inside_words(tokenizer: Any) -> np.ndarray:
    """bool [2, V]: whether a token's text begins, and ends, inside a word.

    Asked of the tokenizer itself, by what a token adds to a text that ends in a letter: "##ing", "ing" and "ing" go
    on with a word where " cat" and "▁cat" begin one. So it holds for WordPiece, byte-level BPE and SentencePiece, and
    for rows of which only the ids are left. Bytes of a cut character count as letters.
    """
    start = tokenizer("a", add_special_tokens=False)["input_ids"]
    before = tokenizer.decode(start)
    every = set(tokenizer.get_vocab().values())
    known = sorted(every - special_ids(tokenizer))
    texts = tokenizer.batch_decode([[*start, id] for id in known], clean_up_tokenization_spaces=False)
    found = np.zeros((2, max(every) + 1), dtype=bool)
    for id, text in zip(known, texts, strict=True):
        piece = text.removeprefix(before)
        if piece:  # a lone space belongs to the word that it begins
            found[:, id] = of_a_word(piece[0]), of_a_word(piece[-1]) or piece.endswith(" ")
    return found


def of_a_word(character: str) -> bool:
    """Letters, digits, marks and cut characters, in scripts that put spaces between words."""
    lettered = character.isalnum() or character == "\ufffd" or unicodedata.category(character).startswith("M")
    return lettered and not any(low <= ord(character) <= high for low, high in APART)


def word_numbers(ids: np.ndarray, goes_on: np.ndarray) -> np.ndarray:
    """The number of the word that each token of a row belongs to: tokens that meet inside a word have the same."""
    begins = np.ones(len(ids), dtype=np.int64)
    begins[1:] = ~(goes_on[1, ids[:-1]] & goes_on[0, ids[1:]])
    return np.cumsum(begins) - 1


def hide(tokens: Tokens, how: Masking, words: Vocabulary, seed: int, step: int, row: int) -> Hidden:
    """Hides round(share·n) of the n weighted tokens of a row, at least one; of whole words as many as come nearest.
    Each hidden token is shown as the mask, as a random token, or as itself. Devlin et al. 2019, §3.1.

    A function of (seed, step, row): another step hides other tokens, and a resumed step the same.
    """
    random = np.random.default_rng(seed_for(seed, f"mask row {row}", step))
    ids = np.asarray(tokens.ids, dtype=np.int64)
    open_C = np.flatnonzero(tokens.weights)
    count = max(1, round(how.share * len(open_C)))
    if words.goes_on is None:
        chosen = np.sort(random.permutation(open_C)[:count])
    else:
        chosen = whole_words(word_numbers(ids, words.goes_on)[open_C], count, random, open_C)
    draw_M = random.random(len(chosen))
    other_M = random.choice(words.ordinary, len(chosen))
    shown = ids.copy()
    as_other = draw_M < how.mask + how.random
    shown[chosen[as_other]] = other_M[as_other]
    shown[chosen[draw_M < how.mask]] = words.mask
    return Hidden(tuple(shown.tolist()), tuple(chosen.tolist()), tuple(ids[chosen].tolist()), tokens.origin)


def whole_words(word_C: np.ndarray, count: int, random: np.random.Generator, open_C: np.ndarray) -> np.ndarray:
    """Positions of words drawn one after the other, as many as come nearest to `count` tokens, at least one. Passing
    over words that are too long would come nearer, and hide the short, easy ones only."""
    numbers, sizes = np.unique(word_C, return_counts=True)
    order = random.permutation(len(numbers))
    last = int(np.argmin(np.abs(np.cumsum(sizes[order]) - count)))
    return open_C[np.isin(word_C, numbers[order[: last + 1]])]


def hide_at(tokens: Tokens, at: Sequence[int], mask: int) -> Hidden:
    """The row with the mask at these positions: for evaluation, where nothing is drawn."""
    shown = list(tokens.ids)
    for position in at:
        shown[position] = mask
    return Hidden(tuple(shown), tuple(at), tuple(tokens.ids[position] for position in at), tokens.origin)


def pack_hidden(rows: Sequence[Hidden]) -> Batch:
    """Rows laid flat, the shortest first, sharing nothing: a token's state depends on both sides, so no state is common
    to two rows. The state at a hidden position predicts what stood there."""
    sizes = np.array([len(row.ids) for row in rows])
    order = np.argsort(sizes, kind="stable")
    stops = np.empty_like(sizes)
    stops[order] = np.cumsum(sizes[order])
    counts = [len(row.at) for row in rows]
    flat = lambda parts: torch.tensor([x for part in parts for x in part], dtype=torch.int64)  # noqa: E731
    return Batch(
        ids_T=flat([rows[n].ids for n in order.tolist()]),
        pos_T=torch.from_numpy(np.concatenate([np.arange(sizes[n]) for n in order])),
        end_T=torch.from_numpy(np.repeat(stops[order], sizes[order])),
        from_M=torch.from_numpy(np.repeat(stops - sizes, counts)) + flat([row.at for row in rows]),
        target_M=flat([row.targets for row in rows]),
        weight_M=torch.ones(sum(counts)),
        seq_M=torch.from_numpy(np.repeat(np.arange(len(rows)), counts)),
        last_N=torch.from_numpy(stops - 1),
        origins=tuple(row.origin for row in rows),
    )


def frame(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that the tokenizer puts before and behind every text: ([CLS],) and ([SEP],)."""
    bare, framed = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    at = next(i for i in range(len(framed)) if framed[i : i + len(bare)] == bare)
    return tuple(framed[:at]), tuple(framed[at + len(bare) :])


def document(text: Text, tokenizer: Any, around: tuple[tuple[int, ...], tuple[int, ...]]) -> Tokens:
    """A text as an encoder reads it; weight 1 on what may be hidden. The names of special tokens stay text in it."""
    ids = tokenizer(text.text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    special = special_ids(tokenizer)
    return framed(ids, [float(id not in special) for id in ids], text.origin, around)


def framed(
    ids: Sequence[int], weights: Sequence[float], origin: str, around: tuple[tuple[int, ...], tuple[int, ...]]
) -> Tokens:
    """Tokens with what belongs around them."""
    before, behind = around
    return Tokens((*before, *ids, *behind), ((0.0,) * len(before)) + tuple(weights) + ((0.0,) * len(behind)), origin)


def prepare_documents(
    examples: Sequence[Example], tokenizer: Any, max_length: int, overlong: Overlong = "split"
) -> Prepared:
    """Documents as rows of at most `max_length` tokens, the special ones included; every piece of a split document
    gets its own. Documents without a token that could be hidden are dropped.

    Raises UserError for anything but documents, and naming every row that is too long when the rule is `error`.
    """
    around = frame(tokenizer)
    room = max_length - len(around[0]) - len(around[1])
    if room < 1:
        raise UserError(f"max_length: {max_length} leaves no room for text between the special tokens. Raise it.")
    made, problems = Prepared(), []
    for example in examples:
        if not isinstance(example, Text):
            kind = type(example).__name__.lower()
            raise UserError(f"{example.origin}: a {kind}; a masked objective reads documents. Give a source of texts.")
        row = document(example, tokenizer, around)
        bare = len(row.ids) - max_length + room
        if not any(row.weights):
            made.dropped.append(example.origin)
        elif bare <= room:
            made.sequences.append(row)
        elif overlong == "error":
            problems.append(
                f"{example.origin}: {len(row.ids)} tokens, longer than max_length {max_length}. Shorten it, raise "
                "max_length, or say overlong: drop, truncate or split."
            )
        elif overlong == "drop":
            made.dropped.append(example.origin)
        else:
            add_pieces(made, row, len(around[0]), bare, room, around, cut=overlong == "truncate")
    if problems:
        rest = len(problems) - 20
        raise UserError(problems[:20] + ([f"... and {rest} rows more."] if rest > 0 else []))
    return made


def add_pieces(
    made: Prepared,
    row: Tokens,
    first: int,
    bare: int,
    room: int,
    around: tuple[tuple[int, ...], tuple[int, ...]],
    cut: bool,
) -> None:
    """A row that is too long, as its first piece or as all of them, to `made`."""
    ids, weights = row.ids[first : first + bare], row.weights[first : first + bare]
    pieces = [
        framed(ids[start : start + room], weights[start : start + room], row.origin, around)
        for start in range(0, room if cut else bare, room)
    ]
    made.sequences += [piece for piece in pieces if any(piece.weights)]
    if cut:
        made.truncated.append(row.origin)
        made.lost_tokens += sum(weight > 0 for weight in weights[room:])
    else:
        made.split += 1


Hiding = Callable[[Tokens, int, int], Hidden]
"""(row, step, its number in the step) -> the row as it is shown."""


def hiding(how: Masking, words: Vocabulary, seed: int) -> Hiding:
    """`hide` under one recipe and one seed."""
    return lambda tokens, step, row: hide(tokens, how, words, seed, step, row)


def unhidden(sequences: Sequence[Tokens]) -> Batch:
    """Rows with nothing hidden, of which every weighted token is predicted: for comparing two forwards."""
    at = [tuple(np.flatnonzero(row.weights).tolist()) for row in sequences]
    pairs = zip(sequences, at, strict=True)
    return pack_hidden([Hidden(row.ids, here, tuple(row.ids[i] for i in here), row.origin) for row, here in pairs])
