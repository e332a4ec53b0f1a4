"""What is remembered on disk comes back as it was, wherever a kill cut the file."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.base.lines import add_lines, read_lines

texts = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\u2028\u2029\x85\x0b\r\n"))
rows = st.dictionaries(texts, st.fixed_dictionaries({"text": texts}), max_size=5)


@given(rows, rows, st.data())
@settings(max_examples=60, deadline=None)
def test_a_kill_at_any_byte_costs_the_rows_behind_it_and_no_more(first, second, data):
    with TemporaryDirectory() as folder:
        file = Path(folder) / "answers" / "a.jsonl"
        assert read_lines(file) == {}
        add_lines(file, first)
        assert read_lines(file) == first
        whole = file.read_bytes()
        cut = data.draw(st.integers(0, len(whole)))
        file.write_bytes(whole[:cut])
        # A line whose end alone is missing is a whole row.
        lines = whole[:cut].count(b"\n") + (cut < len(whole) and whole[cut : cut + 1] == b"\n")
        left = dict(list(first.items())[:lines])
        assert read_lines(file) == left
        add_lines(file, second)
        assert read_lines(file) == left | second


def test_lines_that_are_no_rows_are_passed_over(tmp_path):
    file = tmp_path / "a.jsonl"
    lines = [
        b"\0\0",
        b'["key", 1]',
        b'"key"',
        b"null",
        b'{"text": 1}',
        b'{"key": [1]}',
        b"\xff",
        b'{"key": "a", "n": 1}',
    ]
    file.write_bytes(b"\n".join(lines))
    assert read_lines(file) == {"a": {"n": 1}}
    add_lines(file, {"b": {"n": 2}})
    assert read_lines(file) == {"a": {"n": 1}, "b": {"n": 2}}
    assert json.loads(file.read_bytes().splitlines()[-1]) == {"key": "b", "n": 2}
