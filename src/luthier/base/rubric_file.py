"""A rubric as it was given: a group of settings, a YAML file, or a sentence."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from luthier.base.config import Place, parse, read_text, resolve_path
from luthier.base.errors import UserError, did_you_mean
from luthier.base.rubric import Rubric, is_rubric_file


def rubric_of(given: Rubric | str | None, recipe_path: Path) -> Rubric:
    """A recipe's rubric; the default where it has none. A file is relative to the recipe. Raises UserError for a file
    that is not there, or with every problem in it."""
    if given is None or isinstance(given, Rubric):
        return given or Rubric()
    return load_rubric(resolve_path(recipe_path, given)) if is_rubric_file(given) else Rubric(criteria=given)


def load_rubric(path: Path) -> Rubric:
    """A rubric from a YAML file. Raises UserError with every problem, each with its line."""
    tree = parse(read_text(path), str(path), Place(str(path), 0, ()))
    if not isinstance(tree.value, dict):
        raise UserError(f"{path}: holds no settings. Write criteria: … (and reference, reasons).")
    try:
        tree.raise_problems()
        return Rubric.model_validate_json(json.dumps(tree.value), strict=True)
    except ValidationError as error:
        wrong = []
        for problem in error.errors():
            loc = tuple(part for part in problem["loc"])
            hint = did_you_mean(str(loc[-1]), Rubric.model_fields) if problem["type"] == "extra_forbidden" else ""
            what = "no such setting." if problem["type"] == "extra_forbidden" else f"{problem['msg']}."
            wrong.append(f"{tree.place(loc).text}: {'.'.join(map(str, loc))}: {what}{hint}")
        raise UserError(wrong) from None
