"""A learning curve: one stage trained again on parts of its data, and what the law through the points says of more.

Everything stands in the run's own folder. The stages before are the run's, trained once and shared; the whole data is
the run's own stage; the parts stand in `curve-<stage>/`, each a memo, so that a killed curve goes on. A part whose
training fails is told of, and tried again by the same command. The models of the parts are measured and removed.
"""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from luthier.base.crosscheck import WRITES_TEXT, stage_name
from luthier.base.curves import LEAST_STEPS, MEASURED, curved, data_of, size_words, sizes_of
from luthier.base.errors import RunError, UserError, did_you_mean
from luthier.base.events import EventLog
from luthier.base.files import hash_of, write_text
from luthier.base.made import made_by
from luthier.base.probes import LossProbe, Probe
from luthier.base.recipe import Pretrain, Recipe, Sft
from luthier.base.seeds import seed_for
from luthier.data.dataset import part
from luthier.evals.forecast import as_json, outlook
from luthier.evals.powerlaw import Point, fit_curve
from luthier.run.context import Context, ModelRef
from luthier.run.learner import new_tokenizer
from luthier.run.measure import measured_file, remembered
from luthier.run.memo import StageFolder
from luthier.run.tune import sources_of, train_language_model
from luthier.train.ranks import here

NEVER = 10**9
"""Steps between looks at the held-out loss while a part trains: they decide nothing, and the probes look afterwards."""


@dataclass(frozen=True)
class Plan:
    """A curve about to be trained."""

    index: int
    """Of the stage in the recipe."""
    stage: Pretrain | Sft
    shares: tuple[float, ...]
    """Rising."""
    seeds: int
    probes: Mapping[str, Probe]
    """What is measured, by name; the first is forecast."""
    more: int
    worth: float | None
    least_steps: int
    """Of a part: where its epochs would be fewer steps than this, it takes these."""

    @property
    def name(self) -> str:
        """The stage's."""
        return stage_name(self.stage)


@dataclass(frozen=True)
class Trained:
    """One training on a part of the data, and what was measured of its model."""

    share: float
    seed: int
    n: int
    """Training examples."""
    steps: int
    seconds: float
    measured: Mapping[str, Any] = field(default_factory=dict)
    """By probe, item by item."""


def plan_curve(
    recipe: Recipe,
    sizes: Sequence[float | str],
    seeds: int,
    stage: str | None = None,
    metric: str | None = None,
    more: int = 500,
    worth: float | None = None,
    least_steps: int = LEAST_STEPS,
) -> Plan:
    """What is trained and measured. Raises UserError for what the recipe has not, or what is no size."""
    stages, wrong, shares = curved(recipe), list[str](), tuple[float, ...]()
    try:
        shares = sizes_of(sizes)
    except ValueError as error:
        wrong.append(f"--sizes: {error}")
    if not stages:
        wrong.append("stages: none of kind pretrain or sft: there is no data to take parts of.")
    elif stage is not None and stage not in stages:
        said = f"--stage {stage}: is no pretrain or sft stage.{did_you_mean(stage, stages)}"
        wrong.append(f"{said} There are: {', '.join(stages)}.")
    probes = {name: probe for name, probe in recipe.evaluate.items() if probe.kind in MEASURED}
    if metric is not None and metric not in probes:
        known = ", ".join(probes) or "none"
        wrong.append(f"--metric {metric}: no such probe under evaluate.{did_you_mean(metric, probes)} Fit: {known}.")
    if wrong:
        raise UserError(wrong)
    index = stages[stage] if stage is not None else max(stages.values())
    chosen = recipe.stages[index]
    assert isinstance(chosen, Pretrain | Sft)
    for name in data_of(recipe, index):
        if name in recipe.data and recipe.data[name].stream:
            said = f"data.{name}: is streamed, and parts of it are taken here. Set stream: false, or give it a limit."
            raise UserError(said)
    own = sources_of(chosen.data, None)
    fit = {name: p for name, p in probes.items() if not isinstance(p, LossProbe) or p.data in own or name == metric}
    if not fit:
        first = next(iter(own))
        fit["loss"] = LossProbe(kind="loss", data=first)
    first = metric or min(fit, key=lambda name: MEASURED.index(fit[name].kind))
    ordered = {first: fit[first]} | fit
    return Plan(index, chosen, shares, seeds, ordered, more, worth, least_steps)


