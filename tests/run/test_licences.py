"""Licences of a whole run: its sources and what its stages made, by the verb and by the recipe's policy."""

from __future__ import annotations

import json

import pytest

from luthier.base.config import load_recipe
from luthier.base.errors import RunError, UserError
from luthier.base.files import write_json
from luthier.base.licences import LicencePolicy
from luthier.base.nouns import Chat, Message, Provenance, Record
from luthier.cli import app
from luthier.data.records import write_records
from luthier.run.licences import licensed_recipe, licensed_run, require_made, trained_names
from luthier.run.stages import check_recipe
from run.small import small_world
from run.test_suitable import RECIPE

SFT = "  - {kind: sft, data: questions, steps: 1, batch_tokens: 256}\n"


def recipe_with(folder, *lines, stages=SFT):
    path = small_world(folder).parent / "recipe.yaml"
    text = RECIPE.replace("  pairs: {path: pairs.jsonl}\n", "")
    for name, said in (("corpus", "licence: CC0-1.0, made: human"), ("questions", "licence: cc-by-nc-4.0")):
        text = text.replace(f"path: {name}.jsonl,", f"path: {name}.jsonl, {said},")
    path.write_text("".join(f"{line}\n" for line in lines) + text + stages)
    return path


def test_what_a_recipe_trains_on_and_nothing_else(tmp_path):
    path = recipe_with(tmp_path / "w")
    assert trained_names(load_recipe(path)) == ["corpus", "questions"]
    found = licensed_recipe(load_recipe(path), path)
    assert [(line.source, line.licence.id) for line in found.verdict.lines] == [
        ("corpus", "CC0-1.0"),
        ("questions", "CC-BY-NC-4.0"),
    ]
    assert found.verdict.sentences[0].startswith("Not for commercial use, because of ")
    assert "rows from questions (CC-BY-NC-4.0 is for non-commercial purposes only)" in found.verdict.sentences[0]
    alone = recipe_with(tmp_path / "v", stages="")
    assert licensed_recipe(load_recipe(alone), alone).verdict.commercial is True


def test_a_policy_makes_the_run_refuse_with_the_sources_named(tmp_path):
    path = recipe_with(tmp_path / "w", "licences: {allow: commercial}")
    with pytest.raises(UserError) as told:
        check_recipe(load_recipe(path), path)
    (problem,) = told.value.problems
    assert problem.startswith("licences: data.questions: ")
    assert problem.endswith("rows may not be used commercially: CC-BY-NC-4.0 is for non-commercial purposes only.")
    cleared = recipe_with(tmp_path / "v", "licences: {allow: commercial, cleared: {questions: commercial}}")
    assert check_recipe(load_recipe(cleared), cleared)


def curated_run(folder):
    """A run of which a curate stage is done: 3 of its rows are left, and one is a machine's."""
    path = recipe_with(folder / "w")
    run = folder / "runs" / "small"
    stage = run / "01-curate"
    stage.mkdir(parents=True)
    recipe = load_recipe(path).model_dump(mode="json") | {"stages": []}
    recipe["stages"] = [{"kind": "best_of", "name": "picked", "prompts": "questions", "rewards": {"x.py:f": 1.0}},
                        {"kind": "sft", "data": "picked"}]  # fmt: skip
    write_json(run / "resolved.json", recipe)
    write_json(run / "current.json", {"stages": ["01-curate"], "root": str(path.parent.resolve())})
    write_json(stage / "stage.json", {"name": "picked", "kind": "best_of"})
    chat = Chat((Message("user", "Q"), Message("assistant", "A")), "o:1")
    made = [Provenance("docs", "CC-BY-4.0", "human"), Provenance("docs", "CC-BY-4.0", "human")]
    made.append(Provenance("made", "CC-BY-4.0", "machine", "claude-sonnet-4", steps=("paraphrase",)))
    write_records(stage / "kept.jsonl", [Record(chat, provenance, "g") for provenance in made])
    return run


def test_rows_that_a_stage_made_count_as_their_records_say(tmp_path):
    found = licensed_run(curated_run(tmp_path))
    verdict = found.verdict
    assert (verdict.rows, verdict.human, verdict.machine) == (3, 2, 1)
    assert verdict.commercial is None and verdict.share is True
    assert "1 row from made (written by claude-sonnet-4: output may not be used to develop" in verdict.sentences[0]


