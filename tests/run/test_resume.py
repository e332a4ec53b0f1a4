"""Killed at any moment and run again = never killed: weights, pairs and metrics, bit for bit."""

from __future__ import annotations

import random

import pytest

from luthier.base.events import read_events
from luthier.base.files import read_json
from run.small import finish, kill_at, results, small_world, stage_folders, start_small

pytestmark = pytest.mark.xdist_group("small road")
STEPS = {"pretrain": 8, "sft": 14, "reward": 6, "ppo": 16}
"""Of the small recipe, which makes a checkpoint every second step (ppo: after every rollout of four)."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The recipe, and what comes of it when nobody interferes."""
    folder = tmp_path_factory.mktemp("resume")
    recipe = small_world(folder)
    finish(*start_small(recipe, folder / "whole"))
    run = folder / "whole" / "small"
    assert {s["name"]: s["steps"] for s in read_json(run / "report.json")["stages"] if "steps" in s} == STEPS
    return recipe, results(run)


def told_once(run):
    """Every step stands in the events once, in order, whatever happened on the way."""
    for stage, steps in STEPS.items():
        events = list(read_events(stage_folders(run)[stage] / "events.jsonl"))
        assert [e["step"] for e in events if e["kind"] == "step"] == list(range(1, steps + 1)), stage
        looks = [e["step"] for e in events if e["kind"] == "eval" and e["name"].startswith("heldout")]
        assert len(looks) == len(set(looks)), stage


def drawn(stage: str) -> tuple[str, str, int]:
    """A random step of a stage, another one in every run of the tests."""
    return stage, "step", random.randrange(1, STEPS[stage])


KILLS = {
    "inside pretrain": lambda: [drawn("pretrain")],
    "inside ppo": lambda: [drawn("ppo")],
    "between stages": lambda: [("sft", "end", 0)],
    "again and again": lambda: [
        drawn("pretrain"),
        drawn("sft"),
        ("prefer", "begin", 0),
        ("prefer", "end", 0),
        drawn("reward"),
        drawn("ppo"),
        drawn("ppo"),
    ],
}


@pytest.mark.parametrize("case", KILLS)
def test_killed_and_resumed_is_uninterrupted(case, world, tmp_path):
    recipe, whole = world
    out = tmp_path / "out"
    moments = KILLS[case]()
    killed = 0
    for stage, kind, step in moments:
        child, said = start_small(recipe, out)
        killed += kill_at(child, out / "small", stage, kind, step)
        assert child.exitcode in (0, -9), said.read_text()
    assert killed, f"the run was over before it could be killed at {moments}"
    finish(*start_small(recipe, out))
    assert results(out / "small") == whole, moments
    told_once(out / "small")


def test_a_resumed_stage_goes_on_from_its_checkpoint(world, tmp_path):
    recipe, _ = world
    out = tmp_path / "out"
    child, said = start_small(recipe, out)
    assert kill_at(child, out / "small", "sft", "step", 5), said.read_text()
    finish(*start_small(recipe, out))
    events = {name: list(read_events(f / "events.jsonl")) for name, f in stage_folders(out / "small").items()}
    assert [e["kind"] for e in events["pretrain"]].count("begin") == 1, "a finished stage was run again"
    resumes = [e["step"] for e in events["sft"] if e["kind"] == "resume"]
    assert len(resumes) == 1 and resumes[0] >= 4, resumes
