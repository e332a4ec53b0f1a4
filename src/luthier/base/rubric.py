"""What a judge is told to look for: a YAML file, or a sentence."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import Field, ValidationError

from luthier.base.config import Place, parse, read_text
from luthier.base.errors import UserError, did_you_mean
from luthier.base.strict import Strict


class Rubric(Strict):
    """How a judge compares two answers."""

    criteria: str = Field(
        default="Which answer is more correct, more helpful, and says what was asked without padding?", min_length=1
    )
    """What makes an answer the better one, in words. Longer is not better by itself: the judge is told so."""
    reference: bool = True
    """Show the judge the reference answer, where a row has one."""
    reasons: bool = True
    """Let the judge give its reasons before the verdict. False: the verdict alone, cheaper and less reliable."""


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