def test_rows_of_a_stage_that_a_policy_forbids_stop_the_next(tmp_path):
    folder = curated_run(tmp_path) / "01-curate"
    policy = LicencePolicy(allow="commercial")
    require_made(None, {"picked": folder})
    require_made(policy, {})
    with pytest.raises(RunError, match=r"licences: data\.made: whether 1 row may be used commercially is not known"):
        require_made(policy, {"picked": folder})


def call(*arguments):
    """(exit code, output) of the command line, in this process."""
    from typer.testing import CliRunner

    done = CliRunner().invoke(app, list(arguments))
    return done.exit_code, done.output, done.exception


def test_the_verb_tells_a_run_a_recipe_and_a_file(tmp_path, monkeypatch):
    run = curated_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    code, said, _ = call("data", "licences", "small")
    assert code == 0 and "claude-sonnet-4" in said and "CC-BY-4.0" in said
    assert "Attribution: name the authors of docs and made, and the licence (CC-BY-4.0)." in " ".join(said.split())
    as_json = json.loads(call("data", "licences", str(run), "--json")[1])
    assert (as_json["rows"], as_json["commercial"], as_json["lines"][1]["generator"]) == (3, None, "claude-sonnet-4")
    code, said, error = call("data", "licences", "small", "--allow", "commercial")
    assert isinstance(error, RunError) and "whether 1 row may be used commercially is not known" in " ".join(
        said.split()
    )
    code, said, _ = call("data", "licences", "w/recipe.yaml")
    assert code == 0 and "CC-BY-NC-4.0" in said
    code, said, _ = call("data", "licences", "w/questions.jsonl", "--licence", "CC BY 4.0", "--json")
    assert code == 0 and json.loads(said)["commercial"] is True


def test_show_and_import(tmp_path, monkeypatch):
    recipe_with(tmp_path / "w")
    monkeypatch.chdir(tmp_path)
    code, said, _ = call("data", "show", "w/recipe.yaml:questions", "--rows", "1")
    assert code == 0 and "read as qa" in said and "CC-BY-NC-4.0" in said and "assistant" in said
    as_json = json.loads(call("data", "show", "w/questions.jsonl", "--json", "--rows", "2")[1])
    assert as_json["format"] == "qa" and len(as_json["first"]) == 2 and as_json["licence"]["commercial"] is None
    code, said, _ = call("data", "import", "w/recipe.yaml:questions", "--to", "o.csv", "--as", "alpaca")
    assert code == 0 and "read back, and the same" in said
    assert (tmp_path / "o.csv").read_text().startswith("instruction,input,output")
    assert '"licence"' not in (tmp_path / "o.csv").read_text() and "cc-by-nc-4.0" in (tmp_path / "o.csv").read_text()
    _, _, error = call("data", "import", "w/questions.jsonl", "--to", "o.csv")
    assert error.problems == ["--to: o.csv is there already. Give another name, or --force."]
    code, said, _ = call("data", "show", "w/questions.jsonl", "--columns", "prompt=question", "--columns",
                         "completion=answer", "--format", "prompt_completion")  # fmt: skip
    assert code == 0 and "read as prompt_completion" in said


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["show", "w/recipe.yaml:question"], 'has no source "question". Did you mean questions?'),
        (["show", "w/nope.jsonl"], "does not exist"),
        (["show", "w/questions.jsonl", "--format", "qaa"], "--format: qaa is no format. Did you mean qa?"),
        (["show", "w/questions.jsonl", "--columns", "a"], "--columns: a is no OURS=THEIRS"),
        (["licences", "nope"], "nope: no run here."),
        (["licences", "w/recipe.yaml", "--allow", "comercial"], "Did you mean commercial?"),
    ],
)
def test_what_cannot_be_done_is_told(arguments, problem, tmp_path, monkeypatch):
    recipe_with(tmp_path / "w")
    monkeypatch.chdir(tmp_path)
    _, _, error = call("data", *arguments)
    assert isinstance(error, UserError) and problem in str(error)
