"""Data sets in a hub's layout: a local folder, which `datasets` reads as it reads the hub's own, and what is told where
the hub is not there."""

from __future__ import annotations

import json

import pyarrow
import pytest
from pyarrow import parquet

from luthier.base.config import load_recipe
from luthier.base.errors import UserError
from luthier.base.source import Source
from luthier.data.dataset import read_dataset
from luthier.data.readers.hub import Address, address_of, open_hub
from luthier.data.readers.hub_copy import rows_needed
from luthier.run.shards import streamed_dataset
from run.small import small_world

pytest.importorskip("datasets")

ROWS = [{"question": f"What is {n}?", "answer": f"It is {n}.", "when": None, "tags": ["a", "b"]} for n in range(7)]


@pytest.fixture
def folder(tmp_path):
    data = tmp_path / "faq" / "data"
    data.mkdir(parents=True)
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), data / "train-00000-of-00001.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(ROWS[:2]), data / "test-00000-of-00001.parquet")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("hub:org/name", Address("org/name", None, None, False)),
        ("hub:org/name@test", Address("org/name", None, "test", False)),
        ("hub:org/name/main.v1@train", Address("org/name", "main.v1", "train", False)),
        ("hub:squad", Address("squad", None, None, False)),
        ("hub:./a folder/x@dev", Address("./a folder/x", None, "dev", True)),
        ("hub:/abs/x", Address("/abs/x", None, None, True)),
    ],
)
def test_addresses(path, address):
    assert address_of("data.x.path", path) == address


@pytest.mark.parametrize("path", ["hub:", "hub:a/b/c/d", "hub:a b", "hub:org/name@", "hub:@train"])
def test_what_is_no_address_is_told(path):
    with pytest.raises(UserError, match=r"data.x.path: hub:.* is no address. Write hub:org/name"):
        address_of("data.x.path", path)


def test_a_folder_in_the_hubs_layout(folder):
    found = open_hub("data.x.path", "hub:./faq", folder)
    rows = list(found.rows())
    assert found.split == "train" and [dict(row.fields) for row in rows] == ROWS
    assert rows[3].origin == "./faq@train[3]"
    assert [row.origin for row in found.rows()] == [row.origin for row in rows]  # from the beginning, again
    assert [dict(row.fields) for row in open_hub("x", "hub:./faq@test", folder).rows()] == ROWS[:2]


def test_the_card_names_configs_and_the_licence(folder):
    (folder / "faq" / "README.md").write_text(
        "---\nlicense: cc-by-4.0\nconfigs:\n- config_name: small\n  data_files: data/test*\n"
        "- config_name: large\n  data_files: data/train*\n---\n"
    )
    with pytest.raises(UserError) as told:
        open_hub("data.x.path", "hub:./faq", folder)
    assert told.value.problems[0].startswith("data.x.path: hub:./faq: which config? There are: small, large.")
    small = open_hub("data.x.path", "hub:./faq/small", folder)
    assert [row.fields for row in small.rows()] == [{"licence": "cc-by-4.0", **row} for row in ROWS[:2]]


