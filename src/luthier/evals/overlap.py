"""How many words an answer shares with a reference."""

from __future__ import annotations

import re
from collections import Counter

ARTICLES = frozenset({"a", "an", "the"})


def token_f1(answer: str, reference: str) -> float:
    """The harmonic mean of precision and recall over words, case, punctuation and articles aside: 2·common / (words of
    one + words of the other), 0 to 1. Rajpurkar et al. 2016 (SQuAD). Two texts without a word are equal: 1."""
    ours, theirs = words(answer), words(reference)
    if not ours and not theirs:
        return 1.0
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs))


def words(text: str) -> list[str]:
    """The words that are compared."""
    return [word for word in re.sub(r"[^\w\s]", "", text.lower()).split() if word not in ARTICLES]
