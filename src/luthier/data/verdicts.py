"""What a row says of its answers besides their text: good or bad, by how much, and how many raters agreed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from luthier.data.messages import Unusable, shown

LABELS = {
    "true": True, "good": True, "yes": True, "1": True, "+1": True,
    "false": False, "bad": False, "no": False, "0": False, "-1": False,
}  # fmt: skip
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def verdict(value: Any) -> bool | None:
    """Whether a label says good or bad; None where it says something else."""
    if isinstance(value, bool):
        return value
    return LABELS.get(f"{value:g}" if isinstance(value, int | float) else str(value).strip().casefold())


def label_of(value: Any) -> bool:
    """Whether an answer is good. Raises Unusable where its label does not say."""
    good = verdict(value)
    if good is None:
        raise Unusable(f"label: {shown(value)} is not true or false (or good or bad, yes or no, 1 or 0)")
    return good


def strength_of(fields: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """A pair's margin (0 or more) and agreement (0 to 1), where it has them; without a margin, by how much the score of
    the chosen answer is higher (score_chosen, score_rejected of binarised sets). Raises Unusable."""
    margin, agreement = number_in(fields, "margin"), number_in(fields, "agreement")
    chosen, rejected = number_in(fields, "score_chosen"), number_in(fields, "score_rejected")
    if margin is None and chosen is not None and rejected is not None:
        margin = chosen - rejected
        if margin < 0:
            raise Unusable(f"score_chosen: {chosen:g} is below score_rejected, {rejected:g}. Swap the two answers")
    if margin is not None and margin < 0:
        raise Unusable(f"margin: {margin:g} is below 0, as if the rejected answer were the better. Swap the two")
    if agreement is not None and not 0 <= agreement <= 1:
        raise Unusable(f"agreement: {agreement:g} is not a share of the raters, from 0 to 1. Divide it by their number")
    return margin, agreement


def number_in(fields: Mapping[str, Any], column: str) -> float | None:
    """The finite number in a column; None where it is absent or empty. Raises Unusable."""
    value = fields.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise Unusable(f"{column}: {shown(value)} is not a number")
    return number


def gold_index(gold: Any, options: list[str], labels: list[Any], column: str) -> int:
    """The right option's index from an index, a letter, one of the labels, or the option's own words."""
    meant: set[int] = set()
    if isinstance(gold, str):
        said = gold.strip()
        if said in labels[: len(options)]:
            return labels.index(said)
        meant = {index for index, option in enumerate(options) if option.strip() == said}
        if said.isascii() and said.isdigit() and len(said) < 4:
            meant.add(int(said))
        elif len(said) == 1 and said.upper() in LETTERS:
            meant.add(LETTERS.index(said.upper()))
    elif isinstance(gold, int) and not isinstance(gold, bool):
        meant.add(gold)
    meant &= set(range(len(options)))
    if len(meant) > 1:
        raise Unusable(f"{column}: {shown(gold)} can mean several options. Give the index, a number from 0")
    if not meant:
        last = LETTERS[len(options) - 1] if len(options) <= len(LETTERS) else "Z"
        raise Unusable(f"{column}: {shown(gold)} is not 0 to {len(options) - 1}, A to {last} or an option's words")
    return min(meant)
