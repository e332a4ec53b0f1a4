"""Bottleneck adapters: nothing at first, where they act, their folder, and a trace left nowhere."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, BertConfig, BertForMaskedLM

from architectures import COMMON, FOREST, tiny
from luthier.base.errors import UserError
from luthier.base.nouns import Tokens
from luthier.base.tuning import Bottleneck, Lora
from luthier.generate import sample
from luthier.model.adapt import add_adapter, load_adapter, merged, only, restore_adapter, save_adapter, trainable
from luthier.model.bottleneck import places
from luthier.model.carried import carry, kinds, load_carried, save_carried
from luthier.model.draw import Sampling
from luthier.model.load import save_model
from luthier.model.score import logits_of, score, states
from luthier.model.verify import choose_layout, probe_sequences
from luthier.tokens.pack import forest

SEQUENCES = probe_sequences(128, 256, 16, seed=1)
BATCH = forest(SEQUENCES, min_shared=2)
HOULSBY = Bottleneck(kind="bottleneck", size=6)
PFEIFFER = Bottleneck(kind="bottleneck", size=6, placement="pfeiffer", activation="relu")
KINDS = ["llama", "gpt2", "gpt_neox", "qwen3", "gemma3_text", "phi", "mixtral", "gpt_oss", "opt", "bloom", "mpt"]


def base(kind="llama", seed=0):
    return choose_layout(tiny(kind, seed))[0]


def logp(lm, batch=BATCH):
    with torch.no_grad():
        return score(lm, batch)


def stir(lm, name="policy", seed=0):
    """Weights as training might leave them: far enough from zero to move log-probs by whole nats."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in lm.module.weights(name).values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return lm


def trains(lm):
    return {name for name, parameter in lm.module.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("kind", "how"),
    [*((kind, HOULSBY) for kind in KINDS), *((kind, PFEIFFER) for kind in ("llama", "gpt2", "gpt_oss"))],
    ids=lambda value: value if isinstance(value, str) else value.placement,
)
def test_it_starts_as_the_identity_and_trains_alone(kind, how):
    bare = base(kind)
    before = logp(bare)
    names = set(bare.module.state_dict())
    lm = add_adapter(bare, how, "policy", seed=0)
    assert torch.equal(logp(lm), before)
    places_a_block = 2 if how.placement == "houlsby" else 1
    assert len(trainable(lm.module)) == 2 * places_a_block * 4  # two blocks; down, up and their biases
    assert names <= set(lm.core.state_dict())  # the base's parameters keep their names
    assert trains(lm) == {f"base_model.{n}" for n in set(lm.core.state_dict()) - names}
    assert not torch.equal(logp(stir(lm)), before)


def twin(kind, folder):
    """Ten lines of plain torch: a model with the saved adapter on it, and nothing of ours."""
    model = tiny(kind)
    weights, how = (
        load_file(folder / "adapter_model.safetensors"),
        json.loads((folder / "adapter_config.json").read_text()),
    )
    activation = getattr(F, how["activation"])
    for place in {key.rpartition(".")[0] for key in weights}:

        def adapt(module, inputs, output, place=place):
            x = output[0] if isinstance(output, tuple) else output
            w = {key: weights[f"{place}.{key}"] for key in ("down", "down_bias", "up", "up_bias")}
            x = x + activation(x @ w["down"].T + w["down_bias"]) @ w["up"].T + w["up_bias"]
            return (x, *output[1:]) if isinstance(output, tuple) else x

        model.get_submodule(place).register_forward_hook(adapt)
    return model


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "qwen3", "gemma3_text", "phi", "bloom"])
def test_the_saved_folder_under_a_ten_line_twin_gives_the_same_log_probs(kind, tmp_path):
    how = HOULSBY.model_copy(update={"activation": {"llama": "silu", "gpt2": "relu"}.get(kind, "gelu")})
    lm = stir(add_adapter(base(kind), how, "policy", seed=0))
    save_adapter(lm, "policy", tmp_path)
    model, expected = twin(kind, tmp_path), []
    with torch.no_grad():
        for s in SEQUENCES:
            logits = model(input_ids=torch.tensor([s.ids])).logits[0, :-1]
            expected.append(torch.log_softmax(logits, -1).gather(1, torch.tensor(s.ids)[1:, None]).squeeze(1))
    torch.testing.assert_close(logp(lm), torch.cat(expected), rtol=0, atol=2e-5)


