"""Virtual tokens in the forest are PEFT's: the same log-probs, the same folders, the same greedy tokens."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from torch.nn.attention.flex_attention import create_mask
from transformers import AutoConfig, AutoModelForCausalLM

from architectures import COMMON, GPT, tiny
from luthier.base.errors import UserError
from luthier.base.nouns import Tokens
from luthier.base.tuning import Bottleneck, Lora, PrefixTuning, PromptTuning, PTuning
from luthier.generate import sample
from luthier.model.adapt import (
    add_adapter,
    checkpoint_adapter,
    load_adapter,
    merged,
    only,
    restore_adapter,
    save_adapter,
    trainable,
)
from luthier.model.attention import ForestPlan
from luthier.model.carried import carry, kinds
from luthier.model.draw import Sampling
from luthier.model.load import Loaded, load_folder, save_model
from luthier.model.score import logits_of, score, states
from luthier.model.verify import LoadCheck, choose_layout, library_attention, probe_sequences
from luthier.model.virtual import Virtual, virtual_of
from luthier.tokens.pack import forest

SEQUENCES = probe_sequences(128, 200, 16, seed=1)
BATCH = forest(SEQUENCES, min_shared=2)
K = 5
PROMPT = PromptTuning(kind="prompt", tokens=K)
PREFIX = PrefixTuning(kind="prefix", tokens=K)
HOW = {
    "prompt": PROMPT,
    "prefix": PREFIX,
    "projected": PrefixTuning(kind="prefix", tokens=K, projection=16),
    "mlp": PTuning(kind="p_tuning", tokens=K, width=16),
    "lstm": PTuning(kind="p_tuning", tokens=K, width=16, encoder="lstm"),
}
MODELS = ["llama", "llama, mha", "gpt2", "qwen3", "gemma3_text"]


def model(kind="llama"):
    """Two shapes of Llama's heads; GPT-2 as it is, which has no key/value heads of its own to name."""
    torch.manual_seed(0)
    if kind == "gpt2":
        settings = {key: value for key, value in COMMON.items() if key not in ("num_key_value_heads", "head_dim")}
        return AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", **{**settings, **GPT})).eval()
    if kind == "llama, mha":
        return AutoModelForCausalLM.from_config(
            AutoConfig.for_model("llama", **{**COMMON, "num_key_value_heads": 4})
        ).eval()
    return tiny(kind)


def base(kind="llama"):
    return choose_layout(model(kind))[0]


def adapted(kind, how, name="policy", seed=0):
    return add_adapter(base(kind), HOW[how] if isinstance(how, str) else how, name, seed)


def logp(lm, batch=BATCH):
    with torch.no_grad():
        return score(lm, batch)


def by_peft(peft_model, sequences=SEQUENCES):
    """Log-probs of each sequence alone, through PEFT's forward and the library's attention."""
    found = []
    with torch.no_grad():
        for s in sequences:
            logits = peft_model(input_ids=torch.tensor([s.ids])).logits[0, -len(s.ids) : -1]
            found.append(torch.log_softmax(logits.float(), -1).gather(1, torch.tensor(s.ids)[1:, None]).squeeze(1))
    return torch.cat(found)


