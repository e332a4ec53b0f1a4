"""Tickets: Zendesk's, Intercom's and anybody's tables; what solved them, and why the others are left out."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.base.nouns import Rejected, Row
from luthier.base.source import Source
from luthier.data.dataset import read_dataset
from luthier.data.talk.people import People
from luthier.data.talk.plain import own_words, text_of_html
from luthier.data.talk.support import SHAPES
from luthier.data.talk.tickets import row_of


def read(tmp_path, name, text, **settings):
    (tmp_path / name).write_text(text if isinstance(text, str) else json.dumps(text))
    return read_dataset("desk", Source(path=name, **{"heldout": 0, "max_rejected": 1, **settings}), tmp_path)


def turns(chat):
    return [(turn.role, turn.content) for turn in chat.messages]


def said(author, text, public=True, **more):
    return {"author_id": author, "body": text, "public": public, **more}


def ticket(*comments, **more):
    return {"id": 1, "subject": "Printer", "status": "solved", "requester_id": 7, "comments": list(comments), **more}


FIRE = said(7, "My printer is on fire.\n\n-- \nJane Roe\n+1 415 844 9759")
FIX = said(
    9, "Hi Jane,\n\nplease unplug it and open the rear door, then wait an hour.\n\nBest regards,\nTom\nAcme Support"
)
THANKS = said(7, "That worked, thanks!\n\nOn Mon, Jul 22, 2019 at 9:00 AM Tom <support@acme.com> wrote:\n> unplug it")
BYE = said(9, "You're welcome, have a nice day!")
NOTE = said(9, "she is a VIP, be nice", public=False)
RULE = said(-1, "Your request (35436) has been received.", via={"channel": "rule"})
PROMISE = said(9, "Thank you for contacting us, we will look into it.")
AGAIN = said(7, "Still the same, what else can I do?")
ANSWER = "Hi Person 1,\n\nplease unplug it and open the rear door, then wait an hour."


def test_zendesk_the_reply_that_solved_it_without_notes_rules_and_good_byes(tmp_path):
    whole = ticket(
        FIRE,
        RULE,
        NOTE,
        PROMISE,
        FIX,
        THANKS,
        BYE,
        satisfaction_rating={"score": "good"},
        created_at="2019-07-20T22:55:29Z",
    )
    whole["requester"] = {"id": 7, "name": "Jane Roe"}
    data = read(tmp_path, "tickets.json", {"tickets": [whole]})
    assert turns(data.train[0]) == [("user", "My printer is on fire."), ("assistant", ANSWER)]
    meta = data.train[0].meta
    assert {"solved", "the customer was satisfied", "the customer said thanks"} <= set(meta["signals"])
    assert (meta["date"], meta["group"], meta["ticket"], meta["confidence"]) == ("2019-07-20", "Person 1", "1", 0.99)
    assert data.notes[0] == "an export of Zendesk's tickets: read as a whole, as conversations"


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (ticket(FIRE, FIX, status="open"), 'not solved: its status is "open"'),
        (ticket(FIRE, FIX, satisfaction_rating={"score": "bad"}), "the customer was not satisfied"),
        (ticket(FIRE, NOTE, RULE), "only notes and automatic messages answer"),
        (ticket(FIRE), "nobody answered"),
        (ticket(FIRE, PROMISE), "no reply says more than that someone will look at it"),
        (ticket(FIRE, FIX, AGAIN, status=None), "the customer asked again, and nobody answered"),
    ],
)  # fmt: skip
def test_a_ticket_that_teaches_nothing_says_why(made, reason):
    assert row_of(SHAPES["zendesk"][1](made), "t[0]", People()) == Rejected("t[0]", reason, aside=True)


def test_a_ticket_with_several_rounds_is_a_conversation():
    again = said(7, "Unplugged. The door is stuck, how do I open it?")
    made = row_of(
        SHAPES["zendesk"][1](ticket(FIRE, FIX, again, said(9, "Press the green lever down and pull."), THANKS)),
        "t",
        People(),
    )
    assert isinstance(made, Row)
    assert [turn["role"] for turn in made.fields["messages"]] == ["user", "assistant", "user", "assistant"]
    assert made.fields["messages"][-1]["content"] == "Press the green lever down and pull."


def test_intercom_conversations_without_notes_bots_and_html(tmp_path):
    part = lambda kind, body, part_type="comment", who="1": {  # noqa: E731
        "part_type": part_type, "body": body,
        "author": {"type": kind, "id": who, "name": {"1": "Ann Lee", "2": "Bo"}[who]},
    }  # fmt: skip
    row = {
        "type": "conversation", "id": "55", "state": "closed", "created_at": 1563663329,
        "source": {"subject": "", "body": "<p>How do I export my invoices?</p>",
                   "author": {"type": "user", "id": "1", "name": "Ann Lee"}},
        "conversation_rating": {"rating": 5},
        "conversation_parts": {"conversation_parts": [
            part("bot", "<p>You'll get a reply in 5 minutes</p>", who="2"),
            part("admin", "<p>bug 123?</p>", "note", "2"),
            part("admin", "<p>Hi Ann,</p><ul><li>open <b>Billing</b></li>"
                          "<li>choose <a href='https://x.org/e'>Export</a></li></ul>", who="2"),
            {"part_type": "assignment", "body": None, "author": {"type": "admin", "id": "2"}},
            part("user", "<p>great, thanks</p>"),
        ]},
    }  # fmt: skip
    data = read(tmp_path, "conversations.jsonl", json.dumps(row))
    answer = "Hi Person 1,\n\n- open Billing\n- choose [Export](https://x.org/e)"
    assert turns(data.train[0]) == [("user", "How do I export my invoices?"), ("assistant", answer)]
    assert data.train[0].meta["date"] == "2019-07-20"


def test_a_table_of_tickets_with_spelled_out_columns(tmp_path):
    text = (
        "Ticket ID,Customer Name,Ticket Subject,Ticket Description,Ticket Status,Resolution,"
        "Customer Satisfaction Rating\n"
        '1,Marisa Obrien,Setup,"My GoPro does not start, Marisa here.",Closed,'
        '"Hold the power button for ten seconds, Marisa.",5\n'
        "2,Jessica Rios,Network,My TV is offline.,Closed,Fixed,3\n"
        "3,Jessica Rios,Network,My TV is offline.,Open,,\n"
    )
    data = read(tmp_path, "tickets.csv", text)
    question = "Setup\n\nMy GoPro does not start, Person 1 here."
    assert [turns(chat) for chat in data.train] == [
        [("user", question), ("assistant", "Hold the power button for ten seconds, Person 1.")]
    ]
    assert data.train[0].origin == "tickets.csv:2"
    assert [(row.origin, row.reason) for row in data.rejected] == [
        ("tickets.csv:3", 'its resolution says only "Fixed"'),
        ("tickets.csv:4", 'not solved: its status is "open"'),
    ]


def test_a_table_of_comments_is_gathered_by_ticket_and_columns_are_renamed(tmp_path):
    text = (
        "Ticket ID,Author Type,Text,Public\n"
        "7,customer,How do I cancel my plan?,true\n8,customer,Where is my invoice?,true\n"
        "7,agent,he is angry,false\n7,agent,Under Settings choose Plan and then Cancel.,true\n"
    )
    data = read(tmp_path, "comments.csv", text, columns={"body": "Text"})
    assert [turns(chat) for chat in data.train] == [
        [("user", "How do I cancel my plan?"), ("assistant", "Under Settings choose Plan and then Cancel.")]
    ]
    assert [(row.origin, row.reason) for row in data.rejected] == [("comments.csv:3", "nobody answered")]


def test_questions_and_answers_are_no_tickets(tmp_path):
    row = {"subject": "algebra", "question": "2+2?", "choices": ["3", "4"], "answer": 1, "description": "x"}
    assert read(tmp_path, "q.jsonl", json.dumps(row)).format == "choices"
    assert (
        read(tmp_path, "qa.jsonl", '{"question": "a", "answer": "b", "comments": ["x"], "subject": "y"}').format == "qa"
    )


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("Yes.\n\n> Did you?\n> Really?\nBest,\nTom", "Yes."),
        ("Yes.\nOn Monday, Tom Agent <tom@acme.com>\nwrote:\n> Did you?", "Yes."),
        ("Yes.\n\n-----Original Message-----\nFrom: Tom\nDid you?", "Yes."),
        ("Yes.\n\nFrom: Tom <t@acme.com>\nSent: Monday\nTo: Jane\nDid you?", "Yes."),
        ("Yes.\n\nSent from my iPhone", "Yes."),
        ("Yes.\n\nThis e-mail and any attachments are confidential and intended for the addressee.", "Yes."),
        ("Am Montag schrieb Tom <t@acme.com>:\n> Warum?\n\nDarum.", "Darum."),
        (
            "Thanks for the report.\nThe fix is in version 2.\n\nThanks,\nTom",
            "Thanks for the report.\nThe fix is in version 2.",
        ),
        (
            "Best regards are what I end with. How do I add them?",
            "Best regards are what I end with. How do I add them?",
        ),
        ("Use:\n\n    a -- b\n\nand from: x", "Use:\n\n    a -- b\n\nand from: x"),
    ],
)
def test_only_the_authors_own_words_are_left(text, own):
    assert own_words(text) == own


def test_html_of_a_mail_as_text():
    html = (
        "<html><head><style>p{}</style></head><body><p>Hi&nbsp;Ann,<br>do  this:</p><ol><li>one<li>two</ol>"
        '<script>x()</script><p>See <a href="https://x.org/a">https://x.org/a</a></p>'
        '<div class="gmail_quote">On Monday '
        "<blockquote>old</blockquote></div><div class=gmail_signature>Tom</div></body>"
    )
    assert text_of_html(html) == "Hi Ann,\ndo this:\n\n- one\n- two\n\nSee https://x.org/a"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
COLUMNS = [
    "subject", "description", "comments", "status", "requester_id", "satisfaction_rating",
    "created_at", "source", "conversation_parts", "requester", "resolution", "id",
    "author", "body", "via", "state", "reply",
]  # fmt: skip


@given(st.dictionaries(st.sampled_from(COLUMNS), JSON), st.sampled_from(sorted(SHAPES)))
def test_no_row_breaks_a_shape(fields, shape):
    made = row_of(SHAPES[shape][1](fields), "x[0]", People())
    if isinstance(made, Row):
        roles = [turn["role"] for turn in made.fields["messages"]]
        assert roles[0] == "user" and roles[-1] == "assistant"


@given(st.text(alphabet=st.sampled_from("<>/=\"' apdivblockquotescr\n&;-_:On wrote")))
def test_no_text_breaks_what_cleans_it(text):
    assert isinstance(own_words(text_of_html(text)), str)
