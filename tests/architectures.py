"""Tiny random models of every architecture that the suite names. Large initial weights, so that a wrong mask, a missed
scale or a missed cap moves log-probs by whole nats and not by rounding."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

COMMON = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MIXED = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "n_inner": 48}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}

FOREST: dict[str, dict] = {
    "llama": {},
    "mistral": {"sliding_window": 16},
    "qwen2": {},
    "qwen3": {},
    "gemma": {},
    "gemma2": {"sliding_window": 16, "query_pre_attn_scalar": 8},
    "gemma3_text": {**MIXED, "query_pre_attn_scalar": 8},
    "phi": {},
    "phi3": {},
    "gpt2": GPT,
    "gpt_neox": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "olmo2": {},
    "olmo3": MIXED,
    "smollm3": {},
    "gpt_oss": {**MIXED, "num_local_experts": 4, "num_experts_per_tok": 2},
    "mixtral": {"num_local_experts": 4},
    "qwen3_moe": EXPERTS,
    "granite": {"logits_scaling": 4.0},
    "cohere": {},
    "starcoder2": {"sliding_window": 16},
    "llama4_text": {
        "num_local_experts": 2,
        "attention_chunk_size": 16,
        "intermediate_size_mlp": 48,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    },
    "glm4": {},
    "ernie4_5": {},
    "exaone4": MIXED,
}
"""Architectures that attend by a Batch's rule."""

ROWS: dict[str, dict] = {
    "gptj": {**GPT, "rotary_dim": 4},
    "bloom": {"n_layer": 2, "n_head": 4},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "expansion_ratio": 2, "max_seq_len": 256},
    "codegen": {**GPT, "rotary_dim": 4},
    "mamba": {"state_size": 4},
    "qwen3_next": {
        **EXPERTS,
        "shared_expert_intermediate_size": 24,
        "linear_num_value_heads": 2,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "layer_types": ["linear_attention", "full_attention"],
    },
}
"""Architectures that do not, and run on padded rows."""


BERT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
ENCODERS: dict[str, dict] = {
    "bert": BERT,
    "roberta": {**BERT, "pad_token_id": 1, "bos_token_id": 0},
    "xlm-roberta": {**BERT, "pad_token_id": 1, "bos_token_id": 0},
    "camembert": {**BERT, "pad_token_id": 1, "bos_token_id": 0},
    "electra": {**BERT, "embedding_size": 16},
    "albert": {**BERT, "embedding_size": 16},
    "distilbert": {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "dropout": 0.0, "attention_dropout": 0.0},
    "modernbert": {"local_attention": 16, "global_attn_every_n_layers": 2, "mlp_dropout": 0.0},
    "nomic_bert": {"attention_dropout": 0.0},
    "eurobert": {},
}
"""Encoders that attend by a Batch's rule: each token sees all of its own sequence."""

ENCODERS_ON_ROWS: dict[str, dict] = {
    "deberta-v2": BERT,
    "mpnet": {**BERT, "pad_token_id": 1},
    "roformer": {**BERT, "embedding_size": 32},
    "mobilebert": {"embedding_size": 16, "true_hidden_size": 16, "intra_bottleneck_size": 16},
}
"""Encoders that do not, and run on padded rows."""


def tiny_encoder(kind: str, seed: int = 0) -> PreTrainedModel:
    """A random masked language model of one architecture, in eval mode."""
    torch.manual_seed(seed)
    settings = {**COMMON, **(ENCODERS | ENCODERS_ON_ROWS)[kind]}
    return AutoModelForMaskedLM.from_config(AutoConfig.for_model(kind, **settings)).eval()


def tiny(kind: str, seed: int = 0) -> PreTrainedModel:
    """A random model of one architecture, in eval mode."""
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**COMMON, **(FOREST | ROWS)[kind]})).eval()
