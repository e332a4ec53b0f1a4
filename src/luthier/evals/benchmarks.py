"""Which tasks a benchmark's name means, which of their items are asked, and what came of each.

A name is one of ours, whose rows are read from a folder (`tasks/`); a YAML in lm-eval's syntax; a file of one's own
questions; or anything that lm-eval itself knows.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

from luthier.base.errors import UserError, did_you_mean
from luthier.base.files import hash_of
from luthier.evals.harness import Harness
from luthier.evals.tasks.readers import has_options, rows_of

OURS = Path(__file__).parent / "tasks"
QUESTIONS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".gz")


class Benchmark(NamedTuple):
    """What one name asks: its tasks by name (MMLU has one a subject)."""

    name: str
    tasks: dict[str, Any]
    sizes: dict[str, int]
    """Items of each task."""


class Item(NamedTuple):
    """What came of one item."""

    task: str
    origin: str
    values: dict[str, float]
    """By metric; where the task cuts the answer in several ways, "metric,filter"."""
    sample: dict[str, Any]
    """lm-eval's own record of it: document, requests, responses."""


def local_names() -> list[str]:
    """The benchmarks whose rows can be read from a folder."""
    return sorted(path.stem for path in OURS.glob("*.yaml") if not path.stem.startswith("quiz"))


def load_benchmarks(names: Sequence[str], folder: Path | None, shots: int | None) -> list[Benchmark]:
    """The benchmarks of some names. `shots`: examples in the prompt; None: as each task says.
    Raises UserError, all at once: unknown names, rows that are missing or broken."""
    found, wrong = [], []
    for name in dict.fromkeys(names):
        try:
            found.append(load_benchmark(name, folder, shots))
        except UserError as error:
            wrong += error.problems
    if wrong:
        raise UserError(wrong)
    return found


def of_tasks(name: str, tasks: dict[str, Any]) -> Benchmark:
    """Some tasks under one name."""
    return Benchmark(name, tasks, {each: len(task.eval_docs) for each, task in tasks.items()})


def load_benchmark(name: str, folder: Path | None, shots: int | None) -> Benchmark:
    """One of `load_benchmarks`."""
    from lm_eval.tasks._yaml_loader import load_yaml

    if name.lower().endswith(QUESTIONS):
        return quiz(Path(name).name.split(".")[0], {"file": name}, shots)
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise UserError(f"{name}: no such file. Name a task, a YAML, or a file of questions.")
        written = load_yaml(name)
        if "jsonl" in written:
            file = Path(name).parent / str(written.pop("jsonl"))
            return quiz(str(written.pop("task", file.stem)), {"file": str(file)}, shots, written)
    elif folder is not None and (known := ours(name)) is not None:
        given = {"folder": str(folder)}
        if name != "mmlu":
            return of_tasks(name, {name: built(name, known, given, shots)})
        subjects = sorted(
            {str(row.get("subject")) for row, _ in rows_of(str(folder), "mmlu", r"mmlu.*\btest\b", "MMLU")}
        )
        return of_tasks(name, {f"mmlu_{s}": built(f"mmlu_{s}", known, given | {"subject": s}, shots) for s in subjects})
    elif folder is not None and not Path(name).suffix:
        near = did_you_mean(name, local_names())
        raise UserError(f"{name}: no benchmark that reads a folder.{near} There are: {', '.join(local_names())}.")
    return theirs(name, shots)


def ours(name: str) -> dict[str, Any] | None:
    """The YAML of one of our own tasks."""
    from lm_eval.tasks._yaml_loader import load_yaml

    stem, subject = ("mmlu", name.removeprefix("mmlu_")) if name.startswith("mmlu_") else (name, None)
    path = OURS / f"{stem}.yaml"
    if not path.exists():
        return None
    return load_yaml(path) | ({"subject": subject} if subject else {})


