"""A few of many, from the whole range of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def spaced(rows: Sequence[T], most: int) -> list[T]:
    """At most so many rows, from the first on, equally far from each other."""
    return [rows[k * len(rows) // most] for k in range(most)] if len(rows) > most else list(rows)
