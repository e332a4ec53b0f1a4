"""A streamed source is the source: looked at chunk by chunk, it says what reading it whole says."""

from __future__ import annotations

import gzip
import json
import os

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from luthier.base.errors import UserError
from luthier.base.nouns import Chat, Message, Text
from luthier.base.source import Source
from luthier.base.store import open_store
from luthier.base.stored import Progress
from luthier.data import chunks as c
from luthier.data import survey as v
from luthier.data.dataset import at_hand, leaked, read_dataset

QUESTIONS = [
    {"question": f"What is {n % 37}?", "answer": f"It is {n % 5}.", "accept": [str(n % 5)], "n": n} for n in range(90)
]


def lines(rows, bad: int = 20) -> str:
    """JSON lines, every `bad`-th of which is none."""
    return "".join(("{no\n" if n % bad == bad - 1 else "\n") + json.dumps(row) + "\n" for n, row in enumerate(rows))


def small_sources(folder):
    """One source of each kind of file, by name: its path and settings."""
    (folder / "kb").mkdir()
    for n in range(9):
        (folder / "kb" / f"{n}.md").write_text(f"---\ntitle: {n}\n---\nPage {n} says é.\n" * (n != 4))
    (folder / "kb" / "more.txt").write_text("A page of its own.\r\nIt has two lines.")
    (folder / "q.jsonl").write_bytes(b"\xef\xbb\xbf" + lines(QUESTIONS).encode())
    (folder / "z.jsonl.gz").write_bytes(gzip.compress(lines(QUESTIONS, 1000).encode()))
    (folder / "t.csv").write_text("question,answer\n" + "".join(f'"a {n},\nb",{n}\n' for n in range(60)) + "short\n")
    (folder / "p.txt").write_text("\n--\n".join(f"Story {n}.\n\nThe end." for n in range(70)))
    table = pyarrow.table({"text": [f"Row {n % 20} of a table." for n in range(60)]})
    parquet.write_table(table, folder / "r.parquet")
    return {
        "kb": Source(path="kb", heldout=0.5, split_by="origin"),
        "q": Source(path="q.jsonl", heldout=0.5, system="Be brief."),
        "z": Source(path="z.jsonl.gz", heldout=0.5, columns={"question": "question"}),
        "t": Source(path="t.csv", heldout=0.5),
        "p": Source(path="p.txt", heldout=0.5, separator="--"),
        "r": Source(path="r.parquet", heldout=0.5),
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("survey")
    return folder, small_sources(folder)


def surveyed(folder, name, source, store="shards", workers=1, tell=lambda progress: None):
    return v.survey(name, source.model_copy(update={"stream": True}), folder, open_store(store, folder), workers, tell)


@pytest.mark.parametrize("size", [300, 10**6])
@pytest.mark.parametrize("name", ["kb", "q", "z", "t", "p", "r"])
def test_a_streamed_source_is_the_source(world, name, size, monkeypatch):
    """Small enough, all of its rows are at hand too."""
    folder, sources = world
    monkeypatch.setattr(c, "SMALLEST_BYTES", size)
    monkeypatch.setattr(v, "BUCKET_ROWS", 7)
    whole, streamed = read_dataset(name, sources[name], folder), surveyed(folder, name, sources[name], f"s{size}")
    assert list(at_hand(streamed)) == whole.train and streamed.heldout == whole.heldout and whole.heldout
    assert list(streamed.rejected) == whole.rejected and len(streamed.rejected) == len(whole.rejected)
    assert streamed.rejected[:1] == whole.rejected[:1]
    assert [streamed.rejected[-1]] == whole.rejected[-1:] if whole.rejected else True
    assert (streamed.rows, streamed.duplicates) == (whole.rows, whole.duplicates)
    found = streamed.survey
    assert [found.count(what) for what in ("train", "heldout", "examples")] == [
        len(whole.train), len(whole.heldout), len(whole.train) + len(whole.heldout)
    ]  # fmt: skip
    assert len(found.entries) > 1 or size == 10**6


@pytest.mark.parametrize(
    ("path", "separator"),
    [("docs_18f_handbook", None), ("lamini/lamini_docs.jsonl", None), ("tinystories/tiny_stories.txt.gz", "\n")],
)
def test_real_sources(shared_data, tmp_path, path, separator):
    source = Source(path=str(shared_data / path), separator=separator)
    whole, streamed = read_dataset("real", source, tmp_path), surveyed(tmp_path, "real", source)
    assert list(at_hand(streamed)) == whole.train and streamed.heldout == whole.heldout
    assert list(streamed.rejected) == whole.rejected and streamed.duplicates == whole.duplicates


def test_a_limit_counts_as_it_does_in_memory(world, monkeypatch):
    folder, sources = world
    monkeypatch.setattr(c, "SMALLEST_BYTES", 1500)
    for limit in (7, 40):
        source = sources["q"].model_copy(update={"limit": limit})
        whole, streamed = read_dataset("q", source, folder), surveyed(folder, "q", source, f"limit{limit}")
        assert (list(at_hand(streamed)), streamed.heldout, streamed.rows) == (whole.train, whole.heldout, whole.rows)
        assert list(streamed.rejected) == whole.rejected


def test_samples_are_some_of_the_rows_and_the_counts_are_of_all(world, monkeypatch):
    folder, sources = world
    whole = read_dataset("q", sources["q"], folder)
    size = (folder / "q.jsonl").stat().st_size
    monkeypatch.setattr(v, "SAMPLE_BYTES", size // 3)
    monkeypatch.setattr(v, "HELDOUT_BYTES", size // 12)
    streamed = surveyed(folder, "q", sources["q"], "sampled")
    for some, all_ in ((list(at_hand(streamed)), whole.train), (streamed.heldout, whole.heldout)):
        assert 0 < len(some) < len(all_)
        assert [row for row in all_ if row in some] == some, "in file order"
    held, kept = len(whole.heldout), len(streamed.heldout)
    assert streamed.notes[-1] == (
        f"streamed: {len(whole.train)} training rows stay on disk; "
        f"of {held} held-out rows {kept} are measured, chosen by their hash"
    )


def test_it_goes_on_and_is_not_done_again(world, monkeypatch):
    folder, sources = world
    monkeypatch.setattr(c, "SMALLEST_BYTES", 1500)
    told: list[Progress] = []
    first = surveyed(folder, "q", sources["q"], "again", tell=told.append)
    shares = [progress.share for progress in told]
    assert shares == sorted(shares) and shares[-1] == 1 and told[-1].rows == first.rows
    surveyed(folder, "q", sources["q"], "again", tell=lambda progress: pytest.fail("it was there"))
    store = open_store("again", folder)
    (made,) = [path for path in store.local.iterdir() if path.is_dir()]
    (made / "00001.safetensors").unlink()
    before = (made / "index.json").read_bytes()
    told.clear()
    again = surveyed(folder, "q", sources["q"], "again", tell=told.append)
    assert len(told) == 1 and (made / "index.json").read_bytes() == before and again.heldout == first.heldout


def test_a_changed_file_is_another_source(world, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(lines(QUESTIONS, 1000))
    before = surveyed(tmp_path, "a", Source(path="a.jsonl"))
    stamp = path.stat()
    path.write_text(lines(QUESTIONS, 1000).replace("What", "Wh4t"))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    after = surveyed(tmp_path, "a", Source(path="a.jsonl"))
    assert after.hash != before.hash and "Wh4t" in next(at_hand(after)).messages[0].content


@pytest.mark.parametrize("max_rejected", [0.0, 0.04])
def test_too_many_rejected_rows_are_told_as_in_memory(world, max_rejected):
    folder, sources = world
    source = sources["q"].model_copy(update={"max_rejected": max_rejected})
    with pytest.raises(UserError) as whole:
        read_dataset("q", source, folder)
    with pytest.raises(UserError) as streamed:
        surveyed(folder, "q", source)
    assert streamed.value.problems == whole.value.problems


def test_what_cannot_be_streamed(world, tmp_path):
    folder, _ = world
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "Hi", "chosen": "a", "rejected": "b"}))
    with pytest.raises(UserError, match=r"data.a.stream: its rows are pairs; only documents and conversations"):
        surveyed(tmp_path, "a", Source(path="a.jsonl"))
    (tmp_path / "b.jsonl").write_text("{no\n")
    with pytest.raises(UserError, match="not one usable row"):
        surveyed(tmp_path, "b", Source(path="b.jsonl", format="text"))
    with pytest.raises(UserError, match="does not exist"):
        surveyed(folder, "q", Source(path="nowhere.jsonl"))


WORD = st.sampled_from(["a", "b", "A ", " b"])
ROW = st.builds(lambda t, o: Text(t, f"e:{o}"), WORD, st.integers(0, 9)) | st.builds(
    lambda q, a, o: Chat((Message("user", q), Message("assistant", a)), f"e:{o}"), WORD, WORD, st.integers(0, 9)
)


@settings(max_examples=12)
@given(train=st.lists(ROW, min_size=1, max_size=6), measured=st.lists(ROW, max_size=6))
def test_leaks_are_found_as_in_memory(tmp_path_factory, train, measured):
    """What is recognised is a hash of what memory compares, of every training row."""
    folder = tmp_path_factory.mktemp("leak")
    texts = [row for row in train if isinstance(row, Text)]
    chats = [{"messages": v.parts_of(row)["messages"]} for row in train if isinstance(row, Chat)]
    for name, rows in (("texts", [{"text": row.text} for row in texts]), ("chats", chats)):
        if rows:
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            streamed = surveyed(folder, name, Source(path=f"{name}.jsonl", heldout=0))
            assert streamed.survey.leaked(measured) == leaked(list(at_hand(streamed)), measured)
