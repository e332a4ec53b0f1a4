"""Values in a text: what counts as a whole, and where it is marked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.base.values import contains, marked


@pytest.mark.parametrize(
    ("text", "accept", "right"),
    [
        ("The mirror is 14 mm wide.", ["14 mm"], True),
        ("The mirror is 114 mm wide.", ["14 mm"], False),
        ("It costs 140 euros.", ["14"], False),
        ("It costs 1,140 euros.", ["140"], False),  # nor is a part of a longer number
        ("It costs 140,50 euros.", ["140"], False),
        ("It weighs 2.14 kg.", ["14", "2"], False),
        ("It costs 140, I think.", ["140"], True),  # a comma that ends a clause is no part of the number
        ("It costs 140.", ["140"], True),
        ("One of 3, 14 and 5.", ["14"], True),
        ("Version 2.14", ["2.14"], True),
        ("OAK and brass", ["oak"], True),
        ("oaken", ["oak"], False),
        ("Größe: GROSS", ["größe"], True),
        ("It costs $5 (five).", ["$5"], True),
        ("(a+b)*", ["(a+b)*"], True),  # a value is text, not a pattern
        ("aab", ["a+b"], False),
        ("", ["x"], False),
        ("neither", ["or", "either"], False),
        ("It is 180 mm wide.", ["80 mm"], False),
        ("It closes at 18:30.", ["8:30"], False),
        ("red or blue", ["green", "blue"], True),
    ],
)
def test_an_accepted_value_counts_as_a_whole(text, accept, right):
    assert contains(text, accept) is right


words = st.text("ab1", min_size=1, max_size=3)


@given(st.lists(words, max_size=6), words)
def test_among_words_a_value_is_found_exactly_when_it_is_one(said, value):
    assert contains(" ".join(said), [value]) == (value in said)


def test_values_are_marked_where_they_count():
    assert marked("A 114 mm one, or 14 MM.", ["14 mm"]) == [("A 114 mm one, or ", False), ("14 MM", True), (".", False)]
    assert marked("anything", []) == [("anything", False)]
    assert marked("Oak or oak wood", ["oak", "oak wood"]) == [("Oak", True), (" or ", False), ("oak wood", True)]


@given(st.text("ab1. ,", max_size=20), st.lists(st.text("ab1.", min_size=1, max_size=3), max_size=3))
def test_a_value_is_marked_exactly_when_it_is_contained(text, accept):
    pieces = marked(text, accept)
    assert "".join(piece for piece, _ in pieces) == text
    assert any(accepted for _, accepted in pieces) == contains(text, accept)
