"""Frozen layers: which weights train, by hand-written lists; that the others stay, bit for bit; and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from architectures import COMMON, tiny
from luthier.base.errors import UserError
from luthier.base.tuning import Bottleneck, Freeze, Ia3, Lora
from luthier.model.adapt import add_adapter, load_adapter, only, save_adapter, trainable, unchanged
from luthier.model.freeze import freeze
from luthier.model.score import score
from luthier.model.verify import choose_layout, probe_sequences
from luthier.tokens.pack import forest

BATCH = forest(probe_sequences(128, 256, seed=1), min_shared=2)
LLAMA_BLOCK = [
    "self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight", "self_attn.o_proj.weight",
    "mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight",
    "input_layernorm.weight", "post_attention_layernorm.weight",
]  # fmt: skip
GPT2_BLOCK = [
    f"{layer}.{part}"
    for layer in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    for part in ("weight", "bias")
]


def llama(*blocks):
    return {f"model.layers.{n}.{name}" for n in blocks for name in LLAMA_BLOCK}


def gpt2(*blocks):
    return {f"transformer.h.{n}.{name}" for n in blocks for name in GPT2_BLOCK}


def base(kind="llama"):
    return choose_layout(tiny(kind))[0]


@pytest.mark.parametrize(
    ("kind", "how", "trains"),
    [
        ("llama", Freeze(first=1), {"model.embed_tokens.weight", *llama(1), "model.norm.weight", "lm_head.weight"}),
        ("llama", Freeze(last=1), {"model.embed_tokens.weight", *llama(0), "model.norm.weight", "lm_head.weight"}),
        ("llama", Freeze(first=1, embeddings=True), {*llama(1), "model.norm.weight", "lm_head.weight"}),
        ("llama", Freeze(head=True), {"model.embed_tokens.weight", *llama(0, 1), "model.norm.weight"}),
        ("llama", Freeze(pattern=[r"\.layers\.", "norm"]), {"model.embed_tokens.weight", "lm_head.weight"}),
        (
            "llama",
            Freeze(pattern=["mlp", r"[qk]_proj"], embeddings=True, head=True),
            {
                *(name for name in llama(0, 1) if "mlp" not in name and "q_proj" not in name and "k_proj" not in name),
                "model.norm.weight",
            },
        ),
        # GPT-2's head is its embedding
        ("gpt2", Freeze(last=1, embeddings=True), {*gpt2(0), "transformer.ln_f.weight", "transformer.ln_f.bias"}),
        (
            "gpt2",
            Freeze(first=1),
            {"transformer.wte.weight", "transformer.wpe.weight", *gpt2(1)}
            | {"transformer.ln_f.weight", "transformer.ln_f.bias"},
        ),
    ],
)
def test_what_trains(kind, how, trains):
    lm = base(kind)
    freeze(lm, how)
    assert set(trainable(lm.module)) == trains


def test_block_1_is_not_block_10():
    config = AutoConfig.for_model("llama", **{**COMMON, "num_hidden_layers": 12})
    lm = choose_layout(AutoModelForCausalLM.from_config(config))[0]
    freeze(lm, Freeze(first=2))
    blocks = {int(name.split(".")[2]) for name in trainable(lm.module) if ".layers." in name}
    assert blocks == set(range(2, 12))


@pytest.mark.parametrize("adapter", [Lora(rank=2), Ia3(kind="ia3"), Bottleneck(kind="bottleneck", size=4)])
def test_under_an_adapter_the_adapter_stays_where_its_layer_is_frozen(adapter):
    free, held = (add_adapter(base(), adapter, "policy", seed=0) for _ in range(2))
    freeze(held, Freeze(first=1))
    assert set(trainable(held.module)) == {name for name in trainable(free.module) if ".layers.1." in name}
    assert all(".layers.0." in name for name in trainable(free.module).keys() - trainable(held.module).keys())


def test_a_pattern_may_name_an_adapters_half():
    """LoRA-FA (Zhang et al. 2023): A stays as it was drawn, B is trained."""
    lm = add_adapter(base(), Lora(rank=2), "policy", seed=0)
    freeze(lm, Freeze(pattern=["lora_A"]))
    assert trainable(lm.module) and all("lora_B" in name for name in trainable(lm.module))


def step(lm, optimizer, batch=BATCH):
    lm.module.train()
    loss = -score(lm, batch).sum() / len(batch.target_M)
    loss.backward()
    gradients = {name: p.grad for name, p in lm.module.named_parameters() if p.grad is not None}
    optimizer.step()
    optimizer.zero_grad()
    return gradients


def test_frozen_values_stay_bit_for_bit_and_the_rest_trains_as_it_would():
    """Twin: the same steps with everything trained, and the frozen weights put back before each."""
    kept = base()
    freeze(kept, Freeze(first=1, embeddings=True))
    names = set(trainable(kept.module))
    twin = copy.deepcopy(kept)
    twin.module.requires_grad_(True)
    start = {name: p.detach().clone() for name, p in kept.module.named_parameters()}
    ours = torch.optim.AdamW(trainable(kept.module).values(), lr=0.01, weight_decay=0.1)
    theirs = torch.optim.AdamW(twin.module.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(3):
        gradients = step(kept, ours)
        assert set(gradients) == names  # no gradient is even made elsewhere
        step(twin, theirs)
        with torch.no_grad():
            for name, parameter in twin.module.named_parameters():
                if name not in names:
                    parameter.copy_(start[name])
    for (name, a), (_, b) in zip(kept.module.named_parameters(), twin.module.named_parameters(), strict=True):
        if name in names:
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
        else:
            assert torch.equal(a, start[name])


@pytest.mark.parametrize("adapter", [None, Lora(rank=2)])
def test_checkpointing_changes_nothing_above_frozen_blocks(adapter):
    """The first blocks' input has no gradient, and needs none."""
    lm = base() if adapter is None else add_adapter(base(), adapter, "policy", seed=0)
    freeze(lm, Freeze(first=1, embeddings=True))
    still = torch.optim.SGD(trainable(lm.module).values(), lr=0.0)
    plain = step(lm, still)
    lm.core.gradient_checkpointing_enable({"use_reentrant": False})
    again = step(lm, still)
    assert plain.keys() == again.keys() == trainable(lm.module).keys()
    for name in plain:
        torch.testing.assert_close(again[name], plain[name], rtol=1e-6, atol=1e-7)


