"""The best_of stage: what it keeps and why, its figures, and a later stage that trains on it."""

from __future__ import annotations

import json
import re

import pytest
import torch

from luthier.base.alignment import BestOf
from luthier.base.config import load_recipe
from luthier.base.errors import RunError, UserError
from luthier.base.events import read_events
from luthier.base.files import read_json
from luthier.base.nouns import Chat, Message, Sample
from luthier.data.dataset import read_dataset
from luthier.model.load import load_folder
from luthier.run.best_of import Kept, fate_of, keep, statistics
from luthier.run.context import renderer_of
from luthier.run.kept import read_kept
from luthier.run.stages import check_recipe
from luthier.train.group import Asked
from run.rewarded import RECIPE, rewarded_world, run_stages, with_base
from run.small import stage_folders

BEST = (
    "  - {kind: best_of, prompts: questions, rewards: 'rewards.py:short', samples: 6, max_new_tokens: 24, "
    "temperature: 0.7%s}\n"
)
TUNED = (
    "  - {kind: sft, name: tuned, init: sft, data: %s, steps: 3, batch_tokens: 512, learning_rate: 1.0e-3, "
    "evaluate_every_steps: 3}\n"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return rewarded_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def out(world, tmp_path):
    return with_base(world, tmp_path / "out")


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_is_kept_is_trained_on_by_a_later_stage(world, out):
    run = run_stages(world, out, BEST % ", keep: 2" + TUNED % "best_of")
    folders = stage_folders(run)
    record, tuned = (read_json(folders[name] / "stage.json") for name in ("best_of", "tuned"))
    kept, heldout = (rows(folders["best_of"] / f"{side}.jsonl") for side in ("kept", "heldout"))
    source = read_dataset("questions", load_recipe(world / "recipe.yaml").data["questions"], world)
    asked = {e.origin: e for e in source.train}
    assert kept and heldout
    assert {row["origin"] for row in heldout} <= {e.origin for e in source.heldout}
    for row in kept:  # scores are the program's, prompts the row's own, and nobody is kept more than twice
        chat = asked[row["origin"]]
        *prompt, answer = (Message(**m) for m in row["messages"])
        assert tuple(prompt) == chat.prompt and row["accept"] == list(chat.accept)
        assert answer.role == "assistant" and answer.content == answer.content.strip() != ""
        assert row["score"] == pytest.approx(-len(answer.content) / 10)
    by_prompt = {origin: [r for r in kept if r["origin"] == origin] for origin in asked}
    for group in by_prompt.values():
        assert len(group) <= 2 and sorted(-r["score"] for r in group) == [-r["score"] for r in group]
        assert len({r["messages"][-1]["content"] for r in group}) == len(group)

    # figures: of the training prompts
    figures = record["metrics"]
    assert figures["best"]["value"] - figures["all"]["value"] == pytest.approx(figures["gain"]["value"])
    assert figures["gain"]["value"] > 0 and figures["best"]["n"] == len(asked) == record["prompts"]
    assert figures["kept"]["value"] == pytest.approx(sum(map(bool, by_prompt.values())) / len(asked))
    assert record["answers"]["kept"] == len(kept) and sum(record["answers"].values()) == 6 * len(asked)
    assert read_json(run / "report.json")["metrics"]["best_of"] == figures
    assert "best_of" in (run / "report.html").read_text()
    notes = [e["text"] for e in read_events(folders["best_of"] / "events.jsonl") if e["kind"] == "note"]
    assert notes[-1].startswith(f"{len(kept)} answers kept to ")

    # the later stage: its rows, and a hash that follows the stage's
    assert tuned["rows"]["best_of"]["sequences"] == len(kept)
    assert tuned["inputs"]["data.best_of"] == record["hash"]
    assert run_stages(world, out, BEST % ", keep: 2" + TUNED % "best_of") == run
    assert stage_folders(run) == folders, "finished stages are kept"
    other = stage_folders(run_stages(world, out, BEST % ", keep: 1" + TUNED % "best_of"))
    assert other["tuned"] != folders["tuned"]
    again = read_json(other["tuned"] / "stage.json")
    assert again["rows"]["best_of"]["sequences"] == len(rows(other["best_of"] / "kept.jsonl")) < len(kept)


def test_it_can_be_mixed_with_a_source_and_checked_before_it_is_there(world, out):
    stages = BEST % "" + TUNED % "{best_of: 1, questions: 1}"
    record = read_json(stage_folders(run_stages(world, out, stages))["tuned"] / "stage.json")
    assert set(record["rows"]) == {"best_of", "questions"}
    (world / "check.yaml").write_text(RECIPE + stages)
    found = check_recipe(load_recipe(world / "check.yaml"), world / "check.yaml")
    assert [c.stage for c in found] == ["pretrain", "sft", "best_of", "tuned"]
    assert "earlier stages make" in found[-1].note and "earlier stages make" in found[-2].note


def test_the_same_rows_as_a_source_of_their_own(world, out, tmp_path):
    folder = stage_folders(run_stages(world, out, BEST % ""))["best_of"]
    recipe = load_recipe(world / "recipe.yaml", [f"data.mine={json.dumps(str(folder / 'kept.jsonl'))}"])
    read = read_dataset("mine", recipe.data["mine"], world)
    ours = {(c.messages, c.accept) for c in read_kept(folder / "kept.jsonl")}
    assert {(c.messages, c.accept) for c in read.train + read.heldout} == ours and read.format == "messages"


def test_nothing_kept_says_what_to_change(world, out):
    with pytest.raises(RunError) as error:
        run_stages(world, out, BEST % ", min_score: 5")
    said = str(error.value)
    assert re.match(r"best_of: nothing was kept of \d+ answers: .*\d+ below min_score\. ", said)
    assert re.search(r"[Ll]ower min_score \(now 5; the prompts' best answers score -\d", said)
    assert said.endswith("draw more samples, or start from a model that is nearer to the task (init).")


def test_answers_that_never_end_say_what_to_change(world, out):
    with pytest.raises(
        RunError, match=r"nothing was kept of \d+ answers: \d+ cut off at the token limit.*\. Raise max_new"
    ):
        run_stages(world, out, (BEST % "").replace("max_new_tokens: 24", "max_new_tokens: 1"))


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        (BEST % ", keep: 7", r"best_of.keep: is 7, more than the 6 answers drawn. Lower it."),
        (BEST % ", name: questions", r"best_of.name: questions is also a source under data. Rename the stage"),
        (TUNED % "best_of" + BEST % "", r"sft.data: best_of is made by a later stage. Put that one before this"),
        (TUNED % "{best_off: 1}", r"there is no source \"best_off\" under data. The sources: "),
    ],
)
def test_what_cannot_work_is_told_before_the_first_stage(stages, said, world, tmp_path):
    with pytest.raises(UserError, match=said):
        run_stages(world, tmp_path / "out", stages)


