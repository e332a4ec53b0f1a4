"""Arrays in one file, mapped into memory when they are read: the safetensors format, which other programs read too."""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from luthier.base.errors import UserError
from luthier.base.files import disk_errors

DTYPES = {"U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "U64": np.uint64, "I64": np.int64, "F64": np.float64}

SAID = "luthier"


def arrays_as_bytes(arrays: Mapping[str, np.ndarray], said: Mapping[str, str]) -> bytes:
    """The file's content; `said` is what it says of itself. The same arrays give the same bytes."""
    from safetensors.numpy import save

    return save(dict(arrays), {SAID: json.dumps(said, sort_keys=True)})  # of several keys it would mix the order


@dataclass(frozen=True)
class Arrays:
    """The arrays of a file. They lie on the disk until they are touched, and are read only."""

    named: dict[str, np.ndarray]
    said: dict[str, str]
    memory: mmap.mmap

    def let_go(self) -> None:
        """What was touched counts as memory of this process no longer; it is there again when it is touched again."""
        self.memory.madvise(mmap.MADV_DONTNEED)


def map_arrays(path: Path) -> Arrays:
    """The arrays of a file that `arrays_as_bytes` made. Raises UserError, naming the file, where it is no such file."""
    with disk_errors(path), open(path, "rb") as file:
        try:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            start = 8 + int.from_bytes(memory[:8], "little")
            header = json.loads(memory[8:start])
            said = json.loads(header.pop("__metadata__")[SAID])
            named = {name: one_array(memory, start, **about) for name, about in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}: this is no file of arrays that luthier wrote ({error}). Delete it and run again: it is made "
                "anew, and the others are kept."
            ) from error
    return Arrays(named, said, memory)


def one_array(memory: mmap.mmap, start: int, dtype: str, shape: list[int], data_offsets: list[int]) -> np.ndarray:
    """An array of one dimension, or ValueError where the file does not hold it."""
    count = shape[0]
    if count == 0:
        return np.empty(0, DTYPES[dtype])
    return np.frombuffer(memory, DTYPES[dtype], count, start + data_offsets[0])
