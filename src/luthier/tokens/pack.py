"""Tokens -> Batch. A batch is a forest: token sequences laid flat, depth first, each shared prefix stored once.

The attention rule is one line: query q sees key k iff `k <= q < end_T[k]`. It gives packing without
cross-contamination, prefix sharing for pairs, rollouts and choices, and the causal mask, at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from luthier.base.nouns import Tokens

MIN_SHARED = 8
"""Shorter shared prefixes are stored per sequence: below this, one more attention call costs more than it saves."""


@dataclass(frozen=True)
class Batch:
    """Token sequences that may share prefixes. `M` predictions stand in the order of the sequences."""

    ids_T: Tensor
    """int64: token ids of all nodes, each shared prefix stored once."""
    pos_T: Tensor
    """int64: position of the token on its own path from the root (what rotary embeddings see)."""
    end_T: Tensor
    """int64: one past the last token of the subtree that the token roots."""
    from_M: Tensor
    """int64: index into T of the hidden state that predicts."""
    target_M: Tensor
    """int64: the token predicted."""
    weight_M: Tensor
    """float32: its weight in the loss; predictions of weight 0 are absent."""
    seq_M: Tensor
    """int64: the sequence it belongs to."""
    last_N: Tensor
    """int64: index into T of each sequence's last token."""
    origins: tuple[str, ...] = ()
    """Where each sequence came from."""

    @property
    def n(self) -> int:
        """Number of sequences."""
        return len(self.last_N)

    @property
    def tokens(self) -> int:
        """Number of stored tokens T."""
        return len(self.ids_T)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)


def shared_lengths(sorted_ids: Sequence[np.ndarray], min_shared: int) -> list[int]:
    """Length of the prefix that each sequence shares with the one before it; 0 where below `min_shared`."""
    lengths = [0]
    for before, after in pairwise(sorted_ids):
        n = min(len(before), len(after))
        different = np.flatnonzero(before[:n] != after[:n])
        shared = int(different[0]) if len(different) else n
        lengths.append(shared if shared >= min_shared else 0)
    return lengths


class Laid(NamedTuple):
    """Token sequences laid out as a forest, and where each one's tokens stand in it, root first."""

    ids_T: np.ndarray
    pos_T: np.ndarray
    end_T: np.ndarray
    paths: list[np.ndarray]


def in_trie_order(ids: Sequence[np.ndarray]) -> list[int]:
    """Indices of token sequences in lexicographic order, in which neighbours share the longest prefixes."""
    keys = [one.astype(">u4").tobytes() for one in ids]  # compared at once; tuples are compared token by token
    return sorted(range(len(ids)), key=keys.__getitem__)


def lay(ids: Sequence[np.ndarray], min_shared: int) -> Laid:
    """Lays sequences out flat, depth first; equal prefixes of at least `min_shared` tokens are stored once. Without any
    sharing the input order is kept. Raises ValueError on an empty sequence."""
    if any(len(one) == 0 for one in ids):
        raise ValueError("a sequence without tokens cannot be packed")
    order = in_trie_order(ids)
    shared = shared_lengths([ids[n] for n in order], min_shared)
    if not any(shared):
        order, shared = list(range(len(ids))), [0] * len(ids)

    total = sum(len(ids[n]) for n in order) - sum(shared)
    ids_T, pos_T, end_T = (np.empty(total, dtype=np.int64) for _ in range(3))
    paths: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(ids)
    path, size = np.empty(0, dtype=np.int64), 0
    for n, common in zip(order, shared, strict=True):
        end_T[path[common:]] = size  # those subtrees are complete
        own = ids[n][common:]
        here = np.arange(size, size + len(own))
        ids_T[here], pos_T[here] = own, np.arange(common, common + len(own))
        path, size = np.concatenate([path[:common], here]), size + len(own)
        paths[n] = path
    end_T[path] = size
    return Laid(ids_T, pos_T, end_T, paths)


