"""A folder of files that are either whole or absent, on this machine or at any URL that fsspec knows.

Files at a URL are copied to a local folder when they are read, and checked by their hash there. Reading ranges over
the network instead would save the copy, but a shuffled epoch asks for a sequence of every file within its first steps:
one request for each sequence, where one for each file will do.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.base.errors import RunError, UserError
from luthier.base.files import disk_errors, write_bytes

INSTALL = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs",
    "sftp": "paramiko", "ssh": "paramiko", "http": "aiohttp", "https": "aiohttp",
}  # fmt: skip
"""Packages that fsspec needs for a protocol."""
ROOM_BYTES = 256 * 2**20
"""Left free on the disk that holds copies of remote files."""


@dataclass(frozen=True)
class Store:
    """A folder of files. `files` is fsspec's file system, and None for a folder on this machine."""

    place: str
    """The folder, as people know it: a path or a URL."""
    local: Path
    """The folder itself, or where copies of a remote one's files lie."""
    files: Any = None
    root: str = ""
    """The folder's path in `files`."""

    def inside(self, name: str) -> Store:
        """The folder `name` in this one."""
        return Store(f"{self.place}/{name}", self.local / name, self.files, f"{self.root}/{name}")

    def sizes(self) -> dict[str, int]:
        """Bytes of every whole file here; none where the folder does not exist."""
        if self.files is None:
            if not self.local.is_dir():
                return {}
            with disk_errors(self.local):
                return {e.name: e.stat().st_size for e in os.scandir(self.local) if e.is_file() and e.name[0] != "."}
        with remote_errors(self.place):
            self.files.invalidate_cache()
            if not self.files.exists(self.root):
                return {}
            found = self.files.ls(self.root, detail=True)
            return {e["name"].rsplit("/", 1)[-1]: int(e["size"]) for e in found if e["type"] == "file"}

    def read(self, name: str) -> bytes:
        """A file's bytes. Raises RunError where it cannot be read."""
        if self.files is None:
            with disk_errors(self.local / name):
                return (self.local / name).read_bytes()
        with remote_errors(f"{self.place}/{name}"):
            return self.files.cat_file(f"{self.root}/{name}")

    def write(self, name: str, content: bytes) -> None:
        """Writes a file, whole or not at all. An object store puts objects whole; elsewhere a torn file is known by
        its size and hash, and by that nothing refers to it yet."""
        if self.files is None:
            return write_bytes(self.local / name, content)
        with remote_errors(f"{self.place}/{name}"):
            self.files.makedirs(self.root, exist_ok=True)
            self.files.pipe_file(f"{self.root}/{name}", content)

    def remove(self, names: Iterator[str] | list[str]) -> None:
        """Deletes these files."""
        for name in names:
            if self.files is None:
                (self.local / name).unlink(missing_ok=True)
            else:
                with remote_errors(f"{self.place}/{name}"):
                    self.files.rm_file(f"{self.root}/{name}")

    def fetch(self, name: str, size: int, sha256: str) -> Path:
        """The file on this machine, its bytes those of the hash. Raises UserError where they are not, naming it."""
        path = self.local / name
        if self.files is None:
            check_bytes(path, size, sha256)
            return path
        if path.exists():
            try:
                check_bytes(path, size, sha256)
                return path
            except UserError:
                path.unlink()  # a copy that a kill or a full disk left; the original is fetched again
        self._copy(name, path, size)
        check_bytes(path, size, sha256, f"{self.place}/{name}")
        return path

    def _copy(self, name: str, path: Path, size: int) -> None:
        content = self.read(name)
        beside = path.with_name(f".{name}.{os.getpid()}.tmp")
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            make_room(path.parent, size)
            try:
                beside.write_bytes(content)
                os.replace(beside, path)
            finally:
                beside.unlink(missing_ok=True)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds the folder while the block runs, so that two processes never make the same files at once: the other
        waits. What a kill left half written is removed. A remote folder is not held; two that write it write the same.
        """
        with disk_errors(self.local):
            self.local.mkdir(parents=True, exist_ok=True)
            lock = open(self.local / ".lock", "w")  # noqa: SIM115  # held while the block runs
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for left in self.local.glob(".*.tmp"):
                left.unlink(missing_ok=True)
            yield


def open_store(place: str, out: Path) -> Store:
    """The folder `place`: a path relative to `out`, or a URL, whose files are copied to `out`/.shards when they are
    read. Raises UserError for a URL that fsspec cannot open."""
    if "://" not in place:
        return Store(str(out / place), out / place)
    import fsspec

    protocol = place.split("://", 1)[0]
    try:
        files, root = fsspec.core.url_to_fs(place)
    except ImportError as error:
        package = INSTALL.get(protocol, f"the package for {protocol}://")
        raise UserError(f"shards: {place}: {error}. pip install {package}, or give a folder.") from error
    except ValueError as error:
        raise UserError(f"shards: {place}: {error}. Give a folder, or a URL such as s3://bucket/folder.") from error
    except Exception as error:  # a file system's own program: no credentials, no such host
        raise UserError(f"shards: {place}: {error}. Check the address and what it needs to sign in.") from error
    if protocol in ("file", "local"):
        return Store(place, Path(root))
    kept = hashlib.sha256(place.encode()).hexdigest()[:16]
    return Store(place.rstrip("/"), out / ".shards" / kept, files, root.rstrip("/"))


def check_bytes(path: Path, size: int, sha256: str, place: str | None = None) -> None:
    """Raises UserError unless the file has this size and this hash."""
    fix = "Delete it and run again: it is made anew, and the others are kept."
    if not path.exists():
        raise UserError(f"{place or path}: the file is missing. Run again: it is made anew, and the others are kept.")
    there = path.stat().st_size
    if there != size:
        how = "cut off" if there < size else "too long"
        raise UserError(f"{place or path}: {how}: {there:,} bytes, where {size:,} were written. {fix}")
    with disk_errors(path), open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise UserError(f"{place or path}: damaged: its bytes are not those that were written. {fix}")


def make_room(folder: Path, size: int) -> None:
    """Deletes the oldest copies of shards until there is room for one of this size."""

    def free() -> int:
        room = os.statvfs(folder)
        return room.f_bavail * room.f_frsize

    for old in sorted(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns):
        if free() >= size + ROOM_BYTES:
            return
        old.unlink(missing_ok=True)


@contextmanager
def remote_errors(place: str) -> Iterator[None]:
    """Every library behind fsspec has errors of its own: here they become one line."""
    try:
        yield
    except (RunError, UserError):
        raise
    except Exception as error:
        said = str(error) or type(error).__name__
        raise RunError(
            f"{place}: {said}. Check the address, the network and what it needs to sign in, then run the same "
            "command again: what was written is kept."
        ) from error


def whole(entry: Mapping[str, Any], sizes: Mapping[str, int]) -> bool:
    """Whether the file that {file, bytes} speaks of is there with all its bytes."""
    return sizes.get(entry["file"]) == entry["bytes"]
