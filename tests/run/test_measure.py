"""The probes: each figure equals what plain transformers gives for the same rows and the saved model."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from luthier.base.config import load_recipe
from luthier.base.errors import RunError, UserError
from luthier.base.events import read_events
from luthier.base.files import read_json
from luthier.base.values import contains
from luthier.data.dataset import read_dataset
from luthier.evals.intervals import Z95
from run.small import documents, run_small, small_world, stage_folders, write_rows

pytestmark = pytest.mark.xdist_group("small road")
STAGES = ("pretrain", "sft", "ppo")
OTHERS = "data.others={path: others.jsonl, format: text, heldout: 0}"
"""Documents that nothing is trained on."""


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """(recipe, run folder), run once; probes on other rows than the small recipe's are added."""
    folder = tmp_path_factory.mktemp("measure")
    recipe = small_world(folder)
    write_rows(folder / "others.jsonl", [{"text": f"{row['text']} So it was."} for row in documents()[:30]])
    changes = [
        "evaluate.by_tokens={kind: choices, data: choices, normalise: tokens, joint: ' now', after: [sft]}",
        "evaluate.by_bytes={kind: choices, data: choices, normalise: bytes, after: [sft]}",
        "evaluate.chats={kind: loss, data: questions, after: [sft, ppo], since: sft}",
        "evaluate.rise={kind: loss, data: corpus, limit: 9, after: [sft], since: pretrain}",
        OTHERS,
        "evaluate.cut={kind: loss, data: others, max_length: 12, heldout_only: false, limit: 20, after: [sft]}",
    ]
    return recipe, run_small(recipe, folder / "out", *changes)


@pytest.fixture
def copied(road, tmp_path):
    """A recipe and a finished run of one's own, to change."""
    shutil.copytree(road[0].parent, tmp_path / "world")
    return tmp_path / "world" / "recipe.yaml", tmp_path / "world" / "out"


def metrics_of(road) -> dict:
    return read_json(road[1] / "report.json")["metrics"]


def plain(run, stage):
    """A stage's model and tokenizer, through transformers alone."""
    folder = stage_folders(run)[stage] / "model"
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def rows(recipe, source: str):
    """A source as the run reads it."""
    return read_dataset(source, load_recipe(recipe).data[source], recipe.parent)


@torch.no_grad()
def logps(model, ids: list[int]) -> torch.Tensor:
    """Log-probs (nats) of every token but the first."""
    logits_LV = model(input_ids=torch.tensor([ids])).logits[0, :-1].float()
    return torch.log_softmax(logits_LV, -1).gather(1, torch.tensor(ids[1:])[:, None]).squeeze(1)


