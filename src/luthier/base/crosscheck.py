"""What one setting of a recipe demands of another: names that must exist, choices that exclude each other.

A pure function of a recipe; `config.py` adds the file and line. Every check says what to do about it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from luthier.base import alignment as a
from luthier.base import recipe as r
from luthier.base.abilities import Ability, ConsistencyProbe, HallucinationProbe, check_ability, is_endpoint
from luthier.base.adapters import check_adapters
from luthier.base.benchmarks import check_benchmarks
from luthier.base.curation import Curate, check_curate
from luthier.base.curves import check_curve
from luthier.base.errors import did_you_mean
from luthier.base.judged import check_judge, judging_stage
from luthier.base.made import ONLY_DATA, made_by, no_such_source
from luthier.base.mistakes import MistakesProbe, mistakes_problems
from luthier.base.objective import check_objective
from luthier.base.probes import LossProbe, Probe, WinRateProbe
from luthier.base.settings import Loc
from luthier.base.stepping import check_stepping
from luthier.base.streams import check_streams
from luthier.base.synthesis import Synthesise, synthesise_problems
from luthier.base.templates import check_templates
from luthier.base.trained import check_trained
from luthier.base.tuning import Bottleneck, Lora, Training
from luthier.base.unused import check_unused

Problem = tuple[Loc, str]
"""Where in the recipe (keys and indices, no kinds), and what is wrong there."""

WRITES_TEXT = ("pretrain", "sft", "ppo", "dpo", "orpo", "simpo", "kto", "grpo")
"""Stages whose result is a language model."""


def crosscheck(recipe: r.Recipe) -> list[Problem]:
    """Every contradiction in a recipe whose settings are each valid by themselves."""
    found = [*check_base(recipe), *check_names(recipe), *check_stages(recipe), *check_probes(recipe)]
    found += [*check_objective(recipe), *check_adapters(recipe), *check_trained(recipe)]
    found += [*check_stepping(recipe), *check_streams(recipe), *check_templates(recipe), *check_curve(recipe)]
    writers = [stage_name(stage) for stage in recipe.stages if stage.kind in WRITES_TEXT]
    found += check_benchmarks(recipe.benchmarks, writers, recipe.evaluate)
    return [*found, *check_unused(recipe)]


def stage_name(stage: r.Stage) -> str:
    """What a stage is called: its name, or its kind."""
    return stage.name or stage.kind


def listed(names: Iterable[str]) -> str:
    """'a, b, c', or 'none'"""
    return ", ".join(names) or "none"


def check_base(recipe: r.Recipe) -> Iterator[Problem]:
    """One base, whose figures fit each other, and which someone pretrains when it is fresh."""
    model, fresh = recipe.base.model, recipe.base.fresh
    if model is not None and fresh is not None:
        yield ("base",), "has both model and fresh. Keep one: model to start from weights, fresh to start from nothing."
    elif model is None and fresh is None and not only_data(recipe):
        yield ("base",), "names no model. Give model (a folder or a hub id), or fresh for random weights."
    if fresh is None:
        return
    at: Loc = ("base", "fresh", "heads")
    if fresh.width % fresh.heads:
        near_by = range(1, min(fresh.width, 2 * fresh.heads, 1000) + 1)
        fit = [n for n in near_by if fresh.width % n == 0 and fresh.width // n % 2 == 0]
        near = min(fit, key=lambda n: abs(n - fresh.heads), default=1)
        yield at, f"{fresh.heads} does not divide the width {fresh.width}. {near} does."
    elif fresh.width // fresh.heads % 2 and fresh.shape == "decoder":
        yield at, f"{fresh.width} / {fresh.heads} is an odd head size; rotary embeddings turn pairs. Change one."
    if fresh.kv_heads is not None and (fresh.kv_heads < 1 or fresh.heads % fresh.kv_heads):
        yield ("base", "fresh", "kv_heads"), f"{fresh.kv_heads} does not divide the heads {fresh.heads}."
    if fresh.ffn is not None and fresh.ffn < 1:
        yield ("base", "fresh", "ffn"), f"must be at least 1, not {fresh.ffn}."
    if not recipe.stages:
        yield ("base", "fresh"), "knows nothing and is never trained. Add a stage of kind pretrain."
        return
    at_first = [(i, stage) for i, stage in enumerate(recipe.stages) if stage.kind not in ONLY_DATA][:1]
    for index, first in at_first:
        if first.kind != "pretrain":
            yield ("stages", index), f"is {first.kind}, but a fresh base knows nothing. Put a pretrain stage first."


def only_data(recipe: r.Recipe) -> bool:
    """Whether a run makes data and nothing else, so that it needs no base."""
    measures = bool(recipe.evaluate) or recipe.benchmarks is not None
    return bool(recipe.stages) and not measures and all(stage.kind in ONLY_DATA for stage in recipe.stages)


def check_names(recipe: r.Recipe) -> Iterator[Problem]:
    """Every stage can be told from the others, and can name a folder."""
    names = [stage_name(stage) for stage in recipe.stages]
    counts = Counter(names)
    for index, (stage, name) in enumerate(zip(recipe.stages, names, strict=True)):
        first = names.index(name)
        if counts[name] > 1 and index > first:
            unnamed = stage.name is None or recipe.stages[first].name is None
            fix = f"Name them: name: {name}-1 and name: {name}-2, for example." if unnamed else "Rename one."
            yield ("stages", index, "name"), f"{name} is also the name of stages[{first}]. {fix}"
        if name == "base":
            yield ("stages", index, "name"), "base means the model the run starts from. Choose another name."
        if stage.name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", stage.name):
            message = f'"{stage.name}" cannot name a folder. Use letters, digits, ".", "_" and "-".'
            yield ("stages", index, "name"), message


def check_stages(recipe: r.Recipe) -> Iterator[Problem]:
    """Each stage finds what it needs among the sources and the stages before it."""
    for index, stage in enumerate(recipe.stages):
        earlier = recipe.stages[:index]
        at: Loc = ("stages", index)
        if isinstance(stage, Curate):
            based = recipe.base.model is not None
            yield from check_curate(at, stage, recipe.data, made_by(earlier), based)
            continue
        if isinstance(stage, Synthesise):
            problems = synthesise_problems(stage, recipe.data, earlier)
            yield from (((*at, *inner), said) for inner, said in problems)
            continue
        if stage.init is not None:
            outside = ("base",) if recipe.base.model is not None else ()
            if stage.init not in outside:
                where = "is made before this one"
                yield from must_be_stage((*at, "init"), stage.init, earlier, WRITES_TEXT, where, outside)
        if isinstance(stage, r.Pretrain | r.Sft):
            yield from check_supervised(at, stage, recipe, earlier)
        elif isinstance(stage, a.Prefer):
            yield from check_prefer(at, stage, recipe, earlier)
        elif isinstance(stage, a.Reward | a.Preference):
            yield from check_pairs(at, stage, recipe, earlier)
            if isinstance(stage, a.Dpo) and stage.loss == "ipo" and stage.label_smoothing:
                yield (*at, "label_smoothing"), "is for loss: sigmoid; ipo has no use for it. Remove one of the two."
        elif isinstance(stage, a.Kto):
            yield from check_kto(at, stage, recipe, earlier)
        elif isinstance(stage, a.Grpo | a.BestOf):
            yield from must_be_source((*at, "prompts"), stage.prompts, recipe, earlier)
            yield from check_rewards(at, stage, earlier)
            if isinstance(stage, a.BestOf):
                yield from check_best_of(at, stage, recipe)
        else:
            yield from must_be_source((*at, "prompts"), stage.prompts, recipe, earlier)
            if stage.reward is not None:
                yield from must_be_stage((*at, "reward"), stage.reward, earlier, ("reward",), "stands before this one")
            elif not any(other.kind == "reward" for other in earlier):
                yield at, "needs a reward model. Put a stage of kind reward before it."
        if isinstance(stage, a.Ppo | a.Grpo):
            yield from check_rollouts(at, stage)
        if isinstance(stage, Training) and not all(0 <= beta < 1 for beta in stage.betas):
            yield (*at, "betas"), f"must both be at least 0 and below 1, not {list(stage.betas)}."


def check_supervised(at: Loc, stage: r.Pretrain | r.Sft, recipe: r.Recipe, earlier: list[r.Stage]) -> Iterator[Problem]:
    """A stage that reads data sets reads some that are there, for one length of time."""
    if isinstance(stage.data, str):
        yield from must_be_source((*at, "data"), stage.data, recipe, earlier)
    else:
        if not stage.data:
            yield (*at, "data"), "is empty. Name a source, or several with weights."
        for name, weight in stage.data.items():
            yield from must_be_source((*at, "data", name), name, recipe, earlier)
            if weight <= 0:
                yield (*at, "data", name), f"has weight {weight:g}. Give a weight above 0, or leave the source out."
    if stage.replay is not None:
        yield from must_be_source((*at, "replay", "data"), stage.replay.data, recipe, earlier)
    if stage.epochs is not None and stage.steps is not None:
        yield (*at, "steps"), f"is set, and so is epochs ({stage.epochs:g}). Keep one of them."


def check_prefer(at: Loc, stage: a.Prefer, recipe: r.Recipe, earlier: list[r.Stage]) -> Iterator[Problem]:
    """Pairs come from a file, or from a rater who is given prompts; not both, not neither."""
    if stage.pairs is not None:
        yield from must_be_source((*at, "pairs"), stage.pairs, recipe, earlier)
        for name, value in (("prompts", stage.prompts), ("rater", stage.rater)):
            if value is not None:
                yield (*at, name), f"is not used, since pairs are read from {stage.pairs}. Remove one of the two."
        return
    if stage.prompts is None and stage.rater is None:
        yield at, "has nothing to gather. Give pairs (a source of ready pairs), or prompts and a rater."
    elif stage.prompts is None:
        yield at, "has a rater, but no prompts to answer. Give prompts, the name of a source."
    elif stage.rater is None:
        yield at, "has prompts, but no rater. Give rater: path/file.py:name."
    if stage.prompts is not None:
        yield from must_be_source((*at, "prompts"), stage.prompts, recipe, earlier)


def check_pairs(at: Loc, stage: a.Reward | a.Preference, recipe: r.Recipe, earlier: list[r.Stage]) -> Iterator[Problem]:
    """A stage that learns from pairs has some."""
    gathered = [stage_name(other) for other in earlier if other.kind == "prefer"]
    if stage.pairs is None and not gathered:
        yield at, "has no pairs. Put a stage of kind prefer before it, or give pairs, the name of a source."
    elif stage.pairs is not None and stage.pairs not in {*gathered, *made_by(earlier), *recipe.data}:
        known = [*gathered, *made_by(earlier), *recipe.data]
        message = f'there is no earlier prefer stage and no source "{stage.pairs}".'
        yield (*at, "pairs"), f"{message}{did_you_mean(stage.pairs, known)} There are: {listed(known)}."


def check_kto(at: Loc, stage: a.Kto, recipe: r.Recipe, earlier: list[r.Stage]) -> Iterator[Problem]:
    """A stage that learns from marked answers has some."""
    gathered = [stage_name(other) for other in earlier if other.kind == "prefer"]
    known = [*gathered, *made_by(earlier), *recipe.data]
    if not stage.good_weight and not stage.bad_weight:
        yield (*at, "good_weight"), "is 0, and so is bad_weight: nothing would be learned. Give one of them a weight."
    if stage.data is None and not any(other.kind == "prefer" for other in earlier):
        yield at, "has no data. Give data, the name of a source of labelled answers or of pairs."
    elif stage.data is not None and stage.data not in known:
        message = f'there is no earlier prefer stage and no source "{stage.data}".'
        yield (*at, "data"), f"{message}{did_you_mean(stage.data, known)} There are: {listed(known)}."


def check_rewards(at: Loc, stage: a.Grpo | a.BestOf, earlier: list[r.Stage]) -> Iterator[Problem]:
    """Rewards are programs, or reward stages that come before."""
    if not stage.rewards:
        yield (*at, "rewards"), "is empty. Give rewards: path/file.py:name, or the name of a reward stage."
    for name in stage.rewards:
        if ":" not in name:
            yield from must_be_stage((*at, "rewards", name), name, earlier, ("reward",), "stands before this one")


def check_rollouts(at: Loc, stage: a.Ppo | a.Grpo) -> Iterator[Problem]:
    """Every step has answers; and what grpo trains is what was sampled."""
    if stage.minibatches > stage.rollout_prompts:
        said = f"is {stage.minibatches}, more than the {stage.rollout_prompts} prompts of a rollout. Lower it."
        yield (*at, "minibatches"), said
    if isinstance(stage, a.Grpo) and isinstance(stage.adapter, Lora | Bottleneck) and stage.adapter.dropout:
        said = "would train other log-probs than were sampled. Remove it: grpo runs without dropout."
        yield (*at, "adapter", "dropout"), said
    if stage.neftune is not None:
        said = f"is noise that the sampler does not see: {stage.kind} would train other log-probs than were sampled."
        yield (*at, "neftune"), f"{said} Remove it."
    if stage.watchdog is not None:
        said = f"looks for a loss that runs away, and that of {stage.kind} says nothing: it is about 0 in the mean."
        yield (*at, "watchdog"), f"{said} Remove it; kl_stop stops a policy that has left its reference."


def check_best_of(at: Loc, stage: a.BestOf, recipe: r.Recipe) -> Iterator[Problem]:
    """Its name, by which later stages read its answers, means nothing else; and it does not keep more than it draws."""
    if stage_name(stage) in recipe.data:
        name = stage_name(stage)
        yield (*at, "name"), f"{name} is also a source under data. Rename the stage: later stages read `data: {name}`."
    if stage.keep > stage.samples:
        yield (*at, "keep"), f"is {stage.keep}, more than the {stage.samples} answers drawn. Lower it."


def check_probes(recipe: r.Recipe) -> Iterator[Problem]:
    """Each probe finds its data and its models."""
    for name, probe in recipe.evaluate.items():
        at: Loc = ("evaluate", name)
        yield from must_be_source((*at, "data"), probe.data, recipe, recipe.stages)
        yield from check_measured_made((*at, "data"), probe, recipe)
        if isinstance(probe, MistakesProbe):
            problems = mistakes_problems(probe, recipe.data, made_by(recipe.stages))
            yield from (((*at, *inner), said) for inner, said in problems)
        models: list[tuple[Loc, str]] = []
        if isinstance(probe, Ability):
            yield from (((*at, setting), said) for setting, said in check_ability(probe))
        if isinstance(probe, HallucinationProbe) and probe.documents is not None:
            yield from must_be_source((*at, "documents"), probe.documents, recipe, recipe.stages)
        if isinstance(probe, ConsistencyProbe) and probe.paraphraser and not is_endpoint(probe.paraphraser):
            models.append(((*at, "paraphraser"), probe.paraphraser))
        if isinstance(probe, WinRateProbe):
            models += [((*at, "stages", index), stage) for index, stage in enumerate(probe.stages)]
            if probe.stages[0] == probe.stages[1]:
                yield (*at, "stages"), f"compares {probe.stages[0]} with itself. Name two stages: [new, old]."
            yield from (((*at, *inner), said) for inner, said in check_judge(probe))
            if judging_stage(probe) is not None:
                models.append(((*at, "judge"), judging_stage(probe) or ""))
        else:
            models += [((*at, "after", index), stage) for index, stage in enumerate(probe.after or ())]
            if isinstance(probe, LossProbe) and probe.since is not None:
                models.append(((*at, "since"), probe.since))
        for loc, stage in models:
            if stage != "base":
                yield from must_be_stage(loc, stage, recipe.stages, WRITES_TEXT, "is in this recipe", ("base",))


def check_measured_made(at: Loc, probe: Probe, recipe: r.Recipe) -> Iterator[Problem]:
    """Of data that a stage makes the held-out rows are measured: there must be some."""
    for stage in recipe.stages:
        if isinstance(stage, Curate) and stage_name(stage) == probe.data and not stage.heldout:
            yield at, f"{probe.data} holds no rows out (heldout: 0), and only those are measured. Raise its heldout."


def must_be_source(loc: Loc, name: str, recipe: r.Recipe, stages: list[r.Stage]) -> Iterator[Problem]:
    """`name` is an entry of `data`, or what one of `stages` makes."""
    earlier = made_by(stages)
    if name not in recipe.data and name not in earlier:
        yield loc, no_such_source(name, recipe.data, earlier, made_by(recipe.stages))


def must_be_stage(
    loc: Loc, name: str, stages: list[r.Stage], kinds: tuple[str, ...], where: str, also: tuple[str, ...] = ()
) -> Iterator[Problem]:
    """`name` is one of `stages`, of a kind that makes what is wanted."""
    kind_of = {stage_name(stage): stage.kind for stage in stages}
    fit = [*also, *(known for known, kind in kind_of.items() if kind in kinds)]
    what = "reward model" if kinds == ("reward",) else "language model"
    if name not in kind_of:
        yield loc, f'no stage "{name}" {where}.{did_you_mean(name, fit)} There are: {listed(fit)}.'
    elif kind_of[name] not in kinds:
        yield loc, f"{name} is a {kind_of[name]} stage, which makes no {what}. Those that do: {listed(fit)}."
