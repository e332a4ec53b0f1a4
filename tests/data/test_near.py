"""Near duplicates: held against sets of Python strings and all pairs compared."""

from __future__ import annotations

import json
import random
import unicodedata
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.data.curate import near
from luthier.data.curate.near import bands_for, exact_clusters, jaccards, near_clusters, near_vectors
from luthier.data.curate.shingles import PROSE, WIDTH, normal, shingle_sets, shingles
from luthier.data.curate.signatures import numpy_signature, rensa_signature


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


def variants(count, seed, changed=3):
    """(texts, pairs): random sentences, and the same with some letters changed: planted near duplicates."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9))) for _ in range(3_000)]
    texts, pairs = [], []
    for _ in range(count):
        text = list(" ".join(rng.choices(words, k=rng.randint(15, 60))))
        texts.append("".join(text))
        for _ in range(rng.randint(0, changed)):
            text[rng.randrange(len(text))] = rng.choice("etaoinshrdlu")
        pairs.append((len(texts) - 1, len(texts)))
        texts.append("".join(text))
    return texts, pairs


@pytest.mark.parametrize("signature", [numpy_signature, rensa_signature])
def test_signatures_agree_as_often_as_the_sets_are_alike(signature):
    """Each of K numbers agrees with probability J: over many pairs the estimate is unbiased, and its deviation is no
    more than that of K coins (rensa's numbers are not independent, and do a little better)."""
    texts, pairs = variants(600, 1, changed=12)
    left, right = (np.array([pair[k] for pair in pairs]) for k in (0, 1))
    exact = jaccards(texts, left, right)
    signed = signature(shingles(normal(texts)), 128)
    estimate = (signed[left] == signed[right]).mean(1)
    deviation = np.sqrt(np.maximum(exact * (1 - exact), 1e-9) / 128)
    z = ((estimate - exact) / deviation)[exact < 1]
    assert exact.min() < 0.6 and (estimate[exact == 1] == 1).all()
    assert abs(z.mean()) < 4 / np.sqrt(len(z)) and z.std() < 1.15
    strangers = (signed[left] == signed[np.roll(left, 1)]).mean(1)
    assert strangers.mean() == pytest.approx(jaccards(texts, left, np.roll(left, 1)).mean(), abs=0.01)


def test_bands_find_what_they_promise():
    # 18 bands of 7: 1 - (1 - 0.8⁷)¹⁸ = 0.9855; one longer, 15 of 8, would find 0.937
    bands = bands_for(0.8)
    assert bands == (18, 7) and bands.found(0.8) == pytest.approx(0.9855, abs=1e-4)
    for jaccard in (0.3, 0.5, 0.7, 0.9, 0.99, 1.0):
        bands = bands_for(jaccard)
        assert bands.found(jaccard) >= 0.98 and bands.number * bands.rows <= 126


@pytest.mark.parametrize("signature", [numpy_signature, rensa_signature])
@pytest.mark.parametrize("jaccard", [0.6, 0.8, 0.95])
def test_recall_and_precision_on_planted_pairs(signature, jaccard):
    texts, pairs = variants(1_500, 2, changed=16)
    left, right = (np.array([pair[k] for pair in pairs]) for k in (0, 1))
    cluster = np.array(near_clusters(texts, jaccard, signature))
    exact, together = jaccards(texts, left, right), cluster[left] == cluster[right]
    alike = exact >= jaccard
    assert alike.sum() > 100 and (~alike).sum() > 100
    assert (
        together[alike].mean() >= 0.98
    )  # the bands' 0.98 is for pairs right at the threshold; these lie above it, too
    assert not together[~alike].any()
    assert len(np.unique(cluster)) == len(texts) - together.sum()


@given(st.lists(st.text("ab ", max_size=12), max_size=25), st.sampled_from([0.3, 0.5, 0.8, 1.0]))
def test_clusters_are_joined_pairs_and_nothing_else(texts, jaccard_):
    """Each is a part of one that comparing all pairs makes: what is joined is near, in one step or more."""
    parent = list(range(len(texts)))

    def root(i):
        return i if parent[i] == i else root(parent[i])

    for a, b in combinations(range(len(texts)), 2):
        if squeezed(texts[a]) == squeezed(texts[b]) or (grams(texts[a]) and jaccard(texts[a], texts[b]) >= jaccard_):
            parent[max(root(a), root(b))] = min(root(a), root(b))
    found = near_clusters(texts, jaccard_, workers=1)
    assert all(root(i) == root(first) and first <= i and found[first] == first for i, first in enumerate(found))
    exact = exact_clusters(texts)
    assert all(found[i] == found[first] for i, first in enumerate(exact))


def test_a_template_with_many_forms_is_one_cluster():
    """2,000 texts in one bucket: no 2,000² comparisons, and one cluster."""
    names = [f"{a}{b}" for a in "abcdefghijklmnopqrst" for b in "abcdefghij"]
    texts = [
        f"Dear customer {name}, your order was sent out today and will arrive at your door within three working "
        f"days; please keep this message until it does. {word}"
        for name in names
        for word in ("Thanks", "Cheers", "Regards", "Bye", "Yours", "Best", "Ciao", "Servus", "Adieu", "Farewell")
    ]
    assert set(near_clusters(texts)) == {0}
    assert near_clusters(texts, workers=1) == near_clusters(texts, workers=3)


def test_texts_that_are_all_nearly_near_are_compared_so_often_and_no_more(monkeypatch):
    """400 texts of one mould whose similarities lie a little below the threshold: 79,800 pairs, of which none joins."""
    rng = random.Random(3)
    words = ["".join(rng.choices("etaoinshrdlu", k=7)) for _ in range(4_000)]
    mould = " ".join(rng.choices(words, k=30))
    texts = [f"{mould} {' '.join(rng.choices(words, k=5))}" for _ in range(400)]
    pairs = []
    whole = near.jaccards
    monkeypatch.setattr(
        near, "jaccards", lambda texts, left, right: pairs.append(len(left)) or whole(texts, left, right)
    )
    monkeypatch.setattr(near, "COMPARED_MOST", 8)
    assert near_clusters(texts, 0.8) == list(range(400))
    assert 400 < sum(pairs) < 400 * (8 + 1)


def test_a_threshold_outside_is_refused():
    for wrong in (0, -1, 1.01):
        with pytest.raises(ValueError, match="jaccard"):
            near_clusters(["a"], wrong)
    assert near_clusters([]) == [] and exact_clusters([]) == []


def test_vectors_that_are_near_join():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(500, 32)).astype(np.float32)
    vectors[250:] = vectors[:250] + rng.normal(size=(250, 32)) * rng.uniform(0, 0.5, (250, 1))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = np.array(near_vectors(vectors, 0.95))
    cosine = (vectors[:250] * vectors[250:]).sum(1)
    assert (found[250:] == np.arange(250)).tolist() == (cosine >= 0.95).tolist()
    assert (found[:250] == np.arange(250)).all() and 50 < (cosine >= 0.95).sum() < 200
    assert near_vectors(np.zeros((3, 4), dtype=np.float32), 0.5) == [0, 1, 2]  # rows without words are like none
    in_cells = np.array(near_vectors(vectors, 0.95, all_pairs_most=100))
    assert ((in_cells[250:] == np.arange(250)) <= (cosine >= 0.95)).all()
    assert (in_cells[250:] == np.arange(250)).sum() > 0.9 * (cosine >= 0.95).sum()


def test_duplicates_of_lamini_that_were_found_by_hand(shared_data):
    """ "BYE", "bye" with one answer; the question about Twitter that is there with another mark at its end."""
    lines = (shared_data / "lamini" / "lamini_docs.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    texts = [f"{row['question']}\n{row['answer']}" for row in rows]
    exact, alike = np.array(exact_clusters(texts)), np.array(near_clusters(texts))
    assert exact[1319] == exact[1317]
    assert (exact != np.arange(len(texts))).sum() < (alike != np.arange(len(texts))).sum()