@pytest.mark.parametrize(
    ("probe", "stage", "joint", "divide"),
    [
        *(("knowledge", stage, "", lambda option, tokens: 1) for stage in STAGES),
        ("by_tokens", "sft", " now", lambda option, tokens: tokens),
        ("by_bytes", "sft", "", lambda option, tokens: len(option.encode())),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_choices_pick_the_likeliest_continuation(probe, stage, joint, divide, road):
    model, tokenizer = plain(road[1], stage)
    right = 0
    items = rows(road[0], "choices").train
    for item in items:
        start = tokenizer(item.context + joint)["input_ids"]
        scores = []
        for option in item.options:
            ids = tokenizer(item.context + joint + option)["input_ids"]
            assert ids[: len(start)] == start
            said = logps(model, ids)[len(start) - 1 :]
            scores.append(float(said.sum()) / divide(option, len(said)))
        right += int(np.argmax(scores)) == item.gold
    figure = metrics_of(road)[probe][stage]
    assert (figure["n"], figure["value"]) == (12, pytest.approx(right / 12))
    # Wilson's interval solves (p − x)² = z² x (1 − x) / n at both ends.
    for end in (figure["low"], figure["high"]):
        gap = (figure["value"] - end) ** 2 - Z95**2 * end * (1 - end) / 12
        assert abs(gap) < 1e-9


@pytest.mark.parametrize("stage", STAGES)
def test_loss_is_nats_per_token_of_the_heldout_rows(stage, road):
    model, tokenizer = plain(road[1], stage)
    nats = tokens = 0.0
    heldout = rows(road[0], "corpus").heldout
    for document in heldout:
        ids = [*tokenizer(document.text)["input_ids"], tokenizer.eos_token_id]
        assert ids[0] == tokenizer.bos_token_id
        nats -= float(logps(model, ids).sum())
        tokens += len(ids) - 1
    figure = metrics_of(road)["forgetting"][stage]
    assert figure["loss"]["value"] == pytest.approx(nats / tokens, abs=1e-5)
    assert figure["loss"]["n"] == figure["n"] == len(heldout)


def test_loss_on_conversations_counts_answers_only(road):
    model, tokenizer = plain(road[1], "sft")
    nats = tokens = 0.0
    for chat in rows(road[0], "questions").heldout:
        turns = [{"role": m.role, "content": m.content} for m in chat.messages]
        asked = tokenizer.apply_chat_template(turns[:-1], add_generation_prompt=True, tokenize=False)
        ended = asked + chat.answer + "<|im_end|>"
        start, ids = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in (asked, ended))
        said = logps(model, ids)[len(start) - 1 :]
        nats, tokens = nats - float(said.sum()), tokens + len(said)
    figure = metrics_of(road)["chats"]["sft"]
    assert figure["loss"]["value"] == pytest.approx(nats / tokens, abs=1e-5)
    assert (figure["value"], figure["since"]) == (0, "sft")


def test_a_loss_probe_cuts_and_limits_as_asked(road):
    model, tokenizer = plain(road[1], "sft")
    nats = tokens = 0.0
    for row in documents()[:20]:
        ids = tokenizer(f"{row['text']} So it was.")["input_ids"][:12]
        nats, tokens = nats - float(logps(model, ids).sum()), tokens + len(ids) - 1
    figure = metrics_of(road)["cut"]["sft"]
    assert figure["loss"]["n"] == 20 and figure["loss"]["value"] == pytest.approx(nats / tokens, abs=1e-5)


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_answers_are_greedy_and_count_when_they_hold_the_value(stage, road):
    model, tokenizer = plain(road[1], stage)
    right = 0
    (file,) = (road[1] / "measures").glob(f"answers-{stage}-*.json")
    texts = read_json(file)["texts"]
    for chat, text in zip(rows(road[0], "asked").train, texts, strict=True):
        turns = [{"role": m.role, "content": m.content} for m in chat.prompt]
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        made = model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1] :]
        assert tokenizer.decode(made, skip_special_tokens=True).strip() == text
        right += contains(text, chat.accept)
    figure = metrics_of(road)["answers"][stage]
    assert (figure["n"], figure["value"]) == (12, pytest.approx(right / 12))


def test_win_rate_is_the_raters_and_ties_count_half(road):
    both = []
    for stage in ("ppo", "sft"):
        (file,) = (road[1] / "measures").glob(f"win_rate-{stage}-*.json")
        both.append([row[2] for row in read_json(file)["answers"]])
    rate = lambda text: text.count(".") - 0.1 * len(text)  # noqa: E731  # rater.py of the small world
    won = [0.5 if rate(new) == rate(old) else float(rate(new) > rate(old)) for new, old in zip(*both, strict=True)]
    figure = metrics_of(road)["win_rate"]["ppo_vs_sft"]
    assert figure["value"] == pytest.approx(np.mean(won)) and figure["n"] == 12
    assert figure["ties"] == won.count(0.5) and figure["simulated"] is True
    assert 0 <= figure["low"] <= figure["value"] <= figure["high"] <= 1


def test_a_rise_is_measured_on_the_same_rows(road):
    """The paired interval of a rise is narrower than the two losses' intervals would allow."""
    figures = metrics_of(road)["forgetting"]
    before, after = figures["pretrain"]["loss"], figures["ppo"]["loss"]
    assert figures["ppo"]["value"] == pytest.approx(after["value"] - before["value"], abs=1e-9)
    paired = figures["ppo"]["high"] - figures["ppo"]["low"]
    assert paired < (after["high"] - before["low"]) - (after["low"] - before["high"])


