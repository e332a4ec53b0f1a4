"""GGUF: what transformers reads from the file is the model that was written, weight for weight and token for token."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from architectures import tiny
from luthier.base.errors import UserError
from luthier.model.gguf import FILE_TYPES, interleaved, read_gguf, refusal, rounded, write_gguf
from luthier.tokens.tokenizer import ensure_chat_template, train_tokenizer

TEXTS = ["hello world", "  two  spaces\tand\nlines ", "naïve café 数字 123", "<|im_start|>user\nhi<|im_end|>"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    made = train_tokenizer(["hello world, hello cup, hello boat; the naïve café"] * 20, 300)
    ensure_chat_template(made)
    return made


def model(kind, tokenizer):
    """A tiny model with as many embeddings as the tokenizer has tokens, and three to spare."""
    made = tiny(kind)
    made.resize_token_embeddings(len(tokenizer) + 3)
    return made.eval()


def logps(core) -> torch.Tensor:
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        return torch.log_softmax(core(input_ids=ids).logits, -1)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_a_file_in_float32_is_the_model(kind, tokenizer, tmp_path):
    core = model(kind, tokenizer)
    held = write_gguf(core, tokenizer, tmp_path / "m.gguf", "f32", "made", 256)
    assert set(held) == {"f32"} and not list(tmp_path.glob(".*"))
    read, its = read_gguf(tmp_path / "m.gguf")
    torch.testing.assert_close(logps(read), logps(core), rtol=0, atol=2e-5)
    assert its.chat_template == tokenizer.chat_template
    for text in TEXTS:
        assert its.encode(text) == tokenizer.encode(text)


@pytest.mark.parametrize("bits", [bits for bits in FILE_TYPES if bits != "f32"])
def test_a_file_in_fewer_bits_is_the_model_with_its_weights_rounded(bits, tokenizer, tmp_path):
    core = model("llama", tokenizer)
    write_gguf(core, tokenizer, tmp_path / "m.gguf", bits, "made", 256)
    read, _ = read_gguf(tmp_path / "m.gguf")
    exact = logps(core)
    rounded(core, bits)
    torch.testing.assert_close(logps(read), logps(core), rtol=0, atol=2e-5)
    assert (logps(read) - exact).abs().max() > 1e-4  # rounding is to be seen: the comparison would find it


def test_rotated_rows_stand_in_pairs():
    # one head of four rows: halves (0 1 | 2 3) become pairs (0 2)(1 3)
    assert interleaved(torch.arange(4.0)[:, None], 1).flatten().tolist() == [0, 2, 1, 3]
    assert interleaved(torch.arange(8.0), 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_the_real_tokenizer_with_byte_fallback_comes_back(shared_data, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(shared_data / "stories260K")
    core = tiny("llama")
    core.resize_token_embeddings(len(tokenizer))
    write_gguf(core, tokenizer, tmp_path / "m.gguf", "f32", "made", 256)
    _, its = read_gguf(tmp_path / "m.gguf")
    stories = (shared_data / "tinystories" / "tiny_stories.txt.gz").exists()
    assert stories
    for text in ("Once upon a time, there was a girl named Lily.", "zebra 42 naïve", "Tom said: “No!”"):
        assert its.encode(text) == tokenizer.encode(text)


@pytest.mark.parametrize(
    ("kind", "why"),
    [("gpt2", "not among the shapes"), ("mistral", "a window of 16 tokens"), ("gemma2", "not among the shapes")],
)
def test_what_cannot_be_written_is_refused(kind, why, tokenizer, tmp_path):
    core = model(kind, tokenizer)
    assert why in (refusal(core.config, tokenizer) or "")
    with pytest.raises(UserError, match=why):
        write_gguf(core, tokenizer, tmp_path / "m.gguf", "f16", "made", 256)
    assert not list(tmp_path.iterdir())


def test_scaled_rotations_and_foreign_word_rules_are_refused(tokenizer):
    core = tiny("llama")
    core.config.rope_parameters = {**core.config.rope_parameters, "rope_type": "llama3"}
    assert "scaled (llama3)" in (refusal(core.config, tokenizer) or "")
    from tokenizers import pre_tokenizers

    strange = PreTrainedTokenizerFast(tokenizer_object=train_tokenizer(["a b c"] * 9, 300).backend_tokenizer)
    strange.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    assert "no name in llama.cpp" in (refusal(tiny("llama").config, strange) or "")
