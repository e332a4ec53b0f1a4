"""Masked stages from recipe to report: what they leave, what changes nothing, what is refused."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer, pipeline

from architectures import COMMON, ENCODERS, tiny
from luthier.base.config import load_recipe
from luthier.base.errors import UserError
from luthier.base.events import read_events
from luthier.base.files import read_json
from luthier.base.nouns import Message, Tokens
from luthier.base.tuning import Masking
from luthier.data.dataset import read_dataset
from luthier.model.load import load_tokenizer, save_model
from luthier.run.stages import check_recipe, open_chat, run_recipe
from luthier.tokens.masking import Vocabulary, hiding
from luthier.tokens.tokenizer import train_tokenizer
from luthier.train.sources import Packed, Pool
from run.small import documents, stage_folders, write_rows

ROOT = Path(__file__).parents[2]
OURS = ROOT / "recipes" / "mlm.yaml"

RECIPE = """\
name: masked
threads: 1
samples: 2
base:
  fresh: {shape: encoder, layers: 2, width: 32, heads: 4, vocab: 300, context: 64}
data:
  corpus: {path: corpus.jsonl, format: text, heldout: 0.1}
stages:
  - kind: pretrain
    objective: masked
    data: corpus
    steps: 8
    batch_tokens: 256
    learning_rate: 1.0e-2
    checkpoint_every_steps: 2
    evaluate_every_steps: 4
evaluate:
  filled: {kind: fill_mask, data: corpus, places: 20}
"""


def run(path: Path, out: Path, *changes: str, watchers=()) -> Path:
    """Runs a recipe in this process; returns the run's folder."""
    return run_recipe(load_recipe(path, [f"out={json.dumps(str(out))}", *changes]), path, watchers)


