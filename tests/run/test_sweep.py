"""Methods swept over rates and shares of replay: one stage a point, one picture of what is gained and forgotten."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.base.config import load_recipe
from luthier.base.errors import UserError
from luthier.run.against.compare import compare_methods
from luthier.run.against.methods import plan_methods
from luthier.run.against.sweep import Sweep, Variant, best, sweep_of, variant_of
from run.small import small_world

SFT = "{kind: sft, data: questions, steps: 3, batch_tokens: 512, learning_rate: 1e-3}"
PRETRAIN = "{kind: pretrain, data: corpus, steps: 3, batch_tokens: 512}"


@pytest.fixture
def world(tmp_path):
    return small_world(tmp_path / "world")


def loaded(world, *changes):
    first = (f'out="{world.parent.parent}"', "samples=0", f"stages=[{PRETRAIN}, {SFT}]", "evaluate={}")
    return load_recipe(world, [*first, *changes])


@given(
    st.sampled_from(["lora", "full", "p_tuning"]),
    st.none() | st.floats(1e-7, 10).map(lambda x: float(f"{x:g}")),
    st.none() | st.floats(0, 0.99).map(lambda x: float(f"{x:g}")),
)
def test_a_point_is_told_by_its_stages_name(method, rate, share):
    point = Variant(method, rate, share)
    assert variant_of(point.name) == point


def test_every_method_rate_and_share_is_a_stage(world):
    plan = plan_methods(loaded(world), world.parent, ["full", "lora"], sweep=Sweep((1e-4, 1e-3), (0.0, 0.25)))
    assert plan.methods == [
        f"{m}.r{r}.s{s}" for m in ("full", "lora") for r in ("0.0001", "0.001") for s in ("0", "0.25")
    ]
    by_name = {stage.name: stage for stage in plan.recipe.stages}
    none, quarter = by_name["lora.r0.001.s0"], by_name["lora.r0.001.s0.25"]
    assert none.replay is None and (quarter.replay.data, quarter.replay.share) == ("corpus", 0.25)
    assert none.learning_rate == quarter.learning_rate == 1e-3 and by_name["full.r0.0001.s0"].adapter is None
    assert {stage.init for stage in plan.recipe.stages[1:]} == {"pretrain"}
    assert plan.recipe.name == "small-sweep"


def test_without_a_sweep_nothing_changes(world):
    plain, empty = (
        plan_methods(loaded(world), world.parent, ["full", "lora"], sweep=s) for s in (Sweep(), sweep_of(None, ""))
    )
    assert plain == empty and plain.methods == ["full", "lora"] and plain.recipe.name == "small-methods"


def test_what_cannot_be_swept_is_told(world):
    with pytest.raises(UserError) as told:
        sweep_of("1e-3,fast,-1", "0.5,1.5")
    assert told.value.problems == [
        "--rates: fast is no number. Write them with commas: 0.1,0.25.",
        "--rates: -1 is no learning rate. Give numbers above 0.",
        "--replay: 1.5 is no share of a step. Give 0 to below 1.",
    ]
    with pytest.raises(UserError, match="Give one of the two"):
        plan_methods(loaded(world), world.parent, ["lora"], {"lora": 1e-3}, sweep=Sweep((1e-3,)))
    outside = loaded(world, "base=model", f"stages=[{SFT}]")
    with pytest.raises(UserError, match="no earlier data to replay"):
        plan_methods(outside, world.parent, ["full"], sweep=Sweep((), (0.1,)))


def test_a_sweep_runs_and_draws_its_front(world):
    made = compare_methods(loaded(world), world, ["full"], sweep=Sweep((1e-4, 1e-2), (0.0, 0.5)))
    assert [row.rate for row in made.rows] == [1e-4, 1e-4, 1e-2, 1e-2]
    shown = (made.folder / "tradeoff.svg").read_text()
    root = ET.fromstring(shown)
    svg = "{http://www.w3.org/2000/svg}"
    filled = [c for c in root.iter(f"{svg}circle") if c.get("r") == "5" and "fill:var(--paper)" not in c.get("style")]
    words = {"".join(text.itertext()) for text in root.iter(f"{svg}text")}
    kept = best(made)
    assert len(filled) == len(kept) and {point.variant.words for point in kept} <= words
    for point in kept:  # no row forgets less and has a lower loss
        for row in made.rows:
            rise, loss = row.figures["forgetting"]["value"], row.figures["loss"]["value"]
            assert not (rise < point.forgot.value and loss < point.quality.value)
    table = (made.folder / "methods.md").read_text()
    assert "| full 0.01, 50 % replay |" in table and "tradeoff.svg" in table
    assert "no other forgets less and does better than: " in table