def forest(sequences: Sequence[Tokens], min_shared: int = MIN_SHARED) -> Batch:
    """Lays the sequences out as a forest. Equal prefixes of at least `min_shared` tokens are stored once.

    A sequence's own weights decide its predictions, also inside a shared prefix: two sequences that supervise the
    same shared token make two predictions. Raises ValueError on an empty sequence.
    """
    ids = [np.asarray(s.ids, dtype=np.int64) for s in sequences]
    weights = [np.asarray(s.weights, dtype=np.float32) for s in sequences]
    predicted = [1 + np.flatnonzero(w[1:]) for w in weights]
    origins = tuple(s.origin for s in sequences)
    return _batch(
        lay(ids, min_shared), ids, predicted, [w[t] for w, t in zip(weights, predicted, strict=True)], origins
    )


def scored_forest(ids: Sequence[np.ndarray], scored: Sequence[int], min_shared: int = MIN_SHARED) -> Batch:
    """The last `scored` tokens of each sequence as predictions of weight 1. A sequence's last token predicts nothing
    and is not stored: options of one token to a question are one sequence. Raises ValueError on a sequence that is
    shorter than two tokens."""
    predicted = [np.arange(len(one) - n, len(one)) for one, n in zip(ids, scored, strict=True)]
    laid = lay([one[:-1] for one in ids], min_shared)
    return _batch(laid, ids, predicted, [np.ones(n, dtype=np.float32) for n in scored])


def _batch(
    laid: Laid,
    ids: Sequence[np.ndarray],
    predicted: Sequence[np.ndarray],
    weights: Sequence[np.ndarray],
    origins: tuple[str, ...] = (),
) -> Batch:
    """A layout with its predictions: of sequence n, its tokens at the places `predicted[n]`."""
    join = lambda parts, dtype: torch.from_numpy(np.concatenate([*parts, np.empty(0)]).astype(dtype))  # noqa: E731
    return Batch(
        ids_T=torch.from_numpy(laid.ids_T),
        pos_T=torch.from_numpy(laid.pos_T),
        end_T=torch.from_numpy(laid.end_T),
        from_M=join([path[t - 1] for path, t in zip(laid.paths, predicted, strict=True)], np.int64),
        target_M=join([i[t] for i, t in zip(ids, predicted, strict=True)], np.int64),
        weight_M=join(weights, np.float32),
        seq_M=join([np.full(len(t), n) for n, t in enumerate(predicted)], np.int64),
        last_N=torch.tensor([int(path[-1]) for path in laid.paths], dtype=torch.int64),
        origins=origins,
    )


def paths(batch: Batch) -> list[Tensor]:
    """Indices into T of each sequence's tokens, root first: the keys that its last token sees."""
    return [torch.nonzero(batch.end_T[: last + 1] > last).squeeze(1) for last in batch.last_N.tolist()]


@dataclass(frozen=True)
class Node:
    """A maximal run of tokens without a branch: `start:stop` in T, with the nodes above it on its path (indices)."""

    start: int
    stop: int
    above: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of its own tokens."""
        return self.stop - self.start


def nodes(end_T: Tensor) -> list[Node]:
    """The forest's nodes in layout order. A run breaks where the subtree's end changes."""
    end = end_T.cpu().numpy()
    starts = np.concatenate([[0], 1 + np.flatnonzero(end[1:] != end[:-1])])
    stops = np.concatenate([starts[1:], [len(end)]])
    found: list[Node] = []
    path: list[int] = []
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        while path and end[found[path[-1]].start] <= start:
            path.pop()
        found.append(Node(start, stop, tuple(path)))
        path.append(len(found) - 1)
    return found


class Sized(Protocol):
    """Anything that takes up tokens."""

    @property
    def ids(self) -> tuple[int, ...]:
        """They."""
        ...


Row = TypeVar("Row", bound=Sized)


def split_by_tokens(sequences: Sequence[Row], limit: int) -> list[list[Row]]:
    """Cuts a list of sequences, in order, into runs of at most `limit` tokens (a longer one stands alone).
    Prefixes shared between runs are lost, not wrong."""
    runs: list[list[Row]] = []
    size = 0
    for sequence in sequences:
        if not runs or size + len(sequence.ids) > limit:
            runs.append([])
            size = 0
        runs[-1].append(sequence)
        size += len(sequence.ids)
    return runs
