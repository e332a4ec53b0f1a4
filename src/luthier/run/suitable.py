"""Whether each source holds what the recipe's stages and probes ask of it, and each program is there: told before the
first stage, not after hours of them."""

from __future__ import annotations

from collections.abc import Iterator

from luthier.base.abilities import (
    AlignmentProbe,
    ClozeProbe,
    ConsistencyProbe,
    HallucinationProbe,
    is_endpoint,
)
from luthier.base.alignment import BestOf, Grpo, Ppo, Prefer
from luthier.base.config import load_function
from luthier.base.curation import Curate
from luthier.base.errors import UserError
from luthier.base.mistakes import MistakesProbe
from luthier.base.nouns import Chat, Text
from luthier.base.objective import is_masked
from luthier.base.probes import AnswersProbe, ChoicesProbe, FillMaskProbe, Probe, PseudoPerplexityProbe, WinRateProbe
from luthier.base.reads import names_read
from luthier.base.recipe import Stage, Supervised
from luthier.base.synthesis import Synthesise
from luthier.data.dataset import Dataset
from luthier.run.abilities import of_ability
from luthier.run.contaminated import all_seen
from luthier.run.context import Context, asked_prompts, measured_rows
from luthier.run.curate_given import curate_problems
from luthier.run.judged import judge_problems
from luthier.run.licences import licence_problems
from luthier.run.pairs import check_preferences
from luthier.run.rewards import check_programs
from luthier.run.synthesise import unfit
from luthier.run.tune import sources_of

DOCUMENTS = ("text",)
CONVERSATIONS = ("messages", "sharegpt", "alpaca", "prompt_completion", "qa", "template", "oasst_chats", "squad",
                 "self_instruct")  # fmt: skip


def check_sources(context: Context) -> None:
    """Reads every source and loads every program of the recipe. Raises UserError with all that does not suit."""
    recipe = context.recipe
    check_programs(recipe, context.root)
    problems = []
    for named, spec in raters(context):
        try:
            load_function(spec, context.root)
        except UserError as error:
            problems += [f"{named}: {problem}" for problem in error.problems]
    for name in recipe.data:
        context.dataset(name)
    problems += [problem for index in range(len(recipe.stages)) for problem in stage_problems(context, index)]
    problems += [problem for name in recipe.evaluate for problem in probe_problems(context, name)]
    problems += licence_problems(context)
    if problems:
        raise UserError(problems)
    check_preferences(context, recipe.data)


def check_made(context: Context, made: str) -> None:
    """`check_sources` for data that a stage has just made: whether it suits the stages and probes that read it. Raises
    UserError with all that does not."""
    recipe = context.recipe
    problems = []
    for index, stage in enumerate(recipe.stages):
        if made in names_read(stage):
            problems += stage_problems(context, index)
    for name, probe in recipe.evaluate.items():
        if made in (probe.data, probe.documents if isinstance(probe, HallucinationProbe) else None):
            problems += probe_problems(context, name)
    if problems:
        raise UserError(problems)
    check_preferences(context, [made])


def stage_problems(context: Context, index: int) -> list[str]:
    """What is wrong with the sources of one of the recipe's stages."""
    stage = context.recipe.stages[index]
    return [f"stages[{index}].{stage.kind}: {said}" for said in of_stage(context, stage)]


def probe_problems(context: Context, name: str) -> list[str]:
    """What is wrong with the source of one of the recipe's probes, or with its judge; nothing, before it is made."""
    probe = context.recipe.evaluate[name]
    if not context.there(probe.data):
        return []
    told = list(of_probe(context, probe)) or list(judge_problems(context, probe))
    told += [said] if not told and (said := all_seen(context, name, probe)) else []
    return [f"evaluate.{name}: {said}" for said in told]