def test_the_snippet_of_the_documents_puts_it_on(tmp_path):
    lm = stir(add_adapter(base("gpt2"), PFEIFFER, "policy", seed=0))
    save_adapter(lm, "policy", tmp_path)
    text = (Path(__file__).parents[2] / "docs" / "adapters.md").read_text()
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "def put_on" in block]
    names: dict = {}
    exec(code, names)
    model = names["put_on"](tiny("gpt2"), tmp_path)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([SEQUENCES[0].ids])).logits[0, :-1]
    expected = torch.log_softmax(logits, -1).gather(1, torch.tensor(SEQUENCES[0].ids)[1:, None]).squeeze(1)
    torch.testing.assert_close(logp(lm, forest(SEQUENCES[:1])), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_encoders_take_it(kind, tmp_path):
    torch.manual_seed(0)
    shape = {
        **COMMON,
        "max_position_embeddings": 64,
        "global_attn_every_n_layers": 1,
        "sep_token_id": 2,
        "cls_token_id": 1,
    }
    module = AutoModelForMaskedLM.from_config(AutoConfig.for_model(kind, **shape)).eval()
    bare = choose_layout(copy.deepcopy(module))[0]
    cut = [s.ids[:20] for s in SEQUENCES]
    alone = 1 << 20  # an encoder's sequences share nothing
    rows = forest([Tokens(ids, (0.0,) + (1.0,) * (len(ids) - 1), "") for ids in cut], min_shared=alone)
    before = logp(bare, rows)
    lm = add_adapter(bare, HOULSBY, "policy", seed=0)
    assert torch.equal(logp(lm, rows), before)
    stir(lm)
    save_adapter(lm, "policy", tmp_path)
    again = load_adapter(choose_layout(module)[0], "policy", tmp_path)
    assert torch.equal(logp(again, rows), logp(lm, rows)) and not torch.equal(logp(lm, rows), before)
    assert torch.equal(logp(merged(lm), rows), logp(lm, rows))


def test_it_acts_before_the_residual_addition():
    """In Llama: h = x + A(attention(norm(x))); out = h + M(mlp(norm(h))), with A and M the two adapters."""
    lm = stir(add_adapter(base(), HOULSBY, "policy", seed=0))
    block = lm.core.model.layers[0]
    seen = {}
    hooks = [
        block.post_attention_layernorm.register_forward_pre_hook(lambda m, a: seen.update(h=a[0])),
        block.self_attn.o_proj.register_forward_hook(lambda m, a, out: seen.update(attention=out)),
        block.mlp.down_proj.register_forward_hook(lambda m, a, out: seen.update(mlp=out)),
        block.register_forward_hook(lambda m, a, out: seen.update(x=a[0], out=out)),
    ]
    logp(lm)
    [hook.remove() for hook in hooks]

    def adapter(part, x):
        w = {
            key: lm.module.weights("policy")[f"model.layers.0.{part}.{key}"]
            for key in ("down", "down_bias", "up", "up_bias")
        }
        return x + F.gelu(x @ w["down"].T + w["down_bias"]) @ w["up"].T + w["up_bias"]

    h = seen["x"] + adapter("self_attn", seen["attention"])
    torch.testing.assert_close(seen["h"], h, rtol=0, atol=1e-5)
    torch.testing.assert_close(seen["out"], h + adapter("mlp", seen["mlp"]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "mixtral", "bloom"])
def test_forest_gradients_are_the_sum_over_sequences(kind):
    lm = stir(add_adapter(base(kind), HOULSBY, "policy", seed=0))

    def gradients(batches):
        for batch in batches:
            (-score(lm, batch).sum()).backward()
        found = [p.grad.clone() for p in trainable(lm.module).values()]
        lm.module.zero_grad()
        return found

    together = gradients([BATCH])
    apart = gradients([forest([s]) for s in SEQUENCES])
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


def test_checkpointing_changes_nothing_dropout_included():
    lm = stir(add_adapter(base(), HOULSBY.model_copy(update={"dropout": 0.3}), "policy", seed=0))
    lm.module.train()

    def gradients():
        torch.manual_seed(7)
        (-score(lm, BATCH).sum()).backward()
        found = [p.grad.clone() for p in trainable(lm.module).values()]
        lm.module.zero_grad()
        return found

    plain = gradients()
    lm.core.gradient_checkpointing_enable({"use_reentrant": False})
    lm.core.enable_input_require_grads()
    assert all(torch.equal(one, other) for one, other in zip(plain, gradients(), strict=True))


def test_policy_and_reward_on_one_base_are_switched_like_pefts(tmp_path):
    bare = logp(base())
    alone = {}
    for name, how in (("policy", HOULSBY), ("reward", PFEIFFER)):
        one = stir(add_adapter(base(), how, name, seed=3), name, seed=len(name))
        alone[name] = logp(one)
        save_adapter(one, name, tmp_path / name)
    lm = load_adapter(base(), "policy", tmp_path / "policy", trainable=True)
    lm = load_adapter(lm, "reward", tmp_path / "reward")
    lm.module.set_adapter("policy")
    before = trains(lm)
    assert before and all(".policy." in name for name in before)
    for name in ("policy", "reward", None, "policy"):
        with only(lm, name):
            assert torch.equal(logp(lm), bare if name is None else alone[name])
    with pytest.raises(RuntimeError, match="inside"), only(lm, None):
        raise RuntimeError("inside")
    assert torch.equal(logp(lm), alone["policy"]) and trains(lm) == before
    with pytest.raises(ValueError, match="no adapter referee"):
        lm.module.set_adapter("referee")


def test_restore_fills_the_parameters_that_an_optimizer_holds(tmp_path):
    lm = stir(add_adapter(base(), HOULSBY, "policy", seed=0))
    held = trainable(lm.module)
    saved = {name: p.detach().clone() for name, p in held.items()}
    save_adapter(lm, "policy", tmp_path)
    stir(lm, seed=5)
    restore_adapter(lm, "policy", tmp_path)
    assert all(torch.equal(p, saved[name]) for name, p in held.items())
    assert all(p is held[name] for name, p in trainable(lm.module).items())


def test_first_weights_depend_on_seed_and_name_only():
    def weights(seed, name, noise):
        torch.manual_seed(noise)
        lm = add_adapter(base(), HOULSBY, name, seed)
        return torch.cat([p.flatten() for p in trainable(lm.module).values()])

    assert torch.equal(weights(0, "policy", 1), weights(0, "policy", 2))
    assert not torch.equal(weights(0, "policy", 1), weights(1, "policy", 1))
    assert not torch.equal(weights(0, "policy", 1), weights(0, "reward", 1))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bloom"])
def test_a_model_carries_its_adapter_through_its_folder(kind, tmp_path):
    lm = stir(add_adapter(base(kind), HOULSBY.model_copy(update={"dropout": 0.5}), "policy", seed=0))
    whole = merged(lm)
    whole.module.train(kind == "llama")  # it has no dropout; the adapter's was for its own training
    assert torch.equal(logp(whole), logp(lm)) and not trains(whole)
    assert not torch.equal(logp(base(kind)), logp(lm))
    with_tokenizer = type("Tokenizer", (), {"save_pretrained": lambda self, folder: None})()
    save_model(whole.module, with_tokenizer, tmp_path)
    module, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)  # the base, whole and plain
    assert not info["missing_keys"] and not info["unexpected_keys"]
    again = choose_layout(module.eval())[0]
    assert torch.equal(logp(again), logp(base(kind)))
    load_carried(again.core, tmp_path)
    assert torch.equal(logp(again), logp(lm)) and torch.equal(logp(whole), logp(lm))