def test_switching_and_loading_adapters_frees_nothing(tmp_path):
    lm = add_adapter(base(), Lora(rank=2), "policy", seed=0)
    save_adapter(lm, "policy", tmp_path)
    freeze(lm, Freeze(first=1))
    before = set(trainable(lm.module))
    with only(lm, None):
        pass
    with unchanged(lm):
        load_adapter(lm, "reward", tmp_path)
    assert set(trainable(lm.module)) == before and lm.module.active_adapter == "policy"


@pytest.mark.parametrize(
    ("kind", "how", "said"),
    [
        ("gpt2", Freeze(head=True), r"freeze\.head: the head shares its weights with the embedding.*embeddings: true"),
        ("llama", Freeze(first=1, last=1), "freeze: first 1 and last 1 leave none of the 2 blocks to train"),
        ("llama", Freeze(first=7), "freeze: first 7 and last 0 leave none of the 2 blocks"),
        (
            "llama",
            Freeze(pattern=["q_prj"]),
            r'freeze\.pattern: "q_prj" is in no parameter.s name\. They are: model\.emb',
        ),
        ("llama", Freeze(pattern=["."]), "freeze: leaves nothing to train"),
    ],
)
def test_what_is_refused(kind, how, said):
    with pytest.raises(UserError, match=said):
        freeze(base(kind), how)


def test_an_architecture_without_numbered_blocks_is_told():
    lm = base()
    lm.core.config.num_hidden_layers = 3
    with pytest.raises(UserError, match="LlamaForCausalLM has no numbered blocks"):
        freeze(lm, Freeze(first=1))
