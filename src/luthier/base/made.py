"""Stages that make data: which they are, and where their names may stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

MAKES_DATA = ("best_of", "synthesise", "curate")
"""Kinds of stages that write kept.jsonl and heldout.jsonl, which later stages read by the stage's name."""

ONLY_DATA = ("synthesise", "curate")
"""Those that train nothing: a run of nothing else needs no base."""


class Named(Protocol):
    """As much of a stage as says what it is called."""

    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str | None: ...


def made_by(stages: Sequence[Named]) -> list[str]:
    """Names of the data sets that some stages make."""
    return [stage.name or stage.kind for stage in stages if stage.kind in MAKES_DATA]