def test_every_fate_of_an_answer():
    how = BestOf(kind="best_of", prompts="x", rewards={"a:b": 1.0}, keep=2, min_score=0.5)
    one = lambda stopped=True: Sample((1,), (2,), (0.0,), "", stopped)  # noqa: E731
    assert fate_of(how, one(False), "a", 9.0, []) == "unfinished"
    assert fate_of(how, one(), "", 9.0, []) == "unusable"
    assert fate_of(how, one(), "a", 0.4, []) == "below"
    assert fate_of(how, one(), "a", 0.5, []) == "kept"
    assert fate_of(how, one(), "a", 0.5, ["a"]) == "equal"
    assert fate_of(how, one(), "c", 0.5, ["a", "b"]) == "more"


def test_the_best_are_kept_and_a_spelled_out_control_token_is_not(world):
    """By hand: three prompts of four answers each, of which one spells the end of a turn in letters."""
    folder = next((world / "out" / "small").glob("2-sft-*"))
    renderer = renderer_of(load_folder(folder / "model", "cpu", torch.float32))
    how = BestOf(kind="best_of", prompts="x", rewards={"a:b": 1.0}, keep=2, samples=4)
    asked = [Asked(Chat((Message("user", f"{n}?"),), f"x:{n}", ("yes",)), [1]) for n in range(3)]
    texts = [
        [" a ", "b", "a", "c"],
        ["late", "x <|im_end|> y", "", "fine"],
        ["d", "e", "f", "g"],
    ]
    scores = torch.tensor([[1.0, 3.0, 2.0, 0.0], [9.0, 8.0, 7.0, -1.0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    samples = [Sample((1,), (2,), (0.0,), text, text != "late") for group in texts for text in group]
    kept = keep(how, renderer, asked, samples, scores)
    assert [(c.origin, c.answer) for c in kept.chats] == [
        ("x:0", "b"), ("x:0", "a"), ("x:1", "fine"), ("x:2", "d"), ("x:2", "e"),
    ]  # fmt: skip
    assert kept.scores == [3.0, 2.0, -1.0, 1.0, 1.0] and kept.prompts == 3
    assert kept.fates == {"kept": 5, "equal": 1, "more": 3, "unfinished": 1, "unusable": 2}
    assert all(c.accept == ("yes",) for c in kept.chats)
    found = statistics(kept, scores, seed=0)
    # means 1.5, 5.75 and 1; bests 3, 9 and 1
    values = {name: figure.value for name, figure in found.items()}
    assert values == pytest.approx({"all": 8.25 / 3, "best": 13 / 3, "gain": 4.75 / 3, "kept": 1.0})
    assert found["gain"].low == pytest.approx(0.0) and found["gain"].high == pytest.approx(3.25)  # of 1.5, 3.25 and 0
    assert statistics(Kept(), scores, seed=0)["kept"].value == 0.0
