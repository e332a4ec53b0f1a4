"""PDF files -> Row: pages in words, without their running heads. What the words mean is made of them in `layout`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import IO, Any, NamedTuple

from luthier.base.nouns import Rejected, Row
from luthier.data.readers.extra import library
from luthier.data.readers.guarded import Guarded, another_step
from luthier.data.readers.layout import Line, NoLayout, paragraphs, without_running_heads
from luthier.data.readers.sections import document_rows
from luthier.data.text import Read, Wanted, whole

LARGEST = 1 << 28
"""Bytes of a file."""
MOST_PAGES = 20_000
SHOWN_PAGES = 8
LOCKED = "protected by a password. Save a copy without one"
SCAN = "its pages hold no text: it is a scan. Have its text recognised (OCR) first"
FIX = "Print it to a new PDF file, or take it away"
DATE = re.compile(r"D:(\d{4})(\d\d)?(\d\d)?")
SURROGATES = re.compile("[\ud800-\udfff]")


def pdf_rows(handle: IO[bytes], origin: str, wanted: Wanted) -> Iterator[Read]:
    """One document a file, or one a page or section. Words parted at the end of a line are whole again; headings are
    known by their size."""
    try:
        data = whole(handle, LARGEST)
        if not data:
            return
        pages, broken, about = guarded_pages(data)
    except ValueError as error:
        yield Rejected(origin, str(error))
        return
    if broken:
        named = ", ".join(f"p{number}" for number in broken[:SHOWN_PAGES])
        more = f" and {len(broken) - SHOWN_PAGES} more" if len(broken) > SHOWN_PAGES else ""
        yield Rejected(origin, f"{len(broken)} of its pages cannot be read ({named}{more}). Print it to a new PDF file")
    lines = without_running_heads(pages)
    if not lines:
        if not broken:
            yield Rejected(origin, SCAN)
        return
    found = list(paragraphs(lines))
    if wanted.parts == "page" and not wanted.faq:
        for page, parts in groupby(found, key=lambda paragraph: paragraph.page):
            text = "\n\n".join(paragraph.text for paragraph in parts)
            yield Row({"text": text, "page": page, **about, "group": origin}, f"{origin}:p{page}")
    else:
        yield from document_rows("\n\n".join(paragraph.text for paragraph in found), origin, wanted, about)


class Pages(NamedTuple):
    """What a file holds."""

    pages: list[list[Line]]
    """The lines of every page."""
    broken: list[int]
    """Numbers of pages that cannot be read."""
    about: dict[str, str]
    """What the file says of itself."""


def guarded_pages(data: bytes) -> Pages:
    """`read_pages` in a process of its own: pdfium is a large library, and files are not always what they seem. Raises
    ValueError with a reason for people, UserError where the library is missing."""
    with library("a PDF file", FIX):
        import pypdfium2  # noqa: F401  # told here, where it is missing
    try:
        found = READER(data)
    except ValueError as error:
        raise ValueError(f"{error}. {FIX}") from error
    if isinstance(found, str):
        raise ValueError(found)
    return found


def pages_or_reason(_: None, data: bytes) -> Pages | str:
    """`read_pages`, for the process that does it: an error of the file's is its words."""
    another_step()
    try:
        return read_pages(data)
    except ValueError as error:
        return str(error)


READER = Guarded(pages_or_reason, "a PDF file")


def read_pages(data: bytes) -> Pages:
    """The lines of every page, the numbers of pages that cannot be read, and what the file says of itself. Raises
    ValueError with a reason for people."""
    with library("a PDF file", FIX):
        import pypdfium2

        try:
            pdf = pypdfium2.PdfDocument(data)
        except pypdfium2.PdfiumError as error:
            if "password" not in str(error).lower():
                raise
            pdf = None
        if pdf is not None:
            try:
                return pages_of(pdf)
            finally:
                pdf.close()
    raise ValueError(LOCKED)


def pages_of(pdf: Any) -> Pages:
    """Reads an open file page by page."""
    import pypdfium2

    pages: list[list[Line]] = []
    broken: list[int] = []
    for index in range(min(len(pdf), MOST_PAGES)):
        another_step()
        try:
            pages.append(lines_of(pdf[index], index + 1))
        except (pypdfium2.PdfiumError, IndexError, ValueError):
            pages.append([])
            broken.append(index + 1)
    about: dict[str, str] = {}
    said = pdf.get_metadata_dict()
    if title := " ".join(SURROGATES.sub("", said.get("Title", "")).split()):
        about["title"] = title
    if date := DATE.match(said.get("CreationDate", "")):
        about["date"] = "-".join(part for part in date.groups() if part)
    return Pages(pages, broken, about)


def lines_of(page: Any, number: int) -> list[Line]:
    """A page's lines, with where they stand on it and the size of their letters, in points."""
    import pypdfium2.raw as pdfium

    words = page.get_textpage()
    text = words.get_text_range()
    if len(text) != words.count_chars():  # characters that are two in UTF-16: places would be another character's
        return [Line(clean(line), number, NoLayout) for line in text.split("\r\n") if clean(line)]
    lines, at = [], 0
    for line in text.split("\r\n"):
        if shown := clean(line):
            first = at + len(line) - len(line.lstrip())
            last = at + len(line.rstrip()) - 1
            left, bottom, _, top = words.get_charbox(first, loose=True)
            right = words.get_charbox(last, loose=True)[2]
            size = pdfium.FPDFText_GetFontSize(words, first)
            # A size of about 1 is scaled by the page's own matrix: then the box is what there is.
            lines.append(Line(shown, number, (left, bottom, right, size if size > 2 else top - bottom)))
        at += len(line) + 2
    return lines


def clean(line: str) -> str:
    """A line without blanks around it, control characters and halves of characters."""
    line = SURROGATES.sub("", line).replace("\xa0", " ").replace("\xad", "")
    return "".join(sign for sign in line if sign >= " " or sign == "\t").strip()
