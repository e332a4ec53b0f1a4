"""Encoders: masked language models (BERT, RoBERTa, ModernBERT and their kin). What is asked of one when it is loaded.

Their head is more than a projection (dense, activation, norm, projection with a bias) and stands in other modules in
every architecture. Which, and in which order, is read off the model's own forward; the load-time check (verify.py)
then compares log-probs, so an architecture that does more than that is told, never wrong.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

CLASS = "ForMaskedLM"
"""How the names of their classes end, those of code that comes with a model too."""


class Encoder(NamedTuple):
    """How a masked language model is put together."""

    head: tuple[str, ...]
    """Names of the modules between the backbone's states and the logits, in the order of its own forward."""
    first_position: int
    """Position of a sequence's first token: RoBERTa and its kin count from behind the padding's."""


def fills_masks(core: nn.Module) -> bool:
    """Whether a transformers model is a masked language model."""
    return type(core).__name__.endswith(CLASS)


def is_encoder(config: Any) -> bool:
    """Whether a config is of an architecture that sees both sides, and is not set up to see one only."""
    settings = config.to_dict()
    if settings.get("is_encoder_decoder") or settings.get("is_decoder"):
        return False
    named = (settings.get("auto_map") or {}).get("AutoModelForMaskedLM")
    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES or named is not None


@torch.no_grad()
def encoder_of(core: Any) -> Encoder:
    """How this model is put together: its forward is watched once, on a row of one token."""
    called: list[str] = []
    backbone = next(name for name, child in core.named_children() if isinstance(child, PreTrainedModel))
    watches = [
        child.register_forward_hook(lambda *_, name=name: called.append(name)) for name, child in core.named_children()
    ]
    try:
        core(input_ids=torch.tensor([[core.config.vocab_size - 1]], device=next(core.parameters()).device))
    finally:
        for watch in watches:
            watch.remove()
    return Encoder(tuple(called[called.index(backbone) + 1 :]), first_position(core))


def first_position(core: nn.Module) -> int:
    """0, or what follows the padding's row in the table of positions."""
    tables = (m for name, m in core.named_modules() if name.endswith("position_embeddings"))
    rows = [table.padding_idx for table in tables if isinstance(table, nn.Embedding)]
    return next((row + 1 for row in rows if row is not None), 0)


def logits_by_head(core: Any, encoder: Encoder, hidden_MD: Tensor) -> Tensor:
    """The logits [M, V] for some of the backbone's states."""
    for name in encoder.head:
        hidden_MD = core.get_submodule(name)(hidden_MD)
    return hidden_MD