def test_what_was_measured_is_remembered(copied):
    """Only what is new is measured: another limit is another measurement, another `after` is not."""
    recipe, out = copied
    changes = ["evaluate.knowledge={kind: choices, data: choices, limit: 12, after: [ppo]}"]
    before = {p.name: p.stat().st_mtime_ns for p in (out / "small" / "measures").glob("*-*.json")}
    run = run_small(recipe, out, *changes, "evaluate.knowledge.limit=5")
    now = {p.name: p.stat().st_mtime_ns for p in (run / "measures").glob("*-*.json")}
    assert {name: at for name, at in now.items() if name in before} == before
    (fresh,) = set(now) - set(before)
    assert fresh.startswith("knowledge-ppo-")
    assert read_json(run / "report.json")["metrics"]["knowledge"]["ppo"]["n"] == 5
    run_small(recipe, out, *changes)
    again = {p.name for p in (run / "measures").glob("*-*.json")}
    assert again == set(now), "12 items after ppo had been measured already"


def test_what_a_rise_is_measured_from_is_measured_though_it_is_not_asked_for(road):
    found = metrics_of(road)["rise"]
    assert list(found) == ["pretrain", "sft"] and found["sft"]["since"] == "pretrain"
    before, after = (found[stage]["loss"]["value"] for stage in found)
    assert found["sft"]["value"] == pytest.approx(after - before, abs=1e-9)  # the same tokens on both sides


def test_changed_rows_are_measured_again(copied):
    recipe, out = copied
    before = {p.name for p in (out / "small" / "measures").glob("*-*.json")}
    path = recipe.parent / "choices.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[:7]) + "\n")
    run = run_small(recipe, out)
    fresh = {p.name for p in (run / "measures").glob("*-*.json")} - before
    assert sorted(name.rsplit("-", 1)[0] for name in fresh) == [f"knowledge-{s}" for s in ("ppo", "pretrain", "sft")]
    assert read_json(run / "report.json")["metrics"]["knowledge"]["sft"]["n"] == 7


WRONG = {
    "choices on documents": (
        "{kind: choices, data: others}",
        ["evaluate.wrong", "data.others was read as text", "query, choices and gold"],
    ),
    "answers on documents": (
        "{kind: answers, data: others}",
        ["evaluate.wrong", "data.others was read as text", "Give conversations"],
    ),
    "loss without held-out rows": ("{kind: loss, data: asked}", ["evaluate.wrong", "data.asked", "Raise its heldout"]),
    "a model of no stage": ("{kind: choices, data: choices, after: [sfft]}", ["sfft", "Did you mean sft?"]),
    "a reward model": ("{kind: choices, data: choices, after: [reward]}", ["reward", "no language model"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_probe_that_cannot_be_measured_says_why(case, copied):
    recipe, out = copied
    probe, parts = WRONG[case]
    with pytest.raises(UserError) as error:
        run_small(recipe, out, OTHERS, f"evaluate.wrong={probe}")
    assert all(part in str(error.value) for part in parts), error.value


def test_a_probe_on_trained_rows_is_refused_though_the_training_is_done(copied):
    recipe, out = copied
    with pytest.raises(RunError, match=r"guard: no leak: 11\d evaluation rows are also trained on \(questions"):
        run_small(recipe, out, "evaluate.wrong={kind: answers, data: questions}")


def test_answers_without_a_value_to_hold_are_refused(copied):
    recipe, out = copied
    path = recipe.parent / "asked.jsonl"
    bare = [{"question": r["question"], "answer": r["answer"]} for r in map(json.loads, path.read_text().splitlines())]
    path.write_text("".join(json.dumps(row) + "\n" for row in bare))
    with pytest.raises(UserError, match=r"asked\.jsonl:1 has no column accept"):
        run_small(recipe, out)


def test_figures_are_told_as_events(road):
    told = [e for e in read_events(road[1] / "events.jsonl") if e["kind"] == "eval"]
    names = {e["name"] for e in told}
    assert {"knowledge.sft", "answers.ppo", "forgetting.pretrain", "win_rate.ppo_vs_sft"} <= names
    values = {e["name"]: e["value"] for e in told}
    assert values["knowledge.sft"] == metrics_of(road)["knowledge"]["sft"]["value"]