def steps_of(folder: Path) -> list[dict]:
    return [e for e in read_events(folder / "events.jsonl") if e["kind"] == "step"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """A recipe beside 80 short documents."""
    folder = tmp_path_factory.mktemp("masked")
    write_rows(folder / "corpus.jsonl", documents()[:80])
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> Path:
    """The finished run of recipes/mlm.yaml, cut to 60 steps."""
    changes = ["threads=1", "stages.0.steps=60", "evaluate.pseudo_perplexity.limit=6", "evaluate.fill_mask.places=60"]
    return run(OURS, tmp_path_factory.mktemp("ours"), *changes)


def test_our_recipe_lowers_the_masked_loss(ours):
    folder = stage_folders(ours)["pretrain"]
    looks = [e for e in read_events(folder / "events.jsonl") if e["kind"] == "eval"]
    first, last = looks[0], looks[-1]
    assert math.log(700) - 0.7 < first["value"] < math.log(800) + 0.7, "an untrained model should know nothing"
    assert last["value"] < first["value"] - 1 and last["high"] < first["low"]
    told = {guard["name"]: guard["detail"] for guard in read_json(folder / "stage.json")["guards"]}
    assert re.search(r"\(1\d\.\d%|\(2\d\.\d%", told["masking"]) and "no special token" in told["masking"]
    assert told["export certificate"].startswith("saved differs by 0 nats")


def test_its_figures_stand_in_the_report(ours):
    metrics = read_json(ours / "report.json")["metrics"]
    for key in ("top_1", "top_5"):
        figure = metrics["fill_mask"][key]["pretrain"]
        assert figure["n"] == 60 and 0 <= figure["low"] <= figure["value"] <= figure["high"] <= 1
    assert metrics["fill_mask"]["top_1"]["pretrain"]["value"] <= metrics["fill_mask"]["top_5"]["pretrain"]["value"]
    loss = metrics["loss"]["pretrain"]["loss"]
    assert 3 < loss["value"] < math.log(800)
    page = (ours / "report.html").read_text()
    assert "the model puts the hidden word first in " in page and "learns to fill in hidden words" in page
    assert "the truth is the likeliest filling" in page and "hidden in turn" in page and "[MASK]" in page


@torch.no_grad()
def test_pseudo_perplexity_is_that_of_plain_transformers(ours):
    """Six held-out sentences, each token hidden in turn: exp of Σ −log p over the number of tokens."""
    folder = stage_folders(ours)["pretrain"] / "model"
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    nats = tokens = 0.0
    for text in read_dataset("sentences", load_recipe(OURS).data["sentences"], OURS.parent).heldout[:6]:
        ids = torch.tensor(tokenizer(text.text)["input_ids"])
        for i in range(1, len(ids) - 1):
            shown = torch.where(torch.arange(len(ids)) == i, tokenizer.mask_token_id, ids)
            nats -= float(torch.log_softmax(model(input_ids=shown[None]).logits[0, i], -1)[ids[i]])
            tokens += 1
    figure = read_json(ours / "report.json")["metrics"]["pseudo_perplexity"]["pretrain"]
    assert figure["value"] == pytest.approx(math.exp(nats / tokens), rel=1e-4) and figure["n"] == 6
    assert 1 < figure["low"] < figure["value"] < figure["high"]


def test_samples_and_chat_are_what_a_plain_pipeline_fills_in(ours):
    folder = stage_folders(ours)["pretrain"]
    filler = pipeline("fill-mask", model=str(folder / "model"), device="cpu")
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    label, answer = open_chat(ours)
    assert len(rows) == 8 and "stage pretrain" in label
    for row in rows:
        best = filler(row["prompt"])
        words = [one["token_str"].strip() or repr(one["token_str"]) for one in best]
        told = ", ".join(f"{word} {one['score'] * 100:.0f} %" for word, one in zip(words, best, strict=True))
        assert row["prompt"].count("[MASK]") == 1 and row["answer"] == told
        assert row["right"] == (best[0]["token_str"].strip() == row["reference"]) and row["accept"] == [
            row["reference"]
        ]
        assert answer([Message("user", row["prompt"])]) == told
    with pytest.raises(UserError, match=r"there is no \[MASK\] in this text"):
        answer([Message("user", "Hello?")])


def test_check_shows_rows_as_they_are_masked():
    (check,) = check_recipe(load_recipe(OURS), OURS, rows=2)
    assert all(guard["ok"] for guard in check.guards)
    for row in check.rows:
        assert (row[0], row[-1]) == (("[CLS]", 0.0), ("[SEP]", 0.0))
        weighted = [piece for piece, weight in row if weight]
        assert weighted and len(weighted) < len(row) / 2
        assert all(weight == 1 for piece, weight in row if piece == "[MASK]")


def outcome(folder: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The losses and the weights of a run's only stage."""
    stage = stage_folders(folder)["pretrain"]
    return [e["loss"] for e in steps_of(stage)], load_file(stage / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def whole(corpus) -> Path:
    return run(corpus, corpus.parent / "whole")


@pytest.mark.parametrize("change", ["microbatch_tokens=32", "gradient_checkpointing=true"])
def test_microbatches_and_checkpointing_change_nothing(change, corpus, whole, tmp_path):
    """One microbatch of about 8 rows is 8 of one row: hidden are the same tokens, and the division is the same."""
    (losses, weights), (others, changed) = outcome(whole), outcome(run(corpus, tmp_path, f"stages.0.{change}"))
    np.testing.assert_allclose(others, losses, rtol=0, atol=5e-6)
    # A key's bias moves no softmax: its gradient is rounding, which AdamW divides by its own size.
    real = [name for name in weights if not name.endswith("key.bias")]
    gaps = torch.cat([(weights[name] - changed[name]).abs().flatten() for name in real])
    assert gaps.max() <= 1e-4 and gaps.mean() <= 1e-7
    assert losses[0] - losses[-1] > 0.5, "nothing was learned: equality would say nothing"


def test_interrupted_and_resumed_is_uninterrupted(corpus, whole, tmp_path):
    """Byte for byte, though every step hides other tokens."""

    def stop(event):
        if event["kind"] == "step" and event["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(corpus, tmp_path, watchers=(stop,))
    again = run(corpus, tmp_path)
    events = list(read_events(stage_folders(again)["pretrain"] / "events.jsonl"))
    assert [e["step"] for e in events if e["kind"] == "resume"] == [4]
    digest = lambda folder: hashlib.sha256(  # noqa: E731
        (stage_folders(folder)["pretrain"] / "model" / "model.safetensors").read_bytes()
    ).hexdigest()
    assert digest(again) == digest(whole)
    assert read_json(again / "report.json")["metrics"] == read_json(whole / "report.json")["metrics"]


def hidden_by_row(source: Packed, step: int) -> dict[str, tuple[int, ...]]:
    """What a step hides of each row, by the row's origin."""
    found: dict[str, tuple[int, ...]] = {}
    for micro in source.at(step).micros:
        places = micro.batch.pos_T[micro.batch.from_M]
        for n, origin in enumerate(micro.batch.origins):
            found[origin] = tuple(places[micro.batch.seq_M == n].tolist())
    return found


def test_every_pass_hides_other_tokens_however_it_is_cut():
    """Four passes over six rows, two rows a step."""
    rows = [Tokens(tuple(range(5, 45)), (1.0,) * 40, f"row {n}") for n in range(6)]
    how = hiding(Masking(), Vocabulary(4, np.arange(5, 45), None), seed=5)
    source, again, cut = (Packed([Pool(rows, 80, "x")], 0, size, None, 12, how) for size in (8192, 8192, 40))
    masks: dict[str, set[tuple[int, ...]]] = {row.origin: set() for row in rows}
    for step in reversed(range(12)):  # the source that is asked backwards hides the same
        here = hidden_by_row(source, step)
        assert here == hidden_by_row(again, step) == hidden_by_row(cut, step)
        assert source.at(step).total == cut.at(step).total == 2 * 6
        for origin, places in here.items():
            masks[origin].add(places)
    assert all(len(seen) == 4 for seen in masks.values())


def test_an_adapter_on_the_encoder_that_was_made(whole, corpus, tmp_path):
    """LoRA on a base from a folder: only it trains, it lowers the loss, and the merged model is saved as an encoder."""
    base = stage_folders(whole)["pretrain"] / "model"
    changes = [
        f"base={{model: {json.dumps(str(base))}}}",
        "stages.0.adapter={kind: lora, rank: 4}",
        "stages.0.learning_rate=2e-2",
        "stages.0.steps=30",
        "evaluate.before={kind: loss, data: corpus}",
    ]
    tuned = run(corpus, tmp_path, *changes)
    folder = stage_folders(tuned)["pretrain"]
    record = read_json(folder / "stage.json")
    assert record["trainable_parameters"] < record["parameters"] / 3
    losses = read_json(tuned / "report.json")["metrics"]["before"]
    assert losses["pretrain"]["high"] < 0 and losses["pretrain"]["since"] == "base"
    assert (tuned / "base" / "samples.jsonl").exists() and (folder / "adapter" / "adapter_config.json").exists()
    assert read_json(folder / "adapter" / "adapter_config.json")["task_type"] != "CAUSAL_LM"
    assert read_json(folder / "model" / "config.json")["architectures"] == ["BertForMaskedLM"]


REFUSED = {
    "sft": ("evaluate:", "  - {kind: sft, data: corpus}\nevaluate:", "stages[1]: sft needs a model that writes"),
    "a reward model": (
        "evaluate:",
        "  - {kind: reward, pairs: corpus}\nevaluate:",
        "stages[1]: reward needs a model that writes",
    ),
    "a causal objective": (
        "objective: masked",
        "objective: causal",
        "objective: is causal, but this run's model is an encoder",
    ),
    "a fresh decoder": ("shape: encoder, ", "", "base.fresh.shape: a decoder cannot fill masks"),
    "answers": ("kind: fill_mask, data: corpus, places: 20", "kind: answers, data: corpus", "asks a model that writes"),
    "shares above one": (
        "    data: corpus\n",
        "    data: corpus\n    masking: {mask: 0.8, random: 0.3}\n",
        "masking.random: mask and random together are 1.1 of 1",
    ),
    "a prefix": (
        "    data: corpus\n",
        "    data: corpus\n    adapter: {kind: prefix}\n",
        "adapter: prefix puts tokens before",
    ),
    "grouped heads": ("heads: 4", "heads: 4, kv_heads: 2", "base.fresh.kv_heads: is not used by an encoder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_an_encoder_cannot_do_is_told_at_once(case, tmp_path):
    old, new, told = REFUSED[case]
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.replace(old, new, 1))
    with pytest.raises(UserError) as error:
        load_recipe(path)
    assert any(re.match(r".*r\.yaml:\d+: ", line) and told in line for line in error.value.problems), error.value


def test_masks_asked_of_a_decoder_are_told_at_once(corpus, tmp_path):
    save_model(tiny("llama"), train_tokenizer([row["text"] for row in documents()], 300), tmp_path / "llama")
    llama = f"base={{model: {json.dumps(str(tmp_path / 'llama'))}}}"
    with pytest.raises(UserError, match="llama is no encoder: it sees one side of a hidden token only"):
        run(corpus, tmp_path / "out", llama)
    causal = [llama, "stages.0={kind: pretrain, data: corpus}"]
    with pytest.raises(UserError, match="fill_mask asks an encoder, and this run's model sees one side only"):
        load_recipe(corpus, causal)
    with pytest.raises(UserError, match="is not used by a causal objective"):
        load_recipe(corpus, [*causal, "stages.0.masking={share: 0.2}", "evaluate.filled={kind: loss, data: corpus}"])


def test_an_encoder_that_is_to_write_is_told(whole, corpus, tmp_path):
    base = stage_folders(whole)["pretrain"] / "model"
    changes = [
        f"base={{model: {json.dumps(str(base))}}}",
        "stages.0={kind: pretrain, data: corpus}",
        "evaluate.filled={kind: loss, data: corpus}",
    ]
    with pytest.raises(UserError, match="bert is an encoder: it fills masks and cannot write"):
        run(corpus, tmp_path, *changes)


def test_a_model_that_cannot_compute_its_blocks_again_is_told_by_check_and_by_run(whole, corpus, tmp_path):
    tokenizer = load_tokenizer(stage_folders(whole)["pretrain"] / "model")
    albert = AutoConfig.for_model("albert", **{**COMMON, **ENCODERS["albert"], "vocab_size": len(tokenizer)})
    save_model(AutoModelForMaskedLM.from_config(albert), tokenizer, tmp_path / "albert")
    changes = [f"base={{model: {json.dumps(str(tmp_path / 'albert'))}}}", "stages.0.gradient_checkpointing=true"]
    recipe = load_recipe(corpus, [f"out={json.dumps(str(tmp_path))}", *changes])
    for go in (check_recipe, run_recipe):
        with pytest.raises(UserError, match="gradient_checkpointing: transformers' AlbertForMaskedLM cannot compute"):
            go(recipe, corpus)


def test_a_tokenizer_without_a_mask_token_is_told(whole, corpus, tmp_path):
    model = AutoModelForMaskedLM.from_pretrained(stage_folders(whole)["pretrain"] / "model")
    bare = train_tokenizer([row["text"] for row in documents()], 300)
    save_model(model, bare, tmp_path / "bare")
    with pytest.raises(UserError, match="its tokenizer has no mask token"):
        run(corpus, tmp_path / "out", f"base={{model: {json.dumps(str(tmp_path / 'bare'))}}}")
