"""The whole road on a small world: what it leaves on disk, and what is done again when something changes."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from luthier.base.config import load_recipe
from luthier.base.events import read_events
from luthier.base.files import read_json
from luthier.base.nouns import Message, Tokens
from luthier.model.adapt import load_adapter
from luthier.model.load import load_folder
from luthier.model.score import score
from luthier.run.pairs import read_pairs
from luthier.run.stages import check_recipe, open_chat
from luthier.tokens.pack import forest
from run.small import documents, results, run_small, small_world, stage_folders

pytestmark = pytest.mark.xdist_group("small road")
FIGURE = {"value", "low", "high", "n"}


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """(recipe, run folder) of the small world, run once."""
    folder = tmp_path_factory.mktemp("road")
    recipe = small_world(folder)
    return recipe, run_small(recipe, folder / "out")


@pytest.fixture
def copied(road, tmp_path):
    """A recipe and a finished run of one's own, to change."""
    recipe, run = road
    shutil.copytree(recipe.parent, tmp_path / "world")
    return tmp_path / "world" / recipe.name, tmp_path / "world" / "out", tmp_path / "world" / "out" / run.name


def stamps(run) -> dict[str, float]:
    """When every file of every finished stage was last written."""
    files = [p for f in stage_folders(run).values() for p in f.rglob("*") if p.is_file()]
    return {str(p.relative_to(run)): p.stat().st_mtime_ns for p in files}


def test_report_json_has_what_is_documented(road):
    report = read_json(road[1] / "report.json")
    assert {
        "name", "seed", "created", "seconds", "peak_bytes", "simulated", "metrics", "stages", "data", "versions",
        "hardware",
    } <= report.keys()  # fmt: skip
    assert report["name"] == "small" and report["seed"] == 0
    assert [s["name"] for s in report["stages"]] == ["pretrain", "sft", "prefer", "reward", "ppo"]
    for stage in report["stages"]:
        assert {"kind", "seconds", "tokens", "tokens_per_s", "peak_bytes", "guards"} <= stage.keys(), stage["name"]
        assert stage["seconds"] > 0 and 10**7 < stage["peak_bytes"] <= report["peak_bytes"]
        assert all(guard["ok"] for guard in stage["guards"])
    assert report["seconds"] == pytest.approx(
        sum(s["seconds"] for s in report["stages"]) + report["evaluate_seconds"], abs=0.01
    )
    corpus = report["data"][0]
    assert (corpus["name"], corpus["format"], corpus["rows"], corpus["rejected"]) == ("corpus", "text", 200, 0)
    assert corpus["train"] + corpus["heldout"] == 200 and corpus["heldout"] > 0
    assert {"luthier", "torch", "transformers", "python"} <= report["versions"].keys()
    assert report["hardware"]["threads"] == 1


def test_every_figure_has_its_interval_and_its_n(road):
    metrics = read_json(road[1] / "report.json")["metrics"]
    assert list(metrics) == ["knowledge", "answers", "forgetting", "win_rate", "reward"]
    for probe in ("knowledge", "answers", "forgetting"):
        assert list(metrics[probe])[-3:] == ["pretrain", "sft", "ppo"], probe
    figures = [f for probe in ("knowledge", "answers", "forgetting", "win_rate") for f in metrics[probe].values()]
    figures += [metrics["reward"]["accuracy"], metrics["reward"]["length_baseline"], metrics["reward"]["margin"]]
    for figure in figures:
        assert figure.keys() >= FIGURE
        assert figure["low"] <= figure["value"] <= figure["high"] and figure["n"] > 0
    assert metrics["knowledge"]["sft"]["n"] == metrics["answers"]["sft"]["n"] == 12
    assert metrics["forgetting"]["pretrain"]["value"] == 0 and metrics["forgetting"]["sft"]["since"] == "pretrain"
    rise = metrics["forgetting"]["sft"]["loss"]["value"] - metrics["forgetting"]["pretrain"]["loss"]["value"]
    assert metrics["forgetting"]["sft"]["value"] == pytest.approx(rise, abs=1e-9)


def test_training_lowers_the_heldout_loss(road):
    """At random weights the loss is the entropy of 300 tokens, ln 300 = 5.70; eight steps bring it well below."""
    events = list(read_events(stage_folders(road[1])["pretrain"] / "events.jsonl"))
    losses = [e["value"] for e in events if e["kind"] == "eval" and e["name"] == "heldout_loss"]
    assert losses[0] == pytest.approx(math.log(300), abs=0.5) and losses[-1] < losses[0] - 0.5


