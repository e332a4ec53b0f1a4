"""What judges answers in grpo and best_of: programs of the user, and reward models of earlier stages."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from luthier.base.alignment import BestOf, Grpo
from luthier.base.config import load_function
from luthier.base.errors import RunError, UserError
from luthier.base.functions import program_hash, raised
from luthier.base.nouns import Chat, Sample
from luthier.base.recipe import Recipe
from luthier.base.tuning import Quantize
from luthier.model.adapt import load_adapter, only, takes, unchanged
from luthier.model.heads import load_head, sequence_scores, state_width
from luthier.model.load import load_folder
from luthier.model.quantise import held_as
from luthier.model.roles import Role, evaluating
from luthier.model.score import LanguageModel
from luthier.run.context import Context, ModelRef
from luthier.run.memo import StageFolder
from luthier.tokens.pack import forest
from luthier.train.deal import as_tokens, cut
from luthier.train.group import Judge

Judged = Grpo | BestOf
SHOWN_CHARACTERS = 80
"""Of an answer in an error."""


class Scorer(NamedTuple):
    """A reward model: how to enter it, and its head."""

    role: Role
    head: nn.Linear
    shared: bool
    """Whether it is an adapter on the policy's own base."""


def check_programs(recipe: Recipe, root: Path) -> None:
    """Loads every reward program of a recipe before its first stage. Raises UserError with all that cannot be."""
    problems = []
    for stage in recipe.stages:
        for spec in stage.rewards if isinstance(stage, Judged) else ():
            try:
                program(spec, root)
            except UserError as error:
                problems += [f"{stage.name or stage.kind}.rewards: {problem}" for problem in error.problems]
    if problems:
        raise UserError(problems)


def program(spec: str, root: Path) -> Callable[..., Any] | None:
    """The function that a reward names; None where it names a stage. Raises UserError where it is not there, or does
    not take (messages, answer, row)."""
    if ":" not in spec:
        return None
    function = load_function(spec, root)
    try:
        inspect.signature(function).bind([], "", None)
    except TypeError as error:
        raise UserError(f"{spec}: does not take (messages, answer, row): {error}.") from None
    except ValueError:  # a built-in that does not say what it takes: the first answer will show
        pass
    return function


def reward_inputs(context: Context, stage: Judged) -> dict[str, str]:
    """Hashes of what judges: a reward stage's, or of the file that a program stands in. An edited program leads to a
    new stage."""
    found = {}
    for spec in stage.rewards:
        program = ":" in spec
        found[f"rewards.{spec}"] = (
            program_hash(spec, context.recipe_path) if program else reward_stage(context, spec).hash
        )
    return found


def reward_stage(context: Context, name: str | None) -> StageFolder:
    """The last reward stage, or the one named. Raises UserError when there is none."""
    made = [f for f in context.stages if f.kind == "reward" and name in (None, f.name)]
    if not made:
        raise UserError(f"there is no reward model{f' {name}' if name else ''}. Put a `reward` stage before this one.")
    return made[-1]


def scorer_of(context: Context, reward: StageFolder, policy: LanguageModel, start: ModelRef, adapter: str) -> Scorer:
    """A finished reward stage's model. It is loaded into `policy` under the name `adapter` where both are adapters of
    one base; else it gets weights of its own."""
    scorer = reward.path / "scorer"
    head = load_head(scorer / "head.safetensors", state_width(policy), policy.device)
    adapted, base = (scorer / "adapter_config.json").exists(), reward.record.get("shared_with")
    asked = reward.record["settings"]["quantize"]
    bits = Quantize(**asked) if asked else None
    same_base = base == start.hash and bits == held_as(policy.core)
    if adapted and same_base and policy.module is not policy.core and takes(policy, scorer):
        with unchanged(policy):
            load_adapter(policy, adapter, scorer)
        return Scorer(lambda: only(policy, adapter), head, shared=True)
    if adapted:
        lm = load_adapter(context.load(reward_base(context, reward), bits).lm, adapter, scorer)
    else:
        lm = load_folder(scorer, context.device, context.dtype).lm
    lm.module.requires_grad_(False)
    return Scorer(lambda: nullcontext(lm), head, shared=False)


def reward_base(context: Context, reward: StageFolder) -> ModelRef:
    """The model whose adapter the reward model is."""
    for ref in context.models.values():
        if ref.hash == reward.record.get("shared_with"):
            return ref
    raise RunError(f"{reward.path}: the model that this reward adapter belongs to is not part of the run any more.")


def judges_of(
    context: Context, stage: Judged, policy: LanguageModel, start: ModelRef, microbatch_tokens: int
) -> list[Judge]:
    """All that the stage's `rewards` name, with their weights."""
    judges = []
    names = short_names(list(stage.rewards))
    for number, (spec, weight) in enumerate(stage.rewards.items()):
        if (function := program(spec, context.root)) is not None:
            scores = by_program(stage.name or stage.kind, spec, function)
        else:
            scorer = scorer_of(context, reward_stage(context, spec), policy, start, f"reward_{number}")
            scores = by_model(scorer, microbatch_tokens)
        judges.append(Judge(names[number], weight, scores))
    return judges


def short_names(specs: Sequence[str]) -> list[str]:
    """What curves are called: the function's or the stage's name; where two are the same, all that was written."""
    short = [spec.rpartition(":")[2] for spec in specs]
    return [name if short.count(name) == 1 else spec for name, spec in zip(short, specs, strict=True)]


def by_program(stage: str, spec: str, function: Callable[..., Any]) -> Callable[..., list[float]]:
    """A program as a judge. It gets the prompt's messages, the answer without white space around it, and the prompt's
    Chat. Raises RunError naming program, prompt and answer where it fails or returns no finite number."""

    def scores(chats: Sequence[Chat], samples: Sequence[Sample]) -> list[float]:
        return [one(chat, sample.text.strip()) for chat, sample in zip(chats, samples, strict=True)]

    def one(chat: Chat, answer: str) -> float:
        try:
            value = function(chat.prompt, answer, chat)
        except (Exception, SystemExit) as error:
            raise RunError(complaint(stage, spec, chat, answer, raised(error))) from error
        if not isinstance(value, int | float | np.number | np.bool_) or not math.isfinite(value):
            raise RunError(complaint(stage, spec, chat, answer, f"returned {value!r}, which is no finite number"))
        return float(value)

    return scores


def complaint(stage: str, spec: str, chat: Chat, answer: str, said: str) -> str:
    """One line on a reward program that failed."""
    shown = answer if len(answer) <= SHOWN_CHARACTERS else answer[:SHOWN_CHARACTERS] + "…"
    return (
        f"{stage}: rewards: {spec} {said}, for the prompt of {chat.origin} and the answer {shown!r}. Make it return a "
        "number for every answer, then run the same command again."
    )


def by_model(scorer: Scorer, microbatch_tokens: int) -> Callable[..., list[float]]:
    """A reward model as a judge: its score of the sampled tokens, end token included."""

    @torch.no_grad()
    def scores(chats: Sequence[Chat], samples: Sequence[Sample]) -> list[float]:
        sequences = [as_tokens(sample) for sample in samples]
        found: list[float] = []
        with scorer.role() as lm, evaluating(lm):
            for run in cut(sequences, range(len(sequences)), microbatch_tokens, lm.layout == "forest"):
                batch = forest([sequences[i] for i in run]).to(lm.device)
                found += sequence_scores(lm, scorer.head, batch).tolist()
        return found

    return scores
