"""A `win_rate` with a judge: it is examined before it is believed, asked once, and called what it is."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from evals.server import Answer, says, serving
from luthier.base.config import load_recipe
from luthier.base.errors import UserError
from luthier.base.files import read_json
from luthier.base.rubric import Rubric
from luthier.base.rubric_file import rubric_of
from luthier.console import closing
from luthier.run.against.arena import count_votes
from luthier.run.judged_words import is_simulated
from luthier.run.report import write_report
from run.small import RECIPE, run_small, small_world, write_rows

pytestmark = pytest.mark.xdist_group("small road")
RUBRIC = "{criteria: Names a colour. Nothing simulated., reasons: false}"
STAGES = RECIPE.partition("  - kind: prefer")[0]


def world(folder: Path, probe: str, stages: str = "") -> Path:
    """The small world, trained as far as sft, with one win rate."""
    recipe = small_world(folder)
    given = f"{{kind: win_rate, data: asked, stages: [sft, pretrain], max_new_tokens: 8, {probe}}}"
    recipe.write_text(f"{STAGES}{stages}evaluate:\n  liked: {given}\n")
    return recipe


def shown(asked) -> tuple[str, str]:
    """The two answers that a judge is asked about."""
    found = [re.search(rf"\[Answer {x}\]\n(.*?)\n\[End", asked["messages"][0]["content"], re.DOTALL) for x in "AB"]
    return found[0][1], found[1][1]


def e_lover(asked, before):
    """Likes the answer with more e; says nothing where the filter strikes: at a question of the lamp."""
    if "lamp" in asked["messages"][0]["content"]:
        return says(None, finish="content_filter")
    first, second = (text.count("e") for text in shown(asked))
    return says("Verdict: tie" if first == second else f"Verdict: {'A' if first > second else 'B'}")


def people(folder: Path, right: int, of: int = 60) -> None:
    """Votes on pairs whose answer b has more e. The judge is right about so many of them; the longer answer about a
    third."""
    rows = []
    for n in range(of):
        said = {"answer_a": "xx" + "x" * (n % 3), "answer_b": "eex" if n % 3 else "eexx"}
        rows.append({"a": "x", "b": "y", "prompt": f"p{n}", **said, "winner": "b" if n < right else "a"})
    # What nobody would say b of: without it there is one verdict only, and no kappa.
    rows += [
        {"a": "x", "b": "y", "prompt": f"q{n}", "answer_a": "ee", "answer_b": "xx", "winner": "a"} for n in range(20)
    ]
    write_rows(folder / "votes.jsonl", rows)


def figure_of(run: Path) -> dict:
    """The win rate in report.json."""
    return read_json(run / "report.json")["metrics"]["liked"]["sft_vs_pretrain"]


def told_of(run: Path) -> str:
    """The closing table of `luthier run`."""
    console = Console(file=io.StringIO(), width=400)
    closing(read_json(run / "report.json"), console)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """(recipe, run, what the judge was asked) of a run whose judge people's votes bear out."""
    folder = tmp_path_factory.mktemp("judged")
    with serving(e_lover) as served:
        probe = f'judge: "{served.url}#critic", rubric: {RUBRIC}, votes: votes.jsonl'
        recipe = world(folder / "world", probe)
        people(folder / "world", right=54)
        run = run_small(recipe, folder / "runs")
        yield recipe, run, served


def test_the_win_rate_is_what_the_judge_says(judged):
    """The answers that were measured, counted here by the judge's own rule."""
    _, run, served = judged
    kept = {stage: read_json(next((run / "measures").glob(f"liked-{stage}-*.json"))) for stage in ("sft", "pretrain")}
    pairs = list(zip(kept["sft"]["answers"], kept["pretrain"]["answers"], strict=True))
    asked = [(n[2], o[2]) for n, o in pairs if "lamp" not in n[1][-1][1] or n[2].strip() == o[2].strip()]
    gaps = [new.count("e") - old.count("e") for new, old in asked]
    won = [0.5 if gap == 0 else float(gap > 0) for gap in gaps]
    figure = figure_of(run)
    assert (figure["value"], figure["n"]) == (pytest.approx(sum(won) / len(won)), len(won))
    assert figure["ties"] == won.count(0.5) and figure["low"] <= figure["value"] <= figure["high"]
    facts = figure["judge"]
    assert facts["asked"] == 12 and sum(facts["skipped"].values()) == 12 - len(won) > 0
    assert list(facts["skipped"]) == ["its content filter withheld the answer"]
    # Every question is asked in both orders, and with the recipe's rubric.
    pairs_asked = Counter(shown(one) for one in served.asked)
    assert all(pairs_asked[b, a] == count for (a, b), count in pairs_asked.items())
    assert all("Criteria: Names a colour. Nothing simulated." in one["messages"][0]["content"] for one in served.asked)
    assert all("Reply with one line" in one["messages"][0]["content"] for one in served.asked)
    voted = count_votes(run / "measures/verdicts/liked.jsonl", None, 0)
    assert voted.whole.votes == len(won)


