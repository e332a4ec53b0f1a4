"""Measures by hand arithmetic, flaws by examples beside their look-alikes, quality by ranks."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.base.endings import broken_off, finished
from luthier.base.nouns import Chat, Choice, Labelled, Message, Pair, Text
from luthier.data.curate.parts import asked, parts_of, told
from luthier.data.curate.quality import compression, flaws, on_topic_frac, quality, scores_of
from luthier.data.curate.readability import readability, syllables


def chat(question, answer, **meta):
    return Chat((Message("user", question), Message("assistant", answer)), "x:1", meta=meta or None)


GOOD = chat("How long do I have to return a lens?", "You can return a lens within 30 days of delivery, unused.")


def test_what_an_example_is_made_of():
    talk = (
        Message("system", "Be kind."),
        Message("user", "Hi"),
        Message("assistant", "Hello"),
        Message("user", "When?"),
    )
    assert parts_of(Chat((*talk, Message("assistant", "At 5.")), "x")) == (
        "When?", "At 5.", "Be kind.\nHi\nHello\nWhen?\nAt 5.", None,
    )  # fmt: skip
    assert parts_of(Text("A book.", "x")) == ("", "A book.", "A book.", None)
    assert parts_of(Pair(talk, "good", "bad", "x", meta={"source": "P."}))[:2] == ("When?", "good")
    assert parts_of(Pair(talk, "good", "bad", "x", meta={"source": "P."})).passage == "P."
    assert parts_of(Labelled(talk, "well", False, "x"))[:2] == ("When?", "well")
    assert parts_of(Choice("2 + 2 =", ("3", "4"), 1, "x"))[:2] == ("2 + 2 =", "4")


def test_what_rows_are_compared_by():
    """The question alone, and all that is told: without the system message, with both answers of a pair."""
    turns = [("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello"), ("user", "When?")]
    talk = tuple(Message(*turn) for turn in turns)
    rows = {
        Chat((*talk, Message("assistant", "At 5.")), "x"): ("When?", "Hi\nHello\nWhen?\nAt 5."),
        Chat(talk, "x"): ("When?", "Hi\nHello\nWhen?"),
        Pair(talk, "good", "bad", "x"): ("When?", "Hi\nHello\nWhen?\ngood\nbad"),
        Labelled(talk, "well", False, "x"): ("When?", "Hi\nHello\nWhen?\nwell"),
        Choice("2 + 2 =", ("3", "4"), 1, "x"): ("2 + 2 =", "2 + 2 =\n3\n4"),
        Text("\n# A book\nIt was night.\n", "x"): ("# A book", "\n# A book\nIt was night.\n"),
        Chat((Message("assistant", "Nobody asked."),), "x"): ("", "Nobody asked."),
    }
    assert {row: (asked(row), told(row)) for row in rows} == rows


# Counted in a dictionary.
SYLLABLES = {
    "a": 1, "the": 1, "made": 1, "table": 2, "called": 1, "wanted": 2, "boxes": 2, "makes": 1, "little": 2, "area": 3,
    "reading": 2, "beautiful": 3, "science": 2, "create": 2, "people": 2, "family": 3, "university": 5, "don't": 1,
    "twenty-one": 3, "rhythm": 1, "seriously": 4, "houses": 2, "used": 1, "needed": 2, "apple": 2, "queue": 1,
}  # fmt: skip


def test_syllables():
    wrong = {word: syllables(word) for word, count in SYLLABLES.items() if syllables(word) != count}
    assert len(wrong) <= 2, wrong  # rules by spelling are right for nearly all words
    assert not {"table", "called", "wanted", "made", "university", "boxes"} & set(wrong)


def test_readability_is_flesch_kincaid_and_lix():
    # 4 sentences of 5 words of one syllable and 3 letters: 206.835 - 1.015*5 - 84.6*1; 0.39*5 + 11.8 - 15.59; LIX 5.
    easy = readability("The cat sat and ran. " * 4)
    assert easy == pytest.approx((206.835 - 5.075 - 84.6, 1.95 + 11.8 - 15.59, 5.0))
    # 21 words, 1 sentence, 7 of them "wonderful" (3 syllables, 9 letters): 35 syllables, a third of the words long.
    hard = readability("The wonderful cat " * 7)
    per_word = (7 * 3 + 14) / 21
    assert hard == pytest.approx(
        (206.835 - 1.015 * 21 - 84.6 * per_word, 0.39 * 21 + 11.8 * per_word - 15.59, 21 + 100 / 3)
    )
    assert readability("Too short to tell.") is None
    assert readability("```\n" + "word " * 30 + "\n```") is None  # code is no prose


FLAWED = [
    ("the answer is empty", chat("Why?", " ...")),
    ("the question is empty", chat("////", "I have trouble understanding you.")),
    ("the question has letters in a row", chat("Hdsdvtqwdeyhjgfgkhpjknl", "I have trouble understanding you.")),
    ("the answer consists of marks", chat("How?", "?!?!?!?! ---- **** ++++ //// .... ,,,, ok")),
    ("a stub", chat("How wide is it?", "TODO")),
    ("a stub", chat("How wide is it?", "(see above)")),
    ("a stub", chat("How wide is it?", "idk lol")),
    ("a stub", chat("How wide is it?", "N/A.")),
    ("the answer is the question", chat("What is a lens?", "What is a lens")),
    ("wrong encoding", chat("How warm is it?", "It is 20 Â°C, and we donâ€™t expect rain.")),
    ("markup", chat("What is new?", "<p>Nothing&nbsp;is new.</p>")),
    ("a blank", chat("How do I reach you?", "Write to [Your Company Name] and we will answer.")),
    ("a blank", chat("What is it about?", "Lorem ipsum dolor sit amet.")),
    ("speaks of itself", chat("Which lens is best?", "As an AI language model, I cannot say which lens is best.")),
    ("speaks of itself", chat("What happened in May?", "My knowledge cutoff is 2021, so I do not know.")),
    ("rest of a web page", chat("What is new?", "Nothing. This site uses cookies. All rights reserved.")),
    ("in circles", chat("What is it?", "It is a lens and it is a lens and it is a lens and it is a lens.")),
    ("not finished", chat("How is it made?", "It is ground from glass. Then it is coated with a")),
    ("not finished: a code block", chat("Code?", "Here:\n```python\nprint(1)")),
    ("written in capitals", chat("When?", "YOU WILL GET YOUR PARCEL NEXT WEEK IF THE WEATHER STAYS GOOD")),
    (
        "passage does not hold",
        chat("When do you open?", "Elephants migrate across savannas with the rains.", context="We open at 9."),
    ),
]  # fmt: skip
SOUND = [
    GOOD,
    chat("How wide?", "114 mm"),
    chat("What is 2 + 2?", "4"),
    chat("Who?", "Marie Curie"),
    chat("Where is the setting?", "See above the fold."),
    chat("Is it the same?", "Same here."),
    chat("Are you an AI?", "Yes, I am an AI, a language model made to help."),
    chat("Write a cover letter template.", "Dear [Recipient Name],\nI apply for the post.\nYours, [Your Name]"),
    chat("How do I make a link in HTML?", 'Write <a href="/">home</a> and <b>that</b> is all.'),
    chat("How do I print?", "Use this:\n```python\nprint('<b>x</b>&nbsp;')\n```"),
    chat("How do I send the key?", "Authorization: Bearer <YOUR-KEY-HERE>."),
    chat("Wie breit ist sie?", "Die Linse ist 114 mm breit, und sie wiegt 300 g."),
    chat("レンズの幅は？", "レンズの幅は114ミリメートルです。"),
    chat("Sum?", "12 + 30 = 42\n42 / 2 = 21\n#### 21"),
    chat("When do you open?", "We open at 9 in the morning, from Monday to Friday.",
         context="Opening hours: Monday to Friday from 9 in the morning."),
    chat("What are the sizes?", "| size | mm |\n|---|---|\n| S | 10 |\n| M | 20 |"),
    chat("Name three.", "- glass\n- coating\n- frame"),
    chat("Onde está o São João?", "NÃO está na lista, mas a estação fica em São Paulo."),
    chat("What is NASA?", "NASA is the space agency of the USA."),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "example"), FLAWED, ids=[f"{i}-{r}" for i, (r, _) in enumerate(FLAWED)])
def test_a_flaw_is_said_in_words(reason, example):
    assert any(reason in said for said in flaws(example)), flaws(example)


@pytest.mark.parametrize("example", SOUND, ids=[f"{i}-{e.prompt[0].content[:20]}" for i, e in enumerate(SOUND)])
def test_nothing_speaks_against_what_only_looks_flawed(example):
    assert flaws(example) == []


def test_a_document_has_no_question():
    assert flaws(Text("A page about lenses, and", "x")) == []  # pages of a book break off by right
    assert flaws(Text("", "x")) == ["the text is empty"]
    assert "on_topic_frac" not in scores_of(Text("A page about lenses.", "x"))


def test_measures_by_hand():
    found = scores_of(GOOD)
    # "return" and "lens" are taken up; "long" is the third word that means something.
    assert found["on_topic_frac"] == pytest.approx(2 / 3)
    assert (found["answer_words"], found["prompt_words"], found["finished"], found["junk"]) == (11, 9, 1, 0)
    # of the answer's 45 letters one is a capital; 45 letters, 2 digits, "," and "." are 50 marks
    letters = sum(map(str.isalpha, GOOD.answer))
    assert found["capitals_frac"] == pytest.approx(1 / letters)
    assert found["letters_frac"] == pytest.approx(letters / (letters + 4))
    assert on_topic_frac("And then?", "It was late.") is None
    held = chat("Where is the office?", "The office stands in Lisbon near the harbour since 1998.", context=
                "Our office: Lisbon, near the old harbour. Opened 1998.")  # fmt: skip
    # office, stand, lisbon, near?, harbour, 1998: all but "stands" are there
    assert 0.6 < scores_of(held)["supported_frac"] < 1
    assert (
        compression("ab" * 5_000)
        < 0.02
        < 0.5
        < compression("".join(map(chr, np.random.default_rng(0).integers(33, 126, 999))))
    )


@given(st.text(st.characters(exclude_categories=[]), max_size=300), st.text(max_size=80))
def test_any_text_has_finite_measures_and_reasons(answer, question):
    example = chat(question, answer)
    assert all(math.isfinite(value) for value in scores_of(example).values())
    assert all(isinstance(reason, str) and reason for reason in flaws(example))


def test_ends_of_texts():
    assert finished("It is done.") and finished("Use it:\n- this\n- that one thing of many") and finished("114 mm")
    assert not finished("It is the one that was made here before the war") and not finished(
        "First, it is cut. Then, it is"
    )
    assert broken_off("It is cut. Then the").why == "breaks off in a sentence"
    assert broken_off("Here are the steps of it:") and not broken_off("Here are the steps of it:", said_its_end=True)


def test_quality_stands_rows_by_their_ranks():
    # One measure of each kind, worked out: places of 1, 2, 3, 4 are 1/8, 3/8, 5/8, 7/8.
    one = [{"repeated_frac": value} for value in (0.4, 0.3, 0.2, 0.1)]
    assert quality(one) == pytest.approx([1 / 8, 3 / 8, 5 / 8, 7 / 8])
    assert quality([{"answer_words": value} for value in (1, 2, 3, 4)]) == pytest.approx([1 / 4, 3 / 4, 3 / 4, 1 / 4])
    assert quality([{"on_topic_frac": value} for value in (1, 2, 3, 4)]) == pytest.approx([1 / 4, 3 / 4, 1, 1])
    # scales do not matter, equal rows are equal, who lacks a measure stands in the middle
    assert quality([{"repeated_frac": value} for value in (4e9, 300, 20, 1)]) == pytest.approx(quality(one))
    assert quality([{"misspelt_frac": 0.05}, {"misspelt_frac": 0}, {}]) == pytest.approx([1 / 4, 3 / 4, 1 / 2])
    # two measures: (1/4 + 1/4) / 2 and (3/4 + 3/4) / 2, of which the second is in another language
    two = [{"misspelt_frac": 0.05, "repeated_frac": 1}, {"misspelt_frac": 0, "repeated_frac": 0, "language_ok": 0.0}]
    assert quality(two) == pytest.approx([1 / 4, 3 / 4 * 0.2])
    same = {"misspelt_frac": 0}
    shut = quality([same | {"junk": 0.0}, same | {"junk": 2.0}, same | {"finished": 0.0}, same | {"language_ok": 1.0}])
    assert shut == pytest.approx([0.5, 0.5 * 0.3, 0.5 * 0.5, 0.5])
    assert quality([{"misspelt_frac": 0.2}] * 2) == pytest.approx([0.5 * 0.5] * 2)
    assert len(quality([])) == 0 and quality([{}, {}]).tolist() == [0.5, 0.5]


def test_lamini_has_the_junk_that_was_found_by_hand(shared_data):
    """Read by hand, row by row: these are junk, but 222, which speaks of the product as a language model."""
    lines = (shared_data / "lamini" / "lamini_docs.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    found = {i + 1 for i, row in enumerate(rows) if flaws(chat(row["question"], row["answer"]))}
    assert found >= {132, 289, 947, 1325, 1328, 1329, 1330, 1331, 1332, 1336, 1381, 1382, 1383, 1384, 1385}
    assert len(found) <= 22
