"""A hub's data set as a file here, for sources that are streamed: chunks of it are read at any place and again, which a
hub cannot give."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from luthier.base.files import hash_of, write_jsonl
from luthier.base.nouns import Row
from luthier.base.source import Source
from luthier.data.readers.hub import address_of, open_hub


class Copy(NamedTuple):
    """A source that reads the copy, and where that is."""

    source: Source
    file: Path


def copied(name: str, source: Source, root: Path, folder: Path) -> Copy:
    """The source called `name` with its rows in a file in `folder`, a row a line in the hub's order, nothing held in
    memory; fetched once for each version of the data set, as far as the hub says which it is. With a `limit`, no more
    rows than that can need. Raises UserError as `open_hub` does."""
    found = open_hub(f"data.{name}.path", source.path, root)
    most, address = rows_needed(source), address_of(f"data.{name}.path", source.path)
    where = str(root.resolve()) if address.local else ""
    digest = hash_of([source.path, where, found.split, found.version, found.licence, most])
    repository = address.name.rstrip("/").rpartition("/")[2] or name
    file = folder / f"{repository}@{found.split}-{digest[:8]}.jsonl"
    if not file.exists():
        rows = (dict(row.fields) for row in found.rows() if isinstance(row, Row))
        write_jsonl(file, islice(rows, most))
    return Copy(source.model_copy(update={"path": str(file.resolve())}), file)


def rows_needed(source: Source) -> int | None:
    """The most rows that can be read before there are `limit` examples, or so many are rejected that the run stops;
    None: all."""
    if source.limit is None or source.max_rejected == 1:
        return None
    return math.ceil(source.limit / (1 - source.max_rejected)) + 1
