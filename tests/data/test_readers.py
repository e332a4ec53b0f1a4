"""Documents of every kind -> rows: what is kept, what goes, where each row came from, and why a file was refused."""

from __future__ import annotations

import builtins
import io
import re
from collections import Counter
from pathlib import Path

import pytest

from luthier.base.errors import UserError
from luthier.base.nouns import Rejected, Row
from luthier.data.sources import READERS, list_files, read_rows
from luthier.data.text import PLAIN, Wanted
from papers import FAQ_PAGE, PAGE, docx_of, page_of, pdf_of, word, word_table, xlsx_of, zip_of

SECTIONS, PAGES, ASKED = Wanted(parts="section"), Wanted(parts="page"), Wanted(faq=True)


def read(path: Path, wanted: Wanted = PLAIN):
    files, _ = list_files("x", path)
    return list(read_rows(files, path, wanted))


def of(kind: str, content: str | bytes, wanted: Wanted = PLAIN):
    data = content if isinstance(content, bytes) else content.encode()
    return list(READERS[kind](io.BytesIO(data), f"a{kind}", wanted))


def reason(rows) -> str:
    (row,) = rows
    assert isinstance(row, Rejected), row
    return row.reason


# One book as text, as a page and as a PDF. Measured in words (runs of letters and digits, lower case) between Project
# Gutenberg's own START and END lines: twice the words that both have, with their number, over the words of both.


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
        rows = read(shared_data / "alice_formats" / name, SECTIONS)
        assert {row.fields["group"] for row in rows} == {name}
        chapters.append({row.origin.partition("#")[2]: row for row in rows if "/chapter-" in row.origin})
    assert list(chapters[0]) == list(chapters[1]) and len(chapters[0]) == 12
    twelfth = "alices-adventures-in-wonderland/chapter-xii-alices-evidence"
    assert chapters[0][twelfth].fields["heading"] == "ALICE’S ADVENTURES IN WONDERLAND > CHAPTER XII. Alice’s Evidence"
    assert chapters[1][twelfth].fields["text"].startswith("# ALICE'S ADVENTURES IN WONDERLAND\n\n## CHAPTER XII.")


def test_pages_of_a_pdf_say_their_number(shared_data):
    rows = read(shared_data / "alice_formats" / "11-pdf.pdf", PAGES)
    assert [row.origin for row in rows] == [f"11-pdf.pdf:p{n}" for n in range(1, 70)]
    assert rows[1].fields["text"].startswith("## By Lewis Carroll") and rows[1].fields["date"] == "2011-12-20"


# Web pages


def test_a_page_without_its_menu_footer_and_scripts():
    (row,) = of(".html", PAGE)
    assert row == Row(
        {
            "text": """# Travel

Everybody who travels for work should read this page before the journey, since it explains what is paid and what is not.

## Per diem

You get *59 dollars* a day & more for meals abroad.

- breakfast
- dinner
  - with wine

```
def rate(days):
    return 59 * days
```

| City | Rate |
|---|---|
| Rome | 59 |
| Oslo | 91 |

## Receipts

Keep every receipt above 75 dollars, and hand it in within five days of your return.""",
            "title": "Travel guide",
            "licence": "CC-BY-4.0",
        },
        "a.html",
    )


def test_a_page_in_sections():
    rows = of(".html", PAGE, SECTIONS)
    assert [row.origin for row in rows] == ["a.html#travel", "a.html#travel/per-diem", "a.html#travel/receipts"]
    assert rows[2].fields["text"].startswith("# Travel\n\n## Receipts\n\nKeep every")
    assert {row.fields["group"] for row in rows} == {"a.html"}


@pytest.mark.parametrize(
    "page",
    [
        "<html><head><title>x</title><script>var a = 'text';</script></head><body></body></html>",
        "<html><body><script>document.write('all of it')</script></body></html>",
        "<!-- nothing -->",
    ],
)
def test_a_page_without_text_says_so(page):
    assert reason(of(".html", page)).startswith("no text is left without menus, scripts and styles")


def test_a_faq_page_in_schema_orgs_words():
    rows = of(".html", FAQ_PAGE, ASKED)
    assert [row.fields for row in rows] == [
        {
            "question": "How do I reset my password?",
            "answer": "Open Settings.\n\n- Press reset\n- Wait",
            "title": "Help",
        },
        {"question": "Is it free?", "answer": "Yes & always.", "title": "Help"},
    ]
    assert rows[0].origin == "a.html#how-do-i-reset-my-password"
    assert of(".html", FAQ_PAGE)[0].fields["schema"] == "FAQPage"


