"""Bytes -> text -> JSON values, with a reason for people where that fails."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator
from typing import IO, Any

from luthier.base.nouns import Rejected, Row

Read = Row | Rejected
"""What a reader of files yields."""

BOM = b"\xef\xbb\xbf"
UTF16 = (b"\xff\xfe", b"\xfe\xff")
NOT_UTF8 = "not UTF-8 text. Save the file as UTF-8"
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


def not_text(text: str) -> str | None:
    """Why a string (decoded with surrogateescape) is no text, or None."""
    if "\0" in text:
        return "holds NUL bytes: binary data, not text. Take it away"
    escaped = SURROGATE.search(text)
    return bad_byte(escaped[0], escaped.start()) if escaped else None


def bad_byte(surrogate: str, at: int) -> str:
    """A byte that is no UTF-8, in words. It came as a surrogate, at this place of the text."""
    return f"{NOT_UTF8} (byte 0x{ord(surrogate) & 0xFF:02x} at character {at + 1})"


def text_blocks(handle: IO[bytes]) -> Iterator[str]:
    """A file's text from its beginning, a block at a time, without a byte order mark. Bytes that are no UTF-8 come as
    lone surrogates. The file stays open."""
    handle.seek(0)
    stream = io.TextIOWrapper(handle, encoding="utf-8", errors="surrogateescape", newline="")
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


def no_text(handle: IO[bytes]) -> str | None:
    """Why a file is no text, or None; as `as_text` says it, in little memory."""
    handle.seek(0)
    if handle.read(2) in UTF16:
        return NOT_UTF8
    seen, why = 0, None
    for block in text_blocks(handle):
        if "\0" in block:
            return not_text("\0")
        if why is None and (escaped := SURROGATE.search(block)):
            why = bad_byte(escaped[0], seen + escaped.start())
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


def kind_name(value: Any) -> str:
    """JSON's word for a value's type, with its article."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def folded(text: str) -> str:
    """Lower case, words only, one blank between them."""
    return " ".join(re.findall(r"\w+", text.casefold()))
