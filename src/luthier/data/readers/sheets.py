"""Excel workbooks -> Row: each sheet is a table with a header row, or two columns of questions and answers."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import IO, Any

from luthier.base.nouns import Rejected, Row
from luthier.data.readers.extra import library
from luthier.data.readers.faq import asks
from luthier.data.readers.headings import numbered, slug_of
from luthier.data.readers.office import check_office
from luthier.data.text import Read, Wanted

MOST_COLUMNS = 1000
LOOKED_AT = 20
"""Rows that decide whether a sheet of two columns asks and answers."""
SAID = {"answer", "completion", "response", "output", "label", "category", "intent"}
"""Second columns that mean what they say."""

Line = tuple[int, list[Any]]
"""A row's number in its sheet, and its cells without the empty ones at the end."""


def xlsx_rows(handle: IO[bytes], origin: str, wanted: Wanted) -> Iterator[Read]:
    """Every row of every sheet that is shown; formulas count as the values that they had when the file was saved."""
    if not handle.read(1):
        return
    handle.seek(0)
    try:
        check_office(handle, ".xlsx")
        with library("an Excel workbook"):
            import openpyxl

            book = openpyxl.load_workbook(handle, read_only=True, data_only=True)
            sheets = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"]
        seen: Counter[str] = Counter()
        empty = True
        for sheet in sheets:
            for row in sheet_rows(lines_of(sheet), f"{origin}#{numbered(slug_of(sheet.title), seen)}"):
                empty = False
                yield row
    except ValueError as error:
        yield Rejected(origin, str(error))
        return
    if empty:
        yield Rejected(origin, "no sheet of it holds anything. Fill one, or take it away")


def lines_of(sheet: Any) -> Iterator[Line]:
    """A sheet's rows that are not blank. Raises ValueError where the file is damaged."""
    with library("an Excel workbook"):
        sheet.reset_dimensions()  # a file may say that it has a million columns
        for number, cells in enumerate(sheet.iter_rows(values_only=True), 1):
            values = [plain(cell) for cell in cells[:MOST_COLUMNS]]
            while values and values[-1] is None:
                values.pop()
            if values:
                yield number, values


def plain(value: Any) -> Any:
    """A cell in JSON's types; an empty one is None."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, dt.datetime) and value.time() == dt.time():
        return value.date().isoformat()
    if isinstance(value, dt.date | dt.time | dt.datetime):
        return value.isoformat()
    if isinstance(value, float):
        return value if value - value == 0 else None
    return value if value is None or isinstance(value, bool | int) else str(value)


def sheet_rows(lines: Iterator[Line], origin: str) -> Iterator[Read]:
    """The rows of one sheet."""
    first = list(islice(lines, LOOKED_AT))
    if not first:
        return
    number, top = first[0]
    if without_header(first):
        names, body = ["question", "answer"], chain(first, lines)
    else:
        names, body = header_of(top, first[1:]), chain(first[1:], lines)
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        yield Rejected(f"{origin}:{number}", f'the header row: two columns are called "{twice[0]}". Rename one')
        return
    empty = True
    for number, cells in body:
        empty = False
        if len(cells) > len(names):
            yield Rejected(
                f"{origin}:{number}", f"has {len(cells)} cells, the header has {len(names)}. Name the columns"
            )
        else:
            yield Row(
                dict(zip(names, [*cells, *[None] * (len(names) - len(cells))], strict=True)), f"{origin}:{number}"
            )
    if empty:
        yield Rejected(origin, "has a header row but no rows")


def header_of(top: Sequence[Any], rows: Sequence[Line]) -> list[str]:
    """The columns' names. Of two columns under any names, the first of which asks, they are question and answer."""
    names = [str(cell).strip() if cell is not None else f"column {i}" for i, cell in enumerate(top, 1)]
    named = len(names) == 2 and names[1].lower() not in SAID
    return ["question", "answer"] if named and share_asking(rows) > 0.5 else names


def without_header(rows: Sequence[Line]) -> bool:
    """Whether a sheet of two columns begins with a question at once."""
    top = rows[0][1]
    return len(top) == 2 and isinstance(top[0], str) and top[0].endswith("?") and share_asking(rows) > 0.5


def share_asking(rows: Sequence[Line]) -> float:
    """The share of rows with two cells, the first of which asks."""
    asking = [len(cells) == 2 and isinstance(cells[0], str) and asks(cells[0]) for _, cells in rows]
    return sum(asking) / max(1, len(asking))
