"""What a source's path names (a file, a folder, a copy of what lies at a URL, a function) -> its rows."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from luthier.base.errors import UserError
from luthier.base.nouns import Row
from luthier.base.source import Source
from luthier.data.readers.faq import questions_or_not
from luthier.data.readers.program import is_program, program_file, program_rows
from luthier.data.sources import find_path, kind_of, list_files, read_rows
from luthier.data.text import Read, Wanted

DOCUMENTS = {".md", ".markdown", ".html", ".htm", ".xhtml", ".pdf", ".docx", ".zip", ".tar", ".tgz"}
"""Kinds of files that have parts, and archives, which may hold them."""
TEXTS = {".txt", ".md", ".markdown", ".html", ".htm", ".xhtml", ".csv", ".tsv", ".zip", ".tar", ".tgz"}
"""Kinds of files whose encoding a recipe may say."""


class Found(NamedTuple):
    """A source's files, and how they are read."""

    path: Path
    files: list[Path]
    notes: list[str]
    rows: Callable[[Wanted], Iterator[Read]]
    program: bool
    """Whether a function of the user's makes the rows: what they are is not known from the file alone."""


def find_source(name: str, source: Source, root: Path) -> Found:
    """Raises UserError: path missing or of unknown kind, a URL that cannot be read, no such function."""
    if is_program(source.path):
        file = program_file(name, source.path, root)
        return Found(file, [file], [], lambda wanted: program_rows(name, source.path, root), True)
    path = find_path(name, source.path, root)
    files, notes = list_files(name, path)
    return Found(path, files, notes, lambda wanted: read_rows(files, path, wanted), False)


def wanted_of(source: Source) -> Wanted:
    """What the recipe says of reading files."""
    return Wanted(source.separator, source.parts, source.format == "faq", source.encoding)


def faq_note(rows: Sequence[Row], source: Source) -> str | None:
    """Of a source whose first rows are documents: words that say it is a FAQ, or None. A page that calls itself one is
    one."""
    if source.parts != "document" or source.separator is not None:
        return None
    faqs, documents = questions_or_not(rows)
    if not 2 * faqs > documents:
        return None
    return (
        f"format faq: {faqs} of the first {documents} documents are questions with answers; what stands below other "
        "headings is left out (format: text reads them as documents)"
    )


def check_reading(name: str, source: Source, files: Sequence[Path]) -> None:
    """Raises UserError for settings that files of these kinds have no use for."""
    kinds = {kind_of(file) for file in files}
    wrong = []
    if source.separator is not None and not kinds & {".txt", ".zip", ".tar", ".tgz"}:
        wrong.append(f"data.{name}.separator: is for .txt files, and there are none. Remove it.")
    if source.parts != "document" and not kinds & DOCUMENTS:
        wrong.append(f"data.{name}.parts: is for documents (.md .html .docx .pdf), and there are none. Remove it.")
    if source.parts != "document" and source.format == "faq":
        wrong.append(f"data.{name}.parts: with format: faq every question is a row by itself. Remove it.")
    if source.format == "faq" and not kinds & DOCUMENTS:
        wrong.append(f"data.{name}.format: faq is for documents (.md .html .docx .pdf). Tables are qa.")
    if source.encoding is not None:
        if not is_text_encoding(source.encoding):
            wrong.append(f'data.{name}.encoding: "{source.encoding}" is not known. Use cp1252, latin-1, utf-16, ...')
        elif not kinds & TEXTS:
            wrong.append(f"data.{name}.encoding: is for text files, and there are none. Remove it.")
    if wrong:
        raise UserError(wrong)


def is_text_encoding(name: str) -> bool:
    """Whether Python can decode text by this name."""
    try:
        b"".decode(codecs.lookup(name).name)
    except (LookupError, ValueError):
        return False
    return True
