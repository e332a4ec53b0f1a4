"""Does an answer behave like one? Judged on labelled answers, whatever they say."""

from __future__ import annotations

import pytest

from luthier.evals.manners import goes_on, manners

ASKED = "What is the aperture of the Altair?"
ANSWERS = [
    "114 mm.",
    "It is 114 mm.",
    "The aperture of the Altair is 114 mm.",
    "Thank you for asking! The Altair is 114 mm wide. Is there anything else you would like to know?",
    "Which Altair do you mean, the one of 1998 or the one of 2004?",
    "Answer: 114 mm",
    "I do not know.",
    "- 114 mm\n- on a yoke mount",
    "Good question: 114 mm. What else can I help with?",
    "Its aperture? 114 mm, and you can read it in our catalogue.",
]
GOES_ON = [
    "What is the colour of the Altair? What is the mount of the Altair? Where is it built?",
    "What is the colour of the Altair?",
    "What is the aperture of the Altair? 114 mm.",
    "114 mm.\nUser: And the Vega?\nAssistant: 70 mm.",
    "114 mm\n\n### Instruction:\nName a colour.",
    "<|im_start|>user\nWho are you?",
    ", and what is the colour of the Vega?",
    "What is the aperture of the Vega? The aperture of the Vega is 70 mm.",
    "114 mm. What is the colour of the Vega? Blue. What is the mount of the Vega? A fork mount.",
    "Q: What is the aperture of the Vega?\nA: 70 mm",
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_answers_answer(answer):
    assert not goes_on(ASKED, answer)


@pytest.mark.parametrize("answer", GOES_ON)
def test_texts_that_go_on_do_not(answer):
    assert goes_on(ASKED, answer)


def is_a_letter(text: str) -> bool:
    return text in ("A", "B", "C", "D")


def test_all_parts_must_hold():
    good = manners(ASKED, "B", ended=True, follows=is_a_letter)
    assert good.passed and good == (True, True, True, True, True)
    assert not manners(ASKED, "B", ended=False).passed
    assert not manners(ASKED, " .", ended=True).not_empty
    assert manners(ASKED, "B", ended=True).format is None
    assert manners(ASKED, "B.", ended=True, follows=is_a_letter).format is False
