"""`luthier compare …`: two or more ways to do the same, side by side."""

from __future__ import annotations

from typing import Annotated

import typer

from luthier.base.errors import RunError
from luthier.verbs.common import Changes, Offline, RecipeFile, SetChanges, read, screen

comparing = typer.Typer(help="Compares ways to do the same.", no_args_is_help=True)


@comparing.command("methods")
def compare_methods(
    recipe: RecipeFile,
    changes: Changes = None,
    sets: SetChanges = None,
    offline: Offline = False,
    methods: Annotated[str | None, typer.Option(metavar="A,B,…", help="full,lora,prompt, …; default: all.")] = None,
    rate: Annotated[list[str] | None, typer.Option(metavar="METHOD=RATE", help="Another peak learning rate.")] = None,
    stage: Annotated[str | None, typer.Option(help="What is compared; default: the last that tunes a model.")] = None,
) -> None:
    """One stage of a recipe through several methods: a table and a picture of quality, forgetting and cost."""
    loaded = read(recipe, [*(changes or ()), *(sets or ())], offline)
    from luthier.console import RunDisplay, comparison
    from luthier.run.compare import chosen, compare_methods, rates_of

    console = screen()
    with RunDisplay(console) as display:
        made = compare_methods(loaded, recipe, chosen(methods), rates_of(rate or ()), stage, (display,))
    comparison(made, console)
    if made.failed:
        raise RunError(f"{', '.join(made.failed)} failed (see above); the same command tries again, and only that.")
