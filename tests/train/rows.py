"""Random rows for the tests of training: ids 3..127, `END` ends an answer."""

from __future__ import annotations

import numpy as np

from luthier.base.nouns import Tokens

END = 2


def draw(count: int, low: int = 8, high: int = 30, seed: int = 0) -> list[Tokens]:
    """Random sequences, each with a prompt of a few tokens that carries no weight."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        n = int(rng.integers(low, high))
        asked = int(rng.integers(1, n // 2))
        weights = [0.0] * asked + [1.0] * (n - asked)
        made.append(Tokens(tuple(rng.integers(3, 128, n).tolist()), tuple(weights), f"rows.jsonl:{i + 1}"))
    return made


def draw_pairs(count: int) -> list[tuple[Tokens, Tokens]]:
    """Two random answers to each of some random prompts."""
    rng = np.random.default_rng(1)
    made = []
    for i in range(count):
        prompt = rng.integers(3, 128, 12).tolist()
        a, b = (prompt + rng.integers(3, 128, int(rng.integers(3, 12))).tolist() + [END] for _ in range(2))
        made.append(tuple(Tokens(tuple(x), (0.0,) * 12 + (1.0,) * (len(x) - 12), f"pairs:{i}") for x in (a, b)))
    return made


def draw_answers(prompts: int, answers: int) -> list[Tokens]:
    """Several random answers to each of a few random prompts of 12 tokens."""
    rng = np.random.default_rng(2)
    made = []
    for _ in range(prompts):
        prompt = rng.integers(3, 128, 12).tolist()
        for _ in range(answers):
            ids = (*prompt, *rng.integers(3, 128, int(rng.integers(3, 12))).tolist(), END)
            made.append(Tokens(ids, (0.0,) * 12 + (1.0,) * (len(ids) - 12), f"answers:{len(made)}"))
    return made
