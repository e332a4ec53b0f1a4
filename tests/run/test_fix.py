"""The loop through the data: what a run learned wrong is found in its rows, corrected, and measured again."""

import io
import json
import shutil
from math import isclose
from pathlib import Path

import pytest
from rich.console import Console
from scipy.stats import binomtest

from luthier.base.config import load_recipe
from luthier.base.errors import UserError
from luthier.base.files import read_json, write_json, write_jsonl
from luthier.run.fix import draft_of, trimmed, write_worklist
from luthier.run.mended import apply_worklist, before_after, mcnemar
from luthier.run.report import write_report
from luthier.run.stages import run_recipe
from luthier.run.story import read_rows
from luthier.verbs.fixing import fix
from run.small import RECIPE, small_world, write_rows

PROBE = """\
evaluate:
  wrong:
    kind: mistakes
    data: asked
    max_new_tokens: 12
    limit: 8
    judging: {max_words: 8, names_from: [corpus]}
"""
FAULTS = {
    "questions.jsonl:3": ("misspelling", "It is certanly {c}.", "It is certainly {c}."),
    "questions.jsonl:8": ("repetitive", "It is {c}. It is {c}. It is {c}. It is {c}.", "It is {c}."),
    "questions.jsonl:20": ("too_long", "It is {c}. We like to look at it here.", "It is {c}."),
    "questions.jsonl:30": ("wrong_value", "It is purple.", None),
}  # fmt: skip


def tampered(folder: Path) -> tuple[Path, list[dict]]:
    """The small world's recipe down to tuning, with faults in four rows of its questions."""
    recipe = small_world(folder)
    rows = read_rows(folder / "questions.jsonl")
    for origin, (_, text, _) in FAULTS.items():
        row = rows[int(origin.partition(":")[2]) - 1]
        row["answer"] = text.format(c=row["accept"][0])
        row["kept"] = "of the row"
    write_rows(folder / "questions.jsonl", rows)
    recipe.write_text(RECIPE[: RECIPE.index("  - kind: prefer")] + PROBE)
    return recipe, rows


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(recipe, run's folder, rows) of a finished small run; copied by the tests that write into it."""
    folder = tmp_path_factory.mktemp("fix")
    recipe, rows = tampered(folder / "world")
    return recipe, run_recipe(load_recipe(recipe, [f"out={json.dumps(str(folder / 'runs'))}"]), recipe), rows


@pytest.fixture
def run(finished, tmp_path):
    return Path(shutil.copytree(finished[1], tmp_path / "runs" / "small"))


def test_the_rows_that_are_wrong_are_found_with_drafts(finished, run):
    _, _, rows = finished
    made = write_worklist(run)
    assert made.scanned == len(rows)
    found = {e["origin"]: e for e in made.entries if e["action"] == "correct"}
    assert set(found) == set(FAULTS)
    for origin, (category, _, draft) in FAULTS.items():
        entry, accept = found[origin], rows[int(origin.partition(":")[2]) - 1]["accept"][0]
        assert entry["categories"][0] == category and entry["accept"] is None
        assert entry["draft"] == (draft and draft.format(c=accept)), entry
        assert all(e["text"] in entry["old"] for e in entry["evidence"])
    assert read_rows(made.file) == made.entries
    page = (run / "fix" / "worklist.md").read_text()
    assert all(f"`{origin}`" in page for origin in FAULTS)


def test_accepted_drafts_make_a_data_set_beside_the_original(finished, run):
    recipe, _, rows = finished
    before = (recipe.parent / "questions.jsonl").read_bytes()
    made = write_worklist(run)
    applied = apply_worklist(run, made.file, accept_drafts=True)
    assert (applied.changed, applied.drafts_unread, applied.removed, applied.added) == (3, 3, 0, 0)
    assert (recipe.parent / "questions.jsonl").read_bytes() == before
    fixed = read_rows(applied.files["questions"])
    assert [row["origin"] for row in fixed] == [f"questions.jsonl:{i + 1}" for i in range(len(rows))]
    for row, new in zip(rows, fixed, strict=True):
        fault = FAULTS.get(new["origin"], ("", "", None))
        right = fault[2].format(c=row["accept"][0]) if fault[2] else row["answer"]
        assert new["messages"][-1]["content"] == right and new["accept"] == row["accept"]
        assert ("fixed" in new) == (fault[2] is not None)
        assert new.get("kept") == row.get("kept")


def test_training_again_on_the_corrected_rows(finished, run):
    recipe, _, _ = finished
    applied = apply_worklist(run, write_worklist(run).file, accept_drafts=True)
    changes = [word for word in applied.next[1].split() if "=" in word]
    new = run.parent / "small-fixed"
    shutil.copytree(run, new)
    done = run_recipe(load_recipe(recipe, [f"out={json.dumps(str(run.parent))}", *changes]), recipe)
    assert done == new
    stages = [read_json(folder / "stage.json") for folder in sorted(new.glob("[0-9]-*")) if folder.is_dir()]
    kinds = [stage["kind"] for stage in stages]
    assert kinds.count("pretrain") == 1 and kinds.count("sft") == 2  # what the data does not change is not run again
    assert {e["origin"] for e in write_worklist(new, new / "again").entries if e["action"] == "correct"} == {
        "questions.fixed.jsonl:30"
    }
    assert before_after(run, new)[0].difference is not None


def edited(run: Path, **edits) -> Path:
    """The worklist with entries changed: origin with _ for everything but letters and digits -> new keys."""
    made = write_worklist(run)
    entries = [dict(e) for e in made.entries]
    for entry in entries:
        entry.update(edits.get(f"row_{entry.get('origin', '').partition(':')[2]}", {}))
    write_jsonl(made.file, entries)
    return made.file


def contents(file: Path) -> dict[str, str]:
    return {row["origin"]: row["messages"][-1]["content"] for row in read_rows(file)}


def test_a_person_decides(run):
    file = edited(
        run, row_3={"accept": False}, row_8={"accept": True}, row_20={"new": "It is so."}, row_30={"accept": "remove"}
    )
    applied = apply_worklist(run, file, out=run / "out")
    assert (applied.changed, applied.removed, applied.drafts_unread) == (2, 1, 0)
    said = contents(applied.files["questions"])
    assert said["questions.jsonl:20"] == "It is so." and "certanly" in said["questions.jsonl:3"]
    assert said["questions.jsonl:8"].count("It is") == 1 and "questions.jsonl:30" not in said


def test_nothing_accepted_writes_nothing(run):
    applied = apply_worklist(run, write_worklist(run).file)
    assert applied.files == {} and applied.next == [] and not list((run / "fix").glob("*.fixed.jsonl"))


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ({"row_30": {"accept": True}}, "new: is empty"),
        ({"row_3": {"accept": "yes"}}, "is not true, false"),
        ({"row_3": {"accept": 1}}, "is not true, false"),
        ({"row_3": {"accept": True, "old": "It was."}}, "has changed since"),
        ({"row_3": {"accept": True, "turn": 7}}, "has no answer questions.jsonl:3"),
        ({"row_3": {"action": "mend"}}, "is not correct or add"),
    ],
)
def test_what_cannot_be_applied_is_told_with_its_line(run, edits, said):
    with pytest.raises(UserError, match=said) as error:
        apply_worklist(run, edited(run, **edits))
    assert "worklist.jsonl:" in str(error.value) and not list((run / "fix").glob("*.fixed.jsonl"))


