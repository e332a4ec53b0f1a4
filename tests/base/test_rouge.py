"""ROUGE-L against the package that the field quotes, and the longest common subsequence against a table."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from luthier.base.rouge import longest_common, rouge_l, words_of

THEIRS = RougeScorer(["rougeL"], use_stemmer=False)
texts = st.text(alphabet="aAbBc ,.1-", max_size=40)
lists = st.lists(st.sampled_from(list("abcdef")), max_size=90)  # longer than a machine's word


def by_table(a, b):
    """The textbook's table, a row at a time."""
    row = [0] * (len(b) + 1)
    for x in a:
        before, row = row, [0]
        for j, y in enumerate(b):
            row.append(before[j] + 1 if x == y else max(before[j + 1], row[-1]))
    return row[-1]


@given(lists, lists)
@settings(deadline=None)
def test_the_longest_common_subsequence_is_the_tables(a, b):
    assert longest_common(a, b) == by_table(a, b)


@given(texts, texts)
@settings(deadline=None)
def test_rouge_l_is_rouge_scores(a, b):
    assert rouge_l(words_of(a), words_of(b)) == pytest.approx(THEIRS.score(b, a)["rougeL"].fmeasure, abs=1e-12)


def test_other_scripts_are_read():
    assert words_of("Größe: 14 мм, O'Neil_2") == ["größe", "14", "мм", "o", "neil", "2"]
