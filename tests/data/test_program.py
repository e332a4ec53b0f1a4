"""A source that is a person's own function."""

from __future__ import annotations

import pytest

from luthier.base.errors import UserError
from luthier.base.nouns import Rejected
from luthier.base.source import Source
from luthier.data.dataset import read_dataset

CODE = """
from pathlib import Path

def rows():
    for line in ("How much?|59", "Who?|You"):
        question, answer = line.split("|")
        yield {"question": question, "answer": answer, "customer": 7}

def from_folder(folder, limit=3):
    yield {"text": (Path(folder) / "words.txt").read_text()}

def listed():
    return [{"text": "a"}, "b", {"text": object()}, {"text": float("nan")}, None]

def failing():
    yield {"text": "a"}
    yield {"text": "b"}
    raise KeyError("oops")

def nothing():
    return None

wrong = 3
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "words.txt").write_text("of the folder")
    return tmp_path


def test_the_rows_of_a_function(folder):
    data = read_dataset("mine", Source(path="mine.py:rows", heldout=0), folder)
    assert data.format == "qa"
    assert [(e.origin, e.answer, e.meta) for e in data.train] == [
        ("mine.py:rows[0]", "59", {"customer": 7}),
        ("mine.py:rows[1]", "You", {"customer": 7}),
    ]
    assert read_dataset("mine", Source(path="mine.py:from_folder", heldout=0), folder).train[0].text == "of the folder"


def test_what_is_no_row_is_rejected_by_itself(folder):
    data = read_dataset("mine", Source(path="mine.py:listed", max_rejected=1), folder)
    assert data.rows == 5 and list(data.rejected) == [
        Rejected("mine.py:listed[1]", "a string, where an object {...} is needed. Yield dicts"),
        Rejected("mine.py:listed[2]", "holds a object. Yield strings, numbers, lists and dicts"),
        Rejected("mine.py:listed[3]", "holds nan, which is no number. Yield None"),
        Rejected("mine.py:listed[4]", "null, where an object {...} is needed. Yield dicts"),
    ]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("mine.py:failing", r"^data\.mine\.path: mine\.py:18: failing failed at row 2: KeyError: 'oops'\. Mend it"),
        ("mine.py:nothing", r"^data\.mine\.path: mine\.py: nothing failed at row 0: TypeError: 'NoneType'"),
        ("mine.py:rose", r"rose is not there\. Did you mean rows\?"),
        ("mine.py:wrong", "wrong is not a function"),
        ("mien.py:rows", r"^data\.mine\.path: mien\.py: no such file\. Did you mean mine\.py\?"),
    ],
)
def test_what_is_wrong_is_one_line(folder, path, said):
    with pytest.raises(UserError, match=said) as caught:
        read_dataset("mine", Source(path=path), folder)
    assert len(caught.value.problems) == 1


def test_its_rows_and_its_file_are_in_the_hash(folder):
    source = Source(path="mine.py:from_folder", heldout=0)
    one = read_dataset("mine", source, folder).hash
    assert read_dataset("mine", source, folder).hash == one
    (folder / "words.txt").write_text("other words")
    other = read_dataset("mine", source, folder).hash
    (folder / "mine.py").write_text(CODE + "\n# a remark\n")
    assert len({one, other, read_dataset("mine", source, folder).hash}) == 3
