"""How an error falls as data grows: error(n) = a·n^(−b) + c, fitted to a few sizes, with what it does not know.

Hestness et al. 2017 and Rosenfeld et al. 2020 find this shape in many fields; `c` is what no amount of such data
removes. Weighted least squares by variable projection (Golub and Pereyra 1973): for a given b the best a, c ≥ 0 have a
closed form, so only b is searched.

What the points do not say comes from drawing them anew: the items (one draw for all sizes, for they are measured on
the same ones) and the seeds (from the spread that runs of one size show, all sizes together).

In names: K sizes, S seeds, N items, R draws, G exponents tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

B_RANGE = (0.05, 2.0)
"""Exponents tried. Below, a curve is a straight line in log n; above, it is flat after one doubling."""
GRID, ZOOMS = 40, 4
"""Exponents tried at first, and how often the best one's surroundings are tried again, ten times finer."""
DRAWS = 1000
MISFIT = 4.0
"""Points that lie further from the curve than this many times what the seeds' spread explains (in variance; F of 2 and
10 degrees of freedom exceeds 4.1 once in twenty times) are told of, and widen every interval."""
EDGE = 0.02
"""Shares nearer to 0 or 1 than this are taken to vary as much as one at it does."""


class Law(NamedTuple):
    """error(n) = a·(n/unit)^(−b) + c. Numbers, or arrays of as many draws."""

    a: np.ndarray
    b: np.ndarray
    c: np.ndarray
    unit: float

    def at(self, n: float) -> np.ndarray:
        """The error at n examples."""
        return self.a * (n / self.unit) ** -self.b + self.c

    def at_each(self, n_K: np.ndarray) -> np.ndarray:
        """[R, K]: the error of each draw at each size."""
        return self.a[:, None] * (n_K / self.unit) ** -self.b[:, None] + self.c[:, None]


@dataclass(frozen=True)
class Point:
    """What was measured at one size: a row a seed, a column an item. The error of a run is Σ tops / Σ bottoms."""

    n: int
    tops_SN: np.ndarray
    """1 for a wrong answer, 0 for a right one; or nats."""
    bottoms_N: np.ndarray
    """1 an item; or its tokens."""

    @property
    def errors_S(self) -> np.ndarray:
        """The error of each seed's run."""
        return self.tops_SN.sum(1) / self.bottoms_N.sum()


@dataclass(frozen=True)
class Curve:
    """A fitted law and the draws that say how well it is known."""

    points: Sequence[Point]
    share: bool
    """The error is a share, 0 to 1: 1 − accuracy."""
    law: Law
    laws: Law
    """R draws of it."""
    spread_R: np.ndarray
    """Standard deviation of one run about the law, in units of `scale_of`: its seed, or the points' misfit where that
    is more."""
    error_K: np.ndarray
    """The mean error at each size, in rising order."""
    drawn_RK: np.ndarray
    """The same in each draw of items and seeds."""
    misfit: float
    """χ² per degree of freedom of the points about the curve; 0 where three parameters leave none."""
    first: int
    """Index of the smallest size that the law runs through: smaller ones lay off it."""

    @property
    def n(self) -> int:
        """Examples of the largest size measured."""
        return max(point.n for point in self.points)


