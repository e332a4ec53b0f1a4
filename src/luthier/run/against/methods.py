"""The methods that `luthier compare methods` knows, and the one recipe that runs a stage through several of them.

A comparison is a run like any other: the recipe's earlier stages once, then one stage a method, each from the same
model, over the same batches (one `seed`), for the same steps. Resume, guards, report and memo are the run's own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from luthier.base.config import resolve_path
from luthier.base.crosscheck import WRITES_TEXT, crosscheck, stage_name
from luthier.base.errors import UserError, did_you_mean
from luthier.base.judged import judging_stage
from luthier.base.probes import LossProbe, Probe, WinRateProbe
from luthier.base.reads import names_read
from luthier.base.recipe import Pretrain, Recipe, Sft, Stage
from luthier.base.tuning import Lora, Training
from luthier.model.quantise import require_bitsandbytes
from luthier.run.against.sweep import Sweep, replayed, variant_of, variants, varied

Settings = dict[str, Any]


@dataclass(frozen=True)
class Method:
    """One way to train. Its rate is `factor` times that of full training, at most `most`; without a factor it is
    `most` whatever the model: virtual tokens and factors start from nothing of the model's scale."""

    does: str
    adapter: Settings | None = None
    quantize: Settings | None = None
    factor: float | None = None
    most: float = 1.0


LOW_RANK: Settings = {"kind": "lora"}
METHODS: dict[str, Method] = {
    "full": Method("all weights", factor=1),
    "frozen": Method("the upper half of the blocks", factor=1),
    "lora": Method("low-rank updates", LOW_RANK, factor=10, most=1e-2),
    "rslora": Method("low-rank updates, scaled by 1/√rank", LOW_RANK | {"rslora": True}, factor=5, most=5e-3),
    "dora": Method("low-rank updates, magnitude apart", LOW_RANK | {"dora": True}, factor=10, most=1e-2),
    "ia3": Method("factors on keys, values, MLP", {"kind": "ia3"}, most=3e-2),
    "nf4": Method("LoRA on a 4-bit base (QLoRA)", LOW_RANK, {"kind": "nf4"}, factor=10, most=1e-2),
    "int8": Method("LoRA on an 8-bit base", LOW_RANK, {"kind": "int8"}, factor=10, most=1e-2),
    "houlsby": Method("two bottlenecks a block", {"kind": "bottleneck", "placement": "houlsby"}, factor=10, most=5e-3),
    "pfeiffer": Method("one bottleneck a block", {"kind": "bottleneck", "placement": "pfeiffer"}, factor=10, most=5e-3),
    "prompt": Method("virtual tokens", {"kind": "prompt"}, most=3e-2),
    "prefix": Method("virtual keys and values", {"kind": "prefix"}, most=1e-2),
    "p_tuning": Method("virtual tokens from an encoder", {"kind": "p_tuning"}, most=1e-2),
}
"""Rates. Full training wants ever lower ones as models grow, LoRA about ten times as much whatever the size (Schulman
et al. 2025, "LoRA without regret"); rsLoRA's update is √rank times larger, so its rate is lower."""
FROZEN_NEEDS = "the number of blocks is not known before the model is loaded. Give the stage a `freeze` of its own."


@dataclass(frozen=True)
class Plan:
    """A comparison about to be run."""

    recipe: Recipe
    """The earlier stages, then one stage a method, named by it."""
    methods: list[str]
    start: str
    """The stage whose model all methods start from; base: the outside model."""
    stage: str
    """The stage that is compared."""
    quality: list[str]
    """Names of probes that say how well the stage's own task is done."""
    forgetting: list[str]
    """Names of loss probes on what was known before."""
    rates: dict[str, float]
    left_out: dict[str, str]
    """Methods that cannot be, and why."""
    notes: list[str]

    def without(self, method: str, why: str) -> Plan:
        """The same comparison when a method has turned out not to go."""
        recipe = without_stage(self.recipe, method)
        methods = [name for name in self.methods if name != method]
        return replace(self, recipe=recipe, methods=methods, left_out=self.left_out | {method: why})


def without_stage(recipe: Recipe, name: str) -> Recipe:
    """The recipe less one of its last stages, and less the probes that need it."""
    settings = plain(recipe)
    settings["stages"] = [s for s in settings["stages"] if s.get("name", s["kind"]) != name]
    for key, probe in list(settings["evaluate"].items()):
        if name in probe.get("stages", ()):
            del settings["evaluate"][key]
        elif probe.get("after"):
            probe["after"] = [after for after in probe["after"] if after != name]
    return Recipe.model_validate(settings)


def plain(recipe: Recipe) -> Settings:
    """What was written in a recipe, as plain values: what was left to its default is left out."""
    return json.loads(recipe.model_dump_json(exclude_unset=True))