def test_what_is_simulated_says_so(road):
    run = road[1]
    folders, report = stage_folders(run), read_json(run / "report.json")
    assert report["simulated"] is True and report["metrics"]["win_rate"]["ppo_vs_sft"]["simulated"] is True
    assert read_json(folders["prefer"] / "stage.json")["simulated"] is True
    assert next(s for s in report["stages"] if s["name"] == "prefer")["simulated"] is True
    pairs = read_pairs(folders["prefer"] / "pairs.jsonl")
    assert pairs and all(pair.meta["simulated"] for pair in pairs)
    said = [e for e in read_events(folders["prefer"] / "events.jsonl") if e["kind"] == "note"]
    assert any("simulated by rater.py:rate, 10% of labels flipped" in e["text"] for e in said)
    assert "simulated" in (run / "report.html").read_text().lower()


def test_preferences_are_the_raters_but_for_the_noise(road):
    pairs = read_pairs(stage_folders(road[1])["prefer"] / "pairs.jsonl")
    heldout = read_pairs(stage_folders(road[1])["prefer"] / "heldout.jsonl")
    for pair in pairs + heldout:
        better = pair.rejected if pair.meta["flipped"] else pair.chosen
        worse = pair.chosen if pair.meta["flipped"] else pair.rejected
        assert better.count(".") - 0.1 * len(better) > worse.count(".") - 0.1 * len(worse)
    assert 0 < sum(pair.meta["flipped"] for pair in pairs) < len(pairs) / 3
    assert not {pair.prompt for pair in pairs} & {pair.prompt for pair in heldout}


def test_guards_stand_in_the_records(road):
    guards = {s["name"]: [x["name"] for x in s["guards"]] for s in read_json(road[1] / "report.json")["stages"]}
    rows = ["supervised tokens", "nothing cut", "single BOS", "pad unsupervised", "no leak"]
    trained = ["packed = unpacked", "largest batch fits", "disk", "export certificate"]
    assert guards["pretrain"] == rows + trained
    assert guards["sft"] == [*rows, "answers end", "template round trip", *trained]
    assert {"answers end", "template round trip", "no leak", *trained} <= set(guards["reward"])
    assert {"prompts fit", "KL starts at 0", "disk", "export certificate"} <= set(guards["ppo"])


def test_events_tell_the_story(road):
    for name, folder in stage_folders(road[1]).items():
        text = (folder / "events.jsonl").read_text()
        events = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
        assert events[0]["kind"] == "begin" and events[0]["stage"] == name and events[-1]["kind"] == "end"
        assert all(isinstance(e["t"], float) for e in events)
        for e in events:
            if e["kind"] == "step" and name != "prefer":
                assert math.isfinite(e["loss"]) and math.isfinite(e["grad_norm"]) and e["lr"] >= 0
    ppo = [e for e in read_events(stage_folders(road[1])["ppo"] / "events.jsonl") if e["kind"] == "step"]
    assert ppo[0]["kl"] < 1e-4, "before the first step the policy is the reference"
    assert {"reward", "kl_coefficient", "entropy", "clip_frac", "value_loss", "ended_frac"} <= ppo[0].keys()
    assert ppo[0]["kl_coefficient"] != ppo[-1]["kl_coefficient"], "kl_target adapts it"