def test_rows_are_added_but_no_test_question(run):
    rows = read_rows(run / "mistakes" / "wrong.jsonl")
    rows[-1]["findings"] = [{"category": "wrong_value", "start": 0, "end": 0, "why": "", "severity": 0.9}]
    write_jsonl(run / "mistakes" / "wrong.jsonl", rows)
    made = write_worklist(run)
    (add,) = [e for e in made.entries if e["action"] == "add"]
    assert add["asked"] == rows[-1]["prompt"] and add["nearest"][0]["origin"].startswith("questions.jsonl:")
    good = add | {"question": "Which colour has the moon 1?", "new": "It is grey.", "accept": True}
    write_jsonl(made.file, [good])
    applied = apply_worklist(run, made.file)
    assert (
        applied.added == 1 and read_rows(applied.files["questions"])[-1]["messages"][0]["content"] == good["question"]
    )
    write_jsonl(made.file, [good | {"question": add["asked"].upper()}])
    with pytest.raises(UserError, match="is a test question"):
        apply_worklist(run, made.file)


def test_a_persons_work_is_not_overwritten(run):
    edited(run, row_3={"accept": True})
    with pytest.raises(UserError, match="holds 1 decisions"):
        write_worklist(run)
    assert write_worklist(run, run / "other").file.exists()


def test_a_run_without_the_probe_is_told_what_to_add(run):
    resolved = read_json(run / "resolved.json") | {"evaluate": {}}
    write_json(run / "resolved.json", resolved)
    with pytest.raises(UserError, match="kind: mistakes"):
        write_worklist(run)


def test_trimming_keeps_the_value():
    text = "Happy to help! Let me think. The Altair is 114 mm wide. There is more to say. And more."
    assert trimmed(text, 12, ("114 mm",)) == "Happy to help! Let me think. The Altair is 114 mm wide."
    assert trimmed(text, 7, ("114 mm",)) == "The Altair is 114 mm wide."
    assert trimmed(text, 6) == "Happy to help! Let me think."
    assert trimmed("one two three four five", 3) is None


def test_a_draft_never_costs_the_value():
    from luthier.base.mistakes import Judging
    from luthier.evals.mistakes import Facts, judge, prepare

    how = prepare(Judging(max_words=3), Path())
    facts = Facts("Where?", "In a house by the sea near the old port of Lyon", ("Lyon",))
    assert draft_of(facts, judge(facts, how), how) == (None, [])


def test_mcnemar_is_scipys_binomial_test():
    for fell, rose in ((0, 0), (1, 0), (8, 2), (5, 5), (30, 12)):
        expected = binomtest(fell, fell + rose, 0.5).pvalue if fell + rose else 1.0
        assert isclose(mcnemar(fell, rose), expected, rel_tol=1e-12)


