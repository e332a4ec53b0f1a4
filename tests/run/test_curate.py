"""The curate stage in a run: files, memo, what later stages read, refusals, and that no model is needed."""

from __future__ import annotations

import json
import math

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from evals.server import says, serving
from luthier.base.config import load_recipe
from luthier.base.errors import RunError, UserError
from luthier.base.files import read_json
from luthier.base.nouns import Chat, Message
from luthier.data.records import read_records
from luthier.run.context import open_context
from luthier.run.curate import made_records
from luthier.run.kept import SIDES, write_kept
from luthier.run.stages import check_recipe, run_recipe
from run.small import questions, run_small, small_world, stage_folders, write_rows

RECIPE = """\
name: made
data:
  questions: {path: questions.jsonl, format: qa, licence: MIT, made: human}
  asked: {path: asked.jsonl, format: qa, heldout: 0}
stages:
  - {kind: curate, name: bot, data: questions, keep: 30, heldout: 0.2, against: [asked], near: null}
"""


@pytest.fixture
def folder(tmp_path):
    """120 questions about 60 things in two wordings; two of them are asked in the evaluation, one row is a copy."""
    rows = questions(range(60))
    again = [row | {"question": row["question"].replace("Which colour has", "What colour is")} for row in rows]
    write_rows(tmp_path / "questions.jsonl", [*rows, *again, rows[0]])
    write_rows(tmp_path / "asked.jsonl", rows[5:7])
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def run(folder, *changes):
    path = folder / "recipe.yaml"
    return run_recipe(load_recipe(path, [f"out={json.dumps(str(folder / 'out'))}", *changes]), path)


def test_a_recipe_without_a_model_makes_a_data_set(folder):
    made = run(folder)
    bot = stage_folders(made)["bot"]
    kept, held, rows = (list(read_records(bot / f"{n}.jsonl")) for n in ("kept", "heldout", "rows"))
    assert len(rows) == 121 and len(kept) == 30 and len(kept) + len(held) < 121
    assert not {r.group for r in kept} & {r.group for r in held}
    reasons = {reason: found["rows"] for reason, found in read_json(bot / "dropped.json").items()}
    assert reasons["evaluated"] == 2 and reasons["duplicate"] == 1
    assert sum(reasons.values()) == 121 - len(kept) - len(held)
    shared = [json.loads(line) for line in (bot / "evaluated.jsonl").read_text().splitlines()]
    assert {row["like"] for row in shared} == {"asked.jsonl:1", "asked.jsonl:2"}
    assert all(r.provenance.licence == "MIT" and "quality" in r.scores for r in rows)
    report = read_json(made / "report.json")
    assert report["stages"][0]["rows"] == {"read": 121, "kept": 30, "heldout": len(held)}
    gain = report["metrics"]["bot"]["coverage"]["gain"]
    assert gain["value"] == pytest.approx(
        report["metrics"]["bot"]["coverage"]["kept"]["value"] - report["metrics"]["bot"]["coverage"]["random"]["value"]
    )


def test_it_is_a_memo_until_something_changes(folder):
    first = stage_folders(run(folder))["bot"]
    written = (first / "kept.jsonl").stat().st_mtime_ns
    assert stage_folders(run(folder))["bot"] == first and (first / "kept.jsonl").stat().st_mtime_ns == written
    assert stage_folders(run(folder, "stages.0.keep=20"))["bot"] != first
    write_rows(folder / "asked.jsonl", questions(range(5, 8)))
    assert stage_folders(run(folder))["bot"] != first


def test_one_curated_set_is_curated_on(folder):
    recipe = RECIPE + ("  - {kind: curate, name: few, data: [bot], keep: 5, heldout: 0, near: null}\n")
    (folder / "recipe.yaml").write_text(recipe.replace(", against: [asked]", ""))
    few = stage_folders(run(folder))["few"]
    kept = list(read_records(few / "kept.jsonl"))
    assert len(kept) == 5 and all(r.provenance.source == "questions" for r in kept)


def test_answers_that_best_of_kept_are_read_once_and_those_held_out_too(tmp_path):
    for side, numbers in (("kept", range(3)), ("heldout", range(3, 5))):
        chats = [Chat((Message("user", f"{n}?"), Message("assistant", f"{n}.")), f"o:{n}", (1,)) for n in numbers]
        write_kept(tmp_path / f"{side}.jsonl", chats, [0.5] * len(chats))
    found = [record for side in SIDES for record in made_records(tmp_path / f"{side}.jsonl", "best")]
    assert [record.example.origin for record in found] == [f"o:{n}" for n in range(5)]
    assert {(record.provenance.source, record.provenance.made) for record in found} == {("best", "machine")}


