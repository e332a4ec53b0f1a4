"""Files -> rows: origins as an editor shows them, every unreadable thing named, nothing lost."""

import csv
import datetime as dt
import gzip
import io
import json
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from luthier.base.errors import UserError
from luthier.base.nouns import Rejected, Row
from luthier.data import documents, tables, text
from luthier.data.documents import markdown_body
from luthier.data.sources import find_path, list_files, read_rows
from luthier.data.text import Wanted


def read(path: Path, separator=None):
    files, _ = list_files("x", path)
    return list(read_rows(files, path, Wanted(separator=separator)))


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def reasons(rows):
    return {row.origin: row.reason for row in rows if isinstance(row, Rejected)}


LINES = b'\xef\xbb\xbf{"a": 1}\r\n\n{"a": \n[1]\n{"a": "\xff"}\n\x00\x01\n{"a": NaN}\n{"a": 2}'


def test_jsonl_origins_are_lines_and_bad_lines_are_named(tmp_path):
    rows = read(written(tmp_path, "a.jsonl", LINES))
    assert [row for row in rows if isinstance(row, Row)] == [Row({"a": 1}, "a.jsonl:1"), Row({"a": 2}, "a.jsonl:8")]
    why = reasons(rows)
    assert list(why) == [f"a.jsonl:{line}" for line in (3, 4, 5, 6, 7)]
    assert "not JSON: Expecting value at column" in why["a.jsonl:3"]
    assert why["a.jsonl:4"] == "a list, where an object {...} is needed"
    assert why["a.jsonl:5"].startswith("not UTF-8 text. Save the file as UTF-8 (byte 0xff at character 8)")
    assert "NUL bytes" in why["a.jsonl:6"]
    assert why["a.jsonl:7"] == "NaN is not JSON. Write null"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"a": "\\ud800"}', "half of a surrogate pair"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b"{\n", "name the file .json"),
        (b"\xff\xfe{\0", "UTF-8"),
    ],
)
def test_hostile_jsonl_lines(tmp_path, line, said):
    (row,) = read(written(tmp_path, "a.jsonl", line))
    assert isinstance(row, Rejected) and said in row.reason


def test_json_shapes(tmp_path):
    expected = [({"a": 1}, "[0]"), ({"a": 2}, "[1]")]
    for content in ('[{"a": 1}, {"a": 2}]', '{"version": 3, "data": [{"a": 1}, {"a": 2}]}'):
        rows = read(written(tmp_path, "a.json", content))
        assert [(row.fields, row.origin) for row in rows] == [(fields, "a.json" + at) for fields, at in expected]
    lines = read(written(tmp_path, "a.json", '{"a": 1}\n{"a": 2}\n'))  # one object a line under the other name
    assert [(row.fields, row.origin) for row in lines] == [({"a": 1}, "a.json:1"), ({"a": 2}, "a.json:2")]
    one = {"messages": [{"role": "user", "content": "hi"}]}
    assert read(written(tmp_path, "a.json", json.dumps(one))) == [Row(one, "a.json")]
    mixed = read(written(tmp_path, "a.json", '[{"a": 1}, "b", null]'))
    assert reasons(mixed) == {
        "a.json[1]": "a string, where an object {...} is needed",
        "a.json[2]": "null, where an object {...} is needed",
    }


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", '[{"a": 1},\n {"a" 2}]', "a.json:2: not JSON: Expecting ':' delimiter at column 7"),
        ("a.json", '{"a": [1], "b": [2]}', "an object with 2 lists"),
        ("a.json", "3", "a.json: a number. Give a list of objects"),
        ("a.json", b"\x80\x00", "NUL bytes"),
        ("a.json.gz", b"no gzip", "cannot unpack"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 999, mtime=0)[:-20], "cannot unpack"),
        ("a.parquet", b"PAR1 nonsense PAR1", "not a readable Parquet file"),
        ("a.csv", "a,b,a\n1,2,3\n", 'a.csv:1: the header line: two columns are called "a"'),
        ("a.csv", b"a,\xe9\n1,2\n", "a.csv:1: the header line: not UTF-8"),
        ("a.csv", 'a,"b\n1,2\n', "a.csv:1: the header line: a quote that opens here is never closed"),
    ],
)
def test_files_broken_as_a_whole(tmp_path, name, content, said):
    with pytest.raises(UserError, match=said.replace("[", r"\[").replace("{", r"\{").replace("(", r"\(")):
        read(written(tmp_path, name, content))


