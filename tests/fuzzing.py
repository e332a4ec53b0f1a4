"""Seeds of every kind of file that data may be, and what is done to them. `benchmarks/fuzz.py` does it ten thousand
times, tests/data/test_fuzz_readers.py a few; a reader is added as one line of `SEEDS`.

As a program it is the process that reads: `python tests/fuzzing.py FOLDER` takes a case a line on its standard input,
"html 17", and answers with what became of it, so that whoever asks can see it crash, hang or grow.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import re
import resource
import sys
import traceback
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from papers import (
    FAQ,
    FAQ_PAGE,
    PAGE,
    docx_of,
    page_of,
    pdf_of,
    tar_of,
    word,
    word_table,
    xlsx_of,
    zip_of,
)

LONGEST = 1 << 16
"""Bytes of a mutated file."""
ADDRESS_BYTES = 6 << 30
"""A process may map so much; how much it really used is told."""
HOSTILE = [
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\\ud800", b"\r", b"{" * 3000, b"[" * 3000, b"<b>" * 3000,
    b"&#x0;", b"9" * 5000, b"1e999", b"NaN", b'"', b"\x1f\x8b", b"PK\x03\x04", b"%PDF-1.7", b"../../etc/passwd",
    b"#" * 400, b"\n---\n", b"=cmd|' /C calc'!A0", b"<!ENTITY a '&b;'>", b"<![CDATA[", b"obj<<", b"4294967295", b"-1",
    b" " * 9000, b"**Q?**\n" * 99, "\u202e".encode(),
]  # fmt: skip


class Seed(NamedTuple):
    """A good file, and how it may be read."""

    name: str
    content: bytes
    settings: tuple[dict[str, Any], ...] = ({},)


PARTS = ({}, {"parts": "section"}, {"parts": "page"}, {"format": "faq"})
QA = 'question,answer\nHow much?,Fifty-nine\n"Who, then?","He said ""me""\nand left"\n'
MESSAGES = json.dumps({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]})


def parquet() -> bytes:
    import pyarrow
    from pyarrow import parquet

    out = io.BytesIO()
    parquet.write_table(pyarrow.table({"question": ["a", "b"] * 20, "answer": ["c", "d"] * 20}), out)
    return out.getvalue()


def document() -> bytes:
    parts = (word("Leave", "Heading1"), word("Twenty days."), word("Who asks?", "Heading2"), word("You &amp; I."))
    return docx_of("".join(parts) + word_table(("City", "Rate"), ("Rome", "59")))


def workbook() -> bytes:
    rows = [["question", "answer"], ["How much?", 59], ["When?", None], ["Who?", "You"]]
    return xlsx_of({"FAQ": rows, "Other": [["a", "b", "c"], [1, 2.5, True]]})


def slack() -> bytes:
    """An export with a thread, a reply in the channel, a reaction and a file."""

    def said(at: int, who: str, words: str, **more: Any) -> dict[str, Any]:
        return {"type": "message", "user": who, "text": words, "ts": f"15463{at:05d}.000100", **more}

    asked = said(1, "U1", "How do I reset <@U2>'s password?", thread_ts="1546300001.000100", reply_count=1)
    answered = said(9, "U2", "Open <https://x.org|settings> & press reset.", thread_ts="1546300001.000100")
    thanks = {"reactions": [{"name": "pray", "users": ["U1"], "count": 1}]}
    day = [asked, {**answered, **thanks}, said(50, "U2", "Lunch?"), said(60, "U1", "Yes", files=[{"name": "a.png"}])]
    users = [
        {"id": f"U{n}", "name": name, "profile": {"real_name": name.title()}} for n, name in ((1, "ana"), (2, "ben"))
    ]
    channels = [{"id": "C1", "name": "help"}]
    files = {"users.json": users, "channels.json": channels, "help/2019-01-01.json": day}
    return zip_of({name: json.dumps(value) for name, value in files.items()})


MAIL = """From ana@x.org Mon Jan  7 10:00:00 2019
From: Ana <ana@x.org>
To: help@y.org
Subject: =?utf-8?q?Caf=C3=A9?= is late
Message-ID: <1@x.org>
Date: Mon, 7 Jan 2019 10:00:00 +0000