def test_a_later_stage_trains_on_it(tmp_path):
    recipe = small_world(tmp_path / "world")
    text = recipe.read_text().split("  - kind: prefer")[0].split("evaluate:")[0]
    curate = "  - {kind: curate, name: bot, data: questions, keep: 24}\n"
    text = text.replace("  - kind: sft\n    data: questions", f"{curate}  - kind: sft\n    data: bot")
    recipe.write_text(text + "evaluate:\n  forgetting: {kind: loss, data: corpus, since: pretrain}\n")
    made = run_small(recipe, tmp_path / "out")
    folders = stage_folders(made)
    assert list(folders) == ["pretrain", "bot", "sft"]
    assert (
        read_json(folders["sft"] / "stage.json")["inputs"]["data.bot"]
        == read_json(folders["bot"] / "stage.json")["hash"]
    )
    context = open_context(load_recipe(recipe, [f"out={json.dumps(str(tmp_path / 'out'))}"]), recipe, ())
    assert context.models == {} and (folders["bot"] / "kept.jsonl").read_text().count("\n") == 24


def test_nothing_left_is_refused_with_the_reasons(folder):
    rows = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    write_rows(folder / "asked.jsonl", rows)
    with pytest.raises(RunError, match=r"something is kept: of 121 rows none is left: 121 evaluated"):
        run(folder)


def test_a_licence_policy_refuses_or_leaves_out(folder):
    changes = ["data.questions.licence=CC-BY-NC-4.0", "stages.0.licences.allow=commercial"]
    with pytest.raises(RunError, match=r"the licences allow it: data.questions: .* rows may not be used commercially"):
        run(folder, *changes)
    with pytest.raises(RunError, match=r"none is left: 121 licence"):
        run(folder, *changes, "stages.0.unlicensed=leave_out")


def test_check_says_what_would_be_done(folder):
    path = folder / "recipe.yaml"
    (check,) = check_recipe(load_recipe(path), path)
    assert check.stage == "bot" and check.note.startswith(
        "reads questions (121 rows); leaves out exact copies and flawed"
    )
    assert (
        "keeps clear of 2 evaluation rows; holds out 20% of the groups; keeps 30 by facility; sends nothing"
        in check.note
    )
    assert "Fit for commercial use" in check.note


