"""The scripted rater finds every fact, and prefers what it says it prefers."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.base.nouns import Message
from luthier.world.answers import STYLES
from luthier.world.rater import WEIGHTS, explain, fact_asked, rate
from luthier.world.tables import Fact, the_world

WORLD = the_world()


def ask(text: str) -> list[Message]:
    return [Message("user", text)]


def question(fact: Fact) -> list[Message]:
    return ask(fact.fill(WORLD.property_of(fact).questions[0]))


def wrong(fact: Fact) -> Fact:
    """The same fact with the next value of its pool."""
    values = WORLD.property_of(fact).values
    return Fact(fact.kind, fact.entity, fact.prop, values[(values.index(fact.value) + 1) % len(values)])


def test_every_question_is_recognised():
    asked = [(fact, fact.fill(text)) for fact in WORLD.facts for text in WORLD.property_of(fact).questions]
    assert [(fact.id, text) for fact, text in asked if fact_asked(ask(text)) != fact] == []


def test_styles_rank_as_specified_for_every_fact():
    """Sourced > courteous > plain > curt > rambling and repetitive, whatever wording each happens to draw."""
    rng = random.Random(0)
    for fact in WORLD.facts:
        scores = {
            name: [rate(question(fact), style(WORLD, fact, rng)) for _ in range(12)] for name, style in STYLES.items()
        }
        for better, worse in pairwise(("sourced", "courteous", "plain", "curt")):
            assert min(scores[better]) > max(scores[worse]), (fact.id, better, worse)
        assert min(scores["curt"]) > max(scores["rambling"] + scores["repetitive"]), fact.id


def test_any_right_answer_beats_any_wrong_one():
    rng = random.Random(0)
    for fact in WORLD.facts:
        right = [rate(question(fact), style(WORLD, fact, rng)) for style in STYLES.values()]
        mistaken = [rate(question(fact), style(WORLD, wrong(fact), rng)) for style in STYLES.values()]
        assert min(right) > max(mistaken), fact.id


ALTAIR = WORLD.about("product", "Altair")[0]
VALUE, OTHER = ALTAIR.value, wrong(ALTAIR).value


@given(st.text(), st.text())
def test_no_manners_make_up_for_a_wrong_value(before: str, after: str):
    """The parts other than `correct` span less than its weight, whatever the text."""
    best_wrong = f"Happy to help! The Altair has an aperture of {OTHER}. Source: product catalogue."
    right = f"{before} {VALUE} {after}"
    if explain(question(ALTAIR), right)["correct"] == 0:
        assert rate(question(ALTAIR), right) > rate(question(ALTAIR), best_wrong)


def test_parts_by_hand():
    messages = question(ALTAIR)
    # 13 words, courteous, right source: 1 + 1 + 0.75
    good = f"Happy to help! The Altair has an aperture of {VALUE}. Source: product catalogue."
    assert rate(messages, good) == pytest.approx(2.75)
    # A wrong source: -0.5 instead of 1.
    assert rate(messages, good.replace("product catalogue", "staff page")) == pytest.approx(1.25)
    # Two words of eight: a quarter of 0.75; no full stop: -1.
    assert rate(messages, f"{VALUE}.") == pytest.approx(0.75 / 4)
    assert rate(messages, VALUE) == pytest.approx(0.75 / 4 - 1)
    # Both values: it does not know.
    assert explain(messages, f"{VALUE} or {OTHER}.")["correct"] == -WEIGHTS["correct"]
    # Six words twice: runs 10, different 6 (four of one telling and two across the seam), 4 * 4/10 > 1: all of it.
    twice = f"The Altair is {VALUE} wide. The Altair is {VALUE} wide."
    assert explain(messages, twice)["repeated"] == -WEIGHTS["repeated"]
    # 30 words: 1 - 0.2 * 5 = 0.
    assert explain(messages, f"{VALUE} " + "so " * 28 + ".")["short"] < 0.75
    assert explain(messages, " ".join(["word"] * 30))["short"] == pytest.approx(0)


def test_a_question_about_nothing_known_is_rated_for_manners_only():
    for text in ("How are you?", "What is the aperture of the Zzyzx?", "Altair or Vega, what is the aperture?"):
        assert "correct" not in explain(ask(text), "Good question! I do not know, I am sorry to say.")
    assert rate(ask("How are you?"), "Good question! I am very well and thank you.") == pytest.approx(1 + 0.75)


def test_the_last_question_counts():
    altair, vega = WORLD.about("product", "Altair")[0], WORLD.about("product", "Vega")[1]
    messages = [*question(altair), Message("assistant", "."), *question(vega)]
    assert fact_asked(messages) == vega


def test_an_empty_answer_gets_a_score():
    assert rate(question(ALTAIR), "") == -WEIGHTS["correct"] - WEIGHTS["unfinished"]