def plan_methods(
    recipe: Recipe,
    root: Path,
    methods: Sequence[str] = tuple(METHODS),
    rates: Mapping[str, float] | None = None,
    stage: str | None = None,
    sweep: Sweep = Sweep(),  # noqa: B008  # a frozen record
) -> Plan:
    """The recipe of a comparison, swept over rates and shares of replay where asked. `rates` are peak learning rates by
    method, instead of the default ones; `stage` names what is compared, else it is the last training stage that makes a
    language model. Raises UserError for methods that there are not, and where the recipe has nothing to compare."""
    check_methods(methods, rates or {})
    if rates and sweep.rates:
        raise UserError("--rate: every method gets the rates of --rates. Give one of the two.")
    index = compared(recipe, stage)
    chosen, earlier = recipe.stages[index], recipe.stages[:index]
    assert isinstance(chosen, Training)
    makers = [stage_name(other) for other in earlier if other.kind in WRITES_TEXT]
    start = chosen.init or (makers[-1] if makers else "base")
    names, notes = [stage_name(other) for other in earlier], []
    if later := [stage_name(other) for other in recipe.stages[index + 1 :]]:
        notes.append(f"left out, since they come after {stage_name(chosen)}: {', '.join(later)}")
    source = replayed(recipe, chosen, earlier, sweep)
    if clash := set(names) & {one.name for method in methods for one in variants(method, sweep)}:
        raise UserError(f"stages: {', '.join(sorted(clash))} is also a method's name. Rename the stage.")
    made: dict[str, Settings] = {}
    left_out: dict[str, str] = {}
    for method in dict.fromkeys(methods):
        try:
            settings = method_stage(recipe, root, chosen, method, start, (rates or {}).get(method))
            made |= {one.name: varied(settings, one, source) for one in variants(method, sweep)}
        except UserError as error:
            left_out[method] = str(error)
    suffix = "sweep" if any(sweep) else "methods"
    settings = plain(recipe) | {"name": f"{recipe.name}-{suffix}", "export": [], "learning_curve": None}
    settings["stages"] = [*settings["stages"][:index], *made.values()]
    if recipe.budget is not None and recipe.budget.hours is not None:
        settings["budget"].pop("hours")
        notes.append("budget.hours is left out: every method takes the steps that the stage asks for")
    probes, quality, forgetting = probes_for(recipe, chosen, earlier, list(made), start, notes)
    settings["evaluate"] = probes
    for method, one in made.items():
        if one.get("optimizer") == "adamw" and chosen.optimizer == "muon":
            said = f"{variant_of(method).method}: adamw instead of muon, which is for a model's own matrices"
            notes += [said] if said not in notes else []
    rate_of = {method: one["learning_rate"] for method, one in made.items()}
    plan = Plan(
        Recipe.model_validate(settings),
        list(made),
        start,
        stage_name(chosen),
        quality,
        forgetting,
        rate_of,
        left_out,
        notes,
    )
    return less_contradictions(plan, index)


def less_contradictions(plan: Plan, first: int) -> Plan:
    """The plan less the methods that contradict the stage's other settings."""
    wrong = {loc[1]: why for loc, why in crosscheck(plan.recipe) if loc[0] == "stages" and int(loc[1]) >= first}
    names = [stage_name(stage) for stage in plan.recipe.stages]
    for index, why in wrong.items():
        plan = plan.without(names[int(index)], why)
    if not plan.methods:
        raise UserError([f"{method}: {why}" for method, why in plan.left_out.items()])
    return plan


def check_methods(methods: Sequence[str], rates: Mapping[str, float]) -> None:
    """Raises UserError for methods that there are not, and rates that are none."""
    wrong = [
        f"{name}: no such method.{did_you_mean(name, METHODS)} There are: {', '.join(METHODS)}."
        for name in dict.fromkeys([*methods, *rates])
        if name not in METHODS
    ]
    wrong += [f"--rate {name}={rate:g}: must be above 0." for name, rate in rates.items() if not rate > 0]
    wrong += [f"--rate {name}: it is not among the methods compared." for name in rates if name not in methods]
    if not methods:
        wrong.append(f"no methods. Name some: {', '.join(METHODS)}.")
    if wrong:
        raise UserError(wrong)


def compared(recipe: Recipe, wanted: str | None) -> int:
    """Index of the stage that is compared. Raises UserError when there is none."""
    fit = [i for i, s in enumerate(recipe.stages) if isinstance(s, Training) and s.kind in WRITES_TEXT]
    if recipe.base.fresh is not None:
        fit = [i for i in fit if i > 0]  # the first stage makes the model that others tune
    names = {stage_name(recipe.stages[i]): i for i in fit}
    if wanted is not None and wanted not in names:
        raise UserError(
            f"--stage {wanted}: cannot be compared, or is not there.{did_you_mean(wanted, names)} "
            f"Those that can: {', '.join(names) or 'none'}."
        )
    if not fit:
        raise UserError(
            "stages: nothing to compare: no stage tunes a language model. Add one of kind sft, for example."
        )
    return fit[-1] if wanted is None else names[wanted]


