"""Reward models: one score a text, and a folder that transformers loads by itself and scores alike."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from architectures import COMMON, tiny
from luthier.base.errors import UserError
from luthier.base.nouns import Tokens
from luthier.base.tuning import Lora
from luthier.model.adapt import add_adapter, merged
from luthier.model.heads import (
    folder_scores,
    load_head,
    save_head,
    save_reward_model,
    scalar_head,
    sequence_scores,
    state_width,
)
from luthier.model.verify import choose_layout
from luthier.tokens.pack import forest
from luthier.tokens.tokenizer import train_tokenizer

KINDS = ["llama", "gpt2", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "phi3", "gpt_neox", "mixtral", "bloom"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a"], 260)


def texts(vocab=128, seed=0):
    """Four texts of which two share a prefix; no token is the padding token (id 1) or the end of a document (0)."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda n: tuple(torch.randint(3, vocab, (n,), generator=generator).tolist())  # noqa: E731
    prompt = draw(20)
    return [Tokens(ids, (1.0,) * len(ids), "made") for ids in (prompt + draw(5), prompt + draw(9), draw(17), draw(3))]


def ends(rows):
    return {row.ids[-1] for row in rows}


def narrow_at_its_ends():
    """OPT-350m's shape: embeddings and final states are narrower than the blocks."""
    shape = {**COMMON, "ffn_dim": 48, "word_embed_proj_dim": 16, "do_layer_norm_before": False}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("opt", **shape)).eval()


def batched_scores(folder, rows):
    """As a user would: a padded batch, with the padding that the saved tokenizer names."""
    classifier = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    ids = {"input_ids": [list(row.ids) for row in rows]}
    padded = AutoTokenizer.from_pretrained(folder).pad(ids, padding_side="right", return_tensors="pt")
    with torch.no_grad():
        return classifier(input_ids=padded["input_ids"], attention_mask=padded["attention_mask"]).logits.squeeze(-1)


@pytest.mark.parametrize("kind", [*KINDS, "opt, narrow at its ends"])
def test_the_saved_reward_model_scores_alike_in_transformers(kind, tokenizer, tmp_path):
    lm, _ = choose_layout(tiny(kind) if kind in KINDS else narrow_at_its_ends())
    head = scalar_head(state_width(lm), 0, "reward head")
    rows = texts()
    with torch.no_grad():
        ours = sequence_scores(lm, head, forest(rows))
    assert ours.std() > 0.01
    save_reward_model(lm, head, tokenizer, tmp_path, ends(rows))
    torch.testing.assert_close(folder_scores(tmp_path, [row.ids for row in rows]), ours, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(batched_scores(tmp_path, rows), ours, rtol=1e-4, atol=5e-5)


def test_an_adapted_reward_model_is_saved_merged(tokenizer, tmp_path):
    lm = add_adapter(choose_layout(tiny("llama"))[0], Lora(rank=4), "reward", seed=0)
    with torch.no_grad():
        for name, parameter in lm.module.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
        head, rows = scalar_head(32, 0, "reward head"), texts()
        ours = sequence_scores(lm, head, forest(rows))
    save_reward_model(merged(lm), head, tokenizer, tmp_path, ends(rows))
    torch.testing.assert_close(folder_scores(tmp_path, [row.ids for row in rows]), ours, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("pad", [None, "<|endoftext|>"])
def test_the_score_is_read_at_the_end_where_the_end_is_also_what_the_tokenizer_pads_with(pad, tmp_path):
    """As in Llama 2 and Zephyr: answers end in eos, and padding is eos too, or there is none. transformers'
    classifiers look for the last token that is no padding."""
    tokenizer = train_tokenizer(["a"], 260)
    tokenizer.pad_token = pad
    tokenizer.unk_token = "<|im_start|>"
    lm, _ = choose_layout(tiny("llama"))
    head, end = scalar_head(32, 0, "reward head"), tokenizer.eos_token_id
    rows = [Tokens((*row.ids, end), (*row.weights, 1.0), "made") for row in texts()]
    with torch.no_grad():
        ours = sequence_scores(lm, head, forest(rows))
    save_reward_model(lm, head, tokenizer, tmp_path, ends(rows))
    torch.testing.assert_close(folder_scores(tmp_path, [row.ids for row in rows]), ours, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(batched_scores(tmp_path, rows), ours, rtol=1e-4, atol=2e-5)
    assert tokenizer.pad_token == pad  # the caller's own is left alone


def test_without_any_other_token_to_pad_with_one_text_at_a_time_is_scored(tmp_path):
    tokenizer = train_tokenizer(["a"], 260)  # bos is eos, as in GPT-2
    tokenizer.pad_token = None
    lm, _ = choose_layout(tiny("gpt2"))
    head, rows = scalar_head(32, 0, "reward head"), [Tokens((9, 17, 0), (1.0,) * 3, ""), Tokens((9, 0), (1.0,) * 2, "")]
    with torch.no_grad():
        ours = sequence_scores(lm, head, forest(rows))
    save_reward_model(lm, head, tokenizer, tmp_path, {tokenizer.eos_token_id})
    torch.testing.assert_close(folder_scores(tmp_path, [row.ids for row in rows]), ours, rtol=1e-4, atol=2e-5)


def test_scores_do_not_depend_on_neighbours():
    lm, _ = choose_layout(tiny("gemma2"))
    head, rows = scalar_head(32, 0, "reward head"), texts()
    with torch.no_grad():
        alone = torch.cat([sequence_scores(lm, head, forest([row])) for row in rows])
        torch.testing.assert_close(sequence_scores(lm, head, forest(rows)), alone, rtol=0, atol=2e-5)


def test_an_architecture_without_a_classifier_is_refused(tokenizer, tmp_path):
    lm, _ = choose_layout(tiny("granite"))
    with pytest.raises(UserError, match="transformers has no sequence classifier for granite"):
        save_reward_model(lm, scalar_head(32, 0, "reward head"), tokenizer, tmp_path, set())


def test_heads_begin_as_their_seed_says_and_come_back(tmp_path):
    head = scalar_head(256, 0, "reward head")
    assert torch.equal(head.weight, scalar_head(256, 0, "reward head").weight)
    assert not torch.equal(head.weight, scalar_head(256, 1, "reward head").weight)
    assert head.weight.std().item() == pytest.approx(257**-0.5, rel=0.2)  # Stiennon et al. 2020: 1/√(D+1)
    assert scalar_head(256, 0, "value head", zero=True).weight.abs().max() == 0
    save_head(head, tmp_path / "head.safetensors")
    again = load_head(tmp_path / "head.safetensors", 256, torch.device("cpu"))
    assert torch.equal(again.weight, head.weight) and not again.weight.requires_grad
