"""A comparison of methods swept over learning rates and shares of replay: what each point gains, what it forgets.

Every method, rate and share is a stage of its own, called `lora.r0.001.s0.25`; without a sweep a stage is called by
its method.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.base.errors import UserError
from luthier.base.recipe import Pretrain, Recipe, Sft, Stage
from luthier.run.tradeoff import COLOURS, Axis, Span, Spot, front, plane

if TYPE_CHECKING:
    from luthier.run.against.compare import Comparison, Row

NAME = re.compile(r"(?P<method>[^.]+)(?:\.r(?P<rate>\d[\d.e+-]*?))?(?:\.s(?P<share>\d[\d.e-]*))?")


class Sweep(NamedTuple):
    """What is gone through besides the methods. Empty: each method once, as it would be."""

    rates: tuple[float, ...] = ()
    """Peak learning rates."""
    shares: tuple[float, ...] = ()
    """Shares of a step's tokens that replay earlier data; 0 is none."""


class Variant(NamedTuple):
    """One point of a sweep. None: as the method and the stage have it."""

    method: str
    rate: float | None = None
    share: float | None = None

    @property
    def name(self) -> str:
        """What its stage is called."""
        rate = "" if self.rate is None else f".r{self.rate:g}"
        return f"{self.method}{rate}{'' if self.share is None else f'.s{self.share:g}'}"

    @property
    def words(self) -> str:
        """'lora 0.001, 25 % replay'"""
        rate = "" if self.rate is None else f" {self.rate:g}"
        share = "" if self.share is None else f"{',' if rate else ''} {self.share:.0%} replay".replace("%", " %")
        return f"{self.method}{rate}{share}"


def variant_of(name: str) -> Variant:
    """The point of a stage's name."""
    found = NAME.fullmatch(name)
    assert found is not None, "made by Variant.name"
    rate, share = (None if found[key] is None else float(found[key]) for key in ("rate", "share"))
    return Variant(found["method"], rate, share)


def variants(method: str, sweep: Sweep) -> list[Variant]:
    """The points of one method, in the order of rates, then shares."""
    return [Variant(method, *both) for both in product(sweep.rates or (None,), sweep.shares or (None,))]


def sweep_of(rates: str | None, shares: str | None) -> Sweep:
    """The sweep of `--rates 1e-4,1e-3` and `--replay 0,0.25`. Raises UserError for what is no number, no rate above 0,
    no share from 0 to below 1."""
    wrong: list[str] = []
    found = [numbers(option, words, wrong) for option, words in (("--rates", rates), ("--replay", shares))]
    wrong += [f"--rates: {rate:g} is no learning rate. Give numbers above 0." for rate in found[0] if not rate > 0]
    wrong += [f"--replay: {s:g} is no share of a step. Give 0 to below 1." for s in found[1] if not 0 <= s < 1]
    if wrong:
        raise UserError(wrong)
    return Sweep(*found)


def numbers(option: str, words: str | None, wrong: list[str]) -> tuple[float, ...]:
    """The numbers of "a,b,c", each once."""
    found: dict[float, None] = {}
    for word in (words or "").split(","):
        if not word.strip():
            continue
        try:
            found[float(word)] = None
        except ValueError:
            wrong.append(f"{option}: {word.strip()} is no number. Write them with commas: 0.1,0.25.")
    return tuple(found)


def replayed(recipe: Recipe, stage: Stage, earlier: Sequence[Stage], sweep: Sweep) -> str | None:
    """The source that a sweep over shares replays: the stage's own, or what the first earlier stage trained on; None
    where no share is asked for. Raises UserError where there is none."""
    if not sweep.shares:
        return None
    if not isinstance(stage, Pretrain | Sft):
        raise UserError(f"--replay: is for stages of kind pretrain and sft, and this one is {stage.kind}.")
    if stage.replay is not None:
        return stage.replay.data
    own = {stage.data} if isinstance(stage.data, str) else set(stage.data)
    for other in earlier:
        if isinstance(other, Pretrain | Sft):
            named = [other.data] if isinstance(other.data, str) else list(other.data)
            if kept := [name for name in named if name in recipe.data and name not in own]:
                return kept[0]
    raise UserError("--replay: no earlier data to replay. Give the stage replay: {data: …, share: …}, to say which.")


