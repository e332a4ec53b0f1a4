"""Stages that make data: which they are, and where their names may stand."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Literal, Protocol

from luthier.base.errors import did_you_mean
from luthier.base.nouns import Provenance

MAKES_DATA = ("best_of", "synthesise", "curate")
"""Kinds of stages that write kept.jsonl and heldout.jsonl, which later stages read by the stage's name."""

ONLY_DATA = ("synthesise", "curate")
"""Those that train nothing: a run of nothing else needs no base."""


RULES = "luthier's rules"
"""The generator of rows that rules made of documents: a template's question, and an answer that quotes the page."""


Wrote = Literal["human", "machine", "quoted", "unknown"]
"""Who wrote a row's answer, or its text: a person; a machine; a person, whom rules quote below a question of a
template; nobody said."""


def wrote(row: Provenance) -> Wrote:
    """Who wrote a row, for everything that counts or limits what machines wrote."""
    if row.generator == RULES:
        return "quoted"
    if row.generator is not None or row.made == "machine":
        return "machine"
    return "human" if row.made == "human" else "unknown"


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


def no_such_source(name: str, sources: Collection[str], earlier: Sequence[str] = (), later: Iterable[str] = ()) -> str:
    """What to say of a name that means no data: no source is called so, no `earlier` stage makes it; or a stage does
    that comes too late (`later`)."""
    if name in later:
        return f"{name} is made by a later stage. Put that one before this."
    there = f"The sources: {', '.join(sources) or 'none'}."
    made = f" Stages before it make: {', '.join(earlier)}." if earlier else ""
    return f'there is no source "{name}" under data.{did_you_mean(name, [*sources, *earlier])} {there}{made}'


def made_by(stages: Sequence[Named]) -> list[str]:
    """Names of the data sets that some stages make."""
    return [stage.name or stage.kind for stage in stages if stage.kind in MAKES_DATA]


def made_first(stages: Sequence[Named]) -> list[str]:
    """Names of the data sets that are made before any stage but pretraining trains, in order."""
    first = next((i for i, stage in enumerate(stages) if stage.kind not in (*ONLY_DATA, "pretrain")), len(stages))
    return made_by(stages[:first])
