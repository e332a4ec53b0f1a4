"""Drafts against a plain search, and how far they are trusted."""

from __future__ import annotations

from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from luthier.model import drafts as module
from luthier.model.drafts import LONGEST, SEVERAL, STEP, Drafts, Prompt

FEW_TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=30)


def places_of(ids, pair, start, stop):
    """The last places after such a pair, the last first."""
    return [(ids, at) for at in range(stop - 1, max(start, 2) - 1, -1) if tuple(ids[at - 2 : at]) == pair][:SEVERAL]


def alike(ids, text, at):
    """How many tokens before the place are the last ones of `ids`."""
    return next(
        (n for n in range(min(at, len(ids), LONGEST)) if text[at - 1 - n] != ids[-1 - n]), min(at, len(ids), LONGEST)
    )


def followed(ids, at, count, goes_on):
    """What follows a place; where it is the row's own text, what is drafted is a part of it."""
    ids, start = list(ids), at
    while at < start + count and at < len(ids):
        if goes_on:
            ids.append(ids[at])
        at += 1
    return ids[start:at]


@given(FEW_TOKENS, st.lists(FEW_TOKENS, max_size=8), st.lists(st.tuples(FEW_TOKENS, FEW_TOKENS), max_size=3))
def test_a_draft_is_what_followed_where_most_was_alike(prompt, steps, others):
    """Of the last few places in the row's own text, its prompt and all texts, in this order where they are equal."""
    drafts, written = Drafts(), []
    for number, (other, wrote) in enumerate(others):
        drafts.begin(number, Prompt(other))
        drafts.add(number, wrote)
        text = [*other, *wrote]
        written += [(text, at) for at in range(len(other), len(text))]
        if number % 2:
            drafts.end(number)
    drafts.begin(9, Prompt(prompt))
    ids = list(prompt)
    for step in steps:
        found = drafts.of(9, 5, 1)
        pair = tuple(ids[-2:])
        known = [(t, at) for t, at in reversed(written) if at >= 2 and tuple(t[at - 2 : at]) == pair][:SEVERAL]
        places = [*places_of(ids, pair, len(prompt), len(ids)), *places_of(prompt, pair, 2, len(prompt)), *known]
        if places:
            text, at = max(places, key=lambda place: alike(ids, *place))  # the first of the largest
            assert found == followed(text, at, len(found), text is ids) and found
        else:
            assert found == []
        drafts.add(9, step)
        written += [(ids, at) for at in range(len(ids), len(ids) + len(step))]
        ids += step


def test_drafts_that_do_not_come_are_made_no_more_and_those_that_do_grow():
    """Numbers that follow one another never; or always."""
    for comes in (True, False):
        drafts, lengths = Drafts(), []
        drafts.begin(0, Prompt([1, 2, 3, 1, 2, 3]))
        for _ in range(60):
            draft = drafts.of(0, 100, STEP)
            lengths.append(len(draft))
            drafts.add(0, [1, 2, 3] if comes else [7, 1, 2, 3] if not draft else [7])
            drafts.add(0, [] if comes else [1, 2, 3])
        if comes:
            assert lengths[0] == 1 == lengths[-1]  # so many rows leave room for one
            assert len(drafts.of(0, 100, 1)) == LONGEST
        else:
            assert sum(lengths[:20]) > 0 == sum(lengths[-20:])


@given(st.integers(0, 12), st.integers(1, 3 * STEP))
def test_there_is_never_more_than_there_is_room_for(room, rows):
    drafts = Drafts()
    drafts.begin(0, Prompt([1, 1]))
    drafts.add(0, [1] * 20)
    assert len(drafts.of(0, room, rows)) <= min(room, LONGEST, STEP // rows)
    assert rows <= STEP or drafts.of(0, room, rows) == []


def test_what_is_known_of_other_rows_has_an_end():
    with patch.object(module, "MOST_KNOWN", 10):
        drafts = Drafts()
        for row in range(5):
            drafts.begin(row, Prompt([100 + row]))
            drafts.add(row, [*range(8)])
            drafts.end(row)
            assert len(drafts.known) <= 10
        assert drafts.rows == {}
