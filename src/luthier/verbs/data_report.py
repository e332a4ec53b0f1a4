"""`luthier data report`: a page about a data set alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from luthier.base.errors import UserError, did_you_mean
from luthier.quiet import quiet


def report(
    what: Annotated[Path, typer.Argument(metavar="WHAT", help="A file, a folder of files, or a run's folder.")],
    out: Annotated[Path | None, typer.Option(help="The page; default: NAME-data.html here, or in the run.")] = None,
    format: Annotated[str, typer.Option(help="Read as this; auto says what it found.")] = "auto",
    licence: Annotated[str | None, typer.Option(help="Licence of rows that do not say it: CC-BY-4.0, …")] = None,
    keep: Annotated[int | None, typer.Option(min=1, help="Show which rows a curate stage would choose.")] = None,
    near: Annotated[float, typer.Option(min=0.1, max=1.0, help="Jaccard similarity of near duplicates.")] = 0.8,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Writes report.html about a data set: topics, lengths, copies, flaws, licences, what curation would keep."""
    from luthier.base.curation import Curate
    from luthier.base.source import Source

    quiet(downloads=False)
    if not what.exists():
        raise UserError(f"{what}: no such file or folder.")
    known = get_args(Source.model_fields["format"].annotation)
    if format not in known:
        raise UserError(f"--format: {format} is none.{did_you_mean(format, known)} There are: {', '.join(known)}.")
    source = Source(path=str(what), format=format, licence=licence, heldout=0)  # type: ignore[arg-type]  # checked above
    stage = Curate(kind="curate", data=what.name, keep=keep, near=near, heldout=0)
    from luthier.run.data_report import report_data

    for page, said in report_data(what, out, source, stage):
        print(f"{said}\n{page}")
        if show:
            import webbrowser

            webbrowser.open(page.resolve().as_uri())
