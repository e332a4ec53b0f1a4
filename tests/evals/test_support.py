"""Claims against sources: on labelled answers, and what must hold of any source."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.labelled_claims import CASES, FRESH, FRESH_CASES, SOURCES
from luthier.base.nouns import Reply
from luthier.evals.claims import holds_value
from luthier.evals.support import claims, judge_claims, passages, unsupported
from luthier.evals.values import mentions, same, values


def counted(cases, sources):
    """(precision, recall) of finding unsupported answers."""
    found = [(bool(unsupported(c.answer, [sources[c.source]], c.question)), not c.supported) for c in cases]
    hits = sum(said and wrong for said, wrong in found)
    return hits / sum(said for said, _ in found), hits / sum(wrong for _, wrong in found)


def test_labelled_answers():
    """78 answers, half of them with a fault: 36 of 39 faults are found, with one false alarm."""
    assert len(CASES) == 78 and sum(case.supported for case in CASES) == 39
    precision, recall = counted(CASES, SOURCES)
    assert precision >= 36 / 37 and recall >= 36 / 39


@pytest.mark.parametrize(("cases", "sources", "found"), [(CASES, SOURCES, 23), (FRESH_CASES, FRESH, 5)])
def test_what_is_surely_absent_is_never_there(cases, sources, found):
    """Names, numbers and quotes that the source has nowhere: 28 of 52 faults, and no false alarm."""
    sure = [c for c in cases if any(x.absent for x in unsupported(c.answer, [sources[c.source]], c.question))]
    assert len(sure) >= found and not any(c.supported for c in sure)


def test_where_it_stands():
    answer = "Thank you! The Altair was built by Peter Hansen, in 31 days. It was 31 years old."
    claims_ = unsupported(answer, [SOURCES["telescope"]])
    assert [[answer[a:b] for a, b in c.spans()] for c in claims_] == [["Peter Hansen", "31 days"], ["31 years"]]
    assert all(answer[c.start :].startswith(c.text) and c.absent for c in claims_)
    steps = "1. Ask 14 days ahead.\n2. Write to Ms. Okafor.\n3. Wait."
    assert not any(c.absent for c in unsupported(steps, ["Ask Ms. Okafor at least 14 days ahead."]))


def test_labelled_answers_that_the_rules_were_not_made_on():
    """26 answers: 10 of 13 faults are found, with one false alarm. Not to be mended on; write new ones instead."""
    precision, recall = counted(FRESH_CASES, FRESH)
    assert precision >= 10 / 11 and recall >= 10 / 13


@pytest.mark.parametrize("name", [*SOURCES, *FRESH])
def test_what_a_source_says_itself_is_supported(name):
    source = (SOURCES | FRESH)[name]
    assert unsupported(source, [source]) == []
    for claim in claims(source):
        assert unsupported(claim, [source]) == [], claim


WORLD = (SOURCES | FRESH).values()
SAID = [claim for source in WORLD for claim in claims(source)]


@given(st.sampled_from(SAID), st.integers(3001, 9999))
def test_a_number_that_no_source_has_is_found(claim, number):
    made = f"{claim.rstrip('.')}, which took {number} days."
    (found,) = unsupported(made, list(WORLD))
    assert found.missing == (f"{number} days",) and found.text == made


@given(st.sampled_from(SAID), st.sampled_from(["Quentin Abernathy", "Zbigniew Okulicki", "NORAD"]))
def test_a_name_that_no_source_has_is_found(claim, name):
    found = unsupported(f"{claim} It was said by {name}.", list(WORLD))
    assert [one.missing for one in found if name in one.missing] == [(name,)]


@given(st.lists(st.sampled_from(SAID), max_size=5))
def test_more_sources_never_hide_what_one_holds_and_none_hold_nothing(answer):
    text = " ".join(answer)
    assert len(unsupported(text, [])) == len(claims(text))


@given(st.text(max_size=200))
def test_any_text_can_be_judged(text):
    assert all(claim.text in text for claim in unsupported(text, ["The Altair is black."], text))


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("1,200 g", "1.2 kg", True),
        ("seven years", "7 years", True),
        ("seven years", "84 months", True),
        ("7", "7 years", True),
        ("seven years", "7 days", False),
        ("9 am", "9:00", True),
        ("5 pm", "17:00", True),
        ("5 pm", "5:00", False),
        ("$1,250", "1250 dollars", True),
        ("$1,250", "1250 euros", False),
        ("35 %", "35 per cent", True),
        ("in June 2024", "2 June 2024", True),
        ("2 June 2024", "in June 2024", False),
        ("2024-06-02", "June 2nd, 2024", True),
        ("2.6.2024", "2 June 2024", True),
        ("in 2024", "2 June 2024", True),
        ("about 3,000", "2,987", True),
        ("3,000", "2,987", False),
        ("twenty-one", "21", True),
        ("three hundred and five", "305", True),
        ("1.5 million", "1,500,000", True),
    ],
)
def test_two_ways_to_write_a_value(one, other, equal):
    (said, *_), (given_, *_) = values(f"it was {one}"), values(f"it was {other}")
    assert same(said, given_) == equal
    if not said.about and said.kind == given_.kind and (said.day, said.dimension) == (given_.day, given_.dimension):
        assert holds_value(one, [other]) == holds_value(other, [one]) == equal


def test_values_of_a_sentence():
    text = 'Dr. Ines Halloran of the Nordic Museum said "never again" on 14 February 1871; see corvid.toml.'
    text += "\n2. It is 4 km."
    found = [(value.kind, value.text) for value in values(text)]
    assert found == [
        ("name", "Ines Halloran of the Nordic Museum"),
        ("quote", "never again"),
        ("date", "14 February 1871"),
        ("quote", "corvid.toml"),
        ("number", "4 km"),
    ]


def test_names_are_found_without_their_titles_and_cases():
    assert mentions("We asked INES HALLORAN's team.", "Dr Ines Halloran")
    assert not mentions("Ines asked Mr Halloran", "Ines Halloran")


def test_courtesies_and_questions_are_no_claims():
    text = "Thank you for asking! The Altair is black. Is there anything else? Let me know. Source: product catalogue."
    assert claims(text) == ["The Altair is black."]


def test_a_judge_may_be_anyone_who_answers():
    def ask(prompts):
        said = ["Yes, it does.", "No.", "It depends.", ""]
        return [Reply(text, error="timed out" if not text else None) for text in said[: len(prompts)]]

    pairs = [(f"claim {i}", "source") for i in range(4)]
    assert judge_claims(ask, pairs) == [True, False, None, None]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12))
def test_passages_keep_every_sentence(sizes):
    said = [" ".join(["Word", *["word"] * (n - 1)]) + "." for n in sizes]
    found = passages([" ".join(said)], words=50)
    assert " ".join(found) == " ".join(said)
    assert all(len(piece.split()) <= 50 or piece in said for piece in found)
