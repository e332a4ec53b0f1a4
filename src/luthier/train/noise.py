"""NEFTune: noise on the input embeddings while training, which keeps a model from learning its few rows by heart.

Each number gets ε·α/√(L·D), ε uniform in (−1, 1), L the tokens of its sequence, D the width: Jain et al. 2023, eq. in
§2. The noise of a token is a function of (seed, step, the tokens up to it). So it is the same however a step is cut
into microbatches and laid out, and sequences that share a prefix share its noise; there L is the longest one's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from luthier.base.seeds import seed_for
from luthier.model.score import LanguageModel
from luthier.tokens.pack import Batch, nodes, paths

PRIME = 0x100000001B3
"""Base of the polynomial that tells prefixes apart (FNV's prime)."""
SPREAD = (-7046029254386353131, -4658895280553007687, -7723592293110705685)
"""splitmix64's constants as signed integers."""
FRACTION_BITS = 23
"""One less than a float32 holds: odd multiples of 2^−23 in (0, 2) are exact, and neither end is among them."""


class Noise:
    """Makes the embeddings of a language model noisy inside a block."""

    def __init__(self, lm: LanguageModel, size: float, seed: int) -> None:
        self.lm, self.size, self.seed = lm, size, seed

    @contextmanager
    def __call__(self, batch: Batch, step: int) -> Iterator[None]:
        """Inside this block, a forward over the batch (which is on the CPU) sees the noise of a step."""
        embedding = self.lm.core.get_input_embeddings()

        def add(_module: Any, _inputs: Any, out: Tensor) -> Tensor:
            noise_TD = self.of(batch, step, out.shape[-1]).to(out.device, out.dtype)
            if self.lm.layout == "forest":
                return out + noise_TD
            return out + pad_sequence([noise_TD[path] for path in paths(batch)], batch_first=True)

        hook = embedding.register_forward_hook(add)
        try:
            yield
        finally:
            hook.remove()

    def of(self, batch: Batch, step: int, width: int) -> Tensor:
        """The noise of every token of a batch at a step, [T, D]."""
        key_T, length_T = prefixes(batch)
        key_T = key_T ^ np.uint64(seed_for(self.seed, "neftune", step))
        limit_T = self.size / torch.from_numpy(np.sqrt(length_T * width)).float()
        return uniform(torch.from_numpy(key_T.view(np.int64)), width) * limit_T[:, None]


def prefixes(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Of every token: a number (uint64) that tells the tokens up to it from any others, and the length of the longest
    sequence that it is in."""
    ids_T, pos_T, end_T = (x.numpy() for x in (batch.ids_T, batch.pos_T, batch.end_T))
    # np.power would overflow into a float: the powers are taken as running products, modulo 2^64.
    powers = np.cumprod(np.full(int(pos_T.max()) + 1, PRIME, dtype=np.uint64))
    terms_T = (ids_T.astype(np.uint64) + np.uint64(1)) * powers[pos_T]
    key_T, length_T = np.empty_like(terms_T), np.empty(len(ids_T))
    found = nodes(batch.end_T)
    for node in found:
        above = key_T[found[node.above[-1]].stop - 1] if node.above else np.uint64(0)
        key_T[node.start : node.stop] = np.cumsum(terms_T[node.start : node.stop], dtype=np.uint64) + above
        length_T[node.start : node.stop] = pos_T[node.start : end_T[node.start]].max() + 1
    return key_T, length_T


def uniform(key_T: Tensor, width: int) -> Tensor:
    """Numbers uniform in (−1, 1), [T, D], that are a function of the keys (int64), alike on every device."""
    column_D = torch.arange(width, device=key_T.device)
    drawn_TD = mixed(mixed(key_T)[:, None] + column_D * SPREAD[0])
    return (2 * unsigned_shift(drawn_TD, 64 - FRACTION_BITS) + 1).float() / 2**FRACTION_BITS - 1


def mixed(x: Tensor) -> Tensor:
    """splitmix64's function, which spreads every bit over all (Steele et al. 2014); products are modulo 2^64."""
    x = (x ^ unsigned_shift(x, 30)) * SPREAD[1]
    x = (x ^ unsigned_shift(x, 27)) * SPREAD[2]
    return x ^ unsigned_shift(x, 31)


def unsigned_shift(x: Tensor, bits: int) -> Tensor:
    """x >> bits of unsigned integers that torch holds as signed ones."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