def test_lora_and_a_second_bottleneck_train_on_what_is_carried(tmp_path):
    first = stir(add_adapter(base(), HOULSBY, "policy", seed=0))
    for second in (Lora(rank=2), PFEIFFER, None):
        start = merged(first)
        reference = logp(start)
        if second is None:
            continue
        lm = add_adapter(start, second, "policy", seed=1)
        assert torch.equal(logp(lm), reference)
        assert all("carried" not in name for name in trains(lm))
        with torch.no_grad():
            for number, p in enumerate(trainable(lm.module).values()):
                p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(number)))
        with only(lm, None):  # the reference is what the stage started from, not the bare base
            torch.testing.assert_close(logp(lm), reference, rtol=0, atol=1e-6)
        whole = merged(lm)
        torch.testing.assert_close(logp(whole), logp(lm), rtol=0, atol=2e-5)
        folder = tmp_path / second.kind
        save_carried(whole.core, folder)
        assert [path.name for path in sorted(folder.iterdir())] == ["adapter", "adapter-2"][: len(kinds(whole.core))]
        assert len(kinds(whole.core)) == (1 if isinstance(second, Lora) else 2)


def test_greedy_tokens_are_the_argmax_of_its_scores():
    lm = stir(add_adapter(base("qwen3"), HOULSBY, "policy", seed=0))
    prompts = [s.ids[:n] for s, n in zip(SEQUENCES, (5, 9, 3, 12), strict=False)]
    drawn = sample(lm, prompts, Sampling(8, temperature=0), [2], str)
    for prompt, (one,) in zip(prompts, drawn, strict=True):
        ids = list(prompt)
        for token, said in zip(one.ids, one.logps, strict=True):
            batch = forest([Tokens((*ids, token), (0.0,) * len(ids) + (1.0,), "")])
            assert abs(float(logp(lm, batch)[0]) - said) < 1e-5
            with torch.no_grad():
                assert int(logits_of(lm, states(lm, batch, batch.from_M, batch.seq_M)).argmax()) == token
            ids.append(token)


