"""Mail (mbox, .eml) -> conversations: threads by References and In-Reply-To, else by subject; who asked, who answered.

Attachments, quoted mail, signatures, disclaimers and automatic answers are left out.
"""

from __future__ import annotations

import email
import email.header
import email.utils
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from email.message import Message
from typing import IO, NamedTuple

from luthier.base.nouns import Rejected, Row
from luthier.data.entries import DAMAGED, Entry
from luthier.data.sources import EMPTY
from luthier.data.talk.people import People, Style
from luthier.data.talk.plain import own_words, text_of_html
from luthier.data.talk.replies import Said, Talk, Turn
from luthier.data.talk.threads import Answered, resolved
from luthier.data.text import Read

LARGEST_BYTES = 64 * 2**20
"""Of one message; attachments make them that large."""
MAIL = re.compile(r"\.(?:mbox|eml)(?:\.gz)?$", re.I)
PREFIX = re.compile(r"^(?:\s*(?:re|fwd?|aw|wg|sv|vs|antw|tr|res|enc)\s*(?:\[\d+\])?\s*:|\s*\[[^\]]{1,40}\])+\s*", re.I)
FROM_LINE = re.compile(rb"^From \S.*\d{4}\s*$|^From (?:MAILER-DAEMON|\S+@\S+|- )", re.I)
SUBJECT_S = 30 * 86400.0
"""Mails without references belong together when their subject does and no more than this lies between them."""


class Mail(NamedTuple):
    """One mail, as far as it matters."""

    key: str
    """Message-ID."""
    before: tuple[str, ...]
    """The Message-IDs that it refers to."""
    person: str
    """The address, in lower case."""
    name: str
    subject: str
    time_s: float
    text: str
    origin: str


def is_mail(entries: Sequence[Entry]) -> bool:
    """Whether all files are mail."""
    return bool(entries) and all(MAIL.search(entry.name) for entry in entries)


def mail_rows(entries: Sequence[Entry], style: Style) -> Iterator[Read]:
    """Every thread that answers something as a row with `messages`."""
    mails: dict[str, Mail] = {}
    for entry in entries:
        for item in read_mails(entry):
            if isinstance(item, Rejected):
                yield item
            elif item.key in mails:
                yield Rejected(item.origin, "the same mail again", aside=True)
            else:
                mails[item.key] = item
    people = People(style)
    for mail in sorted(mails.values(), key=lambda mail: mail.time_s):
        people.known(mail.person, [mail.name])
    for thread in threads(list(mails.values())):
        yield from row_of(thread, people)


def alone(handle: IO[bytes], origin: str) -> Iterator[Read]:
    """The threads of one open file."""
    return mail_rows([Entry(origin, 0, lambda: handle)], "replace")


def read_mails(entry: Entry) -> Iterator[Mail | Rejected]:
    """The mails of a file, each with its place: "box.mbox[3]" counts from 0."""
    count, single = 0, ".eml" in entry.name.lower()
    try:
        with entry.opened() as file:
            for data in [file.read(LARGEST_BYTES + 1)] if single else pieces(file):
                place = entry.origin if single else f"{entry.origin}[{count}]"
                count += 1
                yield mail_of(data, place) if data.strip() else Rejected(entry.origin, EMPTY)
    except DAMAGED as error:
        yield Rejected(entry.origin, f"cannot be read ({error})")
    if count == 0:
        yield Rejected(entry.origin, EMPTY)


def pieces(handle: IO[bytes]) -> Iterator[bytes]:
    """An mbox's mails: each begins with a line "From someone date" at the beginning or after an empty line. Of one that
    is too large, the beginning."""
    lines: list[bytes] = []
    held, blank = 0, True
    while line := handle.readline(1 << 20):
        if blank and line.startswith(b"From ") and FROM_LINE.match(line):
            if any(part.strip() for part in lines):
                yield b"".join(lines)
            lines, held, blank = [], 0, False
            continue
        blank = not line.strip()
        held += len(line)
        if held <= LARGEST_BYTES + 1:
            lines.append(line[1:] if line.startswith(b">From ") else line)
    if any(part.strip() for part in lines):
        yield b"".join(lines)


def mail_of(data: bytes, origin: str) -> Mail | Rejected:
    """One mail from its bytes, or why it cannot be used."""
    if len(data) > LARGEST_BYTES:
        return Rejected(origin, f"larger than {LARGEST_BYTES // 2**20} MB")
    message = email.message_from_bytes(data)
    name, address = email.utils.parseaddr(header(message, "From"))
    if not address and not name:
        return Rejected(origin, "From: is missing. It is no mail, or its head is broken")
    if is_automatic(message, address):
        return Rejected(origin, "an automatic mail", aside=True)
    text = own_words(body_of(message))
    if not text.strip():
        return Rejected(origin, "no text of its own", aside=True)
    before = tuple(re.findall(r"<[^<>\s]+>", f"{header(message, 'References')} {header(message, 'In-Reply-To')}"))
    return Mail(
        key=header(message, "Message-ID").strip() or origin,
        before=before,
        person=(address or name).lower(),
        name=name,
        subject=header(message, "Subject").strip(),
        time_s=time_of(header(message, "Date")),
        text=text,
        origin=origin,
    )


