"""Tickets -> conversations: what the customer asked, and the reply that solved it.

Private notes and what rules wrote are left out, signatures and quoted mail are cut. A ticket that is not solved, or
whose customer said that he was not helped, teaches nothing: it is left out with that reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from luthier.base.errors import UserError
from luthier.base.nouns import Rejected, Row
from luthier.data.entries import Entry
from luthier.data.formats import FORMATS, renamed
from luthier.data.sources import READERS, file_errors, kind_of
from luthier.data.talk.people import People, Style
from luthier.data.talk.support import SHAPES, Part, Ticket, generic, name_of, ours
from luthier.data.talk.words import chatter, is_closing, is_thanks, is_unsolved, question_score, words_in
from luthier.data.text import PLAIN, Read

LOOKED_AT = 5
TABLES = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".xlsx")
LIKELY = re.compile(rb'"(?:[\w ]*subject|[\w ]*description|[\w ]*comments?|conversation_parts|summary|inquiry)"', re.I)
SOLVED = re.compile(r"solv|clos|resolv|done|complete|fixed|answered|archiv|erledigt|gelöst", re.I)
OPEN = re.compile(
    r"^(?:re-?opened|open|new|pending|hold|on.hold|in.progress|waiting.*|unresolved|unsolved|escalated|spam|deleted)$",
    re.I,
)
EMPTY_RESOLUTION = re.compile(
    r"^\W*(?:fixed|done|won'?t (?:fix|do)|duplicate|cannot reproduce|can't reproduce|resolved|closed|solved|n/?a|none|"
    r"completed?|no action|invalid|obsolete|declined|not a bug|see (?:above|comments?)|incomplete"
    r"|works as (?:designed|intended))\W*$",
    re.I,
)
PROMISES = re.compile(
    r"\b(?:we (?:have )?received your (?:request|message|e-?mail|ticket)|(?:will|'ll) (?:get back|be in touch"
    r"|look into)|"
    r"thank you for (?:contacting|reaching out)[^.]{0,60}\.?\s*(?:we|our team|someone)[^.]{0,40}will"
    r"|has been (?:received|escalated|"
    r"forwarded|assigned)|your (?:request|ticket|case) (?:\S+ )?(?:has been|was) (?:received|created|logged)"
    r"|looking into (?:it|this))\b",
    re.I,
)
BODYLESS = ("comment_body", "body", "message", "text", "comment", "content", "plain_body")


def is_tickets(entries: Sequence[Entry], shape: str) -> bool:
    """Whether the first rows of the files are tickets of a shape."""
    tables = [entry for entry in entries if kind_of(Path(entry.name)) in TABLES]
    if not tables or len(tables) < len(entries):
        return False
    for entry in tables[:3]:
        if ".json" in entry.name.lower() and not LIKELY.search(entry.head()):
            continue  # a large .json is read as a whole, even for its first rows
        rows = [row for row in islice(safely(entry), LOOKED_AT) if isinstance(row, Row)]
        found = [shape_of(row.fields) for row in rows]
        if rows and (
            found.count(shape) * 2 > len(rows) or (shape == "tickets" and all(is_line(r.fields) for r in rows))
        ):
            return True
    return False


def shape_of(fields: Mapping[str, Any]) -> str | None:
    """The shape of a row; what another format has its own columns for is no ticket."""
    if any(format.detects(fields) for name, format in FORMATS.items() if name != "text"):
        return None
    return next((name for name, (fits, _) in SHAPES.items() if fits(fields)), None)


def safely(entry: Entry) -> Iterator[Read]:
    """A file's rows; none where it cannot be read at all, which whoever reads it in earnest says."""
    try:
        yield from rows_in(entry)
    except UserError:
        return


def rows_in(entry: Entry) -> Iterator[Read]:
    """A file's rows. Raises UserError on a file that cannot be opened or unpacked."""
    with file_errors(entry.origin), entry.opened() as handle:
        yield from READERS[kind_of(Path(entry.name)) or ""](handle, entry.origin, PLAIN)


