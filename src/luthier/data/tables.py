"""CSV and its relatives -> Row, line by line: a table may be larger than memory."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import IO

from luthier.base.errors import UserError
from luthier.base.nouns import Rejected, Row
from luthier.data.text import LONGEST_LINE, OR_SAY, Read, Wanted, encoding_of, not_text, too_long

FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""How a text begins that a spreadsheet would run, or one that was guarded against that."""
OVERLONG = "\0overlong"
"""Stands for a line that is too long to be held."""
LONGEST_RECORD = 1 << 26
"""Characters of one row, above which a quote counts as never closed: it would hold the rest of the file in memory."""


def table_rows(handle: IO[bytes], origin: str, sign: str | None, wanted: Wanted) -> Iterator[Read]:
    """CSV (RFC 4180) with a header line. Fields may hold line breaks; the origin is a row's first line."""
    encoding = encoding_of(handle.read(4), wanted)
    handle.seek(0)
    # Undecodable bytes become lone surrogates, so that they spoil their own row and not the file.
    lines = text_lines(io.TextIOWrapper(handle, encoding=encoding, errors="luthier.lone", newline=""))
    top = next(lines, "").removeprefix("\ufeff")
    lines = chain([top], lines) if top else iter(())
    sign = sign or guess_delimiter(top)
    records = table_records(lines, sign)
    line, header = next(records, (0, []))
    wrong = header if isinstance(header, str) else wrong_text(header)
    names = [unguarded(column.strip()) or f"column {i}" for i, column in enumerate(header, 1)]
    if not wrong and (twice := [column for column, count in Counter(names).items() if count > 1]):
        wrong = f'two columns are called "{twice[0]}". Rename one'
    if wrong:
        raise UserError(f"{origin}:{line}: the header line: {wrong}.")
    empty = True
    for line, fields in records:
        empty = False
        wrong = fields if isinstance(fields, str) else wrong_text(fields)
        if wrong is None and len(fields) != len(names):
            fix = (
                f"Quote the fields that hold a {json.dumps(sign)}"
                if len(fields) > len(names)
                else "Add the missing ones"
            )
            wrong = f"has {len(fields)} fields, the header has {len(names)}. {fix}"
        at = f"{origin}:{line}"
        yield Rejected(at, wrong) if wrong else Row(dict(zip(names, map(unguarded, fields), strict=True)), at)
    if names and empty:
        yield Rejected(origin, "has a header line but no rows")


def text_lines(stream: IO[str]) -> Iterator[str]:
    """The lines of a file, each of a length that fits in memory."""
    while line := stream.readline(LONGEST_LINE + 1):
        if len(line) <= LONGEST_LINE:
            yield line
            continue
        while len(line) > LONGEST_LINE and not line.endswith("\n"):
            line = stream.readline(LONGEST_LINE + 1)
        yield f"{OVERLONG}\n"


def wrong_text(fields: Sequence[str]) -> str | None:
    """Why the fields of a row are no text, or None."""
    text = "".join(fields)
    return too_long() if OVERLONG in text else not_text(text, OR_SAY)


def csv_rows(handle: IO[bytes], origin: str, wanted: Wanted) -> Iterator[Read]:
    """A table parted by commas, or by the semicolons or tabs that some spreadsheets write under that name."""
    return table_rows(handle, origin, None, wanted)


def tsv_rows(handle: IO[bytes], origin: str, wanted: Wanted) -> Iterator[Read]:
    """A table parted by tabs."""
    return table_rows(handle, origin, "\t", wanted)


def guess_delimiter(header: str) -> str:
    """The comma, unless the header has none but has what other spreadsheets write."""
    return next((sign for sign in ",;\t" if sign in header), ",")


def table_records(lines: Iterator[str], delimiter: str) -> Iterator[tuple[int, list[str] | str]]:
    """(first line, fields, or a reason why there are none) of each record that is not blank."""
    csv.field_size_limit(2**31 - 1)  # the default of 131,072 characters is less than one long document
    again: deque[str] = deque()
    record: list[str] = []

    def fed() -> Iterator[str]:
        """Lines for the reader, first those that it has to see again; no more of one record than fit."""
        size = 0
        while (line := again.popleft() if again else next(lines, None)) is not None:
            size = len(line) + (size if record else 0)
            record.append(line)
            yield line
            if record and size >= LONGEST_RECORD:
                return

    start = 0
    while True:
        # strict: else a quote that is never closed would swallow the rest of the file without a word
        reader = csv.reader(fed(), delimiter=delimiter, strict=True)
        while True:
            begun = reader.line_num
            record.clear()
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
        again.extendleft(reversed(record[1:]))
        start += begun + 1


def guarded(text: str) -> str:
    """A text for a cell that a spreadsheet will not run as a formula: an apostrophe stands before one that begins with
    = + - @, a tab or a carriage return (OWASP, CSV injection), or with apostrophes and then one of these."""
    return f"'{text}" if FORMULA.match(text) else text


def unguarded(text: str) -> str:
    """What `guarded` was given."""
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text
