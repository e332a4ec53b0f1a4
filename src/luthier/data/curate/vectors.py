"""Texts as vectors of what their words are: hashed TF-IDF, with numpy alone. Rows have length 1: products are cosines.

A meaning that is said in other words is another vector here; where that matters an `Embed` from a language model takes
this one's place (`model/embed.py`), and everything that reads vectors stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from luthier.data.curate.shingles import AT_ONCE_CHARACTERS, Normal, blocks, normal

Embed = Callable[[Sequence[str]], np.ndarray]
"""Texts -> [N, D] float32, each row of length 1 (or all zeros: a text without words)."""
DIMS = 512
"""Default width. Two unrelated texts' cosine is off by 1/sqrt(512) = 0.04 or so, because features share columns."""
FEATURES = 2**20
"""Hashed words and pairs of words that are counted apart, for how many rows hold them."""
_BASE = 0x9E3779B97F4A7C15


class Counts(NamedTuple):
    """How often which features stand in N texts, text after text: `features[starts[i]:starts[i + 1]]`, each once."""

    features: np.ndarray
    times: np.ndarray
    starts: np.ndarray


def tfidf(texts: Sequence[str], dims: int = DIMS) -> np.ndarray:
    """[N, dims] float32: (1 + ln tf) · (1 + ln((1 + N) / (1 + df))) of words and pairs of words in a row, scaled to
    length 1, each added to the column that its hash says with the sign that its hash says (Weinberger et al. 2009:
    products keep their expectation). Without collisions these are scikit-learn's TfidfVectorizer(sublinear_tf=True)."""
    counted = counts(texts)
    df_F = np.bincount(counted.features, minlength=FEATURES)
    idf_F = (1 + np.log((1 + len(texts)) / (1 + df_F))).astype(np.float32)
    weights = (1 + np.log(counted.times.astype(np.float32))) * idf_F[counted.features]
    return _projected(counted._replace(times=weights), dims)


def counts(texts: Sequence[str]) -> Counts:
    """The features of texts. 8 bytes each are kept: 1 M rows of 30 words take half a GB."""
    features, times, sizes = [np.empty(0, np.uint32)], [np.empty(0, np.uint16)], [np.zeros(1, np.int64)]
    for _, some in blocks(texts):
        hashes, owner = word_hashes(normal(some))
        pair = owner[1:] == owner[:-1]
        pairs = (hashes[:-1] * np.uint64(0xC2B2AE3D27D4EB4F) + hashes[1:])[pair]
        pairs ^= pairs >> np.uint64(31)
        feature = np.concatenate([hashes, pairs * np.uint64(_BASE)]) >> np.uint64(44)
        key = np.concatenate([owner, owner[1:][pair]]).astype(np.uint64) * np.uint64(FEATURES) + feature
        key, count = np.unique(key, return_counts=True)
        features.append((key % np.uint64(FEATURES)).astype(np.uint32))
        times.append(np.minimum(count, 0xFFFF).astype(np.uint16))
        sizes.append(np.bincount((key // np.uint64(FEATURES)).astype(np.int64), minlength=len(some)))
    return Counts(np.concatenate(features), np.concatenate(times), np.cumsum(np.concatenate(sizes)))


def word_hashes(block: Normal) -> tuple[np.ndarray, np.ndarray]:
    """(64-bit hash, number of its text) of all words of a block, in their order. A word is what blanks part; in
    scripts without blanks (Han, kana, Thai) a character is one."""
    points = block.points
    if len(points) == 0:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    kept = (points != 0) & (points != ord(" "))
    alone = _without_blanks(points)
    bound = np.zeros(len(points), dtype=bool)
    bound[1:] = kept[1:] & (~kept[:-1] | alone[1:] | alone[:-1])
    bound[0] = kept[0]
    starts = np.flatnonzero(bound)
    ends_here = np.ones(len(points), dtype=bool)
    ends_here[:-1] = ~kept[1:] | bound[1:]
    ends = np.flatnonzero(kept & ends_here) + 1
    powers, inverse = _powers(len(points) + 1)
    # Σ cᵢ·Bⁱ up to each character; a word's part of it, divided by B^start, is the same wherever the word stands.
    sums = np.zeros(len(points) + 1, dtype=np.uint64)
    np.cumsum((points.astype(np.uint64) * np.uint64(0xD6E8FEB86659FD93)) * powers[:-1], out=sums[1:])
    hashes = (sums[ends] - sums[starts]) * inverse[starts]
    hashes ^= hashes >> np.uint64(32)
    hashes *= np.uint64(0xA0761D6478BD642F)
    hashes ^= hashes >> np.uint64(29)
    return hashes * np.uint64(_BASE), np.searchsorted(block.starts, starts, side="right") - 1


def _without_blanks(points: np.ndarray) -> np.ndarray:
    """Whether a character's script puts no blanks between words: Thai, Lao, Khmer, kana, Han."""
    return (
        ((points >= 0x0E00) & (points < 0x0F00))
        | ((points >= 0x1780) & (points < 0x1800))
        | ((points >= 0x3040) & (points < 0x3100))
        | ((points >= 0x3400) & (points < 0xA000))
        | ((points >= 0x20000) & (points < 0x32000))
    )


@cache
def _powers_of(base: int, count: int) -> np.ndarray:
    factors = np.full(count, base, dtype=np.uint64)
    factors[0] = 1
    return np.cumprod(factors)


def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """B⁰ … and B⁰, B⁻¹ … modulo 2⁶⁴."""
    most = max(2 * AT_ONCE_CHARACTERS, 1 << (count - 1).bit_length())
    return _powers_of(_BASE, most)[:count], _powers_of(pow(_BASE, -1, 2**64), most)[:count]


def _projected(counted: Counts, dims: int) -> np.ndarray:
    """Weighted features in `dims` columns, rows scaled to length 1."""
    number = len(counted.starts) - 1
    made_ND = np.zeros((number, dims), dtype=np.float32)
    mixed = np.arange(FEATURES, dtype=np.uint64) * np.uint64(0x165667B19E3779F9)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(_BASE)
    column_F = ((mixed >> np.uint64(32)) % np.uint64(dims)).astype(np.int64)
    sign_F = np.where(mixed >> np.uint64(63), np.float32(1), np.float32(-1))
    for start in range(0, number, 8192):
        bounds = counted.starts[start : start + 8193]
        part = slice(bounds[0], bounds[-1])
        row = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
        feature, weight = counted.features[part], counted.times[part]
        cell = row * dims + column_F[feature]
        flat = np.bincount(cell, weight * sign_F[feature], minlength=(len(bounds) - 1) * dims)
        some_ND = flat.reshape(-1, dims)
        lengths = np.linalg.norm(some_ND, axis=1, keepdims=True)
        made_ND[start : start + 8192] = some_ND / np.where(lengths == 0, 1, lengths)
    return made_ND
