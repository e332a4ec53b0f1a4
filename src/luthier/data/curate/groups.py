"""Which rows stay together, and on which side of a split: rows that are added move no others."""

from __future__ import annotations

from collections.abc import Sequence

from luthier.data.dataset import fraction


def held_out(group: str, share: float) -> bool:
    """Whether a group is held out: a function of its name alone, so that data may grow and no row changes its side."""
    return fraction(group) < share


def joined(groups: Sequence[str], clusters: Sequence[int]) -> list[str]:
    """A group for every row, so that rows of one group or of one cluster (near duplicates, paraphrases of one another)
    share it, and so do those that are tied by a chain of both.

    `clusters[i]` is any number that the rows of one cluster have in common, such as the index of its first row. Of the
    groups that come together the first in the alphabet gives the name, so that the order of rows does not matter, and
    a group that is joined to nothing keeps its own: its side stays as it was when other rows are added.
    Raises ValueError when the lists differ in length.
    """
    root = {group: group for group in groups}

    def top(group: str) -> str:
        while root[group] != group:
            root[group] = group = root[root[group]]  # every second step is cut short on the way up
        return group

    first: dict[int, str] = {}
    for group, cluster in zip(groups, clusters, strict=True):
        low, high = sorted((top(group), top(first.setdefault(cluster, group))))
        root[high] = low
    return [top(group) for group in groups]
