"""The first steps of each optimizer, by hand and against other code; who steps what, and at which rate."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers.optimization import Adafactor

from architectures import tiny
from luthier.base.errors import UserError
from luthier.base.tuning import Lora, PTuning, Training
from luthier.model.adapt import add_adapter, trainable
from luthier.model.verify import choose_layout
from luthier.train.optim import lr_shares, optimizers, set_rate


def one_step(parameters, how):
    """Parameters after one step with gradients that were set before."""
    made = optimizers(parameters, how)
    for optimizer in made.values():
        optimizer.step()
    return made


def test_adamws_first_step_and_what_decays():
    matrix, gain = torch.nn.Parameter(torch.full((2, 2), 3.0)), torch.nn.Parameter(torch.full((2,), 3.0))
    matrix.grad, gain.grad = torch.tensor([[1.0, -2.0], [0.5, 4.0]]), torch.tensor([7.0, -0.1])
    one_step({"a.weight": matrix, "norm.weight": gain}, Training(learning_rate=0.1, weight_decay=0.2))
    # bias-corrected moments of one gradient make its sign; the matrix decays by 0.1 · 0.2 first: 3 · 0.98 = 2.94
    torch.testing.assert_close(matrix.data, torch.tensor([[2.84, 3.04], [2.84, 2.84]]))
    torch.testing.assert_close(gain.data, torch.tensor([2.9, 3.1]))


def test_frozen_parameters_keep_the_settings_of_the_rest():
    made = optimizers({"norm.weight": torch.nn.Parameter(torch.ones(2))}, Training(betas=(0.8, 0.9)))
    (group,) = made["adamw"].param_groups
    assert (group["weight_decay"], group["betas"]) == (0.0, (0.8, 0.9))


@pytest.mark.parametrize("shape", [(16, 16), (8, 32), (48, 12)])
def test_muons_first_step_is_orthogonal_and_as_large_as_adamws(shape):
    torch.manual_seed(0)
    matrix = torch.nn.Parameter(torch.zeros(shape))
    matrix.grad = torch.randn(shape)
    made = one_step({"model.layers.0.up.weight": matrix}, Training(learning_rate=0.1, optimizer="muon"))
    assert list(made) == ["muon"]
    # Liu et al. 2025, eq. 4: U·Vᵀ · 0.2 √max(A, B) has root mean square 0.2, and all singular values equal;
    # Newton-Schulz leaves them within about 0.7 .. 1.2
    update = matrix.data / -0.1
    singular = torch.linalg.svdvals(update) / (0.2 * max(shape) ** 0.5)
    assert singular.min() > 0.6 and singular.max() < 1.3
    assert update.square().mean().sqrt().item() == pytest.approx(0.2, rel=0.2)
    u, _, v = torch.linalg.svd(matrix.grad, full_matrices=False)
    assert torch.nn.functional.cosine_similarity(update.flatten(), (u @ v).flatten(), dim=0) > 0.95


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "gpt_neox", "bloom", "mpt", "gemma2"])
def test_muon_takes_the_matrices_of_the_blocks_and_nothing_else(kind):
    model = tiny(kind)
    made = optimizers(dict(model.named_parameters()), Training(optimizer="muon"))
    ours = {id(p) for group in made["muon"].param_groups for p in group["params"]}
    blocks = next(child for child in model.modules() if isinstance(child, torch.nn.ModuleList))
    assert len(blocks) == 2
    assert ours == {id(p) for p in blocks.parameters() if p.ndim == 2}
    theirs = {id(p) for group in made["adamw"].param_groups for p in group["params"]}
    assert theirs == {id(p) for p in model.parameters()} - ours


def test_adapters_go_through_adamw():
    lm = add_adapter(choose_layout(tiny("llama"))[0], Lora(rank=2), "policy", seed=0)
    assert list(optimizers(trainable(lm.module), Training(optimizer="muon"))) == ["adamw"]


def test_lions_first_two_steps():
    """Chen et al. 2023, algorithm 2, by hand: η 0.1, β 0.9 and 0.5, λ 0.2."""
    matrix, gain = torch.nn.Parameter(torch.tensor([[3.0, 3.0]])), torch.nn.Parameter(torch.tensor([3.0]))
    made = optimizers(
        {"a.weight": matrix, "norm.weight": gain},
        Training(optimizer="lion", learning_rate=0.1, betas=(0.9, 0.5), weight_decay=0.2),
    )
    # m = 0: the sign of the gradient; the matrix decays by 0.1 · 0.2: 3 · 0.98 = 2.94, then ∓ 0.1
    matrix.grad, gain.grad = torch.tensor([[4.0, -0.1]]), torch.tensor([-7.0])
    made["lion"].step()
    torch.testing.assert_close(matrix.data, torch.tensor([[2.84, 3.04]]))
    torch.testing.assert_close(gain.data, torch.tensor([3.1]))
    # m = (2, −0.05): 0.9 · 2 − 0.1 · 10 = 0.8 > 0 against the new gradient; 0.9 · −0.05 + 0.1 · 2 = 0.155 > 0
    matrix.grad, gain.grad = torch.tensor([[-10.0, 2.0]]), torch.tensor([-7.0])
    made["lion"].step()
    torch.testing.assert_close(matrix.data, torch.tensor([[2.84 * 0.98 - 0.1, 3.04 * 0.98 - 0.1]]))
    torch.testing.assert_close(gain.data, torch.tensor([3.2]))


def test_lion_is_its_twin_in_numpy():
    rng = np.random.default_rng(0)
    theta = rng.normal(size=(7, 5)).astype(np.float32)
    ours = torch.nn.Parameter(torch.from_numpy(theta.copy()))
    made = optimizers({"a.weight": ours}, Training(optimizer="lion", betas=(0.9, 0.99), weight_decay=0.1))
    moment = np.zeros_like(theta)
    for step in range(20):
        lr = 1e-2 / (1 + step)
        gradient = rng.normal(size=theta.shape).astype(np.float32)
        ours.grad = torch.from_numpy(gradient)
        set_rate(made["lion"], lr)
        made["lion"].step()
        theta = theta - lr * (np.sign(0.9 * moment + 0.1 * gradient) + 0.1 * theta)
        moment = 0.99 * moment + 0.01 * gradient
    np.testing.assert_allclose(ours.detach().numpy(), theta, atol=1e-6)


def test_adafactor_is_transformers_with_the_given_rate():
    """The same steps as the trainer's there (scale_parameter and relative_step off), which adds 1e-30 to squared
    gradients where torch bounds them from below."""
    torch.manual_seed(0)
    start = {"a.weight": torch.randn(6, 9) * 0.3, "norm.weight": torch.ones(9)}
    ours = {name: torch.nn.Parameter(value.clone()) for name, value in start.items()}
    theirs = {name: torch.nn.Parameter(value.clone()) for name, value in start.items()}
    made = optimizers(ours, Training(optimizer="adafactor", learning_rate=1e-2, weight_decay=0.1))
    groups = [{"params": [theirs["a.weight"]], "weight_decay": 0.1}, {"params": [theirs["norm.weight"]]}]
    other = Adafactor(groups, lr=1e-2, scale_parameter=False, relative_step=False)
    for step in range(10):
        for name in start:
            ours[name].grad = torch.randn_like(ours[name]) * 10 ** (step % 3)
            theirs[name].grad = ours[name].grad.clone()
        made["adafactor"].step()
        other.step()
    for name in start:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-6, rtol=1e-5)
        assert (ours[name] - start[name]).abs().max() > 1e-2


def test_adafactor_moves_what_begins_at_zero():
    """An adapter's second factor: its first step is as large as AdamW's, one learning rate a number."""
    factor = torch.nn.Parameter(torch.zeros(8, 4))
    torch.manual_seed(0)
    factor.grad = torch.randn(8, 4)
    one_step({"a.weight": factor}, Training(optimizer="adafactor", learning_rate=0.1))
    assert factor.square().mean().sqrt().item() == pytest.approx(0.1, rel=1e-5)


def test_adamw_in_8_bits_comes_as_near_to_a_minimum_as_in_32():
    """On a quadratic of curvatures 1 to 10, from the same start: 0.16 % and 0.15 % of the way are left, and the two
    ends are 0.06 % apart."""
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    curve, goal = torch.linspace(1, 10, 64 * 80).view(64, 80), torch.randn(64, 80)
    ends = {}
    for name in ("adamw", "adamw8bit"):
        p = torch.nn.Parameter(torch.zeros(64, 80))
        made = optimizers({"a.weight": p}, Training(optimizer=name, weight_decay=0.0, betas=(0.9, 0.95)))
        for step in range(120):
            p.grad = curve * (p.detach() - goal)
            set_rate(made[name], 0.1 * (1 - step / 120))
            made[name].step()
        ends[name] = p.detach()
    state = made["adamw8bit"].state[p]
    assert state["state1"].dtype == state["state2"].dtype == torch.uint8
    away = (goal**2).mean().sqrt()
    left = {name: float(((end - goal) ** 2).mean().sqrt() / away) for name, end in ends.items()}
    assert left["adamw"] < 0.004 and left["adamw8bit"] < 0.004, left
    assert ((ends["adamw"] - ends["adamw8bit"]) ** 2).mean().sqrt() / away < 0.002


def test_adamw_in_8_bits_without_its_library_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("luthier.model.quantise.find_spec", lambda name: None)
    with pytest.raises(UserError) as refused:
        optimizers({"a.weight": torch.nn.Parameter(torch.ones(2, 2))}, Training(optimizer="adamw8bit"))
    assert refused.value.problems == [
        'optimizer: adamw8bit: needs bitsandbytes, which is not installed. pip install "luthier[quant]"'
    ]


LLAMA = ["model.embed_tokens.weight", *(f"model.layers.{i}.mlp.up_proj.weight" for i in range(3)),
         "model.layers.2.input_layernorm.weight", "model.norm.weight", "lm_head.weight"]  # fmt: skip
GPT2 = ["transformer.wte.weight", "transformer.wpe.weight", *(f"transformer.h.{i}.attn.c_attn.bias" for i in range(2)),
        "transformer.ln_f.bias"]  # fmt: skip
BERT = ["bert.embeddings.word_embeddings.weight", "bert.embeddings.LayerNorm.weight",
        "bert.encoder.layer.0.attention.self.query.weight", "cls.predictions.decoder.weight"]  # fmt: skip


def test_layer_decay_by_hand():
    # the head is the top with 1, its norm beside it; blocks 2, 1, 0 have ½, ¼, ⅛; the embeddings 1/16, times 3
    assert list(lr_shares(LLAMA, 0.5, 3.0).values()) == [3 / 16, 1 / 8, 1 / 4, 1 / 2, 1 / 2, 1, 1]
    assert list(lr_shares(GPT2, 0.5, 1.0).values()) == [1 / 8, 1 / 8, 1 / 4, 1 / 2, 1]
    assert list(lr_shares(BERT, 0.5, 1.0).values()) == [1 / 4, 1 / 4, 1 / 2, 1]


def test_without_decay_every_share_is_one_and_embeddings_have_their_own():
    assert set(lr_shares(LLAMA, 1.0, 1.0).values()) == {1.0}
    assert lr_shares(GPT2, 1.0, 0.1) == {n: 0.1 if n in GPT2[:2] else 1.0 for n in GPT2}


def test_adapters_have_their_blocks_and_virtual_tokens_stand_outside():
    lm = add_adapter(choose_layout(tiny("llama"))[0], Lora(rank=2), "policy", seed=0)
    shares = lr_shares(list(trainable(lm.module)), 0.5, 1.0)
    assert {share for name, share in shares.items() if ".layers.0." in name} == {0.25}
    assert {share for name, share in shares.items() if ".layers.1." in name} == {0.5}
    lm = add_adapter(choose_layout(tiny("llama"))[0], PTuning(kind="p_tuning", tokens=2), "policy", seed=0)
    names = list(trainable(lm.module))
    assert any(".0." in name for name in names), "the encoder has numbered layers of its own"
    assert set(lr_shares(names, 0.5, 0.1).values()) == {1.0}


@pytest.mark.parametrize("name", ["adamw", "lion", "adafactor", "muon"])
def test_each_group_moves_by_its_share_of_the_rate(name):
    """A step at shares of the rate is the step of each group alone at its own rate."""
    torch.manual_seed(0)
    start = {n: torch.randn(8, 8) if "norm" not in n else torch.ones(8) for n in LLAMA}
    gradients = {n: torch.randn_like(value) for n, value in start.items()}

    def stepped(names, rate, **settings):
        parameters = {n: torch.nn.Parameter(start[n].clone()) for n in names}
        made = optimizers(parameters, Training(optimizer=name, weight_decay=0.1, **settings))
        for n, p in parameters.items():
            p.grad = gradients[n].clone()
        for optimizer in made.values():
            set_rate(optimizer, rate)
            optimizer.step()
        return parameters

    together = stepped(LLAMA, 0.1, layer_decay=0.5, embedding_lr_frac=3.0)
    for n, share in lr_shares(LLAMA, 0.5, 3.0).items():
        torch.testing.assert_close(together[n], stepped([n], 0.1 * share)[n], msg=n)


@pytest.mark.parametrize("name", ["adamw", "adamw8bit", "adafactor", "lion", "muon"])
def test_a_step_at_rate_zero_moves_nothing_and_a_saved_state_goes_on(name, tmp_path):
    """The first is what trying a step relies on; the second is resume, through a file as checkpoints have it."""
    if name == "adamw8bit":
        pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    ours = {n: torch.nn.Parameter(torch.randn(64, 80) if "norm" not in n else torch.ones(8)) for n in LLAMA}
    how = Training(optimizer=name, weight_decay=0.1, layer_decay=0.9)
    before = copy.deepcopy(ours)
    made = optimizers(ours, how)

    def step(parameters, optimizers, rate):
        for p in parameters.values():
            p.grad = torch.randn_like(p)
        for optimizer in optimizers.values():
            set_rate(optimizer, rate)
            optimizer.step()

    step(ours, made, 0.0)
    assert all(torch.equal(p, before[n]) for n, p in ours.items())
    for optimizer in made.values():
        optimizer.state.clear()
    step(ours, made, 0.01)
    torch.save({n: o.state_dict() for n, o in made.items()}, tmp_path / "optimizer.pt")
    twin = copy.deepcopy(ours)
    again = optimizers(twin, how)
    for n, state in torch.load(tmp_path / "optimizer.pt", weights_only=True).items():
        again[n].load_state_dict(state)
    for parameters, its in ((ours, made), (twin, again)):
        torch.manual_seed(1)
        step(parameters, its, 0.01)
        step(parameters, its, 0.005)
    assert all(torch.equal(p, twin[n]) for n, p in ours.items())
