"""What models reply is read, however they dress it up, and nothing that they can write breaks the reading."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.base.rouge import words_of
from luthier.data.synthesis.novelty import Pool, likeness, pool_of
from luthier.data.synthesis.parse import grade, grades, items, objects, one_text

KEYS = ("question", "answer", "quote")
words = st.lists(st.from_regex(r"[A-Za-z][a-z]{1,7}", fullmatch=True), min_size=3, max_size=8).map(" ".join)
sentences = words.map(lambda said: f"{said}?")
rows = st.lists(st.fixed_dictionaries({"question": sentences, "answer": words, "quote": words}), min_size=1, max_size=4)
DRESSES = {
    "bare": lambda text, rows: text,
    "fenced": lambda text, rows: (
        f"Sure! Here are the questions:\n\n```json\n{text}\n```\nLet me know if you need more."
    ),
    "unclosed fence": lambda text, rows: f"```\n{text}",
    "chatter around it": lambda text, rows: f"Of course. {text} I hope that helps {{really}} [1].",
    "one a line": lambda text, rows: "\n".join(map(json.dumps, rows)),
    "comma too many": lambda text, rows: re.sub(r"\}\]$", "},]", text),
    "in single quotes": lambda text, rows: repr(rows),
    "in an object": lambda text, rows: json.dumps({"questions": rows}),
    "keys in capitals": lambda text, rows: json.dumps([{k.title(): v for k, v in row.items()} for row in rows]),
    "more keys": lambda text, rows: json.dumps([{"id": 7, "notes": [], **row} for row in rows]),
    "labelled": lambda text, rows: "\n\n".join(
        f"**Question {i}:** {row['question']}\nAnswer: {row['answer']}\nQuote: {row['quote']}"
        for i, row in enumerate(rows, 1)
    ),
}


@pytest.mark.parametrize("dress", DRESSES)
@given(rows)
@settings(max_examples=20, deadline=None)
def test_objects_are_found_in_every_dress(dress, made):
    assert objects(DRESSES[dress](json.dumps(made), made), KEYS) == made


@given(rows, st.integers(0, 400))
@settings(max_examples=60, deadline=None)
def test_a_reply_that_was_cut_off_keeps_what_is_whole(made, kept):
    text = json.dumps(made)[:kept]
    found = objects(text, KEYS)
    whole = [row for k, row in enumerate(made) if json.dumps(made[: k + 1])[:-1] in text]
    assert found[: len(whole)] == whole


LISTS = {
    "json": json.dumps,
    "fenced": lambda made: f"```json\n{json.dumps(made)}\n```",
    "numbered": lambda made: "Here are some:\n\n" + "\n".join(f"{i}. {said}" for i, said in enumerate(made, 1)),
    "in brackets": lambda made: "\n".join(f"{i}) {said}" for i, said in enumerate(made, 1)),
    "marked": lambda made: "\n".join(f"- **{said}**" for said in made),
    "quoted": lambda made: "\n".join(f'{i}. "{said}"' for i, said in enumerate(made, 1)),
    "plain lines": lambda made: "\n\n".join(made),
}


@pytest.mark.parametrize("dress", LISTS)
@given(st.lists(sentences, min_size=2, max_size=5))
@settings(max_examples=30, deadline=None)
def test_lists_are_found_in_every_dress(dress, made):
    assert items(LISTS[dress](made)) == made


@given(
    st.one_of(
        st.text(),
        st.text(alphabet="[]{}\",:'\\`*0123456789.- \nQqAa", max_size=300),
        st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists).map(json.dumps),
        st.integers(1, 3000).map(lambda n: "[" * n + '{"question": "' * (n % 3)),
    )
)
@settings(max_examples=200, deadline=None)
def test_nothing_that_is_written_raises(text):
    for row in objects(text, KEYS):
        assert row["question"].strip() and all(isinstance(value, str) for value in row.values())
    assert all(isinstance(said, str) and said for said in items(text))
    assert isinstance(one_text(text), str)
    assert grade(text) is None or 1 <= grade(text) <= 5
    assert all(1 <= number <= 5 for number in grades(text, ["truth", "help"]).values())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Score: 4", 4),
        ("It is clear, and answers 3 of 3 questions.\nScore: 4.5", 4.5),
        ("**Score:** 5/5", 5),
        ("3", 3),
        ("I would say\n2 out of 5", 2),
        ("Rating: 9", None),
        ("It has 4 flaws.", None),
        ("", None),
    ],
)
def test_grades(text, said):
    assert grade(text) == said


@pytest.mark.parametrize(
    "text",
    [
        '{"truth": 4, "help": 2}',
        '```json\n{"truth": {"score": 4, "why": "right"}, "help": {"score": 2}}\n```',
        "Truth: 4\nHelp: 2",
        "**Truth** — 4 (it is right)\n**Help** — 2",
    ],
)
def test_grades_by_name(text):
    assert grades(text, ["truth", "help"]) == {"truth": 4, "help": 2}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('"How do I reset it?"', "How do I reset it?"),
        ("Sure, here is the rewritten prompt:\n\nName three rivers.", "Name three rivers."),
        ("#Rewritten Prompt#:\nName three rivers.", "Name three rivers."),
        ("```\nName three rivers.\n```", "Name three rivers."),
        ("Instruction: Name three rivers.", "Name three rivers."),
        ("The answer: 42 is a number", "The answer: 42 is a number"),
    ],
)
def test_one_text(text, said):
    assert one_text(text) == said


@given(st.lists(words, min_size=1, max_size=12), words, st.floats(0.1, 0.9))
@settings(max_examples=60, deadline=None)
def test_a_pool_finds_what_comparing_all_finds(texts, asked, least):
    best = max(likeness(words_of(asked), words_of(text)) for text in texts)
    found, text = pool_of(texts).nearest(asked, least)
    assert found == (best if best >= least else 0)
    assert (text in texts) == (best >= least)


def test_an_empty_pool_has_nothing_near():
    assert Pool().nearest("name three rivers", 0.7) == (0.0, "")