def test_csv_lines_are_those_an_editor_shows(tmp_path):
    text = '\ufeffq,a\n1,"two\nlines"\n\nshort\n3,4,5\n"x"y,6\n7,8\n'
    rows = read(written(tmp_path, "a.csv", text))
    assert [row for row in rows if isinstance(row, Row)] == [
        Row({"q": "1", "a": "two\nlines"}, "a.csv:2"),
        Row({"q": "7", "a": "8"}, "a.csv:8"),
    ]
    assert reasons(rows) == {
        "a.csv:5": "has 1 fields, the header has 2. Add the missing ones",
        "a.csv:6": 'has 3 fields, the header has 2. Quote the fields that hold a ","',
        "a.csv:7": "text after a closing quote. Double the quotes inside a field",
    }


def test_an_open_quote_costs_its_row_and_not_the_rest_of_the_file(tmp_path):
    rows = read(written(tmp_path, "a.csv", 'q,a\n1,2\n3,"open\n5,6\n7,8\n'))
    assert [row.origin for row in rows if isinstance(row, Row)] == ["a.csv:2", "a.csv:4", "a.csv:5"]
    assert reasons(rows) == {"a.csv:3": "a quote that opens here is never closed. Close it, or double it"}


def test_csv_bytes_that_are_no_text_cost_their_row(tmp_path):
    rows = read(written(tmp_path, "a.csv", b"q,a\n1,caf\xe9\n2,\x00\n3,ok\n"))
    assert [row.fields for row in rows if isinstance(row, Row)] == [{"q": "3", "a": "ok"}]
    assert list(reasons(rows)) == ["a.csv:2", "a.csv:3"]


def test_huge_csv_field_semicolons_and_tabs(tmp_path):
    big = "x" * 5_000_000
    assert read(written(tmp_path, "a.csv", f"text,n\n{big},1\n"))[0].fields == {"text": big, "n": "1"}
    assert read(written(tmp_path, "a.csv", "q;a\n1,5;2\n")) == [Row({"q": "1,5", "a": "2"}, "a.csv:2")]
    assert read(written(tmp_path, "a.TSV", "q\ta\n1,5\t2\n")) == [Row({"q": "1,5", "a": "2"}, "a.TSV:2")]
    assert reasons(read(written(tmp_path, "a.csv", "q,a\n"))) == {"a.csv": "has a header line but no rows"}


def test_parquet(tmp_path):
    table = pyarrow.table({"q": ["a", None], "n": [1.5, float("nan")], "m": [[{"role": "user"}], []]})
    parquet.write_table(table, tmp_path / "a.parquet")
    rows = [
        Row({"q": "a", "n": 1.5, "m": [{"role": "user"}]}, "a.parquet[0]"),
        Row({"q": None, "n": None, "m": []}, "a.parquet[1]"),
    ]
    assert read(tmp_path / "a.parquet") == rows
    time = pyarrow.table({"t": pyarrow.array([1], pyarrow.timestamp("ns")), "b": [b"\xff"], "d": [dt.date(2024, 5, 6)]})
    parquet.write_table(time, tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet")[0].fields == {
        "t": "1970-01-01 00:00:00.000000001",
        "b": "\\xff",
        "d": "2024-05-06",
    }
    packed = written(tmp_path, "b.parquet.gz", gzip.compress((tmp_path / "a.parquet").read_bytes()))
    assert [row.fields for row in read(packed)] == [row.fields for row in rows]


