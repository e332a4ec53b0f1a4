"""Weights in few bits: what they stand for, that training, evaluation and export see the same, and what they weigh."""

from __future__ import annotations

import copy
import ctypes
import gc
import logging
import warnings

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from architectures import COMMON, tiny
from luthier.base.errors import UserError
from luthier.base.nouns import Tokens
from luthier.base.tuning import Bottleneck, Ia3, Lora, Quantize
from luthier.generate import sample
from luthier.model import quantise
from luthier.model.adapt import add_adapter, load_adapter, merged, only, save_adapter, trainable
from luthier.model.draw import Sampling
from luthier.model.load import load_folder, wrap
from luthier.model.quantise import dequantise, held_as, held_bytes, is_quantised, layers, loading, numbers, weight_of
from luthier.model.score import score
from luthier.model.verify import own_forward, probe_sequences
from luthier.tokens.pack import forest

NF4, SINGLE, INT8 = Quantize(kind="nf4"), Quantize(kind="nf4", double=False), Quantize(kind="int8")
HOW = pytest.mark.parametrize("how", [NF4, SINGLE, INT8], ids=["nf4", "nf4, single", "int8"])
LORA = Lora(rank=4, alpha=8)
ROWS = probe_sequences(128, 256, 16, seed=1)
BATCH = forest(ROWS, min_shared=2)

# Dettmers et al. 2023, appendix E.
NF4_VALUES = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Where each architecture's tiny model lies."""
    made = {}

    def folder(kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            tiny(kind).save_pretrained(made[kind])
        return made[kind]

    return folder


def read(folder, how):
    """A language model with its base in few bits, as a run loads it."""
    module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **loading(how, "cpu"))
    return wrap(module, None, "cpu", torch.float32).lm


@pytest.fixture(scope="session")
def wide(tmp_path_factory):
    """A model whose rows are whole blocks of 64, as PEFT's DoRA needs them on a CPU."""
    folder = tmp_path_factory.mktemp("wide")
    torch.manual_seed(0)
    shape = {**COMMON, "hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **shape)).save_pretrained(folder)
    return folder


def stirred(lm, adapter=LORA, name="policy", seed=0):
    """With an adapter whose weights are as training might leave them."""
    lm = add_adapter(lm, adapter, name, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainable(lm.module).values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return lm


def logp(lm, batch=BATCH):
    with torch.no_grad():
        return score(lm, batch)


def gradients(lm, batches=(BATCH,)):
    lm.module.train()
    for batch in batches:
        (-score(lm, batch).sum()).backward()
    found = {name: p.grad for name, p in trainable(lm.module).items()}
    for parameter in trainable(lm.module).values():
        parameter.grad = None
    lm.module.eval()
    return found


def assert_near(a, b, atol=1e-5, rtol=1e-4):
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], atol=atol, rtol=rtol, msg=lambda said, key=key: f"{key}: {said}")


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_nf4_weights_are_the_nearest_normal_floats_of_their_block(kind, folders):
    original = dict(tiny(kind).named_parameters())
    held = list(layers(read(folders(kind), SINGLE).core))
    assert len(held) == {"llama": 2 * 7, "gpt2": 2 * 4}[kind]  # every linear layer of the blocks; the head is none
    for name, layer in held:
        weight = original[f"{name}.weight"].detach().numpy()
        weight = weight.T if kind == "gpt2" else weight
        blocks = weight.reshape(-1, 64)
        scale = np.abs(blocks).max(1, keepdims=True)
        nearest = np.abs((blocks / scale)[..., None] - np.array(NF4_VALUES)).argmin(-1)
        expected = (np.array(NF4_VALUES)[nearest] * scale).reshape(weight.shape)
        np.testing.assert_allclose(weight_of(layer).numpy(), expected, rtol=1e-5, atol=1e-6, err_msg=name)