def trains(lm):
    return {name for name, parameter in lm.module.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", MODELS)
def test_the_saved_folder_gives_the_same_log_probs_in_plain_peft(kind, how, tmp_path):
    lm = adapted(kind, how)
    assert trains(lm) and all(name.startswith("prompt_encoder.policy.") for name in trains(lm))
    save_adapter(lm, "policy", tmp_path)
    assert sorted(f.name for f in tmp_path.iterdir() if f.name != "README.md") == [
        "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
    theirs = PeftModel.from_pretrained(model(kind), str(tmp_path)).eval()
    ours = logp(lm)
    assert float((ours - by_peft(theirs)).abs().max()) <= 1e-5
    assert float((ours - logp(base(kind))).abs().max()) > 0.1  # and it is not the bare base that they agree on
    again = load_adapter(base(kind), "other", tmp_path)
    torch.testing.assert_close(logp(again), ours, rtol=0, atol=1e-5)  # torch's LSTM rounds otherwise without gradients
    assert not trains(again)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize(
    "config",
    [
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=K),
        PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=K, prefix_projection=True, encoder_hidden_size=8),
        PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=K, encoder_hidden_size=8),
    ],
    ids=["prompt", "prefix", "p_tuning"],
)
def test_a_folder_that_peft_made_is_read(kind, config, tmp_path):
    torch.manual_seed(3)
    theirs = get_peft_model(model(kind), replace(config)).eval()
    theirs.save_pretrained(tmp_path)
    lm = load_adapter(base(kind), "policy", tmp_path)
    assert float((logp(lm) - by_peft(theirs)).abs().max()) <= 1e-5


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_forest_gradients_are_the_sum_over_sequences_and_pefts(kind, how):
    lm = adapted(kind, how)

    def gradients(losses):
        for loss in losses:
            loss().backward()
        found = [p.grad.clone() for p in trainable(lm.module).values()]
        lm.module.zero_grad()
        return found

    def peft_loss(s):
        with library_attention(lm):
            labels = torch.tensor([s.ids])
            logits = lm.module(input_ids=labels).logits[0, -len(s.ids) : -1]
            return torch.nn.functional.cross_entropy(logits, labels[0, 1:], reduction="sum")

    together = gradients([lambda: -score(lm, BATCH).sum()])
    halves = gradients([lambda i=i: -score(lm, forest(SEQUENCES[i::2])).sum() for i in range(2)])
    theirs = gradients([lambda s=s: peft_loss(s) for s in SEQUENCES])
    for one, half, other in zip(together, halves, theirs, strict=True):
        scale = 1e-4 * max(float(other.abs().max()), 1e-3)
        torch.testing.assert_close(half, one, rtol=1e-4, atol=scale)
        torch.testing.assert_close(one, other, rtol=1e-4, atol=scale)


@pytest.mark.parametrize("how", ["prompt", "prefix", "projected", "lstm"])
def test_checkpointing_changes_nothing(how):
    def gradients(lm):
        (-score(lm, BATCH).sum()).backward()
        return [p.grad.clone() for p in trainable(lm.module).values()]

    plain = base()
    plain.module.train()
    checkpointed = base()
    checkpointed.module.train()
    checkpointed.core.gradient_checkpointing_enable({"use_reentrant": False})
    checkpointed.core.enable_input_require_grads()
    one, other = (gradients(add_adapter(lm, HOW[how], "policy", 0)) for lm in (plain, checkpointed))
    assert checkpointed.core.is_gradient_checkpointing
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("how", ["prompt", "prefix"])
@pytest.mark.parametrize("kind", MODELS)
def test_greedy_tokens_are_pefts_generate(kind, how):
    lm = adapted(kind, how)
    prompts = [s.ids[:n] for s, n in zip(SEQUENCES, (5, 9, 3, 30), strict=False)]
    drawn = sample(lm, prompts, Sampling(12, temperature=0), [2], str, samples=2)
    with library_attention(lm), torch.no_grad():
        for prompt, group in zip(prompts, drawn, strict=True):
            ids = torch.tensor([prompt])
            theirs = lm.module.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, eos_token_id=2
            )
            assert [tuple(one.ids) for one in group] == [tuple(theirs[0, len(prompt) :].tolist())] * 2


@pytest.mark.parametrize("how", ["prompt", "prefix"])
@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_sampled_log_probs_are_scored_log_probs(kind, how):
    lm = adapted(kind, how)
    prompts = [s.ids[:n] for s, n in zip(SEQUENCES, (25, 9, 3), strict=False)]
    for group in sample(lm, prompts, Sampling(10, seed=4), [2], str, samples=3):
        for one in group:
            weights = (0.0,) * len(one.prompt_ids) + (1.0,) * len(one.ids)
            batch = forest([Tokens(one.prompt_ids + one.ids, weights, "")])
            torch.testing.assert_close(logp(lm, batch), torch.tensor(one.logps), rtol=0, atol=1e-5)
    with torch.no_grad():  # and its argmax is what greedy draws
        (greedy,) = sample(lm, prompts[:1], Sampling(1, temperature=0), [2], str)[0]
        batch = forest([Tokens(tuple(prompts[0]), (0.0,) * len(prompts[0]), "")])
        assert int(logits_of(lm, states(lm, batch, batch.last_N, torch.zeros(1).long())).argmax()) == greedy.ids[0]


