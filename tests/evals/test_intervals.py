"""Figures against closed forms, scipy, and the coverage that an interval promises."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from luthier.evals.intervals import (
    Figure,
    bootstrap_mean,
    bootstrap_ratio,
    bounded_mean,
    mean_normal,
    paired_bootstrap,
    stratified,
    wilson,
    wilson_at,
)


@given(st.data(), st.integers(1, 5000))
def test_wilson_is_scipys(data, n):
    successes = data.draw(st.integers(0, n))
    figure = wilson(successes, n)
    theirs = scipy.stats.binomtest(successes, n).proportion_ci(confidence_level=0.95, method="wilson")
    assert figure.value == successes / n
    assert (figure.low, figure.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert 0 <= figure.low <= figure.value <= figure.high <= 1


def test_wilson_closed_forms():
    # p = 1/2, n = 4, z = 2: centre 1/2, half = 2·√(1/16 + 4/64) / (1 + 4/4) = √(1/8)
    half = wilson(2, 4, z=2)
    assert (half.low, half.high) == pytest.approx((0.5 - 0.125**0.5, 0.5 + 0.125**0.5), abs=1e-15)
    # p = 1: centre − half = (1 + z²/2n − z²/2n) / (1 + z²/n) = n / (n + z²); n = 12, z = 2: 12/16
    sure = wilson(12, 12, z=2)
    assert sure.low == pytest.approx(0.75, abs=1e-15) and (sure.value, sure.high, sure.n) == (1.0, 1.0, 12)
    # ties count half: 3.5 of 7 is centred, as 2 of 4 is
    tied = wilson(3.5, 7)
    assert tied.value == 0.5 and tied.low + tied.high == pytest.approx(1)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 4), (5, 4), (float("nan"), 4)])
def test_wilson_refuses_what_is_no_share(successes, n):
    with pytest.raises(ValueError, match="no share"):
        wilson(successes, n)


def test_mean_normal_closed_form():
    # 1, 2, 3, 4: mean 5/2, s² = (9/4 + 1/4 + 1/4 + 9/4) / 3 = 5/3, half = z·√(5/12)
    figure = mean_normal([1, 2, 3, 4], z=2)
    assert (figure.value, figure.low, figure.high) == pytest.approx(
        (2.5, 2.5 - 2 * (5 / 12) ** 0.5, 2.5 + 2 * (5 / 12) ** 0.5)
    )
    assert mean_normal([7.0]) == Figure(7.0, 7.0, 7.0, 1)


def test_bootstrap_closed_forms():
    assert bootstrap_mean([3.0], seed=0) == Figure(3.0, 3.0, 3.0, 1)
    assert bootstrap_mean([2.0] * 9, seed=0) == Figure(2.0, 2.0, 2.0, 9)
    tenths = bootstrap_mean([0.1] * 9, seed=0)
    assert tenths.low <= tenths.value <= tenths.high
    # {0, 1}: the resampled mean is 0, 1/2, 1 with 1/4, 1/2, 1/4; 2.5 % and 97.5 % fall on 0 and 1
    assert bootstrap_mean([0.0, 1.0], seed=0) == Figure(0.5, 0.0, 1.0, 2)


def test_bootstrap_is_a_function_of_values_and_seed():
    values = np.random.default_rng(1).normal(size=50)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(list(values), seed=3)
    assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)


def test_bootstrap_is_scipys():
    values = np.random.default_rng(2).exponential(size=80)
    ours = bootstrap_mean(values, seed=0, resamples=40_000)  # 3.2 M draws: several blocks
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=40_000, method="percentile", rng=np.random.default_rng(9)
    ).confidence_interval
    # The 2.5 % point of 40,000 draws has a standard error of √(.025·.975/40000)/φ(1.96) ≈ 0.013 σ, σ ≈ 1/√80: 0.0015.
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.008)


def test_bootstrap_covers_the_true_mean():
    # 400 samples of 80 from U(0, 1), whose mean is 1/2: 95 % ± 3·√(.95·.05/400) = 0.917 .. 0.983, less what a
    # percentile bootstrap loses on small samples: its width is √(79/80) of the t interval's.
    samples = np.random.default_rng(0).uniform(size=(400, 80))
    figures = [bootstrap_mean(sample, seed=k, resamples=1000) for k, sample in enumerate(samples)]
    assert 0.91 <= np.mean([f.low <= 0.5 <= f.high for f in figures]) <= 0.985


def test_a_ratio_weighs_rows_by_their_denominator():
    # 3 nats in 1 token, 1 nat in 3 tokens: 4/4. Drawn: (3,1) twice 3, one of each 1, (1,3) twice 1/3.
    assert bootstrap_ratio([3.0, 1.0], [1, 3], seed=0) == Figure(1.0, pytest.approx(1 / 3), 3.0, 2)
    # a row without tokens says nothing: here the ratio of every draw that holds anything is 2
    assert bootstrap_ratio([2.0, 0.0, 4.0], [1, 0, 2], seed=0) == Figure(2.0, 2.0, 2.0, 3)


def test_a_ratio_is_scipys():
    random = np.random.default_rng(3)
    tokens = random.integers(1, 50, size=120)
    nats = tokens * random.uniform(1, 3, size=120)
    ours = bootstrap_ratio(nats, tokens, seed=0, resamples=20_000)
    theirs = scipy.stats.bootstrap(
        (nats, tokens), lambda a, b, axis: a.sum(axis) / b.sum(axis), paired=True, vectorized=True,
        n_resamples=20_000, method="percentile", rng=np.random.default_rng(9),
    ).confidence_interval  # fmt: skip
    # σ of the ratio is about 0.065; the ends have a standard error of 0.019 σ: 0.0012
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.006)


@pytest.mark.parametrize("bottoms", [[0, 0], [2, -1], [1]])
def test_a_ratio_needs_a_denominator(bottoms):
    with pytest.raises(ValueError, match=r"denominator|pairs"):
        bootstrap_ratio([1.0, 1.0], bottoms, seed=0)


def test_pairs_cancel_what_they_share():
    random = np.random.default_rng(5)
    hard = random.normal(scale=10, size=200)
    a, b = hard + 1 + random.normal(scale=0.1, size=200), hard + random.normal(scale=0.1, size=200)
    figure = paired_bootstrap(a, b, seed=0)
    # s of the difference is 0.1·√2, so the half width is about 1.96·0.1414/√200 = 0.0196
    assert figure.value == pytest.approx(np.mean(a - b)) and figure.low < 1 < figure.high
    assert (figure.high - figure.low) / 2 == pytest.approx(0.0196, rel=0.2)
    assert paired_bootstrap(a, a, seed=0) == Figure(0.0, 0.0, 0.0, 200)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_means_refuse_what_has_none(values):
    for measure in (mean_normal, lambda v: bootstrap_mean(v, seed=0), lambda v: paired_bootstrap(v, v, seed=0)):
        with pytest.raises(ValueError):
            measure(values)


def test_unequal_lengths_are_no_pairs():
    with pytest.raises(ValueError, match="no pairs"):
        paired_bootstrap([1.0, 2.0], [1.0], seed=0)


def test_a_figure_is_json():
    assert json.loads(json.dumps(bootstrap_mean(np.float32([1, 1]), seed=0).as_dict(), allow_nan=False)) == {
        "value": 1.0,
        "low": 1.0,
        "high": 1.0,
        "n": 2,
    }


def test_a_stratified_share_weighs_its_groups_and_is_no_wider_than_its_variance_says():
    # 80 % and 40 % of 10 each, of groups of 300 and 100: 0.75·0.8 + 0.25·0.4 = 0.7.
    groups = [[1.0] * 8 + [0.0] * 2, [1.0] * 4 + [0.0] * 6]
    figure = stratified(groups, [300, 100])
    assert figure.value == pytest.approx(0.7) and figure.n == 20
    # Σ W²·s²/n with s² = p(1−p)·n/(n−1): .5625·(.16/9) + .0625·(.24/9) = .01 + .0016667
    effective = 0.7 * 0.3 / (0.01 + 0.0016666667)
    assert (figure.low, figure.high) == pytest.approx(wilson_at(0.7, effective))
    # One group alone is a plain share, but for n − 1; all right is Wilson's all right.
    assert stratified([[1.0] * 12], [50]) == wilson(12, 12)
    assert stratified([[1.0, 0.0]] * 30, [7] * 30).value == pytest.approx(0.5)


def test_stratified_intervals_hold_what_they_promise():
    random = np.random.default_rng(0)
    truth, sizes, held = [0.9, 0.5, 0.2, 0.65], [400, 100, 300, 200], 0
    whole = float(np.average(truth, weights=sizes))
    for _ in range(400):
        figure = stratified([(random.random(25) < p).astype(float).tolist() for p in truth], sizes)
        held += figure.low <= whole <= figure.high
    assert 0.93 <= held / 400 <= 0.98


def test_a_bounded_mean_of_equal_values_keeps_its_doubt():
    """Twenty ones: Wilson's lower end, 20/(20 + z²) = 0.8389."""
    assert bounded_mean([1.0] * 20, seed=0) == wilson(20, 20)
    assert bounded_mean([1.0] * 20, seed=0).low == pytest.approx(0.8389, abs=1e-4)
    mixed = [1.0, 0.5, 0.0, 1.0]
    assert bounded_mean(mixed, seed=3) == bootstrap_mean(mixed, seed=3)
    with pytest.raises(ValueError, match=r"outside 0\.\.1"):
        bounded_mean([1.2], seed=0)