def test_double_quantisation_rounds_the_scales_only(folders):
    single, double = (dict(layers(read(folders("llama"), how).core)) for how in (SINGLE, NF4))
    for name, layer in single.items():
        a, b = weight_of(layer).reshape(-1, 64), weight_of(double[name]).reshape(-1, 64)
        assert torch.equal(layer.weight.data, double[name].weight.data)  # the same 4 bits
        ratio = b.abs().amax(1) / a.abs().amax(1)  # 8 bits a scale: within a part in a hundred of each other
        torch.testing.assert_close(b, a * ratio[:, None], rtol=1e-4, atol=1e-6)
        assert 0 < float((ratio - 1).abs().max()) < 0.05


def test_int8_weights_are_rows_of_127_steps(folders):
    original = dict(tiny("llama").named_parameters())
    for name, layer in layers(read(folders("llama"), INT8).core):
        weight = original[f"{name}.weight"].detach().half().float().numpy()
        scale = np.abs(weight).max(1, keepdims=True)
        expected = np.round(weight * 127 / scale) * scale / 127
        np.testing.assert_allclose(weight_of(layer).numpy(), expected, rtol=0, atol=float(scale.max()) / 127 * 1e-3)


@HOW
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_dequantised_base_is_the_one_that_training_saw(kind, how, folders, tmp_path):
    lm = read(folders(kind), how)
    assert is_quantised(lm.core) and held_as(lm.core) == how
    seen = logp(lm)
    whole = copy.deepcopy(lm.core)
    dequantise(whole)
    assert not is_quantised(whole) and {type(m) for m in whole.modules()} == {type(m) for m in tiny(kind).modules()}
    whole.save_pretrained(tmp_path)  # a plain folder, without a word of quantisation
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert not is_quantised(plain) and "quantization_config" not in plain.config.to_dict()
    torch.testing.assert_close(logp(wrap(plain, None, "cpu", torch.float32).lm), seen, rtol=0, atol=1e-6)
    assert (seen - logp(wrap(tiny(kind), None, "cpu", torch.float32).lm)).abs().max() > 1e-3  # few bits do round


@HOW
def test_training_is_that_of_the_dequantised_base(how, folders):
    """Forward and gradients of an adapter equal those on the same weights in full precision: after evaluation passes
    (the load-time check's among them), which repack 4-bit weights where bitsandbytes is left to itself."""
    lm = stirred(read(folders("llama"), how))
    whole = copy.deepcopy(lm)
    plain = read(folders("llama"), how)
    dequantise(plain.core)
    plain = stirred(plain)
    evaluated = logp(lm)
    torch.testing.assert_close(evaluated, logp(plain), rtol=0, atol=1e-5)
    assert_near(gradients(lm), gradients(plain))
    assert torch.equal(logp(lm), evaluated)
    assert_near(gradients(whole), gradients(plain))  # copies are whole


def test_evaluation_leaves_the_bits_alone(folders):
    """bitsandbytes' own forward rewrites 4-bit weights in its first evaluation on some CPUs: the assertion in weight_of
    is for the day when somebody calls it."""
    lm = read(folders("llama"), NF4)
    before = {name: layer.weight.data.clone() for name, layer in layers(lm.core)}
    logp(lm)
    assert all(torch.equal(layer.weight.data, before[name]) for name, layer in layers(lm.core))
    _, layer = next(iter(layers(lm.core)))
    layer.weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(AssertionError, match="repacked"):
        weight_of(layer)


@pytest.mark.parametrize("shape", [(64, 64), (48, 32), (5, 96)])
@pytest.mark.parametrize("double", [False, True])
def test_blocks_need_not_end_with_rows(shape, double):
    """bitsandbytes' own dequantisation on a CPU takes the scales of other blocks where rows are no multiple of 64."""
    import bitsandbytes

    torch.manual_seed(0)
    weight = torch.randn(shape) * torch.rand(shape[0], 1) * 9
    layer = bitsandbytes.nn.Linear4bit(shape[1], shape[0], quant_type="nf4", compress_statistics=double)
    layer.weight = bitsandbytes.nn.Params4bit(
        weight.clone(), requires_grad=False, quant_type="nf4", compress_statistics=double
    ).to("cpu")
    blocks = torch.nn.functional.pad(weight.flatten(), (0, -weight.numel() % 64)).view(-1, 64)
    scale = blocks.abs().amax(1, keepdim=True)
    nearest = ((blocks / scale)[..., None] - torch.tensor(NF4_VALUES)).abs().argmin(-1)
    expected = (torch.tensor(NF4_VALUES)[nearest] * scale).flatten()[: weight.numel()].view(shape)
    torch.testing.assert_close(weight_of(layer), expected, rtol=0.05 if double else 1e-5, atol=0.1 if double else 1e-6)


