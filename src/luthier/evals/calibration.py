"""Does a model know how sure it may be? Of what it gives 80 %, 80 % should be right.

Probabilities of multiple choice are the softmax over the options' scores (`choices.Picked.scores`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from luthier.evals.intervals import Figure, bootstrap_mean, wilson

MOST_BINS = 15
"""Guo et al. 2017."""
ITEMS_A_BIN = 10
"""Fewer make an accuracy that says nothing: then there are fewer bins."""
RESAMPLES = 1000


class Bin(NamedTuple):
    """Items of about one confidence: the mean of it, and how many of them are right (95 % interval: Wilson)."""

    confidence: float
    accuracy: float
    low: float
    high: float
    n: int


class Calibration(NamedTuple):
    """How far confidence and accuracy are apart."""

    ece: Figure
    """Expected calibration error, over bins of equally many items."""
    ece_width: Figure
    """The same over bins of equal width, as in Guo et al. 2017."""
    brier: Figure
    """Mean over items of Σ (p − 1[right option])²: 0 is perfect, 2 the worst. Brier 1950."""
    by_chance: float
    """The `ece` that a perfectly calibrated model of these confidences would show on so few items."""
    confidence: float
    """Mean probability of the pick."""
    accuracy: float
    bins: tuple[Bin, ...]
    """Of equally many items, least sure first."""

    def as_dict(self) -> dict[str, Any]:
        """As it stands in report.json."""
        figures = {"ece": self.ece.as_dict(), "ece_width": self.ece_width.as_dict(), "brier": self.brier.as_dict()}
        plain = {"by_chance": self.by_chance, "confidence": self.confidence, "accuracy": self.accuracy}
        return {**figures, **plain, "bins": [b._asdict() for b in self.bins]}


def calibration(scores: Sequence[Sequence[float]], golds: Sequence[int], seed: int) -> Calibration:
    """The calibration of multiple choice: each item's scores (log-probs, nats) and the index of its right option.

    Intervals are the basic bootstrap's (2·value − quantile): the error of a resample is larger than the sample's, as
    the sample's is larger than the truth, and this takes as much away. Raises ValueError without items.
    """
    if not len(scores):
        raise ValueError("calibration needs at least one item")
    probs = [probabilities(one) for one in scores]
    confidence_N = np.array([p.max() for p in probs])
    right_N = np.array([float(p.argmax() == gold) for p, gold in zip(probs, golds, strict=True)])
    brier = [float(((p - np.eye(len(p))[gold]) ** 2).sum()) for p, gold in zip(probs, golds, strict=True)]
    random, n = np.random.default_rng(seed), len(probs)
    drawn = random.integers(0, n, size=(RESAMPLES, n))
    mass = figure(ece_mass(confidence_N, right_N), ece_mass(confidence_N[drawn], right_N[drawn]), n)
    width = figure(ece_width(confidence_N, right_N), ece_width(confidence_N[drawn], right_N[drawn]), n)
    lucky = (random.random((RESAMPLES, n)) < confidence_N).astype(float)
    chance = float(ece_mass(np.broadcast_to(confidence_N, lucky.shape), lucky).mean())
    bins = tuple(reliability(confidence_N, right_N))
    means = float(confidence_N.mean()), float(right_N.mean())
    return Calibration(mass, width, bootstrap_mean(brier, seed), chance, *means, bins)


def probabilities(scores: Sequence[float]) -> np.ndarray:
    """softmax of log-probs over an item's options."""
    scores_N = np.asarray(scores, dtype=np.float64)
    weights_N = np.exp(scores_N - scores_N.max())
    return weights_N / weights_N.sum()


def figure(value: np.ndarray, resampled: np.ndarray, n: int) -> Figure:
    """A value with its basic bootstrap interval, within 0..1 and around the value."""
    low, high = 2 * float(value) - np.quantile(resampled, [0.975, 0.025])
    return Figure(float(value), min(max(0.0, low), float(value)), max(min(1.0, high), float(value)), n)


def bins_for(n: int) -> int:
    """How many bins of equally many items."""
    return max(1, min(MOST_BINS, n // ITEMS_A_BIN))


def starts(n: int) -> np.ndarray:
    """Where the bins of n sorted items begin; sizes differ by at most 1."""
    bins = bins_for(n)
    return (np.arange(bins) * n) // bins


def ece_mass(confidence_RN: np.ndarray, right_RN: np.ndarray) -> np.ndarray:
    """Σ over bins of (share of the items)·|accuracy − confidence|, the items cut by confidence into bins of equally
    many. The last axis are items; others stay. Nguyen & O'Connor 2015."""
    order = np.argsort(confidence_RN, axis=-1, kind="stable")
    gap = np.take_along_axis(right_RN - confidence_RN, order, axis=-1)
    n = gap.shape[-1]
    return np.abs(np.add.reduceat(gap, starts(n), axis=-1)).sum(-1) / n


def ece_width(confidence_RN: np.ndarray, right_RN: np.ndarray, bins: int = MOST_BINS) -> np.ndarray:
    """The same over bins (m−1)/M < confidence ≤ m/M. Guo et al. 2017, eq. 3."""
    bin_RN = np.clip(np.ceil(confidence_RN * bins).astype(int) - 1, 0, bins - 1)
    gap_RN, n = right_RN - confidence_RN, confidence_RN.shape[-1]
    gaps = [np.abs(np.where(bin_RN == m, gap_RN, 0.0).sum(-1)) for m in range(bins)]
    return np.sum(gaps, axis=0) / n


def reliability(confidence_N: np.ndarray, right_N: np.ndarray) -> list[Bin]:
    """The reliability table: bins of equally many items, least sure first."""
    order = np.argsort(confidence_N, kind="stable")
    found = []
    for part in np.split(order, starts(len(order))[1:]):
        share = wilson(float(right_N[part].sum()), len(part))
        found.append(Bin(float(confidence_N[part].mean()), share.value, share.low, share.high, len(part)))
    return found


def in_words(ece: float, by_chance: float, confidence: float, accuracy: float) -> str:
    """What a calibration error means: "too sure by 12 points"."""
    if ece <= 1.5 * by_chance + 0.01:
        return "as sure as it may be: no further off than chance explains"
    gap = 100 * (confidence - accuracy)
    if abs(gap) < 1:
        return "too sure of some, not sure enough of others"
    return f"{'too sure' if gap > 0 else 'not sure enough'} by {abs(gap):.0f} points"
