"""Rows in topics: spherical k-means over their vectors (Dhillon and Modha 2001), begun with k-means++."""

from __future__ import annotations

import numpy as np

ROUNDS = 10
"""Most passes; topics hardly move after five."""
TAUGHT = 20_000
"""Rows that the centres are found on; all rows are then put to the nearest."""
AT_ONCE = 4096


def topics_of(vectors_ND: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """[N] the number of each row's topic, 0 up to at most `count` - 1 (fewer, where there are fewer different rows);
    numbers are given in the order in which topics first come."""
    if len(vectors_ND) == 0:
        return np.empty(0, dtype=np.int64)
    _, first, number_N = np.unique(
        nearest(vectors_ND, centres(vectors_ND, count, seed)), return_index=True, return_inverse=True
    )
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[number_N]


def centres(vectors_ND: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """[C, D] the topics' middles, of length 1: at most `count`. Raises ValueError without rows."""
    if len(vectors_ND) == 0:
        raise ValueError("no rows, no topics")
    rng = np.random.default_rng(seed)
    taught = np.sort(rng.choice(len(vectors_ND), TAUGHT, replace=False)) if len(vectors_ND) > TAUGHT else slice(None)
    sample_ND = np.asarray(vectors_ND[taught], dtype=np.float32)
    centre_CD = _begun(sample_ND, min(count, len(sample_ND)), rng)
    before = None
    for _ in range(ROUNDS):
        topic_N = nearest(sample_ND, centre_CD)
        if before is not None and np.array_equal(topic_N, before):
            break
        before = topic_N
        order = np.argsort(topic_N, kind="stable")
        present, first = np.unique(topic_N[order], return_index=True)
        centre_CD[present] = np.add.reduceat(sample_ND[order], first, axis=0)
        centre_CD /= np.maximum(np.linalg.norm(centre_CD, axis=1, keepdims=True), 1e-12)
    return centre_CD


def _begun(vectors_ND: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """k-means++ (Arthur and Vassilvitskii 2007): each centre is drawn by the squared distance to those before."""
    chosen = [int(rng.integers(len(vectors_ND)))]
    apart_N = np.maximum(1 - vectors_ND @ vectors_ND[chosen[0]], 0).astype(np.float64)
    while len(chosen) < count and (total := apart_N.sum()) > 1e-9:
        row = int(np.searchsorted(np.cumsum(apart_N), rng.random() * total))
        chosen.append(min(row, len(vectors_ND) - 1))
        apart_N = np.minimum(apart_N, np.maximum(1 - vectors_ND @ vectors_ND[chosen[-1]], 0))
    return vectors_ND[chosen].copy()


def nearest(vectors_ND: np.ndarray, centre_CD: np.ndarray) -> np.ndarray:
    """[N] the number of the centre that each row is most like."""
    parts = [(vectors_ND[k : k + AT_ONCE] @ centre_CD.T).argmax(1) for k in range(0, len(vectors_ND), AT_ONCE)]
    return np.concatenate(parts)
