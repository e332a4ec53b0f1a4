"""Sequences on disk are the sequences that were written, whatever they hold and wherever they lie; files that are not
what they were are told by name."""

from __future__ import annotations

import hashlib
import subprocess
from contextlib import contextmanager

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from luthier.base import store as stores
from luthier.base.errors import RunError, UserError
from luthier.base.nouns import Tokens
from luthier.base.store import open_store
from luthier.tokens import shards as s
from run.disks import mounted, read_only
from tokens.written import write

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ORIGIN = (
    TEXT | st.builds("{}:{}".format, TEXT, st.integers(0, 2**70)) | st.builds("{}[{}]".format, TEXT, st.integers(0, 99))
)
WEIGHT = st.sampled_from([0.0, 1.0]) | st.floats(allow_nan=False)


@st.composite
def tokens(draw, weight=WEIGHT, vocabulary=2**16):
    ids = draw(st.lists(st.integers(0, vocabulary - 1), min_size=1, max_size=20))
    weights = draw(st.lists(weight, min_size=len(ids), max_size=len(ids)))
    return Tokens(tuple(ids), tuple(weights), draw(ORIGIN))


def numbers(row: Tokens) -> tuple:
    """A row with its weights as bits: −0.0 is not 0.0."""
    return row.ids, np.array(row.weights).tobytes(), row.origin