@HOW
@pytest.mark.parametrize("kind", ["llama", "gpt_neox"])
def test_forest_equals_sequences(kind, how, folders):
    lm = stirred(read(folders(kind), how))
    assert lm.layout == "forest"
    torch.testing.assert_close(logp(lm), own_forward(lm, ROWS), rtol=0, atol=1e-4)
    together = gradients(lm)
    apart = gradients(lm, [forest([row]) for row in ROWS])
    assert_near(together, apart, atol=2e-4, rtol=1e-3)


@HOW
def test_checkpointing_changes_nothing(how, folders):
    lm = stirred(read(folders("llama"), how))
    plain = gradients(lm)
    lm.core.gradient_checkpointing_enable({"use_reentrant": False})
    assert_near(gradients(lm), plain, atol=1e-6, rtol=1e-6)


ADAPTERS = pytest.mark.parametrize(
    "adapter", [LORA, Lora(rank=4, dora=True), Ia3(kind="ia3")], ids=["lora", "dora", "ia3"]
)


@HOW
@ADAPTERS
@pytest.mark.parametrize("kind", ["wide", "gpt2"])
def test_merged_equals_adapter(kind, adapter, how, folders, wide):
    if kind == "gpt2" and how.kind == "nf4" and adapter == Lora(rank=4, dora=True):
        with pytest.raises(UserError, match=r"adapter\.dora: .*64.*int8"):
            stirred(read(folders(kind), how), adapter)
        return
    lm = stirred(read(wide if kind == "wide" else folders(kind), how), adapter)
    whole = merged(lm)
    assert not isinstance(whole.module, PeftModel) and not is_quantised(whole.module)
    torch.testing.assert_close(logp(whole), logp(lm), rtol=0, atol=5e-4)
    assert is_quantised(lm.module)  # merging worked on a copy


def test_bottlenecks_are_carried_by_the_dequantised_base(folders):
    lm = stirred(read(folders("llama"), NF4), Bottleneck(kind="bottleneck", size=4))
    whole = merged(lm)
    assert not is_quantised(whole.core)
    torch.testing.assert_close(logp(whole), logp(lm), rtol=0, atol=1e-5)


def test_merging_one_of_two_adapters_merges_the_active_one(folders):
    lm = stirred(stirred(read(folders("llama"), NF4), name="policy"), Lora(rank=2), name="reward", seed=1)
    for name in ("policy", "reward"):
        with only(lm, name):
            torch.testing.assert_close(logp(merged(lm)), logp(lm), rtol=0, atol=1e-4)


