"""What the guards have to know of token sequences, counted while they are made: nobody has to hold them for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from luthier.tokens.prepare import Prepared
from luthier.tokens.render import Renderer

NAMED = 3
"""Origins that are kept of the rows that something was found in."""


class Found(NamedTuple):
    """Rows that something was found in: how many, and where the first ones come from."""

    rows: int = 0
    first: tuple[str, ...] = ()

    def words(self) -> str:
        """The first few of them."""
        rest = self.rows - len(self.first)
        return ", ".join(self.first) + (f" and {rest} more" if rest > 0 else "")


NOTHING = Found()


def found(origins: Sequence[str]) -> Found:
    """Of a list of origins."""
    return Found(len(origins), tuple(origins[:NAMED]))


class Marks(NamedTuple):
    """Ids that mean something."""

    bos: int | None
    pad: int | None
    end_ids: frozenset[int]


def marks_of(renderer: Renderer) -> Marks:
    """Those of a renderer's tokenizer."""
    return Marks(renderer.tokenizer.bos_token_id, renderer.tokenizer.pad_token_id, renderer.end_ids)


@dataclass(frozen=True)
class Facts:
    """Counts over sequences and over the rows they were made of; `a + b` is what is known of both, in this order."""

    sequences: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    """Of weight above 0."""
    bare: Found = NOTHING
    """Sequences without a token to learn."""
    endless: Found = NOTHING
    """Whose last trained token is no end token."""
    doubled: Found = NOTHING
    """That begin with two BOS tokens."""
    padded: Found = NOTHING
    """That train on the pad token, where it is no end token."""
    dropped: Found = NOTHING
    """Rows that were too long and left out."""
    truncated: Found = NOTHING
    split: int = 0
    """Rows that became several sequences."""
    lost_tokens: int = 0
    """Supervised tokens cut off."""

    def __add__(self, other: Facts) -> Facts:
        mine, theirs = vars(self), vars(other)
        return Facts(**{name: both(mine[name], theirs[name]) for name in mine})

    def words(self) -> str:
        """One clause on the rows that did not fit; empty when every row went in whole."""
        said = [
            f"{self.dropped.rows} rows too long, dropped" * bool(self.dropped.rows),
            f"{self.truncated.rows} rows cut ({self.lost_tokens} supervised tokens lost)" * bool(self.truncated.rows),
            f"{self.split} documents split" * bool(self.split),
        ]
        return ", ".join(s for s in said if s)


def both(a: Any, b: Any) -> Any:
    """Two counts, or two findings, together."""
    if isinstance(a, Found):
        return Found(a.rows + b.rows, (a.first + b.first)[:NAMED])
    return a + b


def total(parts: Iterable[Facts]) -> Facts:
    """What is known of all parts."""
    return sum(parts, Facts())


def facts_of(made: Prepared, marks: Marks) -> Facts:
    """Counts rows that were prepared."""
    bare: list[str] = []
    endless: list[str] = []
    doubled: list[str] = []
    padded: list[str] = []
    tokens = trained = 0
    pad = None if marks.pad in marks.end_ids else marks.pad
    for s in made.sequences:
        ids, weights = np.asarray(s.ids), np.asarray(s.weights)
        weighted = np.flatnonzero(weights > 0)
        tokens += len(ids)
        trained += len(weighted)
        if not weights[1:].any():
            bare.append(s.origin)
        if len(weighted) and int(ids[weighted[-1]]) not in marks.end_ids:
            endless.append(s.origin)
        if marks.bos is not None and s.ids[:2] == (marks.bos, marks.bos):
            doubled.append(s.origin)
        if pad is not None and (ids[weighted] == pad).any():
            padded.append(s.origin)
    return Facts(
        sequences=len(made.sequences),
        tokens=tokens,
        trained_tokens=trained,
        bare=found(bare),
        endless=found(endless),
        doubled=found(doubled),
        padded=found(padded),
        dropped=found(made.dropped),
        truncated=found(made.truncated),
        split=made.split,
        lost_tokens=made.lost_tokens,
    )


def as_json(facts: Facts) -> dict[str, Any]:
    """For a file."""
    return dict(vars(facts))


def from_json(value: Mapping[str, Any]) -> Facts:
    """What `as_json` wrote."""
    known: dict[str, Any] = {n: Found(v[0], tuple(v[1])) if isinstance(v, list) else v for n, v in value.items()}
    return Facts(**known)
