"""Evaluation rows in the training data: exact, by runs of words, and against a slow twin that looks everywhere."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from luthier.base.nouns import Chat, Choice, Message, Pair, Text
from luthier.evals.contamination import overlap

LONG = "the old maker of telescopes in the harbour town sold nineteen brass instruments to the navy in a single summer"


def asked(question: str, answer: str | None = None, origin: str = "q:1", **meta) -> Chat:
    turns = [Message("user", question), *([Message("assistant", answer)] if answer else [])]
    return Chat(tuple(turns), origin, meta=meta or None)


def seen(evaluation, training, ngram=13):
    return [(row.origin, row.how, row.like) for row in overlap(evaluation, training, ngram).seen]


def test_a_whole_question_is_found_whatever_its_capitals_and_stops():
    training = [asked("WHAT is it -- exactly?", "A lamp.", "t:1"), Text("something else", "t:2")]
    assert seen([asked("What is it, exactly")], training) == [("q:1", "exact", "t:1")]
    assert seen([asked("What is it")], training) == []


def test_a_run_of_words_is_found_inside_a_document():
    page = Text(f"Once upon a time {LONG.upper()}. They were happy.", "page.md")
    rows = [asked(f"True or false: {LONG}?"), asked(" ".join(LONG.split()[:12]), origin="q:2")]
    assert seen(rows, [page]) == [("q:1", "ngram", "page.md")]  # twelve words are no run of thirteen
    assert [row for row, _, _ in seen(rows, [page], ngram=12)] == ["q:1", "q:2"]


def test_a_long_reference_answer_gives_a_row_away_and_a_short_one_does_not():
    training = [Text(LONG, "page.md"), Text("Yes.", "yes.md")]
    assert seen([asked("Who bought them?", LONG)], training) == [("q:1", "ngram", "page.md")]
    assert seen([asked("Is it so?", "Yes.")], training) == []


def test_paraphrases_count_too():
    row = asked("How many?", paraphrases=["What is the number of the lamps?"])
    assert seen([row], [asked("What is the number of the lamps?", "Two.", "t:1")]) == [("q:1", "exact", "t:1")]


def test_a_choice_is_known_by_its_right_option():
    item = Choice("The Altair is", (" black", " blue"), 0, "c:1")
    assert seen([item], [Text("The Altair is black.", "t:1")]) == [("c:1", "exact", "t:1")]
    assert seen([item], [Text("The Altair is blue.", "t:1")]) == []
    assert seen([item], [Pair((Message("user", "The Altair is"),), "black", "blue", "t:2")]) == [
        ("c:1", "exact", "t:2")
    ]


def test_a_document_needs_half_of_its_runs():
    """32 words have 20 runs of 13. Sharing the first 22 words shares 10 of them: not more than half; 23 words: 11."""
    words = [f"w{i}" for i in range(32)]
    document = Text(" ".join(words), "d:1")
    assert seen([document], [Text(" ".join(words[:22]), "t:1")]) == []
    assert seen([document], [Text(" ".join(words[:23]), "t:1")]) == [("d:1", "ngram", "t:1")]


def test_what_every_row_begins_with_is_no_content():
    """An instruction in front of every question stands in the training data; only the question that does is seen."""
    rows = [asked(f"{LONG} number {i} of the list is what?", origin=f"q:{i}") for i in range(30)]
    training = [Text(LONG, "t:1"), asked(rows[7].messages[0].content, "Nothing.", "t:2")]
    assert seen(rows, training) == [("q:7", "exact", "t:2")]


letters = st.lists(st.sampled_from("abc"), max_size=14).map(" ".join)


@given(st.lists(letters, max_size=5), st.lists(letters, max_size=5), st.integers(2, 5))
def test_equal_to_looking_everywhere(questions, pages, n):
    rows = [asked(text or "?", origin=f"q:{i}") for i, text in enumerate(questions)]
    found = overlap(rows, [Text(text, f"t:{i}") for i, text in enumerate(pages)], n)
    folded = [" ".join(re.findall(r"\w+", text)) for text in questions]
    for i, text in enumerate(folded):
        words = text.split()
        runs = [" ".join(words[k : k + n]) for k in range(len(words) - n + 1)]
        wanted = (text and text in pages) or any(f" {run} " in f" {page} " for run in runs for page in pages)
        assert (f"q:{i}" in found.origins) == bool(wanted)
    assert (found.rows, found.training_rows) == (len(rows), len(pages))
