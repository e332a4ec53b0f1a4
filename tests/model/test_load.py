"""Loading and saving: one line for every bad input, the same log-probs after a round trip, a real model."""

from __future__ import annotations

import gzip
import json
import math
import re

import pytest
import torch
from transformers import AutoModelForCausalLM

from architectures import tiny
from luthier.base.errors import UserError
from luthier.base.nouns import Text, Tokens
from luthier.base.recipe import Base, Fresh
from luthier.generate import sample
from luthier.model.draw import Sampling
from luthier.model.load import compute_dtype, fresh_model, load_folder, load_model, save_model
from luthier.model.score import score
from luthier.model.verify import own_forward, probe_sequences
from luthier.tokens.pack import forest
from luthier.tokens.render import Renderer
from luthier.tokens.tokenizer import train_tokenizer

SEQUENCES = probe_sequences(128, 256, 16, seed=2)


def small():
    """A model of as many tokens as the tokenizer has."""
    model = tiny("llama")
    torch.manual_seed(1)
    model.resize_token_embeddings(260, mean_resizing=False)
    return model.eval()


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a"], 260)


@pytest.fixture
def folder(tokenizer, tmp_path):
    """A good model folder to spoil."""
    save_model(small(), tokenizer, tmp_path / "model", end_ids=(0, 3))
    return tmp_path / "model"


def load(folder, **settings):
    return load_model(Base(model=folder.name, **settings), folder.parent, "cpu")


def refusal(folder, **settings):
    """What a user reads: one problem, one line."""
    with pytest.raises(UserError) as caught:
        load(folder, **settings)
    (problem,) = caught.value.problems
    assert "\n" not in problem and problem.startswith("base.")
    return problem


def test_saved_and_loaded_is_the_same_model(folder):
    for loaded in (load(folder), load_folder(folder, "cpu", torch.float32)):
        expected = score(load(folder).lm, forest(SEQUENCES))
        torch.testing.assert_close(score(loaded.lm, forest(SEQUENCES)), expected, rtol=0, atol=0)
        original = own_forward_of(small())
        torch.testing.assert_close(own_forward(loaded.lm, SEQUENCES), original, rtol=0, atol=0)
        assert (loaded.check.layout, loaded.context, loaded.end_ids) == ("forest", 256, (0, 3))
        assert loaded.tokenizer("abc")["input_ids"] == train_tokenizer(["a"], 260)("abc")["input_ids"]


def own_forward_of(model):
    logps = []
    for s in SEQUENCES:
        logp = torch.log_softmax(model(input_ids=torch.tensor([s.ids])).logits[0, :-1], -1)
        logps.append(logp.gather(1, torch.tensor(s.ids)[1:, None]).squeeze(1))
    return torch.cat(logps).detach()


def test_ends_of_the_generation_config(folder):
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [0, 3]
    for written, expected in ((7, (7,)), ([7, 9], (7, 9)), (None, ())):
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": written}))
        assert load(folder).end_ids == expected


def test_the_folder_is_plain_transformers(folder):
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    prompt = torch.tensor([[5, 9, 33, 7]])
    expected = theirs.generate(prompt, max_new_tokens=12, pad_token_id=1)[0, 4:].tolist()  # its ends are the saved ones
    (one,) = sample(load(folder).lm, [prompt[0].tolist()], Sampling(12, temperature=0), (0, 3), str)[0]
    assert list(one.ids) == expected


# Bad inputs


def test_a_missing_folder(tmp_path):
    for name in ("./nowhere", "some/deep/nowhere", "~/nowhere-at-all"):
        with pytest.raises(UserError, match=rf"^base.model: {name}: no such folder. Give a folder with config.json"):
            load_model(Base(model=name), tmp_path, "cpu")


def test_a_hub_id_without_a_network(tmp_path):
    with pytest.raises(UserError) as caught:
        load_model(Base(model="nobody/no-such-model"), tmp_path, "cpu")
    (problem,) = caught.value.problems
    assert problem.startswith("base.model: nobody/no-such-model: the run is offline")
    assert problem.endswith("Download it and give its folder.") and "\n" not in problem


def test_no_config(folder):
    (folder / "config.json").unlink()
    assert "no config.json. Give a folder in the Hugging Face layout." in refusal(folder)


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    assert "no weights (*.safetensors). Copy the model's weights there." in refusal(folder)


def test_pickled_weights_are_refused_unless_allowed(folder):
    (folder / "model.safetensors").unlink()
    torch.save(small().state_dict(), folder / "pytorch_model.bin")
    problem = refusal(folder)
    assert "only pickled weights (pytorch_model.bin), which can run code when loaded" in problem
    assert "base.allow_pickle: true" in problem
    loaded = load(folder, allow_pickle=True)
    torch.testing.assert_close(own_forward(loaded.lm, SEQUENCES), own_forward_of(small()), rtol=0, atol=0)


