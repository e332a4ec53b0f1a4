"""What schedules and budgets ask of a recipe: contradictions, told with those of `crosscheck.py`."""

from __future__ import annotations

from collections.abc import Iterator

from luthier.base import recipe as r
from luthier.base.settings import Loc
from luthier.base.tuning import Budget, Training


def check_stepping(recipe: r.Recipe) -> Iterator[tuple[Loc, str]]:
    """Every setting of a schedule or a budget has an effect."""
    if recipe.budget is not None and recipe.budget == Budget():
        yield ("budget",), "names no limit. Give hours or memory_gib, or remove it."
    for index, stage in enumerate(recipe.stages):
        if not isinstance(stage, Training):
            continue
        at: Loc = ("stages", index)
        if stage.schedule != "wsd" and stage.decay_frac != Training.model_fields["decay_frac"].default:
            yield (*at, "decay_frac"), f"is for schedule: wsd, not for {stage.schedule}. Remove it, or change schedule."
        if stage.schedule == "wsd" and stage.warmup_frac + stage.decay_frac > 1:
            said = f"warmup_frac {stage.warmup_frac:g} and decay_frac {stage.decay_frac:g} are more than all steps"
            yield (*at, "decay_frac"), f"{said}. Lower one of them."
