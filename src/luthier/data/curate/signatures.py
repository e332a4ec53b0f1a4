"""MinHash: a set as a few numbers, of which two sets share as many as the sets are alike. Broder 1997."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np

from luthier.data.curate.shingles import Shingles

Signature = Callable[[Shingles, int], np.ndarray]
"""(sets of N texts, K) -> [N, K] uint32. Two texts agree in a column with the probability of their Jaccard similarity;
texts without shingles have any signature."""
SEED = 20_260_711


def rensa_signature(found: Shingles, count: int) -> np.ndarray:
    """R-MinHash as the library rensa computes it, in Rust."""
    from rensa import RMinHash

    starts = np.ascontiguousarray(found.starts, dtype=np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(found.hashes, starts, count, SEED)
    return np.array(matrix.to_rows(), dtype=np.uint32).reshape(len(starts) - 1, count)


def numpy_signature(found: Shingles, count: int) -> np.ndarray:
    """min over the set of the upper half of (aₖ·h) mod 2⁶⁴, aₖ odd: multiply-shift hashing, Dietzfelbinger et al. 1997.
    It is one pass over the hashes a column."""
    multipliers = np.random.default_rng(SEED).integers(1, 2**63, size=count, dtype=np.uint64) * np.uint64(2)
    multipliers += np.uint64(1)
    full = np.flatnonzero(np.diff(found.starts))
    signature_NK = np.full((len(found.starts) - 1, count), np.uint32(0xFFFFFFFF))
    if len(full) == 0:
        return signature_NK
    starts = found.starts[full]
    turned = np.empty_like(found.hashes)
    for k in range(count):
        np.multiply(found.hashes, multipliers[k], out=turned)
        signature_NK[full, k] = np.minimum.reduceat(turned, starts) >> np.uint64(32)
    return signature_NK


def best_signature() -> Signature:
    """rensa's where it is installed (it has no wheel for every machine), else numpy's. What pairs are found depends on
    it only for the few at the threshold that no band holds: every pair is compared exactly in the end."""
    return rensa_signature if find_spec("rensa") is not None else numpy_signature
