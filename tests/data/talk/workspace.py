"""Writes Slack exports for tests: the made-up workspace of desk.txt, with its labels, or a few messages."""

from __future__ import annotations

import json
import re
from pathlib import Path

PEOPLE = {
    "ana": "Ana Silva", "ben": "Ben Okafor", "cat": "Catherine Moss", "dan": "Daniel Petrov", "eve": "Eve Lindqvist",
    "fay": "Fay Nakamura", "gus": "Gustavo Rey", "hal": "Hal Brennan",
}  # fmt: skip
CHANNELS = {"help-desk": "C001", "dev": "C002", "data": "C003"}
DAY_S = 1_546_300_800
"""2019-01-01, midnight."""
LINE = re.compile(r"(\S+)\s+(\d\d):(\d\d):(\d\d)\s+(\w+)\s*\|([^|]*)\|\s?(.*)")


def user(name):
    return f"U0{name.upper()}"


def users():
    return [
        {"id": user(name), "name": name, "real_name": real, "profile": {"display_name": name, "real_name": real}}
        for name, real in PEOPLE.items()
    ]


def write_export(folder, channels, lists=True):
    """{channel: [message]} as Slack lays it out."""
    folder.mkdir(parents=True, exist_ok=True)
    if lists:
        (folder / "users.json").write_text(json.dumps(users()))
        (folder / "channels.json").write_text(json.dumps([{"id": CHANNELS.get(c, c), "name": c} for c in channels]))
    for channel, messages in channels.items():
        (folder / channel).mkdir(exist_ok=True)
        (folder / channel / "2019-01-01.json").write_text(json.dumps(messages))
    return folder


def message(at_s, name, text, **more):
    return {"type": "message", "user": user(name), "text": text, "ts": f"{DAY_S + at_s}.000100", **more}


def desk():
    """(channels of desk.txt, {(channel, ts of the question): ts of the answer}, unanswered questions)."""
    channels, marked = {}, {}
    channel = ""
    for line in (Path(__file__).parent / "desk.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        if line.startswith("channel "):
            channel = line.split()[1]
            channels[channel] = []
            continue
        mark, hour, minute, second, name, about, text = LINE.fullmatch(line).groups()
        made = message(int(hour) * 3600 + int(minute) * 60 + int(second), name, "")
        made["text"] = re.sub(r"<@(\w+)>", lambda found: f"<@{user(found[1])}>", text)
        for word in about.split():
            if word.startswith(">"):
                made["thread_ts"] = marked[channel, word[1:]]
                root = next(m for m in channels[channel] if m["ts"] == made["thread_ts"])
                root.update(thread_ts=root["ts"], reply_count=root.get("reply_count", 0) + 1)
            else:
                emoji, _, who = word.partition(":")
                made.setdefault("reactions", []).append(
                    {"name": emoji, "users": [user(w) for w in who.split(",")], "count": len(who.split(","))}
                )
        channels[channel].append(made)
        if mark != "-":
            marked[channel, mark] = made["ts"]
    right = {
        (where, ts): marked[where, f"A{mark[1:]}"]
        for (where, mark), ts in marked.items()
        if mark[0] == "Q" and (where, f"A{mark[1:]}") in marked
    }
    unanswered = {
        (where, ts) for (where, mark), ts in marked.items() if mark[0] == "Q" and (where, f"A{mark[1:]}") not in marked
    }
    return channels, right, unanswered
