"""LoRA and its variants, (IA)³, bases in few bits and frozen layers through whole stages: trained, interrupted, saved,
read by plain PEFT and transformers, built on, refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from luthier.base.config import load_recipe
from luthier.base.errors import UserError
from luthier.base.events import read_events
from luthier.base.files import read_json
from luthier.base.tuning import Quantize
from luthier.model import quantise
from luthier.model.load import load_folder
from luthier.model.quantise import dequantise
from luthier.model.verify import probe_sequences
from luthier.run.stages import check_recipe, run_recipe
from run.small import results, small_world, stage_folders
from run.tuned import BASE, interrupt, pretrained, run_with

RECIPE = BASE % "width: 64, ffn: 128"
SFT = (
    "  - {kind: sft, data: questions, steps: 6, batch_tokens: 512, learning_rate: 0.02, checkpoint_every_steps: 2, "
    "evaluate_every_steps: 6, %s}\n"
)
METHODS = {
    "lora": "adapter: {rank: 4}",
    "rslora": "adapter: {rank: 4, alpha: 8, rslora: true}",
    "dora": "adapter: {rank: 4, dora: true}",
    "ia3": "adapter: ia3",
    "nf4": "adapter: {rank: 4}, quantize: nf4",
    "nf4, single, dora": "adapter: {rank: 4, dora: true}, quantize: {kind: nf4, double: false}",
    "int8": "adapter: {rank: 4, dropout: 0.1}, quantize: int8",
    "frozen": "freeze: {first: 1, embeddings: true}",
    "lora, frozen": "adapter: {rank: 4}, freeze: {last: 1}",
}
ROWS = probe_sequences(300, 80, seed=5)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A pretrained base of six steps, for every test to start from."""
    return pretrained(tmp_path_factory.mktemp("world"), RECIPE)


@pytest.fixture
def out(world, tmp_path):
    """A run's folder with that base in it."""
    shutil.copytree(world / "out", tmp_path / "out")
    return tmp_path / "out"


def run(world, out, stages="", watchers=()):
    return run_with(world, out, RECIPE + stages, watchers)


@torch.no_grad()
def plain_logp(model):
    """Log-probs through transformers' (or PEFT's) own forward, a sequence at a time."""
    model.eval()
    logps = []
    for row in ROWS:
        logits = model(input_ids=torch.tensor([row.ids])).logits[0, :-1]
        logps.append(torch.log_softmax(logits, -1).gather(1, torch.tensor(row.ids)[1:, None])[:, 0])
    return torch.cat(logps)


def plain_base(folder, bits):
    """The base that the adapter was trained on, as a plain model of transformers."""
    if bits is None:
        return AutoModelForCausalLM.from_pretrained(folder)
    core = load_folder(folder, "cpu", torch.float32, bits).lm.core
    dequantise(core)
    core.set_attn_implementation("sdpa")
    return core


@pytest.mark.parametrize("method", METHODS)
def test_a_stage_learns_resumes_bit_for_bit_and_leaves_what_plain_libraries_read(method, world, out, tmp_path):
    whole = run(world, out, SFT % METHODS[method])
    folders = stage_folders(whole)
    if method in ("ia3", "nf4", "int8", "frozen"):
        goes_on_as_if_nothing_had_been(method, world, whole, tmp_path / "again")
    record = read_json(folders["sft"] / "stage.json")
    heldout = [
        e["value"]
        for e in read_events(folders["sft"] / "events.jsonl")
        if e["kind"] == "eval" and e["name"] == "heldout_loss"
    ]
    assert heldout[-1] < heldout[0] - 0.02
    saved = plain_logp(AutoModelForCausalLM.from_pretrained(folders["sft"] / "model"))
    block = 64 * 64 * 3 + 64 * 128 * 3 + 2 * 64
    settings, numbers = record["settings"], 300 * 64 + 2 * block + 64  # the head is tied
    bits = Quantize(**settings["quantize"]) if settings["quantize"] else None
    if settings["adapter"] is None:
        assert record["parameters"] == numbers
        assert record["trainable_parameters"] == block + 64
        before, after = (load_file(folders[name] / "model" / "model.safetensors") for name in ("pretrain", "sft"))
        same = {key for key in before if torch.equal(before[key], after[key])}
        assert same == {k for k in before if ".layers.0." in k or "embed" in k}
        return
    assert record["parameters"] - numbers >= record["trainable_parameters"]
    assert (record["weights_bytes"] < 4 * record["parameters"] * 0.75) == (bits is not None)
    base = plain_base(folders["pretrain"] / "model", bits)
    theirs = PeftModel.from_pretrained(base, str(folders["sft"] / "adapter"))
    torch.testing.assert_close(plain_logp(theirs), saved, rtol=0, atol=1e-4)
    size = sum(file.stat().st_size for file in (folders["sft"] / "adapter").glob("*.safetensors"))
    assert size < 4 * (record["parameters"] - numbers) + 8000  # nothing but the adapter


def goes_on_as_if_nothing_had_been(method, world, whole, again):
    """Stops after step 5, goes on from the checkpoint of step 4, and ends with the same bits."""
    shutil.copytree(world / "out", again)
    with pytest.raises(KeyboardInterrupt):
        run(world, again, SFT % METHODS[method], (interrupt("sft", 5),))
    (kept,) = again.glob("small/*-sft-*/checkpoints/step-4")
    assert (kept / "model.safetensors").exists() == (method == "frozen")  # of an adapter, only the adapter is kept
    resumed = run(world, again, SFT % METHODS[method])
    told = [e for e in read_events(stage_folders(resumed)["sft"] / "events.jsonl") if e["kind"] == "resume"]
    assert [e["step"] for e in told] == [4]
    assert results(resumed) == results(whole)


