"""Checkpoints that every rank writes its shards of (torch's distributed checkpoint), and that any number reads.

    step-120/shards/      the tensors that lie in shards, by the name of their place in the tree
             states.pt    the tree of weights and states, with a note where such a tensor belongs
             state.json   the step, as in every checkpoint

A tensor's note says its shape, dtype and placement, so that it can be read by as many ranks as there are now, each its
own part; one process reads it whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor, zeros

from luthier.base.errors import RunError

NOTE = "in shards"
"""The key by which a note is known in the tree."""


def taken_apart(tree: Any, place: str = "") -> tuple[Any, dict[str, Tensor]]:
    """A tree of dicts and lists with notes instead of tensors that lie in shards, and those tensors by place."""
    if isinstance(tree, DTensor):
        if any(isinstance(p, Partial) for p in tree.placements):
            tree = tree.redistribute(placements=[Replicate()] * len(tree.placements))
        return {NOTE: place, "shape": list(tree.shape), "dtype": name_of(tree.dtype), "placed": placed(tree)}, {
            place: tree
        }
    if isinstance(tree, Mapping):
        items = {key: taken_apart(value, f"{place}/{key}") for key, value in tree.items()}
        return {key: rest for key, (rest, _) in items.items()}, {k: v for _, p in items.values() for k, v in p.items()}
    if isinstance(tree, list | tuple):
        parts = [taken_apart(value, f"{place}/{i}") for i, value in enumerate(tree)]
        return type(tree)(rest for rest, _ in parts), {k: v for _, p in parts for k, v in p.items()}
    return tree, {}


def put_together(tree: Any, make: Callable[[dict[str, Any]], Tensor], found: dict[str, Tensor]) -> Any:
    """The tree with `make(note)` where a note stands; these, still empty, are also put into `found` by place."""
    if isinstance(tree, dict) and NOTE in tree:
        return found.setdefault(tree[NOTE], make(tree))
    if isinstance(tree, dict):
        return {key: put_together(value, make, found) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(put_together(value, make, found) for value in tree)
    return tree


def name_of(dtype: torch.dtype) -> str:
    """float32."""
    return str(dtype).removeprefix("torch.")


def placed(tensor: DTensor) -> list[int | None]:
    """For each dimension of the mesh the dimension of the tensor that is cut along it; None: it is not."""
    return [p.dim if isinstance(p, Shard) else None for p in tensor.placements]


def empty(note: dict[str, Any], mesh: DeviceMesh | None) -> Tensor:
    """A tensor as the note says: in shards on the mesh, or whole where there is none."""
    dtype: torch.dtype = getattr(torch, note["dtype"])
    if mesh is None:
        return torch.zeros(note["shape"], dtype=dtype)
    placements: list[Placement] = [Replicate() if dim is None else Shard(dim) for dim in note["placed"]]
    return zeros(*note["shape"], dtype=dtype, device_mesh=mesh, placements=placements)


def mesh_of(tensors: Mapping[str, Tensor]) -> DeviceMesh | None:
    """The ranks that the tensors lie on; None where all are whole."""
    return next((t.device_mesh for t in tensors.values() if isinstance(t, DTensor)), None)


def like(whole: Tensor, parameter: Tensor) -> Tensor:
    """A tensor of a parameter's state, whole on every rank, as that parameter lies; what has another shape (a step
    number, a row's mean) stays whole."""
    if not isinstance(parameter, DTensor) or isinstance(whole, DTensor) or whole.shape != parameter.shape:
        return whole
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)


def write_shards(pieces: dict[str, Tensor], folder: Path) -> None:
    """Every rank writes its own parts. Raises RunError on all of them where one could not."""
    try:
        dcp.save(pieces, storage_writer=dcp.FileSystemWriter(folder))
    except (CheckpointException, OSError, RuntimeError) as error:
        raise RunError(
            f"{folder.parent}: could not be written ({why(error)}). Free some space or choose another `out`, then run "
            "the same command again: finished stages are kept."
        ) from error


def read_shards(pieces: dict[str, Tensor], folder: Path, alone: bool) -> None:
    """Fills the tensors in place. Raises RunError on all ranks where one could not be read."""
    try:
        dcp.load(pieces, storage_reader=dcp.FileSystemReader(folder), no_dist=alone)
    except (CheckpointException, OSError, RuntimeError) as error:
        raise RunError(
            f"{folder.parent}: this checkpoint cannot be read ({why(error)}). Remove it: the run goes on from the one "
            "before, or from the start of the stage."
        ) from error


def why(error: BaseException) -> str:
    """The first line of the first failure among the ranks."""
    if isinstance(error, CheckpointException):
        for rank, (found, _) in error.failures.items():
            return f"rank {rank}: {why(found)}"
    return (str(error).splitlines() or [type(error).__name__])[0]
