"""What pydantic says about a recipe, in a user's words: one line a mistake, with what to do about it."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

from pydantic import ValidationError

from luthier.base.errors import did_you_mean
from luthier.base.recipe import Recipe
from luthier.base.settings import (
    ADAPTERS,
    PROBES,
    STAGES,
    Loc,
    first_sentence,
    help_of,
    inner_settings,
    kinds_with,
    model_at,
)

WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a group of settings",
    "model_type": "a group of settings",
    "model_attributes_type": "a group of settings",
}
"""pydantic's error types that say "another type was wanted"."""

BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}


class Mistake(NamedTuple):
    """One of pydantic's errors. `branch`: it is about one of several alternatives at `loc[:branch]`."""

    loc: Loc
    error: dict[str, Any]
    branch: int | None


def invalid(value: dict[str, Any]) -> tuple[Recipe | None, list[tuple[Loc, str]]]:
    """The recipe, if plain values make one, and the mistakes: (path of keys and indices, message).

    Strict, so that `steps: true` is not 1; by way of JSON, so that a list may be a tuple.
    """
    try:
        return Recipe.model_validate_json(json.dumps(value), strict=True), []
    except ValidationError as failure:
        mistakes = [locate(value, dict(error)) for error in failure.errors(include_url=False)]
    grouped: dict[Loc, list[Mistake]] = defaultdict(list)
    for mistake in mistakes:
        grouped[mistake.loc[: mistake.branch]].append(mistake)
    found: list[tuple[Loc, str]] = []
    for loc, group in grouped.items():
        deeper = [mistake for mistake in group if len(mistake.loc) > len(loc)]
        if group[0].branch is None or deeper:
            found += [(mistake.loc, message(mistake)) for mistake in deeper or group]
        else:
            found.append((loc, neither(group)))
    return None, found


def locate(value: Any, error: dict[str, Any]) -> Mistake:
    """Takes out of pydantic's location what the file does not hold: kinds, and names of alternatives."""
    loc: list[str | int] = []
    branch = None
    for position, part in enumerate(error["loc"]):
        if position == 2 and loc[0] in ("stages", "evaluate"):
            continue
        if isinstance(value, dict) and value.get("kind") == part and part not in value:
            continue
        known = isinstance(value, dict) and part in value
        if known or (isinstance(value, list) and isinstance(part, int) and part < len(value)):
            value = value[part]
            loc.append(part)
        elif error["type"] == "missing" and position == len(error["loc"]) - 1:
            loc.append(part)
        else:
            branch = len(loc)
    return Mistake(tuple(loc), error, branch)


def message(mistake: Mistake) -> str:
    """What is wrong, and what to do."""
    error, given = mistake.error, mistake.error["input"]
    what, context = error["type"], error.get("ctx", {})
    if what == "extra_forbidden":
        return unknown_setting(error["loc"])
    if what == "missing":
        return missing(error["loc"])
    if what in ("union_tag_invalid", "union_tag_not_found"):
        return unknown_kind(error["loc"], given)
    if what in WANTED:
        return wrong_type(given, WANTED[what])
    if what == "literal_error":
        options = quoted(context["expected"])
        if given is None:
            return f"is empty. Give one of {', '.join(options)}, or remove the line."
        return f"{show(given)} is not one of {', '.join(options)}.{did_you_mean(str(given), options)}"
    if what in BOUNDS:
        word, key = BOUNDS[what]
        return f"must be {word} {context[key]:g}, not {show(given)}."
    if what == "string_pattern_mismatch":
        return f'{show(given)} cannot name a folder. Use letters, digits, ".", "_" and "-", a letter or digit first.'
    if what == "too_long":
        return f"holds {context['actual_length']} values. Give {context['max_length']}."
    return f"{error['msg']}."


def neither(group: list[Mistake]) -> str:
    """A value that fits none of several alternatives."""
    options = [option for mistake in group for option in wanted(mistake.error)]
    given = group[0].error["input"]
    return f"{show(given)} is not {' or '.join(options)}.{did_you_mean(str(given), options)}"


def wanted(error: dict[str, Any]) -> list[str]:
    """What one alternative would have taken."""
    if error["type"] == "literal_error":
        return quoted(error["ctx"]["expected"])
    return [WANTED.get(error["type"], error["msg"])]


def quoted(text: str) -> list[str]:
    """The words in quotes in one of pydantic's texts: "'a', 'b' or 'c'" -> [a, b, c]."""
    return re.findall(r"'([^']*)'", text)


def show(value: Any) -> str:
    """A value as a person would write it, kept short."""
    if isinstance(value, dict):
        return "a group of settings"
    if isinstance(value, list):
        return "a list"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:56] + ' …"'


def wrong_type(given: Any, want: str) -> str:
    """Another type was wanted; the usual slips are named."""
    if given is None:
        return f"is empty. Give {want}, or remove the line."
    fix = ""
    if want == "text" and isinstance(given, bool | int | float):
        fix = f' Put it in quotes: "{show(given)}".'
    elif want in ("a number", "a whole number") and isinstance(given, str) and re.fullmatch(r"[-+]?[0-9.]+", given):
        fix = " Remove the quotes."
    elif want == "true or false" and isinstance(given, str) and given.lower() in ("yes", "no", "on", "off"):
        fix = f" Write {'true' if given.lower() in ('yes', 'on') else 'false'}."
    return f"{show(given)} is not {want}.{fix}"


def unknown_setting(loc: Loc) -> str:
    """A key that no setting has: the nearest one, or the place where it would be right."""
    model, name = model_at(loc[:-1]), str(loc[-1])
    if model is None:
        return "no such setting."
    known = list(model.model_fields)
    inner = inner_settings(model)
    if name in inner:
        hint = f" Did you mean {inner[name]}?"
    elif kinds_with(name) and model in STAGES.values():
        hint = f" It is a setting of {', '.join(kinds_with(name))}."
    else:
        hint = did_you_mean(name, known)
    return f"no such setting.{hint or f' The settings here: {listed(known)}.'}"


def missing(loc: Loc) -> str:
    """A setting that must be given, with what it is."""
    name = loc[-1]
    model = model_at(loc[:-1])
    if isinstance(name, int) or model is None:
        return "is missing."
    return f"is missing: {first_sentence(help_of(model, name)).rstrip('.')}. Add {name}: …"


def unknown_kind(loc: Loc, given: Any) -> str:
    """A stage or a probe that does not say what it is, or says it is something unknown."""
    kinds, what = (STAGES, "stage") if loc[0] == "stages" else (PROBES, "probe")
    if loc[-1] == "adapter":
        kinds, what = ADAPTERS, "adapter"
    kind = given.get("kind") if isinstance(given, dict) else None
    if kind is None:
        only = [key for key in given if key in kinds] if isinstance(given, dict) else []
        fix = f"Write kind: {only[0]}, and its settings beside it" if only else f"Add kind: one of {listed(kinds)}"
        return f"has no kind. {fix}."
    return f"{show(kind)} is no kind of {what}.{did_you_mean(str(kind), kinds)} The kinds: {listed(kinds)}."


def listed(names: Iterable[str]) -> str:
    """'a, b, c'"""
    return ", ".join(names)