Where is my order?
--\x20
Ana

From help@y.org Mon Jan  7 11:00:00 2019
From: Help <help@y.org>
To: Ana <ana@x.org>
Subject: Re: late
Message-ID: <2@y.org>
In-Reply-To: <1@x.org>
Date: Mon, 7 Jan 2019 11:00:00 +0000
Content-Type: multipart/alternative; boundary="b"

--b
Content-Type: text/html

<p>It leaves <b>today</b>.</p><blockquote>Where is my order?</blockquote>
--b--
"""
REPLIES = [
    {"message_id": f"r{n}", "text": f"Answer {n}", "role": "assistant", "rank": n, "replies": []} for n in (0, 1)
]
ASKED = {"message_id": "t", "text": "Who?", "role": "prompter", "lang": "en", "replies": REPLIES}
TREE = {"message_tree_id": "t", "prompt": ASKED}
TICKETS = [
    {
        "ticket_id": n,
        "subject": "Late",
        "description": "Where is it?",
        "resolution": "It leaves today.",
        "status": "solved",
    }
    for n in (1, 2)
]
SEEDS: dict[str, Callable[[], Seed]] = {
    "txt": lambda: Seed(
        "a.txt", b"One.\n\nTwo caf\xc3\xa9.\n\f\nThree.", ({}, {"separator": "\n\n"}, {"encoding": "cp1252"})
    ),
    "md": lambda: Seed("a.md", FAQ.encode(), PARTS),
    "html": lambda: Seed("a.html", PAGE.encode(), PARTS),
    "faq page": lambda: Seed("b.htm", FAQ_PAGE.encode(), PARTS),
    "pdf": lambda: Seed(
        "a.pdf", pdf_of([page_of("Travel guide", "You get 59 a day.", "1"), page_of("More", "2")]), PARTS
    ),
    "docx": lambda: Seed("a.docx", document(), PARTS),
    "xlsx": lambda: Seed("a.xlsx", workbook()),
    "csv": lambda: Seed("a.csv", QA.encode(), ({}, {"encoding": "cp1252"})),
    "tsv": lambda: Seed("a.tsv", QA.replace(",", "\t").encode()),
    "json": lambda: Seed("a.json", f'{{"data": [{MESSAGES}, {MESSAGES}]}}'.encode()),
    "jsonl": lambda: Seed("a.jsonl", f"{MESSAGES}\n{MESSAGES}\n".encode()),
    "jsonl.gz": lambda: Seed("a.jsonl.gz", gzip.compress(f"{MESSAGES}\n{MESSAGES}\n".encode())),
    "parquet": lambda: Seed("a.parquet", parquet()),
    "zip": lambda: Seed(
        "a.zip", zip_of({"a/b.md": FAQ, "c.csv": QA, "d.zip": zip_of({"e.md": "# E\n\nwords"})}), PARTS
    ),
    "slack": lambda: Seed("export.zip", slack(), ({"format": "slack"}, {"format": "slack", "private": "invent"}, {})),
    "mbox": lambda: Seed("a.mbox", MAIL.encode()),
    "eml": lambda: Seed("a.eml", MAIL.partition("\n")[2].encode()),
    "oasst": lambda: Seed("a.jsonl", f"{json.dumps(TREE)}\n".encode() * 2, ({}, {"format": "oasst"})),
    "tickets": lambda: Seed("a.json", json.dumps(TICKETS).encode(), ({}, {"format": "tickets"})),
    "tar": lambda: Seed("a.tar", tar_of({"a/b.md": FAQ, "c.html": PAGE}, packed=False), PARTS),
    "tgz": lambda: Seed("a.tar.gz", tar_of({"a/b.md": FAQ, "c.html": PAGE}), PARTS),
}
"""Name of a reader -> its seed."""


@cache
def seed(name: str) -> Seed:
    return SEEDS[name]()


def mutated(reader: str, number: int) -> tuple[str, bytes, dict[str, Any]]:
    """Name, bytes and settings of one case: always the same for the same reader and number."""
    chance = random.Random(f"{reader} {number}")
    name, content, settings = seed(reader)
    if content[:2] == b"PK" and chance.random() < 0.6:
        content = inside(content, chance)
    elif content[:2] == b"\x1f\x8b" and chance.random() < 0.6:
        content = gzip.compress(changed(gzip.decompress(content), chance))
    else:
        content = changed(content, chance)
    if chance.random() < 0.1:
        name = seed(chance.choice(list(SEEDS))).name  # as if it were of another kind
    return name, content, chance.choice(settings)


def inside(content: bytes, chance: random.Random) -> bytes:
    """A ZIP with one of its files changed, or that file's name."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    which = chance.choice(list(members))
    if chance.random() < 0.1:
        members[chance.choice(["../x.md", "/x.md", "C:\\x.md", "\x01.md", "a" * 300 + ".md"])] = members.pop(which)
    else:
        members[which] = changed(members[which], chance)
    return zip_of(members)


