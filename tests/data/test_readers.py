"""Documents of every kind -> rows: what is kept, what goes, where each row came from, and why a file was refused."""

from __future__ import annotations

import io
import re
from collections import Counter
from pathlib import Path

import pytest

from luthier.data.sources import READERS, list_files, read_rows
from luthier.data.text import PLAIN, Wanted


def read(path: Path, wanted: Wanted = PLAIN):
    files, _ = list_files("x", path)
    return list(read_rows(files, path, wanted))


def of(kind: str, content: str | bytes, wanted: Wanted = PLAIN):
    data = content if isinstance(content, bytes) else content.encode()
    return list(READERS[kind](io.BytesIO(data), f"a{kind}", wanted))


# One book as text, as a page and as a PDF. Measured by words (runs of letters and digits, lower case) between Project
# Gutenberg's own START and END lines: twice the words that both have, counted with their number, over both's words.


def words(text: str) -> Counter[str]:
    begin, end = text.index("START OF THIS PROJECT"), text.index("END OF THIS PROJECT")
    return Counter(re.findall(r"[a-z0-9]+", text[begin:end].lower()))


@pytest.fixture(scope="module")
def alice(shared_data):
    folder = shared_data / "alice_formats"
    return {name: read(folder / name) for name in ("11.txt", "11-h.htm", "11-pdf.pdf")}


@pytest.mark.parametrize(("a", "b"), [("11.txt", "11-h.htm"), ("11.txt", "11-pdf.pdf"), ("11-h.htm", "11-pdf.pdf")])
def test_one_book_in_three_formats_agrees_to_98_percent_of_words(alice, a, b):
    (one,), (other,) = alice[a], alice[b]
    ours, theirs = words(one.fields["text"]), words(other.fields["text"])
    assert ours.total() > 27_000
    assert 2 * (ours & theirs).total() / (ours.total() + theirs.total()) > 0.995  # 98 % were asked for


def test_chapters_of_the_page_and_of_the_pdf_are_the_same_sections(shared_data):
    chapters = []
    for name in ("11-h.htm", "11-pdf.pdf"):
        rows = read(shared_data / "alice_formats" / name, Wanted(parts="section"))
        assert {row.fields["group"] for row in rows} == {name}
        chapters.append({row.origin.partition("#")[2]: row for row in rows if "/chapter-" in row.origin})
    assert list(chapters[0]) == list(chapters[1]) and len(chapters[0]) == 12
    twelfth = "alices-adventures-in-wonderland/chapter-xii-alices-evidence"
    assert chapters[0][twelfth].fields["heading"].endswith("WONDERLAND > CHAPTER XII. Alice’s Evidence")
    assert chapters[1][twelfth].fields["text"].startswith("# ALICE'S ADVENTURES IN WONDERLAND\n\n## CHAPTER XII.")


def test_pages_of_a_pdf_say_their_number(shared_data):
    rows = read(shared_data / "alice_formats" / "11-pdf.pdf", Wanted(parts="page"))
    assert [row.origin for row in rows] == [f"11-pdf.pdf:p{n}" for n in range(1, 70)]
    assert rows[1].fields["text"].startswith("## By Lewis Carroll") and rows[1].fields["date"] == "2011-12-20"
