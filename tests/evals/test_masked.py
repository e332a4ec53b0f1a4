"""What a masked language model knows, against plain transformers."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from architectures import tiny_encoder
from luthier.base.errors import UserError
from luthier.base.nouns import Text
from luthier.base.recipe import Fresh
from luthier.evals.masked import blanks, fill, fillings, masked_losses, places, pseudo_losses, right_fillings
from luthier.model.load import fresh_model
from luthier.model.verify import choose_layout, library_attention
from luthier.tokens.masking import hide_at, prepare_documents, vocabulary
from tokens.masked_tokenizers import TEXTS, TOKENIZERS


@pytest.fixture(scope="module", params=["WordPiece", "byte-level BPE"])
def asked(request):
    """(language model, tokenizer, rows) of a random encoder with large weights: log-probs differ by whole nats."""
    tokenizer = TOKENIZERS[request.param]()
    fresh = Fresh(shape="encoder", layers=2, width=32, heads=4, vocab=300, context=96)
    model = fresh_model(fresh, tokenizer, seed=0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    rows = prepare_documents([Text(text, f"t:{i}") for i, text in enumerate(TEXTS)], tokenizer, 96).sequences
    return choose_layout(model)[0], tokenizer, rows


def plain_logits(lm, ids) -> torch.Tensor:
    """Logits [L, V] through the library's own forward and attention."""
    with library_attention(lm), torch.no_grad():
        return lm.module(input_ids=torch.tensor([list(ids)])).logits[0]


def test_pseudo_perplexity_is_a_loop_with_transformers(asked):
    lm, tokenizer, rows = asked
    nats, counts = pseudo_losses(lm, rows, tokenizer.mask_token_id)
    for row, total, count in zip(rows, nats, counts, strict=True):
        expected = 0.0
        inside = [i for i, weight in enumerate(row.weights) if weight]
        for i in inside:
            ids = list(row.ids)
            ids[i] = tokenizer.mask_token_id
            expected -= float(torch.log_softmax(plain_logits(lm, ids)[i], -1)[row.ids[i]])
        assert count == len(inside) == len(row.ids) - 2
        assert total == pytest.approx(expected, rel=1e-5)


def test_a_model_that_knows_nothing_is_as_perplexed_as_its_vocabulary_is_large():
    """All logits equal: every token costs log V, so the pseudo-perplexity is V."""
    model = tiny_encoder("bert")
    with torch.no_grad():
        for parameter in model.cls.parameters():
            parameter.zero_()
    tokens = prepare_documents([Text("the lamp", "t")], TOKENIZERS["WordPiece"](), 32).sequences
    nats, counts = pseudo_losses(choose_layout(model)[0], tokens, 4)
    assert math.exp(nats.sum() / counts.sum()) == pytest.approx(model.config.vocab_size, rel=1e-5)


def test_fillings_are_the_likeliest_tokens(asked):
    lm, tokenizer, rows = asked
    shown = places(rows, 40, 7, tokenizer.mask_token_id, None)
    first, among = right_fillings(lm, shown)
    for row, (place,), one, five in zip(shown, fillings(lm, shown, batch_tokens=64), first, among, strict=True):
        probs = torch.softmax(plain_logits(lm, row.ids)[row.at[0]], -1)
        ranked = probs.argsort(descending=True).tolist()
        assert place.ids == tuple(ranked[:5])
        assert place.probs == pytest.approx(probs[ranked[:5]].tolist(), rel=1e-4)
        assert place.rank == ranked.index(row.targets[0])
        assert (one, five) == (int(place.rank == 0), int(place.rank < 5))


def test_a_word_is_right_where_each_of_its_tokens_is(asked):
    lm, tokenizer, rows = asked
    words = vocabulary(tokenizer, whole_words=True)
    shown = places(rows, 1000, 0, words.mask, words.goes_on)
    assert max(len(row.at) for row in shown) > 1
    ranks = [[place.rank for place in row] for row in fillings(lm, shown)]
    assert right_fillings(lm, shown) == (
        [int(max(row) == 0) for row in ranks],
        [int(max(row) < 5) for row in ranks],
    )


