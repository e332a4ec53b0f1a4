"""Documents in passages: nothing is lost, nothing is too long, headings stay with their text."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from luthier.base.nouns import Text
from luthier.evals.passages import passages

WORDS = st.lists(
    st.sampled_from(["leave", "days.", "# Pay", "two!", "\n", "\n\n", "\n## Sick\n", "```", "office"]), max_size=60
)


def count(text):
    return len(text.split())


def bodies(found):
    return " ".join(one.text for one in found)


@given(WORDS, st.integers(4, 30))
def test_every_word_stays_and_no_passage_is_too_long(pieces, most):
    text = " ".join(pieces)
    found = passages([Text(text, "a.md")], most, count)
    assert all(count(one.text) <= most for one in found)
    there = re.findall(r"\w+", bodies(found))
    for word in ("leave", "days", "two", "office"):
        assert there.count(word) >= re.findall(r"\w+", text).count(word)


@given(st.lists(st.sampled_from(["a", "bb.", "c", "\n", "\n\n"]), max_size=50), st.integers(1, 12))
def test_a_text_without_headings_is_its_words_in_order(pieces, most):
    text = " ".join(pieces)
    assert bodies(passages([Text(text, "a.txt")], most, count)).split() == text.split()


def test_cuts_are_where_people_cut():
    text = (
        "Intro.\n\n# Leave\n\nTen days a year.\n\nAsk your lead first.\n\n## Parents\n\nTwelve weeks. Paid in full.\n"
    )
    found = passages([Text(text, "leave.md")], 8, count)
    assert [(one.text, one.origin) for one in found] == [
        ("Intro.", "leave.md"),
        ("Leave\nTen days a year.", "leave.md"),  # with the next paragraph it would be nine words
        ("Leave\nAsk your lead first.", "leave.md"),
        ("Leave > Parents\nTwelve weeks. Paid in full.", "leave.md"),
    ]
    long = passages([Text("One two three. Four five six. Seven eight.", "x.txt")], 6, count)
    assert [one.text for one in long] == ["One two three. Four five six.", "Seven eight."]


def test_fenced_code_and_empty_documents():
    found = passages(
        [Text("# Run\n```\n# not a heading\nls\n```", "a.md"), Text("", "b.md"), Text("# Only", "c.md")], 30, count
    )
    assert [one.text for one in found] == ["Run\n```\n# not a heading\nls\n```", "Only"]
