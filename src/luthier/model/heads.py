"""Scalar heads on hidden states, and the reward model as a folder that transformers loads as it is."""

from __future__ import annotations

import copy
from collections.abc import Set
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DynamicCache

from luthier.base.errors import UserError
from luthier.base.files import disk_errors
from luthier.base.seeds import seed_for
from luthier.model.carried import bare, load_carried, save_carried
from luthier.model.score import LanguageModel, states
from luthier.model.virtual import virtual_of
from luthier.tokens.pack import Batch


def scalar_head(width: int, seed: int, purpose: str, zero: bool = False) -> nn.Linear:
    """A linear map D -> 1 without bias (a reward has no origin); `zero` starts a value head at V = 0."""
    head = nn.Linear(width, 1, bias=False)
    generator = torch.Generator().manual_seed(seed_for(seed, purpose))
    with torch.no_grad():
        head.weight.normal_(0, 0 if zero else (width + 1) ** -0.5, generator=generator)
    return head


def state_width(lm: LanguageModel) -> int:
    """Width D of the states that heads read: what the model's own head takes. OPT-350m's blocks are wider."""
    return int(lm.core.get_output_embeddings().weight.shape[1])


def save_head(head: nn.Linear, file: Path) -> None:
    """The head alone, as safetensors."""
    with disk_errors(file):
        save_file({"weight": head.weight.detach().cpu()}, file)


def load_head(file: Path, width: int, device: torch.device) -> nn.Linear:
    """A head that `save_head` wrote, frozen."""
    head = scalar_head(width, 0, "loaded")
    head.load_state_dict(load_file(file))
    return head.to(device).requires_grad_(False)


def sequence_scores(lm: LanguageModel, head: nn.Linear, batch: Batch) -> Tensor:
    """One score a sequence [N], read at its last token."""
    sequences_N = torch.arange(batch.n, device=batch.last_N.device)
    return head(states(lm, batch, batch.last_N, sequences_N).float()).squeeze(-1)


def classifier_class_missing(lm: LanguageModel) -> str | None:
    """Why this architecture's reward model could not be saved for transformers, or None."""
    if type(lm.core.config) in AutoModelForSequenceClassification._model_mapping:
        return None
    return f"transformers has no sequence classifier for {lm.core.config.model_type}"


def padding(tokenizer: Any, ends: Set[int]) -> int | None:
    """A token to pad with at which no text ends: transformers' classifiers read the score at the last token that is
    no padding. None where there is none; such a classifier takes one text at a time."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id)
    return next((token for token in known if token is not None and token not in ends), None)


def save_reward_model(lm: LanguageModel, head: nn.Linear, tokenizer: Any, folder: Path, ends: Set[int]) -> None:
    """Writes a `...ForSequenceClassification` folder with one label; `lm` must hold no live adapters (merge first).
    Its score for a text that ends in one of `ends` is `sequence_scores`' for the same tokens. Raises UserError where
    transformers has no such class."""
    if (missing := classifier_class_missing(lm)) is not None:
        raise UserError(f"reward: {missing}. Choose a base of another architecture.")
    config = type(lm.core.config).from_dict({**lm.core.config.to_dict(), "num_labels": 1, "architectures": None})
    config.pad_token_id = padding(tokenizer, ends)
    if config.pad_token_id not in (None, tokenizer.pad_token_id):
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(config.pad_token_id)
    with torch.device(lm.device):
        classifier: Any = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    with bare(lm.core):
        getattr(classifier, classifier.base_model_prefix).load_state_dict(lm.backbone.state_dict())
    with torch.no_grad():
        classifier.score.weight.copy_(head.weight)
    with disk_errors(folder):
        classifier.save_pretrained(folder, safe_serialization=True)
        save_carried(lm.core, folder)
        tokenizer.save_pretrained(folder)


@torch.no_grad()
def folder_scores(folder: Path, sequences: list[tuple[int, ...]]) -> Tensor:
    """Scores of token sequences through transformers' own forward, with what the folder carries: the reference for
    the certificate."""
    classifier = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    load_carried(classifier, folder)
    AutoTokenizer.from_pretrained(folder)  # the folder must stand alone
    virtual = virtual_of(classifier, classifier)
    scores = []
    for ids in sequences:
        inputs: dict[str, Any] = virtual.inputs(classifier, torch.tensor((0,) * virtual.embedded + tuple(ids)))
        if virtual.prefix:
            inputs["past_key_values"] = cache = DynamicCache(config=classifier.config)
            for layer, (k, v) in enumerate(virtual.prefix):
                cache.update(k, v, layer)
        scores.append(classifier(**inputs).logits[0, 0])
    return torch.stack(scores)
