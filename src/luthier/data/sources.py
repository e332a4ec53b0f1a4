"""Files -> Row. What cannot be read becomes Rejected with its place and a reason; a file that is no such file at
all (broken .json, .parquet or .gz) is a UserError, because nobody can say how many rows it held.

An origin is relative to the parent of the source's path and says the line an editor shows: "faq.csv:17",
"handbook/leave.md"; elements of .json and .parquet count from 0: "faq.json[3]".
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from luthier.base.errors import UserError, did_you_mean
from luthier.base.nouns import Rejected, Row
from luthier.data.documents import markdown_rows, txt_rows
from luthier.data.readers.archives import listed, members, names
from luthier.data.readers.docx import docx_rows
from luthier.data.readers.html import html_rows
from luthier.data.readers.pdf import pdf_rows
from luthier.data.readers.remote import fetched, is_url
from luthier.data.readers.sheets import xlsx_rows
from luthier.data.tables import csv_rows, tsv_rows
from luthier.data.text import (
    BOM,
    PLAIN,
    Read,
    Wanted,
    as_text,
    json_reason,
    kind_name,
    lines_of,
    parse_json,
    plain,
    row_of,
    too_long,
    whole,
)

Reader = Callable[[IO[bytes], str, Wanted], Iterator[Read]]
"""(open file, origin of the file, what the recipe says of reading) -> rows in file order."""
EMPTY = "the file is empty. Fill it or take it away"
PARQUET_ROWS = 1024
"""Rows of a Parquet file held at once."""


def find_path(name: str, path: str, root: Path) -> Path:
    """The file or folder a source names, relative to `root`; of a URL the copy here. Raises UserError with the nearest
    existing name."""
    if is_url(path):
        return fetched(f"data.{name}.path", path)
    try:
        full = root / Path(path).expanduser()
        if full.exists():
            return full
        parent = full.parent
        while not parent.is_dir():
            full, parent = parent, parent.parent
        near = did_you_mean(full.name, sorted(p.name for p in parent.iterdir()))
    except (OSError, RuntimeError, ValueError) as error:  # no permission, a name too long, "~nobody"
        raise UserError(f"data.{name}.path: {path}: {error}. Give another path.") from error
    where = f'"{full.name}" is not in {parent}'
    raise UserError(f"data.{name}.path: {path} does not exist: {where}.{near or ' Check the path.'}")


def list_files(name: str, path: Path) -> tuple[list[Path], list[str]]:
    """The files to read, sorted by their path below `path`, and a note on those that were left out (hidden files
    and folders are not looked at).

    Raises UserError on a file of unknown kind and on a folder that holds no file of a known one.
    """
    use = f"Use {' '.join(READERS)} (also .gz)"
    if path.is_file():
        if kind_of(path) is None:
            raise UserError(f"data.{name}.path: {path.name}: cannot read this kind of file. {use}.")
        return [path], left_inside([path])
    inside = {p: p.relative_to(path).parts for p in path.rglob("*") if not p.is_dir()}
    found = sorted((p for p in inside if not any(part.startswith(".") for part in inside[p])), key=inside.__getitem__)
    files = [p for p in found if p.is_file() and kind_of(p)]
    left = Counter(p.suffix.lower() or p.name for p in found if not (p.is_file() and kind_of(p)))
    kinds = ", ".join(f"{count} {kind}" for kind, count in left.most_common(8))
    if not files:
        holds = f"it holds {kinds}" if left else "it is empty"
        raise UserError(f"data.{name}.path: {path}: no file here can be read ({holds}). {use}.")
    notes = [f"{sum(left.values())} files were left out: {kinds}"] if left else []
    return files, notes + left_inside(files)


def left_inside(files: Iterable[Path]) -> list[str]:
    """A note on each ZIP that holds files of a kind that cannot be read."""
    notes = []
    for file in files:
        if kind_of(file) == ".zip" and file.stat().st_size:
            with file_errors(file.name), open(file, "rb") as handle:
                found = [name for name in names(handle) if listed(name, lambda name: kind_of(Path(name)) is None)]
            left = Counter(Path(name).suffix.lower() or Path(name).name for name in found)
            kinds = ", ".join(f"{count} {kind}" for kind, count in left.most_common(8))
            notes += [f"{len(found)} files of {file.name} were left out: {kinds}"] if found else []
    return notes


def kind_of(path: Path) -> str | None:
    """The key of `READERS` for a file name, or None."""
    name = path.name.lower().removesuffix(".gz")
    kind = "." + name.rpartition(".")[2]
    return kind if kind in READERS and "." in name else None


def origin_of(file: Path, path: Path) -> str:
    """A file's origin, relative to the parent of the source's path; always valid UTF-8."""
    return file.relative_to(path.parent).as_posix().encode("utf-8", "backslashreplace").decode()


def read_rows(files: Iterable[Path], path: Path, wanted: Wanted | None = None) -> Iterator[Read]:
    """Every row of every file, in order. Raises UserError on a file that cannot be opened or unpacked."""
    for file in files:
        origin, empty = origin_of(file, path), True
        with file_errors(origin), open(file, "rb") as raw, unpacked(raw, file) as handle:
            for row in READERS[kind_of(file) or ""](handle, origin, wanted or PLAIN):
                empty = False
                yield row
        if empty:
            yield Rejected(origin, EMPTY)


@contextmanager
def file_errors(origin: str) -> Iterator[None]:
    """A file that cannot be opened or unpacked is a UserError."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{origin}: cannot unpack: {error}. Copy or download it again.") from error
    except OSError as error:
        raise UserError(f"{origin}: {error.strerror or error}. Check that it can be read.") from error