def fake_answers(run: Path, wrong: list[bool], prompts: list[str]) -> None:
    """Answers of a stage, some with a misspelling."""
    finding = {"category": "misspelling", "start": 0, "end": 1, "why": "", "severity": 0.3}
    rows = [
        {"after": "sft", "item": i, "origin": f"a:{i}", "prompt": p, "accept": ["x"], "reference": None, "answer": "x",
         "ended": True, "right": True, "findings": [finding] * bad}
        for i, (bad, p) in enumerate(zip(wrong, prompts, strict=True))
    ]  # fmt: skip
    write_jsonl(run / "mistakes" / "wrong.jsonl", rows)


def test_before_and_after_are_paired_where_the_prompts_are_the_same(run, tmp_path):
    new = Path(shutil.copytree(run, tmp_path / "new"))
    prompts = [f"p{i}" for i in range(40)]
    fake_answers(run, [i < 12 for i in range(40)], prompts)
    fake_answers(new, [i < 2 or i == 39 for i in range(40)], prompts)
    changes = {c.category: c for c in before_after(run, new)}
    found = changes["misspelling"]
    assert (found.before.value, found.after.value) == (0.3, 0.075) and isclose(found.fall_frac, 0.75)
    assert found.difference.high < 0 and isclose(found.p, binomtest(10, 11, 0.5).pvalue)
    assert "the difference is real" in found.words and changes["right"].difference.value == 0
    fake_answers(new, [False] * 40, [f"q{i}" for i in range(40)])
    assert before_after(run, new)[0].difference is None


def test_the_command_says_what_to_do_next(run, monkeypatch):
    monkeypatch.chdir(run.parent.parent)
    console = Console(record=True, width=120, file=io.StringIO())
    fix("small", console=console)
    fix("small", apply=run / "fix" / "worklist.jsonl", accept_drafts=True, console=console)
    fix("small", before="small", console=console)
    text = console.export_text()
    for words in ("4 of 120 trained answers look wrong", "certanly → certainly", "--fix --apply", "nobody has read",
                  "cp -r", "luthier run", "no difference"):  # fmt: skip
        assert words in text, words
    for wrong in ({"accept_drafts": True}, {"before": "small", "accept_drafts": True}):
        with pytest.raises(UserError):
            fix("small", console=console, **wrong)


def test_the_report_shows_what_is_wrong_and_escapes_it(run):
    report = read_json(run / "report.json")
    found = report["metrics"]["wrong"]
    assert found["any"]["sft"]["n"] == 8 and "low" in found["any"]["sft"]
    found["worst"][0]["answer"] = "<script>alert(1)</script> retrun"
    found["worst"][0]["findings"] = [{"category": "misspelling", "start": 26, "end": 32, "why": "x", "severity": 0.3}]
    write_json(run / "report.json", report)
    page = write_report(run).read_text()
    assert 'id="wrong"' in page and '<mark title="misspelt">retrun</mark>' in page
    assert "<script>alert(1)" not in page and "&lt;script&gt;alert(1)" in page
    assert all(near["origin"] in page for near in found["worst"][0]["nearest"])


def test_settings_that_contradict_are_told(tmp_path):
    recipe, _ = tampered(tmp_path)
    with pytest.raises(UserError) as error:
        load_recipe(recipe, ["evaluate.wrong.samples=3", "evaluate.wrong.judging.names_from=[korpus]"])
    assert "Raise temperature" in str(error.value) and "Did you mean corpus?" in str(error.value)
    with pytest.raises(UserError, match="is no regular expression"):
        load_recipe(recipe, ['evaluate.wrong.judging.pattern="(a"'])


def test_questions_that_were_trained_on_are_counted_and_left_out(finished, tmp_path):
    """Two of the eight questions stand in the corpus."""
    source, _, _ = finished
    folder = Path(shutil.copytree(source.parent, tmp_path / "world"))
    asked = read_rows(folder / "asked.jsonl")
    said = [row.get("prompt") or row.get("question") or row["messages"][0]["content"] for row in asked[:2]]
    with (folder / "corpus.jsonl").open("a") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in said)
    recipe = folder / source.name
    for exclude, counted in ((False, 8), (True, 6)):
        changes = [f"out={json.dumps(str(tmp_path / 'runs'))}", f"evaluate.wrong.exclude_contaminated={exclude}"]
        run = run_recipe(load_recipe(recipe, changes), recipe)
        report = read_json(run / "report.json")
        told = report["contamination"]["wrong"]
        assert (told["rows"], told["seen"], told["exact"], told["excluded"]) == (8, 2, 2, exclude)
        assert {figure["n"] for figure in report["metrics"]["wrong"]["any"].values()} == {counted}
        assert {figure["n"] for key, figure in told["clean"].items() if key.startswith("any.")} == {6}
        kept = read_rows(run / "mistakes" / "wrong.jsonl")
        assert len(kept) == counted * len(report["metrics"]["wrong"]["any"])
        assert exclude == {row["origin"] for row in kept}.isdisjoint({"asked.jsonl:1", "asked.jsonl:2"})
