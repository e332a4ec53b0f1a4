"""Where sentences end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from luthier.base.sentences import pieces, sentences


def test_sentences_end_where_they_end():
    text = "Dr. Roth scored. See No. 5 of vol. 3, e.g. page 2. Really? Yes!\nNext line"
    assert sentences(text) == ["Dr. Roth scored.", "See No. 5 of vol. 3, e.g. page 2.", "Really?", "Yes!", "Next line"]


def test_the_number_of_a_lists_line_is_no_sentence():
    text = "Do this:\n1. Ask 14 days ahead.\n2. Wait. It takes 3.5 days.\nb. Go."
    assert sentences(text) == ["Do this:", "1. Ask 14 days ahead.", "2. Wait.", "It takes 3.5 days.", "b. Go."]
    assert sentences("40. The Vega has 70.") == ["40.", "The Vega has 70."]


def test_sentences_of_scripts_without_blanks():
    assert sentences("你好。你是谁？我不知道！") == ["你好。", "你是谁？", "我不知道！"]


@given(st.text(alphabet='abA1.!? \n"。', max_size=80) | st.text(max_size=80))
def test_the_pieces_are_the_text(text):
    assert "".join(pieces(text)) == text
    assert all(pieces(text))
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())
