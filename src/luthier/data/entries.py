"""The files of a source that is read as a whole: those of a folder and those inside its ZIP archives, all alike."""

from __future__ import annotations

import gzip
import io
import stat
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from luthier.base.nouns import Rejected
from luthier.data.readers.archives import ALWAYS_BYTES, BOMB, DAMAGED, RATIO, listed, refused, shown
from luthier.data.sources import origin_of

LARGEST_BYTES = 512 * 2**20
"""Of a file that is read as a whole."""


class Entry(NamedTuple):
    """A file, wherever it lies."""

    origin: str
    """Relative to the parent of the source's path: "export.zip/general/2019-01-02.json"."""
    size_bytes: int
    opened: Callable[[], IO[bytes]]
    """Unpacked, if its own name ends in .gz."""

    @property
    def name(self) -> str:
        return self.origin.rpartition("/")[2]

    @property
    def folder(self) -> str:
        return self.origin.rpartition("/")[0]

    def head(self) -> bytes:
        """Its first 64 KiB; nothing where it cannot be read, which whoever reads it in earnest says."""
        try:
            with self.opened() as file:
                return file.read(1 << 16)
        except DAMAGED:
            return b""

    def read(self) -> bytes:
        """All its bytes. Raises ValueError with a reason for people."""
        try:
            with self.opened() as file:
                data = file.read(LARGEST_BYTES + 1)
        except DAMAGED as error:
            raise ValueError(f"cannot be read ({str(error).splitlines()[0] if str(error) else 'damaged'})") from error
        if len(data) > LARGEST_BYTES:
            raise ValueError(f"larger than {LARGEST_BYTES // 2**20} MB. Part it")
        return data


def entries_of(files: Sequence[Path], path: Path) -> tuple[list[Entry], list[Rejected]]:
    """The files of a source, archives opened, in order; and what of the archives cannot be read."""
    found: list[Entry] = []
    broken: list[Rejected] = []
    for file in files:
        origin = origin_of(file, path)
        if file.suffix.lower() == ".zip":
            inside(file, origin, found, broken)
        else:
            found.append(Entry(origin, file.stat().st_size, opener(file)))
    return found, broken


def opener(file: Path) -> Callable[[], IO[bytes]]:
    return lambda: unpacked(open(file, "rb"), file.name)


def unpacked(raw: IO[bytes], name: str) -> IO[bytes]:
    """The bytes of an open file, unpacked if its name ends in .gz."""
    return io.BufferedReader(gzip.GzipFile(fileobj=raw)) if name.lower().endswith(".gz") else raw


def inside(file: Path, origin: str, found: list[Entry], broken: list[Rejected]) -> None:
    """Adds the files of a ZIP, by name. Nothing is written anywhere; names that lead out of it, links and files under a
    password are refused, as they are everywhere."""
    try:
        archive = zipfile.ZipFile(file)  # its entries are opened later, from here
        members = sorted((m for m in archive.infolist() if not m.is_dir()), key=lambda member: member.filename)
    except DAMAGED as error:
        broken.append(Rejected(origin, f"a damaged archive ({error}). Pack or download it again"))
        return
    if sum(member.file_size for member in members) > max(ALWAYS_BYTES, RATIO * file.stat().st_size):
        broken.append(Rejected(origin, BOMB.format(RATIO)))
        return
    seen: set[str] = set()
    for member in members:
        name = member.filename.replace("\\", "/")
        if not listed(name, lambda name: True):
            continue
        wrong = refused(name, stat.S_ISLNK(member.external_attr >> 16), member.file_size, seen)
        if member.flag_bits & 1:
            wrong = "protected by a password. Pack it without one"
        if wrong:
            broken.append(Rejected(f"{origin}/{shown(name)}", wrong))
        else:
            found.append(Entry(f"{origin}/{shown(name)}", member.file_size, member_opener(archive, member, name)))


def member_opener(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> Callable[[], IO[bytes]]:
    return lambda: unpacked(archive.open(member), name)
