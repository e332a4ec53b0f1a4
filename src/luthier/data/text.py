"""Bytes -> text -> JSON values, with a reason for people where that fails."""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, Literal, NamedTuple

from luthier.base.nouns import Rejected, Row

Read = Row | Rejected
"""What a reader of files yields."""


class Wanted(NamedTuple):
    """What a recipe says of the way files are read."""

    separator: str | None = None
    """Between the documents of a .txt file."""
    parts: Literal["document", "section", "page"] = "document"
    """What of a document becomes a row."""
    faq: bool = False
    """Headings that ask, and what stands below them, become questions and answers."""
    encoding: str | None = None
    """Of text files that do not say theirs; None: UTF-8."""
    inside: bool = False
    """Of an archive."""


PLAIN = Wanted()

BOM = b"\xef\xbb\xbf"
UTF16 = (b"\xff\xfe", b"\xfe\xff")
MARKS = {
    BOM: "utf-8",
    b"\xff\xfe\0\0": "utf-32-le",
    b"\0\0\xfe\xff": "utf-32-be",
    b"\xff\xfe": "utf-16-le",
    b"\xfe\xff": "utf-16-be",
}
"""What a text file may begin with to say how it is written; the longer ones first."""
NOT_UTF8 = "not UTF-8 text. Save the file as UTF-8"
OR_SAY = f"{NOT_UTF8}, or say how it is written, such as encoding: cp1252"
LONGEST_LINE = 1 << 26
"""Bytes of one line: a row that is longer would not fit in memory several times over, as reading it needs."""
LONGEST_DOCUMENT = 1 << 30
"""Bytes of one file that is read as a whole."""
SURROGATE = re.compile("[\ud800-\udfff]")
BLOCK = 1 << 20
"""Characters read at once."""


def as_text(data: bytes) -> str:
    """Decodes UTF-8, with or without a byte order mark. Raises ValueError with a reason for people."""
    if data[:2] in UTF16:
        raise ValueError(NOT_UTF8)
    text = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    if wrong := not_text(text):
        raise ValueError(wrong)
    return text


def encoding_of(start: bytes, wanted: Wanted) -> str:
    """How a text file is written: what its first bytes say, else what the recipe does, else UTF-8."""
    return next((name for mark, name in MARKS.items() if start.startswith(mark)), wanted.encoding or "utf-8")


def lone(error: UnicodeError) -> tuple[str, int]:
    """Undecodable bytes become lone surrogates, as surrogateescape has it, but in every encoding."""
    assert isinstance(error, UnicodeDecodeError)
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error("luthier.lone", lone)


def document_text(handle: IO[bytes], wanted: Wanted) -> str:
    """A whole text file, with \\n for every \\r\\n. Raises ValueError with a reason for people."""
    data = whole(handle)
    text = data.decode(encoding_of(data[:4], wanted), "luthier.lone").removeprefix("\ufeff")
    if wrong := not_text(text, OR_SAY):
        raise ValueError(wrong)
    return text.replace("\r\n", "\n")


def whole(handle: IO[bytes], longest: int | None = None) -> bytes:
    """All bytes of a file. Raises ValueError where they are more than fit one document."""
    longest = longest or LONGEST_DOCUMENT
    data = handle.read(longest + 1)
    if len(data) > longest:
        raise ValueError(f"longer than {longest >> 20} MiB, too long to be read as a whole. Part it into several files")
    return data


def not_text(text: str, fix: str = NOT_UTF8) -> str | None:
    """Why a string (decoded with surrogateescape) is no text, or None."""
    if "\0" in text:
        return "holds NUL bytes: binary data, not text. Take it away"
    escaped = SURROGATE.search(text)
    return bad_byte(escaped[0], escaped.start(), fix) if escaped else None


def bad_byte(surrogate: str, at: int, fix: str = NOT_UTF8) -> str:
    """A byte that is no UTF-8, in words. It came as a surrogate, at this place of the text."""
    return f"{fix} (byte 0x{ord(surrogate) & 0xFF:02x} at character {at + 1})"


def lines_of(handle: IO[bytes]) -> Iterator[bytes | None]:
    """A file's lines with their ends; None for one that is longer than `LONGEST_LINE`, which is never held."""
    while line := handle.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE:
            while len(line) > LONGEST_LINE and not line.endswith(b"\n"):
                line = handle.readline(LONGEST_LINE + 1)
            yield None
        else:
            yield line


def too_long(what: str = "the line") -> str:
    """The reason for a `None` of `lines_of`."""
    return f"{what} is longer than {LONGEST_LINE >> 20} MiB. Part it into several rows"


def text_blocks(handle: IO[bytes], wanted: Wanted = PLAIN) -> Iterator[str]:
    """A file's text from its beginning, a block at a time, without a byte order mark. Bytes that are no UTF-8 come as
    lone surrogates. The file stays open."""
    handle.seek(0)
    encoding = encoding_of(handle.read(4), wanted)
    handle.seek(0)
    stream = io.TextIOWrapper(handle, encoding=encoding, errors="luthier.lone", newline="")
    try:
        yield stream.read(BLOCK).removeprefix("\ufeff")
        while block := stream.read(BLOCK):
            yield block
    finally:
        stream.detach()


def with_line_feeds(blocks: Iterable[str]) -> Iterator[str]:
    """The same text with \\n for every \\r\\n."""
    held = ""
    for block in blocks:
        block = held + block
        held = "\r" if block.endswith("\r") else ""  # its \n may stand in the next block
        yield block[: len(block) - len(held)].replace("\r\n", "\n")
    yield held


def no_text(handle: IO[bytes], wanted: Wanted = PLAIN) -> str | None:
    """Why a file is no text, or None; as `document_text` says it, in little memory."""
    seen, why = 0, None
    for block in text_blocks(handle, wanted):
        if "\0" in block:
            return not_text("\0")
        if why is None and (escaped := SURROGATE.search(block)):
            why = bad_byte(escaped[0], seen + escaped.start(), OR_SAY)
        seen += len(block)
    return why


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


def plain(value: Any, of_bytes: Callable[[bytes], str]) -> Any:
    """A value of some library in JSON's types; NaN, a table's other way to say nothing, becomes None."""
    if isinstance(value, dict):
        return {str(key): plain(inner, of_bytes) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, of_bytes) for inner in value]
    if isinstance(value, bytes):
        return of_bytes(value)
    if isinstance(value, float):
        return value if value - value == 0 else None
    return value if value is None or isinstance(value, str | int) else str(value)


def kind_name(value: Any) -> str:
    """JSON's word for a value's type, with its article."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def case_folded(text: str) -> str:
    """Lower case, one blank where there were blanks and line ends: what people type twice is equal."""
    return " ".join(text.casefold().split())


def words_only(text: str) -> str:
    """Lower case, without marks, one blank between the words."""
    return " ".join(re.findall(r"\w+", text.casefold()))
