"""Every recipe in recipes/ is one that runs: it is loaded as it stands, and its stages take a few steps."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from luthier.base.config import load_recipe
from luthier.base.files import read_json
from luthier.base.recipe import Recipe
from luthier.base.settings import STAGES
from luthier.base.tuning import ADAPTERS

FOLDER = Path(__file__).parents[1] / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))
NAMES = [path.stem for path in RECIPES]


def few_steps(recipe: Recipe) -> list[str]:
    """Changes that make every stage as short as it can be without being another."""
    changes = ["samples=1", "answer_tokens=4"]
    for index, stage in enumerate(recipe.stages):
        fields, at = type(stage).model_fields, f"stages.{index}"
        if "steps" in fields:
            changes.append(f"{at}.steps=2")
        elif "iterations" in fields:
            changes.append(f"{at}.iterations=1")
        elif "epochs" in fields:
            changes.append(f"{at}.epochs=0.05")
        if stage.kind == "prefer" and stage.pairs is not None:
            continue  # they are read
        if "samples" in fields:
            changes.append(f"{at}.samples={min(4, stage.samples)}")
        if "max_new_tokens" in fields:
            # A model of two steps hardly ever ends: a rater finds a difference between answers only in longer ones.
            changes.append(f"{at}.max_new_tokens={24 if stage.kind == 'prefer' else 6}")
        changes += [f"{at}.{least}=null" for least in ("min_accuracy", "min_score") if least in fields]
    changes += [
        f"evaluate.{name}.limit=4" for name, probe in recipe.evaluate.items() if "limit" in type(probe).model_fields
    ]
    return changes


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_a_recipe_loads_and_says_how_it_is_run_and_what_it_costs(path):
    recipe = load_recipe(path)
    head = path.read_text().split("\nname:")[0]
    assert f"luthier run recipes/{path.name}" in head or f"luthier compare methods recipes/{path.name}" in head
    assert re.search(r"(\d+ *(s|seconds|minutes?)|a minute)\b", head), "the header says what it costs"
    assert recipe.name


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_a_recipe_runs_for_a_few_steps(path, tmp_path, request):
    if "../../shared" in path.read_text():
        request.getfixturevalue("shared_data")
    recipe = load_recipe(path)
    changes = [*few_steps(recipe), f"out={json.dumps(str(tmp_path))}", "threads=1"]
    from luthier.run.stages import run_recipe

    folder = run_recipe(load_recipe(path, changes), path)
    report = read_json(folder / "report.json")
    assert [stage["kind"] for stage in report["stages"]] == [stage.kind for stage in recipe.stages]
    assert all(guard["ok"] for stage in report["stages"] for guard in stage["guards"])


def test_every_method_has_a_recipe():
    recipes = [load_recipe(path) for path in RECIPES]
    stages = [stage for recipe in recipes for stage in recipe.stages]
    assert {stage.kind for stage in stages} == set(STAGES)
    told = [stage.model_dump() for stage in stages]
    assert {made["adapter"]["kind"] for made in told if made.get("adapter")} == set(ADAPTERS)
    assert {made["quantize"]["kind"] for made in told if made.get("quantize")} == {"nf4", "int8"}
    assert any(made.get("freeze") for made in told)
    adapters = [made["adapter"] for made in told if made.get("adapter") and made["adapter"]["kind"] == "lora"]
    assert any(lora["rslora"] for lora in adapters) and any(lora["dora"] for lora in adapters)
    assert {made["optimizer"] for made in told if "optimizer" in made} >= {
        "adamw",
        "adamw8bit",
        "adafactor",
        "lion",
        "muon",
    }
    assert any(made.get("objective") == "masked" for made in told)
    assert any(recipe.budget for recipe in recipes)
    assert any(source.stream for recipe in recipes for source in recipe.data.values())