def quiz(name: str, given: Mapping[str, str], shots: int | None, changes: Mapping[str, Any] | None = None) -> Benchmark:
    """A task of one's own, from a file of questions; `changes` are settings of lm-eval's."""
    from lm_eval.tasks._yaml_loader import load_yaml

    file = Path(given["file"])
    rows = rows_of(str(file), name, "", file.name)
    known = load_yaml(OURS / ("quiz_choices.yaml" if has_options(rows[0][0]) else "quiz_answers.yaml"))
    return of_tasks(name, {name: built(name, known | dict(changes or {}), given, shots)})


def built(name: str, known: Mapping[str, Any], given: Mapping[str, str], shots: int | None) -> Any:
    """A task of ours with its rows."""
    from lm_eval.api.task import ConfigurableTask

    config = deepcopy(dict(known))
    subject = config.pop("subject", None) or given.get("subject")
    config["task"] = name
    if shots and "fewshot_split" not in config:
        raise UserError(f"{name}: --shots {shots}: all of its rows are asked, and none is left to show. Leave it away.")
    config["dataset_kwargs"] = {**config.get("dataset_kwargs", {}), **given} | ({"subject": subject} if subject else {})
    if subject:
        config["description"] = (
            f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
        )
    return with_shots(ConfigurableTask(config=config), shots)


def theirs(name: str, shots: int | None) -> Benchmark:
    """A task or a group of lm-eval's own, or a YAML of one's own in its syntax."""
    from lm_eval.tasks import TaskManager

    yaml = Path(name) if name.endswith((".yaml", ".yml")) else None
    manager = TaskManager(include_path=str(yaml.parent) if yaml else None)
    try:
        loaded = manager.load([str(yaml) if yaml else name])
    except KeyError as error:
        near = did_you_mean(name, [*manager.all_tasks, *local_names()])
        raise UserError(f"{name}: no such task.{near} A folder of rows is given with --data.") from error
    except UserError:
        raise
    except Exception as error:  # a task is foreign code and data: it may fail in any way
        offline = os.environ.get("HF_HUB_OFFLINE") == "1"
        why = "its rows are not here, and the run is offline" if offline else f"its rows cannot be had ({short(error)})"
        there = f" {name} can be read from a folder: give it with --data." if name in local_names() else ""
        raise UserError(f"{name}: {why}.{there or ' Copy them, and write a YAML that reads the copy.'}") from error
    return of_tasks(yaml.stem if yaml else name, {n: with_shots(task, shots) for n, task in loaded["tasks"].items()})


def short(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def with_shots(task: Any, shots: int | None) -> Any:
    """A task with so many examples in its prompt, drawn as lm-eval draws them. A task that says 0 stays without."""
    fixed = task.get_config("num_fewshot")
    if shots is not None and fixed != 0:
        task.set_config(key="num_fewshot", value=shots)
    elif fixed is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=1234)  # lm-eval's default
    return task


def chosen(benchmark: Benchmark, limit: float | None) -> dict[str, list[int]]:
    """The items to ask, by task: all, or `limit` of the benchmark (a share, where below 1), shared among its tasks in
    proportion to their size, each at least one. Which, is a function of the item's number: fewer are among more."""
    sizes = benchmark.sizes
    total = sum(sizes.values())
    if limit is None or limit >= total:
        return {name: list(range(size)) for name, size in sizes.items()}
    wanted = max(1, round(limit * total) if limit < 1 else int(limit))
    exact = {name: wanted * size / total for name, size in sizes.items()}
    counts = {name: max(1, int(share)) for name, share in exact.items()}
    for name in sorted(exact, key=lambda name: (int(exact[name]) - exact[name], name)):
        if sum(counts.values()) >= wanted:
            break
        counts[name] += counts[name] < sizes[name]
    order = lambda name: sorted(range(sizes[name]), key=lambda n: hashlib.sha256(f"{name}:{n}".encode()).digest())  # noqa: E731
    return {name: sorted(order(name)[:count]) for name, count in counts.items()}


