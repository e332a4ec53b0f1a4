"""Files -> Row. What cannot be read becomes Rejected with its place and a reason; a file that is no such file at
all (broken .json, .parquet or .gz) is a UserError, because nobody can say how many rows it held.

An origin is relative to the parent of the source's path and says the line an editor shows: "faq.csv:17",
"handbook/leave.md"; elements of .json and .parquet count from 0: "faq.json[3]".
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from luthier.base.errors import UserError, did_you_mean
from luthier.base.nouns import Rejected, Row

Read = Row | Rejected
Reader = Callable[[IO[bytes], str, str | None], Iterator[Read]]
"""(open file, origin of the file, separator between .txt documents) -> rows in file order."""

BOM = b"\xef\xbb\xbf"
UTF16 = (b"\xff\xfe", b"\xfe\xff")
NOT_UTF8 = "not UTF-8 text. Save the file as UTF-8"
SURROGATE = re.compile("[\ud800-\udfff]")


def find_path(name: str, path: str, root: Path) -> Path:
    """The file or folder a source names, relative to `root`. Raises UserError with the nearest existing name."""
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
        return [path], []
    inside = {p: p.relative_to(path).parts for p in path.rglob("*") if not p.is_dir()}
    found = sorted((p for p in inside if not any(part.startswith(".") for part in inside[p])), key=inside.__getitem__)
    files = [p for p in found if p.is_file() and kind_of(p)]
    left = Counter(p.suffix.lower() or p.name for p in found if not (p.is_file() and kind_of(p)))
    kinds = ", ".join(f"{count} {kind}" for kind, count in left.most_common(8))
    if not files:
        holds = f"it holds {kinds}" if left else "it is empty"
        raise UserError(f"data.{name}.path: {path}: no file here can be read ({holds}). {use}.")
    return files, [f"{sum(left.values())} files were left out: {kinds}"] if left else []


def kind_of(path: Path) -> str | None:
    """The key of `READERS` for a file name, or None."""
    name = path.name.lower().removesuffix(".gz")
    kind = "." + name.rpartition(".")[2]
    return kind if kind in READERS and "." in name else None


def origin_of(file: Path, path: Path) -> str:
    """A file's origin, relative to the parent of the source's path; always valid UTF-8."""
    return file.relative_to(path.parent).as_posix().encode("utf-8", "backslashreplace").decode()


def read_rows(files: Iterable[Path], path: Path, separator: str | None) -> Iterator[Read]:
    """Every row of every file, in order. Raises UserError on a file that cannot be opened or unpacked."""
    for file in files:
        origin, empty = origin_of(file, path), True
        try:
            with open_bytes(file) as handle:
                for row in READERS[kind_of(file) or ""](handle, origin, separator):
                    empty = False
                    yield row
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(f"{origin}: cannot unpack: {error}. Copy or download it again.") from error
        except OSError as error:
            raise UserError(f"{origin}: {error.strerror or error}. Check that it can be read.") from error
        if empty:
            yield Rejected(origin, "the file is empty. Fill it or take it away")


def open_bytes(file: Path) -> IO[bytes]:
    """The file's bytes, unpacked."""
    return io.BufferedReader(gzip.open(file, "rb")) if file.name.lower().endswith(".gz") else open(file, "rb")


def jsonl_rows(handle: IO[bytes], origin: str, separator: str | None) -> Iterator[Read]:
    """One JSON object a line; blank lines do not count."""
    first = True
    for number, line in enumerate(handle, 1):
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


def json_rows(handle: IO[bytes], origin: str, separator: str | None) -> Iterator[Read]:
    """A list of objects, or an object that holds one list of them ({"data": [...]}), or one conversation, or
    (many call it .json) one object a line."""
    data = handle.read()
    if not data.strip():
        return
    try:
        value = parse_json(as_text(data))
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and error.doc[: error.pos].lstrip().startswith("{"):
            yield from jsonl_rows(io.BytesIO(data), origin, separator)
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


