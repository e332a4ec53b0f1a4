"""Benchmarks of a recipe: before and after each stage, in report.json and in what each stage added."""

from __future__ import annotations

import json

import pytest

from luthier.base.config import load_recipe
from luthier.base.errors import UserError
from luthier.base.files import read_json
from luthier.run.benchmark import Wanted, measure_models
from luthier.run.stages import run_recipe
from run.small import small_world

pytest.importorskip("lm_eval")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmarked")
    small_world(folder)
    rows = [
        {"question": f"Where is the {n} lamp?", "choices": ["shed", "hall", "yard"], "answer": n % 3} for n in range(12)
    ]
    (folder / "quiz.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


CHANGES = ['benchmarks={"tasks": ["quiz.jsonl"], "limit": null}']


def test_each_stage_is_measured_as_the_verb_measures_it_and_once(place, tmp_path):
    recipe = load_recipe(place / "recipe.yaml", [*CHANGES, f"out={json.dumps(str(tmp_path / 'runs'))}"])
    run = run_recipe(recipe, place / "recipe.yaml")
    report = read_json(run / "report.json")
    found = report["metrics"]["quiz"]
    assert set(found) >= {"pretrain", "sft"} and all(f["n"] == f["of"] == 12 for f in found.values())
    measured, _, _ = measure_models(
        [f"{run}:{name}" for name in ("pretrain", "sft")], Wanted((str(place / "quiz.jsonl"),)), tmp_path / "again"
    )
    for one, name in zip(measured, ("pretrain", "sft"), strict=True):
        assert one.figures["acc"].value == found[name]["value"]
    (ability,) = [a for a in report["attribution"]["abilities"] if a["probe"] == "quiz"]
    gain = next(point["gain"] for point in ability["points"] if point["model"] == "sft")
    assert gain["value"] == pytest.approx(found["sft"]["value"] - found["pretrain"]["value"])
    assert "quiz" in (run / "report.html").read_text()
    kept = sorted(path.stat().st_mtime_ns for path in (run / "measures").glob("benchmarks-*"))
    run_recipe(recipe, place / "recipe.yaml")
    assert sorted(path.stat().st_mtime_ns for path in (run / "measures").glob("benchmarks-*")) == kept


def test_what_is_asked_wrongly_is_told_before_anything_is_trained(place, tmp_path):
    out = f"out={json.dumps(str(tmp_path))}"
    with pytest.raises(UserError, match="nowhere is no stage that makes a language model"):
        load_recipe(place / "recipe.yaml", ['benchmarks={"tasks": ["quiz.jsonl"], "after": ["nowhere"]}', out])
    recipe = load_recipe(place / "recipe.yaml", ['benchmarks={"tasks": ["arc_easy"], "folder": "."}', out])
    with pytest.raises(UserError, match="looks like ARC easy"):
        run_recipe(recipe, place / "recipe.yaml")
    assert not list(tmp_path.glob("*/1-*"))
