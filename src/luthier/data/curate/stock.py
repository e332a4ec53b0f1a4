"""Stock sentences: what stands word for word in answers to many questions says nothing about any of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from luthier.base.nouns import Example, Text
from luthier.base.sentences import sentences
from luthier.data.curate.parts import parts_of
from luthier.data.text import words_only

LEAST_QUESTIONS, LEAST_FRAC = 5, 0.005
"""A sentence is stock that stands in the answers to so many questions, and to such a share of all."""
LEAST_WORDS = 6
"""Shorter ones ("On Tuesday.", "Happy to help!") answer many questions rightly, or stand before an answer."""


def own_scores(examples: Sequence[Example], asked: Sequence[int]) -> list[dict[str, float]]:
    """own_frac: the share of an answer's words that stand in no stock sentence; 0 is an answer made of phrases. Absent
    of a document, and of an answer without words. `asked`: which question each row asks (`questions.same_question`)."""
    answers = [None if isinstance(example, Text) else split(parts_of(example).answer) for example in examples]
    standing: dict[str, set[int]] = defaultdict(set)
    for question, answer in zip(asked, answers, strict=True):
        for sentence, words in answer or ():
            if words >= LEAST_WORDS:
                standing[sentence].add(question)
    least = max(LEAST_QUESTIONS, LEAST_FRAC * len(set(asked)))
    stock = {sentence for sentence, questions in standing.items() if len(questions) >= least}
    found: list[dict[str, float]] = []
    for answer in answers:
        total = sum(words for _, words in answer or ())
        own = sum(words for sentence, words in answer or () if sentence not in stock)
        found.append({"own_frac": round(own / total, 4)} if total else {})
    return found


def split(answer: str) -> list[tuple[str, int]]:
    """The answer's sentences, by their words alone, with how many words each has."""
    plain = (words_only(sentence) for sentence in sentences(answer))
    return [(sentence, sentence.count(" ") + 1) for sentence in plain if sentence]
