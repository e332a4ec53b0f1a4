"""A data file looked at: what it was read as and why, its columns, what is in it, and what may be done with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from luthier.base.nouns import Chat, Choice, Example, Labelled, Pair, Provenance, Rejected, Row, Text
from luthier.base.source import Source
from luthier.data.curate.licences import Verdict, verdict
from luthier.data.dataset import Dataset, Opened, open_source, read_opened, reasons
from luthier.data.formats import needs_of
from luthier.data.messages import shown
from luthier.data.records import KINDS, record_of
from luthier.data.text import kind_name


class Column(NamedTuple):
    """A column of the first rows, as the file has it."""

    name: str
    kind: str
    """JSON's word for its values; "mixed" for several."""
    filled: int
    """Rows in which there is something."""
    example: str


class Lengths(NamedTuple):
    """Words in one part of the examples."""

    part: str
    n: int
    least: int
    middle: float
    high: int
    """95 % have no more."""
    most: int


class Look(NamedTuple):
    """All that is told of a source."""

    name: str
    source: Source
    opened: Opened
    data: Dataset
    examples: list[Example]
    """In file order."""
    columns: list[Column]
    looked_at: int
    """Rows whose columns those are."""
    lengths: list[Lengths]
    rejected: list[tuple[str, int, Rejected]]
    """(kind of reason, how many, the first)."""
    verdict: Verdict
    needs: str
    """What the format asks for, in words."""


def look_at(name: str, source: Source, root: Path) -> Look:
    """Reads a source whole, whatever it rejects. Raises UserError as `dataset.read_dataset` does."""
    source = source.model_copy(update={"max_rejected": 1.0, "heldout": 0.0, "stream": False})
    opened = open_source(name, source, root)
    first = [row for row in opened.first if isinstance(row, Row)]
    data = read_opened(opened, hashed=False)
    by_kind = {kind: next(r for r in data.rejected if reasons([r]) == {kind: 1}) for kind in reasons(data.rejected)}
    return Look(
        name,
        source,
        opened,
        data,
        data.train,
        columns_of(first),
        len(first),
        lengths_of(data.train),
        [(kind, count, by_kind[kind]) for kind, count in reasons(data.rejected).most_common()],
        verdict(provenances(name, source, data.train)),
        needs_of(data.format),
    )


def provenances(name: str, source: Source, examples: Iterable[Example]) -> list[Provenance]:
    """Where each row comes from, as it or the recipe says."""
    return [record_of(example, name, source).provenance for example in examples]


def columns_of(rows: Sequence[Row]) -> list[Column]:
    """The columns of rows, in the order they come up."""
    found = []
    for name in dict.fromkeys(key for row in rows for key in row.fields):
        values = [row.fields[name] for row in rows if row.fields.get(name) not in (None, "", [], {})]
        kinds = {kind_name(value).removeprefix("a ").removeprefix("an ") for value in values}
        kind = kinds.pop() if len(kinds) == 1 else "mixed" if kinds else "empty"
        found.append(Column(name, kind, len(values), shown(values[0]) if values else ""))
    return found


def parts_of(example: Example) -> Mapping[str, str]:
    """The parts of an example whose length says something."""
    match example:
        case Text(text):
            return {"text": text}
        case Chat():
            asked = "\n".join(message.content for message in example.prompt)
            return {"prompt": asked} | ({} if example.answer is None else {"answer": example.answer})
        case Pair(prompt, chosen, rejected):
            asked = "\n".join(message.content for message in prompt)
            return {"prompt": asked, "chosen": chosen, "rejected": rejected}
        case Labelled(prompt, answer):
            return {"prompt": "\n".join(message.content for message in prompt), "answer": answer}
        case Choice(context, options, gold):
            return {"context": context, "right option": options[gold]}


def lengths_of(examples: Iterable[Example]) -> list[Lengths]:
    """Words in every part."""
    words: dict[str, list[int]] = {}
    for example in examples:
        for part, text in parts_of(example).items():
            words.setdefault(part, []).append(len(text.split()))
    found = []
    for part, counts in words.items():
        counts.sort()
        high = counts[min(len(counts) - 1, int(0.95 * len(counts)))]
        found.append(Lengths(part, len(counts), counts[0], median(counts), high, counts[-1]))
    return found


def kinds_in(examples: Iterable[Example]) -> dict[str, int]:
    """How many examples of each kind there are."""
    found: dict[str, int] = {}
    for example in examples:
        kind = next(name for name, type_ in KINDS.items() if isinstance(example, type_))
        found[kind] = found.get(kind, 0) + 1
    return found


def as_json(look: Look, rows: int) -> dict[str, Any]:
    """A look for programs, with the first rows."""
    from luthier.data.convert import natural, row_as

    found = look.verdict
    return {
        "source": look.name,
        "path": look.source.path,
        "format": look.data.format,
        "needs": look.needs,
        "notes": list(look.data.notes),
        "files": look.data.files,
        "rows": look.data.rows,
        "examples": kinds_in(look.examples),
        "rejected": {kind: count for kind, count, first in look.rejected if not first.aside},
        "aside": {kind: count for kind, count, first in look.rejected if first.aside},
        "duplicates": look.data.duplicates,
        "columns": [column._asdict() for column in look.columns],
        "words": [lengths._asdict() for lengths in look.lengths],
        "licence": {
            "commercial": found.commercial,
            "share": found.share,
            "human": found.human,
            "machine": found.machine,
            "quoted": found.quoted,
            "sentences": [*found.sentences, *found.duties],
        },
        "first": [row_as(example, natural(example)) | {"origin": example.origin} for example in look.examples[:rows]],
    }
