"""Whatever is wrong with what luthier is given: one clear message with the fix, the right exit code, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from luthier.base.config import load_recipe
from luthier.base.errors import RunError, UserError
from luthier.base.events import read_events
from luthier.base.files import disk_errors, read_json
from luthier.run.stages import check_recipe
from luthier.tokens.tokenizer import train_tokenizer
from run.disks import fill, mounted, read_only
from run.small import documents, results, run_small, small_world, stage_folders

pytestmark = pytest.mark.xdist_group("small road")
FIRST = "stages=[{kind: pretrain, data: corpus, steps: 2, batch_tokens: 512}]"
"""Only a short first stage: enough to meet the disk."""


@pytest.fixture
def recipe(tmp_path):
    """A small world to spoil."""
    return small_world(tmp_path / "world")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of the small road, to be copied and spoilt."""
    folder = tmp_path_factory.mktemp("finished")
    run_small(small_world(folder), folder / "out")
    return folder


def told(error: pytest.ExceptionInfo, *parts: str) -> str:
    """The message, which holds all of these and no traceback."""
    text = str(error.value)
    for part in parts:
        assert part in text, text
    assert "Traceback" not in text
    return text


def spoil(recipe, old: str, new: str) -> None:
    """Changes the recipe's text."""
    text = recipe.read_text()
    assert old in text
    recipe.write_text(text.replace(old, new, 1))


RECIPES = {
    "unknown key": ("learning_rate: 5.0e-3", "learnin_rate: 5.0e-3", ["learnin_rate", "Did you mean learning_rate?"]),
    "wrong type": ("epochs: 2", "epochs: many", ["epochs", "many"]),
    "out of range": ("learning_rate: 5.0e-3", "learning_rate: -1", ["learning_rate", "-1"]),
    "unknown source": ("data: corpus", "data: corpse", ["corpse", "Did you mean corpus?"]),
    "unknown stage kind": ("kind: prefer", "kind: preferences", ["preferences"]),
    "no such rater": ("rater: rater.py:rate", "rater: ratter.py:rate", ["ratter.py", "no such file", "rater.py"]),
    "broken YAML": ("data:\n", "data: [\n", ["not valid YAML"]),
}


@pytest.mark.parametrize("case", RECIPES)
def test_a_recipe_that_is_wrong_is_told_with_its_line(case, recipe):
    old, new, parts = RECIPES[case]
    spoil(recipe, old, new)
    with pytest.raises(UserError) as error:
        load_recipe(recipe)
    text = told(error, *parts)
    assert text.startswith(f"{recipe}:") and text[len(f"{recipe}:")].isdigit()


def test_everything_wrong_is_told_at_once(recipe):
    for case in ("unknown key", "wrong type", "unknown source"):
        spoil(recipe, *RECIPES[case][:2])
    with pytest.raises(UserError) as error:
        load_recipe(recipe)
    told(error, "learnin_rate", "many")
    assert len(error.value.problems) >= 2


