"""Records keep what is known of an example, through JSON and back."""

from __future__ import annotations

import json

import pytest

from luthier.base.nouns import Chat, Choice, Labelled, Message, Pair, Record, Text
from luthier.base.source import Source
from luthier.data.records import as_json, from_json, read_records, record_of, write_records

ASKED = (Message("user", "When?"),)
EXAMPLES = [
    Text("a page", "a.md", {"licence": "CC0-1.0", "date": "2020-01-02", "steps": ["ocr"]}),
    Chat((*ASKED, Message("assistant", "Now.")), "b.csv:2", ("now",), {"group": "thread 7", "generator": "gpt-x"}),
    Pair(ASKED, "Now.", "Never.", "c.jsonl:1", {"license": "MIT"}, 1.0, 0.5),
    Labelled(ASKED, "Now.", True, "d.jsonl:1", {"made": "human"}),
    Choice("2 + 2 =", ("3", "4"), 1, "e.jsonl:1"),
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: type(e).__name__)
def test_a_record_survives_json(example, tmp_path):
    record = record_of(example, "there", Source(path="x", made="machine", licence="Apache-2.0"))
    assert from_json(json.loads(json.dumps(as_json(record)))) == record
    dropped = Record(example, record.provenance, record.group, {"length": 3.0}, "too short")
    write_records(tmp_path / "rows.jsonl", [record, dropped])
    assert list(read_records(tmp_path / "rows.jsonl")) == [record, dropped]


def test_a_row_speaks_before_its_source():
    source = Source(path="x", made="machine", licence="Apache-2.0", generator="m", terms="none", date="2026")
    text, chat, pair, labelled, choice = (record_of(example, "s", source) for example in EXAMPLES)
    assert (text.provenance.licence, text.provenance.date, text.provenance.steps) == ("CC0-1.0", "2020-01-02", ("ocr",))
    assert (chat.provenance.generator, chat.group) == ("gpt-x", "s/thread 7")
    assert pair.provenance.licence == "MIT"
    assert labelled.provenance.made == "human"
    assert (choice.provenance.licence, choice.provenance.generator) == ("Apache-2.0", "m")
    assert len({text.group, pair.group, labelled.group, choice.group}) == 4