def test_a_score_of_ones_own(folder):
    (folder / "scores.py").write_text("def short(example):\n    return -len(example.messages[0].content)\n")
    bot = stage_folders(run(folder, 'stages.0.scores={"scores.py:short": 5.0}'))["bot"]
    kept = list(read_records(bot / "kept.jsonl"))
    assert all(r.scores["short"] == -len(r.example.messages[0].content) for r in kept)
    (folder / "broken.py").write_text("def short(example):\n    return 1 / 0\n")
    with pytest.raises(RunError, match=r"scores: broken.py:short failed for questions.jsonl:\d+: division by zero"):
        run(folder, 'stages.0.scores={"broken.py:short": 5.0}')


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["stages.0.data=question"], r'no source "question" under data. Did you mean questions\?'),
        (["stages.0.data=[]"], r"data=\[\]: is empty. Name a source"),
        (["stages.0.against=[questions]"], r"questions is also what is curated: nothing would be left"),
        (["stages.0.name=asked"], r"asked is also a source under data. Rename the stage"),
        (["stages.0.scores={perplexity: 1.0}"], r"is measured with the base model, and base names none"),
        (["stages.0.scores={perplexty: 1.0}"], r"is no function and none of perplexity, difficulty. Did you mean"),
        (["stages.0.key_env=KEY"], r"key_env=KEY: is for a judge, and there is none"),
        (['evaluate={a: {kind: loss, data: asked}}'], r"base: names no model"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_told_before_anything_runs(folder, changes, said):
    with pytest.raises(UserError, match=said):
        run(folder, *changes)


def test_the_report_of_a_file_and_of_a_run(folder):
    """The page fetches nothing, runs no script, and says what became of the rows; what rows say is escaped."""
    from luthier.base.curation import Curate
    from luthier.base.source import Source
    from luthier.run.data_report import report_data

    rows = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    odd = {"question": "Is <script>alert(1)</script> a script?", "answer": "It is <b>one</b>.", "accept": []}
    write_rows(folder / "questions.jsonl", [*rows, odd])
    stage = Curate(kind="curate", data="questions", keep=121, near=None, heldout=0)
    source = Source(path=str(folder / "questions.jsonl"), format="qa", heldout=0)
    ((page, said),) = report_data(folder / "questions.jsonl", folder / "page.html", source, stage)
    text = page.read_text()
    assert said == "120 of 122 rows are kept to train on, 0 held out; something speaks against 2."
    assert (
        said in text
        and "&lt;script&gt;alert" in text
        and "default-src 'none'" in text
        and "<script" not in text
        and "http-equiv" in text
    )
    assert "src=" not in text and text.count("<svg") > 3
    ((made, told),) = report_data(run(folder), None, source, stage)
    assert made.parent == stage_folders(folder / "out" / "made")["bot"] and told in made.read_text()
    assert "The data that was chosen" in (folder / "out" / "made" / "report.html").read_text()


@pytest.fixture
def letters(tmp_path):
    """Two sources of 12 questions and an evaluation. ann@acme.org stands in both, bob@acme.org in one, as a column
    too, and a placeholder that somebody else wrote in the other."""
    rows = questions(range(24))
    said = {0: "Ask ann@acme.org.", 5: "Ask bob@acme.org.", 15: "Ask ann@acme.org, or [email 3] or +1 415 844 9759."}
    rows = [row | {"answer": f"{row['answer']} {said.get(i, '')}".strip(), "accept": []} for i, row in enumerate(rows)]
    rows[5]["owner"] = "bob@acme.org"
    write_rows(tmp_path / "one.jsonl", rows[:12])
    write_rows(tmp_path / "two.jsonl", rows[12:])
    write_rows(tmp_path / "asked.jsonl", [rows[0]])
    (tmp_path / "recipe.yaml").write_text(
        "name: made\ndata:\n"
        "  one: {path: one.jsonl, format: qa, licence: MIT, group: owner}\n"
        "  two: {path: two.jsonl, format: qa, licence: MIT, private: replace}\n"
        "  asked: {path: asked.jsonl, format: qa, heldout: 0}\n"
        "stages:\n  - {kind: curate, name: bot, data: [one, two], heldout: 0.2, flaws: false, near: null}\n"
    )
    return tmp_path


def test_one_numbering_of_private_things_over_all_sources(letters):
    made = run(letters, "stages.0.private=replace", "stages.0.against=[asked]", "stages.0.flaws=true")
    bot = stage_folders(made)["bot"]
    rows = list(read_records(bot / "rows.jsonl"))
    answers = [next((r.example.answer for r in rows if r.example.origin == o), "") for o in ORIGINS]
    ann, bob, two = (answer.partition("Ask ")[2] for answer in answers)
    assert {ann, bob} == {"[email 4].", "[email 5]."}  # 3 is somebody's
    assert two == f"{ann[:-1]}, or [email 3] or [phone 1]."
    for name in ("kept", "heldout", "rows", "evaluated"):
        text = (bot / f"{name}.jsonl").read_text()
        assert "acme" not in text and "9759" not in text
    found = read_json(bot / "curation.json")["private"]
    assert found["counts"] == {"e-mail addresses": 5, "phone numbers": 1}  # bob in answer, column, group
    assert found["rows"] == {"e-mail addresses": 3, "phone numbers": 1}
    assert not any("acme" in place or "9759" in place for _, place in found["samples"])
    assert next(r.out for r in rows if r.example.origin == ORIGINS[0]).startswith("evaluated: exact with asked.jsonl:1")
    assert sum("private things replaced" in r.provenance.steps for r in rows) == 3
    assert not any("blank" in (r.out or "") for r in rows)  # a placeholder is none
    page = (made / "report.html").read_text()
    assert "kept to train on" in page.partition("<h1>")[2].partition("</h1>")[0] and "nothing was measured" not in page
    assert "Each was replaced by a placeholder" in page and "acme" not in page and "9759" not in page


ORIGINS = ("one.jsonl:1", "one.jsonl:6", "two.jsonl:4")


def test_rows_with_private_things_are_refused_with_a_reason(letters):
    bot = stage_folders(run(letters, "stages.0.private=refuse"))["bot"]
    rows = {r.example.origin: r for r in read_records(bot / "rows.jsonl")}
    out = [rows[origin].out for origin in ORIGINS]
    assert out == [f"private: {words}" for words in ("e-mail addresses",) * 2 + ("e-mail addresses and phone numbers",)]
    assert read_json(bot / "dropped.json")["private"]["rows"] == 3
    assert not any("acme" in file.read_text() for file in bot.glob("*.json*"))


def test_without_a_word_sources_decide_and_what_stands_there_is_counted(letters):
    bot = stage_folders(run(letters))["bot"]
    text = (bot / "rows.jsonl").read_text()
    assert "ann@acme.org" in text and "Ask [email 1], or [email 3] or [phone 1]." in text
    found = read_json(bot / "curation.json")["private"]
    assert found["counts"] == {"e-mail addresses": 2} and found["style"] is None
    assert {place.partition("Ask ")[2] for _, place in found["samples"]} == {"a••@••••.•••.", "b••@••••.•••."}
    assert found["sources"][1] == ["two", "1 e-mail addresses, 1 phone numbers, replaced"]


@pytest.mark.parametrize("own", ["", ", private: refuse", ", private: replace"])
def test_a_source_is_read_once_for_its_hash_and_its_private_things(letters, own):
    """A function's rows, counted to the last: whatever the source's own setting did, the stage sees them whole."""
    rows = (letters / "two.jsonl").read_text()
    (letters / "rows.py").write_text(
        f"import json\nROWS = {rows!r}\n\ndef two():\n    yield from map(json.loads, ROWS.splitlines())\n"
        "    open(__file__ + '.ends', 'a').write('x')\n"
    )
    recipe = (letters / "recipe.yaml").read_text()
    (letters / "recipe.yaml").write_text(
        recipe.replace("path: two.jsonl", "path: rows.py:two").replace(", private: replace", own)
    )
    bot = stage_folders(run(letters, "stages.0.private=replace"))["bot"]
    assert (letters / "rows.py.ends").read_text() == "x"
    said = [r.example.answer for r in read_records(bot / "rows.jsonl") if r.example.origin.startswith("rows.py:two")]
    (one,) = [answer for answer in said if "Ask" in answer]
    assert len(said) == 12 and one.endswith("Ask [email 4], or [email 3] or [phone 1].")


GRADED = "It is copper."


def test_a_judges_grades_decide_and_nothing_is_asked_twice(folder):
    """A real server grades: answers that say copper get 9, all others 3, one has no grade in its reply."""

    def grade(asked, before):
        said = asked["messages"][-1]["content"]
        odd = "no number" in said
        return says("I cannot say." if odd else "Clear.\n9/10" if GRADED in said else "Wrong.\n3")

    rows = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()][:60]
    rows = [row | {"answer": GRADED if i % 4 == 0 else "It is of no colour."} for i, row in enumerate(rows)]
    rows[7]["answer"] = "There is no number for it."
    write_rows(folder / "questions.jsonl", rows)
    changes = ["stages.0.keep=null", "stages.0.flaws=false", "stages.0.conflicts=false", "stages.0.min_quality=0.6"]
    with serving(grade) as server:
        judge = f"stages.0.judge={json.dumps(server.url + '#judge')}"
        bot = stage_folders(run(folder, judge, *changes))["bot"]
        found = {r.example.origin: r for r in read_records(bot / "rows.jsonl")}
        graded = {origin: r.scores["grade"] for origin, r in found.items() if "grade" in r.scores}
        assert len(graded) == 57 and "questions.jsonl:8" not in graded  # two are evaluated, one has no grade
        assert all((value == 9) == (found[origin].example.answer == GRADED) for origin, value in graded.items())
        asked = len(server.asked)
        assert asked == len({one["messages"][-1]["content"] for one in server.asked}) == 58
        again = stage_folders(run(folder, judge, *changes, "stages.0.heldout=0.3"))["bot"]
        assert again != bot and len(server.asked) == asked
    assert "gave no grade to 1 of 58 answers" in (bot / "events.jsonl").read_text()