def unpacked(raw: IO[bytes], file: Path) -> IO[bytes]:
    """The bytes of an open file, unpacked if its name ends in .gz (a .tar.gz unpacks itself)."""
    packed = file.name.lower().endswith(".gz") and kind_of(file) != ".tar"
    return io.BufferedReader(gzip.GzipFile(fileobj=raw, mode="rb")) if packed else raw


def jsonl_rows(handle: IO[bytes], origin: str, wanted: Wanted, line_number: int = 1) -> Iterator[Read]:
    """One JSON object a line; blank lines do not count. The first line has this number."""
    first = line_number == 1
    for number, line in enumerate(lines_of(handle), line_number):
        if line is None:
            yield Rejected(f"{origin}:{number}", too_long())
            continue
        if number == 1:
            line = line.removeprefix(BOM)
        if not line.strip():
            continue
        try:
            yield row_of(parse_json(as_text(line)), f"{origin}:{number}")
        except ValueError as error:
            whole = first and line.strip() in (b"{", b"[")
            hint = ". It looks like one JSON document: name the file .json" if whole else ""
            yield Rejected(f"{origin}:{number}", json_reason(error) + hint)
        first = False


def json_rows(handle: IO[bytes], origin: str, wanted: Wanted) -> Iterator[Read]:
    """A list of objects, or an object that holds one list of them ({"data": [...]}), or one conversation, or
    (many call it .json) one object a line."""
    try:
        data = whole(handle)
    except ValueError as error:
        raise UserError(f"{origin}: {error}, or write one object a line (.jsonl).") from None
    if not data.strip():
        return
    try:
        value = parse_json(as_text(data))
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and error.doc[: error.pos].lstrip().startswith("{"):
            yield from jsonl_rows(io.BytesIO(data), origin, wanted)
            return
        raise UserError(
            f"{origin}:{error.lineno}: {json_reason(error)}. Mend it, or write one object a line."
        ) from error
    except ValueError as error:
        raise UserError(f"{origin}: {error}.") from error
    if isinstance(value, dict):
        lists = [key for key, inner in value.items() if isinstance(inner, list)]
        if lists in (["messages"], ["conversations"]):
            yield row_of(value, origin)
            return
        if len(lists) != 1:
            raise UserError(
                f"{origin}: an object with {len(lists)} lists. Give a list of objects, or an object with one."
            )
        value = value[lists[0]]
    if not isinstance(value, list):
        raise UserError(f"{origin}: {kind_name(value)}. Give a list of objects.")
    for index, record in enumerate(value):
        try:
            yield row_of(record, f"{origin}[{index}]")
        except ValueError as error:
            yield Rejected(f"{origin}[{index}]", str(error))


