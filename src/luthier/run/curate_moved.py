"""Rows that changed sides since a stage of the same name last curated in this run's folder. A row's side is its
group's, and a group that stands alone never moves; but a new row that ties two groups together (a wording of both, a
copy) makes one of them, which lies on one side. What was held out and is trained on now was a test once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from luthier.base.files import read_json
from luthier.base.nouns import Record
from luthier.data.curate.curation import Curation
from luthier.data.curate.licence_words import counted
from luthier.data.dataset import content
from luthier.data.records import read_records
from luthier.run.memo import StageFolder

SHOWN = 5


class Moved(NamedTuple):
    """Rows that are on the other side now."""

    before: str
    """The folder of the stage as it was last time."""
    tested: list[str]
    """Origins of rows that are trained on now and were held out then: results on the two held-out sets are no longer
    about the same, and a model tuned before that is tuned on has seen part of its test."""
    trained: list[str]
    """... that are held out now and were trained on then: harmless for what is trained from here on."""

    @property
    def words(self) -> str:
        """What a person should know; empty where no row moved."""
        said = []
        if self.tested:
            some = ", ".join(self.tested[:SHOWN])
            said.append(
                f"trained on now, and held out by {self.before}: {counted(len(self.tested))} ({some}). Compare "
                "models of then and now on data that neither has seen"
            )
        if self.trained:
            said.append(f"held out now, and trained on by {self.before}: {counted(len(self.trained))}")
        return "; ".join(said)

    def as_dict(self) -> dict[str, Any]:
        """For curation.json."""
        return {"before": self.before, "tested": len(self.tested), "trained": len(self.trained), "words": self.words}


def moved_since(folder: StageFolder, made: Curation) -> Moved | None:
    """What moved since the last time; None where there was none."""
    before = last_time(folder)
    if before is None:
        return None
    held, kept = ({content(r.example) for r in rows_in(before, side)} for side in ("heldout", "kept"))

    def on(side: list[int], then: set[str]) -> list[str]:
        return [made.rows[i].example.origin for i in side if content(made.rows[i].example) in then]

    return Moved(before.name, on(made.kept, held), on(made.heldout, kept))


def rows_in(folder: Path, side: str) -> Iterator[Record]:
    """The rows of one side."""
    return read_records(folder / f"{side}.jsonl")


def last_time(folder: StageFolder) -> Path | None:
    """The folder of the finished stage of the same name and kind that was written last."""
    found = []
    for file in folder.path.parent.glob(f"*-{folder.name}-*/stage.json"):
        record = read_json(file)
        same = record.get("name") == folder.name and record.get("kind") == folder.kind and record.get("done")
        if same and file.parent != folder.path and (file.parent / "heldout.jsonl").exists():
            found.append((file.stat().st_mtime_ns, file.parent))
    return max(found, default=(0, None))[1]
