"""A time budget: planned from what was measured, kept by turning the plan, the same plan when resumed; and a whole
recipe that ends in time with its schedules passed to the end."""

from __future__ import annotations

import time
from dataclasses import asdict, replace

import pytest
import yaml

from luthier.base.config import load_recipe
from luthier.base.errors import RunError, UserError
from luthier.base.events import read_events
from luthier.base.files import read_json, write_json
from luthier.run.budget import requested_tokens
from luthier.run.context import open_context
from luthier.train.loop import fit
from luthier.train.pace import Allowed, Pace, Speed, Written
from run.small import run_small, small_world, stage_folders
from train.jobs import equal, job, lm_loss, small, told, weights


def allowing(seconds):
    return lambda evaluate_s, save_s: Allowed(seconds, {"evaluation": 5.0})


def test_the_plan_by_hand(tmp_path):
    # 100 s are left, 90 of them planned with. 10 looks of 1.5 + 0.5 s would take 20 s, at most a quarter: 22.5. The
    # other 70 s are 140 steps of 0.5 s; every 14th is looked at
    speed = Speed(0.5, 1000.0, 1.5, 0.5)
    plan = Pace(1000, file=tmp_path / "plan.json", allowed=allowing(100.0)).planned(speed, spent_s=7.0)
    assert (plan.asked_steps, plan.planned_steps, plan.evaluate_every) == (1000, 140, 14)
    assert plan.fit_s == 107.0 and plan.reserve_s == {"evaluation": 5.0}
    # looks of 20 s: one fits into the quarter, and (90 − 20) / 0.5 steps are left
    assert (
        Pace(1000, file=tmp_path / "p", allowed=allowing(100.0))
        .planned(speed._replace(evaluate_s=19.5), 0.0)
        .planned_steps
        == 140
    )
    # asked for every 4th step: 90 / (0.5 + 2 / 4) = 90
    assert Pace(1000, 1, 4, tmp_path / "p", allowing(100.0)).planned(speed, 0.0).planned_steps == 90
    # what is asked for fits; rollouts of 8 steps are never cut; no time at all is still one step
    assert Pace(50, file=tmp_path / "p", allowed=allowing(100.0)).planned(speed, 0.0).planned_steps == 50
    assert Pace(1000, 8, None, tmp_path / "p", allowing(100.0)).planned(speed, 0.0).planned_steps == 136
    assert Pace(1000, file=tmp_path / "p", allowed=allowing(-3.0)).planned(speed, 0.0).planned_steps == 1


def paced(tmp_path, **changes):
    """A pace that goes by a plan of 100 steps of 1 s in 110 s, each tenth looked at for 0.5 s."""
    plan = Written(500, 100, 10, 110.0, 1.0, 1000.0, 0.3, 0.2, {}, [])
    write_json(tmp_path / "plan.json", asdict(replace(plan, **changes)))
    return Pace(500, file=tmp_path / "plan.json", allowed=allowing(1e9))


def test_a_machine_as_fast_as_planned_turns_nothing(tmp_path):
    pace = paced(tmp_path)
    assert pace.steps == 100
    assert [pace.passed(n, 1.0, 1.05 * n, None) for n in range(1, 101)] == [None] * 100


def test_a_slower_machine_turns_the_plan_by_hand(tmp_path):
    pace = paced(tmp_path)
    for n in range(1, 33):  # as planned
        assert pace.passed(n, 1.0, 1.05 * n, None) is None
    turned = None
    spent = 1.05 * 32
    for n in range(33, 100):  # from here on twice as slow; the mean of the last 32 steps notices by and by
        spent += 2.05
        turned = pace.passed(n, 2.0, spent, None)
        if turned is not None:
            break
    # after k slow steps a step is 1 + k/32 s, and 0.05 for looks; 110 s are not enough when
    # (68 − k) · (1.05 + k / 32) + 0.5 > 110 − 33.6 − 2.05 k: first so at k = 7
    k = n - 32
    short = [j for j in range(1, 20) if (68 - j) * (1.05 + j / 32) + 0.5 > 110 - 33.6 - 2.05 * j]
    assert k == short[0]
    left = 110 - spent
    more = int((left * 0.9 - 0.5) / (1.05 + k / 32))
    assert turned.turns == [[n, n + more]] and n + more < 100
    pace.write(turned)
    assert pace.steps == n + more and pace.plan.place(pace.steps - 1) == 99
    assert read_json(tmp_path / "plan.json")["turns"] == turned.turns


