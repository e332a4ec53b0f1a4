"""What `benchmarks:` may hold: public tests, or one's own, before and after each stage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from luthier.base.strict import Strict


class Benchmarks(Strict):
    """Benchmarks that the run's models are measured on, as `luthier eval` measures them: what tuning cost in general
    ability, in the same picture as what it gained. Needs the extra `eval`."""

    tasks: list[str] = Field(min_length=1)
    """arc_easy, hellaswag, mmlu, …; any task of lm-eval's; a YAML or a file of questions, relative to the recipe."""
    folder: str | None = None
    """Where the tasks' rows are, relative to the recipe. Default: as lm-eval finds them."""
    after: list[str] | None = None
    """Names of the stages after which to measure; default: base and every language model."""
    limit: float | None = Field(default=200, gt=0)
    """Items of each benchmark, the same for every model; below 1, a share. null: all."""
    shots: int | None = Field(default=None, ge=0)
    """Examples in the prompt; default: the task's."""
    chat: bool = False
    """Ask in the chat template; every model that is measured must then have one."""


def check_benchmarks(
    benchmarks: Benchmarks | None, stages: list[str], probes: Any
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """(place, problem) of what `benchmarks` says, beside the names of stages that make a language model."""
    if benchmarks is None:
        return
    for index, name in enumerate(benchmarks.after or ()):
        if name not in (*stages, "base"):
            there = ", ".join(("base", *stages))
            yield ("benchmarks", "after", index), f"{name} is no stage that makes a language model. There are: {there}."
    for index, task in enumerate(benchmarks.tasks):
        if task in probes:
            yield (
                ("benchmarks", "tasks", index),
                f"{task} is also the name of a probe under evaluate. Rename the probe.",
            )
