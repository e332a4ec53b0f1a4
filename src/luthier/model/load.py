"""Models from folders, from a hub, or from nothing; and back to folders that transformers loads as they are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from luthier.base.errors import UserError
from luthier.base.files import disk_errors
from luthier.base.recipe import Base, Fresh
from luthier.base.seeds import seed_for
from luthier.base.tuning import Quantize
from luthier.model.carried import VIRTUAL, bare, kinds, load_carried, save_carried
from luthier.model.encoders import CLASS, first_position, is_encoder
from luthier.model.products import quicken
from luthier.model.quantise import is_quantised, leave_file, loading, refuse_in_few_bits, settle
from luthier.model.score import LanguageModel
from luthier.model.verify import LoadCheck, choose_layout, context_of
from luthier.model.virtual import rows_refused, virtual_of
from luthier.tokens.tokenizer import ensure_chat_template

PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class Loaded:
    """A model ready for use, with what the load-time check found."""

    lm: LanguageModel
    tokenizer: Any
    check: LoadCheck
    end_ids: tuple[int, ...]
    """Ends that the model's generation_config names."""

    @property
    def context(self) -> int:
        """Longest sequence in tokens, after the virtual ones."""
        before = virtual_of(self.lm.module, self.lm.core).size + first_position(self.lm.core)
        return context_of(self.lm.core.config.to_dict()) - before


def compute_dtype(asked: str, device: str) -> torch.dtype:
    """auto: bfloat16 autocast on a GPU that has it, float32 elsewhere."""
    if asked != "auto":
        return torch.float32 if asked == "float32" else torch.bfloat16
    return torch.bfloat16 if device == "cuda" and torch.cuda.is_bf16_supported() else torch.float32


def fresh_model(fresh: Fresh, tokenizer: Any, seed: int) -> LlamaForCausalLM | BertForMaskedLM:
    """A Llama-shaped model with random weights, or a BERT-shaped one. Weights are a function of the seed alone."""
    if fresh.shape == "encoder":
        return fresh_encoder(fresh, tokenizer, seed)
    ffn = fresh.ffn or -(-fresh.width * 8 // 3 // 16) * 16
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=fresh.width,
        intermediate_size=ffn,
        num_hidden_layers=fresh.layers,
        num_attention_heads=fresh.heads,
        num_key_value_heads=fresh.kv_heads or fresh.heads,
        max_position_embeddings=fresh.context,
        tie_word_embeddings=fresh.tie_embeddings,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=fresh.width**-0.5 / 2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed_for(seed, "weights"))
        return LlamaForCausalLM(config)


def fresh_encoder(fresh: Fresh, tokenizer: Any, seed: int) -> BertForMaskedLM:
    """A BERT-shaped model with random weights and, as ModernBERT and our Llama, no dropout: every pass over the text
    hides other tokens, which is noise enough."""
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=fresh.width,
        intermediate_size=fresh.ffn or 4 * fresh.width,
        num_hidden_layers=fresh.layers,
        num_attention_heads=fresh.heads,
        max_position_embeddings=fresh.context,
        tie_word_embeddings=fresh.tie_embeddings,
        pad_token_id=tokenizer.pad_token_id,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=fresh.width**-0.5 / 2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed_for(seed, "weights"))
        return BertForMaskedLM(config)


def wrap(module: torch.nn.Module, tokenizer: Any, device: str, dtype: torch.dtype) -> Loaded:
    """Checks the model's layout and moves it to the device; a quantised one is there already."""
    if is_quantised(module):
        leave_file(module)
        settle(module, torch.float32)  # the check compares in full precision
    else:
        module.to(device)
    quicken(module)
    lm, check = choose_layout(module, dtype)
    settle(module, dtype)
    ends = lm.core.generation_config.eos_token_id if lm.core.can_generate() and lm.core.generation_config else None
    return Loaded(lm, tokenizer, check, tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,))