def test_txt_whole_and_parted(tmp_path):
    path = written(tmp_path, "a.txt", "\r\none\r\ntwo\n\n<end>\n\nthree\n<end>\n  \n<end>")
    assert read(path) == [Row({"text": "one\ntwo\n\n<end>\n\nthree\n<end>\n  \n<end>"}, "a.txt")]
    assert read(path, "<end>") == [Row({"text": "one\ntwo"}, "a.txt:2"), Row({"text": "three"}, "a.txt:7")]
    assert reasons(read(written(tmp_path, "b.txt", b"ok\x00"))) == {
        "b.txt": "holds NUL bytes: binary data, not text. Take it away"
    }
    assert reasons(read(written(tmp_path, "c.txt", ""))) == {"c.txt": "the file is empty. Fill it or take it away"}


@pytest.mark.parametrize(
    ("text", "body"),
    [
        ("---\ntitle: A\nlist:\n  - x\n---\nBody\n", "Body"),
        ("---\n# only a comment\n...\nBody", "Body"),
        ("---\n---\nBody", "Body"),
        ("---\nNot front matter, a rule\n---\nBody", "---\nNot front matter, a rule\n---\nBody"),
        ("---\nopen: never closed", "---\nopen: never closed"),
        ('See [the page]({% page "/x" %}).', "See the page."),
        ("![alt]({% image %}) {{ kept }}", "![alt]() {{ kept }}"),
        ("a {% comment %} [x]() {% if %}\n hidden {% endcomment %}b", "a b"),
        ("{%- raw -%}{% page %}{%- endraw -%}", "{% page %}"),
        ("```jinja\n{% if x %}\n```\n{% if y %}z{% endif %}", "```jinja\n{% if x %}\n```\nz"),
        ("100 {% never closed", "100 {% never closed"),
    ],
)
def test_markdown(text, body):
    assert markdown_body(text) == body


def test_folder_is_walked_in_order_and_says_what_it_left(tmp_path):
    for name in ("kb/b.md", "kb/a/z.txt", "kb/a/y.md", "kb/c.png", "kb/.git/config.md", "kb/a.md.gz"):
        written(tmp_path, name, gzip.compress(b"packed") if name.endswith("gz") else name)
    files, notes = list_files("x", tmp_path / "kb")
    assert notes == ["1 files were left out: 1 .png"]
    rows = list(read_rows(files, tmp_path / "kb", None))
    assert [row.origin for row in rows] == ["kb/a/y.md", "kb/a/z.txt", "kb/a.md.gz", "kb/b.md"]
    assert rows[2].fields == {"text": "packed"}


def test_paths_that_lead_nowhere(tmp_path):
    written(tmp_path, "data/handbook.jsonl", "{}")
    for path, said in (
        (
            "data/hanbook.jsonl",
            'data.kb.path: .* "hanbook.jsonl" is not in .*. Did you mean handbook.jsonl?',
        ),
        ("dta/handbook.jsonl", '"dta" is not in .* Did you mean data?'),
        ("data/handbook.jsonl/x", "does not exist"),
        ("~nobody-of-that-name/x", "data.kb.path"),
        ("x" * 5000, "data.kb.path"),
        ("a\0b", "data.kb.path"),
    ):
        with pytest.raises(UserError, match=said.replace("?", r"\?")):
            find_path("kb", path, tmp_path)
    with pytest.raises(UserError, match=r"cannot read this kind of file\. Use \.jsonl"):
        list_files("kb", written(tmp_path, "a.png", "x"))
    with pytest.raises(UserError, match=r"it holds 1 \.png"):
        list_files("kb", written(tmp_path, "only/a.png", "x").parent)
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match="it is empty"):
        list_files("kb", tmp_path / "bare")


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.dictionaries(TEXT, VALUE, max_size=4), min_size=1, max_size=6),
    ascii=st.booleans(),
    packed=st.booleans(),
)
def test_jsonl_round_trip(tmp_path_factory, rows, ascii, packed):
    lines = "".join(json.dumps(row, ensure_ascii=ascii) + "\n" for row in rows).encode()
    name, content = ("a.jsonl.gz", gzip.compress(lines)) if packed else ("a.jsonl", lines)
    path = written(tmp_path_factory.mktemp("j"), name, content)
    assert read(path) == [Row(row, f"{name}:{line}") for line, row in enumerate(rows, 1)]
    whole = written(path.parent, "b.json", json.dumps(rows, ensure_ascii=ascii))
    assert read(whole) == [Row(row, f"b.json[{index}]") for index, row in enumerate(rows)]


