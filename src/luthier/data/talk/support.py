"""What help desks export -> Ticket: generic rows, Zendesk's tickets, Intercom's conversations."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from luthier.data.messages import from_json
from luthier.data.talk.plain import own_words, plain_text

Fields = Mapping[str, Any]


class Part(NamedTuple):
    """One thing said in a ticket."""

    asker: bool
    """The customer's; else the help desk's."""
    text: str
    person: str = ""
    """Who said it, as the export names him."""
    public: bool = True
    automatic: bool = False
    """Written by a rule, not by a person."""


class Ticket(NamedTuple):
    """A request and what was said to it."""

    key: str
    subject: str
    parts: Sequence[Part]
    status: str | None = None
    satisfied: bool | None = None
    """What the customer said afterwards; None: nothing."""
    date: str | None = None
    customer: str | None = None
    names: Mapping[str, Sequence[str]] = {}
    """Person -> his names, where the row says them."""
    resolution: str | None = None
    """The answer, where the row has it apart."""


PUBLIC = {"true", "yes", "1", "public", "external", "t"}
SUBJECT = ("subject", "title", "summary", "short_description", "raw_subject", "topic")
BODY = (
    "description",
    "body",
    "message",
    "question",
    "content",
    "text",
    "details",
    "request",
    "inquiry",
    "customer_message",
)
COMMENTS = (
    "comments",
    "replies",
    "conversation",
    "conversations",
    "thread",
    "messages",
    "notes",
    "history",
    "interactions",
)
REPLY = (
    "resolution", "reply", "answer", "response", "solution", "agent_reply", "agent_response", "first_reply",
    "first_response", "resolution_notes", "close_notes", "support_response", "company_response",
)  # fmt: skip
STATUS = ("status", "state", "stage", "ticket_status")
KEY = (
    "ticket_id",
    "case_id",
    "case_number",
    "issue_key",
    "conversation_id",
    "thread_id",
    "ticket",
    "number",
    "key",
    "id",
)
DATE = (
    "created_at",
    "created",
    "date",
    "opened_at",
    "date_created",
    "creation_date",
    "created_date",
    "timestamp",
    "date_of_purchase",
)
CUSTOMER = (
    "requester_id",
    "customer_id",
    "user_id",
    "requester",
    "customer",
    "customer_name",
    "contact",
    "contact_name",
)
NAMES = (
    "customer_name",
    "requester_name",
    "contact_name",
    "agent_name",
    "assignee_name",
    "assigned_to",
    "agent",
    "assignee",
)
AUTHOR = (
    "author",
    "author_name",
    "from",
    "sender",
    "user",
    "author_id",
    "author_type",
    "role",
    "by",
    "sender_type",
    "from_role",
)
RATING = (
    "satisfaction_rating",
    "satisfaction",
    "csat",
    "rating",
    "customer_satisfaction_rating",
    "customer_satisfaction",
)
TEXTS = ("plain_body", "body", "html_body", "text", "message", "content", "comment", "value", "body_text")
AGENTS = re.compile(
    r"agent|support|staff|admin|assistant|help ?desk|operator|employee|team|rep\b|representative|company|outbound|bot",
    re.I,
)
CUSTOMERS = re.compile(
    r"customer|client|requester|end.?user|contact|lead|^user$|visitor|consumer|buyer|inbound|caller|reporter", re.I
)


def ours(name: str) -> str:
    """A column in our spelling: "Ticket Subject" is subject, "Comment Body" comment_body."""
    spelled = re.sub(r"[^a-z0-9]+", "_", name.strip().lower()).strip("_")
    short = re.sub(r"^(?:ticket|case|issue|email|request)_(?!id$|status$|number$|key$)", "", spelled)
    return short or spelled


def first(fields: Fields, names: Sequence[str]) -> Any:
    """The value of the first of the columns that says something."""
    return next((fields[name] for name in names if fields.get(name) not in (None, "", [], {})), None)


def object_in(fields: Fields, name: str) -> Fields:
    """An object under a name, or an empty one."""
    value = fields.get(name)
    return value if isinstance(value, Mapping) else {}


def text_in(fields: Fields, name: str) -> str:
    """A text under a name, or the empty one."""
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def words(value: Any) -> str:
    """A cell as a person's own words; the empty string where it is no text."""
    if isinstance(value, Mapping):
        value = first(value, TEXTS)
    return own_words(plain_text(value)) if isinstance(value, str) else ""


