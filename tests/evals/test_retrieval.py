"""BM25: the formula by hand, ties, and texts that hold nothing."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from luthier.evals.retrieval import Index, words_of

TEXTS = ["The Altair is green.", "The Vega is red and the Vega is loud.", "", "Opening hours: nine to five."]


def twin(texts, query, k1=1.5, b=0.75):
    """Lucene's BM25, written out: Σ log(1 + (N − df + ½)/(df + ½)) · tf / (tf + k1·(1 − b + b·len/mean))."""
    words = [words_of(text) for text in texts]
    mean = sum(map(len, words)) / len(words)
    found = []
    for own in words:
        score = 0.0
        for word in set(words_of(query)):
            df = sum(word in other for other in words)
            if df:
                idf = math.log(1 + (len(texts) - df + 0.5) / (df + 0.5))
                tf = own.count(word)
                score += idf * tf / (tf + k1 * (1 - b + b * len(own) / mean))
        found.append(score)
    return np.array(found)


def test_it_is_lucenes_bm25():
    for query in ("Vega", "is the Vega red", "hours the green vega"):
        found = Index.build(TEXTS).search([query], k=4)
        expected = twin(TEXTS, query)
        order = [i for i in np.argsort(-expected, kind="stable") if expected[i] > 0]
        assert [i for i in found.index_QK[0] if i >= 0] == order
        np.testing.assert_allclose(found.score_QK[0][: len(order)], expected[order], rtol=1e-5)
        assert (found.index_QK[0][len(order) :] == -1).all()


def test_equal_texts_come_in_their_order():
    found = Index.build(["a b", "x y", "a b", "a b", "x"]).search(["b"], k=2)
    assert found.index_QK.tolist() == [[0, 2]]


def test_nothing_to_find():
    assert Index.build([]).search(["a"], 3).index_QK.shape == (1, 0)
    assert Index.build(["", "?!"]).search(["a"], 3).index_QK.tolist() == [[-1, -1]]
    assert Index.build(TEXTS).search(["", "zebra", "…"], 1).index_QK.tolist() == [[-1], [-1], [-1]]
    assert Index.build(TEXTS).search([], 1).index_QK.shape == (0, 1)
    assert Index.build(TEXTS).search(["vega"], 0).index_QK.shape == (1, 0)


def test_signs_without_spaces_are_words():
    assert Index.build(["望遠鏡は緑です", "赤い車"]).search(["緑の望遠鏡"], 1).index_QK.tolist() == [[0]]


texts = st.lists(st.text(alphabet="ab cde'", max_size=20), max_size=8)


@given(texts, st.text(alphabet="ab cde'", max_size=12), st.integers(0, 9))
def test_any_texts(given_texts, query, k):
    found = Index.build(given_texts).search([query], k)
    scores = twin(given_texts, query) if any(map(words_of, given_texts)) else np.zeros(len(given_texts))
    kept = [i for i in found.index_QK[0] if i >= 0]
    assert len(kept) == min(k, int((scores > 0).sum())) and len(set(kept)) == len(kept)
    assert (np.diff(found.score_QK[0]) <= 0).all()
    np.testing.assert_allclose(found.score_QK[0][: len(kept)], scores[kept], rtol=1e-5)