class Range(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def half(self) -> float:
        """Half of the interval's length: the ± of a sentence."""
        return (self.high - self.low) / 2


def fit_laws(n_K: np.ndarray, errors_RK: np.ndarray, weights_K: np.ndarray) -> Law:
    """The best law for each row of errors. n in examples, weights as 1/variance."""
    unit = float(n_K.max())
    b_RG = np.broadcast_to(np.geomspace(*B_RANGE, GRID), (len(errors_RK), GRID))
    step = (B_RANGE[1] / B_RANGE[0]) ** (1 / (GRID - 1))
    for zoom in range(ZOOMS + 1):
        a_RG, c_RG, loss_RG = linear_parts(n_K / unit, errors_RK, weights_K, b_RG)
        best = np.arange(len(errors_RK)), loss_RG.argmin(axis=1)
        if zoom < ZOOMS:
            around = np.geomspace(1 / step, step, 21)
            b_RG = np.clip(b_RG[best][:, None] * around, *B_RANGE)
            step = step ** (1 / 10)
    return Law(a_RG[best], b_RG[best], c_RG[best], unit)


def linear_parts(
    n_K: np.ndarray, errors_RK: np.ndarray, weights_K: np.ndarray, b_RG: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(a, c, weighted squares left) of each exponent: least squares in a, c ≥ 0. Where the free solution has one of
    them below 0, the best is on an edge: c = 0, or a = 0."""
    x_RGK = n_K ** -b_RG[..., None]
    w, y_R1K = weights_K, errors_RK[:, None, :]
    s, sx, sxx = w.sum(), (w * x_RGK).sum(-1), (w * x_RGK**2).sum(-1)
    sy, sxy = (w * y_R1K).sum(-1), (w * x_RGK * y_R1K).sum(-1)
    spread = s * sxx - sx**2
    a = (s * sxy - sx * sy) / np.where(spread > 0, spread, 1)
    c = (sy - a * sx) / s
    through_0, level = np.maximum(sxy / sxx, 0), np.maximum(sy / s, 0)
    a, c = np.where(c < 0, through_0, a), np.maximum(c, 0)
    c, a = np.where(a <= 0, level, c), np.maximum(a, 0)
    left = (w * (y_R1K - a[..., None] * x_RGK - c[..., None]) ** 2).sum(-1)
    return a, c, left


def scale_of(error: np.ndarray, share: bool) -> np.ndarray:
    """How much runs of one size vary with the error itself: a share as a coin does, a loss by its own measure."""
    if not share:
        return error
    inside = np.clip(error, EDGE, 1 - EDGE)
    return np.sqrt(inside * (1 - inside))


def fit_curve(points: Sequence[Point], share: bool, seed: int, draws: int = DRAWS) -> Curve:
    """The law through some sizes, and what the draws say of it. Where the points lie further from it than seeds
    explain, the smallest sizes are left out one by one, as long as four are left: what a model learns from very little
    follows other laws. Raises ValueError for fewer than three sizes."""
    points = sorted(points, key=lambda point: point.n)
    if len({point.n for point in points}) < 3:
        raise ValueError("a curve needs at least three sizes")
    n_K = np.array([float(point.n) for point in points])
    seeds_K = np.array([len(point.tops_SN) for point in points])
    error_K = np.array([point.errors_S.mean() for point in points])
    scale_K = scale_of(error_K, share)
    weights_K = seeds_K / scale_K**2
    spread, degrees = seed_spread(points, scale_K, share)
    first, misfit = 0, misfit_of(n_K, error_K, weights_K, spread)
    while misfit > MISFIT and len(n_K) - first > 4:
        first += 1
        misfit = misfit_of(n_K[first:], error_K[first:], weights_K[first:], spread)
    random = np.random.default_rng(seed)
    luck_R = np.sqrt(degrees / random.chisquare(degrees, draws))
    own = spread * np.sqrt(max(0.0, 1 - in_items(points, scale_K) / spread**2))
    off = spread * np.sqrt(misfit) if misfit > MISFIT else own
    noise_RK = random.standard_normal((draws, len(n_K))) / np.sqrt(seeds_K) * luck_R[:, None] * scale_K
    items_RK, top = drawn_errors(points, random, draws), 1 if share else None
    if share:
        items_RK += random.standard_normal((draws, len(n_K))) * unseen(error_K, len(points[0].bottoms_N))
    fitted_RK = np.clip(items_RK + off * noise_RK, 0, top)[:, first:]
    return Curve(
        points,
        share,
        fit_laws(n_K[first:], error_K[None, first:], weights_K[first:]),
        fit_laws(n_K[first:], fitted_RK, weights_K[first:]),
        luck_R * max(spread, off),
        error_K,
        np.clip(items_RK + own * noise_RK, 0, top),
        misfit,
        first,
    )


def misfit_of(n_K: np.ndarray, error_K: np.ndarray, weights_K: np.ndarray, spread: float) -> float:
    """χ² per degree of freedom of sizes about their law; 0 where there are no more sizes than parameters."""
    if len(n_K) <= 3:
        return 0.0
    law = fit_laws(n_K, error_K[None], weights_K)
    left = float((weights_K * (error_K - law.at_each(n_K)[0]) ** 2).sum())
    return left / (len(n_K) - 3) / spread**2


def seed_spread(points: Sequence[Point], scale_K: np.ndarray, share: bool) -> tuple[float, int]:
    """(standard deviation of one run for its seed, in units of `scale_K`; degrees of freedom it is known with). Of all
    sizes with several seeds together; where there are none, what single runs allow: of shares, that items turn over
    like coins; of losses, half of how much the items' own changes from one size to the next vary about their mean."""
    several = [(point.errors_S, scale) for point, scale in zip(points, scale_K, strict=True) if len(point.tops_SN) > 1]
    degrees = sum(len(errors_S) - 1 for errors_S, _ in several)
    if degrees >= 2:
        squares = sum(float(((errors_S - errors_S.mean()) ** 2).sum()) / scale**2 for errors_S, scale in several)
        return max(float(np.sqrt(squares / degrees)), 1e-9), degrees
    items = len(points[0].bottoms_N)
    if share:
        return float(1 / np.sqrt(items)), len(points)
    found = []
    for (one, other), scale in zip(pairwise(points), scale_K[1:], strict=True):
        gap_N = one.tops_SN[0] - other.tops_SN[0]
        gap_N = gap_N - gap_N.sum() / one.bottoms_N.sum() * one.bottoms_N
        found.append(float((gap_N**2).sum()) / one.bottoms_N.sum() ** 2 / 2 / scale**2)
    return max(float(np.sqrt(np.mean(found))), 1e-9), len(points)


def in_items(points: Sequence[Point], scale_K: np.ndarray) -> float:
    """How much of a run's variance (in units of `scale_K`) is items that turn over by themselves from seed to seed, as
    coins do: drawing items anew brings that already. 0 where no size has several seeds."""
    found = []
    for point, scale in zip(points, scale_K, strict=True):
        seeds, items = point.tops_SN.shape
        if seeds > 1 and items > 1:
            off_SN = point.tops_SN - point.errors_S[:, None] * point.bottoms_N
            off_SN = off_SN - off_SN.mean(0)
            squares = float((off_SN**2).sum()) / (seeds - 1) * items / (items - 1)
            found.append(squares / point.bottoms_N.sum() ** 2 / scale**2)
    return float(np.mean(found)) if found else 0.0


def drawn_errors(points: Sequence[Point], random: np.random.Generator, draws: int) -> np.ndarray:
    """[R, K]: the mean error of each size when items are drawn with replacement, the same ones for every size."""
    bottoms_N = points[0].bottoms_N
    items = len(bottoms_N)
    mean_KN = np.stack([point.tops_SN.mean(0) for point in points])
    found = []
    for start in range(0, draws, 100):
        rows = min(100, draws - start)
        times_RN = random.multinomial(items, np.full(items, 1 / items), size=rows)
        below_R = np.maximum(times_RN @ bottoms_N, 1e-12)
        found.append(times_RN @ mean_KN.T / below_R[:, None])
    return np.concatenate(found)


def unseen(error_K: np.ndarray, items: int) -> np.ndarray:
    """Standard deviation that drawing items anew cannot show where all of them are right, or nearly: what is missing to
    that of a share of 2 in items + 4 (Agresti and Coull 1998)."""
    least = np.clip(error_K, 2 / (items + 4), 1 - 2 / (items + 4))
    return np.sqrt(np.maximum(0, least * (1 - least) - error_K * (1 - error_K)) / items)


def interval(values_R: np.ndarray, value: float) -> Range:
    """The 2.5 % and 97.5 % points of the draws about a value, which lies within them."""
    low, high = np.quantile(values_R, [0.025, 0.975])
    return Range(value, min(float(low), value), max(float(high), value))


def exponent(curve: Curve) -> Range:
    """b, with its interval."""
    return interval(curve.laws.b, float(curve.law.b[0]))


def expected(curve: Curve, n: float) -> Range:
    """The error to expect in the mean of many runs at n examples."""
    low, high = 0.0, 1.0 if curve.share else np.inf
    return interval(np.clip(curve.laws.at(n), low, high), float(np.clip(curve.law.at(n)[0], low, high)))


def forecast(curve: Curve, n: float, seed: int, runs: int = 1) -> Range:
    """The error that the mean of so many runs at n examples will show: the law's interval, and the seeds' spread."""
    random = np.random.default_rng(seed)
    top = 1.0 if curve.share else np.inf
    error_R = np.clip(curve.laws.at(n), 0, top)
    noise_R = random.standard_normal(len(error_R)) * curve.spread_R / np.sqrt(runs) * scale_of(error_R, curve.share)
    return interval(np.clip(error_R + noise_R, 0, top), float(np.clip(curve.law.at(n)[0], 0, top)))


def gain(curve: Curve, more: float) -> Range:
    """By how much the error is expected to fall with so many examples more than the largest size."""
    n, top = curve.n, 1.0 if curve.share else np.inf

    def fall(law: Law) -> np.ndarray:
        return np.clip(law.at(n), 0, top) - np.clip(law.at(n + more), 0, top)

    return interval(fall(curve.laws), float(fall(curve.law)[0]))


def knee(curve: Curve, worth: float) -> Range:
    """The number of examples from which doubling them lowers the error by less than `worth`:
    a·n^(−b)·(1 − 2^(−b)) = worth. 0 where no doubling is worth it."""

    def at(law: Law) -> np.ndarray:
        ratio = np.maximum(law.a * (1 - 2.0**-law.b) / worth, 1e-300)
        return law.unit * np.minimum(ratio ** (1 / law.b), 1e12)

    return interval(at(curve.laws), float(at(curve.law)[0]))
