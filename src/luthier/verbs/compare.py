"""`luthier compare …`: two or more ways to do the same, side by side."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from luthier.verbs.common import Changes, Offline, RecipeFile, SetChanges, finish, read, screen
from luthier.verbs.versus import compare_answers, compare_arena
from luthier.verbs.ways import ways


class Comparing(TyperGroup):
    """`luthier compare A B` is `luthier compare answers A B`: what is no command here names a model."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments, with the command that goes without saying."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["answers", *args]
        return super().parse_args(ctx, args)


comparing = typer.Typer(
    cls=Comparing,
    help="Which is better, and is the difference real?\n\n"
    "luthier compare A B [C]... asks models the same questions and measures the answers side by side. A and B are runs "
    "(demo, demo:sft, demo:base), folders of models, org/name of a hub, or endpoints (https://host/v1#model). Its "
    "options: luthier compare answers --help.\n\n"
    "The commands below compare other things.",
    no_args_is_help=True,
    subcommand_metavar="A B [C]... | COMMAND [ARGS]...",
)
comparing.command("answers", hidden=True)(compare_answers)
comparing.command("arena")(compare_arena)


@comparing.command("methods")
def compare_methods(
    recipe: RecipeFile,
    changes: Changes = None,
    sets: SetChanges = None,
    offline: Offline = False,
    methods: Annotated[str | None, typer.Option(metavar="A,B,…", help="full,lora,prompt, …; default: all.")] = None,
    rate: Annotated[list[str] | None, typer.Option(metavar="METHOD=RATE", help="Another peak learning rate.")] = None,
    rates: Annotated[str | None, typer.Option(metavar="A,B,…", help="Every method at each of these rates.")] = None,
    replay: Annotated[
        str | None, typer.Option(metavar="A,B,…", help="Every method with each of these shares of earlier data.")
    ] = None,
    stage: Annotated[str | None, typer.Option(help="What is compared; default: the last that tunes a model.")] = None,
) -> None:
    """One stage of a recipe through several methods: a table and a picture of quality, forgetting and cost."""
    loaded = read(recipe, [*(changes or ()), *(sets or ())], offline)
    from luthier.console import RunDisplay, comparison
    from luthier.run.against.compare import chosen, compare_methods, rates_of
    from luthier.run.against.sweep import sweep_of

    console = screen()
    with RunDisplay(console) as display:
        sweep = sweep_of(rates, replay)
        made = compare_methods(loaded, recipe, chosen(methods), rates_of(rate or ()), stage, (display,), sweep)
    comparison(made, console)
    finish(made.failed)


comparing.command("ways")(ways)
