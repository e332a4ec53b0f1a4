"""`luthier compare ways`: the run as far as the tuned model, every way, ways.json, ways.svg and ways.html."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from luthier.base.events import EventLog, Watcher
from luthier.base.files import write_json, write_text
from luthier.base.recipe import Recipe
from luthier.run.against.ways import Plan, answer_ways, bench_for, tuning_s
from luthier.run.against.ways_page import section, ways_picture
from luthier.run.against.ways_words import weigh
from luthier.run.report import write_page
from luthier.run.upto import reached


class Asked(NamedTuple):
    """A finished comparison."""

    folder: Path
    made: Mapping[str, Any]


def compare_ways(recipe: Recipe, recipe_path: Path, plan: Plan, watchers: tuple[Watcher, ...] = ()) -> Asked:
    """Runs, or goes on with, a comparison of ways in the recipe's own run folder. Raises UserError where the questions
    cannot be judged, RunError where no way came through."""
    plain = recipe.model_copy(update={"learning_curve": None, "export": []})
    with reached(plain, recipe_path, plan.index + 1, watchers) as context:
        folder = context.folder / "ways"
        bench = bench_for(context, plan)
        log = EventLog(folder / "events.jsonl", watchers)
        found, failed = answer_ways(context, plan, bench, log)
        log.close()
        made = weigh(found, tuning_s(context, plan), plan.price_per_hour_usd, plan.volume, recipe.seed)
        made |= {"run": recipe.name, "failed": failed, "left_out": dict(plan.left_out)}
        write_json(folder / "ways.json", made)
        title = f"{recipe.name}: prompt, retrieve or tune"
        write_text(folder / "ways.svg", ways_picture(made, title))
        values = {"ways": section(made, found, title)}
        kicker = f"luthier compare ways · {recipe.name}"
        write_page(folder / "ways.html", title, kicker, made["said"][0], "against/ways_section.html.j2", values)
    return Asked(folder, made)