def load_model(base: Base, root: Path, device: str, quantize: Quantize | None = None, masked: bool = False) -> Loaded:
    """A causal language model, or a masked one, and its tokenizer from a local folder or a hub; its base in few bits,
    if asked.

    Raises UserError: folder missing, without weights or with spoilt or incomplete ones, pickled weights not allowed,
    code not trusted, a model of the other kind, or a hub that cannot be reached.
    """
    assert base.model is not None
    folder = (root / base.model).expanduser()
    local = folder.is_dir()
    if local:
        check_folder(folder, base)
    elif base.model.startswith((".", "/", "~")) or len(Path(base.model).parts) > 2:
        raise UserError(f"base.model: {base.model}: no such folder. Give a folder with config.json, or a hub id.")
    where = str(folder) if local else base.model
    options: dict[str, Any] = {"revision": base.revision, "trust_remote_code": base.trust_remote_code}
    if local and base.revision is not None:
        raise UserError(f"base.revision: {base.revision}: {base.model} is a folder here, which has none. Remove it.")
    try:
        config = AutoConfig.from_pretrained(where, **options)
        refuse_other_kind(base, config, masked)
        bits = in_few_bits(quantize, device, config)
        # dtype float32: weights are trained in full precision; the arithmetic is chosen by autocast.
        read: Any = (AutoModelForMaskedLM if masked else AutoModelForCausalLM).from_pretrained(
            where,
            dtype=torch.float32,
            use_safetensors=None if base.allow_pickle else True,
            output_loading_info=True,
            **bits,
            **options,
        )
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
    except UserError:
        raise
    except Exception as error:  # a foreign config, file or code may fail in any way, and each is reported
        raise UserError(load_problem(base, local, error)) from error
    module, found = read
    if missing := sorted(found["missing_keys"]):  # transformers fills them with random numbers and goes on
        raise UserError(
            f"base.model: {base.model}: its files lack {len(missing)} of the model's tensors ({missing[0]}, ...). "
            f"Copy all of its files, of a {'masked' if masked else 'causal'} language model."
        )
    if tokenizer.vocab_size > (rows := len(module.get_input_embeddings().weight)):
        raise UserError(
            f"base.model: {base.model}: its tokenizer has {tokenizer.vocab_size} tokens and its embedding {rows} rows: "
            "they do not belong together. Copy both from one model."
        )
    if base.chat_template is not None:
        template = (root / base.chat_template).expanduser()
        if not template.is_file():
            raise UserError(f"base.chat_template: {template}: no such file.")
        tokenizer.chat_template = template.read_text()
    loaded = wrap(module, tokenizer, device, compute_dtype(base.dtype, device))
    return with_carried(loaded, folder) if local else loaded


def in_few_bits(quantize: Quantize | None, device: str, config: Any) -> dict[str, Any]:
    """What `from_pretrained` is told besides, where the base is to be held in few bits. Raises UserError."""
    if quantize is None:
        return {}
    refuse_in_few_bits(quantize, config.model_type)
    return loading(quantize, device)


def refuse_other_kind(base: Base, config: Any, masked: bool) -> None:
    """Raises UserError for an encoder where a model is to write, and for a decoder where masks are to be filled:
    transformers would load some of either with weights missing, or attending to the wrong side."""
    if masked and not is_encoder(config):
        raise UserError(
            f"base.model: {base.model}: {config.model_type} is no encoder: it sees one side of a hidden token only. "
            "Use objective: causal, or an encoder (BERT, RoBERTa, ModernBERT, DistilBERT, ELECTRA)."
        )
    if not masked and is_encoder(config):
        raise UserError(
            f"base.model: {base.model}: {config.model_type} is an encoder: it fills masks and cannot write. Train it "
            "with kind: pretrain and objective: masked, or start from a decoder (Llama, Qwen, Gemma)."
        )


def model_class(folder: Path) -> Any:
    """What loads a model that luthier saved: its config names the class."""
    classes = AutoConfig.from_pretrained(folder).architectures or [""]
    return AutoModelForMaskedLM if classes[0].endswith(CLASS) else AutoModelForCausalLM


