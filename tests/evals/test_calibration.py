"""Calibration: against the arithmetic by hand, against a loop over bins, and what a simulated model must show."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.evals.calibration import calibration, ece_mass, ece_width, in_words, probabilities, reliability


def logs(*probs: float) -> list[float]:
    return [math.log(p) for p in probs]


def test_by_hand():
    """Four items of two options. Confidence 0.9, 0.9, 0.6, 0.6; right: yes, no, yes, yes.
    Equal width, 15 bins: 0.9 -> bin 14 (0.867, 0.933], 0.6 -> bin 9 (0.533, 0.6].
    ECE = ½·|0.5 − 0.9| + ½·|1 − 0.6| = 0.4. One bin of equally many: |0.75 − 0.75| = 0.
    Brier: 2·0.1² = 0.02, 2·0.9² = 1.62, 2·0.4² = 0.32 twice; mean 2.28/4 = 0.57."""
    scores = [logs(0.9, 0.1), logs(0.1, 0.9), logs(0.6, 0.4), logs(0.4, 0.6)]
    found = calibration(scores, [0, 0, 0, 1], seed=0)
    assert found.ece_width.value == pytest.approx(0.4)
    assert found.ece.value == pytest.approx(0.0)
    assert found.brier.value == pytest.approx(0.57)
    assert (found.confidence, found.accuracy) == (pytest.approx(0.75), 0.75)
    assert [b.n for b in found.bins] == [4]


def test_softmax_of_scores_that_are_no_log_probs():
    assert probabilities([1000.0, 1000.0 + math.log(3)]).tolist() == pytest.approx([0.25, 0.75])
    assert probabilities([-1e9, 0.0]).tolist() == [0.0, 1.0]


def looped(confidence: np.ndarray, right: np.ndarray, edges: list[np.ndarray]) -> float:
    """Guo et al. 2017, eq. 3, as it is written."""
    n = len(confidence)
    return sum(len(b) / n * abs(right[b].mean() - confidence[b].mean()) for b in edges if len(b))


@given(st.integers(1, 400), st.integers(0, 2**32 - 1))
def test_equal_to_the_loop_over_bins(n, seed):
    random = np.random.default_rng(seed)
    confidence, right = random.random(n), (random.random(n) < 0.6).astype(float)
    width = [np.flatnonzero((confidence > m / 15) & (confidence <= (m + 1) / 15)) for m in range(15)]
    assert float(ece_width(confidence, right)) == pytest.approx(looped(confidence, right, width), abs=1e-12)
    bins = max(1, min(15, n // 10))
    order = np.argsort(confidence, kind="stable")
    mass = [order[k * n // bins : (k + 1) * n // bins] for k in range(bins)]
    assert float(ece_mass(confidence, right)) == pytest.approx(looped(confidence, right, mass), abs=1e-12)
    table = reliability(confidence, right)
    assert [b.n for b in table] == [len(b) for b in mass]
    assert sum(b.n * abs(b.accuracy - b.confidence) for b in table) / n == pytest.approx(
        float(ece_mass(confidence, right))
    )


def test_many_at_once_are_each_by_itself():
    random = np.random.default_rng(5)
    confidence, right = random.random((7, 120)), (random.random((7, 120)) < 0.5).astype(float)
    for measure in (ece_mass, ece_width):
        one_by_one = [float(measure(c, r)) for c, r in zip(confidence, right, strict=True)]
        assert measure(confidence, right).tolist() == pytest.approx(one_by_one)


def simulated(n: int, sharper: float, seed: int) -> tuple[list[list[float]], list[int]]:
    """Four options; the truth is drawn from softmax(z), the model says softmax(sharper · z)."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1.5, size=(n, 4))
    golds = [int(random.choice(4, p=probabilities(z))) for z in logits]
    return (sharper * logits).tolist(), golds


def test_a_calibrated_model_is_told_from_one_that_is_too_sure():
    honest = calibration(*simulated(600, 1.0, seed=3), seed=0)
    assert honest.ece.value <= 2 * honest.by_chance and honest.ece.low <= honest.by_chance
    assert "as sure as it may be" in in_words(honest.ece.value, honest.by_chance, honest.confidence, honest.accuracy)
    bold = calibration(*simulated(600, 3.0, seed=3), seed=0)
    assert bold.accuracy == honest.accuracy  # the picks are the same
    assert bold.ece.low > 0.1 and bold.brier.value > honest.brier.value
    gap = round(100 * (bold.confidence - bold.accuracy))
    assert in_words(bold.ece.value, bold.by_chance, bold.confidence, bold.accuracy) == f"too sure by {gap} points"


def test_what_chance_explains_is_what_chance_does():
    """Draws of a perfectly calibrated model have, in the mean, the error that is stated for chance."""
    scores, _ = simulated(120, 1.0, seed=11)
    probs = [probabilities(z) for z in scores]
    random = np.random.default_rng(1)
    drawn = [calibration(scores, [int(random.choice(4, p=p)) for p in probs], seed=0) for _ in range(25)]
    assert np.mean([c.ece.value for c in drawn]) == pytest.approx(drawn[0].by_chance, rel=0.2)


def test_without_items_there_is_none():
    with pytest.raises(ValueError, match="at least one item"):
        calibration([], [], seed=0)
