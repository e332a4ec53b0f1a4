"""Stages that learn from preferences, through whole runs: what they leave, where their data come from, kill and resume,
and what they refuse."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from luthier.base.config import load_recipe
from luthier.base.errors import RunError, UserError
from luthier.base.events import read_events
from luthier.base.files import read_json
from luthier.base.nouns import Message, Pair
from luthier.base.source import Source
from luthier.data.dataset import read_dataset
from luthier.model.load import load_folder
from luthier.run.pairs import read_pairs, write_pairs
from luthier.run.stages import check_recipe
from luthier.tokens.prepare import answer_tokens
from luthier.tokens.render import Renderer
from luthier.train.preference import answer_logps
from run.small import (
    kill_at,
    questions,
    results,
    run_small,
    small_world,
    stage_folders,
    start_small,
    write_rows,
)

pytestmark = pytest.mark.xdist_group("small road")
FIGURE = {"value", "low", "high", "n"}
START = """\
  - {kind: pretrain, data: corpus, steps: 6, batch_tokens: 1024, learning_rate: 5.0e-3, optimizer: muon}
  - {kind: sft, data: questions, steps: 6, batch_tokens: 1024, learning_rate: 5.0e-3}
"""
STAGES = (
    START
    + """\
  - {kind: prefer, prompts: questions, rater: "rater.py:rate", samples: 3, pairs_per_prompt: 1, max_new_tokens: 10}
  - {kind: dpo, batch_pairs: 16, learning_rate: 5.0e-3, adapter: {rank: 4, alpha: 8, dropout: 0.1},
     checkpoint_every_steps: 1, evaluate_every_steps: 3, sft_weight: 0.1}
  - {kind: dpo, name: ipo, init: sft, pairs: judged, loss: ipo, length_normalise: true, batch_pairs: 16}
  - {kind: orpo, init: sft, pairs: judged, batch_pairs: 16, learning_rate: 3.0e-3, epochs: 2}
  - {kind: simpo, init: sft, pairs: judged, batch_pairs: 16, adapter: {rank: 4}}
  - {kind: kto, init: sft, data: marked, batch_answers: 16, epochs: 3, learning_rate: 3.0e-3, checkpoint_every_steps: 1,
     evaluate_every_steps: 4}
  - {kind: kto, name: kto-of-pairs, init: sft, batch_answers: 32, adapter: {rank: 4}, good_weight: 1.5}
  - {kind: reward, init: sft, pairs: judged, batch_pairs: 16}
