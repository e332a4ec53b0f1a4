"""Every figure carries its n and a 95 % interval. Shares: Wilson. Means: percentile bootstrap, or the normal one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

Z95 = 1.959963984540054
"""Φ⁻¹(0.975): the normal quantile of a two-sided 95 % interval."""

_DRAWS_AT_ONCE = 1 << 20
"""Resampled indices held in memory at a time (8 MiB of them)."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value with its 95 % interval, `low` to `high`, and the number of items it was measured on."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float]:
        """As it stands in `report.json`."""
        return asdict(self)


def wilson(successes: float, n: int, z: float = Z95) -> Figure:
    """A share and its score interval: (p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n). Wilson 1927.

    `successes` may be fractional (ties that count half); the interval is then too wide rather than too narrow, for
    a half varies less than a coin. Raises ValueError without items, and for a share outside 0..1.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes out of {n} are no share")
    share = successes / n
    low, high = wilson_at(share, n, z)
    # At 0 and n one end is 0 and 1 exactly; rounding may not move it past the value.
    return Figure(share, min(low, share), max(high, share), n)


def wilson_at(share: float, n: float, z: float = Z95) -> tuple[float, float]:
    """The ends of Wilson's interval for a share of `n` items, which may be fewer or more than were counted."""
    shrink = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / shrink
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / shrink
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_normal(values: Sequence[float] | np.ndarray, z: float = Z95) -> Figure:
    """A mean and value ± z·s/√n, s the sample's standard deviation (n − 1): for many items (a loss over thousands).

    One value has no spread to speak of: its interval is itself. Raises ValueError on none, or on a non-finite one.
    """
    values_N = _finite(values)
    n = len(values_N)
    mean = float(values_N.mean())
    half = z * float(values_N.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    return Figure(mean, mean - half, mean + half, n)


def bootstrap_mean(values: Sequence[float] | np.ndarray, seed: int, resamples: int = 2000) -> Figure:
    """A mean and the 2.5 % and 97.5 % points of the means of `resamples` draws with replacement. Efron 1979.

    Same values, same seed, same figure. One value's interval is itself: its n of 1 says what that is worth.
    Raises ValueError on no values, or on a non-finite one.
    """
    return bootstrap_ratio(values, np.ones(len(values)), seed, resamples)


def bounded_mean(values: Sequence[float] | np.ndarray, seed: int, resamples: int = 2000) -> Figure:
    """A mean of values in 0..1. Where all of them are 0 or 1 the interval is Wilson's: a bootstrap of equal values
    knows no doubt. Raises ValueError on none, and on values outside."""
    values_N = _finite(values)
    if ((values_N < 0) | (values_N > 1)).any():
        raise ValueError("values outside 0..1")
    if set(values_N) <= {0.0, 1.0}:
        return wilson(float(values_N.sum()), len(values_N))
    return bootstrap_mean(values_N, seed, resamples)


def bootstrap_ratio(
    tops: Sequence[float] | np.ndarray, bottoms: Sequence[float] | np.ndarray, seed: int, resamples: int = 2000
) -> Figure:
    """Σ tops / Σ bottoms (nats over tokens) and its percentile interval, rows drawn together; n is the rows.

    Raises ValueError on no rows or a non-finite one, where the lengths differ, and where bottoms are not weights:
    below 0, or all 0.
    """
    tops_N, bottoms_N = _together(tops, bottoms)
    if (bottoms_N < 0).any() or not bottoms_N.any():
        raise ValueError("a ratio needs a denominator above 0")
    n, random = len(tops_N), np.random.default_rng(seed)
    rows = max(1, _DRAWS_AT_ONCE // n)
    ratios = []
    for start in range(0, resamples, rows):
        drawn = random.integers(0, n, size=(min(rows, resamples - start), n))
        below = bottoms_N[drawn].sum(axis=1)
        kept = below > 0  # a draw of nothing but empty rows has no ratio
        ratios.append(tops_N[drawn].sum(axis=1)[kept] / below[kept])
    low, high = np.quantile(np.concatenate(ratios), [0.025, 0.975])
    value = float(tops_N.sum() / bottoms_N.sum())
    # Equal values sum in another order here and there: rounding may not move an end past the value.
    return Figure(value, min(float(low), value), max(float(high), value), n)


def paired_bootstrap(
    a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray, seed: int, resamples: int = 2000
) -> Figure:
    """The mean of a − b over items measured both ways, and its bootstrap interval: far narrower than the two
    intervals side by side, for what makes an item hard is in both. Raises ValueError where the lengths differ."""
    a_N, b_N = _together(a, b)
    return bootstrap_mean(a_N - b_N, seed, resamples)


def stratified(groups: Sequence[Sequence[float]], sizes: Sequence[int], z: float = Z95) -> Figure:
    """Σ W_h·m_h of shares or scores in 0..1 measured on some items of each group, W_h = sizes_h / Σ sizes, with an
    interval; n is the items measured. Cochran 1977, eq. 5.7: variance Σ W_h²·s_h²/n_h, without the correction for
    finite groups: the interval is of what such questions would give, not of these only.

    The interval is Wilson's at the effective n that this variance means (Korn and Graubard 1998), which is right near
    0 and 1, and where a group has one item: its spread is then taken from all items. Raises ValueError without items.
    """
    if not groups or any(len(group) == 0 for group in groups) or len(groups) != len(sizes):
        raise ValueError("every group needs an item, and a size")
    weight_H = np.array(sizes, dtype=np.float64) / sum(sizes)
    everything = _finite([value for group in groups for value in group])
    pooled = float(everything.var(ddof=1)) if len(everything) > 1 else 0.0
    mean_H = np.array([np.mean(group) for group in groups])
    spread_H = np.array([np.var(group, ddof=1) if len(group) > 1 else pooled for group in groups])
    count_H = np.array([len(group) for group in groups])
    value = float(weight_H @ mean_H)
    variance = float((weight_H**2 * spread_H / count_H).sum())
    n = len(everything)
    effective = min(value * (1 - value) / variance, 2.0 * n) if variance > 0 else float(n)
    centre = wilson_at(min(max(value, 0.0), 1.0), max(effective, 1.0), z)
    return Figure(value, min(centre[0], value), max(centre[1], value), n)


def _together(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a_N, b_N = _finite(a), _finite(b)
    if len(a_N) != len(b_N):
        raise ValueError(f"{len(a_N)} and {len(b_N)} values are no pairs")
    return a_N, b_N


def _finite(values: Sequence[float] | np.ndarray) -> np.ndarray:
    values_N = np.asarray(values, dtype=np.float64)
    if values_N.ndim != 1 or not len(values_N):
        raise ValueError("a figure needs at least one value")
    if not np.isfinite(values_N).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(values_N))} of {len(values_N)} values are not finite")
    return values_N
