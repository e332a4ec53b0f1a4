"""Methods compared: one recipe is made of one stage, every method has the same budget, and none loses the others."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from luthier.base.config import load_recipe
from luthier.base.crosscheck import crosscheck
from luthier.base.errors import UserError
from luthier.base.files import read_json
from luthier.run.against import compare, methods
from luthier.run.against.compare import chosen, compare_methods, rates_of
from luthier.run.against.methods import METHODS, plan_methods
from run.small import small_world

SFT = "{kind: sft, data: questions, steps: 3, batch_tokens: 512, learning_rate: 1e-3, optimizer: muon}"
PRETRAIN = "{kind: pretrain, data: corpus, steps: 3, batch_tokens: 512}"
KEEP = ("samples=0", f"stages=[{PRETRAIN}, {SFT}]")


@pytest.fixture
def world(tmp_path):
    return small_world(tmp_path / "world")


def loaded(world, *changes):
    return load_recipe(world, [f'out="{world.parent.parent}"', *KEEP, "evaluate={}", *changes])


def test_one_stage_becomes_one_a_method(world):
    """The same start, the same batches, its own rate: 10 times the full one of 1e-3 for LoRA, never above its most."""
    plan = plan_methods(loaded(world), world.parent)
    assert [stage.name for stage in plan.recipe.stages[1:]] == list(METHODS) == plan.methods
    assert {(stage.init, stage.seed, stage.steps) for stage in plan.recipe.stages[1:]} == {("pretrain", 0, 3)}
    assert (plan.rates["full"], plan.rates["lora"], plan.rates["rslora"]) == (1e-3, 1e-2, 5e-3)
    assert plan.rates["houlsby"] == 5e-3 and plan.rates["prompt"] == 3e-2
    by_name = {stage.name: stage for stage in plan.recipe.stages}
    assert by_name["full"].optimizer == "muon" and by_name["lora"].optimizer == "adamw"
    assert "lora: adamw instead of muon, which is for a model's own matrices" in plan.notes
    assert by_name["dora"].adapter.dora and by_name["nf4"].quantize.kind == "nf4"
    assert by_name["frozen"].freeze.first == 1 and by_name["frozen"].freeze.embeddings
    assert crosscheck(plan.recipe) == []


def test_probes_for_quality_and_forgetting_are_added(world):
    plan = plan_methods(loaded(world), world.parent, ["full"])
    quality, forgetting = (plan.recipe.evaluate[name] for name in ("loss", "forgetting"))
    assert (quality.data, quality.after) == ("questions", ["pretrain", "full"])
    assert (forgetting.data, forgetting.since) == ("corpus", "pretrain")


def test_the_recipes_own_probes_and_adapter_stay(world):
    """LoRA of rank 4 at 2e-3 in the recipe: full training's rate is a tenth; its kin have rank 4 too."""
    plan = plan_methods(
        loaded(
            world,
            "stages.sft.optimizer=adamw",
            "stages.sft.adapter={rank: 4, alpha: 8}",
            "stages.sft.learning_rate=2e-3",
            "evaluate={knows: {kind: choices, data: choices}, old: {kind: loss, data: corpus, after: [sft]}}",
        ),
        world.parent,
        ["full", "lora", "dora", "ia3"],
    )
    assert plan.rates["full"] == 2e-4 and plan.rates["lora"] == 2e-3
    assert [stage.adapter.rank for stage in plan.recipe.stages[2:4]] == [4, 4]
    assert (plan.quality, plan.forgetting) == (["knows"], ["old"])


def test_an_outside_base_is_everyones_start(world):
    outside = loaded(world, "base=model", f"stages=[{SFT}]")
    plan = plan_methods(outside, world.parent, ["full", "lora", "frozen"])
    assert [stage.init for stage in plan.recipe.stages] == ["base", "base"]
    assert plan.left_out["frozen"].startswith("freeze: the number of blocks is not known")
    assert crosscheck(plan.recipe) == []