def header(message: Message, name: str) -> str:
    """A header as text, its encoded words decoded, on one line; unknown encodings stay as they are."""
    raw = message.get(name)
    if raw is None:
        return ""
    try:
        parts = email.header.decode_header(str(raw))
        said = "".join(part if isinstance(part, str) else decoded(part, charset) for part, charset in parts)
    except (email.errors.HeaderParseError, ValueError):
        said = str(raw)
    return " ".join(said.encode("utf-8", "replace").decode().split())


def decoded(data: bytes, charset: str | None) -> str:
    """Bytes as text: in the encoding they claim, else as UTF-8, else as Windows-1252 reads them."""
    for name in (charset, "utf-8", "cp1252"):
        try:
            return data.decode(name) if name else data.decode("ascii")
        except (LookupError, UnicodeError, ValueError):
            continue
    return data.decode("latin-1")


def time_of(date: str) -> float:
    """Seconds since 1970 of a Date header; 0 where it says no time."""
    try:
        return max(0.0, email.utils.parsedate_to_datetime(date).timestamp())
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0


def is_automatic(message: Message, address: str) -> bool:
    """Whether a machine sent it: out of office, delivery failures, newsletters."""
    sent = header(message, "Auto-Submitted").lower()
    if sent and not sent.startswith("no"):
        return True
    daemon = re.match(r"(?:mailer-daemon|postmaster|no-?reply|do-?not-?reply|bounce)", address, re.I)
    away = re.match(
        r"(?:auto(?:matic)?[- ]?(?:reply|response)|out of office|abwesenheit|undeliver)",
        header(message, "Subject"),
        re.I,
    )
    return bool(daemon or away or message.get("X-Autoreply") or header(message, "Precedence").lower() == "auto_reply")


def body_of(message: Message) -> str:
    """The text of a mail: its plain part, else its HTML as text. Attachments and attached mails are left out."""
    found: dict[str, list[str]] = {"text/plain": [], "text/html": []}
    stack, seen = [message], 0
    while stack and seen < 500:
        part, seen = stack.pop(), seen + 1
        if part.get_content_maintype() == "message" and part is not message:
            continue
        inner = part.get_payload()
        if isinstance(inner, list):
            stack += [item for item in reversed(inner) if isinstance(item, Message)]
        elif part.get_content_type() in found and part.get_content_disposition() != "attachment":
            data = part.get_payload(decode=True)
            charset = part.get_content_charset()
            found[part.get_content_type()].append(decoded(data if isinstance(data, bytes) else b"", charset))
    plain = "\n".join(found["text/plain"]).replace("\r\n", "\n").replace("\0", "")
    return plain if plain.strip() else text_of_html("\n".join(found["text/html"]).replace("\0", ""))


def threads(mails: Sequence[Mail]) -> list[list[Mail]]:
    """Mails that refer to each other, or have one subject (an answer's) within a month, by time."""
    leader = list(range(len(mails)))

    def root(at: int) -> int:
        while leader[at] != at:
            leader[at] = leader[leader[at]]
            at = leader[at]
        return at

    keys: dict[str, int] = {}
    for at, mail in enumerate(mails):
        for key in (mail.key, *mail.before):
            leader[root(at)] = root(keys.setdefault(key, at))
    subjects: dict[str, int] = {}
    for at in sorted(range(len(mails)), key=lambda at: mails[at].time_s):
        mail = mails[at]
        plain = PREFIX.sub("", mail.subject).lower()
        earlier = subjects.get(plain)
        answer = plain and plain != mail.subject.strip().lower() and not mail.before
        if answer and earlier is not None and mail.time_s - mails[earlier].time_s <= SUBJECT_S:
            leader[root(at)] = root(earlier)
        if plain:
            subjects[plain] = at
    found: dict[int, list[Mail]] = defaultdict(list)
    for at, mail in enumerate(mails):
        found[root(at)].append(mail)
    ordered = [sorted(group, key=lambda mail: (mail.time_s, mail.origin)) for group in found.values()]
    return sorted(ordered, key=lambda group: (group[0].time_s, group[0].origin))


def row_of(thread: Sequence[Mail], people: People) -> Iterator[Read]:
    """A thread as a row, and why mails of it were left out. A mail asks by being the first."""
    first = thread[0]
    if len({mail.person for mail in thread}) < 2:
        yield from (Rejected(mail.origin, "nobody answered", aside=True) for mail in thread)
        return
    turns = [Turn(mail.person, [said_of(mail, people)], place) for place, mail in enumerate(thread)]
    for outcome in resolved(Talk(first.person, turns, True)):
        if not isinstance(outcome, Answered):
            yield Rejected(outcome.said.origin, outcome.reason.replace("question", "mail"), aside=True)
            continue
        messages = [{"role": role, "content": text} for role, text in outcome.turns]
        subject = people.clean(PREFIX.sub("", first.subject).strip())
        if subject and subject.lower() not in messages[0]["content"].lower():
            messages[0]["content"] = f"{subject}\n\n{messages[0]['content']}"
        yield Row(
            {
                "messages": messages,
                "people": [people.called(person) for person in outcome.people],
                "confidence": round(outcome.confidence, 3),
                "signals": list(outcome.signals),
                "answer": outcome.answer.origin,
                "made": "human",
                "group": first.origin,
                **({"date": datetime.fromtimestamp(first.time_s, UTC).date().isoformat()} if first.time_s else {}),
            },
            first.origin,
        )


def said_of(mail: Mail, people: People) -> Said:
    """A mail as what someone said. In a thread everyone speaks to the one who asked."""
    return Said(mail.person, mail.time_s, people.clean(mail.text), mail.origin, mail.key)
