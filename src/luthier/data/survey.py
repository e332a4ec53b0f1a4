"""A source that is larger than memory -> Dataset: what `read_dataset` says of it, with only some of its rows at hand.

Every row is read once, chunk by chunk, over all cores, and what was found is kept in files: what was rejected, which
rows are held out, and hashes of all contents, by which duplicates and rows that an evaluation measures are found. A
sample of the rows is kept as they are, chosen by a hash of their content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np

import luthier
from luthier.base.arrays import arrays_as_bytes, map_arrays
from luthier.base.errors import UserError
from luthier.base.files import hash_of, hash_path, read_json, write_json
from luthier.base.nouns import Chat, Example, Message, Rejected, Text
from luthier.base.source import Source
from luthier.base.store import Store
from luthier.base.stored import Entry, Job, Made, Tell, name_of, stored
from luthier.data.chunks import Chunk, chunk_bytes, chunks, rows_in, text_bytes
from luthier.data.dataset import (
    Conversion,
    Dataset,
    Kinds,
    Opened,
    check_rejected,
    content,
    dumped,
    fraction,
    kind_of_reason,
    open_source,
    prints,
    source_hash,
)
from luthier.data.readers.hub import is_hub
from luthier.data.sources import origin_of

SAMPLE_BYTES = 32 * 2**20
"""About how much text of the training rows is kept as it is: a new tokenizer is trained on it."""
HELDOUT_BYTES = 8 * 2**20
"""About how much text of the held-out rows: what is measured."""
BUCKET_ROWS = 4_000_000
"""Hashes looked at together when duplicates are counted."""
TRAINABLE = ("text", "messages", "sharegpt", "alpaca", "prompt_completion", "qa", "template", "squad", "self_instruct")
"""Formats whose rows a streamed source may have."""


class Piece(NamedTuple):
    """A chunk, and how many of its examples count (None: all)."""

    number: int
    share: float
    chunk: Chunk
    take: int | None


@dataclass(frozen=True)
class Looking:
    """How a chunk is looked at: what makes examples, and the shares of them that are kept at hand."""

    conversion: Conversion
    sample: float
    heldout: float


@dataclass(frozen=True)
class Survey:
    """What is known of a streamed source. Its rows stay where they are."""

    folder: Store
    path: Path
    files: list[Path]
    conversion: Conversion
    key: str
    """Hash of the files' bytes and of all that decides what an example is and where it goes."""
    chunk: int
    """Bytes of a chunk."""
    entries: list[Entry]

    def count(self, what: str) -> int:
        """Of all chunks: rows, examples, train, heldout, rejected."""
        return sum(entry[what] for entry in self.entries)

    def kinds(self) -> Kinds:
        """How often each kind of reason came up, and the first row of each."""
        kinds: Kinds = {}
        for entry in self.entries:
            for kind, (count, *row) in entry["kinds"].items():
                before, first = kinds.get(kind, (0, Rejected(*row)))
                kinds[kind] = (before + count, first)
        return kinds

    def pieces(self, done: Mapping[int, Entry]) -> Iterator[Piece]:
        """The chunks, with the number of examples that count in each."""
        taken = {int(entry["file"].split(".")[0]): entry["examples"] for entry in self.entries}
        for chunk in chunks(self.files, self.path, self.conversion.wanted, self.chunk):
            if chunk.number not in taken:
                return
            yield Piece(chunk.number, chunk.share, chunk, taken[chunk.number])

    def told(self, entry: Entry) -> dict[str, Any]:
        """The rows of a chunk that are kept: rejected, heldout, sample."""
        arrays = map_arrays(self.folder.fetch(entry["file"], entry["bytes"], entry["sha256"]))
        return json.loads(arrays.named["told"].tobytes())

    def sample(self) -> Iterator[Example]:
        """Some of the training rows, in file order."""
        return (example_of(row) for entry in self.entries for row in self.told(entry)["sample"])

    def hashes(self, which: str) -> Iterator[np.ndarray]:
        """uint64, sorted: `content` of every example, or `prints` of every training one, chunk by chunk."""
        for entry in self.entries:
            yield map_arrays(self.folder.fetch(entry["file"], entry["bytes"], entry["sha256"])).named[which]

    def leaked(self, evaluation: Sequence[Example]) -> list[str]:
        """`dataset.leaked` for training rows that are not in memory; by 64-bit hashes of what is recognised."""
        marks = [{mark(print_) for print_ in prints(row, as_training=False)} for row in evaluation]
        wanted = np.array(sorted(set().union(*marks)), dtype=np.uint64)
        found: set[int] = set()
        for known in self.hashes("prints"):
            found.update(wanted[np.isin(wanted, known, assume_unique=True)].tolist())
        return [row.origin for row, own in zip(evaluation, marks, strict=True) if own & found]