def table_rows(handle: IO[bytes], origin: str, sign: str | None) -> Iterator[Read]:
    """CSV (RFC 4180) with a header line. Fields may hold line breaks; the origin is a row's first line."""
    data = handle.read()
    if data[:2] in UTF16:
        raise UserError(f"{origin}: {NOT_UTF8}.")
    # Undecodable bytes become lone surrogates, so that they spoil their own row and not the file.
    lines = io.StringIO(data.decode("utf-8", "surrogateescape").removeprefix("\ufeff"), newline="").readlines()
    sign = sign or guess_delimiter(lines)
    records = table_records(lines, sign)
    line, header = next(records, (0, []))
    wrong = header if isinstance(header, str) else not_text("".join(header))
    names = [column.strip() or f"column {i}" for i, column in enumerate(header, 1)]
    if not wrong and (twice := [column for column, count in Counter(names).items() if count > 1]):
        wrong = f'two columns are called "{twice[0]}". Rename one'
    if wrong:
        raise UserError(f"{origin}:{line}: the header line: {wrong}.")
    empty = True
    for line, fields in records:
        empty = False
        wrong = fields if isinstance(fields, str) else not_text("".join(fields))
        if wrong is None and len(fields) != len(names):
            fix = (
                f"Quote the fields that hold a {json.dumps(sign)}"
                if len(fields) > len(names)
                else "Add the missing ones"
            )
            wrong = f"has {len(fields)} fields, the header has {len(names)}. {fix}"
        at = f"{origin}:{line}"
        yield Rejected(at, wrong) if wrong else Row(dict(zip(names, fields, strict=True)), at)
    if names and empty:
        yield Rejected(origin, "has a header line but no rows")


def csv_rows(handle: IO[bytes], origin: str, separator: str | None) -> Iterator[Read]:
    """A table parted by commas, or by the semicolons or tabs that some spreadsheets write under that name."""
    return table_rows(handle, origin, None)


def tsv_rows(handle: IO[bytes], origin: str, separator: str | None) -> Iterator[Read]:
    """A table parted by tabs."""
    return table_rows(handle, origin, "\t")


def guess_delimiter(lines: list[str]) -> str:
    """The comma, unless the header has none but has what other spreadsheets write."""
    header = lines[0] if lines else ""
    return next((sign for sign in ",;\t" if sign in header), ",")


def table_records(lines: list[str], delimiter: str) -> Iterator[tuple[int, list[str] | str]]:
    """(first line, fields, or a reason why there are none) of each record that is not blank."""
    csv.field_size_limit(2**31 - 1)  # the default of 131,072 characters is less than one long document
    start = 0
    while start < len(lines):
        # strict: else a quote that is never closed would swallow the rest of the file without a word
        reader = csv.reader(lines[start:], delimiter=delimiter, strict=True)
        begun = 0
        while True:
            begun = reader.line_num
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "end of data" in str(error):
                    yield start + begun + 1, "a quote that opens here is never closed. Close it, or double it"
                    break  # go on with the line after it
                yield start + begun + 1, "text after a closing quote. Double the quotes inside a field"
                continue
            if fields:
                yield start + begun + 1, fields
        start += begun + 1


def parquet_rows(handle: IO[bytes], origin: str, separator: str | None) -> Iterator[Read]:
    """Rows of a Parquet file. Values JSON does not know (dates, decimals) become strings."""
    import pyarrow
    from pyarrow import parquet

    data, index = handle.read(), 0
    if not data:
        return
    try:
        for batch in parquet.ParquetFile(io.BytesIO(data)).iter_batches():
            # Python's datetime has no nanoseconds, and pyarrow would refuse the file for one.
            columns = [c.cast(pyarrow.string()) if pyarrow.types.is_timestamp(c.type) else c for c in batch.columns]
            for record in pyarrow.RecordBatch.from_arrays(columns, batch.schema.names).to_pylist():
                yield Row({str(key): plain(value) for key, value in record.items()}, f"{origin}[{index}]")
                index += 1
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{origin}: not a readable Parquet file: {said}. Write it again.") from error