@contextmanager
def few_open(count: int, bytes_: int):
    """Inside this block only so many shards are mapped at once, and only so much of them is held."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s, "OPEN", count)
        patch.setattr(s, "TOUCHED_BYTES", bytes_)
        yield


@settings(max_examples=40)
@given(parts=st.lists(st.lists(tokens(), max_size=6), min_size=1, max_size=4), data=st.data())
def test_what_is_written_is_read(tmp_path_factory, parts, data):
    folder = write(open_store("x", tmp_path_factory.mktemp("s")), parts, "uint16")
    with few_open(data.draw(st.integers(1, 3)), data.draw(st.sampled_from([1, 2**26]))):
        read = s.open_shards(folder)
        rows = [row for part in parts for row in part]
        assert len(read) == len(rows)
        assert [numbers(row) for row in read] == [numbers(row) for row in rows]
        assert read.lengths.tolist() == [len(row.ids) for row in rows]
        if rows:
            at = data.draw(st.lists(st.integers(-len(rows), len(rows) - 1), max_size=8))
            assert [numbers(read[i]) for i in at] == [numbers(rows[i]) for i in at]
        some = slice(data.draw(st.none() | st.integers(-9, 9)), data.draw(st.none() | st.integers(-9, 9)), 3)
        assert [numbers(row) for row in read[some]] == [numbers(row) for row in rows[some]]
        with pytest.raises(IndexError):
            read[len(rows)]


@pytest.mark.parametrize(("vocabulary", "dtype"), [(300, "uint16"), (65_536, "uint16"), (65_537, "uint32")])
def test_ids_take_as_few_bytes_as_they_can(vocabulary, dtype, tmp_path):
    assert s.ids_dtype(vocabulary) == dtype
    row = Tokens((vocabulary - 1, 0), (0.0, 1.0), "x")
    assert s.open_shards(write(open_store("x", tmp_path), [[row]], dtype))[0] == row


def test_weights_of_nought_and_one_take_no_room_of_their_own(tmp_path):
    """100 conversations of 500 tokens, an answer in each: 2 bytes a token, and for each row two runs (8), where it and
    its runs begin (16) and its origin (16)."""
    rows = [Tokens(tuple(range(500)), (0.0,) * 200 + (1.0,) * 300, f"a.jsonl:{n}") for n in range(1, 101)]
    write(open_store("x", tmp_path), [rows], "uint16")
    size = (tmp_path / "x" / "00000.safetensors").stat().st_size
    assert 100 * (1000 + 40) < size < 100 * (1000 + 40) + 1000


def test_other_programs_read_the_shards(tmp_path):
    rows = [Tokens((5, 6, 7), (0.0, 0.5, 1.0), "a.csv:2"), Tokens((8,), (1.0,), "a.csv:3")]
    write(open_store("x", tmp_path), [rows])
    read = load_file(tmp_path / "x" / "00000.safetensors")
    assert read["ids"].tolist() == [5, 6, 7, 8] and read["rows"].reshape(-1, 4)[:, 0].tolist() == [0, 3, 4]
    assert read["values"].tolist() == [0.0, 0.5, 1.0, 1.0] and read["rows"].reshape(-1, 4)[:2, 3].tolist() == [2, 3]


ROWS = [[Tokens((n, n + 1, 2), (0.0, 1.0, 1.0), f"a.jsonl:{n}")] for n in range(1, 4)]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda content: content[:-1], "cut off: .* bytes, where .* were written"),
        (lambda content: content + b"\0", "too long"),
        (lambda content: content[:-1] + b"\xff", "damaged: its bytes are not those that were written"),
        (lambda content: b"", "cut off"),
        (None, "the file is missing"),
    ],
)
def test_a_shard_that_is_not_as_it_was_written_is_named(tmp_path, spoil, said):
    folder = write(open_store("x", tmp_path), ROWS)
    path = tmp_path / "x" / "00001.safetensors"
    whole = s.open_shards(folder)
    assert whole[0] == ROWS[0][0]  # which does not look at the others
    path.write_bytes(spoil(path.read_bytes())) if spoil else path.unlink()
    with pytest.raises(UserError, match=f"00001.safetensors: {said}.* made anew, and the others are kept"):
        s.open_shards(folder)[1]
    path.unlink(missing_ok=True)
    write(folder, ROWS)  # as the message says
    assert list(s.open_shards(folder)) == [rows[0] for rows in ROWS]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"\xff" * 64, b"\2\0\0\0\0\0\0\0{}", b"\x08\0\0\0\0\0\0\0[1,2,3] "])
def test_a_file_of_something_else_is_named(tmp_path, content):
    folder = write(open_store("x", tmp_path), ROWS[:1])
    path = tmp_path / "x" / "00000.safetensors"
    path.write_bytes(content)
    index = (tmp_path / "x" / "index.json").read_text()
    entry = s.read_index(folder)["entries"][0]
    index = index.replace(str(entry["bytes"]), str(len(content)))
    index = index.replace(entry["sha256"], hashlib.sha256(content).hexdigest())
    (tmp_path / "x" / "index.json").write_text(index)
    (tmp_path / "x" / "lengths.npy").unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"00000.safetensors: .* Delete"):
        s.open_shards(folder)[0]


def test_folders_of_something_else_are_named(tmp_path):
    folder = write(open_store("x", tmp_path), ROWS)
    with pytest.raises(UserError, match=r"x: made with another tokenizer \(t\) than this model's \(u\). Delete"):
        s.open_shards(folder, tokenizer="u")
    with pytest.raises(UserError, match=r"made from something else \(another tokenizer\). Delete the folder"):
        write(folder, ROWS, tokenizer="u")
    with pytest.raises(UserError, match="y: no finished shards here"):
        s.open_shards(open_store("y", tmp_path))
    (tmp_path / "x" / "index.json").write_text('{"format": "of another program"}')
    with pytest.raises(
        UserError, match=r"index.json: this is no index that luthier wrote \(format of another program\)"
    ):
        s.open_shards(folder)
    (tmp_path / "x" / "index.json").write_text("[]")
    with pytest.raises(UserError, match="no index that luthier wrote"):
        s.open_shards(folder)


def test_lost_lengths_are_made_again(tmp_path):
    folder = write(open_store("x", tmp_path), ROWS)
    path = tmp_path / "x" / s.LENGTHS
    assert s.open_shards(folder).lengths.tolist() == [3, 3, 3]
    for wrong in (b"no array", path.read_bytes()[:-4]):
        path.write_bytes(wrong)
        assert s.open_shards(folder).lengths.tolist() == [3, 3, 3]


@pytest.fixture
def remote():
    """A folder in fsspec's file system in memory."""
    fsspec.filesystem("memory").store.clear()
    yield "memory://bucket/shards"
    fsspec.filesystem("memory").store.clear()


