"""Alignment, cloze, consistency, hallucination and contamination, measured on a run of the small road: every figure is
what plain transformers and the rules say of the saved model; and what cannot be measured says why."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evals.server import says, serving
from luthier.base.config import load_recipe
from luthier.base.errors import UserError
from luthier.base.files import read_json, write_json
from luthier.base.values import contains
from luthier.data.dataset import read_dataset
from luthier.evals.calibration import calibration
from luthier.evals.intervals import paired_bootstrap, wilson
from luthier.evals.manners import manners
from luthier.run.attribution import gained
from run.small import COLOURS, THINGS, colour, documents, run_small, small_world, stage_folders, write_rows

pytestmark = pytest.mark.xdist_group("small road")
NUMBERS = range(70, 82)
SOURCES = (
    "data.cloze={path: cloze.jsonl, heldout: 0}",
    "data.para={path: para.jsonl, format: qa, heldout: 0}",
    "data.held={path: held.jsonl, heldout: 0}",
    "data.near={path: near.jsonl, format: choices, heldout: 0}",
)
PROBES = (
    "evaluate.manners={kind: alignment, data: asked, max_new_tokens: 10, regex: '.{0,40}'}",
    "evaluate.cloze={kind: cloze, data: cloze, max_new_tokens: 6}",
    "evaluate.same={kind: consistency, data: para, samples: 2, temperature: 0.7, max_new_tokens: 6, after: [sft]}",
    "evaluate.held={kind: hallucination, data: held, documents: corpus, passages: 2, max_new_tokens: 12, after: [sft]}",
    "evaluate.judged={kind: hallucination, data: held, documents: corpus, judge: 'judge.py:never', after: [sft]}",
    "evaluate.near={kind: choices, data: near, ngram: 8, exclude_contaminated: true, after: [sft]}",
    "evaluate.counted={kind: choices, data: near, ngram: 8, after: [sft]}",
)


def thing(n: int) -> str:
    return f"{THINGS[n % 20]} {n}"


def write_sources(folder) -> None:
    """The small world's held-out things, asked for in other ways."""
    write_rows(folder / "cloze.jsonl", [{"prompt": f"The {thing(n)} is", "accept": [colour(n)]} for n in NUMBERS])
    other = [
        {"question": f"Which colour has the {thing(n)}?", "answer": f"It is {colour(n)}.", "accept": [colour(n)]}
        | {"paraphrases": [f"What colour is the {thing(n)}?"], "candidates": COLOURS}
        for n in NUMBERS
    ]
    write_rows(folder / "para.jsonl", other)
    held = [{"prompt": f"Where is the {thing(n)}?", "unanswerable": n % 4 == 0} for n in NUMBERS]
    held[1]["source"] = "The hat is in the loft."
    write_rows(folder / "held.jsonl", held)
    # Five items are a training document in other clothes, seven are not.
    sentences = [row["text"].removesuffix(".") for row in documents()]
    near = [{"query": f"Say: {s.rpartition(' ')[0]}", "choices": [s.rpartition(" ")[2], "moon"], "gold": 0}
            for s in sentences[:10:2]]  # fmt: skip
    near += [{"query": f"The {thing(n)} is", "choices": ["red", "blue"], "gold": 0} for n in range(70, 77)]
    write_rows(folder / "near.jsonl", near)
    (folder / "judge.py").write_text(
        "def never(claim, source):\n    return 0.2\n\ndef broken(claim, source):\n    1 / 0\n"
    )


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """(recipe, run folder), run once."""
    folder = tmp_path_factory.mktemp("abilities")
    recipe = small_world(folder)
    write_sources(folder)
    return recipe, run_small(recipe, folder / "out", *SOURCES, *PROBES)


@pytest.fixture
def copied(road, tmp_path):
    shutil.copytree(road[0].parent, tmp_path / "world")
    return tmp_path / "world" / "recipe.yaml", tmp_path / "world" / "out"


def report(road) -> dict:
    return read_json(road[1] / "report.json")


def measured(road, probe: str, stage: str) -> dict:
    (file,) = (road[1] / "measures").glob(f"{probe}-{stage}-*.json")
    return read_json(file)


