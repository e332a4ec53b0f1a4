"""Data as other programs read it: whatever is written reads back as it was, in every file and every shape."""

from __future__ import annotations

import csv
import json
import string

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from luthier.base.errors import RunError, UserError
from luthier.base.nouns import Chat, Choice, Labelled, Message, Pair, Rejected, Text
from luthier.base.source import Source
from luthier.data.convert import SHAPES, convert_file, name_from, natural, read_back, row_as
from luthier.data.dataset import content, read_dataset
from luthier.data.look import columns_of, lengths_of, look_at
from luthier.data.tables import guarded, unguarded

PLAIN = Source(path="x")
WORDS = st.text(alphabet=string.ascii_letters + " =+-@'\"[]{},;\n\t日é", min_size=1, max_size=12).filter(str.strip)
META = st.none() | st.dictionaries(
    st.sampled_from(["id", "tags", "prompt", "score", "n"]),
    WORDS | st.integers() | st.lists(WORDS, max_size=2),
    max_size=2,
)
TURNS = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3).map(
    lambda pairs: tuple(m for q, a in pairs for m in (Message("user", q), Message("assistant", a)))
)
PROMPTS = st.builds(lambda turns, last: (*turns, Message("user", last)), TURNS | st.just(()), WORDS)
ORIGIN = st.just("o:1")
TWO = st.lists(WORDS, min_size=2, max_size=2, unique_by=str.strip)
EXAMPLES = {
    "text": st.builds(Text, WORDS, ORIGIN),
    "messages": st.builds(lambda turns, meta: Chat(turns, "o:1", (), meta), TURNS, META),
    "pairs": st.builds(lambda p, two, meta: Pair(p, *two, "o:1", meta), PROMPTS, TWO, META),
    "labelled": st.builds(
        lambda p, a, good, meta: Labelled(p, a, good, "o:1", meta), PROMPTS, WORDS, st.booleans(), META
    ),
    "choices": st.builds(lambda c, o, g: Choice(c, tuple(o), g, "o:1"), WORDS, TWO, st.integers(0, 1)),
}


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("kind", sorted(EXAMPLES))
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_written_reads_back(kind, ending, data, tmp_path):
    """`convert_file` compares by itself and raises; here the rows are compared once more, and what is beside them."""
    examples = data.draw(st.lists(EXAMPLES[kind], min_size=1, max_size=3))
    out = tmp_path / f"out{ending}"
    try:
        made = convert_file(examples, [], out, None, PLAIN)
    except RunError as refused:  # only where a choice's letter is another option's own words
        assert kind == "choices" and ending == ".csv" and "does not read back" in str(refused)
        assert not out.exists()
        return
    got = read_dataset("x", Source(path=out.name, format=made.shape, heldout=0), tmp_path).train
    assert [content(example) for example in got] == [content(example) for example in examples]
    for before, after in zip(examples, got, strict=True):
        if ending == ".jsonl" and kind not in ("choices", "text"):
            names = {f"other_{key}" if key == "prompt" else key: value for key, value in (before.meta or {}).items()}
            assert (after.meta or {}) == names


@given(st.text(alphabet="'=+-@\t\ra", max_size=6))
def test_the_guard_can_be_taken_away_and_lets_no_formula_through(text):
    assert unguarded(guarded(text)) == text
    assert guarded(text)[:1] not in ("=", "+", "-", "@", "\t", "\r")


def test_formulas_in_a_table_are_text_to_a_spreadsheet(tmp_path):
    evil = '=cmd|"/C calc"!A0'
    chat = Chat((Message("user", evil), Message("assistant", "-1")), "o:1", meta={"+x": "@SUM(A1)", "n": -3})
    made = convert_file([chat], [], tmp_path / "t.csv", "alpaca", PLAIN)
    rows = list(csv.reader((tmp_path / "t.csv").read_text().splitlines()))
    assert rows == [["instruction", "input", "output", "'+x", "n"], [f"'{evil}", "", "'-1", "'@SUM(A1)", "-3"]]
    assert len(made.notes) == 1 and "3 of them" in made.notes[0]


CHAT = Chat((Message("system", "S"), Message("user", "Q"), Message("assistant", "A")), "o:1", ("A",), {"id": 7})


def test_shapes():
    assert row_as(CHAT, "sharegpt") == {
        "conversations": [
            {"from": "system", "value": "S"},
            {"from": "human", "value": "Q"},
            {"from": "gpt", "value": "A"},
        ],
        "accept": ["A"],
        "id": 7,
    }
    alpaca = {"instruction": "Q", "input": "", "output": "A", "system": "S", "accept": ["A"], "id": 7}
    assert row_as(CHAT, "alpaca") == alpaca
    pair = Pair((Message("user", "Q"),), "A", "B", "o:1", {"chosen": "x"}, margin=2.0)
    assert row_as(pair, "pairs") == {"prompt": "Q", "chosen": "A", "rejected": "B", "margin": 2.0, "other_chosen": "x"}


