"""The curate stage: reads sources, marks and chooses (`data/curate/curation.py`), and writes what became of every row.

kept.jsonl, heldout.jsonl  the rows to train on and to measure on, as records; later stages read them by its name
rows.jsonl                 every row that was read, with its scores and why it was left out
dropped.json               how many rows each reason left out, and where the first of them are
evaluated.jsonl            rows that share text with an evaluation set, and what they share
curation.json              the figures and the map that the report shows
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from luthier.base.curation import Curate
from luthier.base.events import EventLog
from luthier.base.files import write_json, write_jsonl
from luthier.base.nouns import Example, Record
from luthier.base.source import Source
from luthier.data.curate.curation import REASONS, Curation, curate, percent, reason_of
from luthier.data.curate.groups import held_out
from luthier.data.curate.licences import refusals, verdict
from luthier.data.dataset import Dataset, write_rejected
from luthier.data.records import read_records, record_of, write_records
from luthier.run.context import Context
from luthier.run.curate_given import evaluation_rows, given_for, given_inputs
from luthier.run.curate_moved import moved_since
from luthier.run.curate_private import no_private, notes_of, private_figures, private_for, source_of
from luthier.run.curated import figures_of
from luthier.run.kept import SIDES, read_kept
from luthier.run.memo import StageFolder
from luthier.train import guards as g

DOES = {
    "replace": "replaces private things by placeholders",
    "invent": "replaces private things by made-up ones",
    "refuse": "leaves out rows that hold private things",
}
"""What `luthier check` says of the setting `private`."""
FIRST = 5
"""Rows of each reason that are named."""


def curate_data(context: Context, index: int, stage: Curate) -> None:
    """Makes the stage's files, or skips it. Raises RunError where nothing is left, or the licences forbid it."""
    inputs = {f"data.{name}": context.dataset(name).hash for name in stage.sources} | given_inputs(context, stage)
    folder = context.stage(index, stage.name or stage.kind, stage, inputs)
    if folder.done:
        return
    log = folder.open()
    log.emit("begin", stage=folder.name, stage_kind=folder.kind)
    sources = {name: source_of(context, name, stage) for name in stage.sources if name in context.recipe.data}
    rejected = [row for data in sources.values() for row in data.rejected]
    write_rejected(folder.path / "rejected.jsonl", rejected)
    named = [(name, row) for name in stage.sources for row in records_of(context, [name], sources)]
    read_as, records = [name for name, _ in named], [row for _, row in named]
    evaluation, private = evaluation_rows(context, stage), private_for(stage, records)
    given = replace(given_for(context, stage, folder, evaluation, private, log), read_as=read_as)
    made = curate(records, stage, given, lambda text: log.emit("note", text=text))
    write_curation(folder.path, made)
    figures = figures_of(made, stage, context.recipe.seed)
    if moved := moved_since(folder, made):
        figures["moved"] = moved.as_dict()
    figures["private"] = private_figures(private, stage, notes_of(list(sources.values())))
    refused = figures["licences"]["refusals"]
    told = licensed(refused, figures["licences"]["sentences"])
    passed = g.enforce([*checks(made, stage, evaluation), *no_private(private, made), told], log)
    write_json(folder.path / "curation.json", figures | {"rejected": len(rejected)})
    tell(folder, stage, made, log)
    for said in short(stage, Counter(read_as[i] for i in made.kept)):
        log.emit("note", text=f"{folder.name}: {said}")
    if moved is not None and moved.words:
        log.emit("note", text=f"{folder.name}: {moved.words}")
    folder.close(
        guards=passed,
        rows={"read": len(records), "kept": len(made.kept), "heldout": len(made.heldout)},
        dropped=dict(made.reasons),
        metrics=figures["metrics"],
    )


def records_of(context: Context, names: Sequence[str], sources: Mapping[str, Dataset]) -> list[Record]:
    """The rows of sources and of stages that make data, as records. What a stage of records has left out stays out."""
    found: list[Record] = []
    for name in names:
        source, data = context.recipe.data.get(name), sources.get(name)
        if source is not None and data is not None:
            found += [record_of(example, name, source) for example in (*data.train, *data.heldout)]
        else:
            made = next(f for f in reversed(context.stages) if f.name == name)
            found += [record for side in SIDES for record in made_records(made.path / f"{side}.jsonl", name)]
    return found


def made_records(path: Path, name: str) -> list[Record]:
    """A made file's records; answers that best_of kept say of themselves what they are."""
    with open(path, encoding="utf-8") as file:
        first = next(file, "")
    if '"provenance"' in first or not first:
        return list(read_records(path))
    source = Source(path=str(path), made="machine")
    return [record_of(example, name, source) for example in read_kept(path)]


def write_curation(folder: Path, made: Curation) -> None:
    """Writes the rows: those that are kept, those held out, all of them, and those left out by reason."""
    write_records(folder / "kept.jsonl", (made.rows[i] for i in made.kept))
    write_records(folder / "heldout.jsonl", (made.rows[i] for i in made.heldout))
    write_records(folder / "rows.jsonl", made.rows)
    write_json(folder / "dropped.json", dropped(made.rows))
    write_jsonl(folder / "evaluated.jsonl", (one._asdict() for one in made.seen.values()))


def dropped(rows: Sequence[Record]) -> dict[str, object]:
    """By reason: what it means, how many rows it left out, and the first of them."""
    found: dict[str, list[Record]] = {}
    for row in rows:
        if row.out is not None:
            found.setdefault(reason_of(row), []).append(row)
    return {
        reason: {
            "means": REASONS[reason],
            "rows": len(found[reason]),
            "first": [{"origin": row.example.origin, "why": row.out} for row in found[reason][:FIRST]],
        }
        for reason in REASONS
        if reason in found
    }


