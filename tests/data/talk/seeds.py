"""Small whole files of every kind that talk comes in, for tests that spoil them: file name -> bytes."""

from __future__ import annotations

import io
import json
import zipfile

from data.talk.workspace import desk, users


def seeds():
    """One file of each kind, as people export it."""
    channels, *_ = desk()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("users.json", json.dumps(users()))
        archive.writestr("channels.json", json.dumps([{"id": "C001", "name": "help-desk"}]))
        for channel, said in channels.items():
            archive.writestr(f"{channel}/2019-01-01.json", json.dumps(said))
    mail = (
        b"From a@x.org Sat Jul 20 09:00:00 2019\nMessage-ID: <1@x>\nFrom: Ann <ann@roe.com>\nSubject: Invoices\n"
        b"Date: Sat, 20 Jul 2019 09:00:00 +0000\nContent-Type: text/html; charset=utf-8\n\n<p>How do I export "
        b"<b>invoices</b>?</p>\n\nFrom b@x.org Sat Jul 20 10:00:00 2019\nMessage-ID: <2@x>\nIn-Reply-To: <1@x>\n"
        b"From: Tom <tom@acme.com>\nSubject: Re: Invoices\nDate: Sat, 20 Jul 2019 10:00:00 +0000\n\n"
        b"Open Billing and choose Export.\n\nOn Sat, Ann wrote:\n> How do I\n"
    )
    comments = [{"author_id": 7, "body": "It burns.", "public": True}, {"author_id": 9, "body": "Unplug it, please."}]
    ticket = {"id": 1, "subject": "Fire", "status": "solved", "requester_id": 7, "comments": comments}
    talk = {
        "source": {"body": "<p>How?</p>", "author": {"type": "user", "id": "1"}},
        "conversation_parts": {"conversation_parts": [{"body": "<p>So.</p>", "author": {"type": "admin", "id": "2"}}]},
    }
    table = (
        "Ticket ID,Ticket Subject,Ticket Description,Ticket Status,Resolution\n1,Fire,It burns.,Closed,Unplug it now.\n"
    )
    dialogue = {"convo_id": 1, "scenario": {}, "original": [["customer", "hello, it burns"], ["agent", "unplug it"]]}
    return {
        "slack.zip": packed.getvalue(),
        "box.mbox": mail,
        "zendesk.json": json.dumps({"tickets": [ticket]}).encode(),
        "intercom.jsonl": json.dumps(talk).encode(),
        "tickets.csv": table.encode(),
        "abcd.json": json.dumps([dialogue]).encode(),
    }
