"""A judge whose leanings are known: what is found of them is what was put in."""

from __future__ import annotations

import re

import numpy as np
import pytest

from evals.server import Answer, says, serving
from luthier.base.errors import UserError
from luthier.base.nouns import Message, Reply
from luthier.base.rubric import Rubric
from luthier.base.rubric_file import load_rubric
from luthier.evals.endpoint import Endpoint
from luthier.evals.judge import AGAIN, Duel, Judged, bias_of, examine, judge, longer, majority, question, verdict_of

QUESTION = (Message("user", "Which colour has the door?"),)


@pytest.mark.parametrize(
    ("text", "side"),
    [
        ("A names the colour.\nVerdict: A", "a"),
        ("Verdict: **B**", "b"),
        ("Both say so.\n\nFinal verdict: tie.\n", "tie"),
        ("The winner is answer B.", "b"),
        ("Answer A is better", "a"),
        ("[[C]]", "tie"),
        ("b", "b"),
        ('{"reasons": "short", "verdict": "A"}', "a"),
        ('```json\n{"winner": "tie"}\n```', "tie"),
        ("Verdict: A\nBut B is also fine.", None),
        ("A or B", None),
        ("I would say that A is wrong", None),
        ("Verdict: neither", None),
        ('{"verdict": "A", "winner": "B"}', None),
        ('{"verdict": A}', None),
        ("", None),
    ],
)
def test_a_verdict_is_the_last_line_or_none(text, side):
    assert verdict_of(text) == side


def shown(messages: list[Message]) -> tuple[str, str]:
    """The two answers as a judge sees them."""
    found = [re.search(rf"\[Answer {x}\]\n(.*?)\n\[End", messages[0].content, re.DOTALL) for x in "AB"]
    return found[0][1], found[1][1]


def likes(rule):
    """A judge that says A where the rule of (first, second) is above 0, B where below."""

    def ask(prompts):
        gaps = [rule(*shown(messages)) for messages in prompts]
        return [Reply(f"Because.\nVerdict: {'A' if g > 0 else 'B' if g < 0 else 'tie'}") for g in gaps]

    return ask


DUELS = [Duel(QUESTION, a, b) for a, b in [("red", "a green door"), ("it is red", "red"), ("red", "red"), ("x", "y")]]


def test_a_judge_that_reads_is_the_same_in_both_orders():
    found = judge(likes(lambda x, y: len(x) - len(y)), DUELS, Rubric())
    assert [j.winner for j in found] == ["b", "a", "tie", "tie"] == [longer(duel) for duel in DUELS]
    bias = bias_of(found, DUELS)
    assert bias is not None and bias.consistent.value == 1 and (bias.first, bias.second) == (0, 0)
    assert bias.longer is not None and bias.longer.value == 1 and bias.longer.n == 2


def test_a_judge_that_takes_the_first_says_tie_and_is_found_out():
    found = judge(likes(lambda x, y: 1), DUELS, Rubric())
    assert [j.winner for j in found] == ["tie"] * 4 and found[0].orders == ("a", "b")
    bias = bias_of(found, DUELS)
    # Equal answers are not asked about: three duels are left, and the first one won each, both times.
    assert bias is not None and bias.consistent.value == 0 and (bias.first, bias.second) == (3, 0)


def test_an_unclear_reply_is_asked_about_once_more_and_then_skipped():
    heard = []

    def ask(prompts):
        heard.append(list(prompts))
        replies = []
        for messages in prompts:
            first, _ = shown(messages)
            stubborn, again = first == "x", messages[-1].content == AGAIN
            replies.append(Reply("Hard to say." if stubborn or not again else "Verdict: A"))
        return replies

    found = judge(ask, [DUELS[0], DUELS[3]], Rubric())
    assert [len(prompts) for prompts in heard] == [4, 4]
    assert heard[1][0][1:] == [Message("assistant", "Hard to say."), Message("user", AGAIN)]
    assert found[0].orders == ("a", "b") and found[0].winner == "tie"
    assert found[1].winner is None and found[1].why == "no verdict in the judge's reply"


