"""Evaluation rows that the run trains on as well: counted for every probe, left out of its figure where asked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from luthier.base.events import EventLog
from luthier.base.files import hash_of, read_json, write_json
from luthier.base.made import MAKES_DATA
from luthier.base.nouns import Example
from luthier.base.probes import Probe
from luthier.base.reads import names_read
from luthier.data.dataset import at_hand
from luthier.evals.contamination import NGRAM, Overlap, Seen, overlap
from luthier.run.context import Context, measured_rows
from luthier.run.memo import code_hash

Measured = dict[str, Any]
SHOWN = 5
"""Rows of a probe that the report names."""


def trained_sources(context: Context) -> list[str]:
    """Names of the sources that some stage trains on, in the recipe's order, then of the data that stages made. What a
    stage that makes data reads is not trained on, once it has made some."""
    done = {folder.name for folder in context.stages if folder.kind in MAKES_DATA and folder.done}
    stages = [stage for stage in context.recipe.stages if (stage.name or stage.kind) not in done]
    named = {name for stage in stages for name in names_read(stage)}
    return [name for name in (*context.recipe.data, *sorted(done)) if name in named]


def overlap_of(context: Context, name: str, probe: Probe) -> Overlap:
    """What a probe's rows share with the training rows; looked for once, for as long as both stay the same."""
    settings, data = probe.model_dump(), context.dataset(probe.data)
    ngram = settings.get("ngram", NGRAM)
    sources = [context.dataset(source) for source in trained_sources(context)]
    key = hash_of(
        {
            "data": data.hash,
            "training": [source.hash for source in sources],
            "ngram": ngram,
            "heldout": settings.get("heldout_only"),
            "code": code_hash(),
        }
    )
    path = context.folder / "measures" / "seen" / f"{name}-{key[:8]}.json"
    if path.exists():
        kept = read_json(path)
        return Overlap(kept["rows"], kept["training_rows"], tuple(Seen(**row) for row in kept["seen"]))
    training: Iterable[Example] = chain.from_iterable(at_hand(source) for source in sources)
    found = overlap(measured_rows(context, probe), training, ngram)
    seen = [row._asdict() for row in found.seen]
    write_json(path, {"rows": found.rows, "training_rows": found.training_rows, "seen": seen})
    return found


def asks_for_clean(probe: Probe) -> bool:
    """Whether a probe leaves out what was seen in training; a kind without the setting does not."""
    return bool(probe.model_dump().get("exclude_contaminated"))


def without(row: Measured, origins: frozenset[str]) -> Measured:
    """What was measured of one model, less the items of these origins. Every list that is as long as the items goes
    with them."""
    mine = origins_of(row)
    kept = [i for i, origin in enumerate(mine) if origin not in origins]
    return {
        key: [value[i] for i in kept] if isinstance(value, list) and len(value) == len(mine) else value
        for key, value in row.items()
    }


def origins_of(row: Measured) -> list[str]:
    """Where the items that were measured come from."""
    return row["origins"] if "origins" in row else [answer[0] for answer in row.get("answers", [])]


def summarised(
    context: Context, name: str, probe: Probe, rows: Mapping[str, Measured], log: EventLog, summary: Callable[..., Any]
) -> tuple[Any, dict[str, Any] | None]:
    """(a probe's metrics, what is told of rows that were also trained on; None where there are none)."""
    found = overlap_of(context, name, probe)
    measured = {origin for row in rows.values() for origin in origins_of(row)}
    seen = [row for row in found.seen if row.origin in measured]
    if not seen:
        return summary(context, name, probe, rows, log), None
    clean = {after: without(row, found.origins) for after, row in rows.items()}
    whole_left = all(origins_of(row) for row in clean.values())
    excluded = asks_for_clean(probe) and whole_left
    silent = EventLog(Path(os.devnull))
    other = summary(context, name, probe, rows if excluded else clean, silent) if whole_left else {}
    silent.close()
    metrics = summary(context, name, probe, clean if excluded else rows, log)  # last: what it writes stays
    count, kinds = len(seen), [row.how for row in seen]
    done = "left out" if excluded else "counted"
    log.emit("note", text=f"{name}: {count} of {len(measured)} rows are in the training data too ({done})")
    pair = (other, metrics) if excluded else (metrics, other)
    told = {
        "rows": len(measured),
        "seen": count,
        "exact": kinds.count("exact"),
        "ngram": kinds.count("ngram"),
        "words": probe.model_dump().get("ngram", NGRAM),
        "excluded": excluded,
        "training_rows": found.training_rows,
        "sampled": [source for source in trained_sources(context) if context.dataset(source).survey is not None],
        "all": figures_of(pair[0]),
        "clean": figures_of(pair[1]),
        "examples": [row._asdict() for row in seen[:SHOWN]],
    }
    return metrics, told


def figures_of(tree: Any, path: str = "") -> dict[str, Any]:
    """The figures of a probe's metrics by their dotted names; a loss rather than its rise."""
    if not isinstance(tree, Mapping):
        return {}
    if "value" in tree:
        figure = tree["loss"] if isinstance(tree.get("loss"), Mapping) else tree
        return {path: {key: figure.get(key) for key in ("value", "low", "high", "n")}}
    return {k: v for key, inner in tree.items() for k, v in figures_of(inner, f"{path}.{key}" if path else key).items()}


def all_seen(context: Context, name: str, probe: Probe) -> str | None:
    """What is wrong with a probe that is to leave out rows seen in training, and would be left with none."""
    if not asks_for_clean(probe):
        return None
    found = overlap_of(context, name, probe)
    if len(found.origins) < found.rows:
        return None
    return (
        f"every one of the {found.rows} rows of data.{probe.data} is in the training data too, and "
        f"exclude_contaminated leaves none ({found.seen[0].origin} is like {found.seen[0].like}). "
        "Give rows that are not trained on."
    )