@HOW
@ADAPTERS
def test_an_adapter_loads_in_plain_peft_on_the_dequantised_base(adapter, how, wide, tmp_path):
    lm = stirred(read(wide, how), adapter)
    save_adapter(lm, "policy", tmp_path)
    assert {f.name for f in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    base = read(wide, how).core
    dequantise(base)
    base.set_attn_implementation("sdpa")
    theirs = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    logits = [theirs(input_ids=torch.tensor([row.ids])).logits[0, :-1] for row in ROWS]
    targets = [torch.tensor(row.ids)[1:, None] for row in ROWS]
    expected = torch.cat([torch.log_softmax(x, -1).gather(1, t)[:, 0] for x, t in zip(logits, targets, strict=True)])
    torch.testing.assert_close(own_forward(lm, ROWS), expected.detach(), rtol=0, atol=1e-4)
    again = load_adapter(read(wide, how), "again", tmp_path)
    torch.testing.assert_close(logp(again), logp(lm), rtol=0, atol=1e-6)


@HOW
def test_samples_are_those_of_the_dequantised_base(how, folders):
    lm = stirred(read(folders("llama"), how))
    greedy = Sampling(12, temperature=0)
    prompts = [row.ids[:9] for row in ROWS[:3]]
    written = [[s.ids for s in row] for row in sample(lm, prompts, greedy, [2], str)]
    assert written == [[s.ids for s in row] for row in sample(merged(lm), prompts, greedy, [2], str)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@HOW
def test_products_are_in_the_type_that_is_asked(how, dtype, folders):
    """Under autocast a quantised layer multiplies as a plain one of the same weights does."""
    module = AutoModelForCausalLM.from_pretrained(folders("llama"), dtype=torch.float32, **loading(how, "cpu"))
    lm = wrap(module, None, "cpu", dtype).lm
    plain = copy.deepcopy(lm)
    dequantise(plain.core)
    gap = (logp(lm) - logp(plain)).abs().max()
    assert gap <= (1e-5 if dtype == torch.float32 else 0.15)  # a plain layer's result is bfloat16 too
    for _, layer in layers(lm.core):
        assert torch.equal(weight_of(layer, dtype), weight_of(layer).to(dtype))


@HOW
def test_nothing_is_said(how, folders, caplog, capfd):
    """bitsandbytes warns of each product of an 8-bit layer, when it rounds its inputs."""
    with caplog.at_level(logging.WARNING), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        gradients(stirred(read(folders("llama"), how)))
    assert not [r for r in caplog.records if "cast" in r.message] and "cast" not in capfd.readouterr().err
    assert not [w for w in warned if "bitsandbytes" in w.filename]


@pytest.fixture(scope="session")
def heavy(tmp_path_factory):
    """A folder whose weights are megabytes, nearly all of them in the blocks."""
    shape = dict(hidden_size=512, intermediate_size=512, num_hidden_layers=6, num_attention_heads=8, vocab_size=64)
    model = LlamaForCausalLM(LlamaConfig(**shape, max_position_embeddings=64))
    folder = tmp_path_factory.mktemp("heavy")
    model.save_pretrained(folder)
    return folder, sum(p.numel() for p in model.parameters())


# bits a number: 4 + 8/64 + 32/(64·256) (Dettmers et al. 2023, §3: 0.127 for the constants), 4 + 32/64, 8 + 32/in
@pytest.mark.parametrize(("how", "bits"), [(NF4, 4 + 8 / 64 + 32 / 64 / 256), (SINGLE, 4.5), (INT8, 8 + 32 / 512)])
def test_the_weights_weigh_what_they_should(how, bits, heavy):
    """And no more than that stays resident: the file they were read from is let go."""
    folder, total = heavy
    inner = 6 * 7 * 512 * 512
    before = resident_bytes()
    lm = read(folder, how)
    grown = resident_bytes() - before
    assert numbers(lm.core) == total
    assert held_bytes(lm.core) == pytest.approx(inner * bits / 8 + (total - inner) * 4, rel=1e-3)
    assert grown < 0.55 * 4 * total  # 44 MB in full precision; what varies is under 10


def resident_bytes():
    """Memory of this process; freed memory given back first."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    with open("/proc/self/status") as file:
        found = {line.split(":")[0]: line.split()[1] for line in file if line.startswith(("RssAnon", "RssFile"))}
    return 1024 * sum(map(int, found.values()))


def test_without_bitsandbytes_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setattr(quantise, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'quantize: needs bitsandbytes.*pip install "luthier\[quant\]"'):
        loading(NF4, "cpu")


def test_a_model_that_reads_its_weights_past_their_layers_is_refused(folders):
    with pytest.raises(UserError, match=r"quantize\.kind: nf4: a mamba model reads some weights without calling"):
        load_folder(folders("mamba"), "cpu", torch.float32, NF4)


def test_new_tokens_on_a_quantised_base_train_and_merge(folders):
    lm = add_adapter(read(folders("llama"), NF4), LORA, "policy", seed=0, new_tokens=(126, 127))
    ids = (*ROWS[0].ids, 126, 127, 126)
    row = forest([Tokens(ids, (0.0,) + (1.0,) * (len(ids) - 1), "new")])
    (-score(lm, row).sum()).backward()
    torch.optim.SGD(trainable(lm.module).values(), lr=0.02).step()
    torch.testing.assert_close(logp(merged(lm), row), logp(lm, row), rtol=0, atol=1e-5)
