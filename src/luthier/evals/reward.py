"""Is the reward model good enough? Accuracy on held-out pairs, by length difference, against a length-only baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from luthier.base.nouns import Tokens
from luthier.model.heads import sequence_scores
from luthier.model.score import LanguageModel
from luthier.tokens.pack import forest


class Verdicts(NamedTuple):
    """Per held-out pair: does the model, does length alone, agree with the label; and by how much they differ."""

    right_P: np.ndarray
    """1, 0, or ½ on a tie of scores."""
    by_length_P: np.ndarray
    """The same for the better of "shorter wins" and "longer wins", chosen on the training pairs."""
    longer_P: np.ndarray
    """Tokens of chosen minus tokens of rejected."""
    margin_P: np.ndarray
    """Score of chosen minus score of rejected."""


def agreement(difference_P: np.ndarray) -> np.ndarray:
    """1 where positive, ½ at zero, 0 where negative."""
    return (np.sign(difference_P) + 1) / 2


def longer(pairs: Sequence[tuple[Tokens, Tokens]]) -> np.ndarray:
    """Tokens of chosen minus tokens of rejected, per pair."""
    return np.array([len(chosen.ids) - len(rejected.ids) for chosen, rejected in pairs])


@torch.no_grad()
def judge(
    lm: LanguageModel,
    head: nn.Linear,
    heldout: Sequence[tuple[Tokens, Tokens]],
    training: Sequence[tuple[Tokens, Tokens]],
    batch_pairs: int = 32,
) -> Verdicts:
    """Scores the held-out pairs."""
    lm.module.eval()
    margins: list[float] = []
    for start in range(0, len(heldout), batch_pairs):
        run = heldout[start : start + batch_pairs]
        batch = forest([sequence for pair in run for sequence in pair]).to(lm.device)
        scores_N = sequence_scores(lm, head, batch)
        margins += (scores_N[0::2] - scores_N[1::2]).tolist()
    return verdicts(np.array(margins), heldout, training)


def verdicts(
    margin_P: np.ndarray, heldout: Sequence[tuple[Tokens, Tokens]], training: Sequence[tuple[Tokens, Tokens]]
) -> Verdicts:
    """What the margins of some held-out pairs say, however they were scored."""
    prefers = 1 if agreement(longer(training)).mean() >= 0.5 else -1
    difference_P = longer(heldout)
    return Verdicts(agreement(margin_P), agreement(prefers * difference_P), difference_P, margin_P)


def buckets(longer_P: np.ndarray) -> dict[str, np.ndarray]:
    """Pairs by which answer is longer, cut at a difference of a quarter of the typical one: masks by name."""
    edge = max(1.0, float(np.median(np.abs(longer_P))) / 4) if len(longer_P) else 1.0
    return {"chosen_shorter": longer_P < -edge, "similar": np.abs(longer_P) <= edge, "chosen_longer": longer_P > edge}
