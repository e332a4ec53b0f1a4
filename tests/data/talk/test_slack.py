"""Slack exports: a labelled workspace, Slack's markup, people under other names, and everything that can be broken."""

from __future__ import annotations

import io
import json
import zipfile
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.talk.workspace import PEOPLE, desk, message, user, users, write_export
from luthier.base.errors import UserError
from luthier.base.nouns import Rejected, Row
from luthier.base.source import Source
from luthier.data.dataset import read_dataset, reasons
from luthier.data.entries import Entry, entries_of
from luthier.data.talk.markup import markdown_of
from luthier.data.talk.slack import is_export, slack_rows


def read(folder, **settings):
    return read_dataset("slack", Source(path=folder.name, **{"heldout": 0, **settings}), folder.parent)


def texts(data):
    return [[(turn.role, turn.content) for turn in chat.messages] for chat in data.train]


def test_the_labelled_workspace_gives_the_right_replies(tmp_path):
    """22 answered questions, 4 unanswered ones. What is found must be right, and at least 21 of the 22 are found."""
    channels, right, unanswered = desk()
    data = read(write_export(tmp_path / "export", channels))
    found = {(chat.meta["channel"], chat.origin.rpartition(":")[2]): chat.meta["answer_ts"] for chat in data.train}
    assert len(right) == 22 and len(unanswered) == 4
    assert found.items() <= right.items()
    assert len(found) >= 21
    assert not found.keys() & unanswered


def test_every_message_is_in_a_conversation_or_has_its_reason(tmp_path):
    channels, *_ = desk()
    data = read(write_export(tmp_path / "export", channels))
    there = {f"export/{c}/2019-01-01.json:{message['ts']}" for c, said in channels.items() for message in said}
    told = [row.origin for row in data.rejected]
    assert len(told) == len(set(told)) and set(told) <= there
    assert all(row.aside for row in data.rejected)
    used = {chat.origin for chat in data.train}
    assert not used & set(told) and used <= there
    answers = sum(len(turn.content.split("\n")) for chat in data.train for turn in chat.messages)
    assert len(told) + answers == len(there)  # each message of the workspace is one line


def test_a_thread_with_turns_is_one_conversation_without_its_chatter(tmp_path):
    channels, *_ = desk()
    data = read(write_export(tmp_path / "export", channels))
    chat = next(chat for chat in data.train if "payment gateway" in chat.messages[0].content)
    assert [(turn.role, turn.content) for turn in chat.messages] == [
        (
            "user",
            "After the upgrade I'm getting a timeout exception from the payment gateway in every second request. "
            "Any ideas?",
        ),
        ("assistant", "Which environment?"),
        ("user", "staging"),
        ("assistant", "Have you tried to restart the pods?"),
        ("user", "yes, no luck, still the same"),
        (
            "assistant",
            "The gateway rate-limits us there since last week: set `PAYMENT_MAX_RPS=5` in the staging values and it "
            "goes away.",
        ),
    ]
    assert {"in the thread", "marked as solved", "liked by the asker"} <= set(chat.meta["signals"])
    assert chat.meta["group"] == f"dev/{chat.origin.rpartition(':')[2]}" and chat.meta["date"] == "2019-01-01"


def test_people_have_one_other_name_in_all_channels_and_texts(tmp_path):
    said = [message(0, "ana", f"<@{user('ben')}>: how do we rotate the keys of the gateway?")]
    said.append(message(60, "ben", f"Ask Catherine Moss or cat, <@{user('ana')}>; Ben has no key, his will is frank"))
    more = [message(0, "cat", "where is the list of gateways for Daniel?"), message(9, "ben", "In Petrov's folder.")]
    data = read(write_export(tmp_path / "export", {"one": said, "two": more}))
    assert texts(data) == [
        [
            ("user", "how do we rotate the keys of the gateway?"),
            ("assistant", "Ask Person 3 or cat, @Person 1; Person 2 has no key, his will is frank"),
        ],
        [("user", "where is the list of gateways for Person 4?"), ("assistant", "In Person 4's folder.")],
    ]
    assert [chat.meta["people"] for chat in data.train] == [["Person 1", "Person 2"], ["Person 3", "Person 2"]]
    kept = read(tmp_path / "export", private="keep")
    assert kept.train[0].answer.startswith("Ask Catherine Moss or cat, @Ana Silva")


def test_without_users_ids_are_people_and_profiles_in_messages_count(tmp_path):
    said = [
        message(0, "ana", "how do I restart the worker? Zed knows"),
        message(60, "ben", "Use `supervisorctl`, Ana Zed."),
    ]
    said[0]["user_profile"] = {"real_name": "Ana Zed", "display_name": "azed"}
    data = read(write_export(tmp_path / "export", {"one": said}, lists=False))
    assert texts(data) == [
        [("user", "how do I restart the worker? Person 1 knows"), ("assistant", "Use `supervisorctl`, Person 1.")]
    ]


