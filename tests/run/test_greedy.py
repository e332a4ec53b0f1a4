"""Greedy answers of two models that should be one: a tie decides nothing, anything else does."""

from __future__ import annotations

import pytest
import torch

from architectures import tiny
from luthier.model.verify import choose_layout
from luthier.run.greedy import same_answers

PROMPT = (5, 6, 7)


@pytest.fixture
def model():
    """It holds 11 and 12 to be equally likely, always: they have the same embedding, which is the head's too."""
    lm = choose_layout(tiny("llama"))[0]
    with torch.no_grad():
        head = lm.core.get_output_embeddings().weight
        head[12] = head[11]
    return lm


def test_equal_answers_need_no_model(model):
    assert same_answers(model, [PROMPT], [(11, 4)], [(11, 4)]) == (True, "greedy tokens equal")


def test_a_tie_is_no_difference_and_what_follows_it_is_not_compared(model):
    assert same_answers(model, [PROMPT], [(9, 11, 4)], [(9, 12, 8)]) == (True, "greedy tokens equal up to 1 tie")


def test_a_token_that_is_likelier_is_a_difference(model):
    assert same_answers(model, [PROMPT, PROMPT], [(9, 11), (9, 11)], [(9, 12), (9, 20)]) == (
        False,
        "greedy tokens differ",
    )


def test_an_answer_that_ends_without_an_end_is_a_difference(model):
    assert not same_answers(model, [PROMPT], [(9, 11)], [(9, 11, 4)]).ok
