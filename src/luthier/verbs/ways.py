"""`luthier compare ways`: prompt, retrieve or tune."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from luthier.verbs.common import Changes, Offline, RecipeFile, SetChanges, finish, read, say, screen


def ways(
    recipe: RecipeFile,
    changes: Changes = None,
    sets: SetChanges = None,
    offline: Offline = False,
    documents: Annotated[str | None, typer.Option(help="Source or path to look things up in.")] = None,
    ways: Annotated[str, typer.Option(metavar="A,B,…", help="Which ways.")] = "zero-shot,few-shot,rag,tuned,tuned+rag",
    shots: Annotated[int, typer.Option(min=1, help="Worked examples of few-shot.")] = 4,
    examples: Annotated[str, typer.Option(metavar="nearest|fixed", help="Which training rows are shown.")] = "nearest",
    passages: Annotated[int, typer.Option(min=1, help="Passages looked up for a question.")] = 3,
    embeddings: Annotated[Path | None, typer.Option(help="A local encoder, to look up by meaning, not BM25.")] = None,
    stage: Annotated[str | None, typer.Option(help="Whose model is the tuned one; default: the last.")] = None,
    test: Annotated[str | None, typer.Option(help="Which answers probe asks; default: the first.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask no more than the first so many.")] = None,
    price_per_hour: Annotated[float, typer.Option(min=0, help="Dollars an hour of this machine costs.")] = 1.0,
    volume: Annotated[int | None, typer.Option(min=1, help="Answers that will be needed in all.")] = None,
) -> None:
    """Prompting, examples, retrieval, tuning: all run on one held-out set, with quality, waits and costs."""
    loaded = read(recipe, [*(changes or ()), *(sets or ())], offline)
    from luthier.base.errors import UserError, did_you_mean
    from luthier.console import RunDisplay
    from luthier.run.against.ask_ways import compare_ways
    from luthier.run.against.ways import plan_ways

    if examples not in ("nearest", "fixed"):
        raise UserError(
            f"--examples: {examples} is not nearest or fixed.{did_you_mean(examples, ('nearest', 'fixed'))}"
        )
    named = tuple(way.strip() for way in ways.split(",") if way.strip())
    plan = plan_ways(
        loaded, named, stage, test, documents, shots, examples == "nearest", passages, embeddings, limit,
        price_per_hour, volume,
    )  # fmt: skip
    console = screen()
    with RunDisplay(console) as display:
        asked = compare_ways(loaded, recipe, plan, (display,))
    show(asked.made, console)
    finish(asked.made["failed"], *(asked.folder / file for file in ("ways.html", "ways.svg", "ways.json")))


def show(made: Any, console: Any) -> None:
    """The table, and the recommendation with its reasons."""
    from rich.table import Table
    from rich.text import Text

    from luthier.run.against.ways_page import HEADINGS, notes, table

    shown = Table(title="prompt, retrieve or tune", title_justify="left")
    for number, heading in enumerate(HEADINGS):
        shown.add_column(heading, justify="left" if number == 0 else "right", overflow="fold")
    for row in table(made):
        shown.add_row(*map(Text, row), style="bold" if row[0] == made["chosen"] else "")
    console.print()
    console.print(shown, width=max(console.width, 130) if not console.is_terminal else None)
    say(made["said"], console)
    console.print()
    for line in notes(made):
        console.print(Text(line, style="dim"), soft_wrap=True)
    for way, why in {**made["left_out"], **made["failed"]}.items():
        console.print(Text(f"{way} is missing: {why}", style="yellow"), soft_wrap=True)
