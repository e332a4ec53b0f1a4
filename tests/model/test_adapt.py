"""Adapters: they change nothing at first, travel to plain PEFT, merge, come back, and leave no trace behind."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from architectures import COMMON, tiny
from luthier.base.errors import UserError
from luthier.base.nouns import Tokens
from luthier.base.tuning import Ia3, Lora
from luthier.model.adapt import add_adapter, load_adapter, merged, only, restore_adapter, save_adapter, trainable
from luthier.model.score import score
from luthier.model.tuners import ia3_targets
from luthier.model.verify import choose_layout, own_forward, probe_sequences
from luthier.tokens.pack import forest

LORA = Lora(rank=4, alpha=8)
SEQUENCES = probe_sequences(128, 256, 16, seed=1)
BATCH = forest(SEQUENCES, min_shared=2)
KINDS = ["llama", "gpt2", "gemma2", "mixtral", "llama4_text"]


def base(kind="llama"):
    return choose_layout(tiny(kind))[0]


def logp(lm):
    with torch.no_grad():
        return score(lm, BATCH)


def stir(lm, name, seed=0):
    """Gives an adapter weights as training might: far enough from zero to move log-probs by whole nats."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in lm.module.named_parameters():
            if f".{name}" in key:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)


def trains(lm):
    return {name for name, parameter in lm.module.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_adapter_changes_nothing_and_is_all_that_trains(kind):
    before = logp(base(kind))
    lm = add_adapter(base(kind), LORA, "policy", seed=0)
    assert torch.equal(logp(lm), before)
    assert trains(lm) and all("lora_" in name and ".policy." in name for name in trains(lm))
    assert set(trainable(lm.module)) == trains(lm)


def test_an_adapters_first_weights_depend_on_seed_and_name_only():
    def weights(seed, name, noise):
        torch.manual_seed(noise)
        lm = add_adapter(base(), LORA, name, seed)
        return torch.cat([p.flatten() for p in trainable(lm.module).values()])

    before = torch.random.get_rng_state()
    assert torch.equal(weights(0, "policy", 1), weights(0, "policy", 2))
    assert not torch.equal(weights(0, "policy", 1), weights(1, "policy", 1))
    assert not torch.equal(weights(0, "policy", 1), weights(0, "reward", 1))
    torch.random.set_rng_state(before)


@pytest.mark.parametrize("kind", KINDS)
def test_merged_equals_adapter(kind):
    lm = add_adapter(base(kind), LORA, "policy", seed=0)
    plain = logp(lm)
    stir(lm, "policy")
    whole = merged(lm)
    assert not isinstance(whole.module, PeftModel)
    assert (logp(lm) - plain).abs().max() > 0.1
    torch.testing.assert_close(logp(whole), logp(lm), rtol=1e-5, atol=1e-5)
    # merging worked on a copy
    with only(lm, None):
        assert torch.equal(logp(lm), plain)


@pytest.mark.parametrize("name", ["policy", "default"])
def test_a_saved_adapter_loads_in_plain_peft(name, tmp_path):
    lm = add_adapter(base(), LORA, name, seed=0)
    stir(lm, name)
    save_adapter(lm, name, tmp_path / "adapter")
    assert {f.name for f in (tmp_path / "adapter").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    theirs = PeftModel.from_pretrained(tiny("llama"), str(tmp_path / "adapter")).eval()
    logits = [theirs(input_ids=torch.tensor([s.ids])).logits[0, :-1] for s in SEQUENCES]
    expected = torch.cat(
        [
            torch.log_softmax(x, -1).gather(1, torch.tensor(s.ids)[1:, None]).squeeze(1)
            for x, s in zip(logits, SEQUENCES, strict=True)
        ]
    )
    torch.testing.assert_close(logp(lm), expected, rtol=0, atol=2e-5)


def test_saving_one_of_two_adapters_saves_that_one(tmp_path):
    lm = add_adapter(add_adapter(base(), LORA, "policy", 0), Lora(rank=2, alpha=2), "reward", 0)
    stir(lm, "policy", 1)
    stir(lm, "reward", 2)
    for name in ("policy", "reward"):
        save_adapter(lm, name, tmp_path / name)
        alone = load_adapter(base(), name, tmp_path / name)
        with only(lm, name):
            torch.testing.assert_close(logp(alone), logp(lm), rtol=0, atol=1e-6)
        assert not trains(alone)


def test_restore_puts_weights_back_into_the_same_parameters(tmp_path):
    lm = add_adapter(base(), LORA, "policy", seed=0)
    stir(lm, "policy")
    held = trainable(lm.module)  # as an optimizer holds them
    saved = {name: p.detach().clone() for name, p in held.items()}
    save_adapter(lm, "policy", tmp_path)
    stir(lm, "policy", seed=5)
    restore_adapter(lm, "policy", tmp_path)
    assert all(torch.equal(p, saved[name]) for name, p in held.items())
    assert all(p is held[name] for name, p in trainable(lm.module).items())


def test_a_loaded_adapter_joins_another_and_may_train(tmp_path):
    first = add_adapter(base(), LORA, "reward", seed=3)
    stir(first, "reward")
    save_adapter(first, "reward", tmp_path)
    lm = add_adapter(base(), LORA, "policy", seed=0)
    load_adapter(lm, "reward", tmp_path)
    assert lm.module.active_adapter == "reward"
    torch.testing.assert_close(logp(lm), logp(first), rtol=0, atol=1e-6)
    again = load_adapter(base(), "reward", tmp_path, trainable=True)
    assert trains(again) == trains(first)


@pytest.mark.parametrize("active", ["policy", "reward"])
def test_only_leaves_everything_as_it_was(active):
    lm = add_adapter(add_adapter(base(), LORA, "policy", 0), LORA, "reward", 0)
    bare = logp(base())
    stir(lm, "policy", 1)
    stir(lm, "reward", 2)
    lm.module.set_adapter(active)
    # an adapter that trains partly, as when layers are frozen by hand
    frozen = sorted(trains(lm))[0]
    dict(lm.module.named_parameters())[frozen].requires_grad_(False)
    before = (trains(lm), logp(lm))

    for inside in (None, "policy", "reward"):
        with only(lm, inside):
            if inside is None:
                torch.testing.assert_close(logp(lm), bare, rtol=0, atol=1e-6)
            else:
                assert lm.module.active_adapter == inside
                assert torch.equal(logp(lm), before[1]) == (inside == active)
        with pytest.raises(RuntimeError, match="inside"), only(lm, inside):
            raise RuntimeError("inside")
        assert lm.module.active_adapter == active
        assert frozen not in trains(lm) and trains(lm) == before[0]
        assert torch.equal(logp(lm), before[1])


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_on_exactly_where_the_model_trains(training, tmp_path):
    lm = base()
    lm.module.train(training)
    lm = add_adapter(lm, Lora(rank=4, dropout=0.5), "policy", seed=0)
    save_adapter(lm, "policy", tmp_path)
    for one in (lm, add_adapter(lm, LORA, "reward", 0), load_adapter(lm, "again", tmp_path)):
        assert {module.training for module in one.module.modules()} == {training}


@pytest.mark.parametrize("kind", ["llama", "gpt_neox", "llama, tied"])
def test_rows_of_new_tokens_train_and_travel(kind, tmp_path):
    model = tiny(kind.removesuffix(", tied"))
    if kind.endswith("tied"):
        model.config.tie_word_embeddings = True
        model.tie_weights()
    original = copy.deepcopy(model)
    new = (126, 127)
    lm = add_adapter(choose_layout(model)[0], LORA, "policy", seed=0, new_tokens=new)
    ids = (*probe_sequences(126, 256, 16)[0].ids, 126, 127, 126)
    row = Tokens(ids, (0.0,) + (1.0,) * (len(ids) - 1), "new")
    (-score(lm, forest([row])).sum()).backward()
    torch.optim.SGD(trainable(lm.module).values(), lr=0.05).step()
    whole = merged(lm)
    for rows in ("get_input_embeddings", "get_output_embeddings"):
        before, after = (getattr(m, rows)().weight for m in (original, whole.core))
        assert tuple((before != after).any(1).nonzero().flatten().tolist()) == new  # those rows, and no other
    save_adapter(lm, "policy", tmp_path)
    again = load_adapter(choose_layout(original)[0], "policy", tmp_path)
    expected = score(lm, forest([row]))
    torch.testing.assert_close(own_forward(again, [row]), expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(score(again, forest([row])), expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(score(whole, forest([row])), expected, rtol=0, atol=2e-5)


METHODS = {
    "lora": LORA,
    "rslora": Lora(rank=4, alpha=8, rslora=True),
    "dora": Lora(rank=4, alpha=8, dora=True),
    "ia3": Ia3(kind="ia3"),
}


@pytest.fixture(params=METHODS)
def method(request):
    return METHODS[request.param]


def with_method(how, kind="llama", name="policy", seed=0):
    lm = add_adapter(base(kind), how, name, seed=seed)
    stir(lm, name, seed)
    return lm


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_every_method_starts_as_the_base_merges_and_is_right_in_the_forest(method, kind):
    lm = add_adapter(base(kind), method, "policy", seed=0)
    plain = logp(base(kind))
    torch.testing.assert_close(logp(lm), plain, rtol=0, atol=1e-5)
    stir(lm, "policy")
    assert (logp(lm) - plain).abs().max() > 0.1
    torch.testing.assert_close(logp(merged(lm)), logp(lm), rtol=1e-5, atol=2e-4)
    torch.testing.assert_close(own_forward(lm, SEQUENCES), logp(lm), rtol=0, atol=1e-4)


def test_every_methods_gradients_are_the_sums_over_microbatches_and_survive_checkpointing(method):
    lm = with_method(method)
    lm.module.train()

    def gradients(batches):
        for batch in batches:
            (-score(lm, batch).sum()).backward()
        found = [p.grad for p in trainable(lm.module).values()]
        lm.module.zero_grad(set_to_none=True)
        return found

    together = gradients([BATCH])
    apart = gradients([forest([row]) for row in SEQUENCES])
    lm.core.gradient_checkpointing_enable({"use_reentrant": False})
    again = gradients([BATCH])
    for a, b, c in zip(together, apart, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(a.abs().max()))
        torch.testing.assert_close(a, c, rtol=1e-6, atol=1e-6)


def test_every_method_loads_in_plain_peft_and_here(method, tmp_path):
    lm = with_method(method)
    save_adapter(lm, "policy", tmp_path)
    theirs = PeftModel.from_pretrained(tiny("llama"), str(tmp_path)).eval()
    logits = [theirs(input_ids=torch.tensor([s.ids])).logits[0, :-1] for s in SEQUENCES]
    targets = [torch.tensor(s.ids)[1:, None] for s in SEQUENCES]
    expected = torch.cat([torch.log_softmax(x, -1).gather(1, t)[:, 0] for x, t in zip(logits, targets, strict=True)])
    torch.testing.assert_close(logp(lm), expected, rtol=0, atol=1e-4)
    again = load_adapter(base(), "again", tmp_path)
    torch.testing.assert_close(logp(again), logp(lm), rtol=0, atol=1e-6)
    fresh = add_adapter(base(), method, "policy", seed=9)
    restore_adapter(fresh, "policy", tmp_path)
    assert torch.equal(logp(fresh), logp(lm))


def layer_of(lm, name):
    return dict(lm.core.named_modules())[name]


@pytest.mark.parametrize(("rslora", "scale"), [(False, 8 / 4), (True, 8 / 4**0.5)])  # alpha / r, alpha / sqrt(r)
def test_loras_scale(rslora, scale):
    layer = layer_of(with_method(Lora(rank=4, alpha=8, rslora=rslora)), "model.layers.0.self_attn.q_proj")
    x = torch.randn(5, 32)
    a, b = layer.lora_A["policy"].weight, layer.lora_B["policy"].weight
    with torch.no_grad():
        torch.testing.assert_close(layer(x), layer.base_layer(x) + scale * x @ a.T @ b.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_dora_is_a_magnitude_times_a_direction(kind):
    """Liu et al. 2024, eq. 5: W' = m · (W + s·BA) / ‖W + s·BA‖, norms over each output's weights."""
    name = {"llama": "model.layers.0.mlp.up_proj", "gpt2": "transformer.h.0.mlp.c_fc"}[kind]
    layer = layer_of(with_method(METHODS["dora"], kind), name)
    weight = layer.base_layer.weight if kind == "llama" else layer.base_layer.weight.T
    direction = weight + 8 / 4 * layer.lora_B["policy"].weight @ layer.lora_A["policy"].weight
    magnitude = layer.lora_magnitude_vector["policy"].weight
    turned = magnitude[:, None] * direction / direction.norm(dim=1, keepdim=True)
    bias = 0 if layer.base_layer.bias is None else layer.base_layer.bias
    x = torch.randn(5, 32)
    torch.testing.assert_close(layer(x), x @ turned.T + bias, rtol=1e-4, atol=1e-4)


def test_ia3_scales_keys_values_and_the_mlps_inside():
    """Liu et al. 2022, §3.3: (l_k ⊙ K), (l_v ⊙ V), and l_ff ⊙ γ(W₁x) before W₂."""
    lm = with_method(METHODS["ia3"])
    changed = {name.split("layers.")[1].rsplit(".ia3", 1)[0] for name in trainable(lm.module)}
    assert changed == {f"{n}.{x}" for n in (0, 1) for x in ("self_attn.k_proj", "self_attn.v_proj", "mlp.down_proj")}
    for name, inside in (("self_attn.k_proj", False), ("self_attn.v_proj", False), ("mlp.down_proj", True)):
        layer = layer_of(lm, f"model.layers.1.{name}")
        factor, weight = layer.ia3_l["policy"].flatten(), layer.base_layer.weight
        x = torch.randn(5, weight.shape[1])
        expected = (x * factor) @ weight.T if inside else (x @ weight.T) * factor
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "targets", "feedforward"),
    [
        ("qwen3", ["k_proj", "v_proj", "down_proj"], ["down_proj"]),
        ("gpt2", ["c_attn", "mlp.c_proj"], ["mlp.c_proj"]),
        ("gpt_neox", ["query_key_value", "dense_4h_to_h"], ["dense_4h_to_h"]),
        ("phi3", ["qkv_proj", "down_proj"], ["down_proj"]),
        ("opt", ["k_proj", "v_proj", "fc2"], ["fc2"]),
        ("mpt", ["Wqkv", "down_proj"], ["down_proj"]),
        ("codegen", ["qkv_proj", "fc_out"], ["fc_out"]),
    ],
)
def test_ia3_finds_its_layers(kind, targets, feedforward):
    assert ia3_targets(tiny(kind), Ia3(kind="ia3")) == (targets, feedforward)


def test_ia3_tells_berts_two_output_layers_apart():
    bert = AutoModelForMaskedLM.from_config(AutoConfig.for_model("bert", **COMMON))
    last = [f"bert.encoder.layer.{n}.output.dense" for n in (0, 1)]
    assert ia3_targets(bert, Ia3(kind="ia3")) == (["key", "value", *last], last)


def test_ia3_takes_what_is_named():
    how = Ia3(kind="ia3", targets=["q_proj", "down_proj"])
    assert ia3_targets(tiny("llama"), how) == (["q_proj", "down_proj"], ["down_proj"])
    assert ia3_targets(tiny("llama"), Ia3(kind="ia3", targets=["q_proj"], feedforward=[])) == (["q_proj"], [])


@pytest.mark.parametrize(
    ("kind", "how", "said"),
    [
        (
            "llama",
            Lora(targets=["q_prj", "mlp"]),
            r"adapter\.targets: no layer .* q_prj, mlp\. Did you mean q_proj\? .*v_p",
        ),
        ("llama", Ia3(kind="ia3", targets=["norm"]), r"adapter\.targets: no layer of LlamaForCausalLM is called norm"),
        ("llama", Ia3(kind="ia3", feedforward=["x"]), r"adapter\.targets: no layer of LlamaForCausalLM is called x"),
        (
            "gpt2",
            Lora(targets=["c_attn", "lm_head"]),
            r"adapter\.targets: lm_head shares its weights with the other end",
        ),
        (
            "mixtral",
            Ia3(kind="ia3"),
            r"adapter\.targets: the last projection of the MLP of Mixtral.* There are: .*k_proj",
        ),
        ("mamba", Lora(targets=["in_proj", "dt_proj"]), r"adapter\.targets: Mamba.* reads the weights of dt_proj w"),
        ("mamba", Ia3(kind="ia3"), r"adapter\.targets: the projections to keys and values of Mamba"),
    ],
)
def test_layers_that_are_not_there_are_told(kind, how, said):
    with pytest.raises(UserError, match=said):
        add_adapter(base(kind), how, "policy", seed=0)


def test_lora_leaves_out_what_a_state_space_model_reads_past_it():
    lm = with_method(LORA, "mamba")
    on = {name.rpartition(".lora_")[0].rpartition(".")[2] for name in trainable(lm.module)}
    assert on == {"in_proj"}
    assert float((logp(merged(lm)) - logp(lm)).abs().max()) < 1e-4 < float((logp(base("mamba")) - logp(lm)).abs().max())


def test_an_adapter_for_another_base_is_refused(tmp_path):
    save_adapter(with_method(LORA), "policy", tmp_path / "lora")
    save_adapter(with_method(METHODS["ia3"]), "policy", tmp_path / "ia3")
    wider = {**COMMON, "hidden_size": 64, "head_dim": 16}
    others = {
        "other names": tiny("gpt2"),
        "other shapes": AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **wider)),
        "more layers": AutoModelForCausalLM.from_config(
            AutoConfig.for_model("llama", **{**COMMON, "num_hidden_layers": 3})
        ),
        "fewer layers": AutoModelForCausalLM.from_config(
            AutoConfig.for_model("llama", **{**COMMON, "num_hidden_layers": 1})
        ),
    }
    for what, model in others.items():
        for folder in ("lora", "ia3"):
            with pytest.raises(
                UserError, match=f"{folder}: this adapter belongs to another model. Give the adapter's own"
            ):
                load_adapter(choose_layout(copy.deepcopy(model))[0], "policy", tmp_path / folder)
                pytest.fail(what)
    with pytest.raises(UserError, match="this adapter belongs to another model"):
        restore_adapter(add_adapter(base(), Lora(rank=2), "policy", 0), "policy", tmp_path / "lora")


def test_new_tokens_travel_in_a_small_folder_to_plain_peft(tmp_path):
    """The base is resized to the tokenizer beside the adapter; the folder holds the new rows and not the embedding."""
    tiny("llama").save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model.resize_token_embeddings(130)
    lm = add_adapter(choose_layout(model)[0], LORA, "policy", seed=0, new_tokens=(128, 129))
    stir(lm, "policy")
    save_adapter(lm, "policy", tmp_path / "adapter")
    held = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    rows = {key: tuple(t.shape) for key, t in held.items() if "lora_" not in key}
    assert set(rows.values()) == {(2, 32)} and len(rows) == 2  # the embedding's and the head's rows
    ids = (*SEQUENCES[0].ids, 128, 129, 128)
    row = Tokens(ids, (0.0,) + (1.0,) * (len(ids) - 1), "new")
    torch.manual_seed(5)  # what the resized rows begin with does not matter
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    theirs.resize_token_embeddings(130)
    theirs = PeftModel.from_pretrained(theirs, str(tmp_path / "adapter")).eval()
    logp_T = torch.log_softmax(theirs(input_ids=torch.tensor([ids])).logits[0, :-1], -1)
    expected = logp_T.gather(1, torch.tensor(ids)[1:, None])[:, 0]
    torch.testing.assert_close(logp_of(lm, row), expected, rtol=0, atol=5e-5)
    with pytest.raises(UserError, match=r"rows for 130 tokens, and the model's embedding has 128\. Resize"):
        load_adapter(base(), "policy", tmp_path / "adapter")


def logp_of(lm, row):
    with torch.no_grad():
        return score(lm, forest([row]))