def test_what_cannot_be_asked_is_told_at_once(world):
    recipe = loaded(world)
    with pytest.raises(UserError) as told:
        plan_methods(recipe, world.parent, ["full", "lorra"], {"prompt": 1e-3, "full": 0.0})
    assert told.value.problems == [
        f"lorra: no such method. Did you mean lora? There are: {', '.join(METHODS)}.",
        "--rate full=0: must be above 0.",
        "--rate prompt: it is not among the methods compared.",
    ]
    with pytest.raises(UserError, match="nothing to compare"):
        plan_methods(loaded(world, f"stages=[{PRETRAIN}]"), world.parent)
    with pytest.raises(UserError, match="write method=rate"):
        rates_of(["lora"])
    assert rates_of(["lora=1e-3"]) == {"lora": 1e-3} and chosen("full, lora") == ("full", "lora")


def test_a_method_without_its_library_is_left_out(world, monkeypatch):
    def absent():
        raise UserError("quantize: needs bitsandbytes")

    monkeypatch.setattr(methods, "require_bitsandbytes", absent)
    plan = plan_methods(loaded(world), world.parent, ["full", "nf4"])
    assert plan.methods == ["full"] and plan.left_out == {"nf4": "quantize: needs bitsandbytes"}


def test_a_comparison_goes_on_and_none_loses_the_others(world):
    """Stopped in the second method; a prompt longer than the context is refused; then the table has the rest, and the
    first method was not run again. Budgets are equal, and what has to be kept of an adapter is its folder."""
    recipe, asked = loaded(world), ["full", "lora", "prompt"]
    begun = []

    def stop(event):
        if event["kind"] == "begin":
            begun.append(event["stage"])
        if event["kind"] == "step" and begun[-1] == "lora":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare_methods(recipe, world, asked, watchers=(stop,))
    assert begun == ["pretrain", "full", "lora"]
    begun.clear()

    def watch(event):
        begun.extend([event["stage"]] if event["kind"] == "begin" else [])

    made = compare_methods(recipe, world, asked, watchers=(watch,))
    assert begun == ["lora", "prompt", "evaluate"]
    assert [row.method for row in made.rows] == asked and not made.failed
    assert {(row.steps, row.tokens) for row in made.rows} == {(3, made.rows[0].tokens)}
    full, lora, prompt = made.rows
    assert prompt.trainable_parameters == 20 * 32  # 20 virtual tokens of width 32
    adapter = made.folder / read_json(made.folder / "report.json")["stages"][2]["folder"] / "adapter"
    assert lora.disk_bytes == sum(file.stat().st_size for file in adapter.rglob("*")) < full.disk_bytes
    assert made.before.keys() == {"loss"} and full.figures.keys() == {"loss", "forgetting"}
    assert full.figures["loss"]["low"] < full.figures["loss"]["value"] < full.figures["loss"]["high"]
    table = (made.folder / "methods.md").read_text()
    assert [row for row in re.findall(r"^\| (\w+) \|", table, re.M)] == ["method", "before", *asked]
    assert "the same batches" in table
    shown = "".join(ET.parse(made.folder / "methods.svg").getroot().itertext())
    assert all(name in shown for name in (*asked, "forgetting", "peak memory", "on disk"))

    begun.clear()
    huge = plan_methods(recipe, world.parent, asked)
    stages = [s.model_copy(update={"adapter": s.adapter.model_copy(update={"tokens": 96})}) if s.name == "prompt" else s
              for s in huge.recipe.stages]  # fmt: skip
    huge = replace(huge, recipe=huge.recipe.model_copy(update={"stages": stages}))
    plan, failed, _ = compare.run_plan(huge, world, (watch,))
    assert plan.methods == ["full", "lora"] and not failed
    assert plan.left_out["prompt"].startswith("adapter.tokens: 96 virtual tokens fill the model's context of 96")
    assert begun == ["prompt", "evaluate"]  # what was finished stands where it stood


def test_a_method_whose_stage_fails_is_told_and_the_others_stand(world):
    """LoRA's rate is beyond all numbers: its loss is not finite. Full training, after it, is not lost."""
    made = compare_methods(loaded(world, "stages.sft.optimizer=adamw"), world, ["lora", "full"], {"lora": 1e30})
    assert [row.method for row in made.rows] == ["full"]
    assert list(made.failed) == ["lora"] and not made.left_out
    assert "lora failed: " in (made.folder / "methods.md").read_text()
    assert (made.folder / "failed-lora.txt").read_text().startswith("Traceback")