def test_code_that_comes_with_a_model_runs_only_when_trusted(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "homemade", "auto_map": {"AutoConfig": "home.Made", "AutoModelForCausalLM": "home.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "home.py").write_text("raise SystemExit('this code ran')")
    problem = refusal(folder)
    assert "it comes with its own Python code. Read that code, then set base.trust_remote_code: true." in problem


def spoil_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def test_an_unknown_architecture(folder):
    spoil_config(folder, model_type="martian")
    assert "cannot be loaded" in refusal(folder) and "martian" in refusal(folder)


def test_a_model_that_is_no_causal_language_model(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "t5"}))
    assert "cannot be loaded" in refusal(folder)


@pytest.mark.parametrize("changes", [{"hidden_size": 64}, {"num_attention_heads": 5}, {"hidden_size": "wide"}])
def test_a_config_that_does_not_fit_its_weights(folder, changes):
    spoil_config(folder, **changes)
    assert "cannot be loaded" in refusal(folder)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null"])
def test_a_config_that_is_no_json_object(folder, text):
    (folder / "config.json").write_text(text)
    assert "cannot be loaded" in refusal(folder)


@pytest.mark.parametrize("left", [0, 7, 100, -64])
def test_weights_cut_off_or_spoilt(folder, left):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:left] if left >= 0 else b"\xff" * 64 + whole[64:])
    assert "cannot be loaded" in refusal(folder)


def test_missing_weights_are_not_made_up(folder):
    """transformers fills what a file lacks with random numbers and goes on."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "its files lack 1 of the model's tensors (model.layers.1.mlp.up_proj.weight, ...)" in refusal(folder)


def test_no_tokenizer(folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert "cannot be loaded" in refusal(folder)


def test_a_chat_template_from_a_file(folder):
    (folder.parent / "chat.jinja").write_text("{{ messages[0]['content'] }}")
    assert load(folder, chat_template="chat.jinja").tokenizer.chat_template == "{{ messages[0]['content'] }}"
    assert refusal(folder, chat_template="none.jinja").endswith("none.jinja: no such file.")


# Models from nothing


def test_a_fresh_model_is_a_function_of_its_seed(tokenizer):
    fresh = Fresh(layers=2, width=32, heads=4, kv_heads=2, context=64)
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    one = fresh_model(fresh, tokenizer, 0)
    assert torch.equal(torch.random.get_rng_state(), state)  # nobody else's randomness moves
    torch.manual_seed(6)
    again, other = fresh_model(fresh, tokenizer, 0), fresh_model(fresh, tokenizer, 1)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)
    config = one.config
    assert (config.vocab_size, config.num_key_value_heads, config.max_position_embeddings) == (260, 2, 64)
    assert config.intermediate_size == 96  # 8/3 · 32 = 85.3, up to a multiple of 16
    # it knows nothing yet: about log 260 nats a token
    lm = load_ready(one, tokenizer)
    loss = -score(lm, forest([Tokens(tuple(range(60)), (1.0,) * 60, "")])).mean().item()
    assert loss == pytest.approx(math.log(260), abs=0.3)


def load_ready(model, tokenizer):
    from luthier.model.load import wrap

    return wrap(model.eval(), tokenizer, "cpu", torch.float32).lm


def test_arithmetic():
    assert compute_dtype("auto", "cpu") == torch.float32
    assert compute_dtype("bfloat16", "cpu") == torch.bfloat16
    assert compute_dtype("float32", "cuda") == torch.float32


# A real model


@pytest.fixture(scope="module")
def stories(shared_data):
    return load_model(Base(model="stories260K"), shared_data, "cpu")


def test_a_real_model_reads_real_stories(stories, shared_data):
    """shared/data/SOURCES.md: the first 60 stories, 256 tokens each, have a mean loss of 1.325 nats."""
    with gzip.open(shared_data / "tinystories" / "tiny_stories.txt.gz", "rt") as file:
        text = file.read()
    renderer, rows = Renderer(stories.tokenizer), []
    for story in re.split(r"(?<!\n)\n(?!\n)", text)[:60]:
        tokens = renderer.text(Text(story, "tiny_stories.txt"))
        assert tokens.ids[-1] == stories.tokenizer.eos_token_id
        rows.append(Tokens(tokens.ids[:-1][:256], tokens.weights[:-1][:256], tokens.origin))
    batch = forest(rows)
    assert stories.check.layout == "forest"
    with torch.no_grad():
        loss = -score(stories.lm, batch).mean().item()
    assert loss == pytest.approx(1.325, abs=0.001)


def test_a_real_model_continues_a_story_as_transformers_does(stories, shared_data):
    renderer = Renderer(stories.tokenizer)
    prompt = list(renderer.text(Text("Once upon a time", "")).ids[:-1])
    (ours,) = sample(stories.lm, [prompt], Sampling(100, temperature=0), stories.end_ids, renderer.decode)[0]
    theirs = AutoModelForCausalLM.from_pretrained(shared_data / "stories260K")
    assert list(ours.ids) == theirs.generate(torch.tensor([prompt]), max_new_tokens=100)[0, len(prompt) :].tolist()
    assert ours.text.startswith(", there was a little girl named Lily.")