"""
)
WRITERS = ["dpo", "ipo", "orpo", "simpo", "kto", "kto-of-pairs"]
ROWS = ["supervised tokens", "answers end", "single BOS", "pad unsupervised", "template round trip", "no leak"]
TRAINED = ["packed = unpacked", "largest batch fits", "disk", "export certificate"]


def recipe_with(folder, stages: str, evaluate: str = ""):
    """The small world with sources of pairs and of marked answers, and these stages."""
    recipe = small_world(folder)
    asked = questions(range(60))
    judged = [
        {"prompt": row["question"], "chosen": row["answer"], "rejected": f"I think it is {row['accept'][0]}, or not.",
         "margin": 1 + n % 3, "agreement": 0.6 + 0.1 * (n % 5)}
        for n, row in enumerate(asked)
    ]  # fmt: skip
    marked = [
        {"prompt": row["question"], "completion": row["answer"] if n % 3 else "Ask somebody else.", "label": n % 3 > 0}
        for n, row in enumerate(asked)
    ]
    write_rows(folder / "judged.jsonl", judged)
    write_rows(folder / "marked.jsonl", marked)
    text = recipe.read_text()
    sources = "data:\n  judged: {path: judged.jsonl, heldout: 0.2}\n  marked: {path: marked.jsonl, heldout: 0.2}\n"
    head = text[: text.index("stages:")].replace("data:\n", sources, 1)
    recipe.write_text(f"{head}stages:\n{stages}{evaluate}")
    return recipe


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """(recipe, run folder) of all the stages, run once."""
    folder = tmp_path_factory.mktemp("preferences")
    recipe = recipe_with(folder, STAGES, "evaluate:\n  answers: {kind: answers, data: asked, max_new_tokens: 8}\n")
    return recipe, run_small(recipe, folder / "out")


def records(run):
    return {name: read_json(folder / "stage.json") for name, folder in stage_folders(run).items()}


def test_every_stage_has_its_guards_figures_and_model(road):
    report = read_json(road[1] / "report.json")
    for name in WRITERS:
        record, folder = records(road[1])[name], stage_folders(road[1])[name]
        reference = ["starts at the reference"] if record["kind"] in ("dpo", "kto") else []
        assert [guard["name"] for guard in record["guards"]] == [*ROWS, *reference, *TRAINED], name
        assert all(guard["ok"] for guard in record["guards"])
        assert (folder / "adapter").is_dir() == (record["settings"]["adapter"] is not None)
        assert len((folder / "samples.jsonl").read_text().splitlines()) == 2
        assert not (folder / "checkpoints").exists()
        figures = record["metrics"]
        assert all(f.keys() == FIGURE and f["low"] <= f["value"] <= f["high"] for f in figures.values())
        assert report["metrics"][name]["accuracy"] == figures["accuracy"]
        told = [e for e in read_events(folder / "events.jsonl") if e["kind"] == "eval"]
        assert {"heldout_loss", "heldout_accuracy", "accuracy", "loss"} <= {e["name"] for e in told}
        # Before the first step nothing is preferred: all are ties, which count half.
        if reference:
            first = next(e for e in told if e["name"] == "heldout_accuracy")
            assert (first["step"], first["value"]) == (0, 0.5)
    assert {"accuracy", "margin", "length_baseline", "loss", "chosen_gain"} <= records(road[1])["dpo"]["metrics"].keys()
    assert "Held-out preference pairs" in (road[1] / "report.html").read_text()


def test_the_first_loss_is_that_of_a_coin(road):
    """Policy = reference: log 2 for dpo (beside it the answers' own loss), (1/2β)² for ipo, ½ for kto."""
    firsts = {
        name: next(e["value"] for e in read_events(folder / "events.jsonl") if e.get("name") == "heldout_loss")
        for name, folder in stage_folders(road[1]).items()
        if name in WRITERS
    }
    assert firsts["ipo"] == pytest.approx(25, rel=1e-3)
    assert firsts["kto"] == pytest.approx(0.5 * 1.0, abs=1e-3)
    losses = [e for e in read_events(stage_folders(road[1])["kto-of-pairs"] / "events.jsonl") if e["kind"] == "step"]
    assert losses[0]["loss"] == pytest.approx((1.5 + 1.0) / 2 / 2, abs=0.02)  # about as many good as bad


def test_what_is_easy_to_tell_apart_is_learned(road):
    """One kind of answer is always preferred: every objective finds it on pairs it was not trained on."""
    for name in ("ipo", "orpo", "kto"):
        accuracy = records(road[1])[name]["metrics"]["accuracy"]
        assert accuracy["n"] >= 8 and accuracy["value"] > 0.75, f"{name}: {accuracy}"
    kto = records(road[1])["kto"]["metrics"]
    assert kto["good_gain"]["low"] > kto["bad_gain"]["high"]


def test_the_reference_is_the_start_models_log_probs(road):
    """reference.json against plain transformers, answer by answer: with the adapter off, and of the whole model."""
    folders = stage_folders(road[1])
    model = AutoModelForCausalLM.from_pretrained(folders["sft"] / "model").eval()
    renderer = Renderer(AutoTokenizer.from_pretrained(folders["sft"] / "model"))

    def logp(prompt, answer) -> float:
        row = answer_tokens(renderer, prompt, answer, "x")
        with torch.no_grad():
            logp_LV = torch.log_softmax(model(torch.tensor([row.ids])).logits[0, :-1], -1)
        return float(
            (logp_LV.gather(1, torch.tensor(row.ids[1:])[:, None])[:, 0] * torch.tensor(row.weights[1:])).sum()
        )

    kept = read_json(folders["dpo"] / "reference.json")["heldout"]
    pairs = read_pairs(folders["prefer"] / "heldout.jsonl")
    assert kept["ref_chosen_P"] == pytest.approx([logp(p.prompt, p.chosen) for p in pairs], abs=1e-3)
    assert kept["ref_rejected_P"] == pytest.approx([logp(p.prompt, p.rejected) for p in pairs], abs=1e-3)
    kept = read_json(folders["kto"] / "reference.json")
    rows = [json.loads(line) for line in (road[0].parent / "marked.jsonl").read_text().splitlines()]
    expected = [logp((Message("user", row["prompt"]),), row["completion"]) for row in rows]
    found = sorted(kept["answers"] + kept["heldout"])
    assert found == pytest.approx(sorted(expected), abs=1e-3)
    # Three passes over 47 answers, 16 a step at most: every step has a mismatched answer for each of its own.
    assert len(kept["answers"]) == 47 and [len(step) for step in kept["mismatched"]] == [16, 16, 15] * 3


def test_figures_are_those_of_the_saved_model(road):
    """dpo's gains, from the model on disk: the adapter that was trained is the one that was saved."""
    folders = stage_folders(road[1])
    trained = load_folder(folders["dpo"] / "model", "cpu", torch.float32)
    renderer = Renderer(trained.tokenizer)
    pairs = read_pairs(folders["prefer"] / "heldout.jsonl")
    now = answer_logps(trained.lm, [answer_tokens(renderer, p.prompt, p.chosen, "x") for p in pairs], 4096)
    then = read_json(folders["dpo"] / "reference.json")["heldout"]["ref_chosen_P"]
    told = records(road[1])["dpo"]["metrics"]["chosen_gain"]["value"]
    assert told == pytest.approx(np.mean(np.subtract(now, then)), abs=1e-3)


def test_margins_and_agreement_reach_the_reward_model(road):
    reward = records(road[1])["reward"]
    assert reward["strengths"] == ["margin", "agreement"]
    first = first_loss(road[1])
    assert records(run_small(*road_again(road), "stages.9.margin=false"))["reward"]["strengths"] == ["agreement"]
    bare = run_small(*road_again(road), "stages.9.margin=false", "stages.9.soft_labels=false")
    assert records(bare)["reward"]["strengths"] == [] and first_loss(bare) != first
    run_small(*road_again(road))  # current.json is the road's again
    assert first_loss(road[1]) == first


def first_loss(run) -> float:
    """The reward stage's loss at its first step."""
    events = read_events(stage_folders(run)["reward"] / "events.jsonl")
    return next(e["loss"] for e in events if e["kind"] == "step")


def road_again(road):
    """What runs the same recipe into the same folder."""
    return road[0], road[1].parent


def test_pairs_keep_all_that_is_known_of_them(tmp_path):
    asked = (Message("system", "Be brief."), Message("user", "q?"))
    pairs = [Pair(asked, "a", "b", "x:1", {"k": 1}, 1.5, 0.75), Pair(asked[1:], "c", "d", "x:2", {})]
    write_pairs(tmp_path / "pairs.jsonl", pairs)
    assert read_pairs(tmp_path / "pairs.jsonl") == pairs
    read = read_dataset("pairs", Source(path="pairs.jsonl", heldout=0), tmp_path)
    assert read.format == "pairs" and [(p.margin, p.agreement) for p in read.train] == [(1.5, 0.75), (None, None)]


def test_what_the_source_holds_out_is_not_trained_on(road):
    folder = stage_folders(road[1])["prefer"]
    recipe = load_recipe(road[0])
    kept = {chat.prompt for chat in read_dataset("questions", recipe.data["questions"], road[0].parent).heldout}
    assert kept and not kept & {pair.prompt for pair in read_pairs(folder / "pairs.jsonl")}


def test_a_finished_run_is_not_run_again(road):
    files = [p for name in WRITERS for p in stage_folders(road[1])[name].rglob("*") if p.is_file()]
    before = {p: p.stat().st_mtime_ns for p in files}
    run_small(*road_again(road))
    assert {p: p.stat().st_mtime_ns for p in files} == before


def test_killed_and_resumed_is_uninterrupted(tmp_path):
    """SIGKILL inside dpo's and inside kto's training; the reference is read again, not scored again."""
    lines = STAGES.splitlines(keepends=True)
    dpo, kto = ("".join(lines[lines.index(next(x for x in lines if f"kind: {k}" in x)) :][:2]) for k in ("dpo", "kto"))
    stages = START.replace("steps: 6", "steps: 1") + dpo.replace("kind: dpo,", "kind: dpo, pairs: judged,") + kto
    recipe = recipe_with(tmp_path / "world", stages)
    whole = results(run_small(recipe, tmp_path / "whole"))
    out = tmp_path / "cut"
    stamps = []
    for stage, step in (("dpo", 2), ("kto", 4)):
        child, said = start_small(recipe, out)
        assert kill_at(child, out / "small", stage, "step", step), said.read_text()
        stamps += [p.stat().st_mtime_ns for p in sorted(out.glob(f"small/*-{stage}-*/reference.json"))]
    assert results(run_small(recipe, out)) == whole
    assert stamps == [(stage_folders(out / "small")[s] / "reference.json").stat().st_mtime_ns for s in ("dpo", "kto")]
    for stage in ("dpo", "kto"):
        events = list(read_events(stage_folders(out / "small")[stage] / "events.jsonl"))
        steps = [e["step"] for e in events if e["kind"] == "step"]
        assert steps == list(range(1, len(steps) + 1)) and any(e["kind"] == "resume" for e in events), stage


DPO = START + "  - {kind: dpo, pairs: judged}\n"
KTO = START + "  - {kind: kto, data: marked}\n"


def change(path, each) -> None:
    """Rewrites the rows of a JSONL file."""
    write_rows(path, [each(n, json.loads(line)) for n, line in enumerate(path.read_text().splitlines())])


BAD_ROWS = {
    "no label": (
        KTO,
        "marked.jsonl",
        lambda n, row: {key: value for key, value in row.items() if key != "label"},
        ["data.marked", "was read as prompt_completion", "format: pairs"],
    ),
    "a label that says nothing": (
        KTO,
        "marked.jsonl",
        lambda n, row: row | ({"label": "perhaps"} if n % 4 == 0 else {}),
        ['label: "perhaps" is not true or false', "15 of 60 rows"],
    ),
    "all good": (
        KTO,
        "marked.jsonl",
        lambda n, row: row | {"label": True},
        ["kto: all", "are good", "label: false", "sft"],
    ),
    "all bad": (KTO, "marked.jsonl", lambda n, row: row | {"label": False}, ["kto: all", "are bad", "label: true"]),
    "agreement in per cent": (
        DPO,
        "judged.jsonl",
        lambda n, row: row | {"agreement": 80},
        ["agreement: 80 is not a share of the raters", "not one usable row"],
    ),
    "pairs of one answer": (
        DPO,
        "judged.jsonl",
        lambda n, row: row | {"rejected": row["chosen"]},
        ["chosen and rejected are the same"],
    ),
    "answers that are no pairs": (
        DPO.replace("judged}", "marked}"),
        "judged.jsonl",
        lambda n, row: row,
        ["data.marked", "was read as labelled, and is no pair", "chosen and rejected"],
    ),
    "marked answers for sft": (
        START.replace("data: questions", "data: marked"),
        "judged.jsonl",
        lambda n, row: row,
        ["data.marked was read as labelled (marked.jsonl:", "Give documents or conversations"],
    ),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_rows_that_cannot_be_learned_from_are_told_before_any_training(case, tmp_path):
    stages, file, each, parts = BAD_ROWS[case]
    recipe = recipe_with(tmp_path, stages)
    change(tmp_path / file, each)
    with pytest.raises(UserError) as error:
        check_recipe(load_recipe(recipe), recipe)
    for part in parts:
        assert part in str(error.value), str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("pairs: judged}", "pairs: judged, loss: ipo, label_smoothing: 0.1}", ["label_smoothing", "loss: sigmoid"]),
        ("kind: dpo, pairs: judged}", "kind: kto, data: marked, good_weight: 0, bad_weight: 0}", ["nothing would be"]),
        ("pairs: judged}", "pairs: jugded}", ["Did you mean judged?"]),
        ("pairs: judged}", "pairs: judged, label_smoothing: 0.5}", ["label_smoothing", "0.5"]),
        ("pairs: judged}", "pairs: judged, beta: 0}", ["beta"]),
    ],
)
def test_settings_that_contradict_are_told_with_their_line(old, new, parts, tmp_path):
    recipe = recipe_with(tmp_path, DPO.replace(old, new))
    with pytest.raises(UserError) as error:
        load_recipe(recipe)
    for part in ["recipe.yaml:", *parts]:
        assert part in str(error.value), str(error.value)