def test_shards_at_a_url(tmp_path, remote):
    here, there = open_store("x", tmp_path), open_store(remote, tmp_path / "one").inside("x")
    write(here, ROWS)
    write(there, ROWS)
    files = fsspec.filesystem("memory")
    for name in ("index.json", "00000.safetensors", "00002.safetensors"):
        assert files.cat_file(f"/bucket/shards/x/{name}") == (tmp_path / "x" / name).read_bytes()
    other = open_store(remote, tmp_path / "two").inside("x")  # another machine, which has no copies
    assert list(s.open_shards(other)) == list(s.open_shards(here))
    copy = other.local / "00001.safetensors"
    copy.write_bytes(b"torn")  # a copy that a full disk left is fetched again
    assert list(s.open_shards(other)) == list(s.open_shards(here))
    files.pipe_file("/bucket/shards/x/00001.safetensors", b"0" * copy.stat().st_size)
    copy.unlink()
    with pytest.raises(UserError, match=r"memory://bucket/shards/x/00001.safetensors: damaged"):
        s.open_shards(other)[1]
    files.rm_file("/bucket/shards/x/00001.safetensors")
    with pytest.raises(RunError, match=r"memory://bucket/shards/x/00001.safetensors: .*Check the address"):
        s.open_shards(other)[1]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://bucket/x", r"shards: s3://bucket/x: .*pip install s3fs, or give a folder"),
        ("gs://bucket/x", r"pip install gcsfs"),
        ("nosuch://bucket/x", r"Protocol not known: nosuch. Give a folder, or a URL such as s3://bucket/folder"),
    ],
)
def test_a_url_that_cannot_be_opened(tmp_path, url, said):
    with pytest.raises(UserError, match=said):
        open_store(url, tmp_path)


def test_a_file_url_is_a_folder(tmp_path):
    write(open_store(f"file://{tmp_path}/deep", tmp_path).inside("x"), ROWS)
    assert len(s.open_shards(open_store("deep/x", tmp_path))) == 3


def test_copies_make_room_for_each_other(tmp_path, remote, monkeypatch):
    """A disk that holds two of four copies: all rows are read, again and again."""
    monkeypatch.setattr(stores, "ROOM_BYTES", 100_000)
    monkeypatch.setattr(s, "OPEN", 1)
    rows = [[Tokens(tuple(range(30_000)), (1.0,) * 30_000, f"a.txt:{n}")] for n in range(1, 5)]
    with mounted(tmp_path / "disk", "size=400k") as disk:
        there = open_store(remote, disk).inside("x")
        write(there, rows, "uint32")
        read = s.open_shards(there)
        assert [row.origin for _ in range(2) for row in read] == [f"a.txt:{n}" for n in range(1, 5)] * 2
        assert 1 <= len(list(there.local.glob("*.safetensors"))) <= 2


def test_a_full_disk_and_a_read_only_one_are_one_line_and_lose_nothing(tmp_path):
    rows = [[Tokens(tuple(range(30_000)), (1.0,) * 30_000, f"a.txt:{n}")] for n in range(1, 5)]
    whole = {p.name: p.read_bytes() for p in write(open_store("x", tmp_path), rows).local.iterdir()}
    with mounted(tmp_path / "disk", "size=300k") as disk:
        folder = open_store("x", disk)
        with pytest.raises(RunError, match=r"0000\d.safetensors: No space left on device. Free some space"):
            write(folder, rows)
        assert sorted(p.name for p in folder.local.iterdir()) == [
            ".lock", "00000.json", "00000.safetensors", "00001.json", "00001.safetensors"
        ]  # fmt: skip
        kept = (folder.local / "00000.safetensors").stat().st_mtime_ns
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        write(folder, rows)
        assert (folder.local / "00000.safetensors").stat().st_mtime_ns == kept
        assert {p.name: p.read_bytes() for p in folder.local.iterdir()} == whole
        assert len(s.open_shards(folder)) == 4
        with read_only(disk):
            assert len(s.open_shards(write(folder, rows))) == 4  # what is there can be read
            with pytest.raises(RunError, match="Read-only file system"):
                write(open_store("y", disk), rows)


def test_origins_come_back(tmp_path):
    odd = ["", ":0", "a:007", "a[0]", "a[-1]", "a:1:2", "[3][4]", "a:1\n", "é:12", "a:99999999999999999999", "x[007]"]
    rows = [Tokens((1,), (0.0,), origin) for origin in odd]
    assert [row.origin for row in s.open_shards(write(open_store("x", tmp_path), [rows]))] == odd


def test_the_index_is_the_same_on_every_machine(tmp_path):
    """No time, no path: two makers of the same rows make the same bytes."""
    made_ = [write(open_store("x", tmp_path / name), ROWS) for name in "ab"]
    contents = [{p.name: p.read_bytes() for p in one.local.iterdir()} for one in made_]
    assert contents[0] == contents[1]