def checks(made: Curation, stage: Curate, evaluation: Sequence[Example]) -> list[g.Guard]:
    """What must hold of the rows that later stages train on."""
    sides: dict[str, set[str]] = {}
    for side, indices in (("kept", made.kept), ("held out", made.heldout)):
        for i in indices:
            sides.setdefault(made.rows[i].group, set()).add(side)
    torn = [group for group, found in sides.items() if len(found) > 1]
    left = [made.rows[i].example.origin for i in (*made.kept, *made.heldout) if i in made.seen]
    groups = len(sides)
    every = len(made.kept) + len(made.heldout) + sum(made.reasons.values())
    nothing = f"of {len(made.rows):,} rows none is left: {words_of_reasons(made)}. Loosen what left out most"
    share = sum(held_out(group, stage.heldout) for group in sides) / max(1, groups)
    return [
        g.Guard("something is kept", bool(made.kept), f"{len(made.kept):,} rows" if made.kept else nothing),
        g.Guard(
            "every row is accounted for",
            every == len(made.rows),
            f"{len(made.rows):,} read = {len(made.kept):,} kept + {len(made.heldout):,} held out + "
            f"{sum(made.reasons.values()):,} left out with a reason",
        ),
        g.Guard(
            "no group on two sides",
            not torn,
            g.some(torn) if torn else f"{groups:,} groups (documents, threads, copies), {share:.1%} of them held out",
        ),
        g.Guard(
            "no evaluation row in it",
            not left,
            g.some(left)
            if left
            else f"{len(evaluation):,} evaluation rows looked for, {len(made.seen):,} rows left out",
        ),
    ]


def licensed(refused: Sequence[str], sentences: Sequence[str]) -> g.Guard:
    """Whether the recipe's policy allows what is kept."""
    ways = "Leave the source out, loosen licences, or go on without such rows: unlicensed: leave_out."
    return g.Guard("the licences allow it", not refused, f"{' '.join(refused)} {ways}" if refused else sentences[0])


def would_curate(context: Context, stage: Curate) -> str:
    """What a stage would do, and what would be sent where: for `luthier check`."""
    there = [name for name in stage.sources if name in context.recipe.data]
    sources = {name: context.dataset(name) for name in there}
    counts = {name: len(data.train) + len(data.heldout) for name, data in sources.items()}
    read = [f"{name} ({counts[name]:,} rows)" if name in counts else f"what {name} makes" for name in stage.sources]
    rows = sum(counts.values())
    alike = "exact copies" if stage.near is None else f"exact copies and near duplicates (Jaccard {stage.near:g})"
    if stage.embeddings is not None and stage.near_meaning is not None:
        alike += f" (also in other words: cosine {stage.near_meaning:g} by {stage.embeddings})"
    said = [f"reads {', '.join(read)}", f"leaves out {alike}" + (" and flawed rows" if stage.flaws else "")]
    if stage.languages is not None:
        said.append(f"leaves out what is in another language than {', '.join(stage.languages)}")
    if stage.private in DOES:
        said.append(DOES[stage.private])
    if evaluation := evaluation_rows(context, stage):
        said.append(f"keeps clear of {len(evaluation):,} evaluation rows")
    said.append(f"holds out {stage.heldout:.0%} of the groups")
    said.append("keeps all the others" if stage.keep is None else f"keeps {stage.keep:,} by {stage.how}")
    said += [f"at most {percent(share)} of what is kept from {name}" for name, share in stage.at_most.items()]
    said += [f"at least {percent(share)} of it from {name}" for name, share in stage.at_least.items()]
    if stage.judge is not None:
        said.append(f"sends the answers that are left, of {rows:,}, with their questions to {stage.judge}")
    else:
        said.append("sends nothing anywhere")
    provenances = [record.provenance for record in records_of(context, there, sources)]
    found = verdict(provenances, stage.licences.cleared)
    return "; ".join(said) + ". " + " ".join([found.sentences[0], *refusals(found, stage.licences)])


def words_of_reasons(made: Curation) -> str:
    """'12 duplicate, 3 flawed', the most first."""
    return ", ".join(f"{count:,} {reason}" for reason, count in made.reasons.most_common()) or "none was read"


def tell(folder: StageFolder, stage: Curate, made: Curation, log: EventLog) -> None:
    """Says what was kept, and what is worth a look."""
    said = f"{len(made.kept):,} rows kept of {len(made.rows):,}, {len(made.heldout):,} held out"
    if made.reasons:
        said += f"; left out: {words_of_reasons(made)}"
    log.emit("note", text=said)
    if stage.keep is not None and len(made.kept) < stage.keep:
        log.emit("note", text=f"{folder.name}: keep is {stage.keep:,}, and only {len(made.kept):,} rows are fit")


def short(stage: Curate, kept: Mapping[str, int]) -> list[str]:
    """Sources of which fewer rows are fit than `at_least` asks for, in words."""
    rows = sum(kept.values())
    wanted = {name: math.floor(share * rows + 1e-9) for name, share in stage.at_least.items()}
    return [
        f"at_least asks for {percent(stage.at_least[name])} of {name}, {least:,} rows of {rows:,}, and only "
        f"{kept.get(name, 0):,} are fit"
        for name, least in wanted.items()
        if kept.get(name, 0) < least
    ]