def test_pairs_that_a_probe_measures_are_refused(tmp_path):
    """The chosen answers are the probe's own: a model tuned on them would only look good."""
    probe = "evaluate:\n  answers: {kind: answers, data: questions, max_new_tokens: 8}\n"
    first = "  - {kind: pretrain, data: corpus, steps: 1, batch_tokens: 512}\n"
    recipe = recipe_with(
        tmp_path, first + "  - {kind: sft, data: corpus, steps: 1, batch_tokens: 512}\n" + DPO[len(START) :], probe
    )
    with pytest.raises(RunError, match=r"guard: no leak: .* evaluation rows are also trained on"):
        run_small(recipe, tmp_path / "out")


def test_overlong_answers_are_named_or_dropped(tmp_path):
    recipe = recipe_with(tmp_path, DPO)
    change(tmp_path / "judged.jsonl", lambda n, row: row | ({"rejected": "no " * 200} if n == 7 else {}))
    with pytest.raises(UserError, match=r"judged\.jsonl:8: \d+ tokens, longer than max_length 96"):
        check_recipe(load_recipe(recipe), recipe)
    checks = check_recipe(load_recipe(recipe, ["stages.2.overlong=drop"]), recipe)
    assert checks[-1].note == "1 rows too long, dropped" and all(guard["ok"] for guard in checks[-1].guards)
