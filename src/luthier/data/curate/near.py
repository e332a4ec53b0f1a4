"""Exact and near duplicates among many texts, in time and memory linear in their number.

Texts are sets of 5-character runs (`shingles`). MinHash signatures are cut into bands; texts that agree in a whole band
are candidates (Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, 3.4); candidates are estimated from their
signatures, what is near the threshold or above it is compared exactly, and what holds is joined.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from luthier.base.workers import cores
from luthier.data.curate.shingles import WIDTH, Normal, blocks, normal, shingle_sets, shingles
from luthier.data.curate.signatures import Signature, best_signature
from luthier.data.curate.topics import topics_of

COLUMNS = 126
"""Numbers of a signature. An estimate of a Jaccard similarity J from them has the deviation sqrt(J(1-J)/126)."""
RECALL = 0.98
"""Of pairs right at the threshold, the share that the bands must find; more similar pairs are found surely."""
DEVIATIONS = 4.0
"""A pair whose estimate lies so far below the threshold is not compared: 3 of 100,000 such pairs are lost."""
ALL_PAIRS_MOST = 32
"""Texts of a bucket that are all compared with each other. In a fuller one, each is compared with the first texts of
the clusters found there, so that a template with a million forms costs a million comparisons and not 10¹²."""
LEADERS_MOST = 64
"""Of a bucket: what none of so many first texts is like stays single there (other bands see it again)."""
COMPARED_MOST = 64
"""Exact comparisons of a text with those before it, over all bands: a million texts that are all nearly near cost 64
million comparisons at most. In other data hardly a text has five."""
AT_ONCE_PAIRS = 20_000
"""Compared at once: some 6 million hashes."""
AT_ONCE_ROWS = 1024
"""Rows of a product of vectors."""


class Bands(NamedTuple):
    """How a signature is cut: `number` bands of `rows` numbers."""

    number: int
    rows: int

    def found(self, jaccard: float) -> float:
        """Probability that a pair so similar agrees in a band: 1-(1-Jʳ)ᵇ."""
        return 1 - (1 - jaccard**self.rows) ** self.number


def bands_for(jaccard: float, columns: int = COLUMNS) -> Bands:
    """The longest bands (the fewest candidates in vain) that find `RECALL` of the pairs at the threshold."""
    for rows in range(columns, 1, -1):
        bands = Bands(columns // rows, rows)
        if bands.found(jaccard) >= RECALL:
            return bands
    return Bands(columns, 1)


def exact_clusters(texts: Sequence[str]) -> list[int]:
    """Of each text the index of the first that is the same but for case, blanks and punctuation."""
    first: dict[bytes, int] = {}
    clusters: list[int] = []
    for start, some in blocks(texts):
        clusters += [first.setdefault(key, start + i) for i, key in enumerate(_digests(normal(some)))]
    return clusters


def near_clusters(
    texts: Sequence[str],
    jaccard: float = 0.8,
    signature: Signature | None = None,
    workers: int | None = None,
) -> list[int]:
    """Of each text the index of the first of its cluster: two texts are near where the Jaccard similarity of their
    shingles is at least `jaccard`, and a cluster is what such pairs join (single linkage). Texts without letters are
    like their equals only. Raises ValueError for a threshold outside 0 to 1.

    A million texts of 150 characters take about 1 GB besides themselves; `workers` threads (all cores) hash them.
    """
    if not 0 < jaccard <= 1:
        raise ValueError(f"jaccard is {jaccard}: give a similarity above 0 and up to 1")
    bands = bands_for(jaccard)
    firsts, sketches, keys = _sketched(texts, bands, signature or best_signature(), workers or cores())
    joined = Joined(len(texts))
    joined.parent[:] = firsts
    unique = np.flatnonzero(firsts == np.arange(len(texts)))
    comparing = _Comparing(texts, sketches, jaccard, joined)
    for band in range(bands.number):
        members, groups = _buckets(keys[:, band], unique)
        comparing.buckets(members, groups)
    return joined.roots(np.arange(len(texts))).tolist()


class Joined:
    """Clusters as they grow (union-find). The root of a cluster is its first member."""

    def __init__(self, count: int) -> None:
        self.parent = np.arange(count)

    def roots(self, members_N: np.ndarray) -> np.ndarray:
        """The first member of each one's cluster."""
        found = self.parent[members_N]
        while not np.array_equal(above := self.parent[found], found):
            found = above
        self.parent[members_N] = found
        return found

    def join(self, left_P: np.ndarray, right_P: np.ndarray) -> None:
        """Makes one cluster of each pair's two."""
        parent = self.parent
        for a, b in zip(left_P.tolist(), right_P.tolist(), strict=True):
            while parent[a] != a:
                parent[a] = a = parent[parent[a]]
            while parent[b] != b:
                parent[b] = b = parent[parent[b]]
            if a != b:
                parent[max(a, b)] = min(a, b)


