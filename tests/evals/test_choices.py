"""Multiple choice: options that share a context are scored as if each stood alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.base.errors import UserError
from luthier.base.nouns import Choice
from luthier.base.recipe import Fresh
from luthier.evals.choices import fitting, pick_options
from luthier.model.load import fresh_model
from luthier.model.verify import choose_layout, library_attention
from luthier.tokens.render import Renderer
from luthier.tokens.tokenizer import train_tokenizer

CONTEXT = "The finder scope of the small telescope is held by two screws, and the eyepiece is"


@pytest.fixture(scope="module")
def model():
    tokenizer = train_tokenizer([CONTEXT] * 3, 320)
    module = fresh_model(Fresh(layers=2, width=32, heads=4, context=256, tie_embeddings=False), tokenizer, 0)
    with torch.no_grad():  # a fresh model is nearly indifferent: make options differ by nats
        module.lm_head.weight.mul_(8)
    return choose_layout(module.eval())[0], Renderer(tokenizer)


def naive(lm, tokenizer, item, normalise):
    """Each option alone, through the library's own forward: log-probs of what follows the context."""
    scores = []
    for option in item.options:
        before = tokenizer(item.context.rstrip(), add_special_tokens=False)["input_ids"]
        both = tokenizer(item.context + option, add_special_tokens=False)["input_ids"]
        while both[: len(before)] != before:
            before = before[:-1]
        ids = torch.tensor([[tokenizer.bos_token_id, *both]])
        with library_attention(lm), torch.no_grad():
            logp = torch.log_softmax(lm.module(input_ids=ids).logits[0, :-1], -1)
        chosen = logp.gather(1, ids[0, 1:, None]).squeeze(1)[len(before) :]
        size = {"none": 1, "tokens": len(chosen), "bytes": len(option.encode())}[normalise]
        scores.append(chosen.sum().item() / size)
    return scores


ITEMS = [
    Choice(CONTEXT, (" new", " held by the small finder", " two"), 1, "quiz.jsonl:1"),
    Choice(CONTEXT + " ", ("größer 🔭", "a", "b", "screws"), 3, "quiz.jsonl:2"),
    Choice("", ("The telescope", "The"), 0, "quiz.jsonl:3"),
    Choice("Is", ("olated", " it"), 0, "quiz.jsonl:4"),
]


@pytest.mark.parametrize("batch_tokens", [8192, 40])
@pytest.mark.parametrize("normalise", ["none", "tokens", "bytes"])
def test_scores_are_those_of_each_option_alone(model, normalise, batch_tokens):
    lm, renderer = model
    found = pick_options(lm, renderer, ITEMS, normalise, batch_tokens)
    for item, picked in zip(ITEMS, found, strict=True):
        expected = naive(lm, renderer.tokenizer, item, normalise)
        assert picked.scores == pytest.approx(expected, abs=1e-4)
        assert picked.pick == expected.index(max(expected))
        assert (picked.gold, picked.origin, picked.right) == (item.gold, item.origin, picked.pick == item.gold)
    assert len({picked.pick for picked in found}) > 1


def test_equal_options_give_the_first(model):
    (picked,) = pick_options(*model, [Choice(CONTEXT, (" new", " new"), 1, "x")])
    assert picked.pick == 0 and not picked.right


@settings(max_examples=20)
@given(st.lists(st.tuples(st.text("ab \n", max_size=6), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1))))
def test_any_items_in_any_company(model, rows):
    items = [Choice(context, tuple(options), 0, "x") for context, options in rows]
    found = pick_options(*model, items)
    for item, picked in zip(items, found, strict=True):
        assert picked.scores == pytest.approx(pick_options(*model, [item])[0].scores, abs=1e-4)


def test_an_item_longer_than_the_context_is_refused_and_can_be_left_out(model):
    items = [Choice(CONTEXT, (" red", " blue"), 0, "a:1"), Choice("0123456789 " * 60, (" red", " blue"), 0, "a:2")]
    with pytest.raises(UserError, match=r"a:2: with an option it is longer than the model's context of 256 tokens\. S"):
        pick_options(*model, items)
    assert fitting(*model, items) == items[:1]
