"""`luthier eval`: models on benchmarks, with intervals."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from luthier.base.errors import UserError
from luthier.quiet import quiet
from luthier.verbs.common import Offline, screen

if TYPE_CHECKING:
    from rich.console import Console

    from luthier.evals.engine import Watch
    from luthier.run.benchmark import Difference, Measured

SAY_EVERY_S = 15.0
"""Between two lines of progress where there is no terminal."""

Models = Annotated[
    list[str],
    typer.Argument(metavar="MODEL...", help="A run (runs/demo, demo:sft), a model's folder, or org/name of the hub."),
]


def evaluate(
    models: Models,
    tasks: Annotated[
        str | None,
        typer.Option(metavar="A,B,…", help="arc_easy,mmlu,…; any task of lm-eval; a YAML; a file of questions."),
    ] = None,
    data: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where the benchmarks' rows are.")] = None,
    limit: Annotated[
        float | None, typer.Option(help="Items of each benchmark; below 1, a share. Drawn alike for every model.")
    ] = None,
    shots: Annotated[int | None, typer.Option(min=0, help="Examples in the prompt; default: the task's.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask in the model's chat template.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for results; default: evals/ and the model's name.")] = None,
    offline: Offline = False,
    fix: Annotated[
        bool, typer.Option("--fix", help="Instead: the rows of a run to correct or add, as a list.")
    ] = False,
    apply: Annotated[
        Path | None, typer.Option(metavar="WORKLIST", help="With --fix: write the data set that the list makes.")
    ] = None,
    accept_drafts: Annotated[
        bool, typer.Option("--accept-drafts", help="With --apply: take every draft unread.")
    ] = False,
    before: Annotated[str | None, typer.Option(metavar="RUN", help="With --fix: each mistake in RUN and now.")] = None,
) -> None:
    """Measures models on benchmarks: ARC, HellaSwag, MMLU, TruthfulQA, GSM8K, your own questions, any lm-eval task.

    With --fix, what a run gets wrong becomes a list of training rows to correct or to add."""
    if fix:
        return mend(models, tasks, out, apply, accept_drafts, before)
    if apply is not None or accept_drafts or before is not None:
        raise UserError("--apply, --accept-drafts and --before go with --fix.")
    if not tasks:
        raise UserError("--tasks: name what to measure, such as --tasks arc_easy,hellaswag --data FOLDER.")
    if limit is not None and limit <= 0:
        raise UserError(f"--limit: {limit:g} items are none. Give a number above 0.")
    quiet(downloads=not offline, offline=offline or data is not None)
    console = screen()
    console.print("loading libraries and questions …", style="dim")
    from luthier.run.benchmark import Wanted, measure_models
    from luthier.run.subjects import slug

    wanted = Wanted(tuple(part.strip() for part in tasks.split(",") if part.strip()), data, shots, limit, chat)
    folder = out or Path("evals") / "-vs-".join(slug(name) for name in models)[:80]
    began = time.monotonic()
    with Progressing(console) as progressing:
        measured, differences, where = measure_models(models, wanted, folder, progressing.watch)
    console.print()
    console.print(table(measured))
    for line in notes(measured, differences):
        console.print(line, soft_wrap=True, markup=False)
    console.print(f"\n{time.monotonic() - began:.0f} s   {where / 'results.json'}", markup=False, soft_wrap=True)


def mend(
    runs: list[str], tasks: str | None, out: Path | None, apply: Path | None, accept_drafts: bool, before: str | None
) -> None:
    """`--fix`. Raises UserError where it is asked with what it cannot use."""
    if len(runs) > 1 or tasks:
        raise UserError("--fix: give one run and no --tasks: it reads what the run's `mistakes` probe found.")
    quiet(downloads=False, offline=True)
    from luthier.verbs.fixing import fix

    fix(runs[0], out, apply, accept_drafts, before)


def table(measured: list[Measured]) -> object:
    """One line a benchmark and metric, one column a model."""
    from rich.table import Table

    models = list(dict.fromkeys(one.model for one in measured))
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("benchmark", "metric", "shots", "items"):
        made.add_column(column, justify="right" if column in ("shots", "items") else "left")
    for model in models:
        made.add_column(model, justify="right")
    by_place = {(one.benchmark, one.model): one for one in measured}
    for benchmark in dict.fromkeys(one.benchmark for one in measured):
        first = by_place[benchmark, models[0]]
        shots = "+".join(str(n) for n in sorted({asked.shots for asked in first.asked.values()}))
        count = f"{len(first.items):,}" + (f" of {first.of:,}" if len(first.items) < first.of else "")
        for metric in first.figures:
            cells = []
            for model in models:
                figure = by_place[benchmark, model].figures[metric]
                cells.append(f"{figure.value * 100:.1f} % [{figure.low * 100:.1f}, {figure.high * 100:.1f}]")
            made.add_row(benchmark, metric, shots, count, *cells)
    return made


def notes(measured: list[Measured], differences: list[Difference]) -> list[str]:
    """What the table does not say: who is better, and what was cut."""
    said = [f"{d.model} on {d.benchmark} ({d.metric}): {d.words}" for d in differences]
    for one in measured:
        if one.cut:
            what = f"{one.cut} requests are longer than its context and lost their beginning"
            said.append(f"! {one.model} on {one.benchmark}: {what}")
    return said


class Progressing:
    """Progress of an evaluation: an estimate as soon as there is one, then a bar; lines where there is no terminal."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = console
        self.bars = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip

    def __enter__(self) -> Progressing:
        self.bars.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.__exit__(*error)  # type: ignore[arg-type]

    def watch(self, model: str) -> Watch:
        """Who hears of one model's evaluation."""
        from luthier.evals.engine import Watch, Work

        bar = self.bars.add_task(model, total=None)
        state = {"total": 0, "done": 0, "batches": 0, "began": 0.0, "said": 0.0, "warm": 0}

        def plan(work: Work) -> None:
            now = time.monotonic()
            state.update(total=work.tokens, done=0, batches=0, began=now, said=now, warm=0)
            self.bars.update(bar, total=max(1, work.tokens), completed=0)
            if work.requests:
                self.console.print(
                    f"{model}: {work.requests:,} requests, {work.tokens:,} tokens, {work.predictions:,} of them scored",
                    style="dim", markup=False, soft_wrap=True,
                )  # fmt: skip

        def done(work: Work) -> None:
            state["done"] += work.tokens
            state["batches"] += 1
            now = time.monotonic()
            self.bars.update(bar, completed=state["done"])
            if state["batches"] == 1:  # the first is slow for reasons of its own
                state.update(began=now, warm=state["done"])
                return
            left_s = (now - state["began"]) / max(1, state["done"] - state["warm"]) * (state["total"] - state["done"])
            if state["batches"] == 2 and left_s > SAY_EVERY_S:
                self.console.print(f"{model}: about {spoken(left_s)}", style="dim", markup=False)
            elif not self.console.is_terminal and now - state["said"] > SAY_EVERY_S:
                state["said"] = now
                share = state["done"] / max(1, state["total"])
                self.console.print(f"{model}: {share:.0%}, about {spoken(left_s)} left", style="dim", markup=False)

        return Watch(plan, done)


def spoken(seconds: float) -> str:
    """A length of time in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
