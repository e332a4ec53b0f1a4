"""What someone else says of rows, as columns: a base model's loss, a judge, a language detector, a dictionary.

`data/` loads no model. Whoever has one hands a function down; the figures come back as measures beside those of
`quality.scores_of`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from luthier.base.nouns import Chat, Example, Message, Rater, Text
from luthier.data.curate.parts import parts_of


class Cost(NamedTuple):
    """What a model pays for an example's supervised tokens."""

    nats: float
    tokens: int


Nats = Callable[[Sequence[Example]], Sequence[Cost]]
"""Examples -> the cost of each one's answer (or text), all that stands before it being given."""
Told = Callable[[str], tuple[str, float] | None]
"""A text -> its language as two letters and how sure that is, 0 to 1; None where it is too short to tell."""
MOST_NATS = 50.0
"""A mean loss is cut off here, so that its perplexity is finite."""
SURE_FRAC = 0.8
"""How sure a language must be before a row is held to be in another."""


def model_scores(examples: Sequence[Example], nats: Nats) -> list[dict[str, float]]:
    """perplexity: exp of the mean loss of a row's answer (or text), its prompt being given. ifd: instruction-following
    difficulty, the mean loss of the answer behind its question over that behind an empty one (Li et al. 2023, "From
    Quantity to Quality", eq. 4): near 0 the question gives the answer away, from 1 up it does not help to say it. A row
    without supervised tokens, or without a question, lacks what cannot be said."""
    without = {i: bare for i, example in enumerate(examples) if (bare := unasked(example)) is not None}
    costs = nats([*examples, *without.values()])
    alone = dict(zip(without, costs[len(examples) :], strict=True))
    rows: list[dict[str, float]] = []
    for i, cost in enumerate(costs[: len(examples)]):
        row: dict[str, float] = {}
        if cost.tokens and math.isfinite(cost.nats):
            mean = cost.nats / cost.tokens
            row["perplexity"] = math.exp(min(mean, MOST_NATS))
            bare_cost = alone.get(i)
            if bare_cost is not None and bare_cost.tokens and bare_cost.nats > 0:
                row["ifd"] = mean / (bare_cost.nats / bare_cost.tokens)
        rows.append(row)
    return rows


def unasked(example: Example) -> Chat | None:
    """A row's answer behind an empty question: the same tokens, and the template's around them. None of a document."""
    parts = parts_of(example)
    if isinstance(example, Text) or not parts.answer.strip() or not parts.prompt.strip():
        return None
    return Chat((Message("user", ""), Message("assistant", parts.answer)), example.origin)


def judge_scores(examples: Sequence[Example], rate: Rater) -> list[dict[str, float]]:
    """judge: what a rater says of each row's answer to its question, higher is better; a document has no question."""
    rows: list[dict[str, float]] = []
    for example in examples:
        parts = parts_of(example)
        asked = (Message("user", parts.prompt),)
        rows.append({} if isinstance(example, Text) else {"judge": float(rate(asked, parts.answer))})
    return rows


def language_scores(
    examples: Sequence[Example], told: Told, wanted: Iterable[str] | None = None
) -> list[dict[str, float]]:
    """language_ok: 0 where the answer (or text) is surely in a language that is not `wanted` (default: that of its
    question), else 1; absent where the text is too short to tell."""
    allowed = None if wanted is None else set(wanted)
    rows: list[dict[str, float]] = []
    for example in examples:
        parts = parts_of(example)
        said, right = told(parts.answer), allowed
        if right is None and parts.prompt:
            asked = told(parts.prompt)
            right = {asked[0]} if asked is not None and asked[1] >= SURE_FRAC else None
        if said is None:
            rows.append({})
        else:
            rows.append({"language_ok": float(right is None or said[0] in right or said[1] < SURE_FRAC)})
    return rows


def spelling_scores(examples: Sequence[Example], misspelt: Callable[[str, str], int]) -> list[dict[str, float]]:
    """misspelt_frac: misspelt words of the answer by its words; `misspelt` counts those of a text (first argument) that
    its question (second) does not have. Absent where the answer has no words."""
    rows: list[dict[str, float]] = []
    for example in examples:
        parts = parts_of(example)
        words = len(parts.answer.split())
        rows.append({"misspelt_frac": misspelt(parts.answer, parts.prompt) / words} if words else {})
    return rows
