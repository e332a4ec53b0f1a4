"""Shuffled orders. What is in memory is permuted in memory; what is on disk by a rule that gives each place of the
order by itself, so that no order of a billion rows is ever held."""

from __future__ import annotations

from math import isqrt

import numpy as np

from luthier.base.seeds import seed_for

ROUNDS = 6


class Rule:
    """A permutation of range(count) as a rule: its n-th element without the others.

    A generalised Feistel network (Black & Rogaway 2002, Ciphers with arbitrary finite domains, §5): x = l + a·r goes
    through rounds l, r ← r, l + F(r), each modulo the size of its half. Its domain a² is a little larger than `count`;
    what falls outside goes through it again (cycle walking, §3), so that it is a bijection of range(count) itself.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.half = np.uint64(isqrt(count - 1) + 1)
        self.keys = np.random.default_rng(seed).integers(0, 2**63, ROUNDS, dtype=np.uint64)

    def at(self, places: np.ndarray) -> np.ndarray:
        """int64: the elements at these places of the order."""
        found = self._encrypted(places.astype(np.uint64))
        while len(outside := np.flatnonzero(found >= self.count)):
            found[outside] = self._encrypted(found[outside])
        return found.astype(np.int64)

    def _encrypted(self, places: np.ndarray) -> np.ndarray:
        right, left = np.divmod(places, self.half)
        for key in self.keys:
            left, right = right, (left + mixed(right + key) % self.half) % self.half
        return left + self.half * right


def mixed(x: np.ndarray) -> np.ndarray:
    """uint64 -> uint64, every bit of which depends on all. Steele et al. 2014, SplitMix64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Passes:
    """Shuffled passes over `count` rows, without end. Place p stands in pass p // count; every pass and every seed has
    its own order. `held`: permutations that are held in memory, one at a time."""

    def __init__(self, count: int, name: str, seed: int, held: bool) -> None:
        self.count, self.name, self.seed, self.held = count, name, seed, held
        self.now = -1
        self.order: np.ndarray | Rule = np.empty(0, np.int64)

    def rows(self, place: int, stop: int) -> np.ndarray:
        """int64: the rows at places `place` to `stop`, which lie in one pass or end with it."""
        number, start = divmod(place, self.count)
        stop = min(self.count, start + stop - place)
        if number != self.now:
            seed = seed_for(self.seed, f"order {self.name}", number)
            self.order = np.random.default_rng(seed).permutation(self.count) if self.held else Rule(self.count, seed)
            self.now = number
        if isinstance(self.order, Rule):
            return self.order.at(np.arange(start, stop))
        return self.order[start:stop]
