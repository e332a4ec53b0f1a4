"""Token F1 as SQuAD's own script has it."""

from __future__ import annotations

import collections
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.evals.overlap import token_f1


def squad(answer, reference):
    """evaluate-v1.1.py of SQuAD, line by line (ASCII)."""

    def tokens(text):
        text = "".join(ch for ch in text.lower() if ch not in set(string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split()).split()

    ours, theirs = tokens(answer), tokens(reference)
    same = sum((collections.Counter(ours) & collections.Counter(theirs)).values())
    if not ours or not theirs:
        return float(ours == theirs)
    if same == 0:
        return 0.0
    precision, recall = same / len(ours), same / len(theirs)
    return 2 * precision * recall / (precision + recall)


TEXT = st.lists(st.sampled_from(["the", "red", "Red", "lamp.", "a", "14", "mm!", "(box)"]), max_size=8).map(" ".join)


@given(TEXT, TEXT)
def test_it_is_squads(answer, reference):
    assert token_f1(answer, reference) == pytest.approx(squad(answer, reference))


def test_by_hand():
    """One of two words, of a reference of three: 2·1 / (2 + 3)."""
    assert token_f1("It's red", "a dark red lamp") == pytest.approx(2 / 5)
    assert token_f1("", "the") == 1.0 and token_f1("red", "") == 0.0