def is_line(fields: Mapping[str, Any]) -> bool:
    """Whether a row is one comment of a ticket: its ticket's number, an author and a text."""
    names = {ours(str(name)) for name in fields} | {str(name).strip().lower().replace(" ", "_") for name in fields}
    tied = names & {"ticket_id", "case_id", "conversation_id", "issue_key", "thread_id", "case_number"}
    who = names & {"author", "author_type", "author_role", "sender", "sender_type", "from_role", "author_name"}
    return bool(tied and who and names & set(BODYLESS))


def ticket_rows(entries: Sequence[Entry], style: Style, columns: Mapping[str, str], shape: str) -> Iterator[Read]:
    """Every ticket as a row with `messages`, or why it is left out."""
    people = People(style)
    read = chain.from_iterable(rows_in(entry) for entry in entries if kind_of(Path(entry.name)) in TABLES)
    head = list(islice(read, LOOKED_AT))
    rows = [row for row in head if isinstance(row, Row)]
    everything: Iterator[Read] = chain(head, read)
    if shape == "tickets" and rows and all(is_line(renamed(row, columns).fields) for row in rows):
        everything = gathered(everything, columns)
    for row in everything:
        if isinstance(row, Rejected):
            yield row
            continue
        fields = renamed(row, columns).fields
        fits, make = SHAPES.get(shape, SHAPES["tickets"])
        if users := users_in(fields):
            known(people, users)
        elif shape != "tickets" and not fits(fields):
            yield Rejected(row.origin, f"has not the columns of {shape}. Take the row away, or say format: tickets")
        else:
            yield row_of(make(fields) if shape != "tickets" else generic(fields), row.origin, people)


def gathered(rows: Iterator[Read], columns: Mapping[str, str]) -> Iterator[Read]:
    """Rows of one comment each -> rows of one ticket each, in the order of their first comments."""
    tickets: dict[str, tuple[str, list[dict[str, Any]]]] = {}
    for row in rows:
        if isinstance(row, Rejected):
            yield row
            continue
        fields = {ours(str(name)): value for name, value in renamed(row, columns).fields.items()}
        raw = {str(name).strip().lower().replace(" ", "_"): value for name, value in row.fields.items()}
        tied = ("ticket_id", "case_id", "conversation_id", "issue_key", "thread_id", "case_number")
        key = next((name_of(raw[name]) for name in tied if name_of(raw.get(name))), "")
        if not key:
            yield Rejected(row.origin, "no ticket is named. Fill its number or take the row away")
            continue
        tickets.setdefault(key, (row.origin, []))[1].append(fields)
    for key, (origin, lines) in tickets.items():
        shared = {name: value for line in lines for name, value in line.items() if name not in BODYLESS and value}
        yield Row({**shared, "ticket_id": key, "comments": lines}, origin)