def test_a_channels_folder_alone_knows_the_users_above_it(tmp_path):
    channels, *_ = desk()
    write_export(tmp_path / "export", channels)
    whole = [chat for chat in read(tmp_path / "export").train if chat.meta["channel"] == "dev"]
    alone = read(tmp_path / "export" / "dev")
    assert texts(alone) == [[(turn.role, turn.content) for turn in chat.messages] for chat in whole]


def test_direct_messages_are_read_only_by_name(tmp_path):
    said = [
        message(0, "ana", "what is the salary band of level 4?"),
        message(60, "ben", "Between 50 and 60, see the table."),
    ]
    write_export(tmp_path / "export", {"D01": said, "one": [message(0, "ana", "how do I book a room?")]})
    (tmp_path / "export" / "dms.json").write_text('[{"id": "D01", "members": []}]')
    with pytest.raises(UserError, match="not one usable row"):
        read(tmp_path / "export")
    assert len(read(tmp_path / "export" / "D01").train) == 1


def test_a_zip_is_read_like_its_folder(tmp_path):
    channels, *_ = desk()
    write_export(tmp_path / "export", channels)
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as packed:
        for file in sorted((tmp_path / "export").rglob("*.json")):
            packed.write(file, file.relative_to(tmp_path / "export"))
        packed.writestr("../outside.json", "[]")
        packed.writestr("__MACOSX/dev/2019-01-01.json", "junk")
    entries, broken = entries_of([tmp_path / "export.zip"], tmp_path / "export.zip")
    assert broken == [
        Rejected("export.zip/../outside.json", "its name leads out of the archive. Pack it under a plain one")
    ]
    assert is_export(entries)
    files = sorted((tmp_path / "export").rglob("*.json"))
    folder = [
        row for row in slack_rows(entries_of(files, tmp_path / "export")[0], (), "replace") if isinstance(row, Row)
    ]
    packed_rows = [row for row in slack_rows(entries, (), "replace") if isinstance(row, Row)]
    assert [row.fields for row in packed_rows] == [row.fields for row in folder]
    assert packed_rows[0].origin == folder[0].origin.replace("export/", "export.zip/")


@pytest.mark.parametrize(
    ("slack", "markdown"),
    [
        ("see <https://x.org/a?b=1&amp;c=2|the page>", "see [the page](https://x.org/a?b=1&c=2)"),
        ("<https://x.org/|x.org> <https://x.org>", "https://x.org/ https://x.org"),
        ("<@U1> in <#C1|general> and <#C2>, <!here> <!subteam^S1|@devs> <!date^1^{date}|Monday>", None),
        ("mail <mailto:a@b.co|a@b.co> or <tel:28919.8689|28919.8689>", "mail a@b.co or 28919.8689"),
        ("*bold* _it_ ~gone~ 2*3*4 a~b", "**bold** _it_ ~~gone~~ 2*3*4 a~b"),
        ("`<http://x.org|x.org>` and `a*b*c &lt;T&gt;`", "`x.org` and `a*b*c <T>`"),
        ("run ```make *all* &amp;&amp; ls``` now", "run \n```\nmake *all* && ls\n```\n now"),
        (":tada: done :party_parrot: :+1::skin-tone-2: 10:20:30", "🎉 done :party_parrot: 👍 10:20:30"),
        ("&lt;T&gt; &amp; a &amp;amp; b", "<T> & a &amp; b"),
        ("<https://x.org/a_b*c*d~e~f|*label*>", "[*label*](https://x.org/a_b*c*d~e~f)"),
    ],
)
def test_slacks_markup_becomes_markdown(slack, markdown):
    named = {("user", "U1"): "Person 1", ("channel", "C2"): "random"}
    expected = markdown or "@Person 1 in #general and #random, @here @devs Monday"
    assert markdown_of(slack, lambda kind, key: named[kind, key]) == expected