@settings(max_examples=200, deadline=None)
@given(data=st.data(), sign=st.sampled_from([",", "\t"]), width=st.integers(2, 4))
def test_csv_round_trip(tmp_path_factory, data, sign, width):
    """What the csv module of Python writes comes back, each row at the line it begins on."""
    names = [f"c{i}" for i in range(width)]
    rows = data.draw(st.lists(st.lists(TEXT, min_size=width, max_size=width), min_size=1, max_size=6))
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=sign)
    writer.writerow(names)
    expected = []
    for row in rows:
        # Lines end in \n, \r or \r\n, as in an editor.
        line = len(io.StringIO(buffer.getvalue(), newline="").readlines()) + 1
        expected.append((dict(zip(names, row, strict=True)), line))
        writer.writerow(row)
    name = "a.tsv" if sign == "\t" else "a.csv"
    path = written(tmp_path_factory.mktemp("c"), name, buffer.getvalue())
    assert read(path) == [Row(fields, f"{name}:{line}") for fields, line in expected]


@settings(max_examples=100, deadline=None)
@given(pieces=st.lists(st.text("ab \n|\u2028é"), min_size=1, max_size=5))
def test_txt_round_trip(tmp_path_factory, pieces):
    kept = [piece.strip() for piece in pieces if piece.strip(" \n|\u2028") and "|||" not in f"|{piece.strip()}|"]
    path = written(tmp_path_factory.mktemp("t"), "a.txt", "\n|||\n".join(kept) or "\n")
    assert [row.fields["text"] for row in read(path, "|||") if isinstance(row, Row)] == kept


@settings(max_examples=150)
@given(
    content=st.text("a|\r\n\ufeffé", max_size=40),
    block=st.integers(1, 5),
    separator=st.sampled_from(["|", "||", "a|\n"]),
)
def test_text_read_in_blocks_is_the_text(content, block, separator):
    """Whatever a block's border cuts: a line end, a separator, a character of several bytes."""
    whole = content.removeprefix("\ufeff").replace("\r\n", "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "BLOCK", block)
        parts = documents.pieces(text.with_line_feeds(text.text_blocks(io.BytesIO(content.encode()))), separator)
        assert list(parts) == whole.split(separator)


@pytest.mark.parametrize("spoilt", [b"ok\r\n\xff", b"\xe9\0", b"ab\0", b"\xff\xfea\0b", b"\xef\xbb\xbfa\r\n\xc3"])
def test_a_parted_file_that_is_no_text_is_refused_as_a_whole_one_is(tmp_path, spoilt):
    path = written(tmp_path, "a.txt", spoilt)
    assert read(path, "|") == read(path) and isinstance(read(path)[0], Rejected)


def test_a_quote_that_is_never_closed_does_not_hold_the_file(tmp_path, monkeypatch):
    """It is given up after so many characters, and the lines behind it are read."""
    monkeypatch.setattr(tables, "LONGEST_RECORD", 50)
    long = "x" * 80  # a line of its own may be longer
    rows = read(written(tmp_path, "a.csv", f'q,a\n1,"two\nlines"\n2,{long}\n3,"open\n' + "4,5\n" * 30))
    assert [row.origin for row in rows if isinstance(row, Row)] == [f"a.csv:{n}" for n in (2, 4, *range(6, 36))]
    assert list(reasons(rows)) == ["a.csv:5"]


def test_pyarrow_is_loaded_for_parquet_only():
    code = "import sys, luthier.data.dataset; sys.exit('pyarrow' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
