"""What is hidden of a row: how much, which tokens, and never half a word."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.base.errors import UserError
from luthier.base.nouns import Chat, Message, Text, Tokens
from luthier.base.tuning import Masking
from luthier.tokens.masking import (
    Hidden,
    Vocabulary,
    frame,
    hide,
    hide_at,
    inside_words,
    pack_hidden,
    prepare_documents,
    special_ids,
    unhidden,
    vocabulary,
    word_numbers,
)
from luthier.tokens.tokenizer import train_tokenizer
from tokens.masked_tokenizers import TEXTS, TOKENIZERS

MASK = 4
PLAIN = Vocabulary(MASK, np.arange(5, 45), None)
"""40 ordinary tokens; ids below 5 are special."""


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


def row(count: int, start: int = 5) -> Tokens:
    """[CLS] and [SEP] around `count` ordinary tokens."""
    ids = (1, *(start + i % 40 for i in range(count)), 2)
    return Tokens(ids, (0.0, *[1.0] * count, 0.0), "row")


@given(st.integers(1, 300), st.floats(0.01, 0.99), st.integers(0, 2**31), st.integers(0, 99))
def test_exactly_the_share_is_hidden(count, share, seed, step):
    hidden = hide(row(count), Masking(share=share), PLAIN, seed, step, 3)
    assert len(hidden.at) == max(1, round(share * count))
    assert list(hidden.at) == sorted(set(hidden.at)) and hidden.targets == tuple(row(count).ids[i] for i in hidden.at)
    others = set(range(count + 2)) - set(hidden.at)
    assert all(hidden.ids[i] == row(count).ids[i] for i in others)
    assert min(hidden.at) > 0 and max(hidden.at) <= count, "a special token is hidden"
    assert all(id == MASK or id >= 5 for i, id in enumerate(hidden.ids) if i in hidden.at), "a special token is drawn"


def chi_square(observed, expected) -> float:
    observed, expected = np.asarray(observed, float), np.asarray(expected, float)
    return float(((observed - expected) ** 2 / expected).sum())


def test_proportions_places_and_random_tokens_are_as_stated():
    """Of 3,000 draws of 15 of 100 tokens. Bounds: the 99.9 % points of chi-square with 2, 99 and 39 degrees."""
    tokens, how = row(100), Masking()
    drawn = [hide(tokens, how, PLAIN, 11, step, number) for step in range(300) for number in range(10)]
    shown = [
        (hidden.ids[i], target, i) for hidden in drawn for i, target in zip(hidden.at, hidden.targets, strict=True)
    ]
    total = len(shown)
    assert total == 3000 * 15
    masked = sum(now == MASK for now, _, _ in shown)
    same = sum(now == was for now, was, _ in shown)
    # A random token is the one that stood there once in 40 times.
    expected = [0.8 * total, (0.1 + 0.1 / 40) * total, 0.1 * (39 / 40) * total]
    assert chi_square([masked, same, total - masked - same], expected) < 13.8
    places = np.bincount([i for _, _, i in shown], minlength=102)[1:101]
    assert chi_square(places, [total / 100] * 100) < 148.2
    other = np.bincount([now for now, was, _ in shown if now not in (was, MASK)], minlength=45)[5:]
    assert chi_square(other, [other.sum() / 40] * 40) < 72.1


@pytest.mark.parametrize(("mask", "random"), [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_shares_of_what_is_shown_may_be_all_or_nothing(mask, random):
    hidden = hide(row(200), Masking(share=0.5, mask=mask, random=random), PLAIN, 0, 0, 0)
    shown = [hidden.ids[i] for i in hidden.at]
    assert (shown == [MASK] * 100) == (mask == 1)
    assert (shown == list(hidden.targets)) == (mask == random == 0)


def test_a_mask_is_a_function_of_seed_step_and_row():
    tokens, how = row(60), Masking()
    draw = lambda *place: hide(tokens, how, PLAIN, *place)  # noqa: E731
    assert draw(1, 2, 3) == draw(1, 2, 3)
    assert len({draw(*place).at for place in ((1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4))}) == 4


def words_by_offsets(text: str, tokenizer) -> list[list[int]]:
    """For each run of letters and digits of the text, the places of the tokens that have a part in it."""
    found = tokenizer(text, return_offsets_mapping=True)
    spans = [(i, start, end) for i, (start, end) in enumerate(found["offset_mapping"]) if end > start]
    return [
        [i for i, start, end in spans if start < word.end() and end > word.start()]
        for word in re.finditer(r"\w+", text)
    ]


@pytest.mark.parametrize("text", [*TEXTS, "lampshade 27114 boats' unbelieving"])
def test_no_word_is_half_hidden(text, tokenizer):
    words = vocabulary(tokenizer, whole_words=True)
    (tokens,) = prepare_documents([Text(text, "t")], tokenizer, 256).sequences
    assert tokens.ids == tuple(tokenizer(text)["input_ids"])
    whole = words_by_offsets(text, tokenizer)
    assert max(map(len, whole)) > 1, "every word is one token: nothing is tested"
    cut = lambda at: any(0 < len(at & set(word)) < len(word) for word in whole)  # noqa: E731
    for step in range(40):
        hidden = hide(tokens, Masking(share=0.3, whole_words=True), words, 0, step, 0)
        assert not cut(set(hidden.at)), (step, hidden.at, whole)
    single = vocabulary(tokenizer)
    assert any(cut(set(hide(tokens, Masking(share=0.3), single, 0, step, 0).at)) for step in range(40))


def test_different_words_are_hidden_apart(tokenizer):
    """Words that only stand beside each other have different numbers: also around punctuation."""
    text = "the lamp, red (blue) boats"
    ids = tokenizer(text)["input_ids"]
    number = word_numbers(np.array(ids), inside_words(tokenizer))
    whole = words_by_offsets(text, tokenizer)
    assert len({number[word[-1]] for word in whole}) == len(whole) == 5


def test_whole_words_come_as_near_as_they_can_whatever_their_length():
    """Words of 1, 1, 1, 1 and 4 tokens: the long one is hidden as often as any other first draw."""
    goes_on = np.zeros((2, 45), dtype=bool)
    goes_on[:, 30:34] = True  # tokens 30..33 belong to one word
    words = Vocabulary(MASK, np.arange(5, 45), goes_on)
    tokens = Tokens((1, 5, 6, 30, 31, 32, 33, 7, 8, 2), (0.0, *[1.0] * 8, 0.0), "row")
    drawn = [hide(tokens, Masking(share=0.25, whole_words=True), words, 0, step, 0).at for step in range(2000)]
    assert {len(at) for at in drawn} == {1, 2, 4}  # 1 where the long word would have come next
    assert 2000 / 5 - 60 < sum(len(at) == 4 for at in drawn) < 2000 / 5 + 60  # ± 3.4 standard deviations


def test_cut_characters_stay_together():
    """Bytes of one character are tokens of their own in byte-level BPE."""
    tokenizer = TOKENIZERS["byte-level BPE"]()
    ids = tokenizer("naïve čapek", add_special_tokens=False)["input_ids"]
    number = word_numbers(np.array(ids), inside_words(tokenizer))
    text = [tokenizer.decode([id]) for id in ids]
    assert "�" in text, "no character is cut: nothing is tested"
    space = [i for i, piece in enumerate(text) if piece.startswith(" ")][-1]
    assert len(set(number[:space])) == len(set(number[space:])) == 1 and number[space] != number[0]


def test_ideographs_are_words_of_their_own():
    tokenizer = TOKENIZERS["WordPiece"]()
    tokenizer.add_tokens(["中", "文", "かな"])
    number = word_numbers(np.array(tokenizer.convert_tokens_to_ids(["中", "文", "かな"])), inside_words(tokenizer))
    assert number.tolist() == [0, 1, 2]


def test_specials_of_a_tokenizer_are_never_hidden_nor_drawn(tokenizer):
    words = vocabulary(tokenizer)
    assert not set(words.ordinary.tolist()) & special_ids(tokenizer)
    assert words.mask in special_ids(tokenizer)
    rows = prepare_documents([Text(text, text) for text in TEXTS], tokenizer, 64).sequences
    for tokens in rows:
        assert [id in special_ids(tokenizer) for id in tokens.ids] == [weight == 0 for weight in tokens.weights]
        for step in range(20):
            hidden = hide(tokens, Masking(share=0.9), words, 0, step, 0)
            assert (hidden.ids[0], hidden.ids[-1]) == (tokens.ids[0], tokens.ids[-1])


def test_a_tokenizer_without_a_mask_is_refused():
    with pytest.raises(UserError, match="no mask token"):
        vocabulary(train_tokenizer(TEXTS, 300))


def test_long_documents_are_split_into_whole_rows(tokenizer):
    text = " ".join(TEXTS)
    bare = tokenizer(text, add_special_tokens=False)["input_ids"]
    before, behind = frame(tokenizer)
    assert (len(before), len(behind)) == (1, 1)
    made = prepare_documents([Text(text, "t")], tokenizer, 32)
    assert made.split == 1 and all(len(piece.ids) <= 32 for piece in made.sequences)
    assert all((piece.ids[0], piece.ids[-1]) == (before[0], behind[0]) for piece in made.sequences)
    assert [id for piece in made.sequences for id in piece.ids[1:-1]] == bare
    cut = prepare_documents([Text(text, "t")], tokenizer, 32, "truncate")
    assert [piece.ids for piece in cut.sequences] == [made.sequences[0].ids]
    lost = sum(id not in special_ids(tokenizer) for id in bare[30:])
    assert (cut.truncated, cut.lost_tokens) == (["t"], lost)
    assert prepare_documents([Text(text, "t")], tokenizer, 32, "drop").dropped == ["t"]


def test_documents_that_cannot_be_read_are_told(tokenizer):
    with pytest.raises(UserError, match=r"t:1: \d+ tokens, longer than max_length 16"):
        prepare_documents([Text(TEXTS[0], "t:1")], tokenizer, 16, "error")
    with pytest.raises(UserError, match="t:2: a chat; a masked objective reads documents"):
        prepare_documents([Chat((Message("user", "hi"),), "t:2")], tokenizer, 16)
    with pytest.raises(UserError, match="leaves no room for text"):
        prepare_documents([Text("a", "t")], tokenizer, 2)
    assert prepare_documents([Text("", "empty")], tokenizer, 16).dropped == ["empty"]


def test_the_name_of_a_special_token_stays_text():
    tokenizer = TOKENIZERS["byte-level BPE"]()
    (tokens,) = prepare_documents([Text("say [MASK] or [SEP]", "t")], tokenizer, 64).sequences
    assert all(tokens.weights[1:-1]) and not set(tokens.ids[1:-1]) & special_ids(tokenizer)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=7), st.integers(0, 1000))
def test_packed_rows_hold_each_row_whole(sizes, seed):
    """Against lists: every prediction points at its place in its row, and every row is a node of its own."""
    rows = [hide(row(n, 5 + n), Masking(share=0.4), PLAIN, seed, 0, number) for number, n in enumerate(sizes)]
    batch = pack_hidden(rows)
    starts = [int(last) + 1 - len(hidden.ids) for hidden, last in zip(rows, batch.last_N, strict=True)]
    expected = [
        (start + i, target, number)
        for number, (hidden, start) in enumerate(zip(rows, starts, strict=True))
        for i, target in zip(hidden.at, hidden.targets, strict=True)
    ]
    assert list(zip(*(x.tolist() for x in (batch.from_M, batch.target_M, batch.seq_M)), strict=True)) == expected
    assert batch.weight_M.tolist() == [1.0] * len(expected) and batch.tokens == sum(len(r.ids) for r in rows)
    for hidden, start in zip(rows, starts, strict=True):
        here = slice(start, start + len(hidden.ids))
        assert tuple(batch.ids_T[here].tolist()) == hidden.ids
        assert batch.pos_T[here].tolist() == list(range(len(hidden.ids)))
        assert set(batch.end_T[here].tolist()) == {here.stop}


def test_hiding_by_hand():
    tokens = row(4)  # 1 5 6 7 8 2
    assert hide_at(tokens, (1, 3), MASK) == Hidden((1, MASK, 6, MASK, 8, 2), (1, 3), (5, 7), "row")
    batch = unhidden([tokens])
    assert batch.ids_T.tolist() == [1, 5, 6, 7, 8, 2]
    assert (batch.from_M.tolist(), batch.target_M.tolist()) == ([1, 2, 3, 4], [5, 6, 7, 8])
