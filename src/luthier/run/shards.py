"""Streamed sources in a run: looked at before the first stage, made into tokens for each stage that reads them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from luthier.base.events import EventLog, Watcher
from luthier.base.nouns import Tokens
from luthier.base.recipe import Pretrain, Recipe, Sft
from luthier.base.source import Source
from luthier.base.store import Store, open_store
from luthier.base.stored import Progress, Tell
from luthier.data.chunks import text_bytes
from luthier.data.dataset import Dataset
from luthier.data.opening import find_source
from luthier.data.readers.hub import is_hub
from luthier.data.readers.hub_copy import copied
from luthier.data.survey import survey
from luthier.tokens.facts import Facts, facts_of, marks_of
from luthier.tokens.render import Renderer
from luthier.tokens.tokenise import Rules, tokenise
from luthier.train.ranks import here

SMALL_BYTES = 8 * 2**20
"""Sources below this are done by one process: others would not be ready to work before it is finished."""
TELL_EVERY_S = 1.0


class Rows(NamedTuple):
    """A source's training rows, ready to pack."""

    sequences: Sequence[Tokens]
    facts: Facts
    lengths: np.ndarray | None
    """Of sequences on disk."""


def rules_of(stage: Pretrain | Sft, length: int, lenient: bool = False) -> Rules:
    """How a stage reads rows: replayed documents may always be split, and held-out rows (`lenient`) that are too long
    are left out where others are refused or cut."""
    if isinstance(stage, Pretrain) and stage.objective == "masked":
        rule = "drop" if lenient and stage.overlong == "error" else stage.overlong
        return Rules(length, rule, rule, masked=True)
    documents = stage.overlong if isinstance(stage, Pretrain) else "split"
    conversations = "error" if isinstance(stage, Pretrain) and stage.overlong == "split" else stage.overlong
    if lenient:
        documents, conversations = "split" if documents == "split" else "drop", "drop"
    return Rules(length, documents, conversations, stage.train_on if isinstance(stage, Sft) else "answers")


def rows_for(recipe: Recipe, data: Dataset, renderer: Renderer, rules: Rules, threads: int, log: EventLog) -> Rows:
    """A source's training rows as tokens: in memory, or of a streamed source on disk, made if they are not there."""
    if data.survey is None:
        made = rules.apply(data.train, renderer)
        return Rows(made.sequences, facts_of(made, marks_of(renderer)), None)
    known = data.survey
    workers = workers_for(known.files, threads)
    tell = teller(data.name, "tokenising", known.count("train"), lambda fields: log.emit("progress", **fields))
    made_ = by_main(lambda: tokenise(known, renderer, rules, store_of(recipe), workers, tell))
    return Rows(made_.sequences, made_.facts, made_.sequences.lengths)


def streamed_dataset(recipe: Recipe, name: str, root: Path, threads: int, watchers: Sequence[Watcher]) -> Dataset:
    """A streamed source, every row looked at: what is known of it, and samples of its rows."""

    def show(fields: dict[str, Any]) -> None:
        for watch in watchers:
            watch({"kind": "progress", "t": round(time.time(), 3), **fields})

    source, store = recipe.data[name], store_of(recipe)
    tell = teller(name, "reading", None, show)
    if is_hub(source.path):
        return by_main(lambda: streamed_hub(name, source, root, store, threads, tell))
    workers = workers_for([find_source(name, source, root).path], threads)
    return by_main(lambda: survey(name, source, root, store, workers, tell))


def streamed_hub(name: str, source: Source, root: Path, store: Store, threads: int, tell: Tell) -> Dataset:
    """A hub's data set, copied to a file beside the shards, and that streamed."""
    copy = copied(name, source, root, store.local / "hub")
    data = survey(name, copy.source, root, store, workers_for([copy.file], threads), tell)
    return replace(data, notes=(*data.notes, f"the hub's rows are copied to {copy.file}, once for each version"))


def by_main(make: Callable[[], Any]) -> Any:
    """What the main rank makes on disk, and every rank then finds there."""
    ranks = here()
    if not ranks.is_main:
        ranks.meet()
    made = make()
    if ranks.is_main:
        ranks.meet()
    return made


def store_of(recipe: Recipe) -> Store:
    """Where streamed sources are kept."""
    return open_store(recipe.shards, Path(recipe.out))


def workers_for(files: Sequence[Path], threads: int) -> int:
    """Processes that are worth their start."""
    inside = [p for file in files for p in (file.rglob("*") if file.is_dir() else [file]) if p.is_file()]
    return 1 if text_bytes(inside) < SMALL_BYTES else threads


def teller(name: str, what: str, total: int | None, show: Callable[[dict[str, Any]], None]) -> Tell:
    """Tells how far the work is: about once a second, and at the end."""
    told_s = -TELL_EVERY_S

    def tell(now: Progress) -> None:
        nonlocal told_s
        done = now.share >= 1 or now.rows == total
        if not done and time.monotonic() - told_s < TELL_EVERY_S:
            return
        told_s = time.monotonic()
        left = None if now.seconds_left is None else round(now.seconds_left, 1)
        of = {"rows": now.rows, "total": total, "share": round(now.share, 4)}
        show({"name": name, "what": what, **of, "rows_per_s": round(now.rows_per_s, 1), "seconds_left": left})

    return tell