def check_folder(folder: Path, base: Base) -> None:
    """The plain reasons for which a folder cannot be loaded, before a library says them at length."""
    if not (folder / "config.json").is_file() and (folder / "adapter_config.json").is_file():
        raise UserError(f"base.model: {folder}: is an adapter, without its model. Merge the two, or give the model.")
    if not (folder / "config.json").is_file():
        raise UserError(f"base.model: {folder}: no config.json. Give a folder in the Hugging Face layout.")
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(file.name for pattern in PICKLED for file in folder.glob(pattern))
    if not pickled:
        raise UserError(f"base.model: {folder}: no weights (*.safetensors). Copy the model's weights there.")
    if not base.allow_pickle:
        raise UserError(
            f"base.model: {folder}: only pickled weights ({', '.join(pickled)}), which can run code when loaded. "
            "Convert them to safetensors, or set base.allow_pickle: true if you trust them."
        )


def load_problem(base: Base, local: bool, error: Exception) -> str:
    """One line for what the libraries say in many."""
    said = " ".join(str(error).split())
    if "trust_remote_code" in said:
        return (
            f"base.model: {base.model}: it comes with its own Python code. "
            "Read that code, then set base.trust_remote_code: true."
        )
    if not local:
        offline = os.environ.get("HF_HUB_OFFLINE") == "1"
        how = "the run is offline" if offline else "it is not a local folder, and the hub could not give it"
        return f"base.model: {base.model}: {how} ({said[:160]}). Download it and give its folder."
    return f"base.model: {base.model}: cannot be loaded: {said[:300]}"


def add_chat_template(loaded: Loaded, seed: int) -> tuple[int, ...]:
    """Writes ChatML where there is no template; ids whose embeddings the model did not have before. The new rows are
    drawn near the mean of the others (Hewitt 2021), by the seed."""
    before = loaded.lm.core.get_input_embeddings().weight.shape[0]
    ensure_chat_template(loaded.tokenizer)
    size = len(loaded.tokenizer)
    if size <= before:
        return ()
    with torch.random.fork_rng():
        torch.manual_seed(seed_for(seed, "new tokens"))
        loaded.lm.core.resize_token_embeddings(size, mean_resizing=True)
    return tuple(range(before, size))


def load_tokenizer(folder: Path) -> Any:
    """A tokenizer that luthier saved."""
    return AutoTokenizer.from_pretrained(folder)


def load_folder(folder: Path, device: str, dtype: torch.dtype, quantize: Quantize | None = None) -> Loaded:
    """A model that luthier saved, with what it carries; its base in few bits, if asked."""
    bits = in_few_bits(quantize, device, AutoConfig.from_pretrained(folder))
    module = model_class(folder).from_pretrained(folder, dtype=torch.float32, use_safetensors=True, **bits)
    return with_carried(wrap(module, load_tokenizer(folder), device, dtype), folder)


def with_carried(loaded: Loaded, folder: Path) -> Loaded:
    """The model with the adapters that its folder carries. Raises UserError where it cannot take them."""
    lm = loaded.lm
    load_carried(lm.core, folder)
    if lm.layout == "rows" and any(kind in VIRTUAL for kind in kinds(lm.core)):
        raise UserError(f"{folder}: it carries virtual tokens. {rows_refused(lm.core)}")
    return loaded


def save_model(module: Any, tokenizer: Any, folder: Path, end_ids: tuple[int, ...] = ()) -> None:
    """A Hugging Face folder: safetensors, config, tokenizer with its chat template, and where generation ends."""
    with disk_errors(folder):
        with bare(module):
            module.save_pretrained(folder, safe_serialization=True)
        save_carried(module, folder)
        tokenizer.save_pretrained(folder)
        if end_ids:
            config = GenerationConfig(
                bos_token_id=tokenizer.bos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=sorted(end_ids),
                do_sample=False,
            )
            config.save_pretrained(folder)
