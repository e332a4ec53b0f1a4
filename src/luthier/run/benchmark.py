"""Models on benchmarks: what was measured, how well each did, and which is better. Everything is kept; what was asked
once is not asked again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from luthier import __version__
from luthier.base.errors import UserError
from luthier.base.files import disk_errors, hash_of, write_json, write_jsonl
from luthier.base.pages import keep_freed_pages
from luthier.base.workers import cores
from luthier.evals.benchmarks import Asked, Benchmark, Item, ask, asked_of, chosen_of, load_benchmarks
from luthier.evals.engine import Answers, Watch
from luthier.evals.harness import Harness
from luthier.evals.intervals import Figure, bootstrap_mean, paired_bootstrap, stratified, wilson
from luthier.run.context import run_lock
from luthier.run.memo import code_hash, hardware, versions
from luthier.run.subjects import Asking as Asking
from luthier.run.subjects import Subject, open_subjects, slug


class Wanted(NamedTuple):
    """What to ask."""

    tasks: tuple[str, ...]
    folder: Path | None = None
    """Where their rows are; None: as lm-eval finds them."""
    shots: int | None = None
    limit: float | None = None
    """Items of each benchmark; a share, where below 1."""
    chat: bool = False
    """In the model's chat template."""


class Measured(NamedTuple):
    """One model on one benchmark."""

    model: str
    benchmark: str
    figures: dict[str, Figure]
    """By metric."""
    items: list[Item]
    asked: dict[str, Asked]
    """By task."""
    of: int
    """Items that the benchmark has."""
    cut: int
    """Requests that lost their beginning, because they were longer than the model's context."""


class Difference(NamedTuple):
    """Another model's figure less the first one's, over the same items."""

    model: str
    benchmark: str
    metric: str
    figure: Figure

    @property
    def words(self) -> str:
        """Whether it is real."""
        points = (
            f"{abs(self.figure.value) * 100:.1f} points [{self.figure.low * 100:+.1f}, {self.figure.high * 100:+.1f}]"
        )
        if self.figure.low <= 0 <= self.figure.high:
            return f"{points}: not shown to be a difference"
        return f"{points} {'better' if self.figure.value > 0 else 'worse'}: a real difference"


def measure_models(
    names: Sequence[str], wanted: Wanted, out: Path, watch: Callable[[str], Watch] = lambda model: Watch()
) -> tuple[list[Measured], list[Difference], Path]:
    """Each model on each benchmark, the differences from the first model, and the folder with `results.json`, the items
    and every answer. `watch` gives who hears of a model's progress.

    Raises UserError for what is asked wrongly (a model, a task, rows that are missing), all at once; RunError where the
    folder cannot be written."""
    keep_freed_pages()
    torch.set_num_threads(cores())
    subjects = open_subjects(names, Asking())
    if elsewhere := [s.label for s in subjects if s.load is None]:
        raise UserError(
            [f"{name}: an endpoint does not say log-likelihoods. Measure a model here." for name in elsewhere]
        )
    benchmarks = load_benchmarks(wanted.tasks, wanted.folder, wanted.shots)
    items = chosen_of(benchmarks, wanted.limit)
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    measured = []
    with run_lock(out):
        for subject in subjects:
            measured += measure_model(subject, benchmarks, items, wanted, out, watch(subject.label))
        differences = compared(measured)
        write_json(out / "results.json", results(measured, differences, subjects, wanted))
    return measured, differences, out


def measure_model(
    subject: Subject,
    benchmarks: Sequence[Benchmark],
    items: Mapping[str, Sequence[int]],
    wanted: Wanted,
    out: Path,
    watch: Watch,
) -> list[Measured]:
    """One model on all benchmarks. What it answered is kept beside the results, by the model, the code and the
    libraries that made it."""
    assert subject.load is not None
    loaded = subject.load()
    if loaded.lm.encoder is not None:
        raise UserError(f"{subject.label}: an encoder has no likelihood of a text. Measure it with fill_mask probes.")
    made_by = hash_of({"model": subject.model_hash, "versions": versions(), "code": code_hash()})[:12]
    harness = Harness(loaded, Answers(out / f"answers-{slug(subject.label)}-{made_by}.jsonl"), watch)
    found = []
    for one in benchmarks:  # one after the other: each is judged as soon as it is done
        found.append(measured_on(harness, subject.label, one, items, wanted.chat))
        name = f"items-{slug(subject.label)}-{one.name}.jsonl"
        write_jsonl(out / name, [row_of(item) for item in found[-1].items])
    return found


