"""Files at a URL -> a copy on this machine, fetched again when they have changed there."""

from __future__ import annotations

import hashlib
import mimetypes
import os
from pathlib import Path, PurePosixPath
from typing import Any

from luthier.base.errors import UserError
from luthier.base.files import hash_of, read_json, write_json
from luthier.base.store import INSTALL

CHANGED = ("ETag", "etag", "mtime", "LastModified", "last_modified", "Last-Modified", "updated", "md5", "Content-MD5",
           "crc32c", "sha256", "created")  # fmt: skip
"""What file systems say of a file that differs when its content does."""
BLOCK = 1 << 20


def is_url(path: str) -> bool:
    """Whether a source's path is a place elsewhere."""
    return "://" in path


def cache_folder() -> Path:
    """Where copies lie."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "luthier" / "fetched"


def fetched(where: str, url: str, cache: Path | None = None) -> Path:
    """The local copy of the file or folder at `url`, under its own name. A file is fetched again when its ETag, time or
    size has changed there, and every time where nothing but the size is said. Raises UserError, beginning with `where`,
    when the protocol's package is missing, nothing is there, or it cannot be reached."""
    import fsspec

    protocol = url.split("://")[0].split("::")[-1].lower()
    try:
        files, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = INSTALL.get(protocol, protocol)
        raise UserError(f"{where}: {protocol}:// needs {package}: pip install {package}. ({error})") from error
    except ValueError as error:
        raise UserError(f"{where}: {url}: {error}. Use https://, s3://, gs:// or another that fsspec knows.") from error
    if protocol in ("file", "local"):
        return Path(root)
    folder = (cache or cache_folder()) / hash_of(url)[:16]
    try:
        return copy_of(files, root, url, folder)
    except FileNotFoundError as error:
        raise UserError(f"{where}: {url} does not exist. Check the address.") from error
    except ImportError as error:
        package = INSTALL.get(protocol, protocol)
        raise UserError(f"{where}: {protocol}:// needs {package}: pip install {package}. ({error})") from error
    except Exception as error:  # each file system raises what its own library does
        said = str(error).split("\n")[0][:200] or type(error).__name__
        raise UserError(
            f"{where}: {url} cannot be read: {said}. Check the address, the network and your keys."
        ) from error


def copy_of(files: Any, root: str, url: str, folder: Path) -> Path:
    """Brings the copy up to date."""
    about = folder / "fetched.json"
    known: dict[str, Any] = read_json(about) if about.is_file() else {}
    info = files.info(root)
    whole_folder = info["type"] == "directory"
    top = folder / named(url, info)
    wanted = {name: i for name, i in files.find(root, detail=True).items()} if whole_folder else {root: info}
    now: dict[str, Any] = {}
    for name, i in sorted(wanted.items()):
        inside = PurePosixPath(name).relative_to(PurePosixPath(root)) if whole_folder else PurePosixPath()
        if ".." in inside.parts:
            continue
        target = top / inside
        mark = {key: str(i[key]) for key in ("size", *CHANGED) if i.get(key) is not None}
        now[name] = mark
        if target.is_file() and known.get(name) == mark and set(mark) != {"size"} and mark:
            continue
        download(files, name, target)
    for old in set(known) - set(now) if whole_folder else ():
        (top / PurePosixPath(old).relative_to(PurePosixPath(root))).unlink(missing_ok=True)
    write_json(about, now)
    return top


def named(url: str, info: dict[str, Any]) -> str:
    """The copy's name: the last part of the address, with the ending of its kind where it has none."""
    last = PurePosixPath(url.split("://")[-1].split("?")[0].split("#")[0].rstrip("/")).name or "index"
    kind = str(info.get("mimetype") or "").split(";")[0]
    if info["type"] == "directory" or not kind or mimetypes.guess_type(last)[0] or "." in last[1:]:
        return last
    return last + {"text/plain": ".txt", "text/html": ".html"}.get(kind, mimetypes.guess_extension(kind) or "")


def download(files: Any, name: str, target: Path) -> None:
    """A file, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{hashlib.sha256(target.name.encode()).hexdigest()[:12]}.{os.getpid()}.tmp")
    try:
        with files.open(name, "rb") as there, open(beside, "wb") as here:
            while block := there.read(BLOCK):
                here.write(block)
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)