def name_of(value: Any) -> str:
    """Who a cell means: a name, an id, or an object that has one."""
    if isinstance(value, Mapping):
        value = first(value, ("name", "display_name", "id", "email", "address", "type", "role"))
    return str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""


def satisfied(value: Any) -> bool | None:
    """What a rating says: good/bad, a score of 1 to 5, or nothing."""
    if isinstance(value, Mapping):
        value = first(value, ("score", "rating", "value"))
    said = str(value).strip().lower() if isinstance(value, str | int | float) else ""
    if said in ("good", "satisfied", "true", "positive", "great", "amazing", "👍", "happy"):
        return True
    if said in ("bad", "unsatisfied", "dissatisfied", "false", "negative", "terrible", "👎", "unhappy"):
        return False
    number = float(said) if re.fullmatch(r"\d(?:\.\d+)?", said) else None
    return None if number is None or not 1 <= number <= 5 or number == 3 else number > 3


def date_of(value: Any) -> str | None:
    """The day of a date or a Unix time, as ISO 8601 writes it."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 1e8 < value < 4e9:
        return datetime.fromtimestamp(value, UTC).date().isoformat()
    found = re.match(r"\s*(\d{4}-\d\d-\d\d)", value) if isinstance(value, str) else None
    return found[1] if found else None


def generic(row: Fields) -> Ticket:
    """A row of any help desk's table: subject and description, with a reply or a list of comments."""
    fields = {**{ours(name): value for name, value in row.items()}, **row}
    customer = name_of(first(fields, CUSTOMER))
    body, subject = words(first(fields, BODY)), first(fields, SUBJECT)
    parts = [Part(True, body, customer)] if body else []
    listed = from_json(first(fields, COMMENTS))
    for item in listed if isinstance(listed, list) else []:
        part = comment(item, customer, len(parts))
        if part is not None and not (parts and len(parts) == 1 and part.text == parts[0].text):
            parts.append(part)
    reply = words(first(fields, REPLY))
    names = {name_of(fields.get(name)): [name_of(fields.get(name))] for name in NAMES if name_of(fields.get(name))}
    return Ticket(
        key=name_of(first(fields, KEY)),
        subject=subject.strip() if isinstance(subject, str) else "",
        parts=parts,
        status=name_of(first(fields, STATUS)).lower() or None,
        satisfied=satisfied(first(fields, RATING)),
        date=date_of(first(fields, DATE)),
        customer=customer or None,
        names={key: value for key, value in names.items() if not key.isdigit()},
        resolution=reply or None,
    )


def comment(item: Any, customer: str, place: int) -> Part | None:
    """One comment of a generic ticket; whose it is, by its author's role or name, else by turns."""
    if isinstance(item, str):
        return Part(place % 2 == 0, words(item))
    if not isinstance(item, Mapping):
        return None
    fields = {ours(str(name)): value for name, value in item.items()}
    who = [name_of(fields[name]) for name in AUTHOR if name in fields]
    who += [
        str(fields[name]["role"]) for name in AUTHOR if isinstance(fields.get(name), Mapping) and "role" in fields[name]
    ]
    person = who[0] if who else ""
    if any(CUSTOMERS.search(name) for name in who) or (customer and customer in who):
        asker = True
    elif who and (any(AGENTS.search(name) for name in who) or customer):
        asker = False
    else:
        asker = place % 2 == 0
    return Part(
        asker, words(item), person, is_public(fields), name_of(fields.get("type")).lower() in ("auto", "system")
    )


def is_public(fields: Fields) -> bool:
    """Whether the customer saw it: `public`, or not `private`, `internal`, `is_note`."""
    if fields.get("public") is not None:
        return str(fields["public"]).lower() in PUBLIC
    hidden = [fields.get(name) for name in ("private", "internal", "is_private", "is_internal", "is_note")]
    kind = name_of(first(fields, ("type", "visibility", "kind"))).lower()
    return not any(str(value).lower() in PUBLIC for value in hidden) and kind not in ("note", "internal", "private")