@pytest.mark.parametrize(
    ("example", "shape", "reason"),
    [
        (Chat((Message("user", "Q"),), "o:1"), "alpaca", "alpaca holds one question with one answer"),
        (Chat((*CHAT.messages, *CHAT.messages[1:]), "o:1"), "alpaca", "alpaca holds one question with one answer"),
        (Text("t", "o:1"), "messages", "messages is for conversations, and this row is one of text. Use --as text"),
        (CHAT, "text", "text is for documents: who said what would be lost"),
        (CHAT, "pairs", "pairs need a chosen and a rejected answer"),
    ],
)
def test_what_a_shape_cannot_hold_is_rejected_and_told(example, shape, reason, tmp_path):
    out = tmp_path / "o.jsonl"
    fits = {"alpaca": CHAT, "messages": CHAT, "text": Text("t", "o:2"), "pairs": None}[shape]
    if fits is None:
        with pytest.raises(UserError, match="not one row can be written as pairs"):
            convert_file([example], [], out, shape, PLAIN)
        return
    made = convert_file([example, fits], [Rejected("o:3", "broken")], out, shape, PLAIN)
    assert made.rows == 1 and [r.origin for r in made.rejected] == ["o:3", "o:1"]
    told = [json.loads(line) for line in (tmp_path / "o.rejected.jsonl").read_text().splitlines()]
    assert told[0] == {"origin": "o:3", "reason": "broken"} and told[1]["reason"].startswith(reason)


def test_what_the_recipe_says_of_a_source_stands_in_its_rows(tmp_path):
    said = Source(path="x", licence="CC-BY-4.0", made="human", date="2026-01-02")
    own = Chat(CHAT.messages, "o:2", meta={"licence": "MIT"})
    convert_file([CHAT, own], [], tmp_path / "o.jsonl", None, said)
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [row["licence"] for row in rows] == ["CC-BY-4.0", "MIT"] and rows[0]["date"] == "2026-01-02"


@pytest.mark.parametrize(
    ("name", "shape", "problem"),
    [
        ("o.xlsx", None, "--to: o.xlsx: write .jsonl, .parquet or .csv."),
        ("o.csv", "message", "--as: message is not one of .* Did you mean messages?"),
        ("o.csv", None, "--as: the rows are messages and text. Say which are to be written: --as messages."),
    ],
)
def test_what_cannot_be_written_is_told(name, shape, problem, tmp_path):
    with pytest.raises(UserError, match=problem):
        convert_file([CHAT, Text("t", "o:1")], [], tmp_path / name, shape, PLAIN)


def test_a_file_that_does_not_read_back_is_told(tmp_path):
    (tmp_path / "o.jsonl").write_text('{"text": "another"}\n')
    with pytest.raises(RunError, match=r"row 1 \(o:1\) does not read back as it was"):
        read_back(tmp_path / "o.jsonl", "text", [Text("one", "o:1")])


def test_mixed_columns_of_parquet_are_text(tmp_path):
    chats = [Chat(CHAT.messages, "o:1", meta={"id": value}) for value in (7, "x", [1])]
    made = convert_file(chats, [], tmp_path / "o.parquet", None, PLAIN)
    assert made.notes == ["columns of several types are JSON text: id"]
    assert parquet.read_table(tmp_path / "o.parquet")["id"].to_pylist() == ["7", "x", "[1]"]


def test_every_shape_is_a_format():
    assert set(SHAPES) <= set(Source.model_fields["format"].annotation.__args__)
    assert {natural(e) for e in (CHAT, Text("t", "o"))} == {"messages", "text"}


def test_names_of_sources():
    assert [name_from(path) for path in ("a/faq v2.csv.gz", "hub:org/na-me@test", "../x/", "日")] == [
        "faq_v2", "na_me", "x", "data"]  # fmt: skip


def test_a_look_counts_what_is_there(tmp_path):
    rows = [{"question": "one two", "answer": "a", "n": i, "note": ""} for i in range(3)]
    rows += [{"question": "", "answer": "b", "n": 1, "note": "x"}, {"question": "q", "answer": "a b c", "n": "1"}]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    look = look_at("d", Source(path="d.jsonl", licence="MIT", max_rejected=0), tmp_path)
    assert (look.data.format, look.data.rows, len(look.examples), look.data.duplicates) == ("qa", 5, 4, 2)
    assert [(c.name, c.kind, c.filled) for c in look.columns] == [
        ("question", "string", 4), ("answer", "string", 5), ("n", "mixed", 5), ("note", "string", 1)]  # fmt: skip
    assert [(part.part, part.n, part.least, part.middle, part.most) for part in look.lengths] == [
        ("prompt", 4, 1, 2.0, 2), ("answer", 4, 1, 1.0, 3)]  # fmt: skip
    assert [(kind, count, first.origin) for kind, count, first in look.rejected] == [
        ("question: is empty", 1, "d.jsonl:4")
    ]
    assert look.verdict.commercial is True and columns_of([]) == [] and lengths_of([]) == []


@pytest.mark.parametrize("path", ["oasst", "hh_rlhf", "llms_from_scratch/instruction-data.json", "gsm8k", "banking77"])
@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_real_data_survives(path, ending, shared_data, tmp_path):
    look = look_at("x", Source(path=path, limit=300), shared_data)
    made = convert_file(look.examples, look.data.rejected, tmp_path / f"o{ending}", None, look.source)
    assert made.rows == len(look.examples) == 300
