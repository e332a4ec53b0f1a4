"""Many pieces of work, each made once and kept as a file: what a kill, a full disk or a lost network interrupts goes on
with the piece where it stopped. The folder's index.json says what the pieces were made from, and what is in them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from luthier.base.errors import UserError
from luthier.base.files import hash_of
from luthier.base.store import Store, whole
from luthier.base.workers import Work, each

INDEX = "index.json"
FORMAT = "luthier pieces 1"

Entry = dict[str, Any]
"""{file, bytes, sha256} of a piece's file, and what its maker said of it."""


class Piece(Protocol):
    """Work for one file."""

    @property
    def number(self) -> int: ...
    @property
    def share(self) -> float: ...


class Made(NamedTuple):
    """What the work on a piece gives."""

    content: bytes
    said: Mapping[str, Any]
    """Facts for the index; `rows` are counted for people."""


class Progress(NamedTuple):
    """How far the work is."""

    rows: int
    """In all pieces done, those of earlier sessions included."""
    share: float
    """0..1, of all work."""
    rows_per_s: float
    """Of this session."""
    seconds_left: float | None


Tell = Callable[[Progress], None]
Pieces = Callable[[Mapping[int, Entry]], Iterable[Any]]
"""(the entries there are, growing as the work goes on) -> the pieces, in order."""


@dataclass(frozen=True)
class Job:
    """What the pieces are, and how they are made."""

    key: Mapping[str, Any]
    """All that the result depends on."""
    pieces: Pieces
    work: Work
    """(shared, piece) -> Made"""
    shared: Any
    workers: int
    finish: Callable[[Sequence[Entry]], Mapping[str, Any]] = lambda entries: {}
    """Facts of the whole, and further files, made of the finished pieces."""


def stored(folder: Store, job: Job, tell: Tell = lambda progress: None) -> dict[str, Any]:
    """The folder's index, its pieces made where they are not there. The same job gives the same bytes, whatever
    interrupted it and however many workers there were. Raises UserError as the work does, or where the folder was made
    from something else; RunError where it cannot be written."""
    index = found(folder, job.key)
    if index is not None:
        return index
    with folder.held():
        index = found(folder, job.key)
        return index if index is not None else make(folder, job, tell)


def found(folder: Store, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """The index, where every file that it speaks of is there with all its bytes. Raises UserError where it is that of
    something else."""
    sizes = folder.sizes()
    if INDEX not in sizes:
        return None
    index = read_index(folder)
    if index["key"] != json.loads(json.dumps(key)):
        other = sorted(k for k in {*key, *index["key"]} if json.loads(json.dumps(key.get(k))) != index["key"].get(k))
        raise UserError(
            f"{folder.place}: these shards were made from something else (another {', '.join(other)}). Delete the "
            "folder, or give another one as `shards`."
        )
    return index if all(whole(entry, sizes) for entry in index["entries"]) else None


def read_index(folder: Store) -> dict[str, Any]:
    """index.json. Raises UserError where it is none of ours."""
    try:
        index = json.loads(folder.read(INDEX))
        if index["format"] == FORMAT:
            return index
        said = f"format {index['format']}"
    except (ValueError, KeyError, TypeError) as error:
        said = f"{type(error).__name__}: {error}"
    raise UserError(f"{folder.place}/{INDEX}: this is no index that luthier wrote ({said}). Delete the folder.")


def make(folder: Store, job: Job, tell: Tell) -> dict[str, Any]:
    """Makes the pieces that are not there, then the index."""
    done = entries_of(folder)
    earlier, began = sum(entry.get("rows", 0) for entry in done.values()), time.monotonic()
    first_share = None
    for piece, made in each(job.work, job.shared, missing(job.pieces(done), done), job.workers):
        name = f"{piece.number:05d}.safetensors"
        folder.write(name, made.content)
        digest = hashlib.sha256(made.content).hexdigest()
        entry = {"file": name, "bytes": len(made.content), "sha256": digest, **made.said}
        folder.write(f"{piece.number:05d}.json", json.dumps(entry).encode())
        done[piece.number] = entry
        first_share = piece.share if first_share is None else first_share
        rows, seconds = sum(e.get("rows", 0) for e in done.values()), time.monotonic() - began
        gone = piece.share - first_share
        left = seconds * (1 - piece.share) / gone if gone > 0 else None
        tell(Progress(rows, piece.share, (rows - earlier) / max(seconds, 1e-9), left))
    entries = [done[number] for number in sorted(done)]
    index = {"format": FORMAT, "key": dict(job.key), "entries": entries, **job.finish(entries)}
    folder.write(INDEX, (json.dumps(index, indent=1, ensure_ascii=False) + "\n").encode())
    folder.remove([name for name in folder.sizes() if name.endswith(".json") and name != INDEX])
    return json.loads(json.dumps(index))


def missing(pieces: Iterable[Any], done: Mapping[int, Entry]) -> Iterator[Any]:
    """The pieces without an entry."""
    return (piece for piece in pieces if piece.number not in done)


def entries_of(folder: Store) -> dict[int, Entry]:
    """The entries whose files are there: of an index one of whose files is lost, and of work that was interrupted."""
    sizes = folder.sizes()
    entries = read_index(folder)["entries"] if INDEX in sizes else []
    for name in sorted(sizes):
        if name.endswith(".json") and name != INDEX:
            try:
                entries.append(json.loads(folder.read(name)))
            except ValueError:
                continue  # torn, where files are not written whole: its piece is made again
    return {int(entry["file"].split(".")[0]): entry for entry in entries if whole(entry, sizes)}


def name_of(key: Mapping[str, Any]) -> str:
    """A short name for a folder of what this key leads to."""
    return hash_of(key)[:12]