def test_a_data_set_that_changes_has_another_version(folder):
    before = open_hub("x", "hub:./faq", folder).version
    assert before == open_hub("x", "hub:./faq", folder).version != ""
    (folder / "faq" / "data" / "train-00000-of-00001.parquet").unlink()
    (folder / "faq" / "data" / "train.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    (folder / "faq" / "data" / "test-00000-of-00001.parquet").unlink()
    assert open_hub("x", "hub:./faq", folder).version != before


def test_what_is_not_there_is_told_in_one_line(folder, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (folder / "empty").mkdir()
    cases = {
        "hub:org/name": "the hub may not be asked (--offline). Where there is a network: hf download org/name "
        "--repo-type dataset --local-dir name; then give that folder as hub:./name.",
        "hub:./faq@tset": '"tset". Did you mean test?',
        "hub:./faq@x": "There are: train, test.",
        "hub:./nope": "there is no folder",
        "hub:./empty": "no data file there that `datasets` can read",
    }
    for path, words in cases.items():
        with pytest.raises(UserError) as told:
            open_hub("data.x.path", path, folder)
        assert len(told.value.problems) == 1 and words in told.value.problems[0], told.value.problems
        assert told.value.problems[0].startswith(f"data.x.path: {path}")


def test_a_broken_file_is_told_while_it_is_read(folder):
    (folder / "bad").mkdir()
    (folder / "bad" / "train.jsonl").write_text('{"a": 1}\nno json at all\n')
    with pytest.raises(UserError, match=r"data.x.path: hub:./bad: "):
        list(open_hub("data.x.path", "hub:./bad", folder).rows())


def test_a_source_of_a_recipe(folder):
    """Detected, split and hashed like any other; `limit` reads no further; other rows are another hash."""
    source = Source(path="hub:./faq", licence="MIT")
    got = read_dataset("x", source, folder)
    assert (got.format, got.rows, got.files) == ("qa", 7, 0) and "split train" in got.notes
    assert got.hash == read_dataset("x", source, folder).hash
    assert got.hash != read_dataset("x", Source(path="hub:./faq@test", licence="MIT"), folder).hash
    assert len(read_dataset("x", Source(path="hub:./faq", limit=3, heldout=0), folder).train) == 3
    with pytest.raises(UserError, match=r"data.x.path: hub:org/name: the hub"):
        read_dataset("x", Source(path="hub:org/name"), folder)


def streamed(folder, tmp_path, source):
    world = small_world(tmp_path / "world")
    recipe = load_recipe(world, [f"out={json.dumps(str(tmp_path / 'out'))}"])
    return streamed_dataset(recipe.model_copy(update={"data": {"faq": source}}), "faq", folder, 1, ())


def test_a_streamed_one_is_copied_once_and_reads_the_same(folder, tmp_path):
    (folder / "faq" / "README.md").write_text("---\nlicense: mit\n---\n")
    source = Source(path="hub:./faq", heldout=0.3, stream=True)
    data = streamed(folder, tmp_path, source)
    plain = read_dataset("faq", source.model_copy(update={"stream": False}), folder)
    assert data.survey is not None and data.format == plain.format
    assert [chat.messages for chat in data.survey.sample()] == [chat.messages for chat in plain.train]
    assert [chat.messages for chat in data.heldout] == [chat.messages for chat in plain.heldout]
    assert {chat.meta["licence"] for chat in data.survey.sample()} == {"mit"}
    (file,) = (tmp_path / "out" / "shards" / "hub").iterdir()
    assert file.name.startswith("faq@train-") and file.read_text().count("\n") == len(ROWS)
    assert next(chat.origin for chat in data.survey.sample()).startswith(f"{file.name}:")
    before = file.stat().st_mtime_ns
    assert streamed(folder, tmp_path, source).hash == data.hash and file.stat().st_mtime_ns == before
    more = [*ROWS, {**ROWS[0], "question": "And now?"}]
    parquet.write_table(pyarrow.Table.from_pylist(more), folder / "faq" / "data" / "train-00000-of-00001.parquet")
    again = streamed(folder, tmp_path, source)
    assert again.rows == len(more) and again.hash != data.hash  # another version, another copy


def test_of_a_limited_one_no_more_is_copied_than_is_needed(folder, tmp_path):
    data = streamed(folder, tmp_path, Source(path="hub:./faq", heldout=0, stream=True, limit=3, max_rejected=0))
    assert data.survey is not None and data.survey.count("train") == 3
    (file,) = (tmp_path / "out" / "shards" / "hub").iterdir()
    assert file.read_text().count("\n") == 4
    assert rows_needed(Source(path="x", limit=9, max_rejected=0.1)) == 11  # 9 of 10 rows are usable, and one to see
    assert rows_needed(Source(path="x", limit=9, max_rejected=1)) is None and rows_needed(Source(path="x")) is None
