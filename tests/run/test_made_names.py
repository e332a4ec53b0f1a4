"""Data that a stage makes, named wherever data is named: as data, replay, prompts and pairs of later stages, and as
what is measured."""

from __future__ import annotations

import json
import re

import pytest

from luthier.base.config import load_recipe
from luthier.base.errors import UserError
from luthier.base.files import read_json
from luthier.data.records import read_records
from luthier.run.kept import kept_dataset
from luthier.run.pairs import read_pairs
from luthier.run.stages import check_recipe
from run.small import RECIPE, run_small, small_world, stage_folders, write_rows

HEAD = RECIPE[: RECIPE.index("  - kind: sft")]
STAGES = """\
  - {kind: curate, name: bot, data: questions, keep: 40, heldout: 0.2, near: null}
  - {kind: sft, data: bot, steps: 4, batch_tokens: 512}
  - {kind: sft, name: more, data: corpus, steps: 3, batch_tokens: 512, replay: {data: bot, share: 0.3}}
  - {kind: prefer, prompts: bot, rater: "rater.py:rate", samples: 3, pairs_per_prompt: 1, max_new_tokens: 8, heldout: 0}
  - {kind: dpo, batch_pairs: 16, learning_rate: 1.0e-4}
  - {kind: grpo, prompts: bot, rewards: ["rewards.py:short"], iterations: 2, rollout_prompts: 4, samples: 2,
     max_new_tokens: 8, learning_rate: 1.0e-4}
evaluate:
  right: {kind: answers, data: bot, max_new_tokens: 8}
  loss: {kind: loss, data: bot, since: pretrain}
  wrong: {kind: mistakes, data: bot, max_new_tokens: 8, judging: {names_from: [corpus]}}
"""
REWARD = "def short(messages, answer, row):\n    return -len(answer) / 10\n"


@pytest.fixture
def world(tmp_path):
    recipe = small_world(tmp_path / "world")
    (recipe.parent / "rewards.py").write_text(REWARD)
    recipe.write_text(HEAD + STAGES)
    return recipe


def prompts(folder, side):
    return {record.example.prompt for record in read_records(folder / f"{side}.jsonl")}


def test_a_curated_set_is_replayed_answered_and_measured(world, tmp_path):
    made = run_small(world, tmp_path / "out")
    folders = stage_folders(made)
    assert list(folders) == ["pretrain", "bot", "sft", "more", "prefer", "dpo", "grpo"]
    digest = read_json(folders["bot"] / "stage.json")["hash"]
    inputs = {name: read_json(folder / "stage.json")["inputs"] for name, folder in folders.items()}
    assert all(inputs[name]["data.bot"] == digest for name in ("sft", "more", "prefer", "grpo"))
    kept, held = prompts(folders["bot"], "kept"), prompts(folders["bot"], "heldout")
    assert len(kept) == 40 and held and not kept & held
    rated = [{pair.prompt for pair in read_pairs(folders["prefer"] / f"{n}.jsonl")} for n in ("pairs", "heldout")]
    assert rated[0] and rated[0] <= kept and rated[1] <= held
    assert read_json(folders["more"] / "stage.json")["rows"]["bot"]["sequences"] == 40
    report = read_json(made / "report.json")
    counts = {name: {f["n"] for f in report["metrics"][name].values()} for name in ("right",)}
    assert counts == {"right": {len(held)}} and set(report["metrics"]["right"]) == {"pretrain", *inputs} - {
        "bot",
        "prefer",
    }
    rows = [json.loads(line) for line in (made / "mistakes" / "wrong.jsonl").read_text().splitlines()]
    assert {row["origin"] for row in rows} == {r.example.origin for r in read_records(folders["bot"] / "heldout.jsonl")}
    assert report["contamination"] == {}  # no held-out row was trained on
    shown = [json.loads(line) for line in (folders["sft"] / "samples.jsonl").read_text().splitlines()]
    assert {row["prompt"] for row in shown} <= {prompt[-1].content for prompt in held}


def test_what_stands_on_a_made_set_is_made_anew_with_it(world, tmp_path):
    world.write_text(HEAD + STAGES.replace(STAGES[STAGES.index("  - {kind: prefer") : STAGES.index("evaluate:")], ""))
    out = tmp_path / "out"
    first = stage_folders(run_small(world, out))
    measured = {path.name for path in (out / "small" / "measures").glob("*.json")}
    assert stage_folders(run_small(world, out)) == first
    assert {path.name for path in (out / "small" / "measures").glob("*.json")} == measured
    other = stage_folders(run_small(world, out, "stages.1.keep=30"))
    assert [name for name in first if first[name] == other[name]] == ["pretrain"]
    after = {path.name for path in (out / "small" / "measures").glob("*-pretrain-*.json")}
    assert len(after - measured) == 3  # the same model, on the new set's rows