def method_stage(recipe: Recipe, root: Path, stage: Stage, method: str, start: str, rate: float | None) -> Settings:
    """The settings of the compared stage as one method has them. Raises UserError where this method cannot be."""
    assert isinstance(stage, Training)
    how = METHODS[method]
    written: Settings = json.loads(stage.model_dump_json(exclude_unset=True))
    own, full = written.pop("adapter", None), full_rate(stage)
    for key in ("freeze", "quantize"):
        written.pop(key, None)
    settings = written | {"name": method, "init": start, "seed": stage.seed if stage.seed is not None else 0}
    settings["learning_rate"] = rate or round_rate(min(how.most, how.factor * full) if how.factor else how.most)
    if how.adapter is not None:
        kept = {k: v for k, v in (own or {}).items() if k not in ("rslora", "dora", "placement")}
        settings["adapter"] = (kept if kept.get("kind") == how.adapter["kind"] else {}) | how.adapter
        if stage.optimizer == "muon":
            settings["optimizer"] = "adamw"
    if how.quantize is not None:
        require_bitsandbytes()
        settings["quantize"] = how.quantize
    if method == "frozen":
        settings["freeze"] = frozen(recipe, root, stage)
    return settings


def full_rate(stage: Training) -> float:
    """The rate at which the stage would train all weights: its own, or what its own adapter's comes from."""
    if stage.adapter is None:
        return stage.learning_rate
    if isinstance(stage.adapter, Lora) or stage.adapter.kind == "bottleneck":
        return stage.learning_rate / 10
    return 1e-3 if stage.learning_rate > 1e-3 else stage.learning_rate


def round_rate(rate: float) -> float:
    """Two significant digits."""
    return float(f"{rate:.1e}")


def frozen(recipe: Recipe, root: Path, stage: Training) -> Settings:
    """The stage's own `freeze`, or the embeddings and the lower half of the blocks. Raises UserError where their number
    cannot be read off the base's configuration."""
    if stage.freeze is not None:
        return json.loads(stage.freeze.model_dump_json(exclude_unset=True))
    if recipe.base.fresh is not None:
        return {"first": max(1, recipe.base.fresh.layers // 2), "embeddings": True}
    assert recipe.base.model is not None
    file = resolve_path(root / "recipe", recipe.base.model) / "config.json"
    config = json.loads(file.read_text()) if file.exists() else {}
    layers = next((config[key] for key in ("num_hidden_layers", "n_layer", "num_layers") if key in config), None)
    if layers is None:
        raise UserError(f"freeze: {FROZEN_NEEDS}")
    return {"first": max(1, layers // 2), "embeddings": True}


def probes_for(
    recipe: Recipe, stage: Stage, earlier: list[Stage], methods: list[str], start: str, notes: list[str]
) -> tuple[dict[str, Settings], list[str], list[str]]:
    """The recipe's probes over the methods and the model they start from; names of those of quality, of forgetting.
    A loss on the stage's held-out rows, and one on earlier documents, are added where the recipe has none."""
    old, new = stage_name(stage), set(names_read(stage))
    made: dict[str, Settings] = {}
    quality, forgetting = [], []
    for name, probe in recipe.evaluate.items():
        settings: Settings = json.loads(probe.model_dump_json(exclude_unset=True))
        if isinstance(probe, WinRateProbe):
            there = [start, *map(stage_name, earlier)]
            judges = judging_stage(probe) in (None, "base", *there)
            if probe.stages[0] == old and probe.stages[1] in there and judges:
                made |= {f"{name}.{m}": settings | {"stages": [m, probe.stages[1]]} for m in methods}
                quality.append(name)
            else:
                notes.append(f"evaluate.{name} compares stages that are not there, and is left out")
            continue
        settings["after"] = [start, *methods]
        if is_forgetting(probe, new):
            settings["since"] = start
            forgetting.append(name)
        else:
            settings.pop("since", None)
            quality.append(name)
        made[name] = settings
    if not quality and isinstance(stage, Sft | Pretrain):
        first = stage.data if isinstance(stage.data, str) else next(iter(stage.data))
        made["loss"], quality = {"kind": "loss", "data": first, "after": [start, *methods]}, ["loss"]
    known = [s for other in earlier if isinstance(other, Pretrain | Sft) for s in names_read(other) if s in recipe.data]
    known = [name for name in known if name not in new and recipe.data[name].heldout > 0]
    if not forgetting and known:
        made["forgetting"] = {"kind": "loss", "data": known[0], "after": [start, *methods], "since": start}
        forgetting = ["forgetting"]
    elif not forgetting:
        notes.append("forgetting is not measured: add a loss probe on text that the model knew before")
    return made, quality, forgetting


def is_forgetting(probe: Probe, new: set[str]) -> bool:
    """Whether a probe looks at what was known before: a loss on data that the compared stage does not read."""
    return isinstance(probe, LossProbe) and probe.data not in new
