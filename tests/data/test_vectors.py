"""Hashed TF-IDF, held against scikit-learn's and against words cut in Python."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.data.curate.shingles import normal
from luthier.data.curate.vectors import counts, tfidf, word_hashes

STORIES = [
    "The Altair is a lens of glass. It is 114 mm wide.",
    "How wide is the Altair? The Altair is 114 mm wide.",
    "Parcels arrive on Tuesday, and returns are free for thirty days.",
    "Returns are free. Send the parcel back within thirty days.",
    "",
    "Wide, wide, wide!",
] + [f"Row {k} speaks of thing {k * 7 % 50} and of place {k % 9}." for k in range(60)]


def test_products_are_those_of_scikit_learn():
    """Its features are the same (words, and pairs of them, by our normal form); with many columns hardly two share
    one, and with few the products are right in the mean."""
    text = pytest.importorskip("sklearn.feature_extraction.text", reason="needs scikit-learn")
    texts = [normal([story]).points for story in STORIES]
    plain = ["".join(map(chr, points[points != 0])) for points in texts]
    reference = text.TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"\S+").fit_transform(plain)
    wanted = (reference @ reference.T).toarray()
    wide = tfidf(STORIES, 2**16)
    # Two of some 500 features in 65,536 columns may share one: hardly a pair of rows has both, all others are equal.
    assert (np.abs(wide @ wide.T - wanted) > 1e-5).mean() < 0.01
    # Other widths put other features together: the mean over 40 of them is nearer than one by sqrt(40) = 6 or so.
    off = [
        (made @ made.T - wanted)[np.triu_indices(len(STORIES), 1)]
        for made in (tfidf(STORIES, d) for d in range(493, 533))
    ]
    assert np.std(off) < 1.5 / 512**0.5 and np.mean(off, axis=0).std() < np.std(off) / 4 and abs(np.mean(off)) < 0.01


def words_of(text):
    """Words of a normal form, characters of scripts without blanks by themselves."""
    found, word = [], ""
    for c in text:
        alone = (
            "\u0e00" <= c < "\u0f00" or "\u1780" <= c < "\u1800" or "\u3040" <= c < "\u3100" or "\u3400" <= c < "\ua000"
        )
        alone = alone or "\U00020000" <= c < "\U00032000"
        if (alone or c == " ") and word:
            found, word = [*found, word], ""
        if alone:
            found.append(c)
        elif c != " ":
            word += c
    return [*found, word] if word else found


@given(st.lists(st.text(st.sampled_from("ab é,.漢字かไทย!\n"), max_size=30), max_size=6))
def test_a_word_has_one_hash_wherever_it_stands(texts):
    block = normal(texts)
    plain = [block.key(i).decode("utf-32-le") for i in range(len(texts))]
    hashes, owner = word_hashes(block)
    wanted = [(i, word) for i, text in enumerate(plain) for word in words_of(text)]
    assert owner.tolist() == [i for i, _ in wanted]
    of_word = dict(zip((word for _, word in wanted), hashes.tolist(), strict=True))
    assert [of_word[word] for _, word in wanted] == hashes.tolist() and len(set(of_word.values())) == len(of_word)
    counted = counts(texts)
    for i, text in enumerate(plain):
        words = words_of(text)
        times = Counter(words) + Counter(pairwise(words))
        assert sorted(counted.times[counted.starts[i] : counted.starts[i + 1]].tolist()) == sorted(times.values())


def test_rows_have_length_one_and_do_not_depend_on_the_block(monkeypatch):
    made = tfidf(STORIES)
    lengths = np.linalg.norm(made, axis=1)
    assert made.dtype == np.float32 and lengths[4] == 0 and np.delete(lengths, 4) == pytest.approx(1, abs=1e-6)
    monkeypatch.setattr("luthier.data.curate.shingles.AT_ONCE_CHARACTERS", 50)
    assert np.array_equal(tfidf(STORIES), made)
    assert made[0] @ made[1] > 0.4 > made[0] @ made[2]
    assert tfidf([]).shape == (0, 512)
