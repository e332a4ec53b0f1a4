"""Texts as vectors of length 1, by an encoder: for retrieval by meaning, and for curation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from luthier.base.errors import UserError
from luthier.base.files import read_json
from luthier.data.curate.vectors import Embed

AT_ONCE = 32


def embedder_problem(folder: Path) -> str | None:
    """Why a folder is no embedding model's, as far as can be told without loading it."""
    if (folder / "config.json").is_file():
        return None
    what = "no model here" if folder.is_dir() else "no such folder"
    return f"embeddings: {folder}: {what}. Give the folder of an embedding model in the Hugging Face layout."


def load_embedder(folder: Path, device: str) -> Embed:
    """The embedder in a local folder, such as sentence-transformers make. Vectors are the mean of the last hidden
    states, or the first token's where the folder says so (1_Pooling/config.json). Texts are cut to the model's length.
    Raises UserError where there is no such model."""
    if (problem := embedder_problem(folder)) is not None:
        raise UserError(problem)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModel.from_pretrained(folder).to(device).eval()
    except (OSError, ValueError, KeyError) as error:
        said = str(error).split("\n")[0]
        raise UserError(f"embeddings: {folder}: cannot be loaded: {said}. Give an encoder's folder.") from error
    if model.config.is_encoder_decoder:
        raise UserError(f"embeddings: {folder}: has a decoder, too, and no vector of a text. Give an encoder's folder.")
    most = min(tokenizer.model_max_length, model.config.max_position_embeddings)
    first = takes_first(folder)

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> np.ndarray:
        found = [np.zeros((0, model.config.hidden_size), dtype=np.float32)]
        for start in range(0, len(texts), AT_ONCE):
            some = list(texts[start : start + AT_ONCE])
            batch = tokenizer(some, padding=True, truncation=True, max_length=most, return_tensors="pt").to(device)
            states_BLD = model(**batch).last_hidden_state
            seen_BL1 = batch["attention_mask"].unsqueeze(-1)
            mean_BD = (states_BLD * seen_BL1).sum(1) / seen_BL1.sum(1).clamp(min=1)
            said_BD = states_BLD[:, 0] if first else mean_BD
            found.append(torch.nn.functional.normalize(said_BD, dim=-1).float().cpu().numpy())
        return np.concatenate(found)

    return embed


def takes_first(folder: Path) -> bool:
    """Whether the first token's state stands for a text, as sentence-transformers notes it."""
    file = folder / "1_Pooling" / "config.json"
    return file.is_file() and bool(read_json(file).get("pooling_mode_cls_token"))
