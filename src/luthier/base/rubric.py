"""What a judge is told to look for."""

from __future__ import annotations

from pydantic import Field

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


def is_rubric_file(text: str) -> bool:
    """Whether a rubric that was given as one text names a file; else it is the criteria themselves."""
    return text.endswith((".yaml", ".yml"))
