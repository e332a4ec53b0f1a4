"""A whole road in two processes is that of one: figures, files, exit codes; killed and gone on with in one process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.torch import load_file

from luthier.base.events import read_events
from luthier.base.files import read_json
from run.small import run_small, seen, small_world, stage_folders
from train.several import finished, said, start

CHANGES = ("stages.pretrain.optimizer=adamw", "stages.reward.adapter.dropout=0")
"""Muon rounds to bfloat16 on the way, and a last bit would grow into other samples; dropout is drawn for a microbatch,
and two processes cut a step into others than one."""


def one_rank(recipe, out, *changes: str) -> None:
    """What each of the processes that a launcher starts does."""
    from luthier.base.config import load_recipe
    from luthier.run.stages import run_recipe
    from luthier.train.ranks import joined

    with joined():
        run_recipe(load_recipe(recipe, [f"out={json.dumps(str(out))}", *CHANGES, *changes]), recipe)


@pytest.fixture(scope="module")
def roads(tmp_path_factory):
    """(the recipe, the run of one process, the run of two)."""
    folder = tmp_path_factory.mktemp("roads")
    recipe = small_world(folder / "world")
    ranks = start(2, folder / "two", one_rank, recipe, folder / "two")
    run_small(recipe, folder / "one", *CHANGES)
    assert finished(ranks) == [0, 0], said(folder / "two")
    return recipe, folder / "one" / "small", folder / "two" / "small"


def figures(metrics, path=""):
    """(name, value) of every number in nested metrics."""
    for name, inner in metrics.items():
        if isinstance(inner, dict):
            yield from figures(inner, f"{path}.{name}")
        elif isinstance(inner, int | float):
            yield f"{path}.{name}", inner


def same_figures(one, two) -> None:
    a, b = (dict(figures(read_json(run / "report.json")["metrics"])) for run in (one, two))
    assert a.keys() == b.keys() and len(a) > 30
    apart = {name: (a[name], b[name]) for name in a if abs(a[name] - b[name]) > 1e-4}
    assert not apart


def test_the_report_of_two_processes_is_that_of_one(roads):
    _, one, two = roads
    same_figures(one, two)


def test_every_stage_has_the_same_folder_curve_and_weights(roads):
    _, one, two = roads
    ours, theirs = stage_folders(one), stage_folders(two)
    assert {name: f.name for name, f in ours.items()} == {name: f.name for name, f in theirs.items()}
    for name, folder in ours.items():
        told = [list(read_events(f / "events.jsonl")) for f in (folder, theirs[name])]
        kinds = [[e["kind"] for e in events] for events in told]
        assert kinds[0] == kinds[1], name  # nothing is told twice, and nothing is left out
        losses = [[e["loss"] for e in events if e["kind"] == "step" and "loss" in e] for events in told]
        np.testing.assert_allclose(losses[0], losses[1], atol=1e-5)
        for path in folder.rglob("*.safetensors"):
            a, b = load_file(path), load_file(theirs[name] / path.relative_to(folder))
            assert a.keys() == b.keys()
            # AdamW divides a small gradient by its own size: where that is rounding, so is the update.
            assert max(float((a[key] - b[key]).abs().max()) for key in a) <= 1e-3, path
            assert max(float((a[key] - b[key]).abs().mean()) for key in a) <= 1e-5, path
    pairs = [(f["prefer"] / "pairs.jsonl").read_text() for f in (ours, theirs)]
    assert pairs[0] == pairs[1]


def test_only_one_process_writes(roads):
    """The same files, no temporary ones, and no checkpoint."""
    _, one, two = roads
    names = [{str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()} for run in (one, two)]
    numbered = [{re.sub(r"-[0-9a-f]{8}\.json", ".json", name) for name in found} for found in names]
    assert numbered[0] == numbered[1]
    assert not [name for name in names[1] if ".tmp" in name or "checkpoints" in name]


def test_one_process_takes_a_run_of_two_as_finished(roads):
    """The number of processes is no part of a stage's hash."""
    recipe, _, two = roads
    before = {p: p.stat().st_mtime_ns for p in two.rglob("*.safetensors")}
    run_small(recipe, two.parent, *CHANGES)
    assert {p: p.stat().st_mtime_ns for p in two.rglob("*.safetensors")} == before


@pytest.mark.parametrize("stage, step", [("sft", 5), ("ppo", 9)])
def test_killed_in_two_processes_and_gone_on_with_in_one(stage, step, roads, tmp_path):
    recipe, one, _ = roads
    ranks = start(2, tmp_path, one_rank, recipe, tmp_path)
    while not seen(tmp_path / "small", stage, "step", step) and all(rank.is_alive() for rank in ranks):
        time.sleep(0.005)
    os.kill(ranks[1].pid, signal.SIGKILL)
    codes = finished(ranks)
    assert codes == [1, -signal.SIGKILL], said(tmp_path)
    last_words = said(tmp_path)[0].strip().splitlines()[-1]
    assert "ended without a word" in last_words and "goes on from the last checkpoint" in last_words
    run_small(recipe, tmp_path, *CHANGES)
    resumed = [e["step"] for e in read_events(stage_folders(tmp_path / "small")[stage] / "events.jsonl")
               if e["kind"] == "resume"]  # fmt: skip
    assert resumed and resumed[0] >= step - 5
    same_figures(one, tmp_path / "small")


def test_more_ranks_than_rows_is_one_clear_line(roads, tmp_path):
    recipe, *_ = roads
    ranks = start(2, tmp_path, one_rank, recipe, tmp_path, "stages.pretrain.batch_tokens=16")
    assert finished(ranks) == [1, 1]
    main_said, other_said = said(tmp_path)
    assert "2 ranks, but no step has more than 1 rows" in main_said and "batch_tokens" in main_said
    assert not other_said.strip()


def test_torchrun_itself(tmp_path):
    """The launch line that luthier prints, as a shell runs it: a run, and a recipe that is wrong."""
    recipe = small_world(tmp_path / "world")
    short = ["stages=[{kind: pretrain, data: corpus, steps: 2}]", "evaluate={}"]
    luthier = [sys.executable, "-m", "luthier", "run", str(recipe), *short]
    line = subprocess.run([*luthier, "--gpus", "2"], cwd=tmp_path, capture_output=True, text=True).stdout.strip()
    line = line.replace("torchrun ", f"{sys.executable} -m torch.distributed.run ", 1)
    there = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, env=there)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("loading libraries") == 1 and done.stdout.count("report.html") == 1
    assert (tmp_path / "runs" / "small" / "report.html").exists()
    wrong = subprocess.run(["bash", "-c", f"{line} sead=1"], cwd=tmp_path, capture_output=True, text=True, env=there)
    assert wrong.returncode == 1  # torchrun's, whatever the ranks' is
    assert wrong.stderr.count("Did you mean seed?") == 1
    assert re.search(r"exitcode\s*: 2", wrong.stderr)
