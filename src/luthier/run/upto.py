"""A run taken as far as one of its stages, for commands that go on from there by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from luthier.base.events import Watcher
from luthier.base.recipe import Recipe
from luthier.run.context import Context, open_context, run_lock
from luthier.run.learner import require_libraries
from luthier.run.stages import do_stage
from luthier.run.suitable import check_sources


@contextmanager
def reached(recipe: Recipe, recipe_path: Path, stages: int, watchers: tuple[Watcher, ...] = ()) -> Iterator[Context]:
    """The recipe's run with its first `stages` stages done, its folder held meanwhile. What is finished is not run
    again, and `luthier run` finds what is made here. Raises as `run_recipe` does."""
    context = open_context(recipe, recipe_path, watchers)
    with run_lock(context.folder):
        require_libraries(recipe)
        check_sources(context)
        for index, stage in enumerate(recipe.stages[:stages]):
            do_stage(context, index, stage)
        yield context
