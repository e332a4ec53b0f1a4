"""Files that are either whole or absent: write beside, fsync, rename. And content hashes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from luthier.base.errors import RunError

_reading = threading.Event()


def only_read() -> None:
    """From here on this process writes no file of a run, whoever asks: another process of the same run does. What is
    made in a `new_folder` goes to a place that nobody sees."""
    _reading.set()


def only_reads() -> bool:
    """Whether `only_read` was called."""
    return _reading.is_set()


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns a full disk or a read-only folder into one clear line."""
    try:
        yield
    except RunError:
        raise
    except Exception as error:
        # Libraries written in Rust wrap the system's error in one of their own: "... (os error 28)".
        if not isinstance(error, OSError) and "(os error " not in str(error):
            raise
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if isinstance(error, shutil.Error):  # of a tree: (from, to, why) of every file that could not be copied
            why = str(error.args[0][0][2]).partition(": '")[0]
        raise RunError(
            f"{path}: {why}. Free some space or choose another `out`, "
            "then run the same command again: finished stages are kept."
        ) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Atomic and durable: after a crash the file holds the old content or the new, never a part."""
    write_parts(path, (content,))


def write_parts(path: Path, parts: Iterable[bytes]) -> None:
    """`write_bytes` of content that is never held as a whole."""
    if only_reads():
        return
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with open(beside, "wb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)  # half a file on a full disk only takes room


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    write_parts(path, ((json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode() for row in rows))


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields a folder beside `path` to fill; renames it to `path` when the block ends well, removes it when not.
    An existing `path` is replaced."""
    if only_reads():
        with tempfile.TemporaryDirectory() as unseen:
            yield Path(unseen)
        return
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
    try:
        with disk_errors(path):
            yield beside
            for file in beside.rglob("*"):
                if file.is_file():
                    with open(file, "rb") as handle:
                        os.fsync(handle.fileno())
            if path.exists():
                shutil.rmtree(path)
            os.replace(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def hash_of(value: Any) -> str:
    """Hex digest of any JSON value; equal values, equal digests."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def hash_path(path: Path) -> str:
    """Hex digest of a file's bytes, or of a folder's file names and bytes."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        digest.update(str(file.relative_to(path)).encode() + b"\0")
        with open(file, "rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()
