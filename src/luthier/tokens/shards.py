"""Token sequences on disk, read at random: one file of arrays a shard, mapped into memory.

  ids     uint16, or uint32 where the vocabulary needs it: the tokens of all sequences, one after the other
  runs    uint32: lengths of runs of equal weights; of weights 0 and 1 in turn, beginning with 0
  values  float64: the weight of each run, only where there are others than 0 and 1
  rows    uint64 [n+1, 4], flat: where each sequence begins in `ids` and in `runs`, and its origin: file and place.
          Place 17 is "faq.csv:17", -4 (as two's complement) is "faq.json[3]", 0 is "leave.md". The last says where
          the sequences end.

Reading takes the process no more memory the more there is to read: pages are let go again.
"""

from __future__ import annotations

import json
import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import overload

import numpy as np

from luthier.base.arrays import Arrays, arrays_as_bytes, map_arrays
from luthier.base.errors import UserError
from luthier.base.files import disk_errors
from luthier.base.nouns import Tokens
from luthier.base.store import Store
from luthier.base.stored import INDEX, Entry, read_index

OPEN = 256
"""Shards that are mapped at once; each holds an open file."""
TOUCHED_BYTES = 128 * 2**20
"""Memory that reading may take before it is let go."""
A_READ_BYTES = 192 * 2**10
"""What one sequence touches: the system maps the pages around each that is asked for, 64 kB in three places."""
LENGTHS = "lengths.npy"
PLACE = re.compile(r"(.*)(?::([1-9][0-9]{0,17})|\[(0|[1-9][0-9]{0,17})\])", re.S)
ONE = np.float64(1).view(np.int64)


def ids_dtype(vocabulary: int) -> str:
    """The smallest dtype that holds ids below `vocabulary`."""
    return "uint16" if vocabulary <= 2**16 else "uint32"


@dataclass
class Shard:
    """Sequences about to be written."""

    dtype: str
    ids: list[np.ndarray] = field(default_factory=list)
    lengths: list[np.ndarray] = field(default_factory=list)
    values: list[np.ndarray] = field(default_factory=list)
    origins: list[tuple[int, int]] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)

    def add(self, sequences: Iterable[Tokens]) -> None:
        """Sequences at the end."""
        for tokens in sequences:
            weights = np.asarray(tokens.weights, dtype=np.float64)
            bits = weights.view(np.int64)  # by their bits, so that every weight comes back as it was
            cuts = np.concatenate([[0], 1 + np.flatnonzero(bits[1:] != bits[:-1])]) if len(bits) else np.empty(0, int)
            self.ids.append(np.asarray(tokens.ids, dtype=self.dtype))
            self.lengths.append(np.diff(np.append(cuts, len(bits))))
            self.values.append(weights[cuts.astype(int)])
            name, place = taken_apart(tokens.origin)
            self.origins.append((self.files.setdefault(name, len(self.files)), place))

    def content(self) -> bytes:
        """The shard's file."""
        bits = joined(self.values, np.float64).view(np.int64)
        plain = bool(((bits == 0) | (bits == ONE)).all())
        runs = [in_turn(n, v) for n, v in zip(self.lengths, self.values, strict=True)] if plain else self.lengths
        rows = np.zeros((len(self.ids) + 1, 4), dtype=np.int64)
        rows[1:, 0] = np.cumsum([len(one) for one in self.ids])
        rows[1:, 1] = np.cumsum([len(one) for one in runs])
        rows[:-1, 2:] = np.array(self.origins, dtype=np.int64).reshape(-1, 2)
        arrays = {
            "ids": joined(self.ids, self.dtype),
            "runs": joined(runs, np.uint32),
            "rows": rows.view(np.uint64).reshape(-1),
        }
        if not plain:
            arrays["values"] = joined(self.values, np.float64)
        return arrays_as_bytes(arrays, {"of": "tokens", "files": json.dumps(list(self.files))})