def test_perplexity_and_difficulty_are_the_base_models_own(folder):
    """As transformers' own forward says, answer by answer: log p a token, and the ratio of the perplexities with the
    question and without it, 0 from 1 on. A byte is a token."""
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    cut = Tokenizer(models.BPE(vocab=letters, merges=[]))
    cut.pre_tokenizer, cut.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=cut)
    torch.manual_seed(0)
    shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    config = LlamaConfig(vocab_size=256, **shape, max_position_embeddings=256, initializer_range=0.5)
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    changes = ["base=base", "stages.0.scores={perplexity: 1.0, difficulty: 1.0}", "stages.0.keep=20", "threads=1"]
    bot = stage_folders(run(folder, *changes))["bot"]

    def nats(text: str, start: int) -> float:
        """-log p a byte, from byte `start` on."""
        ids_T = torch.tensor(tokenizer(text)["input_ids"])
        with torch.no_grad():
            logp_TV = model(ids_T[None]).logits[0].double().log_softmax(-1)
        return float(-logp_TV[torch.arange(start - 1, len(ids_T) - 1), ids_T[start:]].mean())

    rows = [r for r in read_records(bot / "rows.jsonl") if "perplexity" in r.scores]
    assert len(rows) > 100
    for row in rows[:40]:
        question, answer = row.example.messages[0].content, row.example.answer
        asked, bare = nats(f"{question}\n{answer}", len(question)), nats(f"\n{answer}", 1)
        ratio = math.exp(asked - bare)
        assert row.scores["perplexity"] == pytest.approx(-asked, abs=1e-3)
        assert row.scores["difficulty"] == pytest.approx(ratio if ratio < 1 else 0.0, abs=1e-3)
    assert 0 < sum(row.scores["difficulty"] > 0 for row in rows) < len(rows)