def test_the_judge_is_examined_first(judged):
    _, run, served = judged
    early = [one["messages"][0]["content"] for one in served.asked[:160]]  # 80 pairs in two orders
    assert all(re.search(r"\nuser: [pq]\d+\n", text) for text in early)
    facts = figure_of(run)["judge"]
    # It says b 60 times and a 20 times; people agree 54 + 20 times of 80.
    assert facts["people"]["agreement"]["value"] == pytest.approx(74 / 80)
    # a has 2, 3, 4 signs, b 4, 3, 3: b is the longer in 20 of 60 pairs, of which people say b in 18, as they do of the
    # pairs with n % 3 = 1 and 2, which are a tie and "a": 18 + 2 right where people said a (n >= 54, n % 3 = 2), and
    # of the 20 others none (equal lengths).
    assert facts["people"]["length_agreement"]["value"] == pytest.approx((18 + 2) / 80)
    # Chance: (60·54 + 20·26) / 80² = 0.5875.
    assert facts["people"]["kappa"]["value"] == pytest.approx((74 / 80 - 0.5875) / (1 - 0.5875))
    assert facts["reliable"] is True and facts["standing"] == "reliable"
    assert facts["bias"]["consistent"]["value"] == 1.0
    page = (run / "report.html").read_text()
    assert "in the eyes of critic, a judge that people&#39;s votes bear out" in page and 'id="judges"' in page
    assert "Cohen&#39;s κ" in page and "its content filter withheld the answer" in page
    assert "more often than always taking the longer answer" in told_of(run)


def test_a_program_is_simulated_and_a_judge_is_not(judged):
    _, run, _ = judged
    report = read_json(run / "report.json")
    assert "simulated" in str(report["metrics"])  # a word of the rubric
    assert report["simulated"] is False and "simulated" not in figure_of(run)
    assert "simulated" not in told_of(run)
    assert is_simulated({"liked": {"ppo_vs_sft": {"value": 0.5, "simulated": True}}})


