"""What a way of making rows returns: rows, and what came to nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from luthier.base.nouns import Chat, Message, Pair


class Made(NamedTuple):
    """A row that was made, and what it was made from."""

    example: Chat | Pair
    item: int | None
    """Index of the row that it was made from; None: of several."""
    step: str
    """How, in words: "question from a heading"."""
    scores: Mapping[str, float] = {}


class Dropped(NamedTuple):
    """What was not used, and why, in words a person can act on."""

    origin: str
    reason: str


def answered(question: str, answer: str, origin: str) -> Chat:
    """A question with its answer."""
    return Chat((Message("user", question), Message("assistant", answer)), origin)
