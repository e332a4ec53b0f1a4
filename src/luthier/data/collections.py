"""Sources that are read as a whole, not file by file: an export of Slack, of a help desk, of mail.

`COLLECTIONS` names them. Each yields rows with `messages` and what its reader knows (group, date, confidence), which
then are read as the format "messages" is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from luthier.base.errors import UserError
from luthier.base.source import Source
from luthier.data.entries import Entry, entries_of, opener
from luthier.data.talk.dialogues import dialogue_rows, is_dialogues
from luthier.data.talk.mail import is_mail, mail_rows
from luthier.data.talk.people import Style
from luthier.data.talk.slack import is_export, slack_rows
from luthier.data.talk.tickets import is_tickets, ticket_rows
from luthier.data.text import Read


class Collection(NamedTuple):
    """A kind of source that is read as a whole."""

    holds: str
    """What it is, in words."""
    detects: Callable[[Sequence[Entry]], bool]
    """Whether these files are one."""
    rows: Callable[[Sequence[Entry], Sequence[Entry], Source], Iterator[Read]]
    """(its files, those in the folder above it, its settings) -> its rows."""


class Found(NamedTuple):
    """A source that is read as a whole."""

    name: str
    rows: Iterator[Read]
    note: str


def collection_of(name: str, source: Source, files: Sequence[Path], path: Path) -> Found | None:
    """The collection that the source called `name` is, by its format or (auto) by its files; None: it is read file by
    file. Raises UserError for settings that it has no use for."""
    said: str | None = source.format if source.format in COLLECTIONS else None
    if said is None and (source.format != "auto" or source.prompt is not None):
        return None
    entries, broken = entries_of(files, path)
    kind: str | None = said or next((key for key, value in COLLECTIONS.items() if value.detects(entries)), None)
    if kind is None:
        return None
    collection = COLLECTIONS[kind]
    if said is not None and not collection.detects(entries):
        raise UserError(f"data.{name}.format: {source.path} is not {collection.holds}. Give another format or path.")
    if source.stream:
        raise UserError(f"data.{name}.stream: {collection.holds} is read as a whole. Remove stream: true.")
    note = f"{collection.holds}: read as a whole, as conversations"
    return Found(kind, chain(broken, collection.rows(entries, beside(path), source)), note)


def beside(path: Path) -> list[Entry]:
    """The JSON files in the folder above a source: an export's users, when the source is one of its channels."""
    files = sorted(file for file in path.absolute().parent.glob("*.json") if file.is_file() and file != path)
    return [Entry(file.name, file.stat().st_size, opener(file)) for file in files[:50]]


def names_of(source: Source) -> Style:
    """What people are called: only `keep` leaves them their names."""
    return "replace" if source.private is None or source.private == "refuse" else source.private


def tickets(shape: str, holds: str) -> Collection:
    """Help desks' rows, ticket by ticket."""
    return Collection(
        holds,
        lambda files: is_tickets(files, shape),
        lambda files, above, source: ticket_rows(files, names_of(source), source.columns, shape),
    )


COLLECTIONS: dict[str, Collection] = {
    "slack": Collection(
        "a Slack export", is_export, lambda files, above, source: slack_rows(files, above, names_of(source))
    ),
    "mail": Collection("mail", is_mail, lambda files, above, source: mail_rows(files, names_of(source))),
    "abcd": Collection(
        "service dialogues (ABCD)",
        is_dialogues,
        lambda files, above, source: dialogue_rows(files, above, names_of(source)),
    ),
    "intercom": tickets("intercom", "an export of Intercom's conversations"),
    "zendesk": tickets("zendesk", "an export of Zendesk's tickets"),
    "tickets": tickets("tickets", "a table of support tickets"),
}