def broken(path, share: float) -> None:
    """Cuts every so-many-th line of a JSONL file in half."""
    lines = path.read_text().splitlines()
    every = round(1 / share)
    path.write_text("\n".join(x[: len(x) // 2] if i % every == every - 1 else x for i, x in enumerate(lines)) + "\n")


DATA = {
    "missing file": (
        lambda p: p.unlink(),
        [],
        ["data.questions.path", "questions.jsonl", "does not exist", "Check the path"],
    ),
    "empty file": (lambda p: p.write_text(""), [], ["questions.jsonl", "empty"]),
    "broken lines": (lambda p: broken(p, 0.25), [], ["30 of 120 rows", "questions.jsonl:4", "max_rejected"]),
    "binary rubbish": (lambda p: p.write_bytes(bytes(range(256)) * 40), [], ["questions.jsonl"]),
    "unknown roles": (
        lambda p: p.write_text(
            "".join(
                json.dumps({"messages": [{"role": "human", "content": "?"}, {"role": "bot", "content": f"{i}"}]}) + "\n"
                for i in range(40)
            )
        ),
        ["data.questions.format=messages"],
        ["questions.jsonl:1", '"human" is not', "data.questions.roles: {human: user}"],
    ),
    "answers longer than the context": (
        lambda p: p.write_text(p.read_text() + json.dumps({"question": "Why?", "answer": "so " * 300}) + "\n"),
        [],
        ["questions.jsonl:121", "tokens, longer than max_length 96", "overlong: drop"],
    ),
}


@pytest.mark.parametrize("case", DATA)
def test_data_that_is_wrong_stops_the_run_before_it_trains(case, recipe, tmp_path):
    change, settings, parts = DATA[case]
    # Held out or not is a matter of content: the row that is spoilt must be one to train on.
    settings = [*settings, "data.questions.heldout=0"]
    change(recipe.parent / "questions.jsonl")
    with pytest.raises(UserError) as error:
        check_recipe(load_recipe(recipe, settings), recipe)
    told(error, *parts)
    with pytest.raises(UserError) as error:
        run_small(recipe, tmp_path / "out", *settings)
    told(error, *parts)
    later = [p.name for p in (tmp_path / "out" / "small").glob("[2-9]-*/model")]
    assert later == [], "nothing was trained on such data"


def test_a_ragged_csv_is_told_row_by_row(recipe, tmp_path):
    rows = ["question,answer"] + [f"Which {i}?,It is {i}." for i in range(40)]
    rows[5] = "Which 4?,It is 4.,and more,and more"
    (recipe.parent / "questions.csv").write_text("\n".join(rows) + "\n")
    settings = ["data.questions.path=questions.csv", "data.questions.heldout=0"]
    check_recipe(load_recipe(recipe, settings), recipe)  # one of forty may be bad
    with pytest.raises(UserError) as error:
        check_recipe(load_recipe(recipe, [*settings, "data.questions.max_rejected=0.01"]), recipe)
    told(error, "questions.csv:6", "1 of 40 rows", "max_rejected")


def test_a_few_broken_lines_are_kept_aside_with_their_reasons(recipe, tmp_path):
    path = recipe.parent / "corpus.jsonl"
    broken(path, 0.05)
    run = run_small(recipe, tmp_path / "out", FIRST, "evaluate={}")
    rejected = [
        json.loads(line) for line in (stage_folders(run)["pretrain"] / "rejected.jsonl").read_text().splitlines()
    ]
    assert [row["origin"] for row in rejected] == [f"corpus.jsonl:{line}" for line in range(20, 201, 20)]
    assert all(row["reason"] for row in rejected)
    assert read_json(run / "report.json")["data"][0]["rejected"] == 10


def test_an_evaluation_row_in_the_training_data_is_refused(recipe, tmp_path):
    """The run stops at the guard; the stage before it is kept."""
    path = recipe.parent / "questions.jsonl"
    path.write_text(path.read_text() + (recipe.parent / "asked.jsonl").read_text())
    with pytest.raises(RunError) as error:
        run_small(recipe, tmp_path / "out", "data.questions.heldout=0")
    told(error, "guard: no leak: 12 evaluation rows are also trained on", "asked.jsonl:1", "Remove them")
    (made,) = (tmp_path / "out" / "small").glob("1-pretrain-*/stage.json")
    assert read_json(made)["done"] is True


@pytest.fixture
def base(recipe):
    """A recipe on a base in a folder, to spoil."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer([row["text"] for row in documents()], 300)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=96, pad_token_id=1, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    folder = recipe.parent / "base"
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    text = recipe.read_text()
    start, stop = text.index("base:\n"), text.index("data:\n")
    recipe.write_text(text[:start] + "base: base\n" + text[stop:])
    return folder


def without_weights(folder) -> None:
    (folder / "model.safetensors").unlink()


def pickled(folder) -> None:
    torch.save(LlamaForCausalLM.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def own_code(folder) -> None:
    """A model that comes with its own Python."""
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text("raise SystemExit('this code must not run')\n")


def another_vocabulary(folder) -> None:
    """The tokenizer of a model that knows more tokens."""
    train_tokenizer(
        [" ".join(a + b + c for a in "abcdefgh" for b in "klmnop" for c in "qrstuv")] * 5, 700
    ).save_pretrained(folder)


BASES = {
    "another vocabulary": (another_vocabulary, ["its tokenizer has", "its embedding 300 rows", "do not belong togeth"]),
    "no folder": (shutil.rmtree, ["base.model"]),
    "no weights": (without_weights, ["no weights", "safetensors"]),
    "pickled weights": (pickled, ["only pickled weights", "pytorch_model.bin", "base.allow_pickle: true"]),
    "its own code": (own_code, ["base.trust_remote_code: true"]),
    "half a file of weights": (
        lambda folder: os.truncate(folder / "model.safetensors", 5_000),
        ["base.model"],
    ),
}


@pytest.mark.parametrize("case", BASES)
def test_a_base_that_cannot_be_used_says_why(case, base, recipe, tmp_path):
    spoiling, parts = BASES[case]
    spoiling(base)
    with pytest.raises(UserError) as error:
        run_small(recipe, tmp_path / "out")
    assert "\n" not in told(error, str(base.name), *parts)


def test_a_folder_has_no_revision(base, recipe, tmp_path):
    with pytest.raises(UserError, match=r"base\.revision: v2: base is a folder here, which has none\. Remove it\."):
        run_small(recipe, tmp_path / "out", "base={model: base, revision: v2}")


def test_pickled_weights_load_when_the_recipe_says_so(base, recipe, tmp_path):
    pickled(base)
    settings = ["base.allow_pickle=true", FIRST, "evaluate={}"]
    run = run_small(recipe, tmp_path / "out", *settings)
    assert (stage_folders(run)["pretrain"] / "model" / "model.safetensors").exists()


def test_a_learning_rate_out_of_this_world_stops_the_run(recipe, tmp_path):
    """Weights of 1e30 make no numbers: the run stops at that step, says which rows it was, and keeps what was made."""
    with pytest.raises(RunError) as error:
        run_small(recipe, tmp_path / "out", "stages.sft.learning_rate=1e30")
    text = told(error, "the loss is", "Nothing was skipped", "failed.json", "Lower learning_rate")
    assert "\n" not in text
    run = tmp_path / "out" / "small"
    (folder,) = run.glob("2-sft-*")
    failed = read_json(folder / "failed.json")
    rows = {f"questions.jsonl:{i}" for i in range(1, 121)} | {f"corpus.jsonl:{i}" for i in range(1, 201)}
    assert failed["origins"] and set(failed["origins"]) <= rows
    steps = [e["step"] for e in read_events(folder / "events.jsonl") if e["kind"] == "step"]
    assert steps == list(range(1, failed["step"] + 1))
    assert read_json(folder / "stage.json")["done"] is False
    (pretrain,) = run.glob("1-pretrain-*")
    assert read_json(pretrain / "stage.json")["done"] is True
    # The same command fails alike; with the setting mended, the first stage is not run again.
    with pytest.raises(RunError):
        run_small(recipe, tmp_path / "out", "stages.sft.learning_rate=1e30")
    before = (pretrain / "model" / "model.safetensors").stat().st_mtime_ns
    run_small(recipe, tmp_path / "out")
    assert (pretrain / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_weights_that_a_last_step_broke_are_noticed_at_the_evaluation(recipe, tmp_path):
    """The step that breaks them has a finite loss itself; where an evaluation comes next, it is the one to notice."""
    settings = ["stages.reward.learning_rate=1e30", "stages.reward.evaluate_every_steps=1"]
    with pytest.raises(RunError) as error:
        run_small(recipe, tmp_path / "out", *settings)
    assert "\n" not in told(error, "step 1: ", "held-out values are not finite", "Lower learning_rate")


def test_a_folder_that_cannot_be_written_is_told_before_anything_runs(recipe, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError) as error:
        run_small(recipe, tmp_path / "file" / "out")
    assert "\n" not in told(error, "Not a directory", "another `out`")
    with mounted(tmp_path / "disk", "size=64k") as disk, read_only(disk):
        with pytest.raises(RunError) as error:
            run_small(recipe, disk / "out")
        assert "\n" not in told(error, str(disk), "Read-only file system", "another `out`")


def test_a_tree_that_could_not_be_copied_is_one_line(tmp_path):
    """shutil tells of every file that failed, in a list."""
    (tmp_path / "from").mkdir()
    for name in ("a", "b"):
        (tmp_path / "from" / name).symlink_to(tmp_path / "nowhere")
    with pytest.raises(RunError) as error, disk_errors(tmp_path / "to"):
        shutil.copytree(tmp_path / "from", tmp_path / "to")
    assert f"{tmp_path}/to: [Errno 2] No such file or directory. Free some space" in told(error)


def test_two_runs_of_one_folder_do_not_meet(recipe, tmp_path):
    """The second is told that the first is at work; a lock that a killed run left holds nobody up."""
    from luthier.run.context import run_lock

    folder = tmp_path / "out" / "small"
    folder.mkdir(parents=True)
    with run_lock(folder), pytest.raises(RunError, match="another luthier is at work here"):
        run_small(recipe, tmp_path / "out")
    assert (folder / ".lock").exists()
    run_small(recipe, tmp_path / "out", FIRST, "evaluate={}")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9], ids=lambda share: f"{share:.0%} of the room")
def test_a_disk_that_fills_up_on_the_way_loses_nothing(share, finished, tmp_path):
    """Wherever the disk is full, the run stops with one line; with room again the same command goes on, and ends as
    the undisturbed run did."""
    recipe = finished / "recipe.yaml"
    whole = finished / "out" / "small"
    used = sum(p.stat().st_size + 4096 for p in whole.rglob("*"))
    with mounted(tmp_path / "disk", f"size={3 * used}") as disk:
        ballast = fill(disk, round(share * used))
        with pytest.raises(RunError) as error:
            run_small(recipe, disk / "out")
        told(error, str(disk), "ree s")  # free some (space)
        done = [read_json(p) for p in sorted((disk / "out").glob("small/*/stage.json"))]
        assert all(record["done"] for record in done[:-1])
        ballast.unlink()
        run_small(recipe, disk / "out")
        assert results(disk / "out" / "small") == results(whole)


def command(*words: str) -> subprocess.CompletedProcess:
    """luthier as a person starts it."""
    return subprocess.run(
        [sys.executable, "-m", "luthier", *words], capture_output=True, text=True, timeout=300, check=False
    )


def test_the_command_line_ends_with_2_for_what_was_asked_wrongly(recipe, tmp_path):
    spoil(recipe, "learning_rate: 5.0e-3", "learnin_rate: 5.0e-3")
    ended = command("run", str(recipe), f"out={tmp_path / 'out'}")
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"{recipe}:") and line.endswith("Did you mean learning_rate?")


def test_the_command_line_ends_with_1_for_what_failed_on_the_way(recipe, tmp_path):
    """A full disk: one line, no traceback, not even from files that are closed on the way out."""
    with mounted(tmp_path / "disk", "size=400k") as disk:
        fill(disk, 24_000)
        ended = command("run", str(recipe), f"out={disk / 'out'}")
    assert ended.returncode == 1, ended.stderr
    (line,) = ended.stderr.splitlines()
    assert str(disk) in line and "ree s" in line
