"""Models on benchmarks: results that name what they measured, go on after a kill, and say which model is better."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from luthier.base.errors import UserError
from luthier.base.files import read_json
from luthier.evals.engine import Watch
from luthier.model.load import save_model

pytest.importorskip("lm_eval")

from luthier.base.recipe import Fresh
from luthier.model.load import fresh_model
from luthier.run.benchmark import Wanted, measure_models
from luthier.tokens.tokenizer import train_tokenizer

ROOT = Path(__file__).parents[2]
TEXT = "Question: Which of the small parts is red?\nAnswer: the lamp, the door, the cup, or the boat."


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two small models and a quiz."""
    root = tmp_path_factory.mktemp("measured")
    tokenizer = train_tokenizer([TEXT] * 4, 300)
    for seed, name in enumerate(("one", "two")):
        module = fresh_model(Fresh(layers=2, width=32, heads=4, context=96, vocab=300), tokenizer, seed)
        save_model(module, tokenizer, root / name, (tokenizer.eos_token_id,))
    rows = [
        {"question": f"Which part is number {n}?", "choices": ["the lamp", "the door", "a cup"], "answer": n % 3}
        for n in range(30)
    ]
    (root / "quiz.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def planned(place, out, names=("one",), **wanted):
    """What is measured, and how many requests each model was sent."""
    sent = []
    found = measure_models(
        [str(place / name) for name in names],
        Wanted((str(place / "quiz.jsonl"),), **wanted),
        out,
        lambda model: Watch(plan=lambda work: sent.append(work.requests)),
    )
    return found, sent


def test_results_say_what_they_are_of_and_what_was_asked_is_kept(place, tmp_path):
    ((measured, _, _), sent) = planned(place, tmp_path / "r")
    (first,) = measured
    results = read_json(tmp_path / "r" / "results.json")["results"]
    assert sent == [90] and {r["metric"] for r in results} == {"acc", "acc_norm"}
    assert results[0]["n"] == results[0]["of"] == 30
    assert re.fullmatch(
        r"quiz:acc v1\.0 \| 0-shot \| plain \| all items \| data [0-9a-f]{12} \| "
        r"lm-eval [\d.]+ \| luthier [\d.]+\+[0-9a-f]{8}",
        results[0]["id"],
    )
    asked = results[0]["tasks"]["quiz"]
    assert asked["prompt"] == "Question: Which part is number 0?\nAnswer:" and asked["shots"] == 0
    items = [json.loads(line) for line in next((tmp_path / "r").glob("items-*.jsonl")).read_text().splitlines()]
    assert sum(item["values"]["acc"] for item in items) / 30 == first.figures["acc"].value
    # Killed in the middle: what was answered is not asked again, and the figures are the same.
    answers = next((tmp_path / "r").glob("answers-*.jsonl"))
    answers.write_text("".join(answers.read_text().splitlines(keepends=True)[:50]) + '["abc')
    ((again, _, _), sent) = planned(place, tmp_path / "r")
    assert sent == [40] and again[0].figures == first.figures


def test_two_models_are_compared_item_by_item(place, tmp_path):
    ((measured, differences, _), _) = planned(place, tmp_path / "r", ("one", "two"))
    assert [one.model.rpartition("/")[2] for one in measured] == ["one", "two"]
    acc = next(d for d in differences if d.metric == "acc")
    mean = lambda one: sum(item.values["acc"] for item in one.items) / 30  # noqa: E731
    assert acc.figure.value == pytest.approx(mean(measured[1]) - mean(measured[0]))
    real = not acc.figure.low <= 0 <= acc.figure.high
    assert ("a real difference" in acc.words) == real and ("not shown" in acc.words) != real


def test_a_subset_and_the_ways_to_ask_wrongly(place, tmp_path):
    ((measured, _, _), sent) = planned(place, tmp_path / "r", limit=7)
    assert sent == [21] and len(measured[0].items) == 7 and measured[0].of == 30
    with pytest.raises(UserError, match="does not say log-likelihoods"):
        measure_models(["http://localhost:9/v1#m"], Wanted((str(place / "quiz.jsonl"),)), tmp_path / "x")
    with pytest.raises(UserError, match="no model of that name"):
        measure_models([str(place / "three")], Wanted((str(place / "quiz.jsonl"),)), tmp_path / "x")
    with pytest.raises(UserError, match="no chat template"):
        measure_models([str(place / "one")], Wanted((str(place / "quiz.jsonl"),), chat=True), tmp_path / "x")


def luthier(*arguments, cwd):
    """The command line, as a person has it."""
    environment = {**os.environ, "COLUMNS": "160", "TERM": "dumb", "NO_COLOR": "1"}
    run = [sys.executable, "-m", "luthier", *arguments]
    return subprocess.run(run, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def test_the_verb(place, tmp_path):
    done = luthier("eval", str(place / "one"), "--tasks", str(place / "quiz.jsonl"), "--offline", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"quiz +acc +0 +30 +\d+\.\d % \[", done.stdout) and "results.json" in done.stdout
    wrong = luthier("eval", str(place / "one"), "--tasks", "arc_esy", "--data", str(place), cwd=tmp_path)
    assert wrong.returncode == 2 and "Did you mean arc_easy?" in wrong.stderr and "Traceback" not in wrong.stderr
    none = luthier("eval", str(place / "one"), cwd=tmp_path)
    assert none.returncode == 2 and "--tasks" in none.stderr


def test_reference_scores_of_a_real_model(shared_data, tmp_path):
    """The table of docs/eval.md: two machines give the same."""
    documented = re.findall(r"\| `(\w+)` \| (\w+) \| (\d+) \| ([\d.]+) %", (ROOT / "docs" / "eval.md").read_text())
    small = {(name, metric): (int(n), float(value)) for name, metric, n, value in documented if name != "mmlu"}
    assert {name for name, _ in small} >= {"arc_easy", "hellaswag", "truthfulqa_mc2"}
    measured, _, _ = measure_models(
        [str(shared_data / "stories260K")],
        Wanted(tuple(dict.fromkeys(name for name, _ in small)), shared_data, limit=100),
        tmp_path,
    )
    found = {(one.benchmark, metric): figure for one in measured for metric, figure in one.figures.items()}
    assert {key: (found[key].n, round(found[key].value * 100, 1)) for key in small} == small
