"""The loop through the data where stages make it: corrections go to the sources, and the next run makes it anew."""

from __future__ import annotations

import json
import shutil

import pytest

from luthier.base.config import load_recipe
from luthier.data.records import read_records
from luthier.run.fix import write_worklist
from luthier.run.mended import apply_worklist
from luthier.run.stages import run_recipe
from luthier.run.story import read_rows
from run.small import RECIPE, stage_folders
from run.test_fix import FAULTS, PROBE, tampered

STAGES = """\
  - {kind: synthesise, name: quoted, data: pages, methods: [rules]}
  - {kind: curate, name: bot, data: [questions, quoted], near: null, conflicts: false, flaws: false, heldout: 0.1}
  - {kind: sft, data: bot, steps: 4, batch_tokens: 512}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(recipe, run's folder, rows) of a run that curates questions and what rules made of pages, and tunes on that."""
    folder = tmp_path_factory.mktemp("fix-made")
    recipe, rows = tampered(folder / "world")
    pages = folder / "world" / "pages"
    pages.mkdir()
    for n in range(6):
        (pages / f"page{n}.md").write_text(
            f"# The {n + 3} lamps of room {n}\n\nRoom {n} has {n + 3} lamps. They are lit at dusk by the porter.\n\n"
            f"## How do I light a lamp in room {n}?\n\nTurn the switch beside door {n}. It is certanly easy.\n"
        )
    text = RECIPE[: RECIPE.index("  - kind: sft")]
    text = text.replace("data:\n  corpus", "data:\n  pages: {path: pages, format: text, heldout: 0}\n  corpus")
    recipe.write_text(text + STAGES + PROBE)
    return recipe, run_recipe(load_recipe(recipe, [f"out={json.dumps(str(folder / 'runs'))}"]), recipe), rows


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished[1].parent, tmp_path / "runs")
    return tmp_path / "runs" / finished[1].name


def test_the_worklist_names_rows_of_the_source(finished, run):
    made = write_worklist(run)
    found = {(e["source"], e["origin"]) for e in made.entries if e["action"] == "correct"}
    assert found == {("questions", origin) for origin in FAULTS}
    records = records_of(run)
    assert made.scanned == len(records)
    quoted = [r for r in records if r.provenance.source == "pages"]
    assert quoted
    (note,) = [note for note in made.notes if "pages" in note]
    wrong = sum("certanly" in (r.example.answer or "") for r in quoted)
    assert note.startswith(f"{wrong} of {len(quoted)} rows that were made of pages by rules that quote look wrong")
    assert "misspelling" in note and "page0.md" in note and "correct the documents of data.pages, and run again" in note
    assert note in (run / "fix" / "worklist.md").read_text()


def test_rows_that_curation_left_out_are_not_on_it(finished, run):
    """One faulty row is taken out of what the stage kept: nobody was trained on it."""
    folder = stage_folders(run)["bot"]
    for side in ("kept", "heldout"):
        lines = (folder / f"{side}.jsonl").read_text().splitlines(keepends=True)
        (folder / f"{side}.jsonl").write_text("".join(x for x in lines if '"questions.jsonl:8"' not in x))
    found = {e["origin"] for e in write_worklist(run).entries if e["action"] == "correct"}
    assert found == set(FAULTS) - {"questions.jsonl:8"}


def test_what_is_accepted_is_curated_and_trained_on(finished, run):
    recipe, _, rows = finished
    applied = apply_worklist(run, write_worklist(run).file, accept_drafts=True)
    assert set(applied.files) == {"questions"} and applied.changed == 3
    assert len(read_rows(applied.files["questions"])) == len(rows)  # all of the source, not only what was chosen
    changes = [word for word in applied.next[1].split() if "=" in word]
    new = run.parent / "small-fixed"
    shutil.copytree(run, new)
    assert run_recipe(load_recipe(recipe, [f"out={json.dumps(str(run.parent))}", *changes]), recipe) == new
    before, after = stage_folders(run), stage_folders(new)
    assert {name for name in before if before[name].name == after[name].name} == {"pretrain", "quoted"}
    said = {r.example.messages[0].content: r.example.answer for r in records_of(new)}
    for origin, (_, _, fixed) in FAULTS.items():
        row = rows[int(origin.partition(":")[2]) - 1]
        expected = fixed.format(c=row["accept"][0]) if fixed else row["answer"]
        assert said[row["question"]] == expected
    assert {
        (e["source"], e["origin"]) for e in write_worklist(new, new / "again").entries if e["action"] == "correct"
    } == {("questions", "questions.fixed.jsonl:30")}


def records_of(run):
    """All that the stage kept or held out."""
    return [r for side in ("kept", "heldout") for r in read_records(stage_folders(run)["bot"] / f"{side}.jsonl")]
