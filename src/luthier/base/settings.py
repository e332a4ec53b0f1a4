"""What may be written in a recipe, read off the models of `recipe.py`: the settings reference, and who has which name.

The docstring under a field is its help text; a field without one says the same as its namesake elsewhere.
"""

from __future__ import annotations

import json
import re
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from luthier.base import abilities, alignment, curation, curves, probes, recipe, tuning
from luthier.base.benchmarks import Benchmarks
from luthier.base.licences import LicencePolicy
from luthier.base.mistakes import Judging, MistakesProbe
from luthier.base.rubric import Rubric
from luthier.base.synthesis import Price, Synthesise
from luthier.base.tuning import ADAPTERS

Model = type[BaseModel]
Loc = tuple[str | int, ...]

STAGES: dict[str, Model] = {
    "pretrain": recipe.Pretrain,
    "sft": recipe.Sft,
    "prefer": alignment.Prefer,
    "reward": alignment.Reward,
    "ppo": alignment.Ppo,
    "dpo": alignment.Dpo,
    "orpo": alignment.Orpo,
    "simpo": alignment.Simpo,
    "kto": alignment.Kto,
    "grpo": alignment.Grpo,
    "best_of": alignment.BestOf,
    "synthesise": Synthesise,
    "curate": curation.Curate,
}
PROBES: dict[str, Model] = {
    "choices": probes.ChoicesProbe,
    "answers": probes.AnswersProbe,
    "loss": probes.LossProbe,
    "win_rate": probes.WinRateProbe,
    "fill_mask": probes.FillMaskProbe,
    "pseudo_perplexity": probes.PseudoPerplexityProbe,
    "alignment": abilities.AlignmentProbe,
    "cloze": abilities.ClozeProbe,
    "consistency": abilities.ConsistencyProbe,
    "hallucination": abilities.HallucinationProbe,
    "mistakes": MistakesProbe,
}
SECTIONS: dict[str, tuple[str, Model]] = {
    "recipe": ("the whole file", recipe.Recipe),
    "base": ("`base:`", recipe.Base),
    "fresh": ("`base.fresh:`", recipe.Fresh),
    "source": ("an entry of `data:`", recipe.Source),
    "training": ("every stage that trains (all but prefer and those that make data)", tuning.Training),
    **{kind: (f"a stage, `kind: {kind}`", model) for kind, model in STAGES.items()},
    **{kind: (f"`adapter:` of a training stage, `kind: {kind}`", model) for kind, model in ADAPTERS.items()},
    "freeze": ("`freeze:` of a training stage", tuning.Freeze),
    "quantize": ("`quantize:` of a training stage", tuning.Quantize),
    "watchdog": ("`watchdog:` of a training stage", tuning.Watchdog),
    "masking": ("`masking:` of pretrain", tuning.Masking),
    "replay": ("`replay:` of pretrain and sft", tuning.Replay),
    "budget": ("`budget:`", tuning.Budget),
    "licences": ("`licences:`, of a recipe or of a stage of kind curate", LicencePolicy),
    **{kind: (f"an entry of `evaluate:`, `kind: {kind}`", model) for kind, model in PROBES.items()},
    "benchmarks": ("`benchmarks:`", Benchmarks),
    "rubric": ("`rubric:` of a probe of kind win_rate", Rubric),
    "judging": ("`judging:` of a probe of kind mistakes", Judging),
    "price": ("`price:` of synthesise", Price),
    "learning_curve": ("`learning_curve:`", curves.LearningCurve),
}
"""Every group of settings by the name `luthier settings NAME` knows it by, and where in a recipe it stands."""


class Setting(NamedTuple):
    """One row of the reference."""

    field: str
    type: str
    default: str
    help: str


def describe(model: Model) -> list[Setting]:
    """One row a field, in the order of the model."""
    return [
        Setting(name, type_words(field), default_words(field), help_of(model, name))
        for name, field in model.model_fields.items()
    ]


def help_of(model: Model, name: str) -> str:
    """The docstring of a field on one line; its namesake's where it has none of its own."""
    if name == "kind":
        return "Which kind it is."
    others: tuple[Model, ...] = (tuning.Training, recipe.Supervised, alignment.Ppo, *PROBES.values(), recipe.Source)
    for owner in (model, *model.__mro__[1:], *others):
        if issubclass(owner, BaseModel) and name in owner.model_fields and owner.model_fields[name].description:
            return " ".join(str(owner.model_fields[name].description).split())
    return ""


def first_sentence(text: str) -> str:
    """`text` up to its first full stop that ends a sentence, without it."""
    return re.split(r"(?<=[^.])[.](?:\s|$)", text, maxsplit=1)[0]


def type_words(field: FieldInfo) -> str:
    """What to write, in words: "whole number ≥ 1", "cosine | linear | constant"."""
    bounds = [bound for rule in field.metadata if (bound := bound_words(rule))]
    return " ".join([words(field.annotation), ", ".join(bounds)]).strip()