def in_turn(lengths: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Runs of weights 0 and 1 as lengths alone: the first is that of zeros, and may be none."""
    return np.concatenate([[0], lengths]) if len(values) and values[0] == 1 else lengths


def joined(parts: Sequence[np.ndarray], dtype: str | type) -> np.ndarray:
    """One array of all parts."""
    return np.concatenate([*parts, np.empty(0)]).astype(dtype) if not parts else np.concatenate(parts).astype(dtype)


def taken_apart(origin: str) -> tuple[str, int]:
    """An origin as a file and a place in it."""
    match = PLACE.fullmatch(origin)
    if match is None:
        return origin, 0
    return match[1], int(match[2]) if match[2] else -int(match[3]) - 1


def put_together(name: str, place: int) -> str:
    """What `taken_apart` took apart."""
    return name if place == 0 else f"{name}:{place}" if place > 0 else f"{name}[{-place - 1}]"


class TokenShards(Sequence[Tokens]):
    """The sequences of a folder of shards, in order. Holds none of them: O(1) memory in their number.

    Raises UserError, naming the file and what to do, where one is cut off, damaged or of something else; each is
    looked at as a whole when it is first read."""

    def __init__(self, folder: Store, entries: Sequence[Entry]) -> None:
        self.folder, self.entries = folder, entries
        self.stops = np.cumsum([entry["sequences"] for entry in entries])
        self.mapped: OrderedDict[int, tuple[Arrays, list[str]]] = OrderedDict()
        self.checked: set[int] = set()
        self.touched: dict[int, Arrays] = {}
        self.reads = 0
        self.bytes = sum(entry["bytes"] for entry in entries)
        self.lengths = lengths_of(self)
        """uint32 [N], mapped: tokens of every sequence."""

    def __len__(self) -> int:
        return int(self.stops[-1]) if len(self.stops) else 0

    @overload
    def __getitem__(self, index: int) -> Tokens: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tokens]: ...
    def __getitem__(self, index: int | slice) -> Tokens | list[Tokens]:
        if isinstance(index, slice):
            return [self._one(i) for i in range(len(self))[index]]
        return self._one(range(len(self))[index])

    def __iter__(self) -> Iterator[Tokens]:
        return (self._one(index) for index in range(len(self)))

    def _one(self, index: int) -> Tokens:
        number = int(np.searchsorted(self.stops, index, side="right"))
        at = index - int(self.stops[number - 1] if number else 0)
        arrays, files = self._shard(number)
        named = arrays.named
        # of this row and the next: where it begins and ends
        begin, first, file, place, end, last = named["rows"][4 * at : 4 * at + 6].tolist()
        ids = named["ids"][begin:end].tolist()
        runs = named["runs"][first:last]
        values = named["values"][first:last] if "values" in named else np.arange(last - first) % 2.0
        weights = np.repeat(values, runs).tolist()
        origin = put_together(files[file], place - 2**64 if place >= 2**63 else place)
        self._let_go_of(number, arrays)
        return Tokens(tuple(ids), tuple(weights), origin)

    def _shard(self, number: int) -> tuple[Arrays, list[str]]:
        """A shard's arrays and the names of its files, mapped now or before."""
        if number in self.mapped:
            self.mapped.move_to_end(number)
            return self.mapped[number]
        entry = self.entries[number]
        path = self.folder.local / entry["file"]
        if not path.exists():  # to be fetched: what is mapped keeps its room on the disk, even when it is deleted
            self.mapped.clear()
            self.touched.clear()
        if number not in self.checked or not path.exists():
            path = self.folder.fetch(entry["file"], entry["bytes"], entry["sha256"])
            self.checked.add(number)
        arrays = map_arrays(path)
        if arrays.said.get("of") != "tokens":
            raise UserError(f"{path}: these are no tokens. Delete the folder and run again: it is made anew.")
        self.mapped[number] = (arrays, json.loads(arrays.said["files"]))
        if len(self.mapped) > OPEN:
            self.mapped.popitem(last=False)
        return self.mapped[number]

    def _let_go_of(self, number: int, arrays: Arrays) -> None:
        """Counts a read; now and then gives back what the last ones touched."""
        self.touched[number] = arrays
        self.reads += 1
        if self.reads * A_READ_BYTES >= TOUCHED_BYTES and self.bytes > TOUCHED_BYTES:
            for read in self.touched.values():
                read.let_go()
            self.touched, self.reads = {}, 0


def lengths_of(shards: TokenShards) -> np.ndarray:
    """The lengths of all sequences, from a file beside the shards that is made when it is not there."""
    path, count = shards.folder.local / LENGTHS, len(shards)
    tokens = sum(entry["tokens"] for entry in shards.entries)
    if not count:
        return np.zeros(0, np.uint32)
    if path.exists():
        with suppress(ValueError, EOFError):  # no array: it is made anew, as one of others is
            known = np.load(path, mmap_mode="r")
            if known.shape == (count,) and int(known.sum(dtype=np.int64)) == tokens:
                return known
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{LENGTHS}.{os.getpid()}.tmp")
        try:
            with open(beside, "wb") as file:
                header = {"descr": np.dtype(np.uint32).str, "fortran_order": False, "shape": (count,)}
                np.lib.format.write_array_header_1_0(file, header)
                for number in range(len(shards.entries)):
                    arrays, _ = shards._shard(number)
                    file.write(np.diff(arrays.named["rows"][::4]).astype(np.uint32).tobytes())
                    arrays.let_go()
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    return np.load(path, mmap_mode="r")


def open_shards(folder: Store, tokenizer: str | None = None) -> TokenShards:
    """The shards of a folder that was finished. Raises UserError where it was not, or where they were made with another
    tokenizer than the one of this hash."""
    if INDEX not in folder.sizes():
        raise UserError(f"{folder.place}: no finished shards here. Run the recipe that makes them.")
    index = read_index(folder)
    if index["key"].get("of") != "tokens":
        raise UserError(f"{folder.place}: these are no tokens. Give the folder of a source's tokens.")
    if tokenizer is not None and index["key"]["tokenizer"] != tokenizer:
        raise UserError(
            f"{folder.place}: made with another tokenizer ({index['key']['tokenizer'][:12]}) than this model's "
            f"({tokenizer[:12]}). Delete the folder, or give another one as `shards`."
        )
    return TokenShards(folder, index["entries"])