def both(one: Sequence[int], other: Sequence[int]) -> list[int]:
    """The clusters that two kinds of clusters make together: of each text the first of its cluster."""
    joined = Joined(len(one))
    every_N = np.arange(len(one))
    joined.join(np.asarray(one, dtype=np.int64), every_N)
    joined.join(np.asarray(other, dtype=np.int64), every_N)
    return joined.roots(every_N).tolist()


def _sketched(
    texts: Sequence[str], bands: Bands, signature: Signature, workers: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each text the first that equals it, 8 bits of each number of its signature (Li and König 2010), and a key for
    each band."""
    firsts_N = np.empty(len(texts), dtype=np.int64)
    sketch_NK = np.empty((len(texts), COLUMNS), dtype=np.uint8)
    key_NB = np.zeros((len(texts), bands.number), dtype=np.uint64)
    seen: dict[bytes, int] = {}

    def made(item: tuple[int, Sequence[str]]) -> tuple[int, list[bytes]]:
        start, some = item
        block = normal(some)
        found = shingles(block)
        signature_NK = signature(found, COLUMNS)
        sketch_NK[start : start + len(some)] = signature_NK
        key_NB[start : start + len(some)] = _band_keys(signature_NK, bands, np.diff(found.starts) == 0)
        return start, _digests(block)

    with ThreadPoolExecutor(workers) as crew:  # numpy lets go of the interpreter's lock while it computes
        for start, digests in _few_ahead(crew, made, blocks(texts), 2 * workers):
            firsts_N[start : start + len(digests)] = [
                seen.setdefault(digest, start + i) for i, digest in enumerate(digests)
            ]
    return firsts_N, sketch_NK, key_NB


def _few_ahead(crew: ThreadPoolExecutor, work: Any, items: Iterator[Any], most: int) -> Iterator[Any]:
    """The results in order, with no more than `most` made before they are wanted."""
    waiting: deque[Any] = deque()
    for item in items:
        waiting.append(crew.submit(work, item))
        if len(waiting) >= most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _digests(block: Normal) -> list[bytes]:
    """16 bytes of each text's normal form: two of 10⁹ different texts have the same with a probability of 10⁻²¹."""
    raw, pad = block.points.tobytes(), 4 * (WIDTH - 1)
    return [blake2b(raw[4 * a : 4 * b - pad], digest_size=16).digest() for a, b in pairwise(block.starts.tolist())]


def _band_keys(signature_NK: np.ndarray, bands: Bands, empty_N: np.ndarray) -> np.ndarray:
    """[N, bands] 64-bit hashes of each band's numbers; 0 for a text that is like no other."""
    key_NB = np.zeros((len(signature_NK), bands.number), dtype=np.uint64)
    for row in range(bands.rows):
        key_NB *= np.uint64(0x9E3779B97F4A7C15)
        key_NB += signature_NK[:, row : row + bands.rows * bands.number : bands.rows]
        key_NB ^= key_NB >> np.uint64(29)
    key_NB[key_NB == 0] = 1
    key_NB[empty_N] = 0
    return key_NB


def _buckets(key_N: np.ndarray, unique: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(texts, number of the bucket of each) of those that share their key with another, bucket by bucket, in order."""
    unique = unique[key_N[unique] != 0]
    order = unique[np.argsort(key_N[unique], kind="stable")]
    key_N = key_N[order]
    same = key_N[1:] == key_N[:-1]
    shared = np.zeros(len(order), dtype=bool)
    shared[1:] |= same
    shared[:-1] |= same
    number = np.cumsum(np.concatenate([[True], ~same])) if len(order) else np.empty(0, dtype=np.int64)
    return order[shared], number[shared]


class _Comparing:
    """Compares candidates: what is known of the texts, and the clusters so far."""

    def __init__(self, texts: Sequence[str], sketch_NK: np.ndarray, jaccard: float, joined: Joined) -> None:
        self.texts, self.sketch_NK, self.jaccard, self.joined = texts, sketch_NK, jaccard, joined
        self.compared_N = np.zeros(len(texts), dtype=np.uint16)
        self.least = jaccard - DEVIATIONS * math.sqrt(jaccard * (1 - jaccard) / COLUMNS)

    def buckets(self, members: np.ndarray, groups: np.ndarray) -> None:
        """Round by round the first text of every bucket is compared with the others, and leaves it."""
        size = np.bincount(groups)[groups] if len(groups) else groups
        small = size <= ALL_PAIRS_MOST
        for _ in range(max(ALL_PAIRS_MOST, LEADERS_MOST)):
            if len(members) == 0:
                return
            first = np.concatenate([[True], groups[1:] != groups[:-1]])
            leader = members[first][np.cumsum(first) - 1]
            apart = ~first & (self.joined.roots(members) != self.joined.roots(leader))
            self.compare(leader[apart], members[apart])
            stays = ~first & (small | (self.joined.roots(members) != self.joined.roots(leader)))
            members, groups, small = members[stays], groups[stays], small[stays]
            single = np.bincount(groups)[groups] == 1 if len(groups) else groups == 1
            members, groups, small = members[~single], groups[~single], small[~single]

    def compare(self, left_P: np.ndarray, right_P: np.ndarray) -> None:
        """Joins the pairs that are near."""
        for start in range(0, len(left_P), AT_ONCE_PAIRS):
            left, right = left_P[start : start + AT_ONCE_PAIRS], right_P[start : start + AT_ONCE_PAIRS]
            likely = (self.sketch_NK[left] == self.sketch_NK[right]).mean(1) >= self.least
            likely &= self.compared_N[right] < COMPARED_MOST
            left, right = left[likely], right[likely]
            np.add.at(self.compared_N, right, 1)
            near = jaccards(self.texts, left, right) >= self.jaccard
            self.joined.join(left[near], right[near])


def jaccards(texts: Sequence[str], left_P: np.ndarray, right_P: np.ndarray) -> np.ndarray:
    """Exact Jaccard similarities |A∩B| / |A∪B| of pairs of texts; 0 for a pair of empty sets."""
    rows, index = np.unique(np.concatenate([left_P, right_P]), return_inverse=True)
    sets = shingle_sets([texts[row] for row in rows.tolist()])
    size_R = np.diff(sets.starts)
    both = np.stack([index[: len(left_P)], index[len(left_P) :]], 1).reshape(-1)  # left, right, left, right, ...
    count_2P = size_R[both]
    owner = np.repeat(np.arange(len(left_P)), count_2P.reshape(-1, 2).sum(1))
    within = np.arange(len(owner)) - np.repeat(np.cumsum(count_2P) - count_2P, count_2P)
    hashes = sets.hashes[np.repeat(sets.starts[:-1][both], count_2P) + within]
    order = np.lexsort((hashes, owner))
    hashes, owner = hashes[order], owner[order]
    shared = (hashes[1:] == hashes[:-1]) & (owner[1:] == owner[:-1])
    shared_P = np.bincount(owner[1:][shared], minlength=len(left_P))
    return shared_P / np.maximum(count_2P.reshape(-1, 2).sum(1) - shared_P, 1)


def near_vectors(vectors_ND: np.ndarray, cosine: float = 0.95, all_pairs_most: int = 20_000) -> list[int]:
    """Of each row the first of its cluster, joined where the cosine of two rows of length 1 is at least `cosine`: near
    duplicates by meaning, where the vectors are a language model's. Up to `all_pairs_most` rows all pairs are compared;
    beyond that those in one k-means cell (SemDeDup, Abbas et al. 2023), so that pairs over a cell's border are missed.
    Rows of zeros are like none."""
    joined = Joined(len(vectors_ND))
    cells = [np.arange(len(vectors_ND))]
    if len(vectors_ND) > all_pairs_most:
        cell_N = topics_of(vectors_ND, max(2, 2 * len(vectors_ND) // all_pairs_most))
        cells = [np.flatnonzero(cell_N == cell) for cell in range(int(cell_N.max()) + 1)]
    for cell in cells:
        own_ND = np.asarray(vectors_ND[cell], dtype=np.float32)
        for start in range(0, len(cell), AT_ONCE_ROWS):
            left, right = np.nonzero(own_ND[start : start + AT_ONCE_ROWS] @ own_ND[start:].T >= cosine)
            apart = left < right
            joined.join(cell[start + left[apart]], cell[start + right[apart]])
    return joined.roots(np.arange(len(vectors_ND))).tolist()
