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
    shrink = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / shrink
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / shrink
    # At 0 and n one end is 0 and 1 exactly; rounding may not move it past the value.
    return Figure(share, min(max(0.0, centre - half), share), max(min(1.0, centre + half), share), n)


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
