"""Archives -> their files, one after the other, each checked before it is unpacked. Nothing is written under a name
that an archive gives: a file comes as an open one without a name, so no path leads anywhere."""

from __future__ import annotations

import gzip
import io
import re
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import IO, Any, NamedTuple

ALWAYS_BYTES = 1 << 26
RATIO = 200
"""An archive may unpack to so many times its size (text packs to a tenth, logs to a hundredth), and always to
`ALWAYS_BYTES`."""
LARGEST_BYTES = 1 << 32
"""Of one file."""
MOST_MEMBERS = 100_000
SPOOLED_BYTES = 1 << 24
"""A file is held in memory up to here, and on disk beyond."""
BLOCK = 1 << 20
BOMB = "unpacks to more than {:,} times its size: this is no archive of documents. Unpack it yourself if you trust it"
DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, OSError, ValueError,
    NotImplementedError, RuntimeError, OverflowError, KeyError, IndexError,
)  # fmt: skip
"""What the standard library raises on damaged archives."""


class Member(NamedTuple):
    """A file of an archive: its name inside, and either the open file or the reason why it is not read."""

    name: str
    file: IO[bytes] | None
    reason: str = ""


class Bomb(Exception):
    """An archive that unpacks to more than it may."""


class Limited(io.RawIOBase):
    """A stream that raises `Bomb` when more than `left` bytes are read from it."""

    def __init__(self, stream: IO[bytes], left: int) -> None:
        self.stream, self.left = stream, left

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(min(size, BLOCK) if size >= 0 else BLOCK)
        self.left -= len(data)
        if self.left < 0:
            raise Bomb
        return data


def members(handle: IO[bytes], wants: Callable[[str], bool]) -> Iterator[Member]:
    """The files of a ZIP or tar archive (packed with gzip or not) whose names are wanted; a ZIP's by name. Hidden files
    and folders do not count. What cannot be read comes with its reason, the archive itself under an empty name."""
    size = handle.seek(0, io.SEEK_END)
    handle.seek(0)
    may = max(ALWAYS_BYTES, RATIO * size)
    found = zip_members if handle.read(2) == b"PK" else tar_members
    handle.seek(0)
    try:
        yield from found(handle, wants, may)
    except Bomb:
        yield Member("", None, BOMB.format(RATIO))
    except DAMAGED as error:
        said = str(error).split("\n")[0] or type(error).__name__
        yield Member("", None, f"a damaged archive ({said}). Pack or download it again")


def zip_members(handle: IO[bytes], wants: Callable[[str], bool], may: int) -> Iterator[Member]:
    """A ZIP's files by name."""
    seen: set[str] = set()
    with zipfile.ZipFile(handle) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        for entry in sorted(entries, key=lambda entry: entry.filename):
            name = entry.filename.replace("\\", "/")
            if not listed(name, wants):
                continue
            mode = entry.external_attr >> 16
            wrong = refused(name, stat.S_ISLNK(mode), entry.file_size, seen)
            if entry.flag_bits & 1:
                wrong = "protected by a password. Pack it without one"
            if wrong:
                yield Member(shown(name), None, wrong)
                continue
            may -= entry.file_size  # zipfile never unpacks more than the entry says
            if may < 0:
                raise Bomb
            try:
                with archive.open(entry) as packed:
                    file = copied(packed)
            except DAMAGED as error:
                yield Member(name, None, f"cannot be unpacked ({str(error).split(chr(10))[0]}). Pack it again")
                continue
            yield Member(name, file)


def tar_members(handle: IO[bytes], wants: Callable[[str], bool], may: int) -> Iterator[Member]:
    """A tar archive's files in its order."""
    packed = handle.read(2) == b"\x1f\x8b"
    handle.seek(0)
    unpacked: Any = gzip.GzipFile(fileobj=handle) if packed else handle
    stream: Any = Limited(unpacked, may)
    seen: set[str] = set()
    opened: Any = tarfile.open(fileobj=stream, mode="r|")  # noqa: SIM115
    with opened as archive:
        for entry in archive:
            archive.members = []  # else it keeps every header
            name = entry.name.removeprefix("./")
            if entry.isdir() or not listed(name, wants):
                continue
            if wrong := refused(name, not entry.isreg(), entry.size, seen):
                yield Member(shown(name), None, wrong)
                continue
            file = archive.extractfile(entry)
            assert file is not None, "a regular file can be opened"
            yield Member(name, copied(file))


def listed(name: str, wants: Callable[[str], bool]) -> bool:
    """Whether a file of this name would be looked at in a folder."""
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") and part not in (".", "..") for part in parts)
    return not hidden and "__MACOSX" not in parts and wants(name)


def refused(name: str, link: bool, size: int, seen: set[str]) -> str | None:
    """Why a file is not unpacked, or None; remembers its name."""
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:", name) or re.search(r"[\0-\x1f]", name):
        return "its name leads out of the archive. Pack it under a plain one"
    if link:
        return "is a link or a device, and no file. Pack the file itself"
    if size > LARGEST_BYTES:
        return f"larger than {LARGEST_BYTES >> 30} GiB. Unpack it and give the file itself"
    if name in seen:
        return "a second file of this name. Take one of them away"
    seen.add(name)
    if len(seen) > MOST_MEMBERS:
        raise ValueError(f"more than {MOST_MEMBERS:,} files")
    return None


def shown(name: str) -> str:
    """A name that leads elsewhere, as it may stand in an origin."""
    return re.sub(r"[\0-\x1f]", "?", name.encode("utf-8", "backslashreplace").decode())


def copied(packed: IO[bytes]) -> IO[bytes]:
    """A file that can be sought in, with all of another's bytes; it has no name and goes when it is closed."""
    file: Any = tempfile.SpooledTemporaryFile(max_size=SPOOLED_BYTES)  # noqa: SIM115
    while block := packed.read(BLOCK):
        file.write(block)
    file.seek(0)
    return file


def names(handle: IO[bytes]) -> list[str]:
    """The names of a ZIP's files, as far as they can be read."""
    try:
        with zipfile.ZipFile(handle) as archive:
            return [entry.filename for entry in archive.infolist() if not entry.is_dir()]
    except DAMAGED:
        return []