def test_bots_notices_files_and_broken_messages_have_their_reasons(tmp_path):
    said = [
        message(0, "ana", "how do I book a meeting room?"),
        message(5, "ana", "joined", subtype="channel_join"),
        {"type": "message", "subtype": "bot_message", "bot_id": "B1", "text": "failed", "ts": "1546300806.000100"},
        {"type": "message", "user": "USLACKBOT", "text": "Reminder: lunch", "ts": "1546300807.000100"},
        message(8, "ben", "<@U0BEN> uploaded a file: <https://x|plan>", subtype="file_share"),
        message(60, "ben", "In the calendar, choose a room under Resources.", edited={"user": "U0BEN", "ts": "1"}),
        message(60, "ben", "In the calendar, choose a room under Resources."),
        {"type": "message", "user": "U0BEN", "text": "no time"},
        {"type": "message", "user": "U0BEN", "text": None, "ts": "1546300990.000100"},
        {"type": "message", "user": ["U0BEN"], "text": "x", "ts": "1546300991.000100", "reactions": {"name": 1}},
        "text", None, 7, [],
        message(99, "eve", "x" * 50_000),
        message(120, "cat", "", blocks=[{"elements": [{"elements": [{"text": "how are rooms cleaned?"}]}]}]),
        message(130, "dan", "At night, by the company that cleans the rest of the building."),
    ]  # fmt: skip
    data = read(write_export(tmp_path / "export", {"one": said}), max_rejected=1)
    assert [chat.messages[0].content for chat in data.train] == [
        "how do I book a meeting room?",
        "how are rooms cleaned?",
    ]
    assert dict(reasons(data.rejected)) == {
        "someone joined or left": 1,
        "a bot's message": 2,
        "a file was shared, without a word": 1,
        "the same message again": 1,
        "ts: is not a timestamp": 1,
        "no text": 1,
        "nobody is named as its author": 1,
        "a string, where a message is needed": 1,
        "null, where a message is needed": 1,
        "a number, where a message is needed": 1,
        "a list, where a message is needed": 1,
        "longer than #,# characters": 1,
    }


def test_broken_files_are_told_and_the_rest_is_read(tmp_path):
    channels, *_ = desk()
    folder = write_export(tmp_path / "export", channels)
    before = len(read(folder).train)
    (folder / "users.json").write_text("{")
    (folder / "dev" / "2019-01-02.json").write_text('[{"ts": ')
    (folder / "dev" / "2019-01-03.json").write_text('{"ok": false}')
    (folder / "dev" / "2019-01-04.json").write_bytes(b"\xff\xfe\x00")
    data = read(folder, max_rejected=0.2)
    assert len(data.train) == before
    assert [(row.origin, row.reason.split(" ")[0]) for row in data.rejected if not row.aside] == [
        ("export/users.json", "not"),
        ("export/dev/2019-01-02.json", "not"),
        ("export/dev/2019-01-03.json", "an"),
        ("export/dev/2019-01-04.json", "not"),
    ]


def test_a_format_that_does_not_fit_and_streaming_are_told(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(UserError, match=r"data.slack.format: x.jsonl is not a Slack export"):
        read(tmp_path / "x.jsonl", format="slack")
    channels, *_ = desk()
    with pytest.raises(UserError, match=r"stream: a Slack export is read as a whole. Remove stream: true"):
        read(write_export(tmp_path / "export", channels), stream=True)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = [
    "ts",
    "user",
    "text",
    "subtype",
    "thread_ts",
    "reactions",
    "blocks",
    "user_profile",
    "message",
    "bot_id",
    "hidden",
]
SAID = st.builds(
    lambda at, name, text, more: {**message(at, name, text), **more},
    st.integers(0, 90_000),
    st.sampled_from(sorted(PEOPLE)),
    st.sampled_from(
        ["how do I reset it?", "thanks!", "Use the form: <https://x.org|x>", "<@U0ANA> no idea", "<", "```", "*~_:"]
    )
    | st.text(max_size=20),
    st.dictionaries(st.sampled_from(KEYS), JSON, max_size=2),
)


def memory(origin, value):
    data = json.dumps(value).encode()
    return Entry(origin, len(data), lambda: io.BytesIO(data))


@given(st.lists(SAID | JSON, max_size=12), JSON | st.just(users()))
def test_nothing_that_json_can_hold_breaks_the_reader(values, people):
    entries = [memory("x/users.json", people), memory("x/one/2019-01-01.json", values)]
    rows = list(slack_rows(entries, (), "replace"))
    for row in rows:
        assert row.origin.startswith("x/")
        if isinstance(row, Row):
            roles = [turn["role"] for turn in row.fields["messages"]]
            assert roles[0] == "user" and roles[-1] == "assistant"
            assert all(a != b for a, b in pairwise(roles))
            assert all(turn["content"].strip() for turn in row.fields["messages"])


def test_a_busy_channel_costs_as_much_per_message_as_a_quiet_one():
    """5,000 messages, of which every one could answer: conversations end, and what is open stays little."""
    names = sorted(PEOPLE)
    said = [
        message(at * 45, names[at * 7 % 8], "how do I do it?" if at % 5 == 0 else f"Use the form number {at}, please.")
        for at in range(5_000)
    ]
    rows = [row for row in slack_rows([memory("x/one/2019-01-01.json", said)], (), "replace") if isinstance(row, Row)]
    assert max(len(row.fields["messages"]) for row in rows) <= 60 < len(rows)