def chosen_of(benchmarks: Sequence[Benchmark], limit: float | None) -> dict[str, list[int]]:
    """The items of all benchmarks' tasks, by task: what `chosen` takes of each."""
    return only(benchmarks, {task: some for one in benchmarks for task, some in chosen(one, limit).items()})


def only(benchmarks: Sequence[Benchmark], items: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """Takes all other rows from our own tasks, and returns the numbers that the items have then: lm-eval reads every
    row of a task several times to find the few that are asked. Other tasks stay as they are; they may show their rows
    as examples."""
    numbers = {}
    for name, task in ((name, task) for benchmark in benchmarks for name, task in benchmark.tasks.items()):
        wanted = list(items[name])
        numbers[name] = wanted
        config = task.config
        split = config.test_split or config.validation_split
        examples = config.num_fewshot and config.fewshot_split in (None, split)
        if config.custom_dataset is not None and not examples and len(wanted) < len(task.eval_docs):
            task.dataset = {**task.dataset, split: task.dataset[split].select(wanted)}
            numbers[name] = list(range(len(wanted)))
    return numbers


def ask(
    harness: Harness, benchmarks: Sequence[Benchmark], items: Mapping[str, Sequence[int]], chat: bool
) -> list[Item]:
    """Asks the items of all tasks at once, and judges the answers as each task does. `chat`: in the model's template.
    Raises UserError where a task has no items."""
    from lm_eval.evaluator import evaluate

    tasks = {name: task for benchmark in benchmarks for name, task in benchmark.tasks.items()}
    if empty := [name for name in tasks if not items[name]]:
        raise UserError([f"{name}: it has no items to ask. Is its file empty?" for name in empty])
    found = evaluate(
        lm=harness,
        task_dict={"tasks": tasks, "groups": {}, "group_map": {}},
        samples={name: list(items[name]) for name in tasks},
        bootstrap_iters=0,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
        log_samples=True,
    )
    return [item for name in tasks for item in items_of(name, found["samples"][name])]


def items_of(task: str, samples: Sequence[Mapping[str, Any]]) -> list[Item]:
    """lm-eval's records of a task (one for each way it cuts the answer), by item."""
    several = len({sample["filter"] for sample in samples}) > 1
    by_item: dict[int, Item] = {}
    for sample in samples:
        values = {
            f"{metric},{sample['filter']}" if several else metric: float(sample[metric])
            for metric in sample["metrics"]
            if isinstance(sample[metric], int | float)
        }
        origin = str(sample["doc"].get("origin") or f"{task}[{sample['doc_id']}]")
        known = by_item.setdefault(sample["doc_id"], Item(task, origin, {}, dict(sample)))
        known.values.update(values)
    return [by_item[number] for number in sorted(by_item)]


class Asked(NamedTuple):
    """What was measured, in words and hashes: two results are of the same thing where these are equal."""

    shots: int
    prompt: str
    """The first prompt, as the model saw it."""
    normalisation: str
    data: str
    """Hash of the rows that were asked, and of their prompts."""
    version: str
    """The task's own."""


def asked_of(task: Any, items: Sequence[Item]) -> Asked:
    """What a task's items were."""
    requests = [item.sample["arguments"] for item in items]
    return Asked(
        shots=int(task.config.num_fewshot or 0),
        prompt=str(requests[0][0][0]),
        normalisation=normalisation(list(items[0].values)),
        data=hash_of([[str(part) for part in request] for item in requests for request in item])[:12],
        version=str(task.VERSION),
    )


def normalisation(metrics: Sequence[str]) -> str:
    """How options of different length are compared, by the metric that says it."""
    said = {"acc": "log-likelihood", "acc_norm": "log-likelihood a character", "acc_bytes": "log-likelihood a byte"}
    return "; ".join(f"{metric}: {said[metric]}" for metric in metrics if metric in said) or "none"