def raters(context: Context) -> Iterator[tuple[str, str]]:
    """Every rater that the recipe names, and where."""
    for index, stage in enumerate(context.recipe.stages):
        if isinstance(stage, Prefer) and stage.rater is not None:
            yield f"stages[{index}].prefer.rater", stage.rater
    for name, probe in context.recipe.evaluate.items():
        if isinstance(probe, WinRateProbe) and probe.rater is not None:
            yield f"evaluate.{name}.rater", probe.rater
        if isinstance(probe, HallucinationProbe) and probe.judge and not is_endpoint(probe.judge):
            yield f"evaluate.{name}.judge", probe.judge


def of_stage(context: Context, stage: Stage) -> Iterator[str]:
    """What is wrong with the sources of a stage that trains on rows, or answers prompts."""
    if isinstance(stage, Supervised):
        masked = is_masked(context.recipe)
        fit = DOCUMENTS if masked else (*DOCUMENTS, *CONVERSATIONS)
        for name in sources_of(stage.data, stage.replay):
            if context.there(name) and (data := context.dataset(name)).format not in fit:
                yield f"{read_as(data)}. Give documents{'' if masked else ' or conversations'}."
    if isinstance(stage, Synthesise):
        yield from unfit(context, stage)
    if isinstance(stage, Curate):
        yield from curate_problems(context, stage)
    if isinstance(stage, Ppo | Grpo | BestOf | Prefer) and stage.prompts is not None and context.there(stage.prompts):
        data = context.dataset(stage.prompts)
        if not asked_prompts(data.train + (data.heldout if isinstance(stage, Prefer) else [])):
            yield f"{read_as(data)}, and no prompt to answer is among its training rows. Give conversations, or pairs."


def of_probe(context: Context, probe: Probe) -> Iterator[str]:
    """What is wrong with a probe's source."""
    data, every = context.dataset(probe.data), measured_rows(context, probe)
    if not every and probe.data not in context.recipe.data:
        yield f"data.{data.name} holds no rows out, and only those are measured. Raise heldout where it is made."
        return
    match probe:
        case ChoicesProbe():
            if data.format != "choices":
                yield f"{read_as(data)}, and choices asks multiple choice. Give rows with query, choices and gold."
        case AnswersProbe() | WinRateProbe() | MistakesProbe():
            if not (asked := asked_prompts(every)):
                yield f"{read_as(data)}, and {probe.kind} asks questions. Give conversations."
            elif isinstance(probe, AnswersProbe) and (bare := [c for c in asked if not c.accept][: probe.limit]):
                yield (
                    f"{bare[0].origin} has no column accept, the value that a right answer contains. Add it to every "
                    f"row of data.{data.name}, or measure with kind: loss."
                )
        case AlignmentProbe() | ClozeProbe() | ConsistencyProbe() | HallucinationProbe():
            yield from of_ability(context, probe, data)
        case _:
            yield from of_reading(context, probe, data)


def of_reading(context: Context, probe: Probe, data: Dataset) -> Iterator[str]:
    """What is wrong with the source of a probe that only reads."""
    alone = isinstance(probe, FillMaskProbe | PseudoPerplexityProbe) or is_masked(context.recipe)
    kinds = "documents" if alone else "documents or conversations"
    rows = measured_rows(context, probe)
    source = context.recipe.data.get(data.name)
    looked_at_all = context.first_rows is None or source is None or not source.stream
    if data.format not in (DOCUMENTS if alone else (*DOCUMENTS, *CONVERSATIONS)):
        yield f"{read_as(data)}, and {probe.kind} reads {kinds}."
    elif looked_at_all and not any(isinstance(row, Text if alone else Text | Chat) for row in rows):
        yield f"data.{data.name} has no held-out rows to measure. Raise its heldout, or set heldout_only: false."


def read_as(data: Dataset) -> str:
    """The beginning of a refusal."""
    first = next(iter([*data.train[:1], *data.heldout[:1]]), None)
    return f"data.{data.name} was read as {data.format}" + (f" ({first.origin})" if first is not None else "")