def test_nothing_is_asked_twice(judged):
    """Nor the answers drawn again, when the judge's settings are others: only what is new to the judge is asked."""
    recipe, run, served = judged
    figure, before = figure_of(run), len(served.asked)
    withheld = sum("lamp" in one["messages"][0]["content"] for one in served.asked)
    (file,) = (run / "measures/judges").glob("critic-*.jsonl")
    whole = file.read_bytes()
    run_small(recipe, run.parent)
    assert len(served.asked) == before + withheld and file.read_bytes() == whole and figure_of(run) == figure
    # A kill in the middle of a line, with some replies gone: those alone are asked for.
    cut = whole[: len(whole) * 2 // 3]
    gone = whole.count(b"\n") - cut.count(b"\n")
    file.write_bytes(cut)
    before = len(served.asked)
    run_small(recipe, run.parent)
    assert len(served.asked) == before + withheld + gone and figure_of(run) == figure
    measures = sorted((run / "measures").glob("liked-*"))
    run_small(recipe, run.parent, "evaluate.liked.rubric=Be short.", "evaluate.liked.votes=null")
    assert sorted((run / "measures").glob("liked-*")) == measures
    assert "Criteria: Be short." in served.asked[-1]["messages"][0]["content"]
    assert figure_of(run)["judge"]["standing"] == "unverified"
    page = (run / "report.html").read_text()
    assert "By the word of critic, a judge that nobody has checked" in page and "unverified: nobody has checked" in page
    assert "unverified: nobody has checked this judge" in told_of(run)
    # One that does worse than a ruler: people like the other answer.
    people(recipe.parent, right=6)
    run_small(recipe, run.parent)
    facts = figure_of(run)["judge"]
    assert facts["reliable"] is False and facts["standing"] == "unreliable" and facts["trust"].startswith("unreliable")
    assert "By the word of critic, a judge that is not reliable" in write_report(run).read_text()
    assert "unreliable: " in told_of(run)


def test_rows_seen_in_training_leave_the_judges_figure_too(tmp_path):
    """Two of twelve questions are trained on: the judge is asked about all once, and both figures are its."""
    with serving(lambda asked, before: says("Verdict: A")) as served:
        recipe = world(tmp_path / "world", f'judge: "{served.url}#m", exclude_contaminated: true, ngram: 6')
        with open(tmp_path / "world/questions.jsonl", "a") as file:
            for row in map(json.loads, (tmp_path / "world/asked.jsonl").read_text().splitlines()[:2]):
                file.write(json.dumps(row | {"question": f"Say it. {row['question']}"}) + "\n")
        run = run_small(recipe, tmp_path / "runs")
    report = read_json(run / "report.json")
    seen = report["contamination"]["liked"]
    assert seen["excluded"] and seen["seen"] == 2 and seen["clean"]["sft_vs_pretrain"]["n"] == 10
    assert seen["all"]["sft_vs_pretrain"]["n"] == 12
    assert max(Counter(json.dumps(one) for one in served.asked).values()) == 1
    # It always takes the first: no verdict holds in both orders.
    figure = figure_of(run)
    assert figure["value"] == 0.5 and figure["ties"] == figure["n"]
    assert figure["judge"]["bias"]["first"] > 0 and figure["judge"]["bias"]["consistent"]["value"] == 0


def test_a_judge_that_says_nothing_leaves_no_figure_and_is_named(tmp_path):
    """A stage of the recipe, whose context is too short for the question; the run ends well and says so."""
    recipe = world(tmp_path / "world", "judge: sft, judge_tokens: 4, votes: votes.jsonl")
    people(tmp_path / "world", 5, 6)
    run = run_small(recipe, tmp_path / "runs")
    found = figure_of(run)
    assert "value" not in found and found["judge"]["asked"] == sum(found["judge"]["skipped"].values()) == 12
    assert all("fills the context of 96" in why for why in found["judge"]["skipped"])
    page = (run / "report.html").read_text()
    assert "0 of 12 pairs have a verdict" in page and "it judges its own answers" in page
    assert "no verdict on any pair that people voted on" in page
    assert "12 of 12 pairs have no verdict" in told_of(run)


def test_a_stage_that_has_learned_to_judge(tmp_path):
    """Taught on questions as a judge is asked them, a stage says A or B; greedy, so that it says the same again."""
    critic = (
        "  - {kind: sft, name: critic, data: verdicts, init: pretrain, epochs: 3, batch_tokens: 2048, "
        "learning_rate: 5.0e-3}\n"
    )
    recipe = world(tmp_path / "world", "judge: critic, judge_tokens: 16, limit: 4", critic)
    text = recipe.read_text().replace("context: 96", "context: 1024")
    recipe.write_text(
        text.replace("  asked: {", "  verdicts: {path: verdicts.jsonl, format: qa, heldout: 0}\n  asked: {")
    )
    end = "Then end with one line: Verdict: A, Verdict: B or Verdict: tie."
    rows = [{"question": f"Compare two answers. {n} {end}", "answer": "Verdict: A"} for n in range(100)]
    write_rows(tmp_path / "world/verdicts.jsonl", rows)
    run = run_small(recipe, tmp_path / "runs")
    found = figure_of(run)
    assert found["n"] == 4 and found["value"] == 0.5 and not found["judge"]["skipped"]
    assert found["judge"]["bias"]["first"] == 4


def test_what_a_judge_lacks_is_told_before_the_first_stage(tmp_path, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    recipe = world(
        tmp_path / "world", 'judge: "http://127.0.0.1:9/v1#m", key_env: NO_SUCH_KEY, rubric: r.yaml, votes: votes.jsonl'
    )
    (recipe.parent / "r.yaml").write_text("criterai: x\n")
    write_rows(recipe.parent / "votes.jsonl", [{"a": "sft", "b": "other", "prompt": "p", "winner": "a"}])
    with pytest.raises(UserError) as error:
        run_small(recipe, tmp_path / "runs")
    assert [line.partition(": ")[2].replace(f"{recipe.parent}/", "") for line in error.value.problems] == [
        "judge: NO_SUCH_KEY: the environment has no such variable. Set it: export NO_SUCH_KEY=…",
        "rubric: r.yaml:1: criterai: no such setting. Did you mean criteria?",
        "votes: votes.jsonl:1: it has no prompt and answers of its own, and none of this comparison's.",
    ]
    assert not list((tmp_path / "runs").glob("small/*-*"))


def test_a_refused_key_is_told_and_the_run_goes_on_from_there(tmp_path):
    with serving(lambda asked, before: Answer(b'{"error": "no"}', 401)) as served:
        recipe = world(tmp_path / "world", f'judge: "{served.url}#m"')
        with pytest.raises(UserError, match="it wants a key"):
            run_small(recipe, tmp_path / "runs")
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs/small").glob("*/model/*.safetensors")}
    with serving(e_lover) as served:
        run = run_small(recipe, tmp_path / "runs", f"evaluate.liked.judge={served.url}#m")
    assert figure_of(run)["n"] > 0
    assert made and made == {path: path.stat().st_mtime_ns for path in run.glob("*/model/*.safetensors")}


MISTAKES = [
    ("limit: 3", "", "has nobody who compares the answers. Give rater: path/file.py:name, a program, or judge: a model "
     "(https://host/v1#model, or the name of a stage)."),
    ("judge: sft, rater: rater.py:rate", ".judge", "is set, and so is rater (rater.py:rate). Keep one of them."),
    ("rater: rater.py:rate, votes: asked.jsonl", ".votes",
     "is for a judge, and there is none. Give judge, or remove it."),
    ("rater: rater.py:rate, rubric: {reasons: false}", ".rubric",
     "is for a judge, and there is none. Give judge, or remove it."),
    ("judge: stf", ".judge", 'no stage "stf" is in this recipe. Did you mean sft? There are: base, pretrain, sft.'),
    ("judge: rater.py:rate", ".judge",
     "rater.py:rate is a program, and programs are raters. Write rater: rater.py:rate."),
    ('judge: "http://h/v1"', ".judge", "http://h/v1: which of its models? Write it behind a #: https://host/v1#model."),
    ("judge: sft, key_env: KEY", ".key_env", "is for an endpoint, and sft is none. Remove it."),
    ('judge: "http://h/v1#m", key_env: sk-1-2', ".key_env",
     "is no name of an environment variable. Write the variable's name, never the key itself."),
    ("judge: sft, votes: aksed.jsonl", ".votes", "aksed.jsonl: no such file. Did you mean asked.jsonl?"),
    ("judge: sft, rubric: mine.yaml", ".rubric", "mine.yaml: no such file."),
    ("judge: sft, rubric: {criterai: x}", ".rubric.criterai", "no such setting. Did you mean criteria?"),
    ("judge: sft, rubric: 3", ".rubric", "3 is not a group of settings or text."),
    ("judge: sft, criteria: x", ".criteria", "no such setting. Did you mean rubric.criteria?"),
]  # fmt: skip


@pytest.mark.parametrize(("probe", "setting", "told"), MISTAKES, ids=[probe for probe, _, _ in MISTAKES])
def test_one_mistake_is_told_on_its_line(tmp_path, monkeypatch, probe, setting, told):
    recipe = world(tmp_path, probe)
    monkeypatch.chdir(tmp_path)
    line = recipe.read_text().count("\n")
    with pytest.raises(UserError) as error:
        load_recipe(Path("recipe.yaml"))
    assert error.value.problems == [f"recipe.yaml:{line}: evaluate.liked{setting and '.win_rate'}{setting}: {told}"]


def test_rubrics_of_a_recipe(tmp_path):
    (tmp_path / "r.yaml").write_text("criteria: Short.\nreasons: false\n")
    assert rubric_of("r.yaml", tmp_path / "recipe.yaml") == Rubric(criteria="Short.", reasons=False)
    assert rubric_of("Be short.", tmp_path / "recipe.yaml") == Rubric(criteria="Be short.")
    assert rubric_of(None, tmp_path / "recipe.yaml") == Rubric()
    loaded = load_recipe(world(tmp_path, f"judge: sft, rubric: {RUBRIC}"))
    assert loaded.evaluate["liked"].rubric == Rubric(criteria="Names a colour. Nothing simulated.", reasons=False)