def test_accumulation_and_checkpointing_change_no_trajectory(world, out):
    made = []
    for more in ("", ", microbatch_tokens: 64, gradient_checkpointing: true"):
        folder = stage_folders(run(world, out, SFT % (METHODS["nf4"] + more)))["sft"]
        made.append(load_file(folder / "model" / "model.safetensors"))
    for key, tensor in made[0].items():
        torch.testing.assert_close(made[1][key], tensor, rtol=2e-3, atol=5e-4)


@pytest.mark.parametrize(("policy", "reward", "shared"), [("nf4", "nf4", True), ("nf4", "lora", False)])
def test_ppo_on_a_base_in_few_bits(policy, reward, shared, world, out):
    """Policy and reward share a base that both were trained on; a reward adapter of the full base keeps its own. The
    frozen half of the policy stays frozen when the reward adapter joins it."""
    stages = SFT % "adapter: {rank: 4}" + (
        f"  - {{kind: reward, pairs: pairs, batch_pairs: 8, {METHODS[reward]}}}\n"
        "  - {kind: ppo, prompts: questions, iterations: 1, rollout_prompts: 4, minibatches: 2, samples: 2, "
        f"max_new_tokens: 6, freeze: {{first: 1}}, {METHODS[policy]}}}\n"
    )
    folders = stage_folders(run(world, out, stages))
    assert read_json(folders["ppo"] / "stage.json")["shared_base"] is shared
    adapter = load_file(folders["ppo"] / "adapter" / "adapter_model.safetensors")
    moved = {key for key, tensor in adapter.items() if "lora_B" in key and bool(tensor.any())}
    assert moved == {key for key in adapter if "lora_B" in key and ".layers.1." in key}


def test_dpo_over_a_base_in_few_bits_starts_at_its_reference(world, out):
    stages = f"  - {{kind: dpo, pairs: pairs, batch_pairs: 8, epochs: 1, learning_rate: 0.01, {METHODS['int8']}}}\n"
    record = read_json(stage_folders(run(world, out, stages))["dpo"] / "stage.json")
    assert all(guard["ok"] for guard in record["guards"]) and len(record["guards"]) > 5


def test_bfloat16_products_train_and_certify(world, out):
    """The certificate is exact whatever the products' type was in training."""
    path = world / "recipe.yaml"
    path.write_text(RECIPE + SFT % METHODS["nf4"])
    folder = run_recipe(load_recipe(path, [f"out={json.dumps(str(out))}", "base.dtype=bfloat16"]), path)
    for stage in stage_folders(folder).values():
        (said,) = [g for g in read_json(stage / "stage.json")["guards"] if g["name"] == "export certificate"]
        gaps = [float(part.split(" nats")[0]) for part in said["detail"].split("differs by ")[1:]]
        assert said["ok"] and max(gaps) < 1e-4


def test_new_tokens_travel_with_the_adapter_and_its_tokenizer(world, tmp_path):
    """A base without chat template gets ChatML's tokens; the adapter's folder and the base are all one needs."""
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    torch.manual_seed(0)
    shape = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
    LlamaForCausalLM(LlamaConfig(vocab_size=256, **shape, max_position_embeddings=256)).save_pretrained(
        tmp_path / "base"
    )
    fast.save_pretrained(tmp_path / "base")
    small_world(tmp_path / "data")
    recipe = tmp_path / "data" / "recipe.yaml"
    recipe.write_text(
        f"name: small\nthreads: 1\nsamples: 1\nanswer_tokens: 4\nbase: {tmp_path / 'base'}\n"
        "data: {questions: {path: questions.jsonl, format: qa}}\nstages:\n" + SFT % METHODS["lora"]
    )
    folder = stage_folders(run_recipe(load_recipe(recipe, [f"out={json.dumps(str(tmp_path))}"]), recipe))["sft"]
    beside = AutoTokenizer.from_pretrained(folder / "adapter")
    assert len(beside) > 256 and beside.chat_template
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    plain.resize_token_embeddings(len(beside))
    theirs = PeftModel.from_pretrained(plain, str(folder / "adapter"))
    saved = AutoModelForCausalLM.from_pretrained(folder / "model")
    ids = torch.tensor(
        [beside.apply_chat_template([{"role": "user", "content": "Hello?"}], tokenize=True)["input_ids"]]
    )
    assert int(ids.max()) >= 256
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(ids).logits, saved.eval()(ids).logits, rtol=0, atol=1e-5)
    assert max(t.shape[0] for t in load_file(folder / "adapter" / "adapter_model.safetensors").values()) <= 128


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        (
            "adapter: {targets: [q_prj]}",
            r"adapter\.targets: no layer of LlamaForCausalLM is called q_prj\. Did you mean q_p",
        ),
        ("freeze: {head: true}", r"freeze\.head: the head shares its weights with the embedding"),
        ("freeze: {pattern: [xyz]}", r'freeze\.pattern: "xyz" is in no parameter'),
        ("adapter: lora, freeze: {pattern: [lora]}", "freeze: leaves nothing to train"),
    ],
)
def test_what_the_model_cannot_take_is_told_by_check_and_by_run(stage, said, world, out):
    path = world / "recipe.yaml"
    path.write_text(RECIPE + SFT % stage)
    recipe = load_recipe(path, [f"out={json.dumps(str(out))}"])
    for go in (check_recipe, run_recipe):
        with pytest.raises(UserError, match=said):
            go(recipe, path)


def test_missing_bitsandbytes_is_told_before_anything_runs(world, tmp_path, monkeypatch):
    monkeypatch.setattr(quantise, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "luthier\[quant\]"'):
        run(world, tmp_path / "new", SFT % METHODS["nf4"])
    assert not list((tmp_path / "new").glob("small/1-*"))
