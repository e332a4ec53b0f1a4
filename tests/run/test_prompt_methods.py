"""Bottlenecks and virtual tokens through whole stages: trained, interrupted, saved, read by PEFT, built on, refused."""

from __future__ import annotations

import re
import shutil
from importlib.util import find_spec

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from luthier.base.errors import UserError
from luthier.base.events import read_events
from luthier.base.files import read_json
from luthier.model.load import load_folder
from luthier.model.score import score
from luthier.model.verify import own_forward, probe_sequences
from luthier.tokens.pack import forest
from run.small import results, stage_folders
from run.tuned import BASE, interrupt, pretrained, run_with

RECIPE = BASE % "width: 32"
SFT = (
    "  - {kind: sft, data: questions, steps: 8, batch_tokens: 512, learning_rate: 0.02, checkpoint_every_steps: 2, "
    "evaluate_every_steps: 8%s}\n"
)
KINDS = {
    "houlsby": "{kind: bottleneck, size: 8, dropout: 0.1}",
    "pfeiffer": "{kind: bottleneck, size: 8, placement: pfeiffer, activation: silu}",
    "prompt": "{kind: prompt, tokens: 5, start: 'Which colour has the lamp?'}",
    "prefix": "{kind: prefix, tokens: 5}",
    "projected": "{kind: prefix, tokens: 5, projection: 16}",
    "p_tuning": "{kind: p_tuning, tokens: 5, encoder: lstm, width: 16}",
}
VIRTUAL = ("prompt", "prefix", "projected", "p_tuning")
ROWS = probe_sequences(300, 80, seed=5)


def stage(kind, more="", name=None):
    return SFT % (f", adapter: {KINDS.get(kind, kind)}" + (f", name: {name}" if name else "") + more)


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


def logp(folder):
    lm = load_folder(folder, "cpu", torch.float32).lm
    with torch.no_grad():
        return score(lm.__class__(lm.module.eval(), lm.layout), forest(ROWS))


@pytest.mark.parametrize("kind", ["houlsby", "prompt", "projected", "p_tuning"])
def test_a_stage_learns_resumes_bit_for_bit_and_leaves_a_model_that_others_read(kind, world, out, tmp_path):
    whole = run(world, out, stage(kind))
    shutil.copytree(world / "out", tmp_path / "again")
    with pytest.raises(KeyboardInterrupt):
        run(world, tmp_path / "again", stage(kind), (interrupt("sft", 5),))
    resumed = run(world, tmp_path / "again", stage(kind))
    events = list(read_events(stage_folders(resumed)["sft"] / "events.jsonl"))
    assert [e["step"] for e in events if e["kind"] == "resume"] == [4]
    assert results(resumed) == results(whole)

    folders = stage_folders(whole)
    events = list(read_events(folders["sft"] / "events.jsonl"))
    heldout = [e["value"] for e in events if e["kind"] == "eval" and e["name"] == "heldout_loss"]
    assert heldout[-1] < heldout[0] - 0.03
    base, model = folders["pretrain"] / "model", folders["sft"] / "model"
    kept, was = load_file(model / "model.safetensors"), load_file(base / "model.safetensors")
    assert kept.keys() == was.keys() and all(torch.equal(kept[key], was[key]) for key in was)
    ours = logp(model)
    if kind in VIRTUAL:
        plain = AutoModelForCausalLM.from_pretrained(model)
        for adapter in (model / "adapter", folders["sft"] / "adapter"):
            theirs = PeftModel.from_pretrained(plain, str(adapter)).eval()
            torch.testing.assert_close(peft_logp(theirs), ours, rtol=0, atol=1e-5)
    record = read_json(folders["sft"] / "stage.json")
    assert any(re.match(r"carried differs by .*, saved differs by", guard["detail"]) for guard in record["guards"])
    assert record["trainable_parameters"] < record["parameters"] / 2


def peft_logp(theirs):
    with torch.no_grad():
        found = []
        for s in ROWS:
            logits = theirs(input_ids=torch.tensor([s.ids])).logits[0, -len(s.ids) : -1]
            found.append(torch.log_softmax(logits, -1).gather(1, torch.tensor(s.ids)[1:, None]).squeeze(1))
    return torch.cat(found)


def weights(run_folder, name="sft"):
    return load_file(stage_folders(run_folder)[name] / "adapter" / "adapter_model.safetensors")


