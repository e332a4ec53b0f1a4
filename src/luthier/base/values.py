"""Values in a text, as they are written: whole words and whole numbers, in any case."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache


def contains(text: str, accept: Sequence[str]) -> bool:
    """Whether any accepted value stands in the text as whole words and whole numbers, in any case: "14 mm" is neither
    in "114 mm" nor in "2.14 mm"."""
    return any(_whole((value,)).search(text) for value in accept)


def marked(text: str, accept: Sequence[str]) -> list[tuple[str, bool]]:
    """A text cut at the values that it `contains`: (piece, whether it is one). Of two that begin at one place the
    longer one counts."""
    if not accept:
        return [(text, False)]
    pieces, at = [], 0
    for found in _whole(tuple(sorted(accept, key=len, reverse=True))).finditer(text):
        pieces += [(text[at : found.start()], False), (found[0], True)]
        at = found.end()
    return [(piece, accepted) for piece, accepted in [*pieces, (text[at:], False)] if piece]


@lru_cache(maxsize=4096)
def _whole(values: tuple[str, ...]) -> re.Pattern[str]:
    either = "|".join(re.escape(value) for value in values)
    return re.compile(rf"(?<!\w)(?<!\d[.,])(?:{either})(?!\w)(?![.,]\d)", re.IGNORECASE)