def test_an_architecture_without_known_parts_is_named():
    with pytest.raises(
        UserError, match=r"MambaForCausalLM \(mamba\) have no attention .*\(they have norm, mixer\).*lora"
    ):
        add_adapter(base("mamba"), HOULSBY, "policy", seed=0)
    odd = tiny("llama")
    odd.model.layers = nn.ModuleList([*odd.model.layers, *odd.model.layers])
    with pytest.raises(UserError, match=r"LlamaForCausalLM \(llama\) has no numbered list of blocks"):
        places(odd, "pfeiffer")


def test_every_architecture_of_the_suite_has_its_places():
    for kind in FOREST:
        names = list(places(tiny(kind), "houlsby"))
        assert len(names) == 4 and len({name.rpartition(".")[2] for name in names}) == 2, (kind, names)
    bert = BertForMaskedLM(
        BertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, vocab_size=50)
    )
    assert [name.partition("layer.")[2] for name in places(bert, "houlsby")] == [
        "0.attention.output.dense", "0.output.dense", "1.attention.output.dense", "1.output.dense",
    ]  # fmt: skip


def test_another_models_adapter_is_refused(tmp_path):
    lm = add_adapter(base(), HOULSBY, "policy", seed=0)
    save_adapter(lm, "policy", tmp_path)
    with pytest.raises(UserError, match=r"belongs to another model: there is no model.layers.0.mlp in GPT2LMHeadModel"):
        load_adapter(base("gpt2"), "policy", tmp_path)
    for shape, said in (({"num_hidden_layers": 3}, "nothing for model.layers.2"), ({"hidden_size": 64}, "is .* there")):
        config = AutoConfig.for_model("llama", **{**COMMON, "head_dim": 8, **shape})
        with pytest.raises(UserError, match=said):
            load_adapter(choose_layout(AutoModelForCausalLM.from_config(config))[0], "policy", tmp_path)
    other = add_adapter(base(), PFEIFFER, "policy", seed=0)
    with pytest.raises(UserError, match="Give the adapter's own base and settings"):
        restore_adapter(other, "policy", tmp_path)
    add_adapter(base(), Lora(rank=2), "policy", seed=0).module.save_pretrained(tmp_path / "lora")
    with pytest.raises(UserError, match="merged into the weights, not carried"):
        carry(copy.deepcopy(base().core), tmp_path / "lora" / "policy")
