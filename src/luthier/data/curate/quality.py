"""How good a row is, as far as its words tell: measures, reasons to leave it out, one figure from all measures.

A measure (`scores_of`) is a column: a number with a name and a unit, of which nobody has decided yet what is good. A
flaw (`flaws`) is a reason in words for which a row ought to go; each has a threshold that is wrong for hardly any good
row. `quality` makes one figure of the measures, by ranks, so that no measure's scale matters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from luthier.base.nouns import Example
from luthier.data.curate.parts import parts_of


def scores_of(example: Example) -> dict[str, float]:
    """The measures of a row. A measure that says nothing of this row is absent."""
    parts = parts_of(example)
    return {"answer_words": float(len(parts.answer.split())), "prompt_words": float(len(parts.prompt.split()))}


def flaws(example: Example) -> list[str]:
    """Reasons, in words, for which a row ought to go; none: nothing speaks against it."""
    return [] if parts_of(example).answer.strip() else ["the answer is empty"]


def quality(scores: Sequence[Mapping[str, float]]) -> np.ndarray:
    """[N] in 0..1, better is higher."""
    return np.full(len(scores), 0.5)