def start_of(context: Context, plan: Plan) -> ModelRef | None:
    """The model that the stage starts from; None: random weights."""
    if plan.stage.init is not None:
        return context.models[plan.stage.init]
    before = [stage_name(s) for s in context.recipe.stages[: plan.index] if s.kind in WRITES_TEXT]
    if before:
        return context.models[before[-1]]
    return context.models["base"] if context.recipe.base.model is not None else None


def grow(context: Context, plan: Plan, log: EventLog) -> tuple[list[Trained], dict[str, str]]:
    """(trainings with what was measured, those that failed and why), the largest part first: it says how long the
    others will take. The stages before the curve's must have been run; so the stage itself, where all data is asked
    for. Raises RunError where fewer than three sizes came through."""
    folder = folder_of(context, plan)
    found: list[Trained] = []
    failed: dict[str, str] = {}
    for share in reversed(plan.shares):
        for seed in range(plan.seeds):
            try:
                found.append(train_part(context, plan, share, seed, found[0] if found else None, log))
            except (UserError, RunError, ArithmeticError, MemoryError, RuntimeError) as error:
                if here().world > 1:
                    raise  # the other ranks wait inside this part
                word = part_name(plan, share, seed)
                expected = isinstance(error, UserError | RunError)
                failed[word] = f"{error}" if expected else f"{type(error).__name__}: {error}"
                write_text(folder / f"failed-{word}.txt", traceback.format_exc())
                log.emit("note", text=f"{word} failed: {failed[word]}")
        if share == plan.shares[-1] and found:
            left_s = sum(s for s in plan.shares[:-1]) / share * sum(t.seconds for t in found)
            log.emit("note", text=f"the smaller parts take about {left_s:.0f} s together")
    if len({one.n for one in found}) < 3:
        told = "\n".join(f"  {word}: {why}" for word, why in failed.items())
        raise RunError(f"curve: fewer than three sizes came through, and a law has three parameters.\n{told}".rstrip())
    return found, failed


def part_name(plan: Plan, share: float, seed: int) -> str:
    """'sft-1of8-seed0', fit for a folder."""
    return f"{plan.name}-{size_words(share).replace('/', 'of')}-seed{seed}"


def train_part(
    context: Context, plan: Plan, share: float, seed: int, largest: Trained | None, log: EventLog
) -> Trained:
    """One training and its measures; what is on disk already is not made again. The whole data with the first seed is
    the run's own stage."""
    names = data_of(context.recipe, plan.index)
    if share == 1 and seed == 0:
        folder = next(f for f in context.stages if f.name == plan.name)
        n = sum(len(context.dataset(name).train) for name in names)
        record = folder.record
        measured = measures(context, plan, context.models[plan.name], log)
        return Trained(share, seed, n, record["steps"], record["seconds"], measured)
    own = part_context(context, plan, share, seed)
    n = sum(len(own.dataset(name).train) for name in names)
    if any(not own.dataset(name).train for name in names):
        raise UserError(
            f"sizes: {size_words(share)} of data.{', '.join(names)} holds no row. Begin with a larger part."
        )
    stage = part_stage(context, plan, share, seed, n, largest)
    train_language_model(own, plan.index, stage)
    ref = own.models[stage_name(stage)]
    assert ref.folder is not None
    if not ref.folder.is_dir() and not all_measured(context, plan, ref):  # its model was removed; a probe is new
        here().once(lambda: shutil.rmtree(own.stages[-1].path))
        train_language_model(own, plan.index, stage)
    folder = own.stages[-1]
    measured = measures(context, plan, ref, log)
    for one in ("model", "adapter"):
        here().once(partial(shutil.rmtree, folder.path / one, ignore_errors=True))
    return Trained(share, seed, n, folder.record["steps"], folder.record["seconds"], measured)


