"""Does a model say the same when it is asked the same in other words, or once more?"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from luthier.base.nouns import Ask, Message
from luthier.base.values import contains
from luthier.data.text import words_only
from luthier.evals.values import same, values


class Agreement(NamedTuple):
    """The answers to one question, however it was worded."""

    agree: float
    """Share of the pairs of answers that say the same; 1 where there is one answer only."""
    right: float | None
    """Share of the answers that hold an accepted value; None where the row names none."""
    always_right: bool | None
    always_wrong: bool | None
    """Every answer is wrong and all say the same: the model is sure of something false."""


def agreement(
    answers: Sequence[str], accept: Sequence[str] = (), candidates: Sequence[str] = (), threshold: float = 0.7
) -> Agreement:
    """How far the answers to one question agree. `accept` are the right values, `candidates` more values that an answer
    could give. Raises ValueError without answers."""
    if not answers:
        raise ValueError("no answers, no agreement")
    known = list(dict.fromkeys([*accept, *candidates]))
    given = [frozenset(value.casefold() for value in known if contains(text, [value])) for text in answers]
    pairs = list(combinations(range(len(answers)), 2))
    same_said = [says_the_same(answers[a], answers[b], given[a], given[b], threshold) for a, b in pairs]
    agree = sum(same_said) / len(pairs) if pairs else 1.0
    if not accept:
        return Agreement(agree, None, None, None)
    right = [contains(text, accept) for text in answers]
    return Agreement(agree, sum(right) / len(right), all(right), not any(right) and agree == 1.0)


def says_the_same(a: str, b: str, given_a: frozenset[str], given_b: frozenset[str], threshold: float) -> bool:
    """Whether two answers give the same known values; where neither gives any, whether their words are about equal."""
    if given_a or given_b:
        return given_a == given_b
    return words_only(a) == words_only(b) or token_f1(a, b) >= threshold


def token_f1(a: str, b: str) -> float:
    """Harmonic mean of the shares of words that two texts have in common, as SQuAD counts it (without its list of
    articles). Rajpurkar et al. 2016. Two texts without words are equal."""
    ours, theirs = Counter(words_only(a).split()), Counter(words_only(b).split())
    common = (ours & theirs).total()
    if not ours and not theirs:
        return 1.0
    return 2 * common / (ours.total() + theirs.total())


ASKED = """Write the question below in {count} other ways. Change the words and the order, keep the meaning, and keep
every name and number as it is. One question a line, nothing else.

{question}"""


def paraphrase(ask: Ask, questions: Sequence[str], count: int) -> list[list[str]]:
    """Up to `count` other wordings of each question, by whoever `ask` reaches. A wording that loses or adds a name or a
    number asks something else, and is left out; so is one that only changes capitals or stops."""
    replies = ask([[Message("user", ASKED.format(count=count, question=question))] for question in questions])
    found = []
    for question, reply in zip(questions, replies, strict=True):
        kept: dict[str, str] = {}
        for line in reply.text.splitlines() if reply.error is None else ():
            wording = re.sub(r"^\s*(?:\d+[.)]|[-*•])\s*", "", line).strip().strip('"“”')
            if words_only(wording) != words_only(question) and is_paraphrase(question, wording):
                kept.setdefault(words_only(wording), wording)
        found.append(list(kept.values())[:count])
    return found


def is_paraphrase(question: str, wording: str) -> bool:
    """Whether a wording holds the same names, numbers and dates as a question, and is about as long: a check against
    wordings that ask something else, not a proof of one meaning."""
    there, here = values(question), values(wording)
    kept = all(any(same(v, w) or in_text(v.text, wording) for w in here) or in_text(v.text, wording) for v in there)
    added = [w for w in here if not any(same(w, v) for v in there) and not in_text(w.text, question)]
    words, before = len(words_only(wording).split()), len(words_only(question).split())
    return kept and not added and 2 <= words <= 3 * before + 5


def in_text(value: str, text: str) -> bool:
    """Whether a value stands in a text word for word, in any case."""
    return f" {words_only(value)} " in f" {words_only(text)} "
