"""Training rows that an evaluation set holds too: exact, by runs of words, documents, and against a slow twin."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from luthier.base.nouns import Chat, Choice, Labelled, Message, Pair, Text
from luthier.data.curate.contamination import contaminated

LONG = "the old maker of telescopes in the harbour town sold nineteen brass instruments to the navy in a single summer"


def chat(question: str, answer: str, origin: str = "t:1", **meta) -> Chat:
    return Chat((Message("user", question), Message("assistant", answer)), origin, meta=meta or None)


def test_the_same_question_is_found_whatever_its_capitals_and_stops():
    found = contaminated([chat("Hello?", "Hi."), chat("WHO -- sold it!", "He.")], [chat("Who sold it?", "She.", "e:1")])
    assert {index: (seen.how, seen.like, seen.words) for index, seen in found.items()} == {
        1: ("exact", "e:1", "Who sold it?")
    }


def test_thirteen_words_in_a_row_are_enough_and_twelve_are_not():
    words = LONG.split()
    rows = [Text(f"It is said that {' '.join(words[:n])} and no more.", f"t:{n}") for n in (12, 13)]
    found = contaminated(rows, [chat(f"True or false: {LONG}?", "True.", "e:1")])
    assert list(found) == [1]
    assert found[1].words == " ".join(words[:13])
    assert list(contaminated(rows, [chat(f"True or false: {LONG}?", "True.", "e:1")], ngram=12)) == [0, 1]


def test_an_answer_and_a_rejected_answer_give_a_row_away():
    evaluation = [chat("Who bought them?", LONG, "e:1")]
    pair = Pair((Message("user", "q"),), "A", LONG, "t:1")
    labelled = Labelled((Message("user", "q"),), LONG, False, "t:2")
    assert list(contaminated([chat("q", LONG), pair, labelled, chat("q", "Who?")], evaluation)) == [0, 1, 2]


def test_a_short_answer_is_said_everywhere():
    assert contaminated([chat("Is it so?", "Yes.")], [chat("Is it black?", "Yes.", "e:1")]) == {}


def test_a_choice_is_known_by_its_right_option():
    item = Choice("The Altair is", (" black", " blue"), 0, "e:1")
    assert list(contaminated([Text("The Altair is black.", "a"), Text("The Altair is blue.", "b")], [item])) == [0]


def test_a_template_that_stands_in_many_evaluation_rows_counts_for_none():
    """26 rows that share one run of words: more than 10, and more than a tenth. The last row has one of its own."""
    evaluation = [chat(f"{LONG} number {i}?", "x", f"e:{i}") for i in range(26)]
    own = " ".join(f"word{i}" for i in range(13))
    evaluation.append(chat(own, "x", "e:own"))
    assert list(contaminated([Text(LONG + " today", "t:0"), Text(f"so {own} so", "t:1")], evaluation)) == [1]


def test_a_document_is_found_by_half_of_either():
    """32 words have 20 runs of 13. A row with 23 of them holds 11 runs, more than half of the document; a row with
    22 of them and as many others holds 10 of its own 32; a piece of 15 words holds 3 runs, all of its own."""
    words = [f"w{i}" for i in range(32)]
    others = [f"v{i}" for i in range(22)]
    rows = [
        Text(" ".join([*words[:23], *others]), "t:23"),
        Text(" ".join([*words[:22], *others]), "t:22"),
        Text(" ".join(words[5:20]), "t:piece"),
    ]
    found = contaminated(rows, [Text(" ".join(words), "page.md")])
    assert list(found) == [0, 2]


WORDS = st.lists(st.sampled_from("abc"), min_size=1, max_size=9)


@given(st.lists(WORDS, max_size=6), st.lists(WORDS, max_size=6))
def test_against_a_slow_twin(training, evaluation):
    """Runs of 4, every pair of rows compared as strings of words; questions alone, so that one run is enough."""
    rows = [Text(" ".join(words), f"t:{i}") for i, words in enumerate(training)]
    asked = [Chat((Message("user", " ".join(words).upper() + "!"),), f"e:{i}") for i, words in enumerate(evaluation)]

    def runs(words):
        return {tuple(words[at : at + 4]) for at in range(len(words) - 3)}

    def same(mine, theirs):
        return mine == theirs or bool(runs(mine) & runs(theirs))

    want = [i for i, mine in enumerate(training) if any(same(mine, theirs) for theirs in evaluation)]
    found = contaminated(rows, asked, ngram=4)
    assert list(found) == want
    for index, seen in found.items():
        assert re.sub("[^a-z ]", "", seen.words.lower()) in " ".join(training[index])


def test_a_real_test_set_is_kept_out_of_its_own_training_rows(shared_data):
    """GSM8K: 20 planted test questions among 500 training rows are found, and no other row."""
    from luthier.base.source import Source
    from luthier.data.dataset import read_dataset

    read = lambda name, limit: read_dataset("x", Source(path=name, heldout=0, limit=limit), shared_data).train  # noqa: E731
    test, train = read("gsm8k/test.jsonl.gz", 300), read("gsm8k/train.jsonl.gz", 500)
    planted = [Text(f"From the web. {row.prompt[-1].content} The end.", row.origin) for row in test[:20]]
    assert list(contaminated([*train, *planted], test)) == list(range(500, 520))
