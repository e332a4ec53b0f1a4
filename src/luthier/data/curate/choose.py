"""Which rows to keep: few, good ones that stand for all. LIMA's way (Zhou et al. 2023): quality and diversity first.

    choose(tfidf(texts), quality(scores), 1000, limits=[generated])    -> numbers of rows, the most useful first

`facility` maximises F(S) = Σᵢ wᵢ · max_{j∈S} wⱼ · max(0, cos(i, j)) with w = √quality, the facility location function:
every row is served by the kept row that is nearest to it and good, and good rows count for more. F is monotone and
submodular, so choosing greedily reaches (1 - 1/e) of the best that is possible (Nemhauser, Wolsey and Fisher 1978).
`k-centre` keeps the largest distance of a row to its nearest kept one small, within twice the best (Gonzalez 1985): it
goes to the rare and the far, where facility location goes to the crowds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from luthier.data.curate.limits import Limit, Room
from luthier.data.curate.topics import topics_of

How = Literal["facility", "k-centre"]
MOST_CANDIDATES = 20_000
"""Of more rows, this many (4 for each to keep, at least) may be chosen: the best of each topic, in proportion."""
MOST_PAIRS = 160_000_000
"""Similarities held at once, 4 bytes each. Where there are more, a sample of the rows stands for all that F sums over:
8,000 of them for 20,000 candidates, and the mean of F is off by 1 % or so."""
QUALITY_POWER = 0.5
"""Of quality in F. With 1 the choice from `lamini_docs` covers hardly more than one at random; with 0 it covers most,
and its quality is that of rows at random (docs/data-choosing.md)."""
AT_ONCE = 512
"""Rows of a matrix product."""


def choose(
    vectors_ND: np.ndarray,
    quality_N: np.ndarray,
    keep: int,
    how: How = "facility",
    *,
    better: float = 1.0,
    limits: Sequence[Limit] = (),
    seed: int = 0,
) -> list[int]:
    """The numbers of `keep` rows in order of choice: what the first ten of them are does not depend on `keep`, but for
    limits that are shares of it. Fewer, where there are fewer rows or the limits forbid more.

    vectors_ND: float32, rows of length 1; quality_N: 0..1; `better`: the share of each topic's rows, the best of them,
    that may be chosen (more, where `keep` or a limit needs them). Up to about 12,000 rows all pairs count; beyond that
    the candidates and the rows to be served are picked first, as `MOST_CANDIDATES` and `MOST_PAIRS` say. Equal gains go
    to the earlier row. Raises ValueError for arguments that do not fit each other.
    """
    if len(vectors_ND) != len(quality_N) or keep < 0 or any(len(limit.members_N) != len(quality_N) for limit in limits):
        raise ValueError(f"{len(vectors_ND)} vectors, {len(quality_N)} qualities, keep {keep}: these do not fit")
    vectors_ND = np.ascontiguousarray(vectors_ND, dtype=np.float32)
    weight_N = np.clip(np.asarray(quality_N, dtype=np.float32), 1e-6, 1) ** np.float32(QUALITY_POWER)
    room = Room(limits, keep, len(vectors_ND))
    made = _k_centre if how == "k-centre" else _facility
    picked = list(made(vectors_ND, weight_N, room, better, seed))
    if better < 1 and room.open() is not None:  # limits that overlap leave too few good rows
        return choose(vectors_ND, quality_N, keep, how, limits=limits, seed=seed)
    return picked


def _k_centre(vectors_ND: np.ndarray, weight_N: np.ndarray, room: Room, better: float, seed: int) -> Iterator[int]:
    """The best row first, then each time the one farthest from all kept ones, its distance times its weight."""
    distance_N = np.full(len(vectors_ND), np.float32(1))
    may_N = np.zeros(len(vectors_ND), dtype=bool)
    may_N[_candidates(vectors_ND, weight_N, room, len(vectors_ND), better, seed)] = True
    while (open_N := room.open()) is not None and (open_N & may_N).any():
        row = int(np.where(open_N & may_N, distance_N * weight_N, -1).argmax())
        room.take(row)
        yield row
        apart_N = np.sqrt(np.maximum(2 - 2 * (vectors_ND @ vectors_ND[row]), 0))
        distance_N = apart_N if room.taken == 1 else np.minimum(distance_N, apart_N)


def _facility(vectors_ND: np.ndarray, weight_N: np.ndarray, room: Room, better: float, seed: int) -> Iterator[int]:
    """Lazy greedy (Minoux 1978): gains only shrink as rows are kept, so an old gain is a bound, and only rows whose
    bound is highest are looked at anew. The choice is that of plain greedy."""
    candidate_C = _candidates(vectors_ND, weight_N, room, max(MOST_CANDIDATES, 4 * room.keep), better, seed)
    served_R = _served(len(vectors_ND), len(candidate_C), seed)
    worth_CR = _worths(vectors_ND, weight_N, candidate_C, served_R)
    best_R = np.zeros(len(served_R), dtype=np.float32)
    weight_R = weight_N[served_R]
    bound_C = _products(worth_CR, weight_R)
    made_C = np.zeros(len(candidate_C), dtype=np.int64)
    while (open_N := room.open()) is not None:
        allowed_C = open_N[candidate_C]
        if not allowed_C.any():
            return
        known_C = np.where(allowed_C, bound_C, -1)
        several = 1
        while made_C[first := int(known_C.argmax())] != room.taken:
            stale = np.flatnonzero(made_C != room.taken)
            look = stale[np.argpartition(-known_C[stale], min(several, len(stale)) - 1)[:several]]
            bound_C[look] = [float(np.maximum(worth_CR[c] - best_R, 0) @ weight_R) for c in look]
            made_C[look] = room.taken
            known_C[look] = np.where(allowed_C[look], bound_C[look], -1)
            several = min(2 * several, AT_ONCE)
        np.maximum(best_R, worth_CR[first], out=best_R)
        room.take(int(candidate_C[first]))
        yield int(candidate_C[first])


def _worths(vectors_ND: np.ndarray, weight_N: np.ndarray, of_C: np.ndarray, for_R: np.ndarray) -> np.ndarray:
    """[C, R] what a candidate is worth to a row: its weight times their cosine, 0 where that is negative."""
    worth_CR = np.empty((len(of_C), len(for_R)), dtype=np.float32)
    served_DR = np.ascontiguousarray(vectors_ND[for_R].T)
    for start in range(0, len(of_C), AT_ONCE):
        some = of_C[start : start + AT_ONCE]
        part = worth_CR[start : start + len(some)]
        np.matmul(vectors_ND[some] * weight_N[some, None], served_DR, out=part)
        np.maximum(part, 0, out=part)
    return worth_CR


def _products(worth_CR: np.ndarray, weight_R: np.ndarray) -> np.ndarray:
    """The first gains, summed as the later ones are: row by row, so that a bound is one to the last bit."""
    return np.array([row @ weight_R for row in worth_CR], dtype=np.float64)


def _candidates(
    vectors_ND: np.ndarray, weight_N: np.ndarray, room: Room, most: int, better: float, seed: int
) -> np.ndarray:
    """The rows that may be chosen, in order: all, or of each topic (and each limit's rows) the best: at most `most` of
    them, and the share `better`, but as many as are to be kept."""
    rows = np.flatnonzero(room.possible())
    most = max(room.keep, min(most, math.ceil(better * len(rows))))
    if len(rows) <= most:
        return rows
    topic = topics_of(vectors_ND[rows], max(16, round(len(rows) ** 0.5)), seed)
    # Place of each row in its topic by quality, as a share: the best of every topic come first.
    order = np.lexsort((rows, -weight_N[rows], topic))
    sizes = np.bincount(topic)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    share = np.empty(len(rows))
    share[order] = (within + 0.5) / np.repeat(sizes, sizes)
    taken = np.zeros(len(rows), dtype=bool)
    taken[np.argsort(share, kind="stable")[:most]] = True
    for limit in room.limits:  # a rare source that must be there is not lost, nor what stands beside one that is capped
        others = 0 if limit.most is None else max(0, room.keep - limit.most)
        for own, least in ((limit.members_N[rows], limit.least), (~limit.members_N[rows], others)):
            some = np.flatnonzero(own)
            wanted = max(least, min(4 * least, math.ceil(better * len(some))))
            taken[some[np.argsort(share[some], kind="stable")[:wanted]]] = True
    return rows[taken]


def _served(count: int, candidates: int, seed: int) -> np.ndarray:
    """The rows that F sums over: all, or a sample."""
    most = max(2_000, MOST_PAIRS // max(1, candidates))
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def coverage(vectors_ND: np.ndarray, kept_KD: np.ndarray) -> np.ndarray:
    """[N] the likeness (cosine, 0 to 1) of each row to the nearest kept one; 0 where none is kept. Its mean says how
    well the kept rows stand for all: compare it with that of as many rows at random."""
    nearest_N = np.zeros(len(vectors_ND))
    for start in range(0, len(vectors_ND) if len(kept_KD) else 0, AT_ONCE):
        part = slice(start, start + AT_ONCE)
        nearest_N[part] = np.clip((vectors_ND[part] @ kept_KD.T).max(1), 0, 1)
    return nearest_N
