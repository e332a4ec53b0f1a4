"""What a data set is about: a map on which rows that are alike lie together, and words for its regions.

The map is t-SNE (van der Maaten & Hinton 2008) of some hundred landmarks, the centres of spherical k-means over TF-IDF
(Dhillon & Modha 2001); a row lies among the landmarks that it is most like. It is a function of rows and seed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from luthier.data.curate.questions import content_words
from luthier.data.curate.topics import centres

ROUNDS = 25
LANDMARKS = 220
STEPS = 350
NEAREST = 4
"""Landmarks that decide where a row lies."""
AT_ONCE = 4096
"""Rows compared with all centres at once."""
WORDS = 3
"""Words that name a region."""
UNTELLING = frozenset(("http", "https", "www", "com", "html", "org", "using", "used", "use", "other", "only", "people"))


class Map(NamedTuple):
    """Rows on a plane."""

    place_N2: np.ndarray
    """Two coordinates of each row, within −1 to 1."""
    region_N: np.ndarray
    """Which part of the plane each row lies in, 0 the fullest."""
    middle_R2: np.ndarray
    """Where each region's middle is."""


def map_of(vectors_ND: np.ndarray, regions: int, seed: int = 0) -> Map:
    """Rows of length 1 on a plane, those that are alike together, and the plane in so many regions at most."""
    count = len(vectors_ND)
    if count < 4:
        angle_N = np.arange(count) * 2.1
        place_N2 = np.stack([np.cos(angle_N), np.sin(angle_N)], 1).reshape(count, 2) * 0.5
        return Map(place_N2, np.zeros(count, dtype=np.int64), place_N2[:1])
    marks_KD = centres(vectors_ND, min(LANDMARKS, count), seed)
    mark_K2 = tsne(marks_KD, seed)
    place_N2, own_N = placed(vectors_ND, marks_KD, mark_K2, seed)
    size_K = np.bincount(own_N, minlength=len(marks_KD))
    region_K = parted(mark_K2, size_K, regions, seed)
    region_N = region_K[own_N]
    order = np.argsort(-np.bincount(region_N, minlength=int(region_K.max()) + 1), kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    region_N = rank[region_N]
    middles = [np.median(place_N2[region_N == r], axis=0) for r in range(int(region_N.max()) + 1)]
    return Map(place_N2, region_N, np.array(middles))


def placed(
    vectors_ND: np.ndarray, marks_KD: np.ndarray, mark_K2: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(where each row lies, among the landmarks that it is most like and a little aside; the nearest of them)."""
    rng = np.random.default_rng(seed + 1)
    found, own = [], []
    few = min(NEAREST, len(marks_KD))
    for at in range(0, len(vectors_ND), AT_ONCE):
        like_NK = vectors_ND[at : at + AT_ONCE] @ marks_KD.T
        top_NF = np.argpartition(-like_NK, few - 1, axis=1)[:, :few]
        weight_NF = np.maximum(np.take_along_axis(like_NK, top_NF, 1), 1e-4).astype(np.float64) ** 6
        weight_NF /= weight_NF.sum(1, keepdims=True)
        found.append((mark_K2[top_NF] * weight_NF[:, :, None]).sum(1))
        own.append(like_NK.argmax(1))
    spread_N2 = np.concatenate(found)
    room = 0.7 / math.sqrt(len(mark_K2))
    angle_N, far_N = rng.uniform(0, 2 * math.pi, len(spread_N2)), np.sqrt(rng.uniform(0, 1, len(spread_N2)))
    spread_N2 = spread_N2 + room * np.stack([far_N * np.cos(angle_N), far_N * np.sin(angle_N)], 1)
    low_2, high_2 = np.quantile(spread_N2, [0.01, 0.99], axis=0)
    middle_2, half_2 = (low_2 + high_2) / 2, np.maximum((high_2 - low_2) / 1.9, 1e-9)
    return np.clip((spread_N2 - middle_2) / half_2, -1, 1), np.concatenate(own)


def parted(mark_K2: np.ndarray, size_K: np.ndarray, regions: int, seed: int) -> np.ndarray:
    """The region of each landmark: k-means on the plane, each landmark as heavy as the rows it stands for."""
    rng = np.random.default_rng(seed + 2)
    weight_K = np.maximum(size_K, 1e-9).astype(np.float64)
    first = [int(weight_K.argmax())]
    while len(first) < min(regions, len(mark_K2)):
        far_K = np.min([((mark_K2 - mark_K2[k]) ** 2).sum(1) for k in first], axis=0) * weight_K
        if far_K.sum() <= 0:
            break
        first.append(int(rng.choice(len(mark_K2), p=far_K / far_K.sum())))
    middle_R2 = mark_K2[first].copy()
    for _ in range(ROUNDS):
        own_K = ((mark_K2[:, None] - middle_R2[None]) ** 2).sum(2).argmin(1)
        for r in range(len(middle_R2)):
            mine = own_K == r
            if mine.any():
                middle_R2[r] = np.average(mark_K2[mine], axis=0, weights=weight_K[mine])
    _, own_K = np.unique(own_K, return_inverse=True)
    return own_K


def region_words(texts: Sequence[str], region_N: np.ndarray, count: int) -> list[str]:
    """What each region is called: words that many of its rows have, and few of the others'. A word counts once a row;
    its worth is the share of the region's rows × log(share there / share everywhere). Each word names one region, that
    in which it is worth most."""
    everywhere: Counter[str] = Counter()
    inside = [Counter[str]() for _ in range(count)]
    for text, region in zip(texts, region_N.tolist(), strict=True):
        words = {word for word in content_words(text[:4000]) if word.isalpha() and len(word) > 2} - UNTELLING
        everywhere.update(words)
        inside[region].update(words)
    sizes = np.maximum(1, np.bincount(region_N, minlength=count))
    worth: list[tuple[float, str, int]] = []
    for region, found in enumerate(inside):
        for word, rows in found.items():
            share = rows / int(sizes[region])
            worth.append((share * math.log(share * len(texts) / everywhere[word]), word, region))
    names: list[list[str]] = [[] for _ in range(count)]
    taken: set[str] = set()
    for value, word, region in sorted(worth, key=lambda item: (-item[0], item[1])):
        if value > 0 and word not in taken and len(names[region]) < WORDS:
            if not any(word[:5] == other[:5] for other in names[region]):
                names[region].append(word)
            taken.add(word)
    return [", ".join(words) or "(no words of its own)" for words in names]


def tsne(points_KD: np.ndarray, seed: int, perplexity: float = 15.0) -> np.ndarray:
    """t-SNE of a few hundred unit vectors, in full: [K, 2] within about −1 to 1. van der Maaten & Hinton 2008, with
    early exaggeration and momentum."""
    count = len(points_KD)
    far_KK = np.maximum(2 - 2 * (points_KD @ points_KD.T).astype(np.float64), 0)
    p_KK = affinities(far_KK, min(perplexity, (count - 1) / 3))
    p_KK = (p_KK + p_KK.T) / (2 * count)
    y_K2 = first_plane(points_KD) * 1e-2 + np.random.default_rng(seed).normal(0, 1e-4, (count, 2))
    speed_K2, gain_K2 = np.zeros_like(y_K2), np.ones_like(y_K2)
    rate = max(10.0, count / 4)
    for step in range(STEPS):
        square_K = (y_K2**2).sum(1)
        near_KK = 1 / (1 + np.maximum(square_K[:, None] + square_K[None] - 2 * y_K2 @ y_K2.T, 0))
        np.fill_diagonal(near_KK, 0)
        q_KK = np.maximum(near_KK / near_KK.sum(), 1e-12)
        pull_KK = ((8 if step < STEPS // 4 else 1) * p_KK - q_KK) * near_KK
        slope_K2 = 4 * (pull_KK.sum(1)[:, None] * y_K2 - pull_KK @ y_K2)
        gain_K2 = np.maximum(np.where(slope_K2 * speed_K2 < 0, gain_K2 + 0.2, gain_K2 * 0.8), 0.01)
        speed_K2 = (0.5 if step < STEPS // 4 else 0.8) * speed_K2 - rate * gain_K2 * slope_K2
        y_K2 = y_K2 + speed_K2
        y_K2 -= y_K2.mean(0)
    return y_K2 / max(1e-9, float(np.abs(y_K2).max()))


def first_plane(points_KD: np.ndarray) -> np.ndarray:
    """The two principal components, scaled to a deviation of 1: where t-SNE begins, so that the map's lie is no
    accident."""
    centred_KD = points_KD.astype(np.float64) - points_KD.mean(0)
    _, vectors_KK = np.linalg.eigh(centred_KD @ centred_KD.T)
    plane_K2 = vectors_KK[:, ::-1][:, :2].copy()
    for axis in range(2):  # an eigenvector's sign is the library's whim
        if plane_K2[np.abs(plane_K2[:, axis]).argmax(), axis] < 0:
            plane_K2[:, axis] *= -1
    return plane_K2 / np.maximum(plane_K2.std(0), 1e-12)


def affinities(far_KK: np.ndarray, perplexity: float) -> np.ndarray:
    """p(j | i) of squared distances, each row's width such that its entropy is log(perplexity); by bisection."""
    count = len(far_KK)
    low_K, high_K = np.full(count, 1e-4), np.full(count, 1e6)
    p_KK = np.zeros_like(far_KK)
    for _ in range(50):
        beta_K = np.sqrt(low_K * high_K)
        p_KK = np.exp(-beta_K[:, None] * (far_KK - far_KK.min(1, keepdims=True)))
        np.fill_diagonal(p_KK, 0)
        total_K = np.maximum(p_KK.sum(1), 1e-300)
        p_KK /= total_K[:, None]
        entropy_K = -(p_KK * np.log(np.maximum(p_KK, 1e-300))).sum(1)
        wide_K = entropy_K > math.log(perplexity)
        low_K, high_K = np.where(wide_K, beta_K, low_K), np.where(wide_K, high_K, beta_K)
    return p_KK
