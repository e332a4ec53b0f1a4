"""What several verbs share: their arguments, the screen, a recipe with its changes, a run by its name."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from luthier.base.errors import RunError, UserError, did_you_mean
from luthier.quiet import quiet

if TYPE_CHECKING:
    from rich.console import Console

    from luthier.base.recipe import Recipe

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, such as recipe.yaml.")]
Changes = Annotated[
    list[str] | None,
    typer.Argument(metavar="[A.B=C]...", help="Settings to change, such as seed=1 stages.sft.steps=100."),
]
SetChanges = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="The same; may be repeated.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never ask the hub: use local folders and what is cached.")]
RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, such as runs/demo, or its name.")]


def screen() -> Console:
    """The terminal; where there is none, plain lines without control codes."""
    from rich.console import Console

    return (
        Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=100, force_terminal=False)
    )


def read(recipe: Path, changes: Sequence[str], offline: bool) -> Recipe:
    """The recipe with its changes, and the libraries told to be quiet."""
    from luthier.base.config import load_recipe, resolve_path

    loaded = load_recipe(recipe, changes)
    model = loaded.base.model
    quiet(downloads=model is not None and not resolve_path(recipe, model).exists(), offline=offline)
    return loaded


def say(lines: Sequence[str], console: Console) -> None:
    """Sentences about a table; the first is the answer."""
    from rich.text import Text

    for number, line in enumerate(lines):
        console.print(Text(line, style="bold" if number == 0 else ""), soft_wrap=True)


def finish(failed: Collection[str], *files: Path) -> None:
    """Names the files that were made. Raises RunError for the parts that failed."""
    for file in files:
        print(file)
    if failed:
        raise RunError(f"{', '.join(failed)} failed (see above); the same command tries again, and only that.")


def find_run(name: str) -> Path:
    """The folder of a run given by its path or its name. Raises UserError, with the runs there are."""
    for folder in (Path(name), Path("runs") / name):
        if (folder / "resolved.json").exists():
            return folder
    known = sorted(str(path.parent) for path in Path("runs").glob("*/resolved.json"))
    there = f" The runs here: {', '.join(known)}." if known else " Make one: luthier run RECIPE, or luthier demo."
    raise UserError(f"{name}: no run here.{did_you_mean(name, [*known, *(Path(p).name for p in known)])}{there}")
