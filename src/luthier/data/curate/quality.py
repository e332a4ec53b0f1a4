"""How good a row is, as far as its words tell: measures, reasons to leave it out, one figure from all measures.

A measure (`scores_of`) is a column: a number with a name, of which nobody has decided yet what is good. A flaw
(`flaws`) is a reason in words for which a row ought to go; each has a threshold that is wrong for hardly any good row.
`quality` makes one figure of the measures, by ranks, so that no measure's scale matters. What a dictionary and a
language detector say of a row (`run/curate_words.py`) are measures like these.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np

from luthier.base.endings import broken_off, finished
from luthier.base.nouns import Example, Text
from luthier.base.repetition import repeat, repeated_frac
from luthier.base.stems import content_words
from luthier.data.curate import junk
from luthier.data.curate.parts import Parts, parts_of
from luthier.data.curate.readability import readability
from luthier.data.text import words_only

LEAST_COMPRESSED = 200
"""Characters below which a compressor's own bytes decide the ratio."""
LEAST_RATIO = 0.18
"""Compressed size of a text by its size: prose has 0.45 or so at 1,000 characters and 0.35 at 10,000; a template said
over and over 0.1."""
LEAST_SUPPORTED_FRAC = 0.3
"""Of an answer's content words and numbers that stand in its passage or question: answers that say a passage in other
words have half of them; answers to another passage a tenth."""
LEAST_CONTENT = 5
"""Content words of an answer by which it is judged."""
MOST_WORDS = 20_000
"""Of an answer: longer ones are files that came into the wrong column. Documents may be as long as they like."""
MOST_WORD_LETTERS_MEAN, LEAST_WORD_LETTERS_MEAN = 12.0, 2.2
"""Rae et al. 2021 (Gopher), table A1, take 3 to 10 for web pages; answers are shorter and may be lists of terms."""
SHOUTED_FRAC = 0.6
"""Capitals among letters, from 40 letters up."""


def scores_of(example: Example) -> dict[str, float]:
    """The measures of a row: words and shares (0..1) of its answer, or of a document's text. What says nothing of this
    row is absent."""
    parts = parts_of(example)
    answer, prompt = parts.answer, parts.prompt
    letters = [c for c in answer if c.isalpha()]
    marks = sum(not c.isspace() for c in answer)
    found = {
        "answer_words": float(len(answer.split())),
        "letters_frac": len(letters) / marks if marks else 0.0,
        "capitals_frac": sum(map(str.isupper, letters)) / len(letters) if letters else 0.0,
        "repeated_frac": repeated_frac(answer),
        "finished": float(finished(answer)),
        "junk": float(sum(map(len, _junk(parts).values()))),
    }
    if not isinstance(example, Text):
        found["prompt_words"] = float(len(prompt.split()))
        if (said := on_topic_frac(prompt, answer)) is not None:
            found["on_topic_frac"] = said
    if (supported := supported_frac(parts)) is not None:
        found["supported_frac"] = supported
    if (ratio := compression(answer)) is not None:
        found["compression"] = ratio
    if (read := readability(answer)) is not None:
        found |= {"reading_ease": read.ease, "reading_grade": read.grade, "lix": read.lix}
    return found


def compression(text: str) -> float | None:
    """Compressed size by size (zlib, in UTF-8): what says little anew is small. None below 200 characters."""
    data = text.encode("utf-8", "replace")
    return len(zlib.compress(data, 6)) / len(data) if len(text) >= LEAST_COMPRESSED else None


def on_topic_frac(prompt: str, answer: str) -> float | None:
    """Share of the question's content words (stems) that the answer takes up; None where it has none."""
    asked = set(content_words(prompt))
    return len(asked & set(content_words(answer))) / len(asked) if asked else None


def supported_frac(parts: Parts) -> float | None:
    """Share of the answer's content words and numbers that stand in its passage or its question; None where no passage
    is known, or the answer says too little."""
    if parts.passage is None:
        return None
    said = _content(parts.answer)
    return len(said & _content(f"{parts.passage}\n{parts.prompt}")) / len(said) if len(said) >= LEAST_CONTENT else None


def _content(text: str) -> set[str]:
    return {*content_words(text), *re.findall(r"\d+(?:[.,]\d+)*", text)}


@lru_cache(maxsize=8)
def _junk(parts: Parts) -> dict[str, list[str]]:
    """Bits of junk by the words that say what they are; scores and flaws are asked of one row, one after the other."""
    answer, prompt = parts.answer, parts.prompt
    return {
        "is in a wrong encoding": junk.mojibake(f"{prompt}\n{answer}"),
        "has markup in its text": junk.markup(answer, prompt),
        "has a blank that nobody filled in": [*junk.placeholders(answer, prompt), *junk.placeholders(prompt, prompt)],
        "speaks of itself as a machine": junk.machine_talk(answer, prompt),
        "has the rest of a web page": junk.page_rest(answer),
    }


