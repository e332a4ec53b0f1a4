"""The reward model's report card: agreement, the length-only baseline, and pairs by which answer is longer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from architectures import tiny
from luthier.base.nouns import Tokens
from luthier.evals.reward import agreement, buckets, judge
from luthier.model.heads import scalar_head
from luthier.model.verify import choose_layout


def pair(chosen, rejected, shared=10, seed=0):
    """A prompt and two answers of given lengths."""
    rng = np.random.default_rng(seed)
    prompt = rng.integers(3, 128, shared).tolist()
    sides = [(*prompt, *rng.integers(3, 128, n).tolist()) for n in (chosen, rejected)]
    return tuple(Tokens(ids, (0.0,) * shared + (1.0,) * (len(ids) - shared), "x") for ids in sides)


def test_agreement():
    assert agreement(np.array([2.0, -0.1, 0.0])).tolist() == [1.0, 0.0, 0.5]


@pytest.mark.parametrize("batch_pairs", [1, 3, 32])
def test_margins_are_differences_of_scores_through_the_library(batch_pairs):
    model = tiny("llama")
    lm, _ = choose_layout(model)
    head = scalar_head(32, 0, "reward head")
    heldout = [pair(3, 9, seed=1), pair(7, 7, seed=2), pair(9, 2, seed=3), pair(4, 5, shared=0, seed=4)]
    verdicts = judge(lm, head, heldout, heldout[:3], batch_pairs)

    def own(tokens):
        with torch.no_grad():
            return head(tiny("llama").model(input_ids=torch.tensor([tokens.ids])).last_hidden_state[0, -1]).item()

    expected = [own(a) - own(b) for a, b in heldout]
    assert verdicts.margin_P.tolist() == pytest.approx(expected, abs=2e-5)
    assert verdicts.right_P.tolist() == [float(margin > 0) for margin in expected]
    assert verdicts.longer_P.tolist() == [-6, 0, 7, -1]


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        ([pair(5, 2), pair(9, 1), pair(1, 3)], [0.0, 0.5, 1.0]),  # longer won two of three in training
        ([pair(2, 5), pair(1, 9), pair(3, 1)], [1.0, 0.5, 0.0]),  # shorter did
    ],
)
def test_length_alone_is_judged_by_what_training_pairs_prefer(training, expected):
    lm, _ = choose_layout(tiny("llama"))
    heldout = [pair(2, 8), pair(4, 4), pair(8, 2)]
    assert judge(lm, scalar_head(32, 0, "reward head"), heldout, training).by_length_P.tolist() == expected


def test_buckets_by_a_quarter_of_the_typical_difference():
    # differences of 1, 2, 8, 16, 40: the median is 8, so up to 2 is similar
    masks = buckets(np.array([-1, 2, 8, -16, -40]))
    assert {name: mask.tolist() for name, mask in masks.items()} == {
        "chosen_shorter": [False, False, False, True, True],
        "similar": [True, True, False, False, False],
        "chosen_longer": [False, False, True, False, False],
    }
    assert {name: len(mask) for name, mask in buckets(np.array([])).items()} == dict.fromkeys(masks, 0)


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=30))
def test_every_pair_is_in_one_bucket(longer):
    masks = buckets(np.array(longer))
    assert (sum(mask.astype(int) for mask in masks.values()) == 1).all()
    assert masks["similar"][np.array(longer) == 0].all()