@pytest.mark.parametrize("kind", ["pfeiffer", "prefix"])
def test_accumulation_and_checkpointing_change_no_trajectory(kind, world, out):
    made = {
        more: weights(run(world, out, stage(kind, more)))
        for more in ("", ", microbatch_tokens: 64", ", gradient_checkpointing: true")
    }
    for more in list(made)[1:]:
        for key, tensor in made[""].items():
            torch.testing.assert_close(made[more][key], tensor, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize(
    ("first", "second"), [("prefix", "{rank: 2}"), ("prefix", "null"), ("houlsby", "null"), ("houlsby", "prompt")]
)
def test_a_later_stage_builds_on_it(first, second, world, out):
    stages = stage(first) + stage(second, name="next")
    with pytest.raises(KeyboardInterrupt):
        run(world, out, stages, (interrupt("next", 3),))
    folders = stage_folders(run(world, out, stages))
    before, after = folders["sft"] / "model", folders["next"] / "model"
    carried = 2 if second in KINDS else 1
    assert [(after / name).is_dir() for name in ("adapter", "adapter-2")] == [True, carried == 2]
    for file in ("adapter_config.json", "adapter_model.safetensors"):  # the first adapter is as it was
        assert (after / "adapter" / file).read_bytes() == (before / "adapter" / file).read_bytes()
    assert float((logp(after) - logp(before)).abs().max()) > 0.05
    said = [e for e in read_events(folders["next"] / "events.jsonl") if e["kind"] == "guard"]
    assert any(e["name"] == "export certificate" and e["ok"] for e in said)


@pytest.mark.parametrize(
    ("policy", "reward", "shared"), [("houlsby", "pfeiffer", True), ("{rank: 2}", "prefix", False)]
)
def test_policy_and_reward_share_a_base_where_they_are_of_one_kind(policy, reward, shared, world, out):
    stages = stage("{rank: 2}") + (
        f"  - {{kind: reward, pairs: pairs, batch_pairs: 8, adapter: {KINDS[reward]}}}\n"
        "  - {kind: ppo, prompts: questions, iterations: 1, rollout_prompts: 4, minibatches: 2, samples: 2, "
        f"max_new_tokens: 6, adapter: {KINDS.get(policy, policy)}}}\n"
    )
    folders = stage_folders(run(world, out, stages))
    assert read_json(folders["ppo"] / "stage.json")["shared_base"] is shared
    said = read_json(folders["reward"] / "stage.json")["guards"]
    assert any("transformers" in guard["detail"] and guard["ok"] for guard in said)
    assert (folders["reward"] / "model" / "adapter" / "adapter_config.json").is_file()


def test_dpo_with_virtual_tokens_on_a_model_that_carries_some(world, out):
    stages = stage("prompt") + (
        f"  - {{kind: dpo, pairs: pairs, batch_pairs: 8, epochs: 2, learning_rate: 0.01, adapter: {KINDS['prefix']}}}\n"
    )
    folders = stage_folders(run(world, out, stages))
    model = folders["dpo"] / "model"
    assert [read_json(model / name / "adapter_config.json")["peft_type"] for name in ("adapter", "adapter-2")] == [
        "PROMPT_TUNING", "PREFIX_TUNING",
    ]  # fmt: skip
    metrics = read_json(folders["dpo"] / "stage.json")["metrics"]
    assert metrics["accuracy"]["value"] >= 0.5


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("kind", ["houlsby", "prefix"])
def test_over_a_base_in_four_bits(kind, world, out):
    folders = stage_folders(run(world, out, stage(kind, ", quantize: nf4")))
    model = folders["sft"] / "model"
    saved = AutoModelForCausalLM.from_pretrained(model)  # the dequantised base, in plain transformers
    assert saved.dtype == torch.float32
    lm = load_folder(model, "cpu", torch.float32).lm
    if kind == "houlsby":
        torch.testing.assert_close(own_forward(lm, ROWS), logp(model), rtol=0, atol=1e-5)
    else:
        theirs = PeftModel.from_pretrained(saved, str(model / "adapter")).eval()
        torch.testing.assert_close(peft_logp(theirs), logp(model), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (stage("prefix", ", optimizer: muon"), r"stages\[1\]\.sft\.optimizer: muon .* list of rows.* Use adamw"),
        (stage("houlsby", ", optimizer: muon"), "not for an adapter's. Use adamw"),
        (
            f"  - {{kind: grpo, prompts: questions, rewards: {{'rater.py:rate': 1}}, adapter: {KINDS['prompt']}}}\n",
            "prompt moves the model before the first step, and grpo starts from the reference itself",
        ),
        (stage("{kind: prefix, tokens: 96}"), "96 virtual tokens fill the model's context of 96"),
    ],
)
def test_what_cannot_be_is_told_before_training(stages, message, world, out):
    with pytest.raises(UserError, match=message):
        run(world, out, stages)
