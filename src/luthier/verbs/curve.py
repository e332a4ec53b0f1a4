"""`luthier curve`: what more data would buy."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from luthier.verbs.common import Changes, Offline, RecipeFile, SetChanges, finish, read, say, screen


def curve(
    recipe: RecipeFile,
    changes: Changes = None,
    sets: SetChanges = None,
    offline: Offline = False,
    sizes: Annotated[
        str, typer.Option(metavar="1/16..1", help="Parts of the data: 1/16..1, or 1/8,1/2,1.")
    ] = "1/16..1",
    seeds: Annotated[int, typer.Option(min=1, max=20, help="Trainings at each size.")] = 3,
    stage: Annotated[str | None, typer.Option(help="Which pretrain or sft stage; default: the last.")] = None,
    metric: Annotated[str | None, typer.Option(help="Which probe is forecast; default: answers or choices.")] = None,
    least_steps: Annotated[int, typer.Option(min=1, help="Steps that even the smallest part takes.")] = 40,
    more: Annotated[int, typer.Option(min=1, help="Examples more to forecast.")] = 500,
    worth: Annotated[
        float | None, typer.Option(help="What a doubling must bring: points (default 1) or nats a token.")
    ] = None,
) -> None:
    """Trains a stage on growing parts of its data and forecasts what more would buy."""
    loaded = read(recipe, [*(changes or ()), *(sets or ())], offline)
    from luthier.console import RunDisplay
    from luthier.run.ask_curve import run_curve

    console = screen()
    with RunDisplay(console) as display:
        asked = run_curve(loaded, recipe, sizes.split(","), seeds, stage, metric, more, worth, least_steps, (display,))
    show(asked.found, console)
    finish(asked.found["failed"], *(asked.folder / file for file in ("curve.html", "curve.svg", "curve.json")))


def show(found: Any, console: Any) -> None:
    """A table for each probe, and what it says in sentences."""
    from rich.table import Table
    from rich.text import Text

    from luthier.run.curve_page import table_rows

    for name, one in found["curves"].items():
        table = Table(title=f"{name} by examples of {found['stage']}", title_justify="left")
        for heading in ("examples", name, "95 % interval", "runs", "items"):
            table.add_column(heading, justify="right", overflow="fold")
        for row in table_rows(one):
            table.add_row(*(Text(row[key]) for key in ("n", "value", "interval", "runs", "asked")))
        console.print()
        console.print(table)
        say(one["said"], console)
    console.print()
    for line in found["notes"]:
        console.print(Text(line, style="dim"), soft_wrap=True)
    for name, why in found["failed"].items():
        console.print(Text(f"{name} failed: {why}", style="red"), soft_wrap=True)
