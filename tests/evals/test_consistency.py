"""Agreement of answers: by hand, and what must hold of any answers; paraphrases from someone who answers anything."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.base.nouns import Message, Reply
from luthier.evals.consistency import agreement, is_paraphrase, paraphrase, token_f1

COLOURS = ["black", "blue", "red"]


def test_the_same_value_is_the_same_answer_in_any_words():
    found = agreement(["It is black.", "Black!", "The Altair is painted black, as you see."], ["black"], COLOURS)
    assert found == (1.0, 1.0, True, False)


def test_pairs_by_hand():
    """black, black, blue, blue: of six pairs two agree; half is right."""
    found = agreement(["black", "It is black", "blue", "It is blue"], ["black"], COLOURS)
    assert found == (pytest.approx(2 / 6), 0.5, False, False)


def test_consistently_wrong():
    assert agreement(["blue", "It's blue", "Blue."], ["black"], COLOURS) == (1.0, 0.0, False, True)
    assert agreement(["blue", "red", "Blue."], ["black"], COLOURS).always_wrong is False


def test_without_known_values_words_decide():
    """Common words 3 of 4 and 4: F1 = 6/8 = 0.75, above the threshold of 0.7 and below one of 0.8."""
    pair = ["it opens at nine", "it opens at noon"]
    assert token_f1(*pair) == pytest.approx(0.75)
    assert agreement(pair).agree == 1.0 and agreement(pair, threshold=0.8).agree == 0.0
    assert agreement(pair).right is None
    assert agreement(["At nine!", "at nine"], threshold=1.0).agree == 1.0
    assert agreement(["one answer"]).agree == 1.0
    with pytest.raises(ValueError, match="no answers"):
        agreement([])


words = st.lists(st.sampled_from(["the", "altair", "is", "black", "blue", "red", "old"]), max_size=6).map(" ".join)


@given(st.lists(words, min_size=1, max_size=6), st.randoms())
def test_order_does_not_matter(answers, random):
    shuffled = random.sample(answers, len(answers))
    one, other = agreement(answers, ["black"], COLOURS), agreement(shuffled, ["black"], COLOURS)
    assert one.agree == pytest.approx(other.agree) and one[1:] == other[1:]
    assert 0 <= one.agree <= 1 and not (one.always_right and one.always_wrong)
    assert agreement([*answers[:1]] * 3, ["black"], COLOURS).agree == 1.0


@given(words, words)
def test_f1_is_the_harmonic_mean_of_precision_and_recall(a, b):
    ours, theirs = Counter(a.split()), Counter(b.split())
    common = sum((ours & theirs).values())
    if not a and not b:
        assert token_f1(a, b) == 1.0
    elif not common:
        assert token_f1(a, b) == 0.0
    else:
        precision, recall = common / sum(ours.values()), common / sum(theirs.values())
        assert token_f1(a, b) == pytest.approx(2 * precision * recall / (precision + recall))


ORIGINAL = "What is the aperture of the Altair in 2004?"


@pytest.mark.parametrize(
    ("wording", "kept"),
    [
        ("How wide was the Altair in 2004?", True),
        ("In 2004, which aperture did the Altair have?", True),
        ("How wide was the Vega in 2004?", False),  # another name
        ("How wide was the Altair?", False),  # a number lost
        ("How wide was the Altair in 2004 and in 2005?", False),  # a number added
        ("Altair", False),
    ],
)
def test_a_wording_keeps_names_and_numbers(wording, kept):
    assert is_paraphrase(ORIGINAL, wording) == kept


def test_paraphrases_are_taken_from_whatever_a_model_writes():
    written = (
        f"1. How wide was the Altair in 2004?\n- {ORIGINAL.upper()}\n\n* how wide was the Altair in 2004\nAnd Vega?"
    )

    def ask(prompts):
        assert all(isinstance(m, Message) and ORIGINAL in m.content for (m,) in prompts[:1])
        return [Reply(written), Reply("", error="timed out")]

    assert paraphrase(ask, [ORIGINAL, "Who?"], 3) == [["How wide was the Altair in 2004?"], []]