def part_context(context: Context, plan: Plan, share: float, seed: int) -> Context:
    """A run within the run: the same data but for the stage's own, of which it has a part; no budget of hours, for the
    parts are in no plan; no samples."""
    recipe, budget = context.recipe, context.recipe.budget
    changes: dict[str, Any] = {"samples": 0, "learning_curve": None}
    if seed:  # of everything that a training draws, random weights too
        changes["seed"] = seed_for(recipe.seed, f"curve seed {seed}")
    changes["budget"] = None if budget is None else budget.model_copy(update={"hours": None})
    start = start_of(context, plan)
    own = replace(
        context,
        recipe=recipe.model_copy(update=changes),
        folder=folder_of(context, plan),
        models={} if start is None else {start.name: start},
        stages=[],
        began=time.monotonic(),
    )
    names = [*recipe.data, *(name for name in made_by(recipe.stages) if context.there(name))]
    own.datasets = {name: context.dataset(name) for name in names}
    for name in data_of(recipe, plan.index):
        own.datasets[name] = part(context.dataset(name), share)
    if start is None:
        own.tokenizer = whole_tokenizer(context, plan)
    return own


def folder_of(context: Context, plan: Plan) -> Path:
    """Where the parts and the figures stand."""
    return context.folder / f"curve-{plan.name}"


def whole_tokenizer(context: Context, plan: Plan) -> Path:
    """The tokenizer of a fresh model, trained on all of the data: with one for each part, losses a token could not be
    compared."""
    fresh = context.recipe.base.model_dump(mode="json")
    digest = hash_of([fresh, *(context.dataset(name).hash for name in data_of(context.recipe, plan.index))])
    path = folder_of(context, plan) / f"tokenizer-{digest[:8]}"
    new_tokenizer(context, StageFolder(path, plan.name, "tokenizer", digest, {}, {}, context.device, ()), plan.stage)
    return path / "tokenizer"


def part_stage(
    context: Context, plan: Plan, share: float, seed: int, n: int, largest: Trained | None
) -> Pretrain | Sft:
    """The stage as it trains on a part: for the same epochs, so for fewer steps, but for the plan's least."""
    start = start_of(context, plan)
    changes: dict[str, Any] = {"name": part_name(plan, share, seed), "evaluate_every_steps": NEVER}
    changes["init"] = None if start is None else start.name
    return plan.stage.model_copy(update=changes | part_steps(plan, share, n, largest))


def part_steps(plan: Plan, share: float, n: int, largest: Trained | None) -> dict[str, Any]:
    """The settings that say how long a part trains: as many epochs as the whole, so its share of the steps."""
    if plan.stage.steps is not None:
        return {"steps": max(min(plan.least_steps, plan.stage.steps), round(plan.stage.steps * share))}
    least = plan.least_steps if largest is None else min(plan.least_steps, largest.steps)
    if largest is not None and largest.steps * n / largest.n < least:
        return {"steps": least, "epochs": None}
    return {}


def all_measured(context: Context, plan: Plan, ref: ModelRef) -> bool:
    """Whether every probe has its figures of a model."""
    return all(measured_file(context, name, probe, ref).exists() for name, probe in plan.probes.items())


def measures(context: Context, plan: Plan, ref: ModelRef, log: EventLog) -> dict[str, Any]:
    """What the probes say of one model, item by item; the model is loaded where something is not on disk yet."""
    model = cache(partial(context.load, ref))

    def look() -> dict[str, Any]:
        return {name: remembered(context, name, probe, ref, model, log) for name, probe in plan.probes.items()}

    here().once(look)
    return look()


