"""Hints save the closer look, and change nothing of what is found."""

from __future__ import annotations

import random
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.curate.test_private import FOUND, LEFT
from luthier.data.curate import hints
from luthier.data.curate.private import Private

HINTS = ("token", "assigned", "digit", "phone", "card", "social", "four", "six")
PIECES = [text for _, text in FOUND] + LEFT + [name for names in hints.SIGNS.values() for name in names]
PIECES += [
    *hints.NAMED,
    "AKIA",
    "eyJ",
    "passwoRd: ",
    "ſecret=Ab3$xyz9Q",
    "toKen is ",
    "٣٤٥",
    "tel ",
    "+49 ",
    "1.2.3.",
    "::1",
]
PIECES += [
    "a" * 20,
    "A1b2C3d4E5f6G7h8I9j0K1l2",
    "415 844 9759",
    "(415)844-9759",
    "4111",
    "fe80:",
    "://u:p@",
    "\n",
    " ",
    "/",
    "-",
]


@contextmanager
def without_hints():
    """Every text is looked at closely."""
    with pytest.MonkeyPatch.context() as patch:
        for name in HINTS:
            patch.setattr(hints, name, lambda text: True)
        yield


def looked(texts):
    return [Private().find(text) for text in texts]


@settings(max_examples=400)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=8).map("".join))
def test_with_and_without_hints_the_same_is_found(text):
    with_hints = looked([text])
    with without_hints():
        assert looked([text]) == with_hints


def test_pieces_cut_anywhere_are_found_alike():
    """2,000 texts of two halves of things that are found, and of things that are not."""
    draw = random.Random(0)

    def half():
        piece = draw.choice(PIECES)
        return piece[draw.randrange(len(piece)) :] if draw.random() < 0.5 else piece[: draw.randrange(len(piece) + 1)]

    texts = [draw.choice(["", " ", "-"]).join(half() for _ in range(draw.randrange(1, 5))) for _ in range(2000)]
    with_hints = looked(texts)
    with without_hints():
        assert looked(texts) == with_hints
    assert sum(map(bool, with_hints)) > 200


def test_on_real_texts_the_same(shared_data):
    texts = [path.read_text() for path in sorted((shared_data / "docs_18f_handbook").rglob("*.md"))[:80]]
    with_hints = looked(texts)
    with without_hints():
        assert looked(texts) == with_hints
    assert sum(map(len, with_hints)) > 50
