"""Learning curves: nested parts, one road, killed and gone on with, failures told; the report's section."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.base.config import load_recipe
from luthier.base.errors import RunError, UserError
from luthier.base.files import read_json
from luthier.base.nouns import Text
from luthier.data.dataset import Dataset, part
from luthier.run import curve as curves
from luthier.run.ask_curve import run_curve
from luthier.run.curve import plan_curve
from luthier.run.stages import run_recipe
from run.small import small_world

PRETRAIN = "{kind: pretrain, data: corpus, steps: 6, batch_tokens: 512, evaluate_every_steps: 6}"
SFT = "{kind: sft, data: questions, epochs: 1, batch_tokens: 256, learning_rate: 1e-3, evaluate_every_steps: 50}"
ANSWERS = "{answers: {kind: answers, data: asked, max_new_tokens: 4}, loss: {kind: loss, data: questions}}"
SIZES = ["1/4..1"]


@pytest.fixture
def world(tmp_path):
    return small_world(tmp_path / "world")


def loaded(world, *changes):
    out = f'out="{world.parent.parent / "runs"}"'
    return load_recipe(world, [out, "samples=0", f"stages=[{PRETRAIN}, {SFT}]", f"evaluate={ANSWERS}", *changes])


def dataset(texts):
    rows = [Text(text, f"docs.jsonl:{i}") for i, text in enumerate(texts)]
    return Dataset("docs", "text", rows, [], [], 1, len(rows), "hash", 0, ())


@given(st.lists(st.text(max_size=8), max_size=60), st.lists(st.text(max_size=8), max_size=10))
def test_parts_lie_within_each_other_and_more_rows_move_none(texts, more):
    shares = (0.1, 0.25, 0.5, 1.0)
    parts = [[row.text for row in part(dataset(texts), share).train] for share in shares]
    assert parts[-1] == texts
    for small, large in pairwise(parts):
        assert [text for text in large if text in set(small)] == small
    for share, rows in zip(shares, parts, strict=True):
        assert [row.text for row in part(dataset([*texts, *more]), share).train][: len(rows)] == rows


def test_a_part_is_about_its_share_and_has_a_hash_of_its_own():
    data = dataset([f"row {i}" for i in range(4000)])
    sizes = [len(part(data, share).train) for share in (1 / 16, 1 / 4, 1 / 2)]
    assert all(
        abs(n - 4000 * s) < 4 * (4000 * s * (1 - s)) ** 0.5 for n, s in zip(sizes, (1 / 16, 1 / 4, 1 / 2), strict=True)
    )
    assert len({part(data, share).hash for share in (1 / 4, 1 / 2, 1)} | {data.hash}) == 4


def test_a_curve_from_nothing_to_its_files(world):
    """The whole data is the run's own stage, so that running the recipe afterwards trains nothing; the parts' models
    are gone; asking again trains and measures nothing."""
    recipe = loaded(world)
    begun = []
    watch = lambda event: begun.append(event["stage"]) if event["kind"] == "begin" else None  # noqa: E731
    asked = run_curve(recipe, world, SIZES, seeds=1, least_steps=10, watchers=(watch,))
    assert begun == ["pretrain", "sft", "sft-1of2-seed0", "sft-1of4-seed0"]
    found = read_json(asked.folder / "curve.json")
    assert found["metric"] == "answers" and set(found["curves"]) == {"answers", "loss"}
    sizes = {t["share"]: t["n"] for t in found["trainings"]}
    assert sizes["1/4"] < sizes["1/2"] < sizes["1"] == 113  # 120 rows, less those held out
    assert [p["n"] for p in found["curves"]["loss"]["points"]] == [sizes[s] for s in ("1/4", "1/2", "1")]
    assert [len(p["runs"]) for p in found["curves"]["answers"]["points"]] == [1, 1, 1]
    assert any("10 steps, so more epochs" in note for note in found["notes"])
    assert not list(asked.folder.rglob("*.safetensors"))
    ET.parse(asked.folder / "curve.svg")
    page = (asked.folder / "curve.html").read_text()
    assert found["curves"]["answers"]["said"][0] in page and "http://" not in page.replace(
        "http://www.w3.org/2000/svg", ""
    )

    begun.clear()
    again = run_curve(recipe, world, SIZES, seeds=1, least_steps=10, watchers=(watch,))
    run_recipe(recipe, world, (watch,))
    assert again.found == asked.found and begun == ["evaluate"]


def test_a_killed_curve_goes_on(world):
    """Stopped in its second part: what was finished is not run again, and the figures are those of one that was not
    stopped."""
    begun: list[str] = []

    def stop(event):
        if event["kind"] == "begin":
            begun.append(event["stage"])
        if event["kind"] == "step" and begun[-1] == "sft-1of4-seed0":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_curve(loaded(world), world, SIZES, seeds=1, watchers=(stop,))
    went_on = []
    watch = lambda event: went_on.append(event["stage"]) if event["kind"] == "begin" else None  # noqa: E731
    asked = run_curve(loaded(world), world, SIZES, seeds=1, watchers=(watch,))
    assert went_on == ["sft-1of4-seed0"]
    whole = run_curve(loaded(world, f'out="{world.parent.parent / "other"}"'), world, SIZES, seeds=1)
    timeless = [{k: v for k, v in t.items() if k != "seconds"} for t in asked.found["trainings"]]
    assert timeless == [{k: v for k, v in t.items() if k != "seconds"} for t in whole.found["trainings"]]
    assert asked.found["curves"] == whole.found["curves"]


def test_a_part_that_fails_loses_no_other(world, monkeypatch):
    """Told with its reason, left out of the fit, and tried again by the same command; fewer than three sizes are an
    error."""
    train = curves.train_language_model

    def broken(context, index, stage):
        if stage.name in failing:
            raise RunError("guard: the disk is full")
        train(context, index, stage)

    monkeypatch.setattr(curves, "train_language_model", broken)
    failing = {"sft-1of2-seed1"}
    asked = run_curve(loaded(world), world, SIZES, seeds=2)
    assert asked.found["failed"] == {"sft-1of2-seed1": "guard: the disk is full"}
    assert [len(p["runs"]) for p in asked.found["curves"]["answers"]["points"]] == [2, 1, 2]
    assert "the disk is full" in (asked.folder / "failed-sft-1of2-seed1.txt").read_text()
    assert "the disk is full" in (asked.folder / "curve.html").read_text()
    failing = set()
    assert run_curve(loaded(world), world, SIZES, seeds=2).found["failed"] == {}
    failing = {"sft-1of8-seed0", "sft-1of16-seed0"}
    with pytest.raises(RunError, match=r"fewer than three sizes came through[\s\S]*sft-1of16-seed0: guard"):
        run_curve(loaded(world), world, ["1/16", "1/8", "1"], seeds=1)


def test_a_probe_that_is_new_has_its_parts_trained_again(world):
    """Their models were removed: the parts are made anew, and give the same figures as before."""
    first = run_curve(loaded(world), world, SIZES, seeds=1)
    also = ANSWERS[:-1] + ", knows: {kind: choices, data: choices}}"
    second = run_curve(loaded(world, f"evaluate={also}"), world, SIZES, seeds=1)
    assert second.found["curves"]["loss"] == first.found["curves"]["loss"]
    assert set(second.found["curves"]) == {"answers", "loss", "knows"}


def test_a_fresh_models_pretraining_has_one_tokenizer(world):
    """Nats a token of models with different tokens could not be compared; here every part has that of all the data."""
    stage = "{kind: pretrain, data: corpus, epochs: 1, batch_tokens: 256, evaluate_every_steps: 50}"
    recipe = loaded(world, f"stages=[{stage}]", "evaluate={loss: {kind: loss, data: corpus}}")
    kept: dict[str, str] = {}

    def watch(event):
        for folder in Path(recipe.out).glob("small/**/model/tokenizer.json"):
            kept[folder.parents[1].name] = folder.read_text()

    asked = run_curve(recipe, world, SIZES, seeds=2, least_steps=10, watchers=(watch,))
    assert len(kept) >= 5 and len(set(kept.values())) == 1
    (curve,) = asked.found["curves"].values()
    assert asked.found["start"] == "random weights" and not curve["share"]
    assert curve["points"][0]["value"] > curve["points"][-1]["value"]
    assert len({run for point in curve["points"] for run in point["runs"]}) == 6  # other weights, other losses


def test_a_recipes_curve_stands_in_its_report(world):
    recipe = loaded(world, "learning_curve={sizes: [1/4, 1/2, 1], more: 50}")
    folder = run_recipe(recipe, world)
    curve = read_json(folder / "report.json")["learning_curve"]
    assert [t["share"] for t in curve["trainings"]] == ["1", "1/2", "1/4"] and curve["curves"]["answers"]["more"] == 50
    page = (folder / "report.html").read_text()
    section = page[page.index('<section id="more-data">') :]
    assert "What more data would buy" in section and curve["curves"]["answers"]["said"][0] in section
    assert re.search(r'<a href="#more-data">', page)


def test_a_curve_that_fails_costs_the_run_nothing(world, monkeypatch):
    def broken(*_):
        raise RunError("no disk")

    monkeypatch.setattr(curves, "train_part", broken)
    folder = run_recipe(loaded(world, "learning_curve={sizes: [1/4, 1/2, 1]}"), world)
    assert "fewer than three sizes" in read_json(folder / "report.json")["learning_curve"]["error"]
    assert "did not come through" in (folder / "report.html").read_text()


def test_what_is_asked_wrongly_is_told_at_once(world):
    with pytest.raises(UserError) as told:
        plan_curve(loaded(world), ["1/2", "x"], 1, stage="sfd", metric="answer")
    assert told.value.problems == [
        '--sizes: "x" is no part of the data. Write 1/8, 0.25 or 1/16..1.',
        "--stage sfd: is no pretrain or sft stage. Did you mean sft? There are: pretrain, sft.",
        "--metric answer: no such probe under evaluate. Did you mean answers? Fit: answers, loss.",
    ]
    with pytest.raises(UserError, match="is streamed, and parts of it are taken here"):
        plan_curve(loaded(world, "data.questions.stream=true"), SIZES, 1)
    few = loaded(world, "data.questions.limit=12")
    with pytest.raises(RunError, match="holds no row"):
        run_curve(few, world, ["1/1000", "1/500", "1/200"], seeds=1)


def test_probes_of_a_recipe_that_has_none_and_steps_that_are_given(world):
    """Without probes the held-out loss is measured. With `steps` a part takes its share of them, and at least 10."""
    sft = SFT.replace("epochs: 1", "steps: 80")
    recipe = loaded(world, "evaluate={}", f"stages=[{PRETRAIN}, {sft}]")
    plan = plan_curve(recipe, SIZES, 1, least_steps=10)
    assert list(plan.probes) == ["loss"] and plan.probes["loss"].data == "questions"
    steps = [curves.part_steps(plan, share, 30, None)["steps"] for share in (1 / 16, 1 / 4, 1 / 2)]
    assert steps == [10, 20, 40]