def laws(context: Context, plan: Plan, found: Sequence[Trained]) -> dict[str, Any]:
    """By probe, the law through the trainings' figures, and what it says of more data."""
    told = {}
    for name, probe in plan.probes.items():
        points = points_of(found, name)
        curve = fit_curve(points, is_share(probe), seed_for(context.recipe.seed, f"curve of {name}"))
        seed = seed_for(context.recipe.seed, f"forecast of {name}")
        told[name] = as_json(curve, outlook(curve, plan.more, plan.worth, seed))
    return told


def is_share(probe: Probe) -> bool:
    """Whether a probe measures how many items are right; else it measures nats."""
    return probe.kind not in ("loss", "pseudo_perplexity")


def points_of(found: Sequence[Trained], probe: str) -> list[Point]:
    """What one probe measured, size by size."""
    points = []
    for share in sorted({one.share for one in found}):
        runs = [items_of(one.measured[probe]) for one in found if one.share == share]
        n = next(one.n for one in found if one.share == share)
        points.append(Point(n, np.array([errors_N for errors_N, _ in runs]), runs[0][1]))
    return points


def items_of(measured: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """(errors, their weights), item by item: wrong or right of answers, nats and tokens of losses."""
    if "right" in measured:
        wrong_N = 1.0 - np.array(measured["right"], dtype=float)
        return wrong_N, np.ones_like(wrong_N)
    return np.array(measured["nats"], dtype=float), np.array(measured["tokens"], dtype=float)


def summed(context: Context, plan: Plan, log: EventLog) -> dict[str, Any]:
    """A whole curve, trained where it is not yet, as curve.json and report.json hold it."""
    found, failed = grow(context, plan, log)
    start = start_of(context, plan)
    return {
        "run": context.recipe.name,
        "stage": plan.name,
        "start": start.name if start is not None else "random weights",
        "data": data_of(context.recipe, plan.index),
        "metric": next(iter(plan.probes)),
        "seeds": plan.seeds,
        "trainings": [
            {"share": size_words(t.share), "seed": t.seed, "n": t.n, "steps": t.steps, "seconds": t.seconds}
            for t in found
        ],
        "seconds": round(sum(t.seconds for t in found if (t.share, t.seed) != (1, 0)), 1),
        "curves": laws(context, plan, found),
        "failed": failed,
        "notes": notes_of(plan, found),
    }


def notes_of(plan: Plan, found: Sequence[Trained]) -> list[str]:
    """What was equal, and what was not."""
    words = ", ".join(size_words(share) for share in plan.shares)
    lines = [f"parts {words} of the data, each within the larger ones; {plan.seeds} seed{'s' * (plan.seeds > 1)} each"]
    most = max(one.steps for one in found)
    floor = [one for one in found if one.steps == min(plan.least_steps, most) and one.share < max(plan.shares)]
    if plan.stage.steps is None:
        lines.append(f"the same epochs ({plan.stage.epochs or 1:g}) at every size, so fewer steps on less data")
    else:
        lines.append("steps in proportion to the data")
    if floor:
        small = sorted({one.share for one in floor})
        lines.append(
            f"{', '.join(map(size_words, small))}: {min(plan.least_steps, most)} steps, so more epochs than the rest"
        )
    return lines


def curve_for_report(context: Context) -> dict[str, Any] | None:
    """What the report shows of the recipe's `learning_curve`, once its stages are done; None where it asks for none. A
    curve that does not come through says why, and costs the run nothing else."""
    how = context.recipe.learning_curve
    if how is None:
        return None
    plan = plan_curve(context.recipe, how.sizes, how.seeds, how.stage, how.metric, how.more, how.worth, how.least_steps)
    log = EventLog(context.folder / "events.jsonl", context.watchers)
    log.emit("note", text=f"learning curve: {plan.name} on parts of its data")
    try:
        return summed(context, plan, log)
    except RunError as error:
        log.emit("note", text=f"{error}")
        return {"stage": plan.name, "error": f"{error}"}
    finally:
        log.close()
