"""Texts as sets of hashed runs of five characters, many texts at once.

All texts of a block lie in one array of code points; normalising, hashing and cutting are a few passes over that array,
so a text costs microseconds and Python sees no single character. Characters and not words: a misspelt word spoils five
runs and not a whole phrase, and scripts without blanks are texts like any other.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

WIDTH = 5
"""Characters of a shingle. About a word: two texts about different things share few of them (a tenth at most)."""
AT_ONCE_CHARACTERS = 1_000_000
"""Of a block: its arrays (8 bytes a character) stay near the cache, and Python's share of the work is nothing."""
PROSE = frozenset(".,;:!?'\"`-–—‐‑…‘’“”„«»¿¡·•。，、！？：；「」『』（）")
"""Marks that two spellings of one text differ in. Brackets and signs are none: C++ is not C, f(x) is not f[x]."""
_MULTIPLIERS = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F],
    dtype=np.uint64,
)  # odd 64-bit constants of known mixers (splitmix, xxhash, wyhash): a sum of five products, then two xor-shifts
_BLANK, _KEPT, _END = 0, 1, 2


class Shingles(NamedTuple):
    """The hashes of a block's shingles, text after text; text i has `hashes[starts[i]:starts[i + 1]]`, one for each of
    its characters, equal ones as often as they come. A text without letters, digits or signs has none."""

    hashes: np.ndarray
    starts: np.ndarray


class Normal(NamedTuple):
    """A block's texts in normal form: code points (uint32), each text followed by `WIDTH - 1` zeros."""

    points: np.ndarray
    starts: np.ndarray
    """Where text i begins; one more for the end."""

    def key(self, i: int) -> bytes:
        """Text i: equal where two texts are the same but for case, blanks and punctuation."""
        return self.points[self.starts[i] : self.starts[i + 1] - (WIDTH - 1)].tobytes()


def blocks(texts: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    """(number of its first text, texts) of blocks of about `AT_ONCE_CHARACTERS`."""
    start = size = 0
    for i, text in enumerate(texts):
        if size and size + len(text) > AT_ONCE_CHARACTERS:
            yield start, texts[start:i]
            start, size = i, 0
        size += len(text) + WIDTH
    if start < len(texts):
        yield start, texts[start:]


@cache
def _kinds() -> np.ndarray:
    """Of each character of the basic plane, whether it is a blank, kept, or the end of a text."""
    kinds = np.full(0x10000, _KEPT, dtype=np.uint8)
    for point in range(0x10000):
        character = chr(point)
        if character in PROSE or character.isspace() or unicodedata.category(character) in ("Cc", "Cf", "Zs"):
            kinds[point] = _BLANK
    kinds[0] = _END
    return kinds


def normal(texts: Sequence[str]) -> Normal:
    """Texts in compatibility form (NFKC), without case, with one blank for any blanks and punctuation. A point or comma
    between digits stays, and so does a minus before one: 1.5 is not 1 5."""
    end = "\0" * (WIDTH - 1)
    joined = "".join([text + end for text in texts])
    if joined.count("\0") != len(end) * len(texts):
        joined = "".join([text.replace("\0", " ") + end for text in texts])
    if not joined.isascii():
        joined = unicodedata.normalize("NFKC", joined)
    points = np.frombuffer(joined.casefold().encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    kind = np.where(points < 0x10000, _kinds()[np.minimum(points, 0xFFFF)], _KEPT).astype(np.uint8)
    digit = (points >= ord("0")) & (points <= ord("9"))
    before, after = _shifted(digit, 1), _shifted(digit, -1)
    number = ((points == ord(".")) | (points == ord(","))) & before & after
    number |= (points == ord("-")) & after & ~_shifted(kind == _KEPT, 1)
    kind[number] = _KEPT
    points = np.where(kind == _BLANK, np.uint32(ord(" ")), points)
    stays = (kind != _BLANK) | _shifted(kind == _KEPT, 1)
    points, kind = points[stays], kind[stays]
    stays = (kind != _BLANK) | _shifted(kind == _KEPT, -1)  # a blank before the end goes, too
    points, kind = points[stays], kind[stays]
    ends = np.flatnonzero(kind == _END)[WIDTH - 2 :: WIDTH - 1] + 1
    return Normal(points, np.concatenate([[0], ends]).astype(np.int64))


def _shifted(flags: np.ndarray, by: int) -> np.ndarray:
    """The flag of the neighbour before (1) or behind (-1); none at the rim."""
    moved = np.zeros_like(flags)
    if by > 0:
        moved[by:] = flags[:-by]
    else:
        moved[:by] = flags[-by:]
    return moved


def shingles(block: Normal) -> Shingles:
    """The hashes of all runs of `WIDTH` characters, the last of a text running over its end: any text of n characters
    has n of them. Two different runs have one hash with probability 2⁻⁶⁴, or near it."""
    points, count = block.points, len(block.points) - (WIDTH - 1)
    if count <= 0:
        return Shingles(np.empty(0, dtype=np.uint64), np.zeros(len(block.starts), dtype=np.int64))
    hashes = points[:count] * _MULTIPLIERS[0]
    for k in range(1, WIDTH):
        hashes += points[k : count + k] * _MULTIPLIERS[k]
    hashes ^= hashes >> np.uint64(32)
    hashes *= _MULTIPLIERS[1]
    hashes ^= hashes >> np.uint64(29)
    real = points[:count] != 0
    before = np.arange(len(block.starts)) * (WIDTH - 1)
    return Shingles(hashes[real], block.starts - before)


def shingle_sets(texts: Sequence[str]) -> Shingles:
    """The same with each text's hashes sorted and each once."""
    found = shingles(normal(texts))
    owner = np.repeat(np.arange(len(texts)), np.diff(found.starts))
    order = np.lexsort((found.hashes, owner))
    hashes, owner = found.hashes[order], owner[order]
    first = np.ones(len(hashes), dtype=bool)
    first[1:] = (hashes[1:] != hashes[:-1]) | (owner[1:] != owner[:-1])
    counts = np.bincount(owner[first], minlength=len(texts))
    return Shingles(hashes[first], np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
