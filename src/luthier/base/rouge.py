"""ROUGE-L: how much of two texts is the same words in the same order."""

from __future__ import annotations

import re
from collections.abc import Sequence


def words_of(text: str) -> list[str]:
    """Words in small letters: letters and digits. On ASCII text this is what rouge-score cuts (without its stemmer);
    the letters of other scripts, which it drops, count too."""
    return re.findall(r"[^\W_]+", text.lower())


def longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, a whole row of the table at a time: the bits of one whole number.
    Hyyrö 2004, eq. 3: V ← (V + (V & M)) | (V & ~M)."""
    places: dict[str, int] = {}
    for at, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << at
    everywhere = (1 << len(a)) - 1
    row = everywhere
    for word in b:
        here = row & places.get(word, 0)
        row = ((row + here) | (row - here)) & everywhere
    return len(a) - row.bit_count()


def rouge_l(a: Sequence[str], b: Sequence[str]) -> float:
    """F1 of the longest common subsequence of words, 2·LCS / (|a| + |b|); 0 of no words at all. Lin 2004, §3.1."""
    return 2 * longest_common(a, b) / (len(a) + len(b)) if a or b else 0.0
