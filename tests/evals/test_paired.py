"""Differences on the same items: closed forms, scipy, and sacrebleu's own corpus scores."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from luthier.evals.agreement import cohen_kappa, krippendorff, pearson, spearman
from luthier.evals.intervals import bootstrap_ratio, paired_bootstrap
from luthier.evals.paired import chance, difference, figure_of, holm, items_needed, ratio, rows_of_mean
from luthier.evals.wording import corpus_score

RANDOM = np.random.default_rng(5)
A, B = RANDOM.normal(0, 1, 60), RANDOM.normal(0.2, 1, 60)


def test_a_mean_and_a_ratio_are_those_of_the_intervals():
    """Other draws of the same bootstrap: ends agree to the noise of 2,000 draws."""
    ours, theirs = difference(rows_of_mean(A), rows_of_mean(B), ratio, 0, 20_000), paired_bootstrap(B, A, 1, 20_000)
    assert ours.value == pytest.approx(theirs.value) and ours.n == 60
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)
    nats, tokens = np.abs(A) * 9, np.arange(1, 61)
    ours, theirs = figure_of(np.stack([nats, tokens], 1), ratio, 0, 20_000), bootstrap_ratio(nats, tokens, 1, 20_000)
    assert ours.value == pytest.approx(theirs.value)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_chance_of_few_items_is_exact():
    # Five items, all in favour of B: of 32 assignments two are as extreme (all and none): 2/32.
    a, b = rows_of_mean([0, 0, 0, 0, 0]), rows_of_mean([1, 1, 1, 1, 1])
    assert chance(a, b, ratio, 0) == 2 / 32
    assert chance(a, a, ratio, 0) == 1
    # One of ten differs: either way it is as large.
    assert chance(rows_of_mean([0] * 10), rows_of_mean([1] + [0] * 9), ratio, 0) == 1


def test_chance_is_scipys_permutation_test():
    small = (A[:10], B[:10])
    theirs = scipy.stats.permutation_test(
        small, lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf
    )
    assert chance(rows_of_mean(small[0]), rows_of_mean(small[1]), ratio, 0) == pytest.approx(theirs.pvalue)
    drawn = chance(rows_of_mean(A), rows_of_mean(B), ratio, 0, rounds=20_000)
    theirs = scipy.stats.permutation_test(
        (A, B), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=20_000, random_state=0
    )
    assert drawn == pytest.approx(theirs.pvalue, abs=0.015)


def test_a_difference_of_corpus_scores_is_recomputed():
    references = ["the red boat hangs in the hall", "it is a blue door", "we keep the cup in the loft"] * 4
    worse = ["the red boat is in the hall", "it is blue", "the cup is kept"] * 4
    a, b = corpus_score("bleu", worse, references), corpus_score("bleu", references, references)
    found = difference(a.stats_NF, b.stats_NF, a.score, 0, 300)
    assert found.value == pytest.approx(100 - a.score(a.stats_NF.sum(axis=0)))
    assert 0 < found.low <= found.value <= found.high and chance(a.stats_NF, b.stats_NF, a.score, 0, 300) < 0.01
    same = difference(a.stats_NF, a.stats_NF, a.score, 0, 300)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_holm():
    # Holm 1979's steps on four p: 0.005·4, max(0.02, 0.01·3), max(0.03, 0.03·2), max(0.06, 0.04·1).
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1] and holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_only_raises(chances):
    adjusted = holm(chances)
    assert all(p <= q <= 1 for p, q in zip(chances, adjusted, strict=True))
    order = sorted(range(len(chances)), key=lambda i: chances[i])
    assert all(adjusted[i] <= adjusted[j] for i, j in pairwise(order))


def test_items_needed():
    # A difference that is 1.96 standard errors from 0 has even odds: 80 % odds need (2.8/1.96)² as many items.
    found = difference(rows_of_mean(A), rows_of_mean(B), ratio, 0)
    error = (found.high - found.low) / 3.92
    assert items_needed(found) == math.ceil(60 * (2.8 * error / found.value) ** 2)
    assert items_needed(difference(rows_of_mean(A), rows_of_mean(A), ratio, 0)) is None


def test_kappa_by_hand():
    # Cohen's arithmetic: 20 both yes, 15 both no, 5 and 10 apart: p_o = 0.7, p_e = 0.5·0.6 + 0.5·0.4 = 0.5, κ = 0.4.
    a = ["yes"] * 25 + ["no"] * 25
    b = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    found = cohen_kappa(a, b, ["yes", "no"], seed=0)
    assert found is not None and found.value == pytest.approx(0.4) and found.low < 0.4 < found.high and found.n == 50
    # The large-sample standard error of κ (Fleiss, Cohen and Everitt 1969) is 0.1270 here.
    assert (found.high - found.low) / 3.92 == pytest.approx(0.1270, rel=0.08)
    assert cohen_kappa(["yes"], ["yes"], ["yes", "no"], 0) is None
    perfect = cohen_kappa(a, a, ["yes", "no", "tie"], 0)
    assert perfect is not None and (perfect.value, perfect.low, perfect.high) == (1, 1, 1)


def test_correlations_are_scipys():
    a, b = [1, 0, -1, 1, 1, 0], [1, 1, -1, 0, 1, -1]
    assert pearson(a, b) == pytest.approx(scipy.stats.pearsonr(a, b).statistic)
    assert spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic)
    assert pearson([1, 1], [0, 1]) is None


def test_krippendorffs_alpha_on_his_own_example():
    """Krippendorff 2011, §C: four observers, twelve units, nominal: α = 0.743."""
    observers = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    units = [[vote for vote in unit if vote is not None] for unit in zip(*observers, strict=True)]
    assert krippendorff(units) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff([["a", "a"], ["a"]]) is None