def zendesk(row: Fields) -> Ticket:
    """A ticket of Zendesk's export: comments with author_id and public, the requester's id, `via`, satisfaction."""
    requester = row.get("requester_id", row.get("submitter_id"))
    requester = name_of(row.get("requester")) if requester is None else str(requester)
    parts = []
    listed = row.get("comments")
    for item in listed if isinstance(listed, list) else []:
        if isinstance(item, Mapping):
            author = name_of(item.get("author_id", item.get("author")))
            channel = object_in(item, "via").get("channel")
            text = words(first(item, TEXTS))
            parts.append(
                Part(author == requester, text, author, item.get("public") is not False, channel in ("rule", "system"))
            )
    if not parts or not parts[0].asker:
        body = words(row.get("description"))
        parts = [Part(True, body, requester), *parts] if body and all(body != part.text for part in parts) else parts
    people = {name_of(user.get("id")): [user["name"]] for user in people_in(row) if isinstance(user.get("name"), str)}
    return Ticket(
        key=name_of(row.get("id")),
        subject=str(row.get("subject") or row.get("raw_subject") or "").strip(),
        parts=parts,
        status=name_of(row.get("status")).lower() or None,
        satisfied=satisfied(row.get("satisfaction_rating")),
        date=date_of(row.get("created_at")),
        customer=requester or None,
        names=people,
    )


def people_in(row: Fields) -> list[Fields]:
    """Everyone whom a Zendesk ticket describes with a name."""
    found = [row.get(name) for name in ("requester", "assignee", "submitter")]
    listed = row.get("comments")
    found += [item.get("author") for item in listed if isinstance(item, Mapping)] if isinstance(listed, list) else []
    return [value for value in found if isinstance(value, Mapping)]


def intercom(row: Fields) -> Ticket:
    """A conversation of Intercom's: the source, then its parts; notes are private, bots and assignments say nothing."""
    source = object_in(row, "source")
    listed = row.get("conversation_parts")
    listed = listed.get("conversation_parts", listed.get("data")) if isinstance(listed, Mapping) else listed
    parts, names = [], {}
    for item in [source, *(listed if isinstance(listed, list) else [])]:
        if not isinstance(item, Mapping):
            continue
        author = object_in(item, "author")
        kind, person = str(author.get("type", "")), name_of(author.get("id"))
        if isinstance(author.get("name"), str):
            names[person or author["name"]] = [author["name"]]
        said = str(item.get("part_type", "comment"))
        text = words(item.get("body"))
        if text and (item is source or said in ("comment", "note", "open", "close", "note_and_reopen", "assignment")):
            public = not said.startswith("note")
            parts.append(Part(kind in ("user", "lead", "contact"), text, person, public, kind == "bot"))
    rating = row.get("conversation_rating")
    return Ticket(
        key=name_of(row.get("id")),
        subject=plain_text(text_in(source, "subject")).strip(),
        parts=parts,
        status=name_of(row.get("state")).lower() or ("open" if row.get("open") is True else None),
        satisfied=satisfied(rating),
        date=date_of(row.get("created_at")),
        customer=next((part.person for part in parts if part.asker), None),
        names=names,
    )


def is_intercom(row: Fields) -> bool:
    return "conversation_parts" in row and "source" in row


def is_zendesk(row: Fields) -> bool:
    return isinstance(row.get("comments"), list) and "requester_id" in row


def is_generic(row: Fields) -> bool:
    """Whether a row is a ticket: a reply or comments beside a subject or a description, under names that tables of
    questions and answers do not use."""
    names = {ours(str(name)) for name in row}
    raw = {re.sub(r"[^a-z0-9]+", "_", str(name).strip().lower()) for name in row}
    asked = names & {"subject", "description", "short_description", "summary", "inquiry", "customer_message"}
    answered = names & {*COMMENTS, *REPLY} - {"messages", "conversation", "conversations", "thread"}
    marked = {"status", "priority", "ticket_status", "resolution", "queue", "assignee", "comments"} & names
    told = any(name.startswith(("ticket_", "case_")) for name in raw)
    return bool(asked and answered and (marked or told or "subject" in asked))


SHAPES: dict[str, tuple[Callable[[Fields], bool], Callable[[Fields], Ticket]]] = {
    "intercom": (is_intercom, intercom),
    "zendesk": (is_zendesk, zendesk),
    "tickets": (is_generic, generic),
}
"""Format -> (whether a row is of it, row -> Ticket). The first that fits counts."""