class RejectedRows(Sequence[Rejected]):
    """The rejected rows of a streamed source, in file order, read from disk whenever they are asked for."""

    def __init__(self, survey: Survey) -> None:
        self.survey = survey

    def __len__(self) -> int:
        return self.survey.count("rejected")

    def __iter__(self) -> Iterator[Rejected]:
        for entry in self.survey.entries:
            if entry["rejected"]:
                yield from (Rejected(*row) for row in self.survey.told(entry)["rejected"])

    @overload
    def __getitem__(self, index: int) -> Rejected: ...
    @overload
    def __getitem__(self, index: slice) -> list[Rejected]: ...
    def __getitem__(self, index: int | slice) -> Rejected | list[Rejected]:
        if isinstance(index, slice):
            return list(islice(self, *index.indices(len(self))))
        return next(islice(iter(self), range(len(self))[index], None))


def survey(name: str, source: Source, root: Path, store: Store, workers: int, tell: Tell) -> Dataset:
    """The source called `name` under `data`, its rows left on disk; what is found is kept in `store`. Its `train` is
    empty, `heldout` a sample, and `survey` has the counts.

    Raises UserError as `read_dataset` does, and for rows that are neither documents nor conversations.
    """
    opened = open_source(name, source, root)
    check_format(opened.conversion)
    assert not is_hub(source.path), "hub_copy puts its rows into a file first"
    if opened.program:
        raise UserError(f"data.{name}.stream: a function's rows cannot be streamed. Write them to a .jsonl file first.")
    hashes = file_hashes(opened.files, store.local / "files.json")
    size, total = chunk_bytes(opened.files), max(1, text_bytes(opened.files))
    shares = min(1.0, SAMPLE_BYTES / total), min(1.0, HELDOUT_BYTES / (total * source.heldout or 1))
    key = {
        "of": "rows",
        "files": hash_of([[origin_of(f, opened.path), h] for f, h in zip(opened.files, hashes, strict=True)]),
        "settings": source.model_dump(mode="json", exclude={"path", "max_rejected", "stream"}),
        "format": opened.conversion.format,
        "chunk_bytes": size,
        "kept": list(shares),
        "code": code_of("base/arrays.py", "data/*.py", "data/readers/*.py"),
    }
    folder = store.inside(f"{name}-rows-{name_of(key)}")

    def pieces(done: Mapping[int, Entry]) -> Iterator[Piece]:
        left = source.limit
        for chunk in chunks(opened.files, opened.path, opened.conversion.wanted, size):
            if left is not None and left <= 0:
                return
            yield Piece(chunk.number, chunk.share, chunk, left)
            left = None if left is None else left - done[chunk.number]["examples"]

    alone = 1 if source.limit else workers  # what is taken of a chunk depends on those before it
    finish = lambda entries: {"duplicates": duplicates(folder, entries)}  # noqa: E731
    index = stored(folder, Job(key, pieces, look, Looking(opened.conversion, *shares), alone, finish), tell)
    found = Survey(folder, opened.path, opened.files, opened.conversion, hash_of(key), size, index["entries"])
    check_rejected(name, source, found.count("examples"), found.kinds())
    return dataset_of(found, opened, source_hash(opened, hashes), index["duplicates"])


def dataset_of(found: Survey, opened: Opened, digest: str, twice: int) -> Dataset:
    """What the survey found, as every stage knows it."""
    heldout = [example_of(row) for entry in found.entries for row in found.told(entry)["heldout"]]
    held, train = found.count("heldout"), found.count("train")
    said = f"streamed: {train:,} training rows stay on disk"
    if len(heldout) < held:
        said += f"; of {held:,} held-out rows {len(heldout):,} are measured, chosen by their hash"
    return Dataset(
        name=found.conversion.name,
        format=found.conversion.format,
        train=[],
        heldout=heldout,
        rejected=RejectedRows(found),
        files=len(opened.files),
        rows=found.count("rows"),
        hash=digest,
        duplicates=twice,
        notes=(*opened.notes, said),
        survey=found,
    )


def check_format(conversion: Conversion) -> None:
    """Raises UserError for rows that are neither documents nor conversations."""
    if conversion.format not in TRAINABLE:  # a tree's messages may stand far apart: oasst_chats needs them all
        raise UserError(
            f"data.{conversion.name}.stream: its rows are {conversion.format}; only documents and conversations can "
            "be streamed. Remove stream: true."
        )


