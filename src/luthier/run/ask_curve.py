"""`luthier curve`: the stages before, the parts of one stage's data, the law; curve.json, curve.svg and curve.html."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from luthier.base.crosscheck import stage_name
from luthier.base.curves import LEAST_STEPS
from luthier.base.events import EventLog, Watcher
from luthier.base.files import write_json, write_text
from luthier.base.recipe import Recipe
from luthier.run.curve import folder_of, plan_curve, summed
from luthier.run.curve_page import curve_section, headline
from luthier.run.curve_picture import curve_picture
from luthier.run.report import write_page
from luthier.run.upto import reached


class Asked(NamedTuple):
    """A finished curve."""

    folder: Path
    found: Mapping[str, Any]


def run_curve(
    recipe: Recipe,
    recipe_path: Path,
    sizes: Sequence[float | str],
    seeds: int = 3,
    stage: str | None = None,
    metric: str | None = None,
    more: int = 500,
    worth: float | None = None,
    least_steps: int = LEAST_STEPS,
    watchers: tuple[Watcher, ...] = (),
) -> Asked:
    """Runs, or goes on with, a learning curve in the recipe's own run folder. Raises UserError for what is asked
    wrongly, RunError where fewer than three sizes came through."""
    plan = plan_curve(recipe, sizes, seeds, stage, metric, more, worth, least_steps)
    whole = plan.shares[-1] == 1
    plain = recipe.model_copy(update={"learning_curve": None, "export": []})
    with reached(plain, recipe_path, plan.index + whole, watchers) as context:
        folder = folder_of(context, plan)
        log = EventLog(folder / "events.jsonl", watchers)
        found = summed(context, plan, log)
        log.close()
        write_json(folder / "curve.json", found)
        one = found["curves"][found["metric"]]
        write_text(folder / "curve.svg", curve_picture(found["metric"], one, plan.name))
        title = f"{recipe.name}: what more data would buy"
        kicker = f"luthier curve · {recipe.name} · {stage_name(plan.stage)}"
        section = {"curve": curve_section(found)}
        write_page(folder / "curve.html", title, kicker, headline(found), "curve_section.html.j2", section)
    return Asked(folder, found)
