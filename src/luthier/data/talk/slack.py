"""A Slack export -> conversations: who asked, and which reply answered, each pointing back at channel and timestamp.

The layout is Slack's own: users.json, channels.json (groups, dms, mpims), and a folder a channel with a file a day. A
channel's folder alone can be read, too. What cannot be used is Rejected with its reason; chatter, by design, does not
count against `max_rejected`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from luthier.base.nouns import Rejected, Row
from luthier.data.entries import Entry
from luthier.data.talk.markup import markdown_of
from luthier.data.talk.people import People, Style
from luthier.data.talk.replies import Said
from luthier.data.talk.threads import Answered, Outcome, in_channel, in_thread
from luthier.data.talk.words import URL, chatter
from luthier.data.text import Read, as_text, json_reason, kind_name, parse_json

DAY = re.compile(r"\d{4}-\d\d-\d\d\.json(?:\.gz)?$")
LISTS = ("channels.json", "groups.json", "mpims.json", "dms.json")
LONGEST = 40_000
"""Characters of a message; Slack itself cuts at 40,000."""
MENTION = re.compile(r"<@([A-Z0-9]+)(?:\|[^>]*)?>")
ADDRESS = re.compile(r"^\s*(?:(?:hey|hi|hello|thanks|cc)[\s,]+)?((?:<@[A-Z0-9]+(?:\|[^>]*)?>[\s,:;–-]*)+)", re.I)
KEPT_SUBTYPES = {None, "me_message", "thread_broadcast", "file_share", "bot_add_reply"}
SUBTYPES = {
    "bot_message": "a bot's message",
    "channel_join": "someone joined or left",
    "channel_leave": "someone joined or left",
    "group_join": "someone joined or left",
    "group_leave": "someone joined or left",
    "message_deleted": "a deleted message",
    "tombstone": "a deleted message",
    "reply_broadcast": "a reply that stands in its thread",
}
"""Reasons for the commonest kinds of messages that Slack writes itself."""


class Export(NamedTuple):
    """What an export says about itself."""

    people: People
    bots: set[str]
    channels: Mapping[str, str]
    """id -> name."""
    direct: set[str]
    """Folders of direct messages."""


def is_export(entries: Sequence[Entry]) -> bool:
    """Whether these files are an export, or one of its channels: files named by days, of which one of the first holds
    messages with a timestamp."""
    days = [entry for entry in entries if DAY.match(entry.name)]
    if not days or 2 * len(days) < len(entries) - 12:
        return False
    for entry in days[:5]:
        try:
            values = load(entry)
        except ValueError:
            continue
        if isinstance(values, list) and any(isinstance(v, dict) and "ts" in v and "type" in v for v in values):
            return True
    return False


def slack_rows(entries: Sequence[Entry], beside: Sequence[Entry], style: Style) -> Iterator[Read]:
    """Every conversation of the export as a row with `messages`, channel by channel, and why the rest was left out.
    `beside`: the files above the source, where users.json is when the source is a channel's folder."""
    places: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if DAY.match(entry.name):
            places[entry.folder].append(entry)
    broken: list[Rejected] = []
    roots = {folder.rpartition("/")[0] for folder in places}
    alone = len(places) == 1 and not any(entry.folder in roots for entry in entries)
    about = [entry for entry in (*entries, *beside) if entry.name in ("users.json", *LISTS)]
    export = read_about([entry for entry in about if not DAY.match(entry.name)], style, broken)
    yield from broken
    for folder, days in sorted(places.items()):
        name = folder.rpartition("/")[2]
        if name in export.direct and not alone:
            yield Rejected(folder, "direct messages. Name this folder as a source to read them", aside=True)
            continue
        yield from channel_rows(name, sorted(days), export)


def load(entry: Entry) -> Any:
    """The value of a JSON file. Raises ValueError with a reason for people."""
    try:
        return parse_json(as_text(entry.read()))
    except ValueError as error:
        raise ValueError(json_reason(error)) from error


