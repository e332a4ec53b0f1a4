"""A run's models on benchmarks, stage by stage: what `benchmarks:` of a recipe asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.base.benchmarks import Benchmarks
from luthier.base.events import EventLog
from luthier.base.files import hash_of, read_json, write_json
from luthier.base.functions import resolve_path
from luthier.evals.intervals import Figure
from luthier.run.context import Context, ModelRef
from luthier.run.memo import code_hash, versions

Rows = dict[tuple[str, str], dict[str, Any]]
"""(benchmark, model) -> what was measured: items' values, where they come from, the figure, what it is of."""


def wanted_of(context: Context, settings: Benchmarks) -> Any:
    """What is asked, with paths as they are from here."""
    from luthier.run.benchmark import Wanted

    here = lambda name: str(resolve_path(context.recipe_path, name))  # noqa: E731
    tasks = tuple(here(task) if Path(task).suffix else task for task in settings.tasks)
    folder = None if settings.folder is None else Path(here(settings.folder))
    return Wanted(tasks, folder, settings.shots, settings.limit, settings.chat)


def check_rows(context: Context) -> None:
    """Loads the tasks, so that an unknown one, or rows that are missing, are told before anything is trained.
    Raises UserError."""
    if context.recipe.benchmarks is not None:
        from luthier.evals.benchmarks import load_benchmarks

        wanted = wanted_of(context, context.recipe.benchmarks)
        load_benchmarks(wanted.tasks, wanted.folder, wanted.shots)


def measured_on_benchmarks(context: Context, log: EventLog) -> Rows:
    """Each model on each benchmark; what is on disk already is not measured again."""
    settings = context.recipe.benchmarks
    if settings is None:
        return {}
    made = [name for name in context.models if name != "base" or context.recipe.base.fresh is None]
    refs = [context.models[name] for name in settings.after or made if name in context.models]
    from luthier.evals.benchmarks import chosen_of, load_benchmarks

    wanted = wanted_of(context, settings)
    benchmarks = load_benchmarks(wanted.tasks, wanted.folder, wanted.shots)
    items = chosen_of(benchmarks, wanted.limit)
    rows: Rows = {}
    for ref in refs:
        for name, row in of_model(context, settings, benchmarks, items, ref, log).items():
            rows[name, ref.name] = row
            log.emit("eval", step=0, name=f"{name}.{ref.name}", **row["figure"])
    return rows


def rows_hash(benchmarks: Sequence[Any], items: Mapping[str, Sequence[int]]) -> str:
    """Hash of the rows that are asked, and of those that may be shown as examples."""
    shown = []
    for name, task in ((name, task) for one in benchmarks for name, task in one.tasks.items()):
        examples = task.fewshot_docs() if task.config.num_fewshot else None
        shown.append([name, [str(task.eval_docs[n]) for n in items[name]], [str(row) for row in examples or ()]])
    return hash_of(shown)


def of_model(
    context: Context,
    settings: Benchmarks,
    benchmarks: Sequence[Any],
    items: Mapping[str, Sequence[int]],
    ref: ModelRef,
    log: EventLog,
) -> dict[str, dict[str, Any]]:
    """One model on all benchmarks, by the name of each."""
    from luthier.evals.engine import Answers
    from luthier.evals.harness import Harness
    from luthier.run.benchmark import measured_on

    made_by = hash_of({"model": ref.hash, "versions": versions(), "code": code_hash()})[:8]
    key = hash_of([settings.model_dump(), rows_hash(benchmarks, items)])[:8]
    path = context.folder / "measures" / f"benchmarks-{ref.name}-{made_by}-{key}.json"
    if path.exists():
        return read_json(path)
    log.emit("note", text=f"measuring {', '.join(one.name for one in benchmarks)} after {ref.name}")
    loaded = context.load(ref)
    harness = Harness(loaded, Answers(path.with_name(f"answers-{ref.name}-{made_by}.jsonl")))
    found = {}
    for one in benchmarks:
        made = measured_on(harness, ref.name, one, items, settings.chat)
        metric, figure = next(iter(made.figures.items()))
        found[one.name] = {
            "right": [item.values[metric] for item in made.items],
            "origins": [item.origin for item in made.items],
            "metric": metric,
            "figure": figure.as_dict(),
            "of": made.of,
            "cut": made.cut,
            "asked": {name: asked._asdict() for name, asked in made.asked.items()},
        }
    write_json(path, found)
    return found


def benchmark_metrics(rows: Rows) -> dict[str, Any]:
    """Figures for report.json, by benchmark and model."""
    found: dict[str, Any] = {}
    for (name, model), row in rows.items():
        figure = Figure(**row["figure"]).as_dict()
        found.setdefault(name, {})[model] = figure | {"metric": row["metric"], "of": row["of"]}
        if row["cut"]:
            found[name][model]["cut"] = row["cut"]
    return found