def varied(settings: Mapping[str, Any], variant: Variant, source: str | None) -> dict[str, Any]:
    """A method's settings at one point of the sweep."""
    made = dict(settings) | {"name": variant.name}
    if variant.rate is not None:
        made["learning_rate"] = variant.rate
    if variant.share is not None:
        made.pop("replay", None)
        if variant.share > 0:
            made["replay"] = {"data": source, "share": variant.share}
    return made


class Point(NamedTuple):
    """One row of a comparison in the plane: what it forgot, what it gained."""

    variant: Variant
    forgot: Span
    quality: Span


def points(made: Comparison) -> list[Point]:
    """The rows that have both figures: the first of forgetting, and the first of quality."""
    rise, quality = columns(made)
    if rise is None or quality is None:
        return []
    found = []
    for row in made.rows:
        forgot, gained = row.figures.get(rise.name), row.figures.get(quality.name)
        if forgot is not None and gained is not None:
            found.append(Point(variant_of(row.method), span(forgot), span(gained)))
    return found


def columns(made: Comparison) -> tuple[Any, Any]:
    """(the column of forgetting, that of quality); None where there is none."""
    rise = next((column for column in made.columns if column.rise), None)
    return rise, next((column for column in made.columns if not column.rise), None)


def span(figure: Mapping[str, Any]) -> Span:
    """A figure with its interval."""
    return Span(figure["value"], figure.get("low"), figure.get("high"))


def best(made: Comparison) -> list[Point]:
    """The Pareto front: points that no other beats in both forgetting and quality; least forgetting first."""
    found = points(made)
    _, quality = columns(made)
    sign = 1.0 if quality is not None and quality.higher else -1.0
    spots = [Spot("", p.forgot, Span(sign * p.quality.value), "--ink") for p in found]
    return sorted((found[i] for i in front(spots)), key=lambda p: p.forgot.value)


def tradeoff_picture(made: Comparison) -> str:
    """tradeoff.svg: quality over forgetting, a line a method (over rates at each share, or over shares where there is
    one rate), the Pareto front filled and named. '' where one of the two was not measured."""
    found, kept = points(made), best(made)
    rise, quality = columns(made)
    methods = list(dict.fromkeys(point.variant.method for point in found))
    colour = {method: COLOURS[i % len(COLOURS)] for i, method in enumerate(methods)}
    over_rates = any(len({p.variant.rate for p in found if p.variant.method == m}) > 1 for m in methods)
    last: dict[tuple[str, float | None], int] = {}
    spots = []
    for i, point in enumerate(found):
        line = (point.variant.method, point.variant.share if over_rates else point.variant.rate)
        label = point.variant.words if point in kept else ""
        spots.append(Spot(label, point.forgot, point.quality, colour[line[0]], last.get(line), stressed=point in kept))
        last[line] = i
    better = "higher is better" if quality is not None and quality.higher else "lower is better"
    return plane(
        f"{made.stage}: quality over forgetting",
        spots,
        Axis(f"{rise.name if rise else ''}: rise since {made.start}, nats per token (left is better)"),
        Axis(f"{quality.name if quality else ''} ({better})", share=bool(quality and quality.share)),
        arrows=False,
        size=(760, 460),
        alone=True,
        legend=[(method, colour[method]) for method in methods],
    )


def told_front(made: Comparison) -> list[str]:
    """The front in words, for the notes under the table."""
    kept = best(made)
    if len(made.rows) < 2 or not kept:
        return []
    return [f"no other forgets less and does better than: {'; '.join(point.variant.words for point in kept)}"]


def swept(rows: Sequence[Row]) -> bool:
    """Whether the rows are points of a sweep."""
    return any(variant_of(row.method).name != variant_of(row.method).method for row in rows)
