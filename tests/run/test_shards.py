"""Streamed sources in whole runs: the same figures however the rows are cut, kept or interrupted; guards that see every
row; a check that is quick."""

from __future__ import annotations

import gzip
import json

import fsspec
import pytest
import yaml

from luthier.base.config import load_recipe
from luthier.base.errors import RunError, UserError
from luthier.base.events import read_events
from luthier.base.files import read_json
from luthier.data import chunks
from luthier.run.stages import check_recipe
from luthier.train.ranks import joined
from run.small import finish, kill_at, results, run_small, small_world, stage_folders, start_small
from train.several import finished, said, start

pytestmark = pytest.mark.xdist_group("small road")

RECIPE = """\
name: small
threads: 1
samples: 1
answer_tokens: 4
base:
  fresh: {layers: 1, width: 16, heads: 2, vocab: 300, context: 96}
data:
  corpus: {path: corpus.jsonl, format: text, stream: true}
  questions: {path: questions.jsonl, format: qa, stream: true, heldout: 0.1}
  choices: {path: choices.jsonl, format: choices, heldout: 0}
stages:
  - {kind: pretrain, data: corpus, steps: 8, batch_tokens: 512, checkpoint_every_steps: 2}
  - {kind: sft, data: questions, steps: 4, batch_tokens: 512, replay: {data: corpus, share: 0.3}}
evaluate:
  knowledge: {kind: choices, data: choices, limit: 4}
  forgetting: {kind: loss, data: corpus}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A recipe with streamed sources, and a run of it."""
    folder = tmp_path_factory.mktemp("streamed")
    small_world(folder)
    recipe = folder / "streamed.yaml"
    recipe.write_text(RECIPE)
    return recipe, run_small(recipe, folder / "whole")


def changed(recipe, name, **changes):
    """The recipe with other settings, as a file beside it."""
    loaded = yaml.safe_load(RECIPE)
    for at, value in changes.items():
        *path, last = at.split("__")
        inner = loaded
        for part in path:
            inner = inner[int(part) if part.isdigit() else part]
        inner[last] = value
    made = recipe.with_name(f"{name}.yaml")
    made.write_text(yaml.safe_dump(loaded))
    return made


def test_a_run_says_what_it_read(world):
    _, run = world
    data = {row["name"]: row for row in read_json(run / "report.json")["data"]}
    assert [data["corpus"][key] for key in ("rows", "rejected", "duplicates")] == [200, 0, 0]
    assert data["corpus"]["train"] + data["corpus"]["heldout"] == 200
    assert any("training rows stay on disk" in note for note in data["corpus"]["notes"])
    folders = stage_folders(run)
    rows = read_json(folders["sft"] / "stage.json")["rows"]
    assert rows["questions"]["sequences"] == data["questions"]["train"]
    told = [event for event in read_events(folders["pretrain"] / "events.jsonl") if event["kind"] == "progress"]
    assert told[-1]["rows"] == told[-1]["total"] == data["corpus"]["train"] and told[-1]["what"] == "tokenising"
    guards = {guard["name"]: guard["detail"] for guard in read_json(folders["sft"] / "stage.json")["guards"]}
    total = sum(row["sequences"] for row in rows.values())
    assert guards["supervised tokens"].endswith(f"in {total} rows")
    assert guards["answers end"] == f"all {rows['questions']['sequences']} rows end in a trained end token"
    assert guards["no leak"] == "no evaluation row in the training data"


def test_how_the_rows_are_cut_and_where_they_are_kept_changes_nothing(world, tmp_path, monkeypatch):
    recipe, run = world
    monkeypatch.setattr(chunks, "SMALLEST_BYTES", 2000)
    fsspec.filesystem("memory").store.clear()
    again = run_small(recipe, tmp_path / "out", "shards=memory://of-a-run/shards")
    assert results(again) == results(run)
    kept = fsspec.filesystem("memory").ls("/of-a-run/shards", detail=False)
    assert len(kept) == 5, "two sources were looked at, and one was tokenised for two stages"
    assert all(len(fsspec.filesystem("memory").ls(folder)) > 5 for folder in kept)
    fsspec.filesystem("memory").store.clear()


def test_another_run_finds_the_shards(world):
    """A change that tokens do not depend on uses them again."""
    recipe, run = world
    shards = run.parent / "shards"
    before = {path: path.stat().st_mtime_ns for path in shards.rglob("*.safetensors")}
    other = run_small(recipe, run.parent, "name=other", "stages.sft.learning_rate=2e-3")
    told = [e for folder in stage_folders(other).values() for e in read_events(folder / "events.jsonl")]
    assert not [event for event in told if event["kind"] == "progress"]
    assert {path: path.stat().st_mtime_ns for path in shards.rglob("*.safetensors")} == before


