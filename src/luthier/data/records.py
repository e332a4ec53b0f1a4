"""Records: examples with what is known of them, as curation passes them on, in memory and as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from luthier.base.files import write_jsonl
from luthier.base.nouns import Chat, Choice, Example, Labelled, Message, Pair, Provenance, Record, Text
from luthier.base.source import Source
from luthier.data.dataset import content

KINDS: dict[str, type[Any]] = {"text": Text, "chat": Chat, "pair": Pair, "labelled": Labelled, "choice": Choice}


def record_of(example: Example, name: str, source: Source) -> Record:
    """An example of the source called `name`. What the row says of itself (`formats.PROVENANCE`) counts before what the
    recipe says of the source."""
    own: Mapping[str, Any] = {} if isinstance(example, Choice) or example.meta is None else example.meta

    def said(*keys: str) -> Any:
        return next((own[key] for key in keys if isinstance(own.get(key), str) and own[key].strip()), None)

    made = said("made")
    provenance = Provenance(
        source=name,
        licence=said("licence", "license") or source.licence,
        made=made if made in ("human", "machine") else source.made,
        generator=said("generator") or source.generator,
        terms=said("terms") or source.terms,
        date=said("date") or source.date,
        steps=tuple(step for step in own.get("steps", ()) if isinstance(step, str)),
    )
    group = own.get("group", own.get(source.group) if source.group else None)
    return Record(example, provenance, f"{name}/{group}" if group is not None else f"{name}/{content(example)}")


def write_records(path: Path, records: Iterable[Record]) -> None:
    """One record a line. `data` reads such a file as it reads any other: an example's columns stand at the top."""
    write_jsonl(path, map(as_json, records))


def read_records(path: Path) -> Iterator[Record]:
    """What `write_records` wrote."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield from_json(json.loads(line))


def as_json(record: Record) -> dict[str, Any]:
    """A record in JSON's types: the example's own columns, then `kind`, `provenance`, `group`, `scores`, `out`."""
    kind = next(name for name, type_ in KINDS.items() if isinstance(record.example, type_))
    return {
        **asdict(record.example),
        "kind": kind,
        "provenance": asdict(record.provenance),
        "group": record.group,
        "scores": dict(record.scores),
        "out": record.out,
    }


def from_json(row: Mapping[str, Any]) -> Record:
    """What `as_json` took apart."""
    known = {"kind", "provenance", "group", "scores", "out"}
    fields = {key: value for key, value in row.items() if key not in known}
    for name in ("messages", "prompt"):
        if name in fields:
            fields[name] = tuple(Message(**message) for message in fields[name])
    for name in ("accept", "options"):
        if name in fields:
            fields[name] = tuple(fields[name])
    provenance = dict(row["provenance"])
    example: Example = KINDS[row["kind"]](**fields)
    provenance["steps"] = tuple(provenance["steps"])
    return Record(example, Provenance(**provenance), row["group"], row["scores"], row["out"])
