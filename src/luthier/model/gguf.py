"""GGUF, the one file that llama.cpp and Ollama read: writing it for Llama-shaped models, and reading it back through
transformers. Tensor names and quantisation are the gguf library's; the format: ggml's docs/gguf.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from luthier.base.errors import UserError
from luthier.base.files import disk_errors
from luthier.model.carried import kinds

Bits = Literal["f32", "f16", "q8_0", "q4_0"]
FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7}
"""llama.cpp's numbers for what most of a file's tensors are."""
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""transformers' model_type -> llama.cpp's architecture."""
SPLITS = {
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+": "llama-bpe",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+"
    "|\\s+(?!\\S)|\\s+": "qwen2",
}
"""How a byte-level tokenizer cuts a text into words, by the name that llama.cpp knows the rule by."""
LINE_END = "Ċ"
"""How byte-level tokenizers write a line end."""
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""gguf's token types."""


def require_gguf() -> None:
    """Raises UserError where the library is not installed."""
    if find_spec("gguf") is None:
        raise UserError('gguf: the library is not installed. pip install "luthier[export]"')


def refusal(config: Any, tokenizer: Any) -> str | None:
    """Why a model of this config and tokenizer cannot be written as GGUF; None where it can."""
    if config.model_type not in ARCHITECTURES:
        return f"{config.model_type} is not among the shapes written as GGUF ({', '.join(ARCHITECTURES)})"
    rope = config.rope_parameters or {}
    if rope.get("rope_type", "default") != "default":
        return f"its rotary embeddings are scaled ({rope['rope_type']}), which is not written as GGUF"
    given = config.to_dict()
    if given.get("sliding_window") and given.get("use_sliding_window", True):
        return f"it attends within a window of {given['sliding_window']} tokens, which llama.cpp would not"
    if config.model_type == "llama" and (config.attention_bias or config.mlp_bias):
        return "its projections have biases, which llama.cpp's llama does not"
    try:
        vocabulary(tokenizer)
    except UserError as error:
        return error.problems[0]
    return None


class Vocabulary:
    """A tokenizer as llama.cpp holds it."""

    def __init__(self, model: str, pre: str, tokens: list[str], types: list[int], merges: list[str]) -> None:
        self.model, self.pre, self.tokens, self.types, self.merges = model, pre, tokens, types, merges

    @property
    def scores(self) -> list[float]:
        """What SentencePiece would say of each token: the earlier its merge, the higher."""
        rank = {merge.replace(" ", "", 1): -float(i) for i, merge in reversed(list(enumerate(self.merges)))}
        pairs = zip(self.tokens, self.types, strict=True)
        return [rank.get(token, -1e6 if kind == NORMAL else 0.0) for token, kind in pairs]


def vocabulary(tokenizer: Any) -> Vocabulary:
    """The tokenizer's tokens by id, their types and merges. Raises UserError where llama.cpp has no such tokenizer."""
    made = json.loads(tokenizer.backend_tokenizer.to_str())
    if made["model"]["type"] != "BPE":
        raise UserError(f"its tokenizer is of type {made['model']['type']}, and only BPE is written as GGUF")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in made["model"]["merges"]]
    ids: dict[str, int] = {**made["model"]["vocab"]}
    added = {token["content"]: token for token in made["added_tokens"] or []}
    ids |= {content: token["id"] for content, token in added.items()}
    tokens = [f"[PAD{i}]" for i in range(max(ids.values()) + 1)]
    types = [UNUSED] * len(tokens)
    pieces = bool(made["model"].get("byte_fallback"))
    for content, i in ids.items():
        tokens[i], types[i] = content, NORMAL
        if content in added:
            types[i] = CONTROL if added[content]["special"] else USER_DEFINED
        elif pieces and len(content) == 6 and content.startswith("<0x"):
            types[i] = BYTE
    if made["model"].get("unk_token") in ids:
        types[ids[made["model"]["unk_token"]]] = UNKNOWN
    if pieces:
        return Vocabulary("llama", "default", tokens, types, merges)
    return Vocabulary("gpt2", word_rule(made["pre_tokenizer"], merges), tokens, types, merges)


def word_rule(pre_tokenizer: dict[str, Any] | None, merges: list[str]) -> str:
    """llama.cpp's name for how words are cut before bytes are merged. Raises UserError where it knows none."""
    steps: list[Any] = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer])
    for step in steps:
        if step and step["type"] == "Split" and step["pattern"].get("Regex") in SPLITS:
            return SPLITS[step["pattern"]["Regex"]]
    if steps and steps[-1] and steps[-1]["type"] == "ByteLevel" and steps[-1]["use_regex"]:
        before = [(step["type"], step.get("pattern"), step.get("individual_digits")) for step in steps[:-1]]
        if not before:
            return "gpt-2"
        # A line end that is cut off before changes nothing where no merge has one (it is never part of a word).
        if before[0] == ("Split", {"Regex": "\\n"}, None) and not any(LINE_END in merge for merge in merges):
            before = before[1:]
        if before == [("Digits", None, True)]:
            return "smollm"
    raise UserError("its tokenizer cuts words by a rule that has no name in llama.cpp")