def plain(road, stage):
    folder = stage_folders(road[1])[stage] / "model"
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def test_cloze_continues_plain_text_greedily(road):
    model, tokenizer = plain(road, "sft")
    row, right, logps = measured(road, "cloze", "sft"), 0, []
    for n, text in zip(NUMBERS, row["texts"], strict=True):
        ids = tokenizer(f"The {thing(n)} is", return_tensors="pt")["input_ids"]
        made = model.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
        assert tokenizer.decode(made, skip_special_tokens=True).strip() == text
        right += contains(text.split("\n")[0].split(". ")[0], [colour(n)])
        both = tokenizer(f"The {thing(n)} is {colour(n)}", return_tensors="pt")["input_ids"]
        logits = torch.log_softmax(model(both).logits[0, :-1].float(), -1).gather(1, both[0, 1:, None]).squeeze(1)
        logps.append(float(logits[ids.shape[1] - 1 :].sum()))
    figure = report(road)["metrics"]["cloze"]["sft"]
    assert (figure["n"], figure["value"]) == (12, pytest.approx(right / 12))
    assert figure["parts"]["logp"]["value"] == pytest.approx(np.mean(logps), abs=1e-4)


@pytest.mark.parametrize("stage", ["pretrain", "sft", "ppo"])
def test_alignment_is_the_rules_on_the_answers(stage, road):
    row, figure = measured(road, "manners", stage), report(road)["metrics"]["manners"][stage]
    behaved = [
        manners(f"Which colour has the {thing(n)}?", text, bool(stops), lambda text: len(text.strip()) <= 40)
        for n, text, stops in zip(NUMBERS, row["texts"], row["stops"], strict=True)
    ]
    assert figure["value"] == pytest.approx(np.mean([one.passed for one in behaved]))
    assert list(figure["parts"]) == ["stops", "answers", "no_loop", "not_empty", "format"]
    for name, part in figure["parts"].items():
        assert part == wilson(sum(bool(one._asdict()[name]) for one in behaved), 12).as_dict()


def test_every_wording_is_asked_as_often_as_said(road):
    row, figure = measured(road, "same", "sft"), report(road)["metrics"]["same"]["sft"]
    assert [len(said) for said in row["texts"]] == [4] * 12  # two wordings, two draws
    assert row["wordings"][0] == [f"Which colour has the {thing(70)}?", f"What colour is the {thing(70)}?"]
    assert any(len(set(said)) > 1 for said in row["texts"])
    assert figure["value"] == pytest.approx(np.mean(row["agree"]))
    right = [np.mean([contains(t, [colour(n)]) for t in said]) for n, said in zip(NUMBERS, row["texts"], strict=True)]
    assert figure["parts"]["right"]["value"] == pytest.approx(np.mean(right))
    assert set(figure["parts"]) == {"right", "always_right", "always_wrong"}


def test_unanswerable_questions_must_be_refused(road):
    row, figure = measured(road, "held", "sft"), report(road)["metrics"]["held"]["sft"]
    assert row["unanswerable"] == [int(n % 4 == 0) for n in NUMBERS]
    wanted = [
        r if u else int(not lost) for u, r, lost in zip(row["unanswerable"], row["refused"], row["lost"], strict=True)
    ]
    assert row["faithful"] == wanted and figure["value"] == pytest.approx(np.mean(wanted))
    answered = 1 - np.mean([r for u, r in zip(row["unanswerable"], row["refused"], strict=True) if u])
    assert figure["parts"]["unanswerable_answered"]["value"] == pytest.approx(answered)


def test_a_judge_decides_where_one_is_named(road):
    row = measured(road, "judged", "sft")
    assert row["lost"] == row["claims"] and all(
        why == "judge.py:never says so" for one in row["unsupported"] for _, why in one
    )


