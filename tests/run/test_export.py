"""A finished model goes out of the house as what was trained, or not at all."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from luthier.base.config import load_recipe
from luthier.base.errors import RunError, UserError
from luthier.base.files import read_json
from luthier.run.export import export_model
from luthier.run.stages import run_recipe
from run.small import small_world, stage_folders

RECIPE = """\
name: out
threads: 1
samples: 2
answer_tokens: 8
base:
  fresh: {layers: 2, width: 32, heads: 4, kv_heads: 2, vocab: 300, context: 96}
data:
  corpus: {path: corpus.jsonl, format: text}
  questions: {path: questions.jsonl, format: qa}
export: [gguf-q8_0]
stages:
  - {kind: pretrain, data: corpus, steps: 12, batch_tokens: 1024, learning_rate: 5.0e-3}
  - {kind: sft, data: questions, steps: 6, batch_tokens: 512, learning_rate: 5.0e-3, adapter: {rank: 4}}
  - kind: sft
    name: fewbits
    data: questions
    steps: 6
    batch_tokens: 512
    learning_rate: 5.0e-3
    adapter: {rank: 4}
    quantize: nf4
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    recipe = small_world(folder).with_name("export.yaml")
    recipe.write_text(RECIPE)
    return run_recipe(load_recipe(recipe, [f"out={json.dumps(str(folder / 'runs'))}"]), recipe)


def said(lines) -> dict[str, str]:
    assert all(line.ok for line in lines)
    return {line.name: line.detail for line in lines}


def test_answers_end_as_they_did_in_training_though_the_base_knew_no_conversations(tmp_path):
    """The base of the adapter has no chat template, and so another end: a model that has learned to end its answers
    ends them by its own."""
    recipe = small_world(tmp_path).with_name("export.yaml")
    recipe.write_text(RECIPE[: RECIPE.index("  - kind: sft\n    name: fewbits")])
    longer = ["stages.sft.steps=60", "stages.sft.learning_rate=2e-2", "export=[]", "answer_tokens=24"]
    run = run_recipe(load_recipe(recipe, [f"out={json.dumps(str(tmp_path / 'runs'))}", *longer]), recipe)
    told = [json.loads(line) for line in (stage_folders(run)["sft"] / "samples.jsonl").read_text().splitlines()]
    assert any(row["ended"] for row in told), told
    assert "greedy tokens equal" in said(export_model(run, "sft", "hf", "f16", tmp_path / "out")[1])["adapter"]


@pytest.mark.parametrize(("stage", "on"), [("sft", "on its base ="), ("fewbits", "on its base in nf4 =")])
def test_adapter_is_merged_is_exported(made, tmp_path, stage, on):
    where, lines = export_model(made, stage, "hf", "f16", tmp_path / "out")
    detail = said(lines)
    assert on in detail["adapter"] and "greedy tokens equal" in detail["adapter"]
    assert detail["exported"].startswith("exported = merged: 0 nats")
    assert detail["template"] == "byte for byte"
    assert read_json(where / "certificate.json")[0]["name"] == "adapter"


def test_a_gguf_file_is_exact_and_its_price_is_told(made, tmp_path):
    where, lines = export_model(made, "sft", "gguf", "f32", tmp_path / "whole")
    assert "greedy tokens equal" in said(lines)["exported"]
    modelfile = (where / "Modelfile").read_text()
    assert modelfile.startswith("FROM ./out-sft.gguf\nTEMPLATE") and 'stop "<|im_end|>"' in modelfile
    _, lines = export_model(made, "sft", "gguf", "q4_0", tmp_path / "few")
    assert "file = weights rounded to q4_0" in said(lines)["file"]
    assert "nats a token" in said(lines)["price"]


def test_what_the_recipe_asks_for_is_exported_once(made):
    (told,) = read_json(made / "report.json")["exports"]
    assert told["kind"] == "gguf-q8_0" and all(line["ok"] for line in told["certificate"])
    assert list((made / told["folder"]).glob("*.gguf"))