def test_killed_and_resumed_is_uninterrupted(world, tmp_path):
    recipe, run = world
    child, told = start_small(recipe, tmp_path / "out")
    assert kill_at(child, tmp_path / "out" / "small", "pretrain", "step", 5), told.read_text()
    finish(*start_small(recipe, tmp_path / "out"))
    again = tmp_path / "out" / "small"
    assert results(again) == results(run)
    assert [e["kind"] for e in read_events(stage_folders(again)["pretrain"] / "events.jsonl")].count("resume") == 1


def in_one_of_two(recipe, out):
    """What each of two processes does."""
    with joined():
        run_small(recipe, out)


def test_two_processes_make_the_shards_once(world, tmp_path):
    """The main one makes them, the other finds them, and both train on them."""
    recipe, run = world
    ranks = start(2, tmp_path / "said", in_one_of_two, recipe, tmp_path / "out")
    assert finished(ranks) == [0, 0], said(tmp_path / "said")
    made = [
        {path.relative_to(out): path.read_bytes() for path in out.rglob("*.safetensors")}
        for out in (run.parent / "shards", tmp_path / "out" / "shards")
    ]
    assert made[0] == made[1]
    both = [stage_folders(one)["sft"] for one in (run, tmp_path / "out" / "small")]
    losses = [[e["loss"] for e in read_events(folder / "events.jsonl") if e["kind"] == "step"] for folder in both]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4) and len(losses[0]) == 4


def test_a_check_looks_at_the_first_rows_only(world, tmp_path):
    """What is wrong behind them is not seen, and nothing is written; a run sees it."""
    recipe, _ = world
    rows = "".join(json.dumps({"text": f"Row {n} of many, as they come."}) + "\n" for n in range(2000))
    (recipe.parent / "torn.jsonl.gz").write_bytes(gzip.compress(rows.encode(), mtime=0)[:-200])
    torn = changed(recipe, "torn", data__corpus__path="torn.jsonl.gz")
    before = sorted(path.name for path in recipe.parent.iterdir())
    checks = check_recipe(load_recipe(torn), torn)
    assert all(guard["ok"] for check in checks for guard in check.guards)
    details = {guard["name"]: guard["detail"] for guard in checks[0].guards}
    assert int(details["supervised tokens"].rsplit(" ", 2)[1]) <= 200
    assert sorted(path.name for path in recipe.parent.iterdir()) == before
    with pytest.raises(UserError, match=r"torn.jsonl.gz: cannot unpack"):
        run_small(torn, tmp_path)


def test_every_row_is_guarded(world, tmp_path):
    recipe, _ = world
    lines = (recipe.parent / "choices.jsonl").read_text().splitlines()
    leak = json.loads(lines[3])
    questions = (recipe.parent / "questions.jsonl").read_text()
    answer = {"question": leak["query"], "answer": leak["choices"][leak["gold"]].upper()}
    (recipe.parent / "leaky.jsonl").write_text(questions + json.dumps(answer) + "\n")
    (recipe.parent / "long.jsonl").write_text(questions + json.dumps({"question": "Why?", "answer": "so " * 90}) + "\n")
    leaky = changed(recipe, "leaky", data__questions__path="leaky.jsonl", data__questions__heldout=0)
    with pytest.raises(RunError, match=r"no leak: 1 evaluation rows are also trained on \(choices.jsonl:4\)"):
        run_small(leaky, tmp_path)
    long = changed(recipe, "long", data__questions__path="long.jsonl", data__questions__heldout=0)
    with pytest.raises(UserError, match=r"long.jsonl:121: \d+ tokens, longer than max_length 96"):
        run_small(long, tmp_path)
    cut = changed(
        recipe, "cut", data__questions__path="long.jsonl", data__questions__heldout=0, stages__1__overlong="truncate"
    )
    run = run_small(cut, tmp_path)
    guards = read_json(stage_folders(run)["sft"] / "stage.json")["guards"]
    assert any("supervised tokens cut in 1 rows, as the recipe asks" in guard["detail"] for guard in guards)


def test_a_place_that_cannot_be_opened_is_told_at_once(world, tmp_path):
    recipe, _ = world
    with pytest.raises(UserError, match=r"shards: s3://bucket/x: .*pip install s3fs"):
        run_small(recipe, tmp_path, "shards=s3://bucket/x")
    with pytest.raises(UserError, match=r"shards: s3://bucket/x: .*pip install s3fs"):
        check_recipe(load_recipe(recipe, ["shards=s3://bucket/x"]), recipe)
