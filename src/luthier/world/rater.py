"""The scripted rater: a simulated person who knows the table and has firm views on manners. Deterministic.

A right value matters most: it weighs more than all manners together, so a wrong answer never beats a right one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache

from luthier.base.nouns import Message, last_user
from luthier.base.values import contains
from luthier.world.tables import Fact, World, the_world

WEIGHTS = {
    "correct": 8.0,  # more than the other parts span together: 1 + 1.5 * 1 + 3 * 0.75 + 1.5 + 1 = 7.25
    "courteous": 1.0,
    "sourced": 1.0,
    "short": 0.75,
    "repeated": 1.5,
    "unfinished": 1.0,
}
"""What each part, a number in -1..1 (short: -2..1), is multiplied with."""

SHORT_WORDS = (8, 25)
"""An answer of so many words is neither curt nor long."""


def rate(messages: Sequence[Message], answer: str) -> float:
    """How much the simulated rater likes the answer to the last question; higher is better."""
    return sum(explain(messages, answer).values())


def explain(messages: Sequence[Message], answer: str) -> dict[str, float]:
    """The parts of `rate`, weighted; their sum is the score. Where the question asks for no fact of the table,
    `correct` is left out."""
    fact = fact_asked(messages)
    parts = {name: WEIGHTS[name] * part(fact, answer) for name, part in PARTS.items()}
    if fact is None:
        del parts["correct"]
    return parts


def fact_asked(messages: Sequence[Message]) -> Fact | None:
    """The fact that the last question asks for; None unless it names exactly one entity and one of its properties."""
    return _fact_in(last_user(messages))


@cache
def _fact_in(question: str) -> Fact | None:
    world = the_world()
    named = [
        (kind, entity) for kind in world.kinds.values() for entity in kind.entities if contains(question, [entity])
    ]
    if len(named) != 1:
        return None
    kind, entity = named[0]
    meant = [name for name, prop in kind.properties.items() if contains(question, prop.keywords)]
    facts = world.about(kind.name, entity)
    return next(fact for fact in facts if fact.prop == meant[0]) if len(meant) == 1 else None


def correct(fact: Fact | None, answer: str) -> float:
    """0 when the value is there and no other of its pool is; else -1: naming them all is not knowing."""
    if fact is None:
        return 0.0
    others = [value for value in the_world().property_of(fact).values if value != fact.value]
    return 0.0 if contains(answer, [fact.value]) and not contains(answer, others) else -1.0


def courteous(fact: Fact | None, answer: str) -> float:
    """1 when the answer opens with a courtesy."""
    return float(answer.lstrip().startswith(the_world().prose.courtesies))


def sourced(fact: Fact | None, answer: str) -> float:
    """1 when the answer names the source that holds the fact, -0.5 when it names something else, 0 when nothing."""
    named = re.findall(r"\bSource: ([^.!?\n]*)", answer)
    if not named:
        return 0.0
    return 1.0 if set(named) <= _sources(the_world(), fact) else -0.5


def _sources(world: World, fact: Fact | None) -> set[str]:
    return {kind.source for kind in world.kinds.values() if fact is None or kind.name == fact.kind}


def short(fact: Fact | None, answer: str) -> float:
    """1 from 8 to 25 words; fewer words in proportion less; each word more costs 0.2, down to -2."""
    words, (few, many) = len(answer.split()), SHORT_WORDS
    return min(words / few, 1.0) if words <= many else max(1.0 - 0.2 * (words - many), -2.0)


def repeated(fact: Fact | None, answer: str) -> float:
    """-1 when a quarter or more of the three-word runs have been said before, in proportion when fewer."""
    words = re.findall(r"[\w:]+", answer.lower())
    runs = list(zip(words, words[1:], words[2:], strict=False))
    return -min(1.0, 4 * (1 - len(set(runs)) / len(runs))) if runs else 0.0


def unfinished(fact: Fact | None, answer: str) -> float:
    """-1 unless the answer ends as a sentence does."""
    return 0.0 if answer.rstrip().endswith((".", "!")) else -1.0


PARTS: dict[str, Callable[[Fact | None, str], float]] = {
    "correct": correct,
    "courteous": courteous,
    "sourced": sourced,
    "short": short,
    "repeated": repeated,
    "unfinished": unfinished,
}