def test_a_machine_that_recovers_gets_steps_back(tmp_path):
    pace = paced(tmp_path, turns=[[20, 60]])  # cut by 40 steps at the 20th
    assert pace.steps == 60 and pace.plan.place(59) == 99
    turns = [pace.passed(n, 1.0, 1.05 * n, None) for n in range(20, 30)]
    # with 10 steps seen at the planned speed: (110 − 30.45) · 0.9 − 0.5 s make 67 steps of 1.05 s, more than 1.25 · 31
    assert turns[:9] == [None] * 9
    assert turns[9].turns == [[20, 60], [29, 29 + 67]]
    pace.write(turns[9])
    places = [pace.plan.place(step) for step in range(96)]
    assert places == sorted(places) and places[-1] == 99


def test_a_resumed_stage_has_the_same_plan_and_never_more_time(tmp_path):
    pace = paced(tmp_path, turns=[[40, 80]])
    assert pace.steps == 80 and not pace.to_be_planned and pace.evaluate_every == 10
    assert pace.resumed(30.0).fit_s == 110.0  # 30 + 1e9 are there
    pace.allowed = allowing(50.0)
    assert pace.resumed(30.0).fit_s == 80.0
    assert Pace(500, file=tmp_path / "other.json", allowed=allowing(1.0)).to_be_planned


def budgeted(folder, lm, seconds=1e6, steps=12, **settings):
    made = job(folder, lm, steps=steps, **settings)
    every = settings.get("evaluate_every_steps")
    pace = Pace(steps, 1, every, folder / "plan.json", allowing(seconds))
    object.__setattr__(made, "pace", pace)
    return made


@pytest.mark.parametrize("settings", [{}, {"ema": 0.8, "optimizer": "muon", "neftune": 1.0}], ids=["plain", "all"])
def test_measuring_changes_nothing(settings, tmp_path):
    lm, plain = small(), small()
    used = fit(budgeted(tmp_path / "budget", lm, **settings))
    fit(job(tmp_path / "plain", plain, steps=12, **settings))
    assert used.steps == 12 and equal(weights(lm), weights(plain))
    (plan,) = told(tmp_path / "budget", "plan")
    assert plan["steps"] == plan["asked"] == 12 and plan["tokens_per_s"] > 0


def test_killed_and_resumed_under_a_plan_is_uninterrupted(tmp_path):
    whole, again = small(), small()
    plan = Written(100, 12, 3, 1e6, 1.0, 1000.0, 0.0, 0.0, {}, [])
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "plan.json", asdict(plan))
    fit(budgeted(tmp_path / "whole", whole, steps=100, schedule="wsd", decay_frac=0.5))
    rates = [e["lr"] for e in told(tmp_path / "whole", "step")]
    # 1 step of warm-up, then the peak until half of the 12 steps are left
    assert rates == pytest.approx([5e-4] + [1e-3] * 5 + [1e-3 * k / 6 for k in range(5, -1, -1)])

    def kill(step):
        if step == 9:
            raise KeyboardInterrupt

    settings = {"steps": 100, "schedule": "wsd", "decay_frac": 0.5, "checkpoint_every_steps": 2}
    with pytest.raises(KeyboardInterrupt):
        fit(budgeted(tmp_path / "killed", small(), evaluate=kill, **settings))
    fit(budgeted(tmp_path / "killed", again, **settings))
    assert equal(weights(whole), weights(again))
    assert [e["lr"] for e in told(tmp_path / "killed", "step")] == rates


def test_the_best_evaluated_weights_are_kept(tmp_path):
    lm, seen = small(), {}
    values = {0: 1.0, 3: 5.0, 6: 2.0, 9: 4.0, 12: 3.0}  # before the first step it was better still

    def evaluate(step):
        seen[step] = weights(lm)
        return values[step]

    made = budgeted(tmp_path / "best", lm, evaluate=evaluate, evaluate_every_steps=3, ema=0.9)
    used = fit(made)
    assert used.facts(made)["kept_step"] == 6 and used.facts(made)["steps"] == 12
    assert equal(weights(lm), seen[6])


