"""How far two (or more) who judge the same things agree: more than chance would have them?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from luthier.evals.intervals import Figure


def table_of(a: Sequence[Hashable], b: Sequence[Hashable], labels: Sequence[Hashable]) -> np.ndarray:
    """How often one said k while the other said l [K, K]. Raises ValueError where the two are not pairs, or none."""
    if len(a) != len(b) or not a:
        raise ValueError(f"{len(a)} and {len(b)} labels are no pairs")
    places = {label: k for k, label in enumerate(labels)}
    table_KK = np.zeros((len(labels), len(labels)))
    for one, other in zip(a, b, strict=True):
        table_KK[places[one], places[other]] += 1
    return table_KK


def kappa(tables: np.ndarray) -> np.ndarray:
    """(p_o − p_e) / (1 − p_e) of tables [..., K, K]: p_o is the share on the diagonal, p_e what the two shares of each
    label would give by chance. Cohen 1960, eq. 1. NaN where both gave everything one label: nothing to agree about."""
    total = tables.sum(axis=(-2, -1))
    same = np.trace(tables, axis1=-2, axis2=-1) / total
    by_chance = (tables.sum(axis=-1) * tables.sum(axis=-2)).sum(axis=-1) / total**2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.isclose(by_chance, 1), math.nan, (same - by_chance) / (1 - by_chance))


def cohen_kappa(
    a: Sequence[Hashable], b: Sequence[Hashable], labels: Sequence[Hashable], seed: int, resamples: int = 2000
) -> Figure | None:
    """Cohen's kappa and its bootstrap interval over items (draws of items are draws of the table's cells). None where
    both gave everything one label. Raises ValueError where the two are not pairs, or none."""
    table_KK = table_of(a, b, labels)
    value, n = float(kappa(table_KK)), len(a)
    if math.isnan(value):
        return None
    drawn = np.random.default_rng(seed).multinomial(n, table_KK.ravel() / n, size=resamples)
    found = kappa(drawn.reshape(resamples, *table_KK.shape).astype(np.float64))
    low, high = np.nanquantile(found, [0.025, 0.975])
    return Figure(value, min(float(low), value), max(float(high), value), n)


def pearson(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float | None:
    """Correlation of two rows of numbers; None where one of them never changes."""
    a_N, b_N = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    a_N, b_N = a_N - a_N.mean(), b_N - b_N.mean()
    spread = math.sqrt(float((a_N**2).sum() * (b_N**2).sum()))
    return float((a_N * b_N).sum()) / spread if spread else None


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Correlation of ranks, ties at the mean of theirs; None where one of the rows never changes."""
    return pearson(ranks(a), ranks(b))


def ranks(values: Sequence[float]) -> np.ndarray:
    """1 for the least; equal values share the mean of their ranks."""
    values_N = np.asarray(values, dtype=np.float64)
    _, group_N, size_G = np.unique(values_N, return_inverse=True, return_counts=True)
    last_G = np.cumsum(size_G)
    return (last_G - (size_G - 1) / 2)[group_N]


def krippendorff(votes: Sequence[Sequence[Hashable]]) -> float | None:
    """Krippendorff's alpha for labels without order, any number of votes an item: 1 − D_o/D_e over the coincidences
    within items (Krippendorff 2011, §C). Items with one vote say nothing. None where nothing can differ."""
    paired = [item for item in votes if len(item) > 1]
    counts = Counter(vote for item in paired for vote in item)
    total = counts.total()
    expected = total**2 - sum(count**2 for count in counts.values())
    if not expected:
        return None
    observed = 0.0
    for item in paired:
        here = Counter(item)
        observed += (len(item) ** 2 - sum(count**2 for count in here.values())) / (len(item) - 1)
    return 1 - observed * (total - 1) / expected