def test_flex_masks_show_the_prefix_to_every_query():
    """The rule that a GPU follows, written out as a mask: K columns of ones, then the forest's own."""
    k = torch.zeros(1, 2, K, 8)
    plain, led = ForestPlan(BATCH), ForestPlan(BATCH, prefix=[(k, k)])
    written = []
    for plan in (plain, led):
        mask = plan.block_mask(None).mask_mod
        size = BATCH.tokens
        written.append(create_mask(mask, 1, 1, size, plan.lead + size, device="cpu")[0, 0])
    assert bool(written[1][:, :K].all()) and torch.equal(written[1][:, K:], written[0])


@pytest.mark.parametrize("how", ["prompt", "prefix", "projected", "lstm"])
def test_a_checkpoint_restores_the_encoder_into_the_same_parameters(how, tmp_path):
    lm = adapted("llama", how)
    held = trainable(lm.module)
    saved = {name: p.detach().clone() for name, p in held.items()}
    checkpoint_adapter(lm, "policy", tmp_path)
    with torch.no_grad():
        for p in held.values():
            p.add_(1.0)
    restore_adapter(lm, "policy", tmp_path)
    assert all(torch.equal(p, saved[name]) for name, p in held.items())
    assert all(p is held[name] for name, p in trainable(lm.module).items())


@pytest.mark.parametrize("how", ["prompt", "prefix"])
def test_two_on_one_base_and_none(how, tmp_path):
    bare = logp(base())
    for name, seed in (("policy", 1), ("reward", 2)):
        save_adapter(adapted("llama", how, name, seed), name, tmp_path / name)
    alone = {name: logp(load_adapter(base(), name, tmp_path / name)) for name in ("policy", "reward")}
    lm = load_adapter(base(), "policy", tmp_path / "policy", trainable=True)
    lm = load_adapter(lm, "reward", tmp_path / "reward")
    lm.module.set_adapter("policy")
    before = trains(lm)
    assert before == {"prompt_encoder.policy.embedding.weight"}
    for name in ("policy", "reward", None, "policy"):
        with only(lm, name):
            assert torch.equal(logp(lm), bare if name is None else alone[name])
    assert trains(lm) == before and not torch.equal(alone["policy"], alone["reward"])


def test_first_weights_depend_on_seed_and_name_only_and_a_text_may_start_them():
    def weights(seed, name, noise):
        torch.manual_seed(noise)
        return torch.cat([p.detach().flatten() for p in trainable(adapted("llama", "mlp", name, seed).module).values()])

    assert torch.equal(weights(0, "policy", 1), weights(0, "policy", 2))
    assert not torch.equal(weights(0, "policy", 1), weights(1, "policy", 1))
    started = add_adapter(base("gemma3_text"), PROMPT, "policy", 0, start_ids=(7, 9, 11))
    embed = started.core.get_input_embeddings()(torch.tensor([7, 9, 11, 7, 9]))  # repeated to its length
    assert torch.equal(trainable(started.module)["prompt_encoder.policy.embedding.weight"], embed)
    # A prompt of a text's embeddings is that text: PEFT's positions, and the rule, say so.
    text = (7, 9, 11, 7, 9)
    written = [Tokens(text + s.ids, (0.0,) * (K + 1) + (1.0,) * (len(s.ids) - 1), "") for s in SEQUENCES]
    torch.testing.assert_close(logp(started), logp(base("gemma3_text"), forest(written)), rtol=0, atol=2e-5)


def test_the_virtual_tokens_of_a_batch_are_computed_once():
    lm = adapted("llama", "prompt")
    seen = []
    hook = lm.core.model.layers[0].register_forward_pre_hook(lambda m, a: seen.append(a[0].shape))
    logp(lm)
    hook.remove()
    assert seen == [(1, K + BATCH.tokens, 32)]


class Tokenizer:
    """What saving a model needs of one."""

    def save_pretrained(self, folder):
        """Nothing to write."""


