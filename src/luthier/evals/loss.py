"""Held-out loss in nats per token, row by row, so that intervals and paired differences can be had."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from luthier.base.nouns import Tokens
from luthier.model.score import LanguageModel, score, sequence_sums
from luthier.tokens.pack import forest, split_by_tokens


@torch.no_grad()
def losses(lm: LanguageModel, sequences: Sequence[Tokens], batch_tokens: int = 8192) -> tuple[np.ndarray, np.ndarray]:
    """Summed −log p (nats) and number of weighted tokens of each sequence."""
    was_training = lm.module.training
    lm.module.eval()
    nats: list[float] = []
    counts = np.array([sum(s.weights[1:]) for s in sequences])
    for run in split_by_tokens(sequences, batch_tokens):
        batch = forest(run).to(lm.device)
        nats += sequence_sums(-score(lm, batch) * batch.weight_M, batch).tolist()
    lm.module.train(was_training)
    return np.array(nats), counts