def test_places_are_drawn_once_each_and_all_of_them(asked):
    _, tokenizer, rows = asked
    every = places(rows, 10_000, 0, tokenizer.mask_token_id, None)
    assert Counter(row.origin for row in every) == Counter(
        row.origin for row in rows for weight in row.weights if weight
    )
    assert len({(row.origin, row.at) for row in every}) == len(every)
    some = places(rows, 12, 3, tokenizer.mask_token_id, None)
    assert len(some) == 12 and set(some) < set(every)
    assert (
        some == places(rows, 12, 3, tokenizer.mask_token_id, None) != places(rows, 12, 4, tokenizer.mask_token_id, None)
    )


def test_masked_losses_are_sums_over_each_row(asked):
    lm, tokenizer, rows = asked
    shown = [hide_at(row, (1, 3, len(row.ids) - 2), tokenizer.mask_token_id) for row in rows]
    nats, counts = masked_losses(lm, shown, batch_tokens=40)
    for row, total in zip(shown, nats, strict=True):
        logp = torch.log_softmax(plain_logits(lm, row.ids), -1)
        assert total == pytest.approx(-float(logp[list(row.at), list(row.targets)].sum()), rel=1e-5)
    assert counts.tolist() == [3.0] * len(rows)


def test_measuring_leaves_the_mode_of_the_model(asked):
    lm, tokenizer, rows = asked
    shown = [hide_at(rows[0], (1,), tokenizer.mask_token_id)]
    for mode in (True, False):
        lm.module.train(mode)
        fillings(lm, shown)
        masked_losses(lm, shown)
        assert lm.module.training is mode


def test_a_blank_shows_its_sentence_with_one_word_missing(asked):
    lm, tokenizer, rows = asked
    for blank, text in zip(blanks(lm, tokenizer, rows, seed=1), TEXTS, strict=True):
        whole = blank.text.replace("[MASK]", blank.truth)
        assert blank.text.count("[MASK]") == 1 and blank.truth
        squeezed = lambda said: said.lower().replace(" ", "")  # noqa: E731  # WordPiece's decoder spaces otherwise
        folded = squeezed(text).translate(str.maketrans("ïçé", "ice"))
        assert squeezed(whole).translate(str.maketrans("ïçé", "ice")) == folded
        assert blank.filled.count("%") == 5


def test_masks_in_a_users_text_are_filled(asked):
    lm, tokenizer, _ = asked
    told = fill(lm, tokenizer, "The [MASK] is [MASK].", 96)
    ids = tokenizer("The [MASK] is [MASK].")["input_ids"]
    at = [i for i, id in enumerate(ids) if id == tokenizer.mask_token_id]
    probs = torch.softmax(plain_logits(lm, ids), -1)
    for line, i in zip(told, at, strict=True):
        best = int(probs[i].argmax())
        word = tokenizer.decode([best]).strip() or repr(tokenizer.decode([best]))
        assert line.startswith(f"{word} {float(probs[i, best]) * 100:.0f} %, ")


def test_another_tokenizers_mask_may_be_written_as_berts():
    tokenizer = TOKENIZERS["SentencePiece"]()
    lm, _ = choose_layout(fresh_model(Fresh(shape="encoder", width=32, context=32), tokenizer, 0))
    assert fill(lm, tokenizer, "The [MASK] is red", 32) == fill(lm, tokenizer, "The <mask> is red", 32)


def test_a_text_that_cannot_be_filled_is_told(asked):
    lm, tokenizer, _ = asked
    with pytest.raises(UserError, match=r"there is no \[MASK\] in this text. Write \[MASK\] where a word is missing"):
        fill(lm, tokenizer, "The lamp is red.", 96)
    with pytest.raises(UserError, match=r"and the model reads 16\. Shorten it"):
        fill(lm, tokenizer, "[MASK] " * 30, 16)


def test_a_model_that_prefers_nothing_is_not_right():
    """Of equal logits the first token comes first: the truth's rank is its id."""
    model = tiny_encoder("bert")
    with torch.no_grad():
        for parameter in model.cls.parameters():
            parameter.zero_()
    tokens = prepare_documents([Text("the lamp", "t")], TOKENIZERS["WordPiece"](), 32).sequences[0]
    rows = [hide_at(tokens, (i,), 4) for i in (1, 2)]
    ranks = [place.rank for (place,) in fillings(choose_layout(model)[0], rows)]
    assert ranks == list(tokens.ids[1:3]) and min(ranks) > 5
    assert right_fillings(choose_layout(model)[0], rows) == ([0, 0], [0, 0])
