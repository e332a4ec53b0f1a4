"""Texts as vectors: the mean of an encoder's last hidden states, of length 1. For retrieval by meaning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from luthier.base.errors import UserError
from luthier.data.curate.vectors import Embed

AT_ONCE = 32


def load_embedder(folder: Path, device: str) -> Embed:
    """The embedder in a local folder (sentence-transformers' models are such folders; their mean pooling is what is
    done here). Texts are cut to the model's length. Raises UserError where there is none."""
    if not (folder / "config.json").exists():
        raise UserError(f"--embeddings {folder}: no model here. Give a folder in the Hugging Face layout.")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).to(device).eval()
    most = min(tokenizer.model_max_length, model.config.max_position_embeddings)

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> np.ndarray:
        found = [np.zeros((0, model.config.hidden_size), dtype=np.float32)]
        for start in range(0, len(texts), AT_ONCE):
            some = list(texts[start : start + AT_ONCE])
            batch = tokenizer(some, padding=True, truncation=True, max_length=most, return_tensors="pt").to(device)
            states_BLD = model(**batch).last_hidden_state
            seen_BL1 = batch["attention_mask"].unsqueeze(-1)
            mean_BD = (states_BLD * seen_BL1).sum(1) / seen_BL1.sum(1).clamp(min=1)
            found.append(torch.nn.functional.normalize(mean_BD, dim=-1).float().cpu().numpy())
        return np.concatenate(found)

    return embed
