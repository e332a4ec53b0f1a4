"""What `learning_curve:` may hold, and how sizes are written: 1/8, 0.25, 1/16..1."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from pydantic import Field

from luthier.base.errors import did_you_mean
from luthier.base.strict import Strict

if TYPE_CHECKING:
    from luthier.base.recipe import Recipe

MEASURED = ("answers", "choices", "fill_mask", "loss", "pseudo_perplexity")
"""Probes whose figures fall or rise with the data, item by item; the first of a recipe is the one that is forecast."""
LEAST_STEPS = 40
FEWEST = 3
"""Sizes that a curve of three parameters needs at least."""
MOST_PARTS = 40


class LearningCurve(Strict):
    """One stage trained again on parts of its data, for the report to say what more data would buy. The whole data is
    the stage itself, which is not trained again; the other sizes cost about as much as they are parts of it."""

    stage: str | None = None
    """Which pretrain or sft stage; default: the last one."""
    metric: str | None = None
    """The probe whose figure is forecast; default: the first that measures answers or choices, else a loss."""
    sizes: list[float | str] = ["1/8", "1/4", "1/2", "1"]
    """Parts of the stage's training rows, each within the larger ones: 1/8, 0.25, or 1/16..1 for all doublings."""
    seeds: int = Field(default=1, ge=1, le=20)
    """Trainings at each size. One says little of how much luck there is; three are better."""
    least_steps: int = Field(default=LEAST_STEPS, ge=1)
    """Optimizer steps that even the smallest part takes. A part trains for the stage's epochs, so for fewer steps than
    the whole; where that would be fewer than this, for more epochs."""
    more: int = Field(default=500, ge=1)
    """Examples more that the forecast is about."""
    worth: float | None = Field(default=None, gt=0)
    """What doubling the data has to bring to be worth it: points of 100 for shares, default 1; nats a token for
    losses, default a hundredth of the loss."""


def sizes_of(written: Sequence[float | str]) -> tuple[float, ...]:
    """Parts between 0 and 1 in rising order. Raises ValueError, in words, for what is no part, and for fewer than three
    of them."""
    found: set[float] = set()
    for one in written:
        low, dots, high = str(one).partition("..")
        if dots:
            first, last = size_of(low), size_of(high)
            if first > last:
                raise ValueError(f"{one} runs backwards. Write the smaller one first: {high}..{low}.")
            doublings = int(math.log2(last / first) + 1e-9)
            found |= {first * 2**k for k in range(doublings + 1)} | {last}
        else:
            found.add(size_of(str(one)))
    if len(found) < FEWEST:
        count = len(found) or "no"
        raise ValueError(f"{count} sizes: a curve needs at least {FEWEST}. Write 1/8..1, for example.")
    if len(found) > MOST_PARTS:
        raise ValueError(f"{len(found)} sizes are more than {MOST_PARTS}. Begin with a larger one.")
    return tuple(sorted(found))


def size_of(text: str) -> float:
    """0.125 of "1/8" or "0.125". Raises ValueError for what is no part."""
    try:
        value = float(Fraction(text.strip()))
    except (ValueError, ZeroDivisionError):
        raise ValueError(f'"{text.strip()}" is no part of the data. Write 1/8, 0.25 or 1/16..1.') from None
    if not 0 < value <= 1:
        raise ValueError(f"{text.strip()} is not above 0 and at most 1, which is all the data.")
    return value


def size_words(share: float) -> str:
    """'1/8' of 0.125; '0.3' of what is no such fraction."""
    near = Fraction(share).limit_denominator(1000)
    return f"{near}" if abs(float(near) - share) < 1e-9 and near.numerator == 1 else f"{share:g}"


def curved(recipe: Recipe) -> dict[str, int]:
    """Index, by name, of the stages that a learning curve can be of."""
    return {s.name or s.kind: i for i, s in enumerate(recipe.stages) if s.kind in ("pretrain", "sft")}


def check_curve(recipe: Recipe) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """The stage, the probe and the sizes of a recipe's learning curve are there, and the budget leaves it out of its
    plan."""
    how = recipe.learning_curve
    if how is None:
        return
    at, stages = ("learning_curve",), curved(recipe)
    metrics = [name for name, probe in recipe.evaluate.items() if probe.kind in MEASURED]
    if not stages:
        yield at, "has no stage to train again: there is none of kind pretrain or sft. Remove it."
    elif how.stage is not None and how.stage not in stages:
        hint = did_you_mean(how.stage, stages)
        yield (*at, "stage"), f'no pretrain or sft stage "{how.stage}".{hint} There are: {", ".join(stages)}.'
    if how.metric is not None and how.metric not in metrics:
        hint = did_you_mean(how.metric, metrics)
        yield (*at, "metric"), f'no such probe under evaluate: "{how.metric}".{hint} There are: {", ".join(metrics)}.'
    try:
        sizes_of(how.sizes)
    except ValueError as error:
        yield (*at, "sizes"), f"{error}"
    if recipe.budget is not None and recipe.budget.hours is not None:
        yield at, "is not in the plan of budget.hours. Remove it, and ask `luthier curve` when the run has ended."
    yield from check_curve_data(recipe, how, stages)


def check_curve_data(
    recipe: Recipe, how: LearningCurve, stages: dict[str, int]
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """The stage's rows are at hand, for parts of them are taken."""
    index = stages.get(how.stage) if how.stage is not None else max(stages.values(), default=None)
    for name in data_of(recipe, index) if index is not None else ():
        if name in recipe.data and recipe.data[name].stream:
            said = f"takes parts of data.{name}, which is streamed. Remove stream: true there, or give a limit."
            yield ("learning_curve",), said


def data_of(recipe: Recipe, index: int) -> list[str]:
    """Names of the sources that are taken in parts: those of the stage's own data, not what it replays."""
    stage = recipe.stages[index]
    assert stage.kind in ("pretrain", "sft")
    named: str | dict[str, float] = stage.model_dump()["data"]
    return [named] if isinstance(named, str) else list(named)