def test_a_faq_page_in_microdata():
    item = (
        '<div itemscope itemtype="https://schema.org/Question"><h2 itemprop="name">{}</h2><div '
        'itemprop="acceptedAnswer" itemscope itemtype="https://schema.org/Answer"><div itemprop="text"><p>{}</p></div>'
        "</div></div>"
    )
    page = "<html><body>" + item.format("Who?", "Me.") + item.format("When?", "Now.") + "</body></html>"
    assert [row.fields for row in of(".html", page, ASKED)] == [
        {"question": "Who?", "answer": "Me."},
        {"question": "When?", "answer": "Now."},
    ]


def test_questions_that_unfold():
    page = (
        "<html><body><main><h1>Help</h1><details><summary>How much is it?</summary><p>Fifty-nine dollars a day for all."
        "</p></details><dl><dt>Who pays for it?</dt><dd>The agency pays for everything.</dd></dl></main></body></html>"
    )
    rows = of(".html", page, ASKED)
    assert [(row.fields["question"], row.fields["answer"]) for row in rows] == [
        ("How much is it?", "Fifty-nine dollars a day for all."),
        ("Who pays for it?", "The agency pays for everything."),
    ]


# How text is written


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_text_that_says_how_it_is_written_is_read(encoding):
    def written(text: str) -> bytes:
        return (("\ufeff" if encoding == "utf-16-be" else "") + text).encode(encoding)

    assert of(".txt", written("Café\r\nthé"))[0].fields == {"text": "Café\nthé"}
    assert of(".csv", written("frage;antwort\nüber\nwas?;das\n".replace("\nüber", "")))[0].fields["antwort"] == "das"
    assert of(".md", written("# Café\n\nthé"))[0].fields == {"text": "# Café\n\nthé"}
    assert (
        "Café" in of(".html", written("<html><body><p>Café au lait for everybody.</p></body></html>"))[0].fields["text"]
    )
    assert of(".txt", written("ab| c"), Wanted(separator="|"))[1].fields == {"text": "c"}


@pytest.mark.parametrize(
    "head",
    ['<meta charset="windows-1252">', '<meta http-equiv="Content-Type" content="text/html; charset=iso-8859-1">'],
)
def test_a_page_may_say_its_charset(head):
    page = f"<html><head>{head}</head><body><p>“Café” costs 5 € a cup.</p></body></html>".encode("cp1252")
    assert of(".html", page)[0].fields["text"] == "“Café” costs 5 € a cup."


def test_other_text_is_refused_unless_the_recipe_says_how_it_is_written():
    data = "q,a\ncafé,5 €\n".encode("cp1252")
    (row,) = of(".csv", data)
    assert "say how it is written, such as encoding: cp1252 (byte 0xe9 at character 4)" in row.reason
    assert of(".csv", data, Wanted(encoding="cp1252"))[0].fields == {"q": "café", "a": "5 €"}
    assert of(".txt", data, Wanted(encoding="cp1252"))[0].fields["text"] == "q,a\ncafé,5 €"
    assert reason(of(".txt", "ab".encode("utf-16") + b"\x00")).startswith("not UTF-8 text")


# PDF


def test_words_parted_by_the_end_of_a_line_are_whole_and_paragraphs_are_paragraphs():
    page = [
        (72, 700, 20, "Travel guide"),
        (72, 660, 12, "You get a per diem of 59 dollars for every day that you"),
        (72, 646, 12, "are away, and it is paid back within five days of your"),
        (72, 632, 12, "return."),
        (72, 608, 12, "Keep the receipts."),
        (72, 584, 12, "- breakfast"),
        (72, 570, 12, "- dinner"),
    ]
    (row,) = of(".pdf", pdf_of([page]))
    assert row.fields["text"] == (
        "# Travel guide\n\nYou get a per diem of 59 dollars for every day that you are away, and it is paid back "
        "within five days of your return.\n\nKeep the receipts.\n\n- breakfast\n\n- dinner"
    )
    assert {key: row.fields[key] for key in ("title", "date")} == {"title": "A guide", "date": "2024-05-06"}