def measured_on(
    harness: Harness, model: str, benchmark: Benchmark, items: Mapping[str, Sequence[int]], chat: bool
) -> Measured:
    """A model on one benchmark."""
    before = harness.cut
    told = ask(harness, [benchmark], items, chat)
    by_task = {name: [item for item in told if item.task == name] for name in benchmark.tasks}
    asked = {name: asked_of(benchmark.tasks[name], some) for name, some in by_task.items()}
    figures = {metric: figure_of(metric, by_task, benchmark.sizes) for metric in told[0].values}
    size = sum(benchmark.sizes.values())
    return Measured(model, benchmark.name, figures, told, asked, size, harness.cut - before)


def row_of(item: Item) -> dict[str, Any]:
    """An item as a line: what was asked, what came, what it is worth."""
    sample = item.sample
    return {
        "task": item.task,
        "origin": item.origin,
        "values": item.values,
        "target": sample["target"],
        "requests": [[str(part) for part in request[:2]] for request in sample["arguments"]],
        "responses": [response[0] for response in sample["resps"]],
    }


def figure_of(metric: str, by_task: Mapping[str, Sequence[Item]], sizes: Mapping[str, int]) -> Figure:
    """A benchmark's figure from its items, its tasks weighted by their size."""
    values = {task: [item.values[metric] for item in items] for task, items in by_task.items() if items}
    if len(values) > 1:
        return stratified(list(values.values()), [sizes[task] for task in values])
    (alone,) = values.values()
    if all(value in (0.0, 1.0) for value in alone):
        return wilson(sum(alone), len(alone))
    return bootstrap_mean(alone, seed=0)


def compared(measured: Sequence[Measured]) -> list[Difference]:
    """Every other model against the first, item by item."""
    first = {one.benchmark: one for one in measured if one.model == measured[0].model}
    found = []
    for other in measured:
        base = first[other.benchmark]
        if other.model == base.model:
            continue
        for metric in other.figures:
            a, b = ([item.values[metric] for item in one.items] for one in (other, base))
            found.append(Difference(other.model, other.benchmark, metric, paired_bootstrap(a, b, seed=0)))
    return found


def results(
    measured: Sequence[Measured], differences: Sequence[Difference], subjects: Sequence[Subject], wanted: Wanted
) -> dict[str, Any]:
    """results.json: figures with intervals, each under an id that says what was measured."""
    libraries = versions()
    return {
        "created": time.strftime("%Y-%m-%d %H:%M:%S"),
        "luthier": __version__,
        "code": code_hash(),
        "versions": libraries,
        "hardware": hardware("cuda" if torch.cuda.is_available() else "cpu"),
        "models": [{"name": s.label, "hash": s.model_hash} for s in subjects],
        "asked": {**wanted._asdict(), "folder": None if wanted.folder is None else str(wanted.folder)},
        "results": [
            {
                "id": id_of(one, metric, wanted.chat),
                "model": one.model,
                "benchmark": one.benchmark,
                "metric": metric,
                **figure.as_dict(),
                "of": one.of,
                "cut": one.cut,
                "tasks": {name: asked._asdict() for name, asked in one.asked.items()},
            }
            for one in measured
            for metric, figure in one.figures.items()
        ],
        "differences": [
            {"model": d.model, "benchmark": d.benchmark, "metric": d.metric, **d.figure.as_dict(), "words": d.words}
            for d in differences
        ],
    }


def id_of(one: Measured, metric: str, chat: bool) -> str:
    """What a figure is of, in one line: two figures can be compared where all but the model is equal."""
    asked = list(one.asked.values())
    data = asked[0].data if len(asked) == 1 else hash_of([a.data for a in asked])[:12]
    shots = "+".join(str(n) for n in sorted({a.shots for a in asked}))
    whole = "all" if len(one.items) == one.of else f"{len(one.items)} of {one.of}"
    version = asked[0].version
    template = "chat" if chat else "plain"
    return (
        f"{one.benchmark}:{metric} v{version} | {shots}-shot | {template} | {whole} items | data {data} | "
        f"lm-eval {lm_eval_version()} | luthier {__version__}+{code_hash()[:8]}"
    )


def lm_eval_version() -> str:
    """The installed version of lm-eval."""
    from importlib.metadata import version

    return version("lm_eval")
