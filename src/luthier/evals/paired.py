"""Is the difference between two models real? Any score of summed statistics, on the same items, with an interval and a
test: a mean is Σ values / Σ 1, a perplexity Σ nats / Σ tokens, BLEU a function of summed counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from luthier.evals.intervals import Figure

Score = Callable[[np.ndarray], float]
"""Statistics summed over items [F] -> the figure."""

_AT_ONCE = 1 << 20
"""Resampled rows times statistics held at a time."""


def ratio(stats_F: np.ndarray) -> float:
    """Σ tops / Σ bottoms; NaN where nothing is below."""
    return float(stats_F[0] / stats_F[1]) if stats_F[1] else math.nan


def rows_of_mean(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Statistics whose `ratio` is the mean of the values."""
    values_N = np.asarray(values, dtype=np.float64)
    return np.stack([values_N, np.ones_like(values_N)], axis=1)


def resampled(stats_NF: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """Sums over `resamples` draws of N rows with replacement [R, F]; equal seed and N, equal draws."""
    n, random = len(stats_NF), np.random.default_rng(seed)
    rows = max(1, _AT_ONCE // stats_NF.size)
    parts = []
    for start in range(0, resamples, rows):
        drawn = random.integers(0, n, size=(min(rows, resamples - start), n))
        parts.append(stats_NF[drawn].sum(axis=1))
    return np.concatenate(parts)


def figure_of(stats_NF: np.ndarray, score: Score, seed: int, resamples: int = 2000) -> Figure:
    """The score and its percentile bootstrap interval over items. Efron 1979. Raises ValueError without items."""
    if not len(stats_NF):
        raise ValueError("a figure needs at least one item")
    value = score(stats_NF.sum(axis=0))
    found = np.array([score(sums) for sums in resampled(stats_NF, seed, resamples)])
    found = found[np.isfinite(found)]
    low, high = np.quantile(found, [0.025, 0.975]) if len(found) else (value, value)
    return Figure(value, min(float(low), value), max(float(high), value), len(stats_NF))


def difference(a_NF: np.ndarray, b_NF: np.ndarray, score: Score, seed: int, resamples: int = 2000) -> Figure:
    """score(b) − score(a) on the same items, with the interval of draws that take an item from both: the paired
    bootstrap, Koehn 2004. Raises ValueError where the items are not the same number, or none."""
    if len(a_NF) != len(b_NF):
        raise ValueError(f"{len(a_NF)} and {len(b_NF)} items are no pairs")
    width = a_NF.shape[1]
    both_NF = np.concatenate([a_NF, b_NF], axis=1)
    return figure_of(both_NF, lambda s: score(s[width:]) - score(s[:width]), seed, resamples)


def chance(a_NF: np.ndarray, b_NF: np.ndarray, score: Score, seed: int, rounds: int = 4000) -> float:
    """Two-sided p of the paired randomisation test: how often a difference at least this large comes about when it is
    drawn by lot, item by item, which answer is whose. Noreen 1989; with (1 + hits) / (1 + rounds) never 0. Where items
    are few (2^N ≤ rounds) every assignment is counted instead, and p is exact."""
    n, gap_NF = len(a_NF), b_NF - a_NF
    total_a, total_b = a_NF.sum(axis=0), b_NF.sum(axis=0)
    seen = abs(score(total_b) - score(total_a))
    exact = 2**n <= rounds
    if exact:
        swapped_RN = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    else:
        swapped_RN = np.random.default_rng(seed).integers(0, 2, size=(rounds, n), dtype=np.int8)
    gaps = []
    for start in range(0, len(swapped_RN), rows := max(1, _AT_ONCE // n)):
        moved_RF = swapped_RN[start : start + rows].astype(np.float64) @ gap_NF
        gaps += [abs(score(total_b - moved) - score(total_a + moved)) for moved in moved_RF]
    hits = int(np.sum(np.array(gaps) >= seen - 1e-9 * max(1.0, seen)))
    return hits / len(gaps) if exact else (1 + hits) / (1 + len(gaps))


def holm(chances: Sequence[float]) -> list[float]:
    """p of each of several tests, so that the chance of even one false alarm among them stays what it says: the k-th
    smallest times (m − k + 1), never below an earlier one. Holm 1979."""
    order = sorted(range(len(chances)), key=lambda i: chances[i])
    adjusted, least = [0.0] * len(chances), 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, chances[i] * (len(chances) - rank)))
        adjusted[i] = least
    return adjusted


def items_needed(found: Figure) -> int | None:
    """About how many items would show a difference of this size four times out of five (two-sided 5 %): n·((1.96 +
    0.84)·se/d)², se from the interval's width. None where there is no difference, or no spread."""
    error = (found.high - found.low) / (2 * 1.96)
    if not found.value or not error:
        return None
    return math.ceil(found.n * ((1.96 + 0.84) * error / found.value) ** 2)