def parquet_rows(handle: IO[bytes], origin: str, wanted: Wanted) -> Iterator[Read]:
    """Rows of a Parquet file. Values JSON does not know (dates, decimals) become strings."""
    import pyarrow
    from pyarrow import parquet

    if not handle.read(1):
        return
    handle.seek(0)
    packed = isinstance(handle, io.BufferedReader) and isinstance(handle.raw, gzip.GzipFile)
    index = 0
    try:
        file = parquet.ParquetFile(io.BytesIO(handle.read()) if packed else handle)  # .gz: seeking would unpack anew
        for batch in file.iter_batches(batch_size=PARQUET_ROWS):
            # Python's datetime has no nanoseconds, and pyarrow would refuse the file for one.
            columns = [c.cast(pyarrow.string()) if pyarrow.types.is_timestamp(c.type) else c for c in batch.columns]
            for record in pyarrow.RecordBatch.from_arrays(columns, batch.schema.names).to_pylist():
                yield Row(plain(record, as_text_of), f"{origin}[{index}]")
                index += 1
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{origin}: not a readable Parquet file: {said}. Write it again.") from error


def as_text_of(value: bytes) -> str:
    """A column of bytes as text, whatever they are."""
    return value.decode("utf-8", "backslashreplace")


def archive_rows(handle: IO[bytes], origin: str, wanted: Wanted) -> Iterator[Read]:
    """The rows of every file in an archive, and in an archive in it, as of a folder: "docs.zip/guide/leave.md". A file
    that is broken as a whole is one rejected row here: taking it away would mean to pack the archive anew."""
    if not handle.read(1):
        return
    found = False
    for member in members(handle, lambda name: kind_of(Path(name)) is not None):
        found = True
        at = f"{origin}/{member.name}".rstrip("/")
        if member.file is None:
            yield Rejected(at, member.reason)
            continue
        with member.file as file:
            yield from member_rows(file, member.name, at, wanted)
    if not found:
        yield Rejected(origin, f"holds no file that can be read. Use {' '.join(READERS)}")


def member_rows(file: IO[bytes], name: str, at: str, wanted: Wanted) -> Iterator[Read]:
    """The rows of one file of an archive."""
    read = READERS[kind_of(Path(name)) or ""]
    if read is archive_rows and wanted.inside:
        yield Rejected(at, "an archive in an archive in an archive. Unpack the outer ones")
        return
    empty = True
    try:
        with file_errors(at):
            for row in read(unpacked(file, Path(name)), at, wanted._replace(inside=True)):
                empty = False
                yield row
    except UserError as error:
        if not str(error).startswith(at):  # of the machine, such as a missing package
            raise
        yield Rejected(at, str(error).removeprefix(at).lstrip(": ").rstrip("."))
        return
    if empty:
        yield Rejected(at, EMPTY)


def mail_rows(handle: IO[bytes], origin: str, wanted: Wanted) -> Iterator[Read]:
    """A file of mail among files of other kinds: its threads."""
    from luthier.data.talk.mail import alone  # mail is read as a whole, by what reads files one by one

    return alone(handle, origin)


READERS: dict[str, Reader] = {
    ".jsonl": jsonl_rows,
    ".json": json_rows,
    ".csv": csv_rows,
    ".tsv": tsv_rows,
    ".parquet": parquet_rows,
    ".txt": txt_rows,
    ".md": markdown_rows,
    ".markdown": markdown_rows,
    ".html": html_rows,
    ".htm": html_rows,
    ".xhtml": html_rows,
    ".pdf": pdf_rows,
    ".docx": docx_rows,
    ".xlsx": xlsx_rows,
    ".zip": archive_rows,
    ".tar": archive_rows,
    ".tgz": archive_rows,
    ".mbox": mail_rows,
    ".eml": mail_rows,
}