def look(how: Looking, piece: Piece) -> Made:
    """Looks at every row of a chunk, until enough examples are taken."""
    told: dict[str, list[Any]] = {"rejected": [], "heldout": [], "sample": []}
    counts = {"rows": 0, "examples": 0, "train": 0, "heldout": 0, "rejected": 0}
    contents, marks = [], set()
    for row in how.conversion.rows(rows_in(piece.chunk)):
        if counts["examples"] == piece.take:
            break
        example = how.conversion.example(row)
        counts["rows"] += 1
        if isinstance(example, Rejected):
            counts["rejected"] += 1
            told["rejected"].append([example.origin, example.reason, example.aside])
            continue
        counts["examples"] += 1
        text = content(example)
        contents.append(mark(text))
        out = how.conversion.held_out(example)
        counts["heldout" if out else "train"] += 1
        if not out:
            marks |= {mark(print_) for print_ in prints(example, as_training=True)}
        if fraction(f"kept {text}") < (how.heldout if out else how.sample):
            told["heldout" if out else "sample"].append(parts_of(example))
    kinds: dict[str, list[Any]] = {}
    for origin, reason, aside in told["rejected"]:
        kinds.setdefault(kind_of_reason(reason), [0, origin, reason, aside])[0] += 1
    arrays: dict[str, np.ndarray] = {
        "content": np.array(sorted(contents), dtype=np.uint64),
        "prints": np.array(sorted(marks), dtype=np.uint64),
        "told": np.frombuffer(json.dumps(told, ensure_ascii=False).encode(), dtype=np.uint8),
    }
    return Made(arrays_as_bytes(arrays, {"of": "rows"}), {**counts, "kinds": kinds})


def mark(of: str | tuple[str, ...]) -> int:
    """64 bits of a hash. Among n different rows, n²/2⁶⁵ pairs that look alike are to be expected: 1 in 40 sources of a
    billion rows has one."""
    text = of if isinstance(of, str) else dumped(of)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def parts_of(example: Example) -> dict[str, Any]:
    """A document or a conversation as JSON has it."""
    if isinstance(example, Text):
        return {"text": example.text, "origin": example.origin, "meta": dict(example.meta) if example.meta else None}
    assert isinstance(example, Chat)
    messages = [{"role": message.role, "content": message.content} for message in example.messages]
    meta = None if example.meta is None else dict(example.meta)
    return {"messages": messages, "origin": example.origin, "accept": list(example.accept), "meta": meta}


def example_of(row: Mapping[str, Any]) -> Example:
    """What `parts_of` took apart."""
    if "text" in row:
        return Text(row["text"], row["origin"], row["meta"])
    messages = tuple(Message(**message) for message in row["messages"])
    return Chat(messages, row["origin"], tuple(row["accept"]), row["meta"])


def duplicates(folder: Store, entries: Sequence[Entry]) -> int:
    """Examples whose content another one has, less one of each: counted in ranges of the hashes, which never all lie
    in memory."""
    total = sum(entry["examples"] for entry in entries)
    count = -(-total // BUCKET_ROWS)
    borders = [round(2**64 * k / count) for k in range(count + 1)] if count else []
    different = 0
    for low, high in pairwise(borders):
        parts = [np.empty(0, dtype=np.uint64)]
        for entry in entries:
            known = map_arrays(folder.fetch(entry["file"], entry["bytes"], entry["sha256"])).named["content"]
            begin = np.searchsorted(known, np.uint64(low))
            end = len(known) if high == 2**64 else np.searchsorted(known, np.uint64(high))
            parts.append(known[begin:end].copy())
        different += len(np.unique(np.concatenate(parts)))
    return total - different


def file_hashes(files: Sequence[Path], cache: Path) -> list[str]:
    """`hash_path` of each file; one whose size and time are those of an earlier look is not read again."""
    known: dict[str, Any] = read_json(cache) if cache.exists() else {}
    found = []
    for file in files:
        about, at = file.stat(), str(file.resolve())
        now = [about.st_size, about.st_mtime_ns]
        if known.get(at, [])[:2] != now:
            known[at] = [*now, hash_path(file)]
        found.append(known[at][2])
    write_json(cache, known)
    return found


def code_of(*patterns: str) -> str:
    """Hash of these files of luthier's own code: an edited rule must not meet a stale result."""
    root = Path(luthier.__file__).parent
    files = sorted({file for pattern in patterns for file in root.glob(pattern)})
    return hash_of({str(file.relative_to(root)): hash_path(file) for file in files})
