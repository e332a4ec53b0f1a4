"""Adapters: they change nothing at first, travel to plain PEFT, merge, come back, and leave no trace behind."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import PeftModel

from architectures import tiny
from luthier.base.nouns import Tokens
from luthier.base.tuning import Lora
from luthier.model.adapt import add_adapter, load_adapter, merged, only, restore_adapter, save_adapter, trainable
from luthier.model.score import score
from luthier.model.verify import choose_layout, own_forward, probe_sequences
from luthier.tokens.pack import forest

LORA = Lora(rank=4, alpha=8)
SEQUENCES = probe_sequences(128, 256, 16, seed=1)
BATCH = forest(SEQUENCES, min_shared=2)
KINDS = ["llama", "gpt2", "gemma2", "mixtral"]


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
