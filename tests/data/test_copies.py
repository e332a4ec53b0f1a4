"""Which row stands for which: against a plain loop over all pairs, and with a count of what is compared."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.curate.copies import standing_for
from luthier.data.curate.near import both, exact_clusters
from luthier.data.curate.questions import marked, words_in

WORDS = st.sampled_from(["the", "Altair", "Deneb", "is", "80", "90", "wide", "of", "the Deneb"])
TEXTS = st.lists(st.lists(WORDS, min_size=1, max_size=5).map(" ".join), max_size=14)


def other_things(a, b):
    """Whether two texts speak of different things: each has a number, or a name, that stands nowhere in the other."""
    return bool(marked(a) - words_in(b)) and bool(marked(b) - words_in(a))


def test_a_number_or_a_name_that_the_other_lacks_is_another_thing():
    assert other_things("It is 5 mm.", "It is 6 mm.") and not other_things("It is 5 mm", "So it is 5 mm wide.")


def plainly(order, texts, exact, alike):
    """The best takes all that are the same, then the best of what is left, and so on."""
    found, left = {}, list(order)
    while left:
        best, *others = left
        same = [
            i for i in others if exact[i] == exact[best] or (not other_things(texts[i], texts[best]) and alike(i, best))
        ]
        found |= dict.fromkeys(same, best)
        left = [i for i in others if i not in same]
    return found


@given(TEXTS, st.randoms(use_true_random=False), st.integers(1, 3))
@settings(max_examples=300)
def test_it_is_the_loop_over_all_pairs(texts, random, kinds):
    order = list(range(len(texts)))
    random.shuffle(order)
    kind = [random.randrange(kinds) for _ in texts]
    exact = exact_clusters(texts)

    def alike(i, j):
        return kind[i] == kind[j]

    assert standing_for(order, texts, exact, alike) == plainly(order, texts, exact, alike)


def test_a_template_costs_few_comparisons():
    """3,000 rows of one template about 1,500 things, each twice in other words: no 4,500,000 pairs."""
    texts = [
        f"{said} of chair number {n}?" for said in ("What is the price", "So what is the price") for n in range(1500)
    ]
    asked = []
    found = standing_for(range(3000), texts, exact_clusters(texts), lambda i, j: asked.append((i, j)) is None)
    assert found == {1500 + n: n for n in range(1500)} and len(asked) == 1500


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_two_kinds_of_clusters_join(pairs):
    """Two texts are together where a chain of either kind leads from one to the other."""
    one = [[a for a, _ in pairs].index(a) for a, _ in pairs]
    other = [[b for _, b in pairs].index(b) for _, b in pairs]
    found = both(one, other)
    reach = list(range(len(pairs)))
    for _ in pairs:
        for clusters in (one, other):
            least = {c: min(reach[i] for i in range(len(pairs)) if clusters[i] == c) for c in clusters}
            reach = [least[c] for c in clusters]
    assert found == reach
