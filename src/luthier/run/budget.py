"""A recipe's budget: how much of its time and memory a stage may take, so that what comes after it has its part.

What is left of the hours, without the time that the probes will take and what each stage needs around its training,
is shared among the stages still to come by the tokens that they ask for. All of that is an estimate, made again before
each stage; only seconds are measured.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from luthier.base.abilities import AlignmentProbe, ClozeProbe, ConsistencyProbe, HallucinationProbe
from luthier.base.alignment import BestOf, Grpo, Kto, Ppo, Prefer, Preference, Reward
from luthier.base.crosscheck import WRITES_TEXT, stage_name
from luthier.base.errors import UserError
from luthier.base.judged import judging_stage
from luthier.base.made import MAKES_DATA, behind
from luthier.base.nouns import Chat, Choice, Example, Labelled, Pair, Text, Tokens
from luthier.base.probes import AnswersProbe, FillMaskProbe, PseudoPerplexityProbe, WinRateProbe
from luthier.base.recipe import Stage, Supervised
from luthier.base.tuning import Training
from luthier.data.dataset import Dataset
from luthier.evals.loss import losses
from luthier.generate import sample
from luthier.model.draw import Sampling
from luthier.run.context import Context, measured_rows
from luthier.run.learner import Learner
from luthier.run.memo import StageFolder
from luthier.train.pace import Allowed, Pace
from luthier.train.sources import BatchSource

GIB = 2**30
CHARACTERS_A_TOKEN = 4.0
"""Of a text that no tokenizer has seen yet. Only the stages' shares depend on it, and what is kept for the probes."""
LOOKED_AT = 64
"""Rows whose mean length is taken for that of all."""
PLAN = "plan.json"
RUBRIC_TOKENS = 200
"""About what a judge reads beside the prompt and two answers."""
REPORT_S = 1.0
"""For the report, once all is measured."""


def pace_for(context: Context, folder: StageFolder, stage: Training, learner: Learner, source: BatchSource) -> Pace:
    """How many steps the stage takes: those that it asks for, or those that fit into the budget."""
    budget, every = context.recipe.budget, stage.evaluate_every_steps
    if budget is None or budget.hours is None:
        return Pace(source.steps, source.period, every)
    hours, setup_s = budget.hours, time.monotonic() - folder.began

    def allowed(evaluate_s: float, save_s: float) -> Allowed:
        closing_s = setup_s + evaluate_s + 2 * save_s  # the result is saved, read back and asked
        left_s = hours * 3600 - spent_s(context) - closing_s
        probes_s = probing_s(context, learner, setup_s)
        index = next(i for i, other in enumerate(context.recipe.stages) if stage_name(other) == folder.name)
        later = context.recipe.stages[index + 1 :]
        around_s = len(later) * (setup_s + closing_s)
        shared_s = left_s - probes_s - around_s
        if shared_s <= 0 and not any(other.done for other in context.stages) and not (folder.path / PLAN).exists():
            raise UserError(hopeless(hours, hours * 3600 - shared_s))
        here = requested_tokens(context, context.recipe.stages[index])
        there = sum(requested_tokens(context, other) for other in later)
        own_s = shared_s * here / (here + there)
        reserve = {"evaluation": probes_s, "later stages": shared_s - own_s + around_s, "closing": closing_s}
        return Allowed(own_s, {name: max(0.0, seconds) for name, seconds in reserve.items()})

    return Pace(source.steps, source.period, every, folder.path / PLAN, allowed)


def hopeless(hours: float, around_s: float) -> str:
    """What to say of a budget that leaves nothing to train in. Once a stage has been trained nothing is refused: those
    that follow take the fewest steps they can."""
    return (
        f"budget.hours: {hours:g} ({hours * 3600:.3g} s) leaves no time to train: what has passed, and evaluation and "
        f"saving, take about {around_s:.3g} s by themselves. Give more than {around_s / 3600:.2g}."
    )


def most_bytes(context: Context) -> int | None:
    """Peak memory that the recipe allows; None: as much as there is."""
    budget = context.recipe.budget
    return None if budget is None or budget.memory_gib is None else int(budget.memory_gib * GIB)


def spent_s(context: Context) -> float:
    """Seconds that the run has taken, in this session and in those before."""
    return time.monotonic() - context.began + sum(folder.seconds_before for folder in context.stages)


def requested_tokens(context: Context, stage: Stage) -> float:
    """About how many tokens a stage passes through a model."""
    match stage:
        case Supervised():
            if stage.steps is not None:
                return float(stage.steps * stage.batch_tokens)
            first, share = (stage.data, 1.0) if isinstance(stage.data, str) else first_of(stage.data)
            replayed = stage.replay.share if stage.replay is not None else 0.0
            return (stage.epochs or 1.0) * tokens_of(context, first) / share / (1 - replayed)
        case Preference() | Reward():
            return stage.epochs * tokens_of(context, stage.pairs)
        case Kto():
            return stage.epochs * tokens_of(context, stage.data)
        case Ppo() | Grpo():
            answers = stage.iterations * stage.rollout_prompts * stage.samples
            return float(answers * stage.max_new_tokens * (1 + stage.epochs))
        case Prefer() if stage.prompts is None:
            return 1.0
        case Prefer() | BestOf():
            assert stage.prompts is not None
            return prompts_of(context, stage.prompts) * stage.samples * stage.max_new_tokens
    if stage.kind in MAKES_DATA:
        return 0.0  # it trains nothing
    raise AssertionError(stage)


