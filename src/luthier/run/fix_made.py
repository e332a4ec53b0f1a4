"""`luthier eval RUN --fix` where stages made what was trained on: which rows of its sources were chosen, and what is
wrong with rows that stand in no source, for those are corrected where they were made from."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from luthier.base.made import wrote
from luthier.base.nouns import Chat, Record
from luthier.base.recipe import Recipe, Sft
from luthier.data.records import read_records
from luthier.run.kept import SIDES, lines_of
from luthier.run.licences import made_folder

Chosen = dict[str, dict[str, list[Record]]]
"""Source -> origin -> rows that a stage kept or held out: the source's own, and what was made of it."""


class MadeWrong(NamedTuple):
    """A row that a stage made, and what is wrong with it."""

    record: Record
    categories: tuple[str, ...]


def chosen_rows(recipe: Recipe, run: Path) -> Chosen:
    """Of each source behind data that stages made, the rows that the run tuned on or held out. A source that is also
    tuned on as it is does not stand here: of that, all were."""
    found: Chosen = defaultdict(lambda: defaultdict(list))
    whole: set[str] = set()
    for stage in recipe.stages:
        if not isinstance(stage, Sft):
            continue
        for name in [stage.data] if isinstance(stage.data, str) else stage.data:
            folder = None if name in recipe.data else made_folder(run, name)
            if name in recipe.data:
                whole.add(name)
            elif folder is not None and holds_records(folder):
                for side in SIDES:
                    for record in read_records(folder / f"{side}.jsonl"):
                        found[record.provenance.source][record.example.origin].append(record)
    return {source: rows for source, rows in found.items() if source not in whole}


def was_chosen(rows: dict[str, list[Record]], chat: Chat) -> bool:
    """Whether a source's own row is among those that were chosen of it; takes it out of them. What was made of the row
    has its origin too, and a step more."""
    steps = tuple((chat.meta or {}).get("steps", ()))
    mine = rows.get(chat.origin, [])
    others = [record for record in mine if record.provenance.steps != steps]
    rows[chat.origin] = others
    return len(others) < len(mine)


def holds_records(folder: Path) -> bool:
    """Whether a stage's rows say where they come from; answers that best_of drew do not."""
    return '"provenance"' in next(iter(lines_of(folder / "kept.jsonl")), '"provenance"')


def made_notes(wrong: Iterable[MadeWrong], judged: Mapping[str, int]) -> list[str]:
    """What a person should know of rows that stages made of a source (`judged`: how many there are of each), and where
    to put them right: in the documents that rules quote; a model's answers cannot be edited in any source."""
    found: dict[tuple[str, str], list[MadeWrong]] = defaultdict(list)
    for one in wrong:
        by = "rules that quote" if wrote(one.record.provenance) == "quoted" else one.record.provenance.generator
        found[one.record.provenance.source, by or "a stage"].append(one)
    said = []
    for (source, by), rows in found.items():
        counts = Counter(name for one in rows for name in one.categories)
        kinds = ", ".join(f"{name} {count}" for name, count in counts.most_common())
        first = ", ".join(one.record.example.origin for one in rows[:3])
        fix = (
            f"correct the documents of data.{source}, and run again"
            if by == "rules that quote"
            else "have them written anew, or leave them out by a curate stage (scores, judge, min_quality)"
        )
        which = f"{len(rows)} of {judged[source]} rows that were made of {source} by {by}"
        said.append(f"{which} look wrong ({kinds}; {first}): {fix}")
    return said
