"""Headings -> sections with addresses, and questions with answers."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.base.errors import UserError
from luthier.base.source import Source
from luthier.data.dataset import file_of, read_dataset
from luthier.data.readers.faq import asks, is_faq, questions
from luthier.data.readers.headings import clean, headings, slug_of
from luthier.data.readers.sections import sections
from luthier.data.sources import READERS
from luthier.data.text import Wanted
from papers import FAQ, FAQ_PAGE


def test_sections_have_the_path_of_their_headings():
    text = """Before all.

# Leave #

## Sick leave {#sick}

Rest.

```sh
# no heading
```

### When [abroad](x.md)

Call us.

## Sick leave

Again.

Holidays
--------

Twenty days.

1. one
---

    # code
#no heading
"""
    found = list(sections(text, "Handbook"))
    assert [(section.path, section.place) for section in found] == [
        ((), ""),
        (("Leave", "Sick leave"), "leave/sick-leave"),
        (("Leave", "Sick leave", "When abroad"), "leave/sick-leave/when-abroad"),
        (("Leave", "Sick leave"), "leave/sick-leave-1"),
        (("Leave", "Holidays"), "leave/holidays"),
    ]
    assert found[2].text == "# Leave\n\n## Sick leave\n\n### When abroad\n\nCall us."
    assert found[1].text.endswith("Rest.\n\n```sh\n# no heading\n```")
    assert found[4].text.endswith("Twenty days.\n\n1. one\n---\n\n    # code\n#no heading")


def test_a_title_stands_above_a_document_that_has_none_of_its_own():
    (section,) = sections("## Sick\n\nRest.", "Leave")
    assert section == (("Leave", "Sick"), "sick", "# Leave\n\n## Sick\n\nRest.")
    assert next(sections("# Own\n\nRest.", "Leave")).path == ("Own",)


@given(
    st.lists(st.tuples(st.integers(1, 6), st.sampled_from(["A", "B b", "C?"]), st.sampled_from(["", "x", "y\n\nz"])))
)
def test_no_text_is_lost_and_no_address_is_two_sections(parts):
    text = "\n".join(f"{'#' * level} {words}\n{body}" for level, words, body in parts)
    found = list(sections(text))
    assert [section.text.rpartition("\n\n# ")[2].split("\n\n")[-1] for section in found] == [
        body.split("\n\n")[-1] for _, _, body in parts if body
    ]
    assert len({section.place for section in found}) == len(found)
    assert [h.words for h in headings(text) if h.level] == [words for _, words, _ in parts]


def test_what_an_address_is_made_of():
    assert slug_of("What's a per diem?") == "whats-a-per-diem" and slug_of("2.1 Größe/Länge") == "21-größelänge"
    assert slug_of("???") == "section"
    assert clean("The **bold** `code` and [link](a.md) ![x](y.png) of snake_case_words") == (
        "The bold code and link of snake_case_words"
    )


def test_the_file_of_an_origin():
    for origin, file in {
        "h/leave.md#travel/per-diem": "h/leave.md",
        "alice.pdf:p12": "alice.pdf",
        "faq.xlsx#prices:7": "faq.xlsx",
        "docs.zip/a/b.html#x": "docs.zip/a/b.html",
        "c#.md": "c#.md",
        "c#1.csv:3": "c#1.csv",
        "tickets.py:rows[3]": "tickets.py:rows",
        "faq.csv:17": "faq.csv",
        "faq.json[3]": "faq.json",
    }.items():
        assert file_of(origin) == file


def test_sections_of_one_document_are_one_group_and_are_held_out_together(tmp_path):
    for n in range(40):
        text = f"---\ntitle: Page {n}\nlicense: CC0-1.0\n---\n" + "".join(
            f"## S{k}\n\nText {n} {k}.\n" for k in range(5)
        )
        (tmp_path / f"d{n}.md").write_text(text)
    source = Source(path=str(tmp_path), parts="section", split_by="origin", heldout=0.3)
    data = read_dataset("docs", source, tmp_path)
    assert len(data.train) + len(data.heldout) == 200 and data.heldout
    assert not {file_of(e.origin) for e in data.train} & {file_of(e.origin) for e in data.heldout}
    assert data.train[0].meta == {
        "license": "CC0-1.0",
        "group": file_of(data.train[0].origin),
        "title": data.train[0].text.split("\n")[0].removeprefix("# "),
    }
    assert data.train[0].text.startswith("# Page ")


# Questions


def test_questions_with_all_that_stands_below_them():
    rows = list(READERS[".md"](io.BytesIO(FAQ.encode()), "leave.md", Wanted(faq=True)))
    about = {"title": "Leave", "license": "CC0-1.0", "date": "2024-05-06"}
    first = {
        "question": "How much leave do I get?",
        "answer": "Twenty days a year.\n\n### In the first year\n\nFifteen.",
    }
    assert [row.fields for row in rows] == [
        {**first, **about},
        {"question": "Can I carry leave over?", "answer": "**No.** See [the policy](#).", **about},
        {"question": "Who approves it?", "answer": "Your lead.", **about},
    ]
    assert rows[1].origin == "leave.md#can-i-carry-leave-over"


@pytest.mark.parametrize(
    "text",
    [
        "Q: Is it free?\nA: Yes.\n\nQ: For ever?\nA: No.\nA: b",
        "**Q:** Is it free?\n\n**A:** Yes.\n\n**Q:** For ever?\n\n**A:** No.\nA: b",
        "**Is it free?**\n\nYes.\n\n**For ever?**\nNo.\nA: b",
        "# F\n\n## Is it free?\nYes.\n\n## For ever?\n\nNo.\nA: b",
        "1. **Is it free?**\nYes.\n2. **For ever?**\nNo.\nA: b",
    ],
)
def test_the_shapes_of_questions(text):
    asked, others = questions(text)
    assert [(one.question, one.answer) for one in asked] == [("Is it free?", "Yes."), ("For ever?", "No.\nA: b")]
    assert others == 0


@pytest.mark.parametrize("words", ["How to travel", "What is a per diem", "Can I go", "Why?", "Do we pay taxes"])
def test_headings_that_ask(words):
    assert asks(words)


@pytest.mark.parametrize("words", ["What we do", "Can opener", "Is", "Howto", "Whatever it takes", "Travel"])
def test_headings_that_do_not(words):
    assert not asks(words)


def test_a_faq_is_found_and_a_handbook_is_not(tmp_path, shared_data):
    assert is_faq(FAQ) and not is_faq("# A\n\n## Why?\n\nx\n\n## B\n\ny")
    for name, content in (("a.md", FAQ), ("b.html", FAQ_PAGE)):
        (tmp_path / name).write_text(content)
    data = read_dataset("faq", Source(path=str(tmp_path), heldout=0), tmp_path)
    assert data.format == "qa" and [e.origin.partition("/")[2] for e in data.train] == [
        "a.md#how-much-leave-do-i-get",
        "a.md#can-i-carry-leave-over",
        "a.md#who-approves-it",
        "b.html#how-do-i-reset-my-password",
        "b.html#is-it-free",
    ]
    assert data.notes[0].startswith("format faq: 2 of the first 2 documents")
    assert data.train[0].meta == {"title": "Leave", "license": "CC0-1.0", "date": "2024-05-06"}
    as_text = read_dataset("faq", Source(path=str(tmp_path), format="text", heldout=0), tmp_path)
    assert as_text.format == "text" and len(as_text.train) == 2
    assert read_dataset("h", Source(path="docs_18f_handbook"), shared_data).format == "text"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"parts": "section"}, "data.x.parts: is for documents"),
        ({"format": "faq"}, "data.x.format: faq is for documents"),
        ({"encoding": "klingon"}, 'data.x.encoding: "klingon" is not known'),
        ({"separator": "|"}, "data.x.separator: is for .txt files"),
    ],
)
def test_settings_that_files_have_no_use_for(tmp_path, settings, said):
    (tmp_path / "a.csv").write_text("question,answer\na,b\n")
    with pytest.raises(UserError, match=said):
        read_dataset("x", Source(path="a.csv", **settings), tmp_path)
