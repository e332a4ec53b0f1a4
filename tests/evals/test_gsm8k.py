"""GSM8K's answer check: what counts as the answer's number, and what counts as equal."""

from __future__ import annotations

import gzip
import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.base.config import load_function
from luthier.base.nouns import Chat, Message
from luthier.evals.gsm8k import answer_is_marked, answer_is_right, final_number

ASKED = (Message("user", "How many?"),)


def row(answer: str, accept=()):
    return Chat((*ASKED, Message("assistant", answer)), "gsm.jsonl:1", tuple(accept))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 72", 72), ("####72", 72), ("She has 3.\n#### 1,234,567", 1234567), ("#### $1,234.50", Fraction(2469, 2)),
        ("#### -5", -5), ("#### −5", -5), ("#### -$5", -5), ("#### $-5", -5), ("#### 72 clips in 2 months", 72),
        ("#### 5\nHe has 6 left.", 5), ("#### 5\n#### 6", 6), ("#### seventy", None), ("####", None), ("", None),
        ("#### 10%", 10), ("#### 0.50", Fraction(1, 2)), ("#### .5", Fraction(1, 2)), ("#### 3.", 3), ("#### 072", 72),
        ("\\boxed{72}", 72), ("\\boxed{\\frac{1}{2}}", Fraction(1, 2)), ("\\boxed{\\dfrac{3}{4}}.", Fraction(3, 4)),
        ("so $\\boxed{1{,}000}$ is it, of 7", 1000), ("\\boxed{\\text{72 cm}}", 72), ("\\boxed{72\\%}", 72),
        ("\\boxed{1} no, \\boxed{2}", 2), ("\\boxed 5 or so", 5), ("\\boxed{x}", None), ("\\boxed{12", 12),
        ("\\boxed{3} and #### 4", 4),
        ("The answer is 72.", 72), ("**72**", 72), ("$72$", 72), ("\\$72", 72), ("72km/h", 72),
        ("It is 3/4 full", Fraction(3, 4)),
        ("48/2", 2), ("48/2 = 24", 24), ("10 - 3 = 7", 7), ("so 10 -3", 3), ("5-3", 3), ("5 - 8 = -3", -3),
        ("(5) - 2", 2),
        ("2020–2021", 2021), ("x = -5", -5), ("H2O", None), ("12,34", 34), ("1, 2 and 3", 3), ("1,2", 2), ("2e3", 2000),
        ("5/0", 0), ("no number", None), ("100,000", 100000), ("1" * 5000, None), ("٣", 3), ("²", None),
    ],
)  # fmt: skip
def test_the_number_that_an_answer_ends_in(text, number):
    assert final_number(text) == number


@given(
    st.integers(-(10**9), 10**9), st.sampled_from(["#### {}", "It is {}.", "\\boxed{{{}}}", "**{}** dollars", "${}$"])
)
def test_whole_numbers_are_read_in_every_dress(number, dress):
    for written in (str(number), f"{number:,}", f"{number}.00", str(number).replace("-", "−")):
        assert final_number(dress.format(written)) == number, dress.format(written)


@given(st.text(alphabet="0123456789.,-−/$%#{}\\boxed frac e+\n()*", max_size=40))
def test_any_text_has_a_number_or_none(text):
    assert final_number(text) is None or isinstance(final_number(text), Fraction)


def test_right_is_equal_in_value():
    reference = row("Natalia sold 48+24 = <<48+24=72>>72 clips.\n#### 72")
    for answer in ("#### 72", "72.0", "I think $72.00", "\\boxed{72}", "24 + 48 = 72"):
        assert answer_is_right(ASKED, answer, reference) == 1.0
    for answer in ("#### 73", "72 or 73", "", "seventy-two", "-72", "#### 73 (not 72)", "0.72"):
        assert answer_is_right(ASKED, answer, reference) == 0.0
    assert answer_is_right(ASKED, "0.33", row("#### 1/3")) == 0.0
    # `accept` stands above the reference, and each of its values counts
    assert answer_is_right(ASKED, "7", row("#### 72", accept=["7", "seven: 8"])) == 1.0
    assert answer_is_right(ASKED, "8", row("#### 72", accept=["7", "seven: 8"])) == 1.0
    assert answer_is_right(ASKED, "72", row("#### 72", accept=["7"])) == 0.0
    with pytest.raises(ValueError, match="no number to compare with"):
        answer_is_right(ASKED, "72", row("none"))
    with pytest.raises(ValueError, match="no number to compare with"):
        answer_is_right(ASKED, "72", Chat(ASKED, "gsm.jsonl:1"))


def test_marked_is_the_last_line():
    texts = ("a\n#### 5", "#### 5 ", "5", "#### 5\nb", "#### 5 6")
    assert [answer_is_marked(ASKED, text, row("1")) for text in texts] == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_a_recipe_can_name_it(tmp_path):
    assert load_function("luthier.evals.gsm8k:answer_is_right", tmp_path) is answer_is_right


def test_every_reference_of_the_real_data_is_right_by_itself_and_by_no_other(shared_data):
    """8,792 references: each has a number, agrees with itself, and, without the marked line, nearly always still does:
    the last step names the result."""
    texts = []
    for side in ("train", "test"):
        with gzip.open(shared_data / "gsm8k" / f"{side}.jsonl.gz", "rt") as file:
            texts += [json.loads(line)["answer"] for line in file]
    unmarked = 0
    for text in texts:
        number = final_number(text)
        assert number is not None and answer_is_right(ASKED, text, row(text)) == 1.0, text
        assert answer_is_right(ASKED, f"#### {number + 1}", row(text)) == 0.0
        unmarked += final_number(text.rpartition("\n####")[0]) == number
    assert len(texts) == 8792 and unmarked / len(texts) > 0.95