def test_models_at_an_endpoint_judge_and_reword(copied):
    """A real server. As a judge it says no, or what is no verdict, in which case the words decide; as a writer it
    rewords every question."""

    def script(request, before):
        asked = request["messages"][-1]["content"]
        if asked.startswith("Write the question"):
            return says("Tell me, " + asked.strip().splitlines()[-1][0].lower() + asked.strip().splitlines()[-1][1:])
        return says("No." if len(asked) % 2 else "It depends.")

    recipe, out = copied
    bare = [{k: v for k, v in json.loads(line).items() if k != "paraphrases"}
            for line in (recipe.parent / "para.jsonl").read_text().splitlines()]  # fmt: skip
    write_rows(recipe.parent / "para.jsonl", bare)
    with serving(script) as served:
        other = f"{served.url}#other"
        run = run_small(
            recipe,
            out,
            *SOURCES,
            PROBES[3],
            f"evaluate.far={{kind: hallucination, data: held, documents: corpus, passages: 2, max_new_tokens: 12, "
            f"after: [sft], judge: '{other}'}}",
            f"evaluate.anew={{kind: consistency, data: para, paraphraser: '{other}', max_new_tokens: 6, after: [sft]}}",
        )
    by_words, far = (read_json(next((run / "measures").glob(f"{name}-sft-*.json"))) for name in ("held", "far"))
    judged = [one["messages"][-1]["content"] for one in served.asked if "Claim: " in one["messages"][-1]["content"]]
    assert len(judged) == sum(far["claims"]) > 0 and far["claims"] == by_words["claims"]
    refused = {asked.split("Claim: ")[1].split("\n\n")[0] for asked in judged if len(asked) % 2}
    for mine, theirs in zip(far["unsupported"], by_words["unsupported"], strict=True):
        assert {text for text, why in mine if why == f"{other} says so"} <= refused
        assert {text for text, why in mine if why != f"{other} says so"} <= {text for text, _ in theirs}
    anew = read_json(next((run / "measures").glob("anew-sft-*.json")))
    assert anew["wordings"][0][1] == f"Tell me, which colour has the {thing(70)}?"


def test_calibration_is_of_the_scores(road):
    row, figure = measured(road, "knowledge", "sft"), report(road)["metrics"]["knowledge"]["sft"]
    assert {"value", "low", "high", "n", "calibration"} == set(figure)
    assert row["right"] == [int(np.argmax(s) == g) for s, g in zip(row["scores"], row["golds"], strict=True)]
    assert figure["calibration"] == json.loads(json.dumps(calibration(row["scores"], row["golds"], seed=0).as_dict()))


def test_rows_seen_in_training_are_told_and_left_out_where_asked(road):
    told, metrics = report(road)["contamination"], report(road)["metrics"]
    trained = {row.text for row in read_dataset("corpus", load_recipe(road[0]).data["corpus"], road[0].parent).train}
    seen = [i for i, row in enumerate(documents()[:10:2]) if row["text"] in trained]  # held-out documents are not
    clean = 12 - len(seen)
    for name, excluded, n in (("near", True, clean), ("counted", False, 12)):
        found = told[name]
        assert (found["rows"], found["seen"], found["exact"], found["ngram"]) == (12, len(seen), 0, len(seen))
        assert (found["excluded"], metrics[name]["sft"]["n"]) == (excluded, n)
        assert (found["all"]["sft"]["n"], found["clean"]["sft"]["n"]) == (12, clean)
        assert found["examples"][0]["like"].startswith("corpus.jsonl:")
    right = measured(road, "near", "sft")["right"]
    assert metrics["near"]["sft"]["value"] == pytest.approx(np.mean([right[i] for i in range(12) if i not in seen]))
    assert told["near"]["all"]["sft"]["value"] == pytest.approx(np.mean(right))
    assert "knowledge" not in told


def test_gains_are_paired_over_the_same_items(road):
    found = {a["probe"]: a for a in report(road)["attribution"]["abilities"]}
    stages = report(road)["attribution"]["stages"]
    assert [(s["name"], s["from"]) for s in stages] == [("pretrain", None), ("sft", "pretrain"), ("ppo", "sft")]
    before, after = (measured(road, "manners", stage)["right"] for stage in ("pretrain", "sft"))
    point = next(p for p in found["manners"]["points"] if p["model"] == "sft")
    assert point["before"] == "pretrain" and point["gain"] == gained(after, before, 0).as_dict()
    first = found["knowledge"]["points"][0]
    assert (first["before"], first["was"]) == ("chance", pytest.approx(1 / 6))  # six options an item
    assert first["gain"]["value"] == pytest.approx(first["value"] - 1 / 6)
    sft, ppo = found["forgetting"]["points"][1:]
    assert ppo["rise"]["value"] == pytest.approx(sft["rise"]["value"] + ppo["gain"]["value"], abs=1e-9)
    assert (sft["since"], ppo["before"]) == ("pretrain", "sft")


