"""Limits on a choice: how many rows of a kind there may be, or must be. Real beats generated, no source drowns all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Limit:
    """Of the rows that are marked, at least and at most so many are chosen. Kinds may overlap."""

    name: str
    members_N: np.ndarray
    """True where a row is of this kind."""
    least: int = 0
    most: int | None = None


def generated_limit(generated_N: np.ndarray, most_frac: float, keep: int) -> Limit:
    """At most `most_frac` of what is chosen is generated, also where there are too few real rows for `keep`: with R
    real rows and a share of f, f/(1-f)·R generated ones are the most."""
    generated_N = np.asarray(generated_N, dtype=bool)
    most = math.floor(most_frac * min(keep, len(generated_N)) + 1e-9)
    if 1 - most_frac > 1e-9:
        most = min(most, math.floor(most_frac / (1 - most_frac) * int((~generated_N).sum()) + 1e-9))
    return Limit("generated", generated_N, 0, most)


def source_limits(
    sources: Sequence[str],
    keep: int,
    least_frac: Mapping[str, float] | None = None,
    most_frac: Mapping[str, float] | None = None,
) -> list[Limit]:
    """A limit for each source with a share of its own, of `keep` (or of all rows, where there are fewer). A least share
    of a source that has not so many rows is all of them."""
    least, most = dict(least_frac or {}), dict(most_frac or {})
    name_N, keep = np.asarray(sources), min(keep, len(sources))
    found = []
    for name in sorted({*least, *most}):
        members_N = name_N == name
        lower = min(math.floor(least.get(name, 0.0) * keep + 1e-9), int(members_N.sum()))
        upper = math.floor(most[name] * keep + 1e-9) if name in most else None
        found.append(Limit(name, members_N, lower, upper))
    return found


def allowed(
    sources: Sequence[str],
    generated_N: np.ndarray,
    keep: int,
    least_frac: Mapping[str, float],
    most_frac: Mapping[str, float],
    generated_frac: float | None,
) -> tuple[int, list[Limit]]:
    """(how many rows can be chosen, at most `keep`; the limits of a choice of so many). The largest shares hold of what
    is chosen, however few that are: 100 other rows and a share of 0.3 allow 42 of a source, and 142 in all. It is the
    largest T for which the rows that T allows are T or more, found from above: fewer rows allow fewer."""
    names, where_N = np.unique(np.asarray(sources, dtype=object).astype(str), return_inverse=True)
    made_S = np.bincount(where_N, np.asarray(generated_N, dtype=float), len(names)).astype(np.int64)
    own_S = np.bincount(where_N, minlength=len(names)) - made_S
    share_S = np.array([most_frac.get(str(name), 1.0) for name in names])
    capped_S = np.array([str(name) in most_frac for name in names], dtype=bool)

    def fits(total: int) -> int:
        """Rows of which no share is too large for `total`: those that a person wrote first, as they count once."""
        room_S = np.where(capped_S, np.floor(share_S * total + 1e-9).astype(np.int64), len(sources))
        first_S = np.minimum(own_S, room_S)
        second_S = np.minimum(made_S, room_S - first_S)
        second = int(second_S.sum())
        return int(first_S.sum()) + min([second, *(limit.most or 0 for limit in generated(total))])

    def generated(total: int) -> list[Limit]:
        return [] if generated_frac is None else [generated_limit(generated_N, generated_frac, total)]

    total = min(keep, len(sources))
    while (most := fits(total)) < total:
        total = most
    return total, [*generated(total), *source_limits(sources, total, least_frac, most_frac)]


class Room:
    """What may still be chosen. Owns the count of what was."""

    def __init__(self, limits: Sequence[Limit], keep: int, count: int) -> None:
        """`keep` rows of `count` are wanted."""
        self.limits, self.keep, self.taken = tuple(limits), min(keep, count), 0
        self.have = [0] * len(self.limits)
        self._free_N = np.ones(count, dtype=bool)

    def possible(self) -> np.ndarray:
        """[N] True where a row may be chosen at some time."""
        never = [limit.members_N for limit in self.limits if limit.most == 0]
        return ~np.logical_or.reduce(never) if never else np.ones(len(self._free_N), dtype=bool)

    def open(self) -> np.ndarray | None:
        """[N] True where a row may be chosen now; None: there is none, or there are enough. While kinds still need as
        many rows as there are places left, only their rows are open."""
        if self.taken >= self.keep:
            return None
        open_N = self._free_N.copy()
        for limit, have in zip(self.limits, self.have, strict=True):
            if limit.most is not None and have >= limit.most:
                open_N &= ~limit.members_N
        needed_N, needed = np.zeros_like(open_N), 0
        for limit, have in zip(self.limits, self.have, strict=True):
            if have < limit.least:
                rows = limit.members_N & open_N
                needed += min(limit.least - have, int(rows.sum()))
                needed_N |= rows
        if needed and needed >= self.keep - self.taken:
            open_N = needed_N
        return open_N if open_N.any() else None

    def take(self, row: int) -> None:
        """A row is chosen."""
        self._free_N[row] = False
        self.taken += 1
        self.have = [have + int(limit.members_N[row]) for have, limit in zip(self.have, self.limits, strict=True)]