@pytest.mark.parametrize("stage", ["pretrain", "sft", "ppo"])
def test_language_models_load_in_transformers_alone(road, stage):
    folder = stage_folders(road[1])[stage] / "model"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "Which colour has the lamp 0?"}]
    if stage == "pretrain":
        assert tokenizer.chat_template is None, "a base model has none"
        return
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    text = tokenizer.decode(ids["input_ids"][0])
    assert text.endswith("<|im_start|>user\nWhich colour has the lamp 0?<|im_end|>\n<|im_start|>assistant\n")
    made = model.generate(**ids, max_new_tokens=12)
    answer = tokenizer.decode(made[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    ended = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert ended in model.generation_config.eos_token_id
    # `luthier chat` says what transformers says.
    label, chat = open_chat(road[1], stage, max_new_tokens=12)
    assert chat([Message("user", "Which colour has the lamp 0?")]) == answer.strip()
    assert f"stage {stage}" in label


def test_the_reward_model_loads_as_a_classifier(road):
    """And its scores tell chosen from rejected as often as the report says."""
    folder = stage_folders(road[1])
    model = AutoModelForSequenceClassification.from_pretrained(folder["reward"] / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder["reward"] / "model")
    assert model.config.num_labels == 1 and tokenizer.chat_template is not None
    pairs = read_pairs(folder["prefer"] / "heldout.jsonl")
    right = 0
    for pair in pairs:
        scores = []
        for answer in (pair.chosen, pair.rejected):
            turns = [{"role": m.role, "content": m.content} for m in pair.prompt]
            text = tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": answer}], tokenize=False)
            ids = tokenizer(text.rstrip("\n"), add_special_tokens=False, return_tensors="pt")
            with torch.no_grad():
                scores.append(float(model(**ids).logits))
        right += scores[0] > scores[1]
    accuracy = read_json(road[1] / "report.json")["metrics"]["reward"]["accuracy"]
    assert (accuracy["n"], accuracy["value"]) == (len(pairs), pytest.approx(right / len(pairs)))


def test_an_adapter_on_its_base_is_the_merged_model(road):
    folders = stage_folders(road[1])
    base = load_folder(folders["sft"] / "model", "cpu", torch.float32)
    rows = [Tokens(tuple(range(5, 45)), (0.0,) + (1.0,) * 39, "probe")]
    alone_M = score(base.lm, forest(rows))
    adapted = load_adapter(base.lm, "policy", folders["ppo"] / "adapter")
    whole = load_folder(folders["ppo"] / "model", "cpu", torch.float32)
    torch.testing.assert_close(score(adapted, forest(rows)), score(whole.lm, forest(rows)), atol=1e-5, rtol=0)
    assert (score(whole.lm, forest(rows)) - alone_M).abs().max() > 1e-5, "the adapter changes nothing"


def test_a_second_run_runs_nothing(copied):
    recipe, out, run = copied
    before, found = stamps(run), results(run)
    run_small(recipe, out)
    assert stamps(run) == before
    assert results(run) == found


def test_another_seed_is_another_run(copied):
    recipe, out, run = copied
    found, folders = results(run), stage_folders(run)
    run_small(recipe, out, "seed=1", "stages=[{kind: pretrain, data: corpus, steps: 2}]", "evaluate={}")
    assert set(stage_folders(run).values()).isdisjoint(folders.values())
    run_small(recipe, out)  # the first one is still there
    assert results(run) == found


def test_a_changed_setting_reruns_its_stage_and_what_stands_on_it(copied):
    recipe, out, run = copied
    before = stage_folders(run)
    kept = stamps(run)
    run_small(recipe, out, "stages.sft.learning_rate=4e-3")
    after = stage_folders(run)
    assert {name for name in before if before[name] != after[name]} == {"sft", "prefer", "reward", "ppo"}
    now = stamps(run)
    assert all(now[path] == at for path, at in kept.items() if path.startswith(before["pretrain"].name))
    assert all((run / path).stat().st_mtime_ns == at for path, at in kept.items()), "what was made before is kept"


def test_a_changed_source_reruns_what_reads_it(copied):
    recipe, out, run = copied
    before = stage_folders(run)
    rows = (recipe.parent / "questions.jsonl").read_text().splitlines()
    (recipe.parent / "questions.jsonl").write_text("\n".join(rows[:-1]) + "\n")
    run_small(recipe, out)
    after = stage_folders(run)
    assert before["pretrain"] == after["pretrain"] and before["sft"] != after["sft"]


def test_a_probe_is_measured_without_running_any_stage(copied):
    recipe, out, run = copied
    before = stamps(run)
    run_small(recipe, out, "evaluate.again={kind: loss, data: questions, after: [sft, ppo]}")
    assert stamps(run) == before
    again = read_json(run / "report.json")["metrics"]["again"]
    assert list(again) == ["sft", "ppo"] and again["sft"]["loss"]["n"] > 0


def test_check_shows_every_stage_and_leaves_nothing(road, tmp_path):
    recipe = road[0]
    before = sorted(recipe.parent.rglob("*"))
    checks = check_recipe(load_recipe(recipe, [f"out={json.dumps(str(tmp_path / 'never'))}"]), recipe)
    assert [c.stage for c in checks] == ["pretrain", "sft", "prefer", "reward", "ppo"]
    assert all(guard["ok"] for c in checks for guard in c.guards)
    answer = "".join(piece for piece, weight in checks[1].rows[0] if weight > 0)
    assert answer.startswith("It is ") and answer.endswith(".<|im_end|>")
    assert sorted(recipe.parent.rglob("*")) == before and not (tmp_path / "never").exists()


EXTERNAL = """
name: external
threads: 1
samples: 1
answer_tokens: 6
base: base
data:
  corpus: {path: corpus.jsonl, format: text}
  questions: {path: questions.jsonl, format: qa}
stages:
  - {kind: pretrain, data: corpus, steps: 3, batch_tokens: 512}
  - {kind: sft, data: questions, steps: 6, batch_tokens: 512, learning_rate: 1.0e-2, adapter: {rank: 2, alpha: 4}}
evaluate:
  forgetting: {kind: loss, data: corpus}
"""


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def external(request, tmp_path):
    """A recipe on a base that knows no turns: a random Llama in a folder, whose tokenizer has no ChatML and no room
    for it."""
    recipe = small_world(tmp_path / "world")
    recipe.write_text(EXTERNAL)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=290, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    bpe.train_from_iterator([row["text"] for row in documents()], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=290, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=96, bos_token_id=0, eos_token_id=1,
        tie_word_embeddings=request.param,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(recipe.parent / "base")
    tokenizer.save_pretrained(recipe.parent / "base")
    return recipe


def test_an_adapter_on_an_external_base_learns_its_new_tokens(external):
    """ChatML's two tokens are new to the base: the embedding grows, their rows are trained with the adapter, and the
    adapter on the grown base, by PEFT alone, is the merged model."""
    run = run_small(external, external.parent / "out")
    folders = stage_folders(run)
    merged = AutoModelForCausalLM.from_pretrained(folders["sft"] / "model")
    tokenizer = AutoTokenizer.from_pretrained(folders["sft"] / "model")
    turn, ended = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    assert (turn, ended) == (290, 291) and merged.get_input_embeddings().weight.shape[0] == 292

    grown = AutoModelForCausalLM.from_pretrained(folders["pretrain"] / "model")
    grown.resize_token_embeddings(292)
    adapted = PeftModel.from_pretrained(grown, folders["sft"] / "adapter").eval()
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Which colour has the lamp 0?"}, {"role": "assistant", "content": "It is red."}],
        tokenize=False,
    )
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(adapted(**ids).logits, merged(**ids).logits, atol=1e-5, rtol=0)
    # What the base was given, before anything is trained, stands in the report's table too.
    assert (run / "base" / "samples.jsonl").read_text().strip()
    assert list(read_json(run / "report.json")["metrics"]["forgetting"]) == ["base", "pretrain", "sft"]


def test_new_tokens_do_not_depend_on_what_ran_before(external):
    """The rows of new tokens are drawn at random: of the seed, not of whatever the process did before."""
    whole = results(run_small(external, external.parent / "whole"))
    first = external.with_name("first.yaml")
    first.write_text(EXTERNAL[: EXTERNAL.index("  - {kind: sft")])
    run_small(first, external.parent / "halves")
    torch.manual_seed(123)
    assert results(run_small(external, external.parent / "halves")) == whole


@pytest.mark.parametrize("changes", [("reward", "ppo"), ("reward",), ("ppo",)], ids=" and ".join)
def test_without_adapters_every_role_has_its_own_weights(changes, copied):
    """Full-parameter reward model, full-parameter policy, or both: roles cannot share a base, and the rest holds."""
    recipe, out, run = copied
    run_small(recipe, out, *(f"stages.{stage}.adapter=null" for stage in changes))
    folders = stage_folders(run)
    record = read_json(folders["ppo"] / "stage.json")
    assert record["shared_base"] is False
    told = [e["text"] for e in read_events(folders["ppo"] / "events.jsonl") if e["kind"] == "note"]
    who = "policy, reference and reward" if "ppo" in changes else "policy and reward"
    assert f"{who} each have their own weights" in told
    assert all(guard["ok"] for guard in record["guards"])
    assert (folders["ppo"] / "adapter").exists() is ("ppo" not in changes)
    assert (folders["reward"] / "scorer" / "adapter_config.json").exists() is ("reward" not in changes)
    whole = record["parameters"] if "ppo" in changes else 0
    assert record["trainable_parameters"] >= whole
    sft, ppo = (load_file(folders[name] / "model" / "model.safetensors") for name in ("sft", "ppo"))
    embedding = "model.embed_tokens.weight"
    assert torch.equal(sft[embedding], ppo[embedding]) is ("ppo" not in changes), "an adapter leaves the embedding"


def test_with_adapters_the_roles_share_one_base(road):
    record = read_json(stage_folders(road[1])["ppo"] / "stage.json")
    assert record["shared_base"] is True and record["trainable_parameters"] < record["parameters"] / 3