def first_of(shares: dict[str, float]) -> tuple[str, float]:
    """The source whose epochs count, and its share."""
    name = next(iter(shares))
    return name, shares[name] / sum(shares.values())


def tokens_of(context: Context, name: str | None) -> float:
    """About how many tokens a source's training rows have; of what an earlier stage gathers (`name` is its own, or
    None: the last one's), how many that will be."""
    if name is not None and context.there(name):
        data = context.dataset(name)
        return rows_of(data) * mean_tokens(data.train)
    made = [s for s in context.recipe.stages if isinstance(s, Prefer | BestOf) and name in (None, s.name, s.kind)]
    gathered = made[-1] if made else None
    if isinstance(gathered, Prefer) and gathered.prompts is not None:
        return prompts_of(context, gathered.prompts) * gathered.pairs_per_prompt * 2 * gathered.max_new_tokens
    if isinstance(gathered, BestOf):
        return prompts_of(context, gathered.prompts) * gathered.keep * gathered.max_new_tokens
    return tokens_of(context, gathered.pairs) if isinstance(gathered, Prefer) else 1.0


def prompts_of(context: Context, name: str) -> float:
    """How many prompts a stage finds; of data that is not made yet, as many as the sources behind it have rows."""
    names = [name] if context.there(name) else behind(context.recipe.stages, name)
    return float(sum(rows_of(context.dataset(source)) for source in names if context.there(source)))


def rows_of(data: Dataset) -> int:
    """Its training rows, of which a streamed source has only a sample here."""
    return len(data.train) if data.survey is None else data.survey.count("train")


def mean_tokens(rows: Sequence[Example]) -> float:
    """About how many tokens a row has."""
    looked = rows[:: max(1, len(rows) // LOOKED_AT)]
    return max(1.0, sum(characters(row) for row in looked) / CHARACTERS_A_TOKEN / max(1, len(looked)))


def characters(row: Example) -> int:
    """Of all that a model reads of a row."""
    match row:
        case Text():
            return len(row.text)
        case Chat():
            return sum(len(m.content) for m in row.messages)
        case Pair():
            return sum(len(m.content) for m in row.prompt) + len(row.chosen) + len(row.rejected)
        case Labelled():
            return sum(len(m.content) for m in row.prompt) + len(row.answer)
        case Choice():
            return len(row.context) + sum(len(option) for option in row.options)


def probing_s(context: Context, learner: Learner, load_s: float) -> float:
    """About how long the probes will take, on every model that they measure, at the present model's speed."""
    forward_s, new_s = speeds(learner)
    texts = [s for s in context.recipe.stages if s.kind in WRITES_TEXT]
    models = len(texts) + (context.recipe.base.model is not None)
    total = REPORT_S + (models * load_s if context.recipe.evaluate else 0.0)
    for probe in context.recipe.evaluate.values():
        read, written = probe_tokens(context, probe)
        measured = 2 if isinstance(probe, WinRateProbe) else models if probe.after is None else len(probe.after)
        total += measured * (read * forward_s + written * new_s)
    return total


def probe_tokens(context: Context, probe: Any) -> tuple[float, float]:
    """About how many tokens a probe lets a model read, and write."""
    rows = measured_rows(context, probe)
    count = min(len(rows), probe.limit or len(rows))
    length = mean_tokens(rows)
    match probe:
        case WinRateProbe() if judging_stage(probe) is not None:  # both orders: as many as there are models
            read = count * (2 * length + 2 * probe.max_new_tokens + RUBRIC_TOKENS)
            return read, float(count * (probe.max_new_tokens + probe.judge_tokens))
        case AnswersProbe() | WinRateProbe():
            return count * length, float(count * probe.max_new_tokens)
        case ConsistencyProbe():
            asked = count * probe.samples * (1 + probe.paraphrases)
            return asked * length, float(asked * probe.max_new_tokens)
        case AlignmentProbe() | ClozeProbe() | HallucinationProbe():
            return count * length, float(count * probe.max_new_tokens)
        case PseudoPerplexityProbe():
            return count * min(length, probe.max_length) ** 2, 0.0
        case FillMaskProbe():
            return probe.places * min(length, probe.max_length or length), 0.0
    return count * length, 0.0


@torch.no_grad()
def speeds(learner: Learner) -> tuple[float, float]:
    """Seconds a token that is read, and a token that is written; measured on a few rows that say nothing."""
    lm, length = learner.lm, min(64, learner.loaded.context // 2)
    rows = [Tokens(tuple(range(3 + n, 3 + n + length)), (0.0,) + (1.0,) * (length - 1), "speed") for n in range(16)]
    began = time.monotonic()
    losses(lm, rows)
    read_s = (time.monotonic() - began) / (len(rows) * length)
    if lm.encoder is not None:
        return read_s, 0.0
    new, began = 16, time.monotonic()
    sample(lm, [row.ids[:8] for row in rows], Sampling(new), (), lambda ids: "")
    return read_s, (time.monotonic() - began) / (len(rows) * new)
