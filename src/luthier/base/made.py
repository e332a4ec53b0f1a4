"""Stages that make data: which they are, and where their names may stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

MAKES_DATA = ("best_of", "synthesise", "curate")
"""Kinds of stages that write kept.jsonl and heldout.jsonl, which later stages read by the stage's name."""

ONLY_DATA = ("synthesise", "curate")
"""Those that train nothing: a run of nothing else needs no base."""


RULES = "luthier's rules"
"""The generator of rows that rules made of documents: a template's question, and an answer that quotes the page."""


class Named(Protocol):
    """As much of a stage as says what it is called."""

    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str | None: ...


def behind(stages: Sequence[Any], name: str) -> list[str]:
    """Names of the sources that the data set of this name was made of; itself, where no stage makes it."""
    made = [stage for stage in stages if stage.kind in MAKES_DATA and (stage.name or stage.kind) == name]
    if not made:
        return [name]
    settings = made[-1].model_dump()
    read = settings.get("data") or settings["prompts"]
    return [source for one in ([read] if isinstance(read, str) else read) for source in behind(stages, one)]


def made_by(stages: Sequence[Named]) -> list[str]:
    """Names of the data sets that some stages make."""
    return [stage.name or stage.kind for stage in stages if stage.kind in MAKES_DATA]