def test_a_machine_that_turns_slow_ends_with_its_schedule(tmp_path):
    """From the 40th step on, each takes thirty times as long. What was planned for the measured speed is cut. There is
    time for a hundred steps at least, also where other work runs beside."""
    began = time.monotonic()
    fit(job(tmp_path / "speed", small(), steps=20))
    seconds = max(1.5, 5 * (time.monotonic() - began))
    lm = small()
    calls = 0

    def loss(micro):
        nonlocal calls
        calls += 1
        for _ in range(30 if calls > 40 else 0):
            lm_loss(lm)(micro)
        return lm_loss(lm)(micro)

    made = budgeted(tmp_path / "slow", lm, seconds=seconds, steps=10_000, loss=loss, schedule="wsd")
    used = fit(made)
    first, *turns = told(tmp_path / "slow", "plan")
    assert 40 < first["steps"] < 10_000 and turns and used.steps == turns[-1]["steps"] < first["steps"]
    steps = told(tmp_path / "slow", "step")
    assert [e["step"] for e in steps] == list(range(1, used.steps + 1))
    assert steps[-1]["lr"] == 0 and max(e["lr"] for e in steps) == 1e-3
    assert made.checkpoints.steps()[-1] == used.steps


SHARES = {"stages": [
    {"kind": "pretrain", "data": "corpus", "steps": 100_000, "batch_tokens": 512, "learning_rate": 5e-3},
    {"kind": "sft", "data": "questions", "epochs": 2000, "batch_tokens": 512, "learning_rate": 3e-3, "schedule": "wsd"},
]}  # fmt: skip


def budget_world(folder, budget):
    """The small world under a budget, with two stages that ask for far too much."""
    path = small_world(folder)
    recipe = yaml.safe_load(path.read_text())
    del recipe["evaluate"]["win_rate"]
    path.write_text(yaml.safe_dump({**recipe, **SHARES, "budget": budget}))
    return path


@pytest.mark.filterwarnings("ignore")
def test_a_whole_recipe_ends_in_time(tmp_path):
    hours = 0.01
    path = budget_world(tmp_path, {"hours": hours})
    began = time.monotonic()
    run = run_small(path, tmp_path / "out")
    assert time.monotonic() - began <= hours * 3600
    for name, folder in stage_folders(run).items():
        record, steps = read_json(folder / "stage.json"), [
            e for e in read_events(folder / "events.jsonl") if e["kind"] == "step"
        ]  # fmt: skip
        plan = record["plan"]
        assert plan["planned_steps"] < plan["asked_steps"], name
        assert record["steps"] == len(steps) == (plan["turns"][-1][1] if plan["turns"] else plan["planned_steps"])
        assert steps[-1]["lr"] == 0 and max(e["lr"] for e in steps) > 0.9 * record["settings"]["learning_rate"]
        assert plan["tokens_per_s"] > 0 and set(plan["reserve_s"]) == {"evaluation", "later stages", "closing"}
        best = min((e["value"], e["step"]) for e in read_events(folder / "events.jsonl")
                   if e["kind"] == "eval" and e["step"])  # fmt: skip
        assert record.get("kept_step", record["steps"]) == best[1], name
    assert read_json(run / "report.json")["metrics"]["forgetting"]


def test_a_budget_that_leaves_no_time_to_train_is_told_before_it(tmp_path):
    path = budget_world(tmp_path, {"hours": 1e-5})
    with pytest.raises(
        UserError, match=r"budget\.hours: 1e-05 \(0\.036 s\) leaves no time to train: .* Give more than"
    ):
        run_small(path, tmp_path / "out")
    assert not list((tmp_path / "out" / "small").glob("1-*/checkpoints/step-1*"))


def test_what_a_stage_asks_for_and_what_its_folder_depends_on(tmp_path):
    path = budget_world(tmp_path, {"hours": 1})
    recipe = load_recipe(path, [f"out={tmp_path / 'out'}"])
    context = open_context(recipe, path, ())
    assert requested_tokens(context, recipe.stages[0]) == 100_000 * 512
    rows = context.dataset("questions").train
    characters = sum(len(m.content) for row in rows for m in row.messages)
    assert requested_tokens(context, recipe.stages[1]) == pytest.approx(2000 * characters / 4, rel=0.05)
    hashes = set()
    for budget in ("budget={hours: 1}", "budget={hours: 2}", "budget=null"):
        changed = open_context(load_recipe(path, [f"out={tmp_path / 'out'}", budget]), path, ())
        hashes.add(changed.stage(0, "pretrain", recipe.stages[0], {}).hash)
    assert len(hashes) == 3


def test_too_little_memory_is_told_before_training(tmp_path):
    path = budget_world(tmp_path, {"memory_gib": 0.01})
    with pytest.raises(RunError, match=r"guard: largest batch fits: a step takes .* budget.memory_gib is 0.01"):
        run_small(path, tmp_path / "out")