def plain(value: Any) -> Any:
    """The value in JSON's types; NaN, Parquet's other way to say nothing, becomes None."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, float):
        return value if value - value == 0 else None
    return value if value is None or isinstance(value, str | int) else str(value)


def txt_rows(handle: IO[bytes], origin: str, separator: str | None) -> Iterator[Read]:
    """The whole file as one document, or one a piece between separators (pieces of white space do not count)."""
    try:
        text = as_text(handle.read()).replace("\r\n", "\n")
    except ValueError as error:
        yield Rejected(origin, str(error))
        return
    if not separator:
        if text.strip():
            yield Row({"text": text.strip("\n")}, origin)
        return
    line = 1
    for piece in text.split(separator):
        if document := piece.strip():
            blank = piece[: piece.index(document)].count("\n")
            yield Row({"text": document}, f"{origin}:{line + blank}")
        line += piece.count("\n") + separator.count("\n")


# Raw blocks and fenced code are what the page shows to its reader, tags and all; comments are what it does not.
TAGS = re.compile(
    r"(?P<fence>^[ \t]*(?P<ticks>```+|~~~+)[^\n]*\n.*?^[ \t]*(?P=ticks)[^\n]*$)"
    r"|\{%-?\s*raw\s*-?%\}(?P<raw>.*?)\{%-?\s*endraw\s*-?%\}"
    r"|\{%-?\s*comment\b.*?\{%-?\s*endcomment\s*-?%\}"
    r"|\{%(?:(?!\{%).)*?%\}",
    re.S | re.M,
)
YAML_KEY = re.compile(r"#|[\w\"'][^\n]*?:(?:\s|$)", re.M)
RAW_MARKS = re.compile(r"\{%-?\s*(?:end)?raw\s*-?%\}")
EMPTY_LINK = re.compile(r"(?<!!)\[([^\]\[]*)\]\(\s*\)")


def markdown_rows(handle: IO[bytes], origin: str, separator: str | None) -> Iterator[Read]:
    """One document a file, without its YAML front matter and without Liquid or Jinja tags."""
    try:
        text = as_text(handle.read()).replace("\r\n", "\n")
    except ValueError as error:
        yield Rejected(origin, str(error))
        return
    if body := markdown_body(text):
        yield Row({"text": body}, origin)
    elif text.strip():
        yield Rejected(origin, "nothing is left without the front matter and the template's tags")


def markdown_body(text: str) -> str:
    """The text a reader of the page would see as written; a link whose target was a tag becomes its words."""

    def shown(match: re.Match[str]) -> str:
        return RAW_MARKS.sub("", match["fence"]) if match["fence"] else match["raw"] or ""

    return EMPTY_LINK.sub(r"\1", TAGS.sub(shown, without_front_matter(text))).strip()


def without_front_matter(text: str) -> str:
    """Cuts a leading block between --- lines if its first line is a YAML key or comment (else it is a rule)."""
    lines = text.split("\n")
    if lines[0].rstrip() != "---":
        return text
    ends = (i for i, line in enumerate(lines) if i and line.rstrip() in ("---", "..."))
    end = next(ends, None)
    block = "\n".join(lines[1:end]).strip()
    return text if end is None or not (block == "" or YAML_KEY.match(block)) else "\n".join(lines[end + 1 :])


def as_text(data: bytes) -> str:
    """Decodes UTF-8, with or without a byte order mark. Raises ValueError with a reason for people."""
    if data[:2] in UTF16:
        raise ValueError(NOT_UTF8)
    text = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    if wrong := not_text(text):
        raise ValueError(wrong)
    return text


def not_text(text: str) -> str | None:
    """Why a string (decoded with surrogateescape) is no text, or None."""
    if "\0" in text:
        return "holds NUL bytes: binary data, not text. Take it away"
    if escaped := SURROGATE.search(text):
        return f"{NOT_UTF8} (byte 0x{ord(escaped[0]) & 0xFF:02x} at character {escaped.start() + 1})"
    return None


def parse_json(text: str) -> Any:
    """Any JSON value. Raises ValueError with a reason for people (JSONDecodeError where it knows the place)."""

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not JSON. Write null")

    try:
        value = json.loads(text, parse_constant=refuse)
        halves = "\\u" in text and SURROGATE.search(json.dumps(value, ensure_ascii=False))
    except RecursionError as error:
        raise ValueError("nested too deeply to read") from error
    if halves:
        raise ValueError("holds half of a surrogate pair (\\ud800 to \\udfff), which is no character")
    return value


def json_reason(error: ValueError) -> str:
    """ "not JSON: Expecting value at column 5", or what was said."""
    return f"not JSON: {error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)


def row_of(value: Any, origin: str) -> Row:
    """A row from one JSON value. Raises ValueError unless it is an object."""
    if not isinstance(value, dict):
        raise ValueError(f"{kind_name(value)}, where an object {{...}} is needed")
    return Row(value, origin)


def kind_name(value: Any) -> str:
    """JSON's word for a value's type, with its article."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


READERS: dict[str, Reader] = {
    ".jsonl": jsonl_rows,
    ".json": json_rows,
    ".csv": csv_rows,
    ".tsv": tsv_rows,
    ".parquet": parquet_rows,
    ".txt": txt_rows,
    ".md": markdown_rows,
}
