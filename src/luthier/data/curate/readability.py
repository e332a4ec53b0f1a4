"""How hard a text is to read, by the length of its words and sentences. For English prose; LIX for any alphabet."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from luthier.base.sentences import sentences

LEAST_WORDS = 20
"""Of fewer words a sentence's length is chance."""
LONG_LETTERS = 6
"""LIX calls a word with more letters long."""
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`", re.DOTALL)
_VOWELS = re.compile(r"[aeiouyàâäéèêëïîôöùûüæœåø]+")
_SILENT = re.compile(r"(?:[^laeiouy]e|(?:[^aeiouytdl]|[aeioul]l)ed|[^aeiouy]es)\Z")
"""Endings without a syllable: "made", "called", "makes"; but "table", "wanted", "boxes"."""
_SOUNDED = re.compile(r"(?:[sxz]|[cs]h|[cg])es\Z")
_APART = re.compile(
    r"(?<![tscg])i[ao]\B(?!n\Z|ns\Z|us)|[^aeiouyqg]ua|[^aeiou]y[aeiou]|eo(?=[^u])(?<!peo)|[aeiou]\w+ea\Z|\bcreat|scien|"
    r"quiet|diet|client|[^ctgx]ious"
)
"""Two vowels that are two syllables: "create", "serious"; not "nation", "people"."""


class Readability(NamedTuple):
    """Three measures of one text."""

    ease: float
    """Flesch 1948: 206.835 - 1.015·words/sentences - 84.6·syllables/words. 90: a child's; 30: a scholar's."""
    grade: float
    """Kincaid et al. 1975: 0.39·words/sentences + 11.8·syllables/words - 15.59: years of school."""
    lix: float
    """Björnsson 1968: words/sentences + 100·long words/words. 25: easy; 60: hard."""


def readability(text: str) -> Readability | None:
    """The measures of a text's prose, code aside; None where it has fewer than 20 words."""
    prose = _CODE.sub(" ", text)
    words = _WORD.findall(prose)
    if len(words) < LEAST_WORDS:
        return None
    said = sum(1 for sentence in sentences(prose) if _WORD.search(sentence))
    per_sentence = len(words) / max(1, said)
    per_word = sum(map(syllables, words)) / len(words)
    long = sum(len(word) > LONG_LETTERS and _letters(word) > LONG_LETTERS for word in words) / len(words)
    return Readability(
        206.835 - 1.015 * per_sentence - 84.6 * per_word,
        0.39 * per_sentence + 11.8 * per_word - 15.59,
        per_sentence + 100 * long,
    )


def _letters(word: str) -> int:
    return sum(map(str.isalpha, word))


@lru_cache(maxsize=50_000)
def syllables(word: str) -> int:
    """Syllables of an English word: groups of vowels, without a silent ending, one more where two vowels are two."""
    word = word.casefold().replace("'", "").replace("’", "")
    if "-" in word:
        return sum(map(syllables, filter(None, word.split("-"))))
    count = len(_VOWELS.findall(word)) + len(_APART.findall(word))
    if count > 1 and _SILENT.search(word) and not _SOUNDED.search(word):
        count -= 1
    return max(1, count)