def test_a_judge_at_an_endpoint_that_fails_for_one_question():
    def script(asked, before):
        text = asked["messages"][0]["content"]
        if "[Answer A]\ny" in text:
            return Answer(b"<html>", 503)
        return says("Verdict: A" if "[Answer A]\nred" in text else "Verdict: B")

    with serving(script) as served:
        ask = Endpoint(served.url, "judge", retries=1, wait=lambda s: None).ask
        found = judge(ask, [DUELS[0], DUELS[3]], Rubric())
    assert found[0].winner == "a" and found[1].winner is None and found[1].why == "HTTP 503"


def test_the_question_holds_the_rubric_and_the_reference():
    duel = Duel((Message("system", "Be brief."), *QUESTION), "red", "blue", reference="It is red.")
    (message,) = question(duel, Rubric(criteria="Only the colour counts."))
    for part in ("Only the colour counts.", "system: Be brief.", "[Reference answer]\nIt is red.", "[Answer A]\nred"):
        assert part in message.content
    assert "Reference" not in question(duel, Rubric(reference=False))[0].content
    assert shown([message]) == ("red", "blue")


def panel(judge_right: float, n: int = 200, seed: int = 0):
    """n duels whose better answer people know; the longer one is better in 60 %; a judge that is right in a share."""
    random = np.random.default_rng(seed)
    duels, judged, people = [], [], []
    for _ in range(n):
        a_better, long_better = random.random() < 0.5, random.random() < 0.6
        a_longer = a_better == long_better
        duels.append(Duel(QUESTION, "w" * (20 if a_longer else 10), "w" * (10 if a_longer else 20)))
        right = "a" if a_better else "b"
        people.append([right])
        said = right if random.random() < judge_right else ("b" if a_better else "a")
        judged.append((said, (said, said), None))
    return [Judged(*one) for one in judged], duels, people


def test_a_good_judge_is_shown_to_beat_length():
    found = examine(*panel(0.85), seed=0)
    assert found is not None and found.reliable
    # Balanced labels: κ = 2·agreement − 1, about 0.7; the longer answer's is about 0.2.
    assert found.kappa is not None and found.kappa.value == pytest.approx(2 * found.agreement.value - 1, abs=0.02)
    assert found.length_agreement.value == pytest.approx(0.6, abs=0.07) and found.length_kappa is not None
    assert found.gain.value == pytest.approx(found.agreement.value - found.length_agreement.value)
    assert found.pearson == pytest.approx(found.kappa.value, abs=0.02)
    assert "points" in found.in_words() and "more often than always taking the longer" in found.in_words()


def test_a_judge_worse_than_length_is_named_so():
    found = examine(*panel(0.4), seed=0)
    assert found is not None and not found.reliable and found.gain.high < 0
    assert found.in_words().startswith("unreliable: it agrees with people")
    assert found.in_words().endswith("less than always taking the longer answer does")
    vague = examine(*panel(0.65, n=40), seed=0)
    assert vague is not None and not vague.reliable and "not shown to be better than" in vague.in_words()


def test_people_who_vote_several_times():
    assert majority(["a", "a", "b"]) == "a" and majority(["a", "b"]) == "tie" and majority(["tie", "b", "tie"]) == "tie"
    judged, duels, people = panel(0.9, n=30)
    found = examine(judged, duels, [votes * 3 for votes in people], seed=0)
    assert found is not None and found.people_alpha == pytest.approx(1)
    assert examine(judged, duels, [[]] * 30, seed=0) is None


def test_rubrics(tmp_path):
    file = tmp_path / "rubric.yaml"
    file.write_text("criteria: |\n  Names the colour.\n  Nothing else.\nreasons: false\n")
    assert load_rubric(file) == Rubric(criteria="Names the colour.\nNothing else.\n", reasons=False)
    file.write_text("criteria: short\nreason: false\nreference: 1\n")
    with pytest.raises(UserError) as error:
        load_rubric(file)
    assert error.value.problems == [
        f"{file}:3: reference: Input should be a valid boolean.",
        f"{file}:2: reason: no such setting. Did you mean reasons?",
    ]
    with pytest.raises(UserError, match="no such file"):
        load_rubric(tmp_path / "rubrik.yaml")
