"""The report of a data set alone: of a file or folder that nobody has curated yet, or of a run's curated sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from luthier.base.curation import Curate
from luthier.base.errors import UserError
from luthier.base.files import read_json
from luthier.base.source import Source
from luthier.data.curate.curation import Given, curate
from luthier.data.dataset import read_dataset
from luthier.data.records import record_of
from luthier.run.curate_given import counted
from luthier.run.curate_private import notes_of, private_figures, private_for
from luthier.run.curate_words import words_for
from luthier.run.curated import figures_of
from luthier.run.curation_page import curation_section, headline
from luthier.run.report import write_page

SECTION = "curation.html.j2"


class Reported(NamedTuple):
    """A page that was written, and what it says first."""

    page: Path
    said: str


def report_data(what: Path, out: Path | None, source: Source, stage: Curate) -> list[Reported]:
    """Writes the page of a file or a folder, or one of each curated set of a run. Raises UserError where there is
    neither, or nothing to report."""
    if (what / "resolved.json").exists():
        return report_run(what, out)
    return [report_file(what, out, source, stage)]


def report_run(run: Path, out: Path | None) -> list[Reported]:
    """A page beside each curation.json of a run's present stages."""
    current = read_json(run / "current.json")["stages"] if (run / "current.json").exists() else []
    made = [run / name for name in current if (run / name / "curation.json").exists()]
    if not made:
        raise UserError(f"{run}: no finished stage of kind curate. Add one to its recipe, or report a file.")
    if out is not None and len(made) > 1:
        raise UserError(f"--out: the run has {len(made)} curated sets, and a page each. Leave it out.")
    found = []
    for folder in made:
        record, figures = read_json(folder / "stage.json"), read_json(folder / "curation.json")
        kicker = f"luthier run {run.name}, stage {record['name']}"
        found.append(write(out or folder / "report.html", record["name"], kicker, figures))
    return found


def report_file(what: Path, out: Path | None, source: Source, stage: Curate) -> Reported:
    """What a stage would make of a file or folder, without making it."""
    name = what.name.partition(".")[0] or "data"
    data = read_dataset(name, source, Path())
    records = [record_of(example, name, source) for example in (*data.train, *data.heldout)]
    private = private_for(stage, records)
    made = curate(records, stage, Given(clean=counted(private), holds=private.holds, words=words_for(stage)))
    told = {"rejected": len(data.rejected), "private": private_figures(private, stage, notes_of([data]))}
    figures = figures_of(made, stage, 0) | told
    kicker = f"luthier data report {what.name}, read as {data.format}"
    return write(out or Path(f"{name}-data.html"), name, kicker, figures)


def write(page: Path, name: str, kicker: str, figures: dict[str, Any]) -> Reported:
    """Writes one page."""
    words = {"one": curation_section(name, figures), "footer": "Made by luthier. This page fetches nothing."}
    title = f"{name}: {figures['kept']:,} of {figures['rows']:,} rows"
    write_page(page, title, kicker, title, SECTION, words)
    return Reported(page, headline(figures))