def read_about(entries: Sequence[Entry], style: Style, broken: list[Rejected]) -> Export:
    """Users and channels. Missing lists are no mistake: ids stand for people then; broken ones are told."""
    lists: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in entries:
        try:
            value = load(entry)
        except ValueError as error:
            broken.append(Rejected(entry.origin, str(error)))
            continue
        lists[entry.name] += [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
    people, bots = People(style), {"USLACKBOT"}
    for user in lists["users.json"]:
        known_user(people, bots, user)
    channels: dict[str, str] = {}
    for name in LISTS:
        for item in lists[name]:
            if isinstance(item.get("id"), str):
                channels[item["id"]] = text_in(item, "name") or item["id"]
    direct = {
        text_in(item, key) for name in ("dms.json", "mpims.json") for item in lists[name] for key in ("id", "name")
    }
    return Export(people, bots, channels, direct - {""})


def known_user(people: People, bots: set[str], user: Mapping[str, Any]) -> None:
    """A user of users.json, or the profile that newer exports put into each message."""
    person = user.get("id")
    if not isinstance(person, str) or not person:
        return
    if user.get("is_bot") is True:
        bots.add(person)
        return
    profile = user.get("profile") if isinstance(user.get("profile"), dict) else {}
    shown = text_in(profile, "display_name")
    people.known(person, [text_in(user, "real_name") or text_in(profile, "real_name"), shown, text_in(user, "name")])


def text_in(values: Mapping[str, Any] | None, key: str) -> str:
    """A text under a key, or the empty string."""
    value = values.get(key) if isinstance(values, Mapping) else None
    return value if isinstance(value, str) else ""


def channel_rows(channel: str, days: Sequence[Entry], export: Export) -> Iterator[Read]:
    """The conversations of one channel. All its messages are held at once, the day files' borders are no borders."""
    messages: dict[str, Said] = {}
    threads: dict[str, str] = {}
    for entry in days:
        origin = entry.origin
        try:
            values = load(entry)
            if not isinstance(values, list):
                raise ValueError(f"{kind_name(values)}, where a list of messages is needed")
        except ValueError as error:
            yield Rejected(origin, str(error))
            continue
        for index, value in enumerate(values):
            said = said_of(value, f"{origin}[{index}]", origin, export)
            if isinstance(said, Rejected):
                yield said
            elif said.stamp in messages:  # a reply that was also sent to the channel stands there twice
                yield Rejected(said.origin, "the same message again", aside=True)
            else:
                messages[said.stamp] = said
                if isinstance(value.get("thread_ts"), str):
                    threads[said.stamp] = value["thread_ts"]
    for outcome in outcomes(messages, threads):
        yield row_of(outcome, channel, export)


def outcomes(messages: Mapping[str, Said], threads: Mapping[str, str]) -> Iterator[Outcome]:
    """The conversations of the threads and of what stands beside them, in order of their first message."""
    rooms: dict[str, list[Said]] = defaultdict(list)
    for said in sorted(messages.values(), key=lambda said: (said.time_s, said.stamp)):
        rooms[threads.get(said.stamp, "")].append(said)
    for room in [key for key, inside in rooms.items() if key and len(inside) == 1]:
        rooms[""] += rooms.pop(room)  # a thread of which nothing is left but one message
    loose = sorted(rooms.pop("", []), key=lambda said: (said.time_s, said.stamp))
    found = [outcome for inside in rooms.values() for outcome in in_thread(inside)]
    yield from sorted(
        [*found, *in_channel(loose)], key=lambda o: (o.question if isinstance(o, Answered) else o.said).time_s
    )


def said_of(value: Any, at: str, origin: str, export: Export) -> Said | Rejected:
    """A message of a person, or why it is none."""
    if not isinstance(value, dict):
        return Rejected(at, f"{kind_name(value)}, where a message is needed")
    if value.get("subtype") == "message_changed" and isinstance(value.get("message"), dict):
        value = {**value, "subtype": None, **value["message"]}
    stamp = value.get("ts")
    subtype = None if value.get("subtype") is None else str(value["subtype"])
    if not isinstance(stamp, str) or not re.fullmatch(r"\d{1,11}(\.\d{1,9})?", stamp):
        return Rejected(at, "ts: is not a timestamp")
    at = f"{origin}:{stamp}"
    if subtype not in KEPT_SUBTYPES or value.get("hidden") is True:
        known = (
            SUBTYPES.get(subtype, "a notice of Slack's own") if isinstance(subtype, str) else "a notice of Slack's own"
        )
        return Rejected(at, known, aside=True)
    person = value.get("user")
    if not isinstance(person, str) or not person:
        return Rejected(at, "a bot's message" if value.get("bot_id") else "nobody is named as its author", aside=True)
    if person in export.bots or (value.get("bot_id") and subtype != "me_message"):
        return Rejected(at, "a bot's message", aside=True)
    if isinstance(value.get("user_profile"), dict) and person not in export.people.numbers:
        known_user(
            export.people, export.bots, {"id": person, "profile": value["user_profile"], **value["user_profile"]}
        )
    export.people.number(person)
    raw = raw_text(value)
    if len(raw) > LONGEST:
        return Rejected(at, f"longer than {LONGEST:,} characters")
    if subtype == "file_share" and re.match(r"<@\w+(\|[^>]*)?> uploaded a file:", raw):
        return Rejected(at, "a file was shared, without a word", aside=True)
    return Said(
        person=person,
        time_s=float(stamp),
        text=plain(raw, export),
        origin=at,
        stamp=stamp,
        names=tuple(MENTION.findall(raw)),
        addressed=addressed(raw),
        reactions=reactions(value.get("reactions")),
    )


def raw_text(value: Mapping[str, Any]) -> str:
    """The text as Slack wrote it; where it is empty, what its blocks or a shared message say."""
    text = value.get("text")
    if isinstance(text, str) and text.strip():
        return text
    found: list[str] = []
    blocks = value.get("blocks")
    stack = list(reversed(blocks)) if isinstance(blocks, list) else []
    while stack and len(found) < 1000:
        block = stack.pop()
        if not isinstance(block, dict):
            continue
        if isinstance(block.get("text"), str):
            found.append(block["text"])
        elif isinstance(block.get("text"), dict):
            stack.append(block["text"])
        if isinstance(block.get("url"), str) and "text" not in block:
            found.append(f"<{block['url']}>")
        inside = block.get("elements")
        stack += list(reversed(inside)) if isinstance(inside, list) else []
    return "".join(found)


def addressed(raw: str) -> tuple[str, ...]:
    """Whom a message begins by naming."""
    begin = ADDRESS.match(raw)
    return tuple(MENTION.findall(begin[1])) if begin else ()


def plain(raw: str, export: Export) -> str:
    """A message as Markdown, without the names it begins with, people under their other names."""

    def named(kind: str, key: str) -> str:
        return export.people.called(key.split("|")[0]) if kind == "user" else export.channels.get(key, key)

    begin = ADDRESS.match(raw)
    text = markdown_of(raw[begin.end() :] if begin else raw, named)
    return export.people.clean(text)


def reactions(value: Any) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(emoji, who) of what a message's reactions say."""
    found = []
    for reaction in value if isinstance(value, list) else []:
        if isinstance(reaction, dict) and isinstance(reaction.get("name"), str):
            users = reaction.get("users")
            who = tuple(user for user in users if isinstance(user, str)) if isinstance(users, list) else ()
            found.append((reaction["name"], who))
    return tuple(found)


def row_of(outcome: Outcome, channel: str, export: Export) -> Read:
    """A row with `messages`, or why a message is part of none."""
    if not isinstance(outcome, Answered):
        return Rejected(outcome.said.origin, outcome.reason, aside=True)
    question, answer = outcome.question, outcome.answer
    if not_enough := thin(outcome):
        return Rejected(question.origin, not_enough, aside=True)
    return Row(
        {
            "messages": [{"role": role, "content": text} for role, text in outcome.turns],
            "channel": channel,
            "people": [export.people.called(person) for person in outcome.people],
            "confidence": round(outcome.confidence, 3),
            "signals": list(outcome.signals),
            "answer_ts": answer.stamp,
            "made": "human",
            "date": datetime.fromtimestamp(question.time_s, UTC).date().isoformat(),
            "group": f"{channel}/{question.stamp}",
        },
        question.origin,
    )


def thin(outcome: Answered) -> str | None:
    """Why an answered question teaches nothing: what is said lies elsewhere."""
    question, answer = outcome.turns[0][1], outcome.turns[-1][1]
    if not URL.sub("", question).strip():
        return "the question is only a link"
    if chatter(answer) == "no words" or not answer.strip():
        return "the answer has no words"
    return None