def changed(content: bytes, chance: random.Random) -> bytes:
    """Bytes with one to five things done to them."""
    data = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 3, 5])):
        at, long = chance.randrange(len(data) + 1), min(len(data), 1 << chance.randrange(12))
        match chance.randrange(8):
            case 0:
                for _ in range(chance.choice([1, 4, 16])):
                    if data:
                        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            case 1:
                del data[at:]
            case 2:
                del data[at : at + long]
            case 3:
                data[at:at] = data[at : at + long] * chance.choice([1, 2, 50])
            case 4:
                other = seed(chance.choice(list(SEEDS))).content
                begin = chance.randrange(len(other))
                data[at:at] = other[begin : begin + long]
            case 5:
                data[at : at + long] = bytes([chance.choice([0, 255, 32, 10, 60, 34])]) * min(long, len(data) - at)
            case 6:
                data[at:at] = chance.choice(HOSTILE)
            case 7:
                numbers = [i for i, byte in enumerate(data) if 48 <= byte < 58]
                for i in chance.sample(numbers, min(len(numbers), 3)):
                    data[i] = chance.choice(b"0123456789-")
    return bytes(data[:LONGEST])


def read_case(folder: Path, reader: str, number: int) -> str:
    """What became of a case: "rows 3, rejected 1", "refused: ..." for a UserError; or "broke: " with the traceback."""
    from luthier.base.errors import UserError
    from luthier.base.source import Source
    from luthier.data.dataset import read_dataset

    name, content, settings = mutated(reader, number)
    file = folder / name
    file.write_bytes(content)
    try:
        data = read_dataset("fuzz", Source(path=name, max_rejected=1.0, **settings), folder)
        said = f"rows {data.rows - len(data.rejected)}, rejected {len(data.rejected)}"
        assert all(row.reason and "Traceback" not in row.reason for row in data.rejected)
        json.dumps([[row.origin, row.reason] for row in data.rejected]).encode("ascii")
        assert all(row.origin.encode() and row.origin.startswith(name) for row in data.rejected)
    except UserError as error:
        said = f"refused: {str(error).splitlines()[0][:200]}"
    except Exception:
        said = f"broke: {traceback.format_exc()}"
    file.unlink()
    return said


def main() -> None:
    """Reads cases until there are none; answers {said, peak_bytes} a line."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))
    folder = Path(sys.argv[1])
    out, sys.stdout = sys.stdout, sys.stderr  # a library's own words must not stand among the answers
    for line in sys.stdin:
        reader, _, number = line.strip().rpartition(" ")
        said = read_case(folder, reader, int(number))
        # Not getrusage's, which begins with what the parent had when it forked.
        peak = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
        print(json.dumps({"said": said, "peak_bytes": peak}), file=out, flush=True)


if __name__ == "__main__":
    main()
