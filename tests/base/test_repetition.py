"""What goes in circles, and what repeats by right."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.base.repetition import loop, repeat, said_again, without_repeats


@pytest.mark.parametrize(
    ("text", "in_circles"),
    [
        ("It is black. It is black, I say.", False),
        ("The Altair is black. The Altair is black. The Altair is black.", True),
        ("very very very good", False),
        ("very very very very good", False),  # as people do
        ("very very very very very very good", True),
        ("one two three one two three one two three", True),
        ("one two three one two three", False),
        ("No, no, no!", False),
        ("Merrily, merrily, merrily, merrily, life is but a dream.", False),
        ("0 0 0 0 0 0 0 0 0 0", False),
        ("Cats sleep sixteen hours a day. They purr. Cats sleep sixteen hours a day. They purr.", True),
        ("114 mm and 70 mm and 90 mm", False),
        ("", False),
    ],
)
def test_loops(text, in_circles):
    assert (repeat(text) is not None) == in_circles


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=12, unique=True))
def test_any_run_of_words_said_often_enough_is_a_loop_and_once_is_none(words):
    run = " ".join(word * 2 for word in words)
    times = 4 if len(words) > 2 else 6  # a laugh is no loop
    assert repeat(" ".join([run] * times)) and not repeat(run)


@given(st.integers(3, 9), st.sampled_from(["It is green.", "Take the tram to the old harbour,", "Press it and"]))
def test_a_loop_is_found_and_cut_at_its_first_repeat(times, phrase):
    text = "Happy to help! " + " ".join([phrase] * times)
    found = loop(text)
    assert (found is not None) == (len(phrase.split()) > 2 or times >= 5)
    if found:
        assert text.find(phrase.split()[0], 20 if times else 0) <= found.start and found.times >= times
        short = without_repeats(text)
        assert short.count(phrase.split()[0]) == 1 and loop(short) is None


def test_what_repeats_by_right_is_left_alone():
    for text in (
        "Monday 9 to 5, Tuesday 9 to 5, Wednesday 9 to 5, Thursday 9 to 5, Friday 9 to 5.",
        "```\nprint(1)\nprint(1)\nprint(1)\nprint(1)\nprint(1)\nprint(1)\n```",
        "| a | yes |\n| b | yes |\n| c | yes |\n| d | yes |\n| e | yes |",
    ):
        assert loop(text) is None and said_again(text) is None and without_repeats(text) == text


@settings(deadline=None)
@given(st.text(alphabet="ab. \n", max_size=120))
def test_cutting_repeats_ends(text):
    without_repeats(text)


@given(st.lists(st.sampled_from(["a", "b", "c", "7"]), max_size=60), st.integers(2, 4), st.integers(2, 8))
def test_a_loop_is_what_trying_every_period_finds(words, times, least_words):
    best = None
    for period in range(1, len(words) // 2 + 1):
        needed = times + 2 * (period <= 2)
        for first in range(len(words) - period):
            covered = period
            while first + covered < len(words) and words[first + covered] == words[first + covered - period]:
                covered += 1
            starts = first == 0 or words[first - 1] != words[first - 1 + period]
            letters = any(not word.isdigit() for word in words[first : first + period])
            if starts and covered > period and covered >= max(least_words, needed * period) and letters:
                best = min(best or (first, period, covered), (first, period, covered))
    found = loop(" ".join(words), times, least_words)
    assert (best is None) == (found is None)
    if best is not None:
        first, period, covered = best
        assert (found.unit, found.times) == (" ".join(words[first : first + period]), covered // period)
        assert (found.start, found.end) == (2 * (first + period), 2 * (first + covered) - 1)
