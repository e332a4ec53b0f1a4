"""Which rows to keep: few, good ones that stand for all. LIMA's way (Zhou et al. 2023): quality and diversity first."""

from __future__ import annotations

from typing import Literal

import numpy as np

How = Literal["facility", "k-centre"]


def choose(vectors_ND: np.ndarray, quality_N: np.ndarray, keep: int, how: How = "facility") -> list[int]:
    """The numbers of `keep` rows in order of choice (all rows, where there are no more)."""
    best_N = np.zeros(len(vectors_ND), dtype=np.float32)
    chosen: list[int] = []
    worth_N = np.asarray(quality_N, dtype=np.float32)
    if how == "k-centre":
        distance_N = np.ones(len(vectors_ND), dtype=np.float32)
        for _ in range(min(keep, len(vectors_ND))):
            gain_N = worth_N * distance_N
            gain_N[chosen] = -1
            chosen.append(int(gain_N.argmax()))
            distance_N = np.minimum(distance_N, 1 - vectors_ND @ vectors_ND[chosen[-1]])
        return chosen
    similar_NN = np.maximum(vectors_ND @ vectors_ND.T, 0) * worth_N[:, None]
    for _ in range(min(keep, len(vectors_ND))):
        gain_N = np.maximum(similar_NN * worth_N - best_N[:, None], 0).sum(0)
        gain_N[chosen] = -1
        chosen.append(int(gain_N.argmax()))
        best_N = np.maximum(best_N, similar_NN[:, chosen[-1]] * worth_N[chosen[-1]])
    return chosen