def test_a_spoilt_merge_is_not_exported(made, tmp_path):
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(made, copy)
    (file,) = copy.glob("*-sft-*/model/model.safetensors")
    weights = load_file(file)
    name = next(n for n in weights if n.endswith("q_proj.weight"))
    weights[name] = weights[name] + torch.randn_like(weights[name])
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(RunError, match=r"export certificate: adapter: adapter on its base = merged: .* nats"):
        export_model(copy, "sft", "hf", "f16", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_requests_leave_nothing(made, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    with pytest.raises(UserError, match="is there already and is not empty"):
        export_model(made, None, "gguf", "f16", tmp_path / "there")
    with pytest.raises(UserError, match=r"--out: .*there/file/x: .*there/file is a file"):
        export_model(made, None, "hf", "f16", tmp_path / "there" / "file" / "x")
    recipe = made.parents[1] / "carried.yaml"
    carried = RECIPE.replace("adapter: {rank: 4}}", "adapter: {kind: prefix, tokens: 4}}").replace(
        "name: out", "name: no"
    )
    recipe.write_text(carried)
    changes = [f"out={json.dumps(str(tmp_path))}"]
    with pytest.raises(UserError, match=r"export: stages\[1\] trains a prefix adapter"):
        run_recipe(load_recipe(recipe, changes), recipe)
    assert not list((tmp_path / "no").glob("1-*"))


def on_base(made, folder, name, base, rest=""):
    """Runs two steps of tuning on a base in a folder."""
    recipe = made.parents[1] / f"{name}.yaml"
    head, data = RECIPE[: RECIPE.index("base:")], RECIPE[RECIPE.index("data:") : RECIPE.index("export:")]
    stage = f"stages:\n  - {{kind: sft, data: questions, steps: 2, batch_tokens: 512{rest}}}\n"
    recipe.write_text(head.replace("name: out", f"name: {name}") + f"base: {base}\n" + data + stage)
    return lambda *more: run_recipe(load_recipe(recipe, [f"out={json.dumps(str(folder))}", *more]), recipe)


def test_a_base_that_has_changed_since_is_not_what_the_adapter_was_trained_on(made, tmp_path):
    """Of the same shape, other weights: nothing can be said of the adapter, and the merged model is still the one."""
    base, _ = export_model(made, "sft", "hf", "f16", tmp_path / "base")
    run = on_base(made, tmp_path, "changed", base, ", adapter: {rank: 2}")()
    assert "greedy tokens equal" in said(export_model(run, None, "hf", "f16", tmp_path / "one")[1])["adapter"]
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"] *= 2
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    lines = said(export_model(run, None, "hf", "f16", tmp_path / "two")[1])
    assert lines["adapter"] == "not compared: the model it was trained on is not there any more, or has changed"


def test_a_base_that_carries_an_adapter_is_told_before_training(made, tmp_path):
    base, _ = export_model(made, "sft", "hf", "f16", tmp_path / "base")
    on_base(made, tmp_path, "first", base, ", adapter: bottleneck")()
    (carrying,) = (tmp_path / "first").glob("1-sft-*/model")
    with pytest.raises(UserError, match="it carries adapters beside its weights, and GGUF holds weights only"):
        on_base(made, tmp_path, "second", carrying)("export=[gguf-f16]")
    assert not list((tmp_path / "second").glob("1-*"))


@pytest.mark.parametrize(
    ("shape", "objective", "to"),
    [("decoder", "causal", "gguf"), ("decoder", "causal", "hf"), ("encoder", "masked", "hf")],
)
def test_the_smallest_context_there_is_has_its_certificate_too(shape, objective, to, tmp_path):
    """16 tokens: fewer than the certificate asks where there is room, and an encoder has no position beyond them."""
    recipe = small_world(tmp_path).with_name("least.yaml")
    recipe.write_text(
        f"name: least\nthreads: 1\nsamples: 0\nbase: {{fresh: {{shape: {shape}, layers: 1, width: 16, heads: 2, "
        f"vocab: 300, context: 16}}}}\ndata: {{corpus: corpus.jsonl}}\n"
        f"stages: [{{kind: pretrain, data: corpus, objective: {objective}, steps: 1, batch_tokens: 64}}]\n"
    )
    run = run_recipe(load_recipe(recipe, [f"out={json.dumps(str(tmp_path / 'runs'))}"]), recipe)
    where, lines = export_model(run, None, to, "f32", None)
    assert said(lines)["tokenizer"] == "the same ids for 5 of 5 texts" and (where / "certificate.json").exists()