def bound_words(rule: Any) -> str:
    """One of pydantic's bounds as a sign and a number; nothing for other rules."""
    match rule:
        case Ge(ge=value):
            return f"≥ {value}"
        case Gt(gt=value):
            return f"> {value}"
        case Le(le=value):
            return f"≤ {value}"
        case Lt(lt=value):
            return f"< {value}"
    return ""


def words(annotation: Any) -> str:
    """A type in a user's words."""
    plain = {int: "whole number", float: "number", str: "text", bool: "true | false", Any: "anything"}
    if annotation in plain:
        return plain[annotation]
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return words(args[0])
    if origin is Literal:
        return " | ".join(str(option) for option in args)
    if origin in (Union, UnionType):
        parts = [arg for arg in args if arg is not NoneType]
        for word, known in (("stage", STAGES), ("probe", PROBES), ("adapter", ADAPTERS)):
            if {*parts} == {*known.values()}:
                return word
        return " or ".join(words(part) for part in parts)
    if origin is list:
        return f"list of {words(args[0])}"
    if origin is tuple:
        return "[" + ", ".join(words(arg) for arg in args) + "]"
    if origin is dict:
        return f"{{name: {words(args[1])}}}"
    return next(name for name, (_, model) in SECTIONS.items() if model is annotation)


def default_words(field: FieldInfo) -> str:
    """The default as it would be written; "required"; or nothing, where the help says what absence means."""
    if field.default is PydanticUndefined:
        return "required"
    if isinstance(field.default, BaseModel):
        return "see there"
    return "" if field.default is None else json.dumps(field.default).strip('"')


def markdown() -> str:
    """The whole reference: docs/settings.md."""
    lines = [
        "# Settings",
        "",
        "Everything a recipe may hold: what `luthier settings --markdown` prints, in the words under the fields of",
        "`src/luthier/base/`. Any of it can also be given on the command line, where the last one wins:",
        "",
        "```",
        "luthier run recipe.yaml seed=1 stages.sft.learning_rate=1e-3 data.faq.limit=100",
        "```",
        "",
        "A stage is meant by its name, its kind or its place (0 is the first).",
        "A plain text for `base`, or for an entry of `data`, stands for `{model: …}` and `{path: …}`.",
    ]
    shared = describe(tuning.Training)
    for name, (where, model) in SECTIONS.items():
        trains = issubclass(model, tuning.Training) and model is not tuning.Training
        lines += ["", f"## {name}", "", f"{where[0].upper()}{where[1:]}. {summary(model)}", ""]
        lines += ["All settings of [training](#training), and:", ""] if trains else []
        lines += ["| setting | what to write | default | meaning |", "|---|---|---|---|"]
        for row in describe(model):
            if trains and row in shared:
                continue
            default = "required" if row.default == "required" else f"`{row.default}`" if row.default else ""
            cells = [f"`{row.field}`", row.type, default, row.help]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def summary(model: Model) -> str:
    """The model's own docstring on one line."""
    return " ".join((model.__doc__ or "").split())


def model_at(loc: Loc) -> Model | None:
    """The group of settings at a pydantic location (kinds of stages and probes included), if there is one."""
    annotation: Any = recipe.Recipe
    for part in loc:
        annotation = step_into(annotation, part)
    return as_model(annotation)


def as_model(annotation: Any) -> Model | None:
    """`annotation` where it is a group of settings, or one that may be absent."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    models = [arg for arg in get_args(annotation) if isinstance(arg, type) and issubclass(arg, BaseModel)]
    return models[0] if len(models) == 1 and get_origin(annotation) in (Union, UnionType) else None


def step_into(annotation: Any, part: str | int) -> Any:
    """The type one part of a location further in; None where the part is no setting."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return step_into(args[0], part)
    if origin is list:
        return args[0]
    if origin is dict:
        return args[1]
    model = as_model(annotation)
    if model is not None:
        if part == model.__name__:  # how pydantic names one of several alternatives
            return model
        return model.model_fields[str(part)].annotation if part in model.model_fields else None
    if origin not in (Union, UnionType):
        return None
    kinds = {**STAGES, **PROBES, **ADAPTERS}
    if part in kinds:
        return kinds[str(part)]
    return step_into(next((arg for arg in args if arg is not NoneType), None), part)


def inner_settings(model: Model) -> dict[str, str]:
    """Settings one level further in, by name: {"rank": "adapter.rank"}."""
    found: dict[str, str] = {}
    for name, field in model.model_fields.items():
        kinds = ADAPTERS.values() if name == "adapter" else [as_model(field.annotation)]
        for inner in kinds:
            found |= {key: f"{name}.{key}" for key in (inner.model_fields if inner else ())}
    return found


def kinds_with(setting: str) -> list[str]:
    """The stage kinds that have a setting."""
    return [kind for kind, model in STAGES.items() if setting in model.model_fields]
