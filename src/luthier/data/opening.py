"""What a source's path names (a file, a folder, a copy of what lies at a URL, a function) -> its rows."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from luthier.base.errors import UserError, did_you_mean
from luthier.base.nouns import ROLES, Row
from luthier.base.source import Source
from luthier.base.templates import columns_of
from luthier.data.collections import collection_of
from luthier.data.readers.faq import questions_or_not
from luthier.data.readers.hub import is_hub, open_hub
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
    talk: bool = False
    """Whether it is talk between people, read as a whole: its rows have messages."""


def find_source(name: str, source: Source, root: Path) -> Found:
    """Raises UserError: path missing or of unknown kind, a URL that cannot be read, no such function."""
    if is_program(source.path):
        file = program_file(name, source.path, root)
        return Found(file, [file], [], lambda wanted: program_rows(name, source.path, root), True)
    if is_hub(source.path):
        found = open_hub(f"data.{name}.path", source.path, root)
        return Found(Path(source.path), [], [f"split {found.split}"], lambda wanted: found.rows(), True)
    path = find_path(name, source.path, root)
    files, notes = list_files(name, path)
    if (whole := collection_of(name, source, files, path)) is not None:
        return Found(path, files, [whole.note, *notes], lambda wanted: whole.rows, False, True)
    return Found(path, files, notes, lambda wanted: read_rows(files, path, wanted), False)


def wanted_of(source: Source) -> Wanted:
    """What the recipe says of reading files."""
    return Wanted(source.separator, source.parts, source.format == "faq", source.encoding)


def format_said(source: Source, found: Found, wanted: Wanted) -> str:
    """The format of the rows, as far as it is known before anyone looks at them."""
    if source.prompt is not None:
        return "template"
    return "messages" if found.talk else "qa" if wanted.faq else source.format


def faq_note(rows: Sequence[Row], source: Source) -> str | None:
    """Of a source whose first rows are documents: words that say it is a FAQ, or None. A page that calls itself one is
    one."""
    if source.parts != "document" or source.separator is not None:
        return None
    faqs, documents = questions_or_not(rows)
    if not 2 * faqs > documents:
        return None
    which = "the document is" if documents == 1 else f"{faqs} of the first {documents} documents are"
    return (
        f"format faq: {which} questions with answers; what stands below other headings is left out (format: text reads "
        "them as documents)"
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


def check_roles(name: str, source: Source) -> None:
    """Raises UserError naming every role of the mapping that no message can have."""
    wrong = [
        f"data.{name}.roles.{theirs}: {ours} is not {'|'.join(ROLES)}."
        + (did_you_mean(ours, ROLES) or " Use one of them.")
        for theirs, ours in source.roles.items()
        if ours not in ROLES
    ]
    if wrong:
        raise UserError(wrong)


def check_columns(name: str, source: Source, rows: Sequence[Row]) -> None:
    """Every column that `columns` names must stand in one of the first rows at least."""
    there = list(dict.fromkeys(key for row in rows for key in row.fields))
    wrong = [
        f'data.{name}.columns.{ours}: {rows[0].origin} has no column "{theirs}".'
        + (did_you_mean(theirs, there) or f" There are: {', '.join(there)}.")
        for ours, theirs in source.columns.items()
        if rows and theirs not in there
    ]
    if wrong:
        raise UserError(wrong)


def check_template(name: str, source: Source, rows: Sequence[Row]) -> None:
    """Every column that the recipe's prompt or answer names must stand in one of the first rows at least."""
    there = {key: None for row in rows for key in row.fields}
    wrong = [
        f'data.{name}.{field}: {rows[0].origin} has no column "{column}".'
        + (did_you_mean(column, there) or f" There are: {', '.join(there)}.")
        for field, template in (("prompt", source.prompt), ("answer", source.answer))
        for column in (columns_of(template) if template is not None and rows else ())
        if column not in there and column.strip().lower() not in there
    ]
    if wrong:
        raise UserError(wrong)