def users_in(fields: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The people of a row that lists people: Zendesk's users beside its tickets."""
    if "email" in fields and "name" in fields and "role" in fields and "subject" not in fields:
        return [fields]
    return []


def known(people: People, users: Sequence[Mapping[str, Any]]) -> None:
    """Remembers what people are called."""
    for user in users:
        if name_of(user.get("id")) and isinstance(user.get("name"), str):
            people.known(name_of(user["id"]), [user["name"]])


def row_of(ticket: Ticket, origin: str, people: People) -> Read:
    """The ticket's conversation up to the reply that solved it."""
    for person, names in ticket.names.items():
        people.known(person, names)
    said = [part for part in ticket.parts if part.public and not part.automatic and part.text.strip()]
    left = [part for part in ticket.parts if not part.public or part.automatic]
    if ticket.status and OPEN.match(ticket.status):
        return Rejected(origin, f'not solved: its status is "{ticket.status}"', aside=True)
    if ticket.satisfied is False:
        return Rejected(origin, "the customer was not satisfied", aside=True)
    if ticket.resolution is not None and not any(not part.asker for part in said):
        if EMPTY_RESOLUTION.match(ticket.resolution):
            return Rejected(origin, f'its resolution says only "{ticket.resolution[:40]}"', aside=True)
        said.append(Part(False, ticket.resolution))
    while said and not said[0].asker:
        said.pop(0)  # a greeting before anyone asked
    if not said:
        return Rejected(origin, "nobody asked anything. Map the columns: subject, description, reply, comments")
    if all(part.asker for part in said):
        why = "only notes and automatic messages answer" if left else "nobody answered"
        return Rejected(origin, why, aside=True)
    return solved(ticket, said, origin, people)


def solved(ticket: Ticket, said: list[Part], origin: str, people: People) -> Read:
    """The conversation, ended by the reply that solved it: the last one that is more than a good-bye or a promise."""
    after: list[Part] = []
    while said and (said[-1].asker or idle(said[-1])):
        after.insert(0, said.pop())
    if all(part.asker for part in said):
        return Rejected(origin, "no reply says more than that someone will look at it", aside=True)
    signals, confidence = ["a public reply"], 0.5
    done = bool(ticket.status and SOLVED.search(ticket.status))
    thanked = any(part.asker and is_thanks(part.text) for part in after)
    asked_again = [part for part in after if part.asker and not is_thanks(part.text)]
    unsolved = any(is_unsolved(part.text) or question_score(part.text) >= 2 for part in asked_again)
    if unsolved and not done:
        return Rejected(origin, "the customer asked again, and nobody answered", aside=True)
    for signal, there, adds in (
        ("solved", done, 0.25),
        ("the customer was satisfied", ticket.satisfied is True, 0.25),
        ("the customer said thanks", thanked, 0.2),
        ("a whole sentence", len(words_in(said[-1].text)) >= 7, 0.05),
        ("the customer asked again", unsolved, -0.3),
    ):
        if there:
            signals.append(signal)
            confidence += adds
    turns = turns_of(ticket, said)
    if chatter(turns[0][1]) and len(turns) == 2:
        return Rejected(origin, "the customer said nothing that can be answered", aside=True)
    clean = [{"role": role, "content": people.clean(text)} for role, text in turns]
    who = ticket.customer
    fields: dict[str, Any] = {
        "messages": clean,
        "ticket": ticket.key or None,
        "confidence": round(min(0.99, max(0.01, confidence)), 2),
        "signals": signals,
        "made": "human",
        "date": ticket.date,
        "group": people.called(who) if who and people.style != "keep" else who or ticket.key or origin,
    }
    return Row({name: value for name, value in fields.items() if value is not None}, origin)


def idle(part: Part) -> bool:
    """Whether a reply of the help desk answers nothing: a good-bye, small talk, or a promise to look."""
    short = len(words_in(part.text)) <= 45
    return bool(chatter(part.text)) or is_closing(part.text) or (short and bool(PROMISES.search(part.text)))


def turns_of(ticket: Ticket, said: Sequence[Part]) -> list[tuple[str, str]]:
    """(user | assistant, text) in turn; promises in between go, the subject stands before the first question."""
    turns: list[tuple[str, str]] = []
    for at, part in enumerate(said):
        if not part.asker and idle(part) and at < len(said) - 1:
            continue
        if part.asker and turns and is_thanks(part.text) and chatter(part.text):
            continue
        role = "user" if part.asker else "assistant"
        if turns and turns[-1][0] == role:
            turns[-1] = (role, f"{turns[-1][1]}\n\n{part.text}")
        else:
            turns.append((role, part.text))
    subject = re.sub(r"^(?:\s*(?:re|fwd?|aw|wg|sv|antw)\s*:)+\s*", "", ticket.subject, flags=re.I).strip()
    role, text = turns[0]
    if (
        subject
        and subject.lower() not in text.lower()
        and not re.match(r"(?:conversation|chat|call|email) with\b", subject, re.I)
    ):
        turns[0] = (role, f"{subject}\n\n{text}")
    return turns