def test_running_heads_and_page_numbers_go_and_a_sentence_goes_on_over_the_page():
    def page(n: int) -> list:
        thing = ("apple", "brush", "chair", "drum", "eagle")[n - 1]
        body = [f"The {thing} is the first thing here and", f"we say of the {thing} until the page ends that"]
        return [(72, 760, 9, f"The handbook {n}"), *page_of(*body), (300, 30, 9, f"{n} / 5")]

    (row,) = of(".pdf", pdf_of([page(n) for n in range(1, 6)]))
    assert "The handbook" not in row.fields["text"] and "/ 5" not in row.fields["text"]
    assert "page ends that\n\nThe brush is the first thing" in row.fields["text"]
    pages = of(".pdf", pdf_of([page_of("This sentence goes on over"), page_of("the page and ends here.")]))
    assert pages[0].fields["text"] == "This sentence goes on over the page and ends here."


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no pdf at all", "not a PDF file that can be read"),
        (pdf_of([page_of("words")])[:300], "PDF"),
        (pdf_of([[]]), "its pages hold no text: it is a scan"),
    ],
)
def test_a_pdf_that_cannot_be_read_is_one_rejected_row(content, said):
    assert said in reason(of(".pdf", content))


def test_a_pdf_behind_a_password(tmp_path):
    # Encrypted with a 40-bit key whose user password is not empty: the dictionary alone decides (PDF 1.4, 3.5).
    locked = pdf_of([page_of("secret")]).replace(
        b"/Info 6 0 R",
        b"/Info 6 0 R /ID [<00112233445566778899aabbccddeeff> <00112233445566778899aabbccddeeff>] /Encrypt << /Filter "
        b"/Standard /V 1 /R 2 /P -4 /O <" + b"41" * 32 + b"> /U <" + b"42" * 32 + b"> >>",
    )
    assert reason(of(".pdf", locked)) == "protected by a password. Save a copy without one"


# Word and Excel


def test_a_word_document_keeps_headings_lists_and_tables():
    body = word("Travel", "Heading1") + word("You &amp; I go.") + word("Rates", "Heading2")
    (row,) = of(".docx", docx_of(body + word_table(("City", "Rate"), ("Rome", "59"))))
    assert row.fields == {
        "text": "# Travel\n\nYou & I go.\n\n## Rates\n\n| City | Rate |\n| --- | --- |\n| Rome | 59 |"
    }
    assert [row.origin for row in of(".docx", docx_of(body), SECTIONS)] == ["a.docx#travel"]
    assert reason(of(".docx", docx_of(""))).startswith("holds no text")


@pytest.mark.parametrize("kind", [".docx", ".xlsx"])
def test_office_files_that_cannot_be_read_are_one_rejected_row(kind):
    assert "protected by a password" in reason(of(kind, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600))
    assert f"not a {kind} file" in reason(of(kind, b"words"))
    assert "can be read" in reason(of(kind, zip_of({"a.xml": "<a/>"})))


def test_sheets_are_tables_with_their_place():
    rows = of(
        ".xlsx",
        xlsx_of(
            {
                "FAQ": [["question", "answer", "n"], ["How much?", 59, 1.5], [], ["When?", None], ["a", "b", "c", "d"]],
                "Lists": [["x"], ["hidden"]],
                "v1.2 Notes": [["text"]],
            },
            hidden=["Lists"],
        ),
    )
    assert rows == [
        Row({"question": "How much?", "answer": 59, "n": 1.5}, "a.xlsx#faq:2"),
        Row({"question": "When?", "answer": None, "n": None}, "a.xlsx#faq:4"),
        Rejected("a.xlsx#faq:5", "has 4 cells, the header has 3. Name the columns"),
        Rejected("a.xlsx#v12-notes", "has a header row but no rows"),
    ]


@pytest.mark.parametrize(
    "sheet",
    [
        [["How much is it?", "59"], ["Who pays?", "You"]],
        [["Customers ask", "We say"], ["How much is it?", "59"], ["Who pays?", "You"]],
        [["question", "answer"], ["How much is it?", "59"], ["Who pays?", "You"]],
    ],
)
def test_two_columns_the_first_of_which_asks_are_questions_and_answers(sheet):
    rows = of(".xlsx", xlsx_of({"S": sheet}))
    assert [row.fields for row in rows] == [
        {"question": "How much is it?", "answer": "59"},
        {"question": "Who pays?", "answer": "You"},
    ]


def test_without_the_extra_the_line_to_type_is_said(monkeypatch):
    real = builtins.__import__

    def gone(name, *rest, **more):
        if name.split(".")[0] in ("trafilatura", "pypdfium2", "mammoth", "openpyxl"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".")[0])
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", gone)
    for kind, content in ((".html", PAGE), (".pdf", pdf_of([page_of("a")])), (".docx", docx_of(word("a")))):
        with pytest.raises(UserError, match=r'reading a.* needs \w+: pip install "luthier\[data\]"\.'):
            of(kind, content)