def tensors(core: Any, arch: str) -> Iterator[tuple[str, torch.Tensor]]:
    """The model's tensors under llama.cpp's names."""
    import gguf

    number = next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    names = gguf.get_tensor_name_map(number, core.config.num_hidden_layers)
    heads, kv_heads = core.config.num_attention_heads, core.config.num_key_value_heads
    tied = core.config.tie_word_embeddings
    for name, tensor in core.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        stem, _, suffix = name.rpartition(".")
        known = names.get_name(stem)
        assert known is not None, f"{name} has no name in GGUF"
        if arch == "llama" and stem.endswith(("q_proj", "k_proj")):
            tensor = interleaved(tensor, heads if stem.endswith("q_proj") else kv_heads)
        yield f"{known}.{suffix}", tensor


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a rotated projection as llama.cpp turns them: pairs side by side, where transformers keeps halves."""
    return weight.view(heads, 2, -1, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def kind_of(tensor: torch.Tensor, bits: Bits) -> str:
    """How one tensor is held: gains and biases always whole, rows that do not divide into blocks of 32 as halves."""
    if tensor.ndim < 2 or bits == "f32":
        return "f32"
    return bits if bits == "f16" or tensor.shape[-1] % 32 == 0 else "f16"


def write_gguf(core: Any, tokenizer: Any, file: Path, bits: Bits, name: str, context: int) -> dict[str, int]:
    """Writes the model; how many tensors are held in which way. Raises UserError where it cannot be written."""
    require_gguf()
    import gguf

    if (why := refusal(core.config, tokenizer)) or (why := ", ".join(kinds(core)) and "it carries adapters"):
        raise UserError(f"{file.name}: {why}. Use the Hugging Face folder.")
    config, arch = core.config, ARCHITECTURES[core.config.model_type]
    with disk_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.tmp")
        writer = gguf.GGUFWriter(partial, arch)
        writer.add_name(name)
        writer.add_file_type(FILE_TYPES[bits])
        writer.add_context_length(context)
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        head = config.head_dim or config.hidden_size // config.num_attention_heads
        writer.add_key_length(head)
        writer.add_value_length(head)
        writer.add_rope_dimension_count(head)
        writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_vocab_size(config.vocab_size)
        add_vocabulary(writer, tokenizer, config.vocab_size)
        counts: dict[str, int] = {}
        for label, tensor in tensors(core, arch):
            kind = kind_of(tensor, bits)
            counts[kind] = counts.get(kind, 0) + 1
            whole = tensor.detach().float().cpu().numpy()
            wanted = gguf.GGMLQuantizationType[kind.upper()]
            writer.add_tensor(label, gguf.quantize(whole, wanted), raw_dtype=wanted)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        partial.replace(file)
    return counts


def add_vocabulary(writer: Any, tokenizer: Any, size: int) -> None:
    """The tokenizer's part of the file: as many tokens as the model has embeddings."""
    made = vocabulary(tokenizer)
    spare = size - len(made.tokens)
    tokens = made.tokens + [f"[PAD{len(made.tokens) + i}]" for i in range(spare)]
    types = made.types + [UNUSED] * spare
    writer.add_tokenizer_model(made.model)
    writer.add_tokenizer_pre(made.pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(made.merges)
    if made.model == "llama":
        writer.add_token_scores(made.scores + [-1e6] * spare)
    for add, token in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
        (writer.add_unk_token_id, tokenizer.unk_token_id),
    ):
        if token is not None:
            add(token)
    plain, with_special = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
    writer.add_add_bos_token(len(with_special) > len(plain) and with_special[0] == tokenizer.bos_token_id)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def rounded(core: Any, bits: Bits) -> None:
    """Rounds a model's weights, in place, to what a file in `bits` holds."""
    import gguf

    with torch.no_grad():
        for parameter in core.parameters():
            wanted = gguf.GGMLQuantizationType[kind_of(parameter, bits).upper()]
            held: np.ndarray = gguf.quantize(parameter.float().cpu().numpy(), wanted)
            parameter.copy_(torch.from_numpy(gguf.dequantize(held, wanted).reshape(parameter.shape).copy()))


def read_gguf(file: Path) -> tuple[Any, Any]:
    """The model, in float32, and its tokenizer, as transformers reads the file."""
    require_gguf()
    import gguf

    fields = gguf.GGUFReader(file).fields
    arch = fields["general.architecture"].contents()
    # transformers 5.23 takes qwen3's head width for 128, whatever the file says.
    head = {"head_dim": int(fields[f"{arch}.attention.key_length"].contents())} if arch == "qwen3" else {}
    core = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32, **head)
    return core, AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