PROBED = HEAD + "  - {kind: curate, name: bot, data: questions, near: null}\n  - {kind: sft, data: bot}\n"


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (PROBED + "evaluate: {a: {kind: answers, data: bott}}", 'no source "bott" under data. Did you mean bot? The'),
        (PROBED + "evaluate: {a: {kind: answers, data: bott}}", "Stages before it make: bot."),
        (PROBED.replace("questions, near", "questions, heldout: 0, near") + "evaluate: {a: {kind: answers, data: bot}}",
         "evaluate.a.answers.data: bot holds no rows out (heldout: 0), and only those are measured"),
        (HEAD + "  - {kind: sft, data: corpus, replay: {data: bot}}\n  - {kind: curate, name: bot, data: questions}",
         "replay.data: bot is made by a later stage. Put that one before this."),
        (HEAD + "  - {kind: best_of, prompts: bot, rewards: [r.py:f]}\n  - {kind: curate, name: bot, data: questions}",
         "best_of.prompts: bot is made by a later stage"),
        (HEAD + "  - {kind: prefer, pairs: bot}\n  - {kind: curate, name: bot, data: questions}",
         "prefer.pairs: bot is made by a later stage"),
        (PROBED + "  - {kind: curate, name: two, data: questions, against: [bto]}",
         'no source "bto" under data. Did you mean bot?'),
    ],
)  # fmt: skip
def test_names_that_mean_no_data_are_told_at_once(recipe, said, world):
    world.write_text(recipe)
    with pytest.raises(UserError, match=re.escape(said)):
        load_recipe(world)


def test_check_goes_through_before_anything_is_made(world):
    checks = check_recipe(load_recipe(world), world)
    assert [check.stage for check in checks] == ["pretrain", "bot", "sft", "more", "prefer", "dpo", "grpo"]


def test_what_was_made_is_looked_at_before_anything_is_trained_on_it(world, tmp_path):
    """The probe asks for accept, which the rows of the made set do not have: told when it is made."""
    rows = [json.loads(line) for line in (world.parent / "questions.jsonl").read_text().splitlines()]
    write_rows(world.parent / "questions.jsonl", [{k: v for k, v in row.items() if k != "accept"} for row in rows])
    with pytest.raises(UserError, match=r"evaluate.right: questions.jsonl:\d+ has no column accept"):
        run_small(world, tmp_path / "out")
    assert not list((tmp_path / "out" / "small").glob("*-sft-*"))


def test_a_second_curation_keeps_clear_of_what_is_measured(world, tmp_path):
    """`two` reads all of `bot`, whose held-out rows are measured: they are left out of it."""
    curated = """\
  - {kind: curate, name: bot, data: questions, heldout: 0.2, near: null}
  - {kind: curate, name: two, data: bot, heldout: 0, near: null}
  - {kind: pretrain, data: corpus, steps: 1, batch_tokens: 256}
"""
    text = HEAD[: HEAD.index("  - kind: pretrain")] + curated
    world.write_text(text)
    plain = stage_folders(run_small(world, tmp_path / "a"))
    assert len(prompts(plain["two"], "kept")) == 120
    world.write_text(text + "evaluate: {a: {kind: loss, data: bot}}\n")
    folders = stage_folders(run_small(world, tmp_path / "b"))
    held, kept = prompts(folders["bot"], "heldout"), prompts(folders["two"], "kept")
    assert held and not held & kept and held | kept == prompts(plain["two"], "kept")


def test_a_base_that_is_not_there_is_told_before_anything_is_made(world, tmp_path):
    text = "base: {model: ./none}\n" + HEAD[HEAD.index("data:") : HEAD.index("  - kind: pretrain")]
    world.write_text(
        "name: small\n" + text + "  - {kind: curate, name: bot, data: questions}\n  - {kind: sft, data: bot}\n"
    )
    with pytest.raises(UserError, match="none: no such folder"):
        run_small(world, tmp_path / "out")
    assert not list((tmp_path / "out" / "small").glob("*bot*"))


def test_a_made_set_is_read_as_what_its_rows_are(world, tmp_path):
    rows = [{"prompt": f"Say {n}.", "completion": f"{n}!", "label": bool(n % 2)} for n in range(60)]
    write_rows(world.parent / "marked.jsonl", rows)
    write_rows(
        world.parent / "better.jsonl",
        [{"prompt": f"Say {n}.", "chosen": f"{n}.", "rejected": "No."} for n in range(60)],
    )
    world.write_text(
        "name: kinds\ndata:\n  marked: {path: marked.jsonl}\n  better: {path: better.jsonl}\n"
        "  choices: {path: choices.jsonl}\n  corpus: {path: corpus.jsonl}\nstages:\n"
        + "".join(f"  - {{kind: curate, name: c-{n}, data: {n}, near: null, flaws: false, conflicts: false}}\n"
                  for n in ("marked", "better", "choices", "corpus"))
    )  # fmt: skip
    folders = stage_folders(run_small(world, tmp_path / "out"))
    read = {name: kept_dataset(name, folder, "").format for name, folder in folders.items()}
    assert read == {"c-marked": "labelled", "c-better": "pairs", "c-choices": "choices", "c-corpus": "text"}