def flaws(example: Example) -> list[str]:
    """Reasons, in words, for which a row ought to go, worst first; none: nothing speaks against it."""
    parts = parts_of(example)
    answer, prompt = parts.answer, parts.prompt
    document = isinstance(example, Text)
    if not any(map(str.isalnum, answer)):
        return ["the text is empty" if document else "the answer is empty"]
    found: list[str] = []
    if not document and not any(map(str.isalnum, prompt)):
        found.append("the question is empty")
    if why := junk.mash(answer):
        found.append(f"the answer {why}" if not document else f"the text {why}")
    if not document and (why := junk.mash(prompt)):
        found.append(f"the question {why}")
    if not document and junk.stub(answer):
        found.append("the answer is a stub")
    if not document and words_only(answer) == words_only(prompt):
        found.append("the answer is the question")
    for what, bits in _junk(parts).items():
        if len(bits) >= (junk.LEAST_TAGS if what == "has markup in its text" else 1):
            found.append(f"{what}: {_short(bits[0])}")
    if circles := repeat(answer):
        found.append(f"goes round in circles: {_short(circles.unit)}")
    elif (ratio := compression(answer)) is not None and ratio < LEAST_RATIO:
        found.append(f"says little anew: it compresses to {ratio:.0%} of its size")
    if not document and (broken := broken_off(answer)):
        found.append(f"the answer is not finished: {broken.why}")
    if (supported := supported_frac(parts)) is not None and supported < LEAST_SUPPORTED_FRAC:
        found.append(f"its passage does not hold the answer: {supported:.0%} of its words stand there")
    return [*found, *_odd_form(answer, document)]


def _odd_form(answer: str, document: bool) -> list[str]:
    """Lengths and letters out of all proportion."""
    found = []
    words = junk.without_code(answer).split()
    letters = [c for c in answer if c.isalpha()]
    if not document and len(words) > MOST_WORDS:
        found.append(f"the answer has {len(words):,} words, at most {MOST_WORDS:,} are sane")
    if len(words) >= 20 and all(c < "\u0250" for c in letters):
        mean = sum(map(len, words)) / len(words)
        if not LEAST_WORD_LETTERS_MEAN <= mean <= MOST_WORD_LETTERS_MEAN:
            found.append(f"its words have {mean:.1f} letters in the mean, as no prose has")
    if len(letters) >= 40 and sum(map(str.isupper, letters)) > SHOUTED_FRAC * len(letters):
        found.append("is written in capitals")
    return found


def _short(text: str) -> str:
    text = " ".join(text.split())
    return f"“{text}”" if len(text) <= 40 else f"“{text[:39]}…”"


Good = Literal["low", "middle", "enough"]
GOOD: dict[str, Good] = {
    "answer_words": "middle",
    "prompt_words": "middle",
    "letters_frac": "middle",
    "repeated_frac": "low",
    "compression": "middle",
    "reading_grade": "middle",
    "on_topic_frac": "enough",
    "supported_frac": "enough",
    "misspelt_frac": "low",
}
"""Which side of a measure is good. middle: neither end (a common length and grade is what a style is). enough: as much
as most have; more (an answer that says all of its question again) is no better. A column that is not named here decides
nothing."""
GATES: dict[str, tuple[float, float]] = {
    "finished": (0.0, 0.5),
    "junk": (1.0, 0.3),
    "language_ok": (0.0, 0.2),
    "own_frac": (0.0, 0.3),
    "misspelt_frac": (0.1, 0.5),
}
"""Measure -> (threshold, factor): at 0 (finished, language_ok, own_frac) or from the threshold up (junk, misspelt_frac)
a row's quality is multiplied by the factor."""


def quality(scores: Sequence[Mapping[str, float]]) -> np.ndarray:
    """[N] in 0..1, higher is better: the mean over the measures of where a row stands among all rows (0.5 where a row
    lacks a measure), times the gates' factors. It says which of these rows are better, not whether they are good."""
    total_N, count = np.zeros(len(scores)), 0
    for name, good in GOOD.items():
        value_N = np.array([row.get(name, math.nan) for row in scores], dtype=float)
        if np.isfinite(value_N).sum() < 2:
            continue
        place_N = _places(value_N)
        if good == "middle":
            place_N = 1 - np.abs(2 * place_N - 1)
        elif good == "enough":
            place_N = np.minimum(2 * place_N, 1)
        total_N += np.nan_to_num(1 - place_N if good == "low" else place_N, nan=0.5)
        count += 1
    made_N = total_N / count if count else np.full(len(scores), 0.5)
    for name, (threshold, factor) in GATES.items():
        value_N = np.array([row.get(name, math.nan) for row in scores], dtype=float)
        shut_N = value_N <= 0 if threshold == 0 else value_N >= threshold
        made_N = made_N * np.where(shut_N, factor, 1.0)
    return made_N


def _places(value_N: np.ndarray) -> np.ndarray:
    """Where each value stands among all, 0..1, equal ones at the middle of theirs; nan stays nan."""
    known = np.isfinite(value_N)
    ordered = np.sort(value_N[known])
    below = np.searchsorted(ordered, value_N[known], side="left")
    upto = np.searchsorted(ordered, value_N[known], side="right")
    place_N = np.full(len(value_N), math.nan)
    place_N[known] = (below + upto) / (2 * len(ordered))
    return place_N
