"""Word documents -> Row, in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO

from luthier.base.nouns import Rejected
from luthier.data.readers.extra import library
from luthier.data.readers.office import check_office
from luthier.data.readers.sections import document_rows
from luthier.data.text import Read, Wanted

BLANK_LINES = re.compile(r"\n{3,}")
NOTHING = "holds no text. If it is a scan, have its text recognised first"


def docx_rows(handle: IO[bytes], origin: str, wanted: Wanted) -> Iterator[Read]:
    """One document a file (or what `parts` asks for): headings, lists, tables, emphasis and links; no pictures."""
    if not handle.read(1):
        return
    handle.seek(0)
    try:
        check_office(handle, ".docx")
        with library("a Word document"):
            text = markdown_of(handle)
    except ValueError as error:
        yield Rejected(origin, str(error))
        return
    if text:
        yield from document_rows(text, origin, wanted, {})
    else:
        yield Rejected(origin, NOTHING)


def markdown_of(handle: IO[bytes]) -> str:
    """A document's text, by way of HTML: mammoth knows styles as what they mean, and markdownify writes them."""
    import mammoth
    import markdownify

    html = mammoth.convert_to_html(handle, convert_image=mammoth.images.img_element(lambda image: {"src": ""})).value
    found = markdownify.markdownify(
        html,
        heading_style="ATX",
        bullets="-",
        table_infer_header=True,  # Word's tables have no header row: their first one is it
        strip=["img", "sup"],
        escape_asterisks=False,
        escape_underscores=False,
    )
    return BLANK_LINES.sub("\n\n", found).strip()