@pytest.mark.parametrize("how", ["prompt", "prefix", "lstm"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_model_carries_them_through_its_folder_as_peft_reads_it(kind, how, tmp_path, monkeypatch):
    lm = adapted(kind, how)
    whole = merged(lm)
    torch.testing.assert_close(logp(whole), logp(lm), rtol=0, atol=1e-5 if how == "lstm" else 0)
    assert not trains(whole)
    save_model(whole.module, Tokenizer(), tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    theirs = PeftModel.from_pretrained(plain, str(tmp_path / "adapter")).eval()
    assert float((logp(lm) - by_peft(theirs)).abs().max()) <= 1e-5
    monkeypatch.setattr("luthier.model.load.load_tokenizer", lambda folder: Tokenizer())
    again = load_folder(tmp_path, "cpu", torch.float32)
    assert torch.equal(logp(again.lm), logp(whole))
    assert again.context == 256 - K
    greedy = Sampling(6, temperature=0)
    prompts = [s.ids[:6] for s in SEQUENCES]
    drawn = [[one.ids for (one,) in sample(lm_, prompts, greedy, [2], str)] for lm_ in (lm, again.lm)]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("second", [Lora(rank=2), PROMPT, PREFIX], ids=lambda how: how.kind)
@pytest.mark.parametrize("first", ["prompt", "prefix"])
def test_what_is_carried_stays_below_what_is_trained_next(first, second):
    start = merged(adapted("llama", first))
    reference = logp(start)
    lm = add_adapter(start, second, "policy", seed=1)
    with torch.no_grad():
        for number, p in enumerate(trainable(lm.module).values()):
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(number)))
    assert float((logp(lm) - reference).abs().max()) > 0.01
    with only(lm, None):
        torch.testing.assert_close(logp(lm), reference, rtol=0, atol=1e-6)
    whole = merged(lm)
    torch.testing.assert_close(logp(whole), logp(lm), rtol=0, atol=2e-5)
    assert len(kinds(whole.core)) == (1 if isinstance(second, Lora) else 2)
    assert virtual_of(whole.module, whole.core).size == (K if isinstance(second, Lora) else 2 * K)


def test_what_cannot_take_them_says_so():
    with pytest.raises(
        UserError, match=r"kind: prefix: .* GPTJForCausalLM \(gptj\) runs on padded rows\. Use kind: lora"
    ):
        adapted("gptj", PREFIX)
    with pytest.raises(UserError, match="300 virtual tokens fill the model's context of 256"):
        adapted("llama", PromptTuning(kind="prompt", tokens=300))
    odd = choose_layout(tiny("gpt2"))[0]  # a config that names key/value heads which GPT-2 has not
    with pytest.raises(UserError, match=r"GPT2LMHeadModel \(gpt2\) does not take it as PEFT's own forward does"):
        add_adapter(odd, PREFIX, "policy", 0)


def test_another_models_tokens_are_refused(tmp_path):
    shapes = [("prompt", {"hidden_size": 64}), ("prefix", {"num_hidden_layers": 3})]
    shapes += [("prefix", {"num_key_value_heads": 4}), ("prefix", {"hidden_size": 64, "head_dim": 16})]
    for how, shape in shapes:
        save_adapter(adapted("llama", how), "policy", tmp_path / how)
        other = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **{**COMMON, **shape}))
        with pytest.raises(
            UserError, match=r"belongs to another model: it is for \d+ .*, and LlamaForCausalLM \(llama\) has"
        ):
            load_adapter(choose_layout(other)[0], "policy", tmp_path / how)
        with pytest.raises(UserError, match="belongs to another model"):
            carry(other, tmp_path / how)


@pytest.mark.parametrize("how", ["prompt", "prefix", "bottleneck"])
def test_bfloat16_arithmetic_is_near(how):
    adapter = Bottleneck(kind="bottleneck", size=8) if how == "bottleneck" else HOW[how]
    lm = add_adapter(base("qwen3"), adapter, "policy", 0)
    with torch.no_grad():
        for number, p in enumerate(trainable(lm.module).values()):
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(number)))
    half = replace(lm, dtype=torch.bfloat16)
    rough = score(half, BATCH)
    assert float((rough.detach() - logp(lm)).abs().mean()) < 0.05
    (-rough.sum()).backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in trainable(lm.module).values())
    (one,) = sample(half, [SEQUENCES[0].ids[:9]], Sampling(6, temperature=0), [2], str)[0]
    weights = (0.0,) * 9 + (1.0,) * len(one.ids)
    scored = logp(half, forest([Tokens(one.prompt_ids + one.ids, weights, "")]))
    torch.testing.assert_close(scored, torch.tensor(one.logps), rtol=0, atol=0.2)


def test_nothing_above_a_batch_leaves_it_as_it_is():
    assert Virtual().above(BATCH) is BATCH
    assert json.dumps(Virtual().size) == "0" and Loaded(base(), None, LoadCheck("forest", 0.0, ""), ()).context == 256
