"""Near duplicates: held against sets of Python strings and all pairs compared."""

from __future__ import annotations

import unicodedata
from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from luthier.data.curate.near import exact_clusters, jaccards
from luthier.data.curate.shingles import PROSE, WIDTH, normal, shingle_sets, shingles


def plain(text):
    """The normal form, character by character."""
    text = unicodedata.normalize("NFKC", text.replace("\0", " ")).casefold().replace("\0", " ")
    blank = [c in PROSE or c.isspace() or unicodedata.category(c) in ("Cc", "Cf", "Zs") for c in text]
    out = []
    for i, c in enumerate(text):
        before, after = text[i - 1 : i], text[i + 1 : i + 2]
        digit = after in tuple("0123456789")
        point = c in ".," and before in tuple("0123456789") and digit
        minus = c == "-" and digit and (i == 0 or blank[i - 1])
        out.append(c if not blank[i] or point or minus else " ")
    return " ".join("".join(out).split(" ")).strip(" ")


def squeezed(text):
    return " ".join(word for word in plain(text).split(" ") if word)


def grams(text):
    text = squeezed(text)
    return {(text + "\0" * WIDTH)[i : i + WIDTH] for i in range(len(text))}


def jaccard(a, b):
    return len(grams(a) & grams(b)) / max(1, len(grams(a) | grams(b)))


TEXTS = st.lists(st.text(st.characters(exclude_categories=[]), max_size=40), max_size=8)


@given(TEXTS)
def test_the_normal_form_is_what_a_loop_over_characters_makes(texts):
    block = normal(texts)
    said = [bytes(block.key(i)).decode("utf-32-le", "surrogatepass") for i in range(len(texts))]
    assert said == [squeezed(text) for text in texts]


@given(TEXTS)
def test_shingles_are_the_sets_of_five_characters(texts):
    found = shingle_sets(texts)
    assert np.diff(found.starts).tolist() == [len(grams(text)) for text in texts]
    many = shingles(normal(texts))
    assert np.diff(many.starts).tolist() == [len(squeezed(text)) for text in texts]
    pairs = list(combinations(range(len(texts)), 2))
    left, right = (np.array([p[k] for p in pairs], dtype=np.int64) for k in (0, 1))
    assert jaccards(texts, left, right).tolist() == [jaccard(texts[a], texts[b]) for a, b in pairs]


def test_what_is_the_same_and_what_is_not():
    same = ["How wide is it?", "  how wide is it", "How-wide is it...", "HOW WIDE\nIS IT"]
    assert exact_clusters([*same, "How wide was it?"]) == [0, 0, 0, 0, 4]
    assert exact_clusters(["C", "C++", "C#", "1.5", "1 5", "-5", "5", "f(x)", "f[x]", "", "?!"]) == [*range(10), 9]
    assert exact_clusters(["ﬁle", "file", "Ｆｉｌｅ", "Straße", "STRASSE"]) == [0, 0, 0, 3, 3]
