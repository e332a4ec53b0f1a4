"""`luthier compare methods`: the same data and the same steps through each method; one table, one picture.

A method that the model or the machine cannot take is left out and told; one whose stage fails does not lose the others,
and the same command tries it again. What is finished is not run again.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from luthier.base.errors import RunError, UserError
from luthier.base.events import Event, Watcher
from luthier.base.files import read_json, write_json, write_text
from luthier.base.recipe import Recipe
from luthier.run.against.compare_picture import Column, methods_picture
from luthier.run.against.methods import METHODS, Plan, plan_methods
from luthier.run.against.sweep import Sweep, points, swept, told_front, tradeoff_picture, variant_of
from luthier.run.pictures import count, duration, number, size
from luthier.run.stages import run_recipe

Figure = Mapping[str, Any]
"""{value, low, high, n}"""
SHARES = ("choices", "answers", "win_rate", "fill_mask", "alignment", "cloze", "consistency", "hallucination")
"""Probes whose figures are shares of 1, and better when higher; losses and perplexities are better when lower."""


@dataclass(frozen=True)
class Row:
    """What came of one method."""

    method: str
    rate: float
    optimizer: str
    figures: dict[str, Figure]
    """By probe."""
    steps: int
    tokens: int
    seconds: float
    peak_bytes: int
    trainable_parameters: int
    disk_bytes: int
    """What has to be kept: the adapter's folder, or the whole model's."""


@dataclass(frozen=True)
class Comparison:
    """A finished comparison."""

    folder: Path
    stage: str
    start: str
    columns: list[Column]
    before: dict[str, Figure]
    """The model that every method starts from, by probe."""
    rows: list[Row]
    left_out: dict[str, str]
    """Methods that cannot be, with the reason."""
    failed: dict[str, str]
    """Methods whose stage failed, with the reason."""
    notes: list[str]


def chosen(words: str | None) -> tuple[str, ...]:
    """The methods in "full,lora"; all of them when nothing is said."""
    return tuple(METHODS) if words is None else tuple(word.strip() for word in words.split(",") if word.strip())


def rates_of(words: Sequence[str]) -> dict[str, float]:
    """{"lora": 0.01} of ["lora=1e-2"]. Raises UserError where one is not written like this."""
    made, wrong = {}, []
    for word in words:
        method, _, rate = word.partition("=")
        try:
            made[method.strip()] = float(rate)
        except ValueError:
            wrong.append(f"--rate {word}: write method=rate, for example lora=5e-3.")
    if wrong:
        raise UserError(wrong)
    return made


def compare_methods(
    recipe: Recipe,
    recipe_path: Path,
    methods: Sequence[str] = tuple(METHODS),
    rates: Mapping[str, float] | None = None,
    stage: str | None = None,
    watchers: tuple[Watcher, ...] = (),
    sweep: Sweep = Sweep(),  # noqa: B008  # a frozen record
) -> Comparison:
    """Runs, or goes on with, a comparison; writes methods.md, methods.svg and methods.json into the folder of the run
    `<name>-methods`; of a sweep, into `<name>-sweep`, with tradeoff.svg. Raises UserError for what is asked wrongly,
    RunError where no method came through."""
    plan = plan_methods(recipe, recipe_path.parent, methods, rates, stage, sweep)
    plan, failed, folder = run_plan(plan, recipe_path, watchers)
    made = read_comparison(plan, folder, failed)
    write_json(folder / "methods.json", asdict(made) | {"folder": str(folder)})
    write_text(folder / "methods.md", markdown(made))
    write_text(folder / "methods.svg", picture(made))
    if any(sweep) and (shown := tradeoff_picture(made)):
        write_text(folder / "tradeoff.svg", shown + "\n")
    return made


def run_plan(plan: Plan, recipe_path: Path, watchers: tuple[Watcher, ...]) -> tuple[Plan, dict[str, str], Path]:
    """(what was run in the end, methods that failed and why, the run's folder)."""
    failed: dict[str, str] = {}
    while plan.methods:
        at = ""

        def notice(event: Event) -> None:
            nonlocal at
            if event["kind"] in ("begin", "end"):
                at = event.get("stage", "")

        try:
            return plan, failed, run_recipe(plan.recipe, recipe_path, (notice, *watchers))
        except Exception as error:
            if at not in plan.methods:
                raise
            why = f"{error}" if isinstance(error, UserError | RunError) else f"{type(error).__name__}: {error}"
            plan = plan.without(at, why)
            if not isinstance(error, UserError):  # what the method's stage ran into, not what it cannot be
                failed[at] = why
                folder = Path(plan.recipe.out) / plan.recipe.name
                write_text(folder / f"failed-{at}.txt", traceback.format_exc())
            for watch in watchers:
                watch({"kind": "note", "t": 0.0, "text": f"{at} is left out: {why}"})
    raise RunError("\n".join(["no method came through:", *(f"  {m}: {why}" for m, why in plan.left_out.items())]))


def read_comparison(plan: Plan, folder: Path, failed: dict[str, str]) -> Comparison:
    """A finished run's figures, method by method."""
    report = read_json(folder / "report.json")
    metrics, kinds = report["metrics"], {name: probe.kind for name, probe in plan.recipe.evaluate.items()}
    columns = [column_of(name, kinds, plan) for name in (*plan.quality, *plan.forgetting)]
    stages = {stage["name"]: stage for stage in report["stages"]}
    if any("accuracy" in metrics.get(method, {}) for method in plan.methods):
        columns.insert(0, Column("held-out pairs", "accuracy", share=True, higher=True))

    def figures(name: str) -> dict[str, Figure]:
        found = {column.name: figure_of(metrics, column, name) for column in columns}
        return {key: figure for key, figure in found.items() if figure is not None}

    rows = []
    for method, how in zip(plan.methods, plan.recipe.stages[-len(plan.methods) :], strict=True):
        record = read_json(folder / stages[method]["folder"] / "stage.json")
        adapter = folder / stages[method]["folder"] / "adapter"
        kept = adapter if adapter.is_dir() else adapter.with_name("model")
        rows.append(
            Row(
                method,
                plan.rates[method],
                record["settings"]["optimizer"],
                figures(method),
                record["steps"],
                record["tokens"],
                record["seconds"],
                record["peak_bytes"],
                record["trainable_parameters"],
                sum(file.stat().st_size for file in kept.rglob("*") if file.is_file()),
            )
        )
        assert how.name == method
    left_out = {method: why for method, why in plan.left_out.items() if method not in failed}
    before = figures(plan.start)
    for name in plan.forgetting:  # a rise since itself says nothing
        before.pop(name, None)
    return Comparison(folder, plan.stage, plan.start, columns, before, rows, left_out, failed, budget_notes(plan, rows))


def budget_notes(plan: Plan, rows: Sequence[Row]) -> list[str]:
    """The plan's notes; and what was not equal, where something was not."""
    said = {(row.steps, row.tokens) for row in rows}
    if len(said) == 1:
        ((steps, tokens),) = said
        return [f"every method: {steps:,} steps, {tokens:,} tokens, the same batches", *plan.notes]
    if swept(rows):  # mostly one budget a share
        by: dict[tuple[int, int], list[str]] = {}
        for row in rows:
            by.setdefault((row.steps, row.tokens), []).append(variant_of(row.method).words)
        more = {budget: f" and {len(names) - 1} more" if names[1:] else "" for budget, names in by.items()}
        parts = [f"{n[0]}{more[b]}: {b[0]:,} steps and {b[1]:,} tokens" for b, n in by.items()]
        return [f"budgets differ: {'; '.join(parts)}", *plan.notes]
    told = ", ".join(f"{row.method} {row.steps:,} steps and {row.tokens:,} tokens" for row in rows)
    return [f"budgets differ: {told}", *plan.notes]


def column_of(name: str, kinds: Mapping[str, str], plan: Plan) -> Column:
    """How a probe's figures are shown."""
    kind = kinds.get(name, "win_rate")
    if name in plan.forgetting:
        return Column(name if name == "forgetting" else f"forgetting: {name}", name, rise=True)
    return Column(name, name, share=kind in SHARES, higher=kind in SHARES)


def figure_of(metrics: Mapping[str, Any], column: Column, model: str) -> Figure | None:
    """A probe's figure of one model; None where there is none."""
    found = metrics.get(column.probe, {}).get(model)
    if column.probe == "accuracy":
        found = metrics.get(model, {}).get("accuracy")
    if found is None:  # a win rate has a probe a method
        found = next(iter(metrics.get(f"{column.probe}.{model}", {}).values()), None)
    if found is not None and "value" not in found:  # several figures a model: the first
        found = next((part for part in found.values() if isinstance(part, dict) and "value" in part), None)
    if found is None:
        return None
    found = found["loss"] if "loss" in found and not column.rise else found
    return {key: found.get(key) for key in ("value", "low", "high", "n")}


def written(figure: Figure | None, column: Column) -> str:
    """'0.412 [0.380, 0.447]', '81 % [75, 86]'; rises have a sign."""
    if figure is None:
        return ""
    scale = 100 if column.share else 1
    sign = "+" if column.rise else ""
    show = "{:.0f}" if column.share else "{:" + sign + ".3f}"
    parts = [show.format(figure[key] * scale) for key in ("value", "low", "high") if figure.get(key) is not None]
    unit = " %" if column.share else ""
    interval = f" [{parts[1]}, {parts[2]}]" if len(parts) == 3 else ""
    return f"{parts[0]}{unit}{interval}".replace("-", "−")


def table(made: Comparison) -> tuple[list[str], list[list[str]]]:
    """(headings, rows of cells) for the console and for methods.md; the first row is the model before."""
    arrows = ["↑" if column.higher else "↓" for column in made.columns]
    headings = ["method", "what is trained", "rate"]
    headings += [f"{c.name} {arrow}" for c, arrow in zip(made.columns, arrows, strict=True)]
    headings += ["peak memory", "time", "trained", "on disk"]
    start = [written(made.before.get(c.name), c) for c in made.columns]
    cells = [["before", made.start, "", *start, "", "", "", ""]]
    for row in made.rows:
        figures = [written(row.figures.get(c.name), c) for c in made.columns]
        costs = [size(row.peak_bytes), duration(row.seconds), count(row.trainable_parameters), size(row.disk_bytes)]
        cells.append(
            [
                variant_of(row.method).words,
                METHODS[variant_of(row.method).method].does,
                number(row.rate, 2),
                *figures,
                *costs,
            ]
        )
    return headings, cells


def told(made: Comparison) -> list[str]:
    """What stands under the table: what was equal, what is missing and why."""
    lines = [*made.notes, *(told_front(made) if swept(made.rows) else ())]
    lines += [f"{method} is left out: {why}" for method, why in made.left_out.items()]
    return lines + [f"{method} failed: {why}" for method, why in made.failed.items()]


def markdown(made: Comparison) -> str:
    """methods.md."""
    headings, cells = table(made)
    lines = [f"# {made.folder.name}: stage {made.stage}, method by method", ""]
    lines += [f"| {' | '.join(row)} |" for row in (headings, ["---"] * len(headings), *cells)]
    lines += ["", "Figures in brackets are 95 % intervals. ↑ higher is better, ↓ lower is better.", ""]
    tradeoff = ["![quality over forgetting](tradeoff.svg)", ""] if swept(made.rows) and points(made) else []
    return "\n".join([*lines, *(f"- {line}" for line in told(made)), "", "![methods](methods.svg)", "", *tradeoff])


def picture(made: Comparison) -> str:
    """methods.svg."""
    costs = [
        ("peak memory", [float(row.peak_bytes) for row in made.rows], size),
        ("time", [row.seconds for row in made.rows], duration),
        ("trained", [float(row.trainable_parameters) for row in made.rows], count),
        ("on disk", [float(row.disk_bytes) for row in made.rows], size),
    ]
    names = [variant_of(row.method).words for row in made.rows]
    figures = [
        (replace(c), [row.figures.get(c.name) for row in made.rows], made.before.get(c.name)) for c in made.columns
    ]
    title = f"{made.stage}, method by method"
    return methods_picture(title, made.notes[0], names, figures, costs)
