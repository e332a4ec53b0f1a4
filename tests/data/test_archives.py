"""Archives as folders, and all that an archive may try; lines and files that are too long for memory."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from luthier.base.errors import UserError
from luthier.base.nouns import Rejected, Row
from luthier.base.source import Source
from luthier.data import tables, text
from luthier.data.chunks import chunks, rows_in
from luthier.data.dataset import read_dataset
from luthier.data.readers import archives
from luthier.data.sources import READERS, list_files, read_rows
from luthier.data.text import PLAIN, Wanted
from papers import FAQ, PAGE, docx_of, pdf_of, tar_of, word, xlsx_of, zip_of
from papers import page_of as lines

MEMBERS = {
    "docs/b.md": "# B\n\nwords of b",
    "docs/a.html": PAGE,
    "docs/c/d.pdf": pdf_of([lines("A page.")]),
    "docs/e.docx": docx_of(word("Word says this.")),
    "docs/f.csv": "question,answer\nq,a\n",
    "docs/g.jsonl.gz": gzip.compress(b'{"text": "packed twice"}\n'),
    "docs/h.xlsx": xlsx_of({"S": [["x", "y"], [1, 2]]}),
}


def read(path: Path, wanted: Wanted = PLAIN):
    files, _ = list_files("x", path)
    return list(read_rows(files, path, wanted))


def of(kind: str, data: bytes, wanted: Wanted = PLAIN):
    return list(READERS[kind](io.BytesIO(data), f"a{kind}", wanted))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.zip", zip_of(MEMBERS)),
        ("a.tar", tar_of(MEMBERS, False)),
        ("a.tar.gz", tar_of(MEMBERS)),
        ("a.tgz", tar_of(MEMBERS)),
    ],
)
def test_an_archive_is_read_as_its_folder_is(tmp_path, name, data):
    for member, content in MEMBERS.items():
        path = tmp_path / "folder" / member
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / name).write_bytes(data)
    folder = {row.origin.replace("folder/", f"{name}/"): row.fields for row in read(tmp_path / "folder")}
    packed = {row.origin: row.fields for row in read(tmp_path / name)}
    assert packed == folder and len(packed) == len(MEMBERS)
    sections = read(tmp_path / name, Wanted(parts="section"))
    assert f"{name}/docs/a.html#travel/per-diem" in {row.origin for row in sections}


def test_an_archive_in_an_archive_but_no_deeper():
    inner = zip_of({"x.md": "inner", "third.zip": zip_of({"y.md": "deep"})})
    assert of(".zip", zip_of({"in.zip": inner, "in.tgz": tar_of({"z.md": "in a tar"})})) == [
        Row({"text": "in a tar"}, "a.zip/in.tgz/z.md"),
        Rejected("a.zip/in.zip/third.zip", "an archive in an archive in an archive. Unpack the outer ones"),
        Row({"text": "inner"}, "a.zip/in.zip/x.md"),
    ]


@pytest.mark.parametrize("name", ["../up.md", "/etc/motd.md", "a/../../b.md", "C:\\x.md", "..\\x.md", "a\x01.md"])
def test_names_that_lead_out_of_the_archive(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind, data in (
        (".zip", zip_of({name: "x", "ok.md": "fine"})),
        (".tar", tar_of({name: "x", "ok.md": "fine"}, False)),
    ):
        if kind == ".tar" and "\\" in name:
            continue  # a tar's backslash is a letter like others
        good, bad = sorted(of(kind, data), key=lambda row: isinstance(row, Rejected))
        assert good == Row({"text": "fine"}, f"a{kind}/ok.md")
        assert bad.reason == "its name leads out of the archive. Pack it under a plain one"
    assert not list(tmp_path.iterdir())


def test_links_and_devices_are_no_files(tmp_path):
    (tmp_path / "secret.md").write_text("secret")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, kind, to in (
            ("a.md", tarfile.SYMTYPE, str(tmp_path / "secret.md")),
            ("b.md", tarfile.LNKTYPE, "../secret.md"),
            ("c.md", tarfile.FIFOTYPE, ""),
            ("d.md", tarfile.CHRTYPE, ""),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, to
            archive.addfile(entry)
    rows = of(".tar", out.getvalue())
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as zipped:
        link = zipfile.ZipInfo("e.md")
        link.external_attr = 0o120777 << 16
        zipped.writestr(link, str(tmp_path / "secret.md"))
    rows += of(".zip", packed.getvalue())
    assert [row.origin for row in rows] == ["a.tar/a.md", "a.tar/b.md", "a.tar/c.md", "a.tar/d.md", "a.zip/e.md"]
    assert {row.reason for row in rows} == {"is a link or a device, and no file. Pack the file itself"}


def zeros(count: int, packed_in: str) -> bytes:
    """An archive with a file of so many spaces, made without holding them."""
    out = io.BytesIO()
    if packed_in == "zip":
        with (
            zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("a.txt", "w", force_zip64=True) as file,
        ):
            for _ in range(count >> 20):
                file.write(b" " * (1 << 20))
    else:
        entry = tarfile.TarInfo("a.txt")
        entry.size = count
        with gzip.GzipFile(fileobj=out, mode="wb", mtime=0) as file:
            file.write(entry.tobuf())
            for _ in range(count >> 20):
                file.write(b" " * (1 << 20))
    return out.getvalue()


@pytest.mark.parametrize("packed_in", ["zip", "tgz"])
def test_a_bomb_is_refused_before_it_goes_off(packed_in, monkeypatch):
    monkeypatch.setattr(archives, "ALWAYS_BYTES", 1 << 22)
    data = zeros(1 << 25, packed_in)
    assert len(data) < 1 << 16
    (row,) = of(f".{packed_in}", data)
    assert row == Rejected(f"a.{packed_in}", archives.BOMB.format(200))


def test_a_bomb_of_files_that_overlap(monkeypatch):
    """Every entry of the directory is the same packed file, so a small archive has much in it: the sum counts."""
    monkeypatch.setattr(archives, "ALWAYS_BYTES", 1 << 20)
    data = zip_of({"a.txt": " " * (1 << 19)})
    start, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    entries = b"".join(data[start:end].replace(b"a.txt", b"%c.txt" % (97 + n)) for n in range(9))
    tail = bytearray(data[end:])
    tail[8:12] = (9).to_bytes(2, "little") * 2
    tail[12:16] = len(entries).to_bytes(4, "little")
    rows = of(".zip", data[:start] + entries + bytes(tail))
    assert all(isinstance(row, Rejected) for row in rows) and len(rows) <= 3
    assert rows[-1].reason == archives.BOMB.format(200)


def test_members_behind_a_password_damaged_or_twice():
    data = bytearray(zip_of({"a.md": "x", "b.md": "y" * 300}))
    for sign, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(sign) + place] |= 1  # the first entry's flag
    data[data.index(b"b.md") + 5] ^= 0xFF
    locked, damaged = of(".zip", bytes(data))
    assert locked == Rejected("a.zip/a.md", "protected by a password. Pack it without one")
    assert damaged.origin == "a.zip/b.md" and damaged.reason.startswith("cannot be unpacked")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for content in (b"one", b"two"):
            entry = tarfile.TarInfo("a.md")
            entry.size = 3
            archive.addfile(entry, io.BytesIO(content))
    assert [getattr(row, "reason", "") for row in of(".tar", out.getvalue())] == [
        "",
        "a second file of this name. Take one of them away",
    ]


def test_what_is_left_of_a_damaged_archive_is_read():
    rows = of(".tar", tar_of({"a.md": "one", "b.md": "two" * 9999}, False)[:6000])
    assert rows[0] == Row({"text": "one"}, "a.tar/a.md")
    assert rows[1].reason.startswith("a damaged archive") and len(rows) == 2
    assert of(".zip", b"PK nonsense")[0].reason.startswith("a damaged archive (File is not a zip file)")


def test_a_broken_file_costs_itself_and_hidden_ones_do_not_count(tmp_path):
    members = {"a.json": "{", "b.md": "fine", ".git/x.md": "no", "__MACOSX/b.md": "no", "c.png": "no", "d.csv": ""}
    (tmp_path / "a.zip").write_bytes(zip_of(members))
    data = read_dataset("kb", Source(path="a.zip", max_rejected=0.9, heldout=0), tmp_path)
    assert [e.origin for e in data.train] == ["a.zip/b.md"]
    assert [row.origin for row in data.rejected] == ["a.zip/a.json", "a.zip/d.csv"]
    assert "1 files of a.zip were left out: 1 .png" in data.notes
    assert of(".zip", zip_of({"a.png": "x"}))[0].reason.startswith("holds no file that can be read")


def test_a_word_file_that_unpacks_to_more_than_memory(monkeypatch):
    from luthier.data.readers import office

    monkeypatch.setattr(office, "LARGEST_XML", 1 << 20)
    (row,) = of(".docx", docx_of(word("x" * (1 << 20))))
    assert row.reason == "its text unpacks to 1 MiB, more than 1. Part it into several files"


# Lines and files of any length


def test_a_line_that_is_too_long_is_one_rejected_row(monkeypatch, tmp_path):
    monkeypatch.setattr(text, "LONGEST_LINE", 100)
    monkeypatch.setattr(tables, "LONGEST_LINE", 100)
    long = "x" * 350
    for name, content in (
        ("a.jsonl", f'{{"text": "a"}}\n{{"text": "{long}"}}\n{{"text": "b"}}'),
        ("a.csv", f"text\na\n{long}\nb\n"),
        ("a.tsv", f"text\na\n{long}"),
    ):
        (tmp_path / name).write_text(content)
        rows = read(tmp_path / name)
        bad = [row for row in rows if isinstance(row, Rejected)]
        number = 2 if name == "a.jsonl" else 3
        assert [row.origin for row in bad] == [f"{name}:{number}"] and "longer than" in bad[0].reason
        assert [row.fields["text"] for row in rows if isinstance(row, Row)] == ["a", "b"][: len(rows) - 1]
    path = tmp_path / "a.jsonl"
    streamed = [row for chunk in chunks([path], path, PLAIN, 10) for row in rows_in(chunk)]
    assert streamed == read(path)


def test_a_file_that_is_too_long_to_be_one_document(monkeypatch, tmp_path):
    monkeypatch.setattr(text, "LONGEST_DOCUMENT", 1 << 20)
    for name in ("a.txt", "a.md", "a.txt.gz"):
        data = b"word " * (1 << 18)
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
        (row,) = read(tmp_path / name)
        assert row.reason.startswith("longer than 1 MiB")
    (tmp_path / "a.json").write_bytes(b"[" + b" " * (1 << 20) + b"]")
    with pytest.raises(UserError, match=r"a\.json: longer than 1 MiB.*one object a line"):
        read(tmp_path / "a.json")


def test_a_line_of_ten_gigabytes_takes_no_more_memory_than_one_that_fits(tmp_path):
    """A file with a hole: NUL bytes that take no room on disk, and are read as one line. 300 MiB stand for 10 GiB: held
    as bytes and as text they would be 600 MiB."""
    path = tmp_path / "a.jsonl"
    with open(path, "wb") as file:
        file.write(b'{"text": "a"}\n')
        file.seek(300 << 20, os.SEEK_CUR)
        file.write(b'\n{"text": "b"}\n')
    code = (
        "import re, sys; from pathlib import Path; from luthier.data.sources import read_rows;"
        "p = Path(sys.argv[1]); rows = list(read_rows([p], p));"
        "peak_kib = int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]);"
        "print(len(rows), rows[1].reason[:20], peak_kib < 1 << 19)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=120)
    assert done.stdout == "3 the line is longer t True\n", done.stderr


def test_a_faq_in_an_archive_is_found(tmp_path):
    (tmp_path / "a.zip").write_bytes(zip_of({"leave.md": FAQ}))
    data = read_dataset("faq", Source(path="a.zip", heldout=0), tmp_path)
    assert data.format == "qa" and data.train[2].origin == "a.zip/leave.md#who-approves-it"