def test_equal_differences_are_not_certain():
    """Twelve items without a difference: up to wilson(0, 12).high = 0.2425 of others may differ; all were right, so
    only for the worse."""
    same = gained([1.0] * 12, [1.0] * 12, seed=0)
    assert (same.value, same.low, same.high, same.n) == (0.0, pytest.approx(-0.2425, abs=1e-4), 0.0, 12)
    rise = gained([1.0] * 12, [0.25] * 12, seed=0)
    assert (rise.value, rise.low, rise.high, rise.n) == (0.75, pytest.approx(0.75 - 0.2425, abs=1e-4), 0.75, 12)
    mixed = ([1.0, 0.0, 1.0], [0.0, 0.0, 1.0])
    assert gained(*mixed, seed=1) == paired_bootstrap(*mixed, seed=1)


def test_paraphrases_are_written_once_by_the_model_that_is_named(copied):
    recipe, out = copied
    bare = [{k: v for k, v in json.loads(line).items() if k != "paraphrases"}
            for line in (recipe.parent / "para.jsonl").read_text().splitlines()]  # fmt: skip
    write_rows(recipe.parent / "para.jsonl", bare)
    changes = (*SOURCES, "evaluate.same={kind: consistency, data: para, paraphraser: sft, paraphrases: 2, "
               "max_new_tokens: 6, after: [sft, ppo], limit: 3}")  # fmt: skip
    run = run_small(recipe, out, *changes)
    (file,) = (run / "measures" / "paraphrases").glob("*.json")
    assert len(read_json(file)) == 3  # what this model writes is hardly a question
    # What stands there is what is asked.
    write_json(file, [[f"What colour is it, the {thing(n)}?"] for n in (70, 71, 72)])
    for old in (run / "measures").glob("same-*.json"):
        old.unlink()
    run_small(recipe, out, *changes)
    (kept,) = (run / "measures").glob("same-ppo-*.json")
    assert [words[1] for words in read_json(kept)["wordings"]] == [
        f"What colour is it, the {thing(n)}?" for n in (70, 71, 72)
    ]


WRONG = {
    "cloze on documents": ("{kind: cloze, data: corpus}", ["data.corpus was read as text", "cloze asks questions"]),
    "cloze without values": ("{kind: cloze, data: held}", ["held.jsonl:1 has no column accept"]),
    "one answer": ("{kind: consistency, data: asked}", ["asked.jsonl:1 has no column paraphrases", "draw several"]),
    "no source": ("{kind: hallucination, data: asked}", ["asked.jsonl:1 has no column source or document"]),
    "no documents": ("{kind: hallucination, data: asked, documents: para}", ["data.para was read as qa", "Give texts"]),
    "no schema": ("{kind: alignment, data: asked, json_schema: s.json}", ["json_schema: ", "s.json: no such file"]),
    "all seen": (
        "{kind: loss, data: corpus, ngram: 4, exclude_contaminated: true}",
        ["every one of the 6 rows of data.corpus", "Give rows that are not trained on"],
    ),
    "no such judge": (
        "{kind: hallucination, data: held, documents: corpus, judge: 'judge.py:ever'}",
        ["Did you mean never?"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_probe_that_cannot_be_measured_says_so_in_one_line(case, copied):
    recipe, out = copied
    probe, parts = WRONG[case]
    with pytest.raises(UserError) as error:
        run_small(recipe, out, *SOURCES, f"evaluate.wrong={probe}")
    assert len(error.value.problems) == 1 and error.value.problems[0].startswith("evaluate.wrong")
    assert all(part in str(error.value) for part in parts), error.value


@pytest.mark.parametrize(
    ("probe", "said"),
    [
        ("{kind: consistency, data: asked, samples: 3}", "at temperature 0 all are the same"),
        ("{kind: consistency, data: asked, paraphrases: 2}", "none is named"),
        ("{kind: consistency, data: asked, paraphraser: sfft}", "Did you mean sft?"),
        ("{kind: hallucination, data: asked, documents: corpsu}", "Did you mean corpus?"),
        ("{kind: hallucination, data: asked, passages: 2}", "no documents are named"),
        ("{kind: alignment, data: asked, regex: '['}", "is no regular expression"),
        ("{kind: alignmnet, data: asked}", "Did you mean alignment?"),
    ],
)
def test_settings_that_contradict_each_other_are_told_with_the_recipe(probe, said, tmp_path):
    recipe = small_world(tmp_path)
    with pytest.raises(UserError, match=said.replace("?", r"\?")):
        load_recipe(recipe, [f"evaluate.wrong={probe}"])
