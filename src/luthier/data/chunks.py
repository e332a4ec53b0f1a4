"""The rows of a source in pieces of a size that fits in memory, always cut at the same places: what is made of a piece
can be made by another process, later, or not again."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from luthier.base.nouns import Rejected, Row
from luthier.data.sources import EMPTY, READERS, file_errors, jsonl_rows, kind_of, origin_of, unpacked
from luthier.data.text import BOM, PLAIN, Read, Wanted, lines_of, too_long

SMALLEST_BYTES, LARGEST_BYTES = 256 * 2**10, 64 * 2**20
"""Of a chunk; a source between them is cut into about `COUNT`."""
COUNT = 256
EXPANDS = {".gz": 4, ".parquet": 3, ".zip": 4, ".tgz": 4}
"""Bytes of text in a byte of such a file, about."""


class Lines(NamedTuple):
    """Lines of a .jsonl file that nobody has looked at: whoever gets the chunk does."""

    origin: str
    first: int
    """The first one's number in the file."""
    data: bytes


class Chunk(NamedTuple):
    """Some rows that stand together."""

    number: int
    items: tuple[Lines | Read, ...]
    share: float
    """Of the source's bytes, how many are read when this chunk is."""


def text_bytes(files: Sequence[Path]) -> int:
    """About how many bytes of text the files hold."""
    return sum(file.stat().st_size * EXPANDS.get(file.suffix.lower(), 1) for file in files)


def chunk_bytes(files: Sequence[Path]) -> int:
    """The size of a chunk for these files."""
    return min(LARGEST_BYTES, max(SMALLEST_BYTES, text_bytes(files) // COUNT))


def chunks(files: Sequence[Path], path: Path, wanted: Wanted, size: int) -> Iterator[Chunk]:
    """The rows of all files, in order, about `size` bytes a chunk. Raises UserError as `read_rows` does."""
    total, before = max(1, sum(file.stat().st_size for file in files)), 0
    items: list[Lines | Read] = []
    held = number = 0
    for file in files:
        origin = origin_of(file, path)
        with file_errors(origin), open(file, "rb") as raw, unpacked(raw, file) as handle:
            empty = True
            for item in some_rows(handle, file, origin, wanted, size):
                empty = False
                items.append(item)
                held += bytes_of(item)
                if held >= size:
                    yield Chunk(number, tuple(items), (before + raw.tell()) / total)
                    items, held, number = [], 0, number + 1
            if empty:
                items.append(Rejected(origin, EMPTY))
        before += file.stat().st_size
    if items:
        yield Chunk(number, tuple(items), 1.0)


def some_rows(handle: IO[bytes], file: Path, origin: str, wanted: Wanted, size: int) -> Iterator[Lines | Read]:
    """A file's rows; of .jsonl its lines, `size` bytes together."""
    if READERS[kind_of(file) or ""] is not jsonl_rows:
        yield from READERS[kind_of(file) or ""](handle, origin, wanted)
        return
    held: list[bytes] = []
    first = number = 1
    total = 0

    def some() -> Iterator[Lines]:
        data = b"".join(held)
        if data.removeprefix(BOM if first == 1 else b"").strip():
            yield Lines(origin, first, data)

    for number, line in enumerate(lines_of(handle), 1):
        if line is not None:
            held.append(line)
            total += len(line)
        if line is None or total >= size:
            yield from some()
            held, total, first = [], 0, number + 1
        if line is None:
            yield Rejected(f"{origin}:{number}", too_long())
    yield from some()


def bytes_of(item: Lines | Read) -> int:
    """About how much an item holds."""
    if isinstance(item, Lines):
        return len(item.data)
    return 64 + (sum(len(str(value)) for value in item.fields.values()) if isinstance(item, Row) else 0)


def rows_in(chunk: Chunk) -> Iterator[Read]:
    """The rows of a chunk, in order."""
    for item in chunk.items:
        if isinstance(item, Lines):
            yield from jsonl_rows(io.BytesIO(item.data), item.origin, PLAIN, item.first)
        else:
            yield item
