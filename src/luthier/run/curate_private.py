"""Private things in what is curated: one numbering over all sources, and what the report says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from luthier.base.curation import Curate
from luthier.base.nouns import Record, Rejected
from luthier.data.curate.curation import Curation
from luthier.data.curate.private import WORDS, Private, said, texts_of
from luthier.data.dataset import Dataset
from luthier.run.context import Context
from luthier.train import guards as g

DONE = {
    None: "They are as their sources left them. private: replace puts placeholders in their place.",
    "keep": "They are left as they are. private: replace puts placeholders in their place.",
    "replace": "Each was replaced by a placeholder, the same one wherever it stood.",
    "invent": "Each was replaced by a made-up one, or a placeholder, the same wherever it stood.",
    "refuse": "Rows that hold any were left out.",
}
"""What became of them, by the stage's setting."""


def source_of(context: Context, name: str, stage: Curate) -> Dataset:
    """A source; where the stage says what happens to private things, with all of them still there. It is read once
    for both."""
    data = context.dataset(name)
    if stage.private is None:
        return data
    rows = context.raw[name]
    examples = [row for row in rows if not isinstance(row, Rejected)]
    rejected = [row for row in rows if isinstance(row, Rejected)]
    return replace(data, train=examples, heldout=[], rejected=rejected, notes=())


def private_for(stage: Curate, records: Sequence[Record]) -> Private:
    """What looks at all of a stage's rows. Placeholders that sources wrote keep their numbers to themselves."""
    private = Private(style=stage.private or "keep")
    if private.style != "keep":
        private.reserve(text for record in records for text in texts_of(record.example, meta=True))
    return private


def notes_of(datasets: Sequence[Dataset]) -> list[list[str]]:
    """[source, what its own setting did] of those that say something."""
    start = "private things: "
    return [[data.name, note.removeprefix(start)] for data in datasets for note in data.notes if note.startswith(start)]


def private_figures(private: Private, stage: Curate, sources: Sequence[Sequence[str]]) -> dict[str, Any]:
    """What the report says: counts by kind, how many rows, some of them by their shape, what the sources did."""
    return {
        "style": stage.private,
        "done": DONE[stage.private],
        "counts": {WORDS[kind]: count for kind, count in private.counts.most_common()},
        "rows": {WORDS[kind]: private.rows[kind] for kind, _ in private.counts.most_common()},
        "samples": [[WORDS[kind], place] for kind, places in private.samples.items() for place in places],
        "looked": [WORDS[kind] for kind in private.kinds],
        "sources": [list(one) for one in sources],
    }


def no_private(private: Private, made: Curation) -> list[g.Guard]:
    """Whether nothing private is left, where the stage says so."""
    if private.style in ("keep", "invent"):  # made-up ones look like what they stand for
        return []
    rows = [made.rows[i].example for i in (*made.kept, *made.heldout)]
    left = [f"{row.origin} ({said(held)})" for row in rows if (held := private.held(row))]
    gone = f"{private.counts.total():,} were found"
    return [g.Guard("nothing private in it", not left, g.some(left) if left else gone)]
