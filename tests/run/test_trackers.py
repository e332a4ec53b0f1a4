"""Trackers get what a run tells, once; one that fails stops nothing. Each is read back from its own files."""

from __future__ import annotations

import json
import sqlite3

import pytest

from luthier.base.config import load_recipe
from luthier.base.errors import UserError
from luthier.base.events import read_events
from luthier.base.files import read_json
from luthier.run import trackers as t
from luthier.run.stages import run_recipe
from run.small import run_small, small_world, stage_folders

LESS = ("stages=[{kind: pretrain, data: corpus, steps: 4, batch_tokens: 512}]", "samples=0")
PROBE = "evaluate={forgetting: {kind: loss, data: corpus}}"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run of a few steps, tracked with TensorBoard."""
    place = tmp_path_factory.mktemp("tracked")
    recipe = small_world(place / "world")
    return recipe, place / "runs", run_small(recipe, place / "runs", *LESS, PROBE, "track=[tensorboard]")


def told(run, kind="step"):
    """(step, loss) of a run's own story."""
    events = read_events(stage_folders(run)["pretrain"] / "events.jsonl")
    return [(e["step"], e["loss"]) for e in events if e["kind"] == kind]


def scalars(run):
    """{tag: [(step, value)]} of all event files under a run: records are length, checksum, protobuf, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(run.rglob("events.out.tfevents*")):
        data, at = file.read_bytes(), 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += size + 16
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_tensorboard_reads_what_the_run_told(made):
    pytest.importorskip("tensorboardX")
    _, _, run = made
    found = scalars(run)
    assert [step for step, _ in found["pretrain/loss"]] == [1, 2, 3, 4]
    assert [v for _, v in found["pretrain/loss"]] == pytest.approx([loss for _, loss in told(run)], rel=1e-6)
    metric = read_json(run / "report.json")["metrics"]["forgetting"]["pretrain"]
    assert found["final/forgetting.pretrain"][0][1] == pytest.approx(metric["value"], rel=1e-6)
    assert found["final/forgetting.pretrain.high"][0][1] == pytest.approx(metric["high"], rel=1e-6)
    assert found["pretrain/peak_bytes"][0][0] == 4


def test_the_same_command_again_gives_no_step_twice(made):
    pytest.importorskip("tensorboardX")
    recipe, out, run = made
    before = scalars(run)["pretrain/loss"]
    run_small(recipe, out, *LESS, PROBE, "track=[tensorboard]")
    assert scalars(run)["pretrain/loss"] == before


def test_a_run_that_was_stopped_goes_on_without_a_step_twice_or_missing(made, tmp_path):
    """Stopped in step 3 of 4, with a checkpoint after 2: step 3 is lived twice and given once."""
    pytest.importorskip("tensorboardX")
    recipe = made[0]
    loaded = load_recipe(
        recipe, [f"out={json.dumps(str(tmp_path))}", *LESS, PROBE, "track=[tensorboard]",
                 "stages.pretrain.checkpoint_every_steps=2"]
    )  # fmt: skip

    def stop(event):
        if event["kind"] == "step" and event["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_recipe(loaded, recipe, (stop,))
    run = run_recipe(loaded, recipe)
    assert any(e["kind"] == "resume" for e in read_events(stage_folders(run)["pretrain"] / "events.jsonl"))
    assert [step for step, _ in scalars(run)["pretrain/loss"]] == [1, 2, 3, 4]


def test_a_finished_run_is_replayed_once(made, tmp_path):
    pytest.importorskip("tensorboardX")
    run = run_small(made[0], tmp_path, *LESS, PROBE)
    assert not list(run.rglob("*tfevents*"))
    first, again = t.replay(run, ["tensorboard"]), t.replay(run, ["tensorboard"])
    given = int(first[0].split()[1])
    assert first == [f"tensorboard: {given} steps given, 0 it had"] and given > 4
    assert again == [f"tensorboard: 0 steps given, {given} it had"]
    assert scalars(run)["pretrain/loss"] == scalars(made[2])["pretrain/loss"]


def test_wandb_offline_holds_the_metrics(made, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = run_small(made[0], tmp_path, *LESS, PROBE)
    assert t.replay(run, ["wandb"])[1:] == []
    (file,) = run.glob("trackers/wandb/offline-run-*/run-*.wandb")
    rows, config = wandb_records(file)
    losses = [float(row["pretrain/loss"]) for row in rows if "pretrain/loss" in row]
    assert losses == pytest.approx([loss for _, loss in told(run)], rel=1e-9)
    assert [row["pretrain/step"] for row in rows if "pretrain/loss" in row] == [1, 2, 3, 4]
    assert config["name"] == "small"


def wandb_records(file):
    """(history rows, config) of a .wandb file: a LevelDB log of protobuf records."""
    from wandb.proto import wandb_internal_pb2

    data, at, rows, config, part = file.read_bytes(), 7, [], {}, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # the rest of a block is padding
            at += 32768 - at % 32768
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        part += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind not in (1, 4):  # a record goes on in the next block
            continue
        record, part = wandb_internal_pb2.Record.FromString(part), b""
        if record.HasField("history"):
            rows.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item})
        if record.HasField("run"):
            config |= {i.key: json.loads(i.value_json) for i in record.run.config.update}
    return rows, config


def test_trackio_holds_the_metrics(made, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio", reason='needs the extra: pip install "luthier[trackio]"')
    run = run_small(made[0], tmp_path, *LESS, PROBE)
    assert t.replay(run, ["trackio"])[1:] == []
    (file,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(file) as db:
        rows = [json.loads(row) for (row,) in db.execute("select metrics from metrics order by id")]
    losses = [row["pretrain/loss"] for row in rows if "pretrain/loss" in row]
    assert losses == pytest.approx([loss for _, loss in told(run)], rel=1e-9)


def test_mlflow_holds_the_metrics(made, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason='needs the extra: pip install "luthier[mlflow]"')
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = run_small(made[0], tmp_path, *LESS, PROBE)
    assert t.replay(run, ["mlflow"])[1:] == []
    assert t.replay(run, ["mlflow"])[0].startswith("mlflow: 0 steps given")
    client = mlflow.MlflowClient(f"sqlite:///{run.parent / 'mlflow.db'}")
    (one,) = client.search_runs([client.get_experiment_by_name("luthier").experiment_id])
    history = client.get_metric_history(one.info.run_id, "pretrain/loss")
    assert [(m.step, m.value) for m in history] == told(run)
    assert one.data.params["stages.0.steps"] == "4"


def test_a_tracker_that_fails_is_told_and_stops_nothing(made, tmp_path, monkeypatch):
    """Its folder cannot be made: a file stands there. Told once on the way, with the count at the end."""
    pytest.importorskip("tensorboardX")
    seen = []
    loaded = load_recipe(made[0], [f"out={json.dumps(str(tmp_path))}", *LESS, PROBE, "track=[tensorboard]"])
    (tmp_path / "small" / "trackers").mkdir(parents=True)
    (tmp_path / "small" / "trackers" / "tensorboard").write_text("in the way")
    run = run_recipe(loaded, made[0], (seen.append,))
    notes = [e["text"] for e in seen if e["kind"] == "note" and e["text"].startswith("track:")]
    assert len(notes) == 2 and notes[0].endswith("the run goes on") and "steps are missing there" in notes[1]
    kept = [e["text"] for e in read_events(run / "events.jsonl") if e["kind"] == "note"]
    assert notes[1] in kept
    assert (run / "report.json").exists()


def test_a_tracker_whose_marks_cannot_be_written_is_told_and_stops_nothing(tmp_path):
    """As on a full disk: no thread dies with a traceback, and the end is not waited for."""
    (tmp_path / "trackers").write_text("in the way")
    told: list[str] = []
    sink = t.Sink("tensorboard", t.RunInfo("r", tmp_path, "0", {}), told.append)
    sink.entries.put(t.Entry("1-a", "a", 1, {"loss": 1.0}))
    assert "track: tensorboard failed" in sink.close({}) and len(told) == 1 and "the run goes on" in told[0]


def test_a_missing_library_is_told_before_the_run(made, tmp_path, monkeypatch):
    monkeypatch.setitem(t.NEEDS, "mlflow", "no_such_library")
    with pytest.raises(UserError) as told:
        run_small(made[0], tmp_path, *LESS, PROBE, "track=[mlflow]")
    assert told.value.problems == [
        'track: mlflow: needs no_such_library, which is not installed. pip install "luthier[mlflow]"'
    ]
    assert not list(tmp_path.rglob("stage.json"))
