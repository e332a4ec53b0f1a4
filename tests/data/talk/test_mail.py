"""Mail: threads by reference and by subject, encodings, HTML, what machines send, and broken files."""

from __future__ import annotations

import gzip
import io
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.base.nouns import Row
from luthier.base.source import Source
from luthier.data.dataset import read_dataset
from luthier.data.entries import Entry
from luthier.data.talk.mail import mail_rows

START = datetime(2019, 7, 20, 9, tzinfo=UTC)


def mail(key, sender, subject, text, hours=0, reply=None, html=None, **headers):
    made = EmailMessage()
    made["Message-ID"], made["From"], made["To"], made["Subject"] = f"<{key}@x>", sender, "help@acme.com", subject
    made["Date"] = format_datetime(START + timedelta(hours=hours))
    if reply:
        made["In-Reply-To"] = f"<{reply}@x>"
    for name, value in headers.items():
        made[name.replace("_", "-")] = value
    made.set_content(html if html else text, subtype="html" if html else "plain")
    return made


ANN, TOM = "Ann Lee <ann@roe.com>", "Tom Agent <tom@acme.com>"
ASKED = mail(
    "1", ANN, "Invoices", "Hello,\n\nhow do I export my invoices? Reach me at +1 415 844 9759.\n\n-- \nAnn Lee"
)
ANSWERED = mail("2", TOM, "Re: Invoices", "Hi Ann,\n\nopen Billing and choose Export, you get a CSV file.\n\n"
                "Best regards,\nTom\n\n"
                "On Sat, Jul 20, 2019, Ann Lee <ann@roe.com> wrote:\n> how do I export", 2, reply="1")  # fmt: skip
THANKED = mail("3", ANN, "Re: Invoices", "That worked, thanks a lot!", 3, reply="2")


def box(*mails):
    return b"".join(
        b"From x@y Sat Jul 20 09:00:00 2019\n" + bytes(made).replace(b"\nFrom ", b"\n>From ") + b"\n" for made in mails
    )


def read(tmp_path, name="box.mbox", **settings):
    return read_dataset("mail", Source(path=name, **{"heldout": 0, "max_rejected": 1, **settings}), tmp_path)


def turns(chat):
    return [(turn.role, turn.content) for turn in chat.messages]


RIGHT = [
    ("user", "Hello,\n\nhow do I export my invoices? Reach me at [phone 1]."),
    ("assistant", "Hi Person 1,\n\nopen Billing and choose Export, you get a CSV file."),
]


def test_a_thread_is_what_was_asked_and_what_answered(tmp_path):
    (tmp_path / "box.mbox").write_bytes(box(THANKED, ASKED, ANSWERED))  # in no order
    data = read(tmp_path)
    assert [turns(chat) for chat in data.train] == [RIGHT]
    assert data.train[0].origin == "box.mbox[1]" and data.train[0].meta["date"] == "2019-07-20"
    assert "the asker said thanks" in data.train[0].meta["signals"]
    assert [(row.origin, row.reason) for row in data.rejected] == [("box.mbox[0]", "thanks")]


@pytest.mark.parametrize("kind", ["folder", "gz"])
def test_single_mails_and_packed_boxes_are_the_same(tmp_path, kind):
    if kind == "gz":
        (tmp_path / "box.mbox.gz").write_bytes(gzip.compress(box(ASKED, ANSWERED)))
        data = read(tmp_path, "box.mbox.gz")
    else:
        (tmp_path / "box").mkdir()
        for name, made in (("a.eml", ANSWERED), ("b.eml", ASKED)):
            (tmp_path / "box" / name).write_bytes(bytes(made))
        data = read(tmp_path, "box")
    assert [turns(chat) for chat in data.train] == [RIGHT]


def test_without_references_the_subject_ties_an_answer_to_its_question(tmp_path):
    plain = mail("9", TOM, "AW: Invoices", "Open Billing and choose Export there.", 5)
    other = mail("8", TOM, "Re: Invoices", "This belongs to a mail of last year, it is not here.", 24 * 90)
    (tmp_path / "box.mbox").write_bytes(box(ASKED, plain, other))
    data = read(tmp_path)
    assert [chat.answer for chat in data.train] == ["Open Billing and choose Export there."]
    assert ("box.mbox[2]", "nobody answered") in [(row.origin, row.reason) for row in data.rejected]


def test_html_encodings_and_attachments(tmp_path):
    asked = mail(
        "1",
        "=?utf-8?q?J=C3=BCrgen?= <j@roe.com>",
        "=?iso-8859-1?q?Gr=FC=DFe?=",
        "",
        html="<p>Wie ändere ich <b>mein</b> Passwort?</p>",
    )
    asked.add_attachment(b"secret", maintype="application", subtype="pdf", filename="x.pdf")
    raw = bytes(mail("2", TOM, "x", "Unter Konto, Jürgen.", 1, reply="1"))
    raw = raw.replace("Jürgen".encode(), "Jürgen".encode("latin-1")).replace(b"utf-8", b"x-unknown")
    (tmp_path / "box").mkdir()
    (tmp_path / "box" / "a.eml").write_bytes(bytes(asked))
    (tmp_path / "box" / "b.eml").write_bytes(raw)
    chat = read(tmp_path, "box").train[0]
    assert turns(chat) == [("user", "Grüße\n\nWie ändere ich mein Passwort?"), ("assistant", "Unter Konto, Person 1.")]


def test_what_machines_send_is_left_out(tmp_path):
    away = mail(
        "4",
        TOM,
        "Out of office",
        "I am away until Monday and answer then.",
        1,
        reply="1",
        Auto_Submitted="auto-replied",
    )
    daemon = mail("5", "MAILER-DAEMON@acme.com", "Undelivered", "It failed.", 1, reply="1")
    (tmp_path / "box.mbox").write_bytes(box(ASKED, away, daemon, ANSWERED))
    data = read(tmp_path)
    assert [turns(chat) for chat in data.train] == [RIGHT]
    assert [row.reason for row in data.rejected] == ["an automatic mail", "an automatic mail"]


MULTIPART = b"Content-Type: multipart/mixed; boundary=x"


@given(
    st.binary(max_size=300)
    | st.lists(
        st.sampled_from([*bytes(ASKED).split(b"\n"), b"", b"From a@b 2019", b"\xff\xfe", MULTIPART, b"--x"])
    ).map(b"\n".join)
)
def test_no_bytes_break_the_reader(data):
    for name in ("x.mbox", "x.eml"):
        rows = list(mail_rows([Entry(name, len(data), lambda: io.BytesIO(data))], "replace"))
        assert rows and not any(isinstance(row, Row) for row in rows)
