"""Choosing rows: closed form, plain greedy, brute force and its bounds, limits that hold whatever they are."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.base.nouns import Chat, Message
from luthier.data.curate import choose as choosing
from luthier.data.curate.choose import choose, coverage
from luthier.data.curate.limits import Limit, allowed, generated_limit, source_limits
from luthier.data.curate.style import FEATURES, consistency, style_of
from luthier.data.curate.topics import topics_of


def rows(count, dims, seed, centres=None):
    rng = np.random.default_rng(seed)
    made = rng.normal(size=(count, dims))
    if centres is not None:
        made = rng.normal(size=(centres, dims))[rng.integers(centres, size=count)] * 3 + made
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def served(vectors, quality, kept):
    """F(S), as its formula says."""
    quality = np.sqrt(quality)
    worth = np.maximum(vectors @ vectors[list(kept)].T, 0) * quality[list(kept)]
    return float((quality * worth.max(1)).sum())


def plain_greedy(vectors, quality, keep):
    kept = []
    for _ in range(keep):
        left = [row for row in range(len(vectors)) if row not in kept]
        kept.append(max(left, key=lambda row: (served(vectors, quality, [*kept, row]), -row)))
    return kept


def test_one_of_each_crowd_the_larger_crowd_first_and_of_a_crowd_the_best():
    # Three orthogonal topics of 4, 3 and 1 rows: a kept row gains the sum of qualities of its topic, times its own.
    vectors = np.eye(3, dtype=np.float32)[[0, 0, 0, 0, 1, 1, 1, 2]]
    quality = np.array([0.5, 0.5, 0.9, 0.5, 0.5, 0.6, 0.5, 1.0]) ** 2  # weights are its roots
    # gains: topic 0: 2.4 · 0.9 = 2.16; topic 1: 1.6 · 0.6 = 0.96; topic 2: 1 · 1 = 1
    assert choose(vectors, quality, 3) == [2, 7, 5]
    assert choose(vectors, np.full(8, 0.5), 3) == [0, 4, 7]  # equal quality: by size, the first of each
    assert sorted(choose(vectors, quality, 99)) == list(range(8)) and choose(vectors, quality, 0) == []
    with pytest.raises(ValueError, match="do not fit"):
        choose(vectors, quality[:3], 1)


@given(st.integers(0, 10_000), st.integers(5, 40), st.integers(1, 8))
@settings(max_examples=60)
def test_lazy_greedy_is_plain_greedy(seed, count, keep):
    vectors, quality = rows(count, 6, seed), np.random.default_rng(seed).uniform(0.05, 1, count)
    kept, plain = choose(vectors, quality, min(keep, count)), plain_greedy(vectors, quality, min(keep, count))
    assert [served(vectors, quality, kept[: k + 1]) for k in range(len(kept))] == pytest.approx(
        [served(vectors, quality, plain[: k + 1]) for k in range(len(plain))], rel=1e-5
    )


@pytest.mark.parametrize("seed", range(12))
def test_greedy_reaches_its_share_of_the_best_there_is(seed):
    vectors, quality = rows(12, 3, seed), np.random.default_rng(seed).uniform(0.1, 1, 12)
    best = max(served(vectors, quality, some) for some in combinations(range(12), 4))
    found = served(vectors, quality, choose(vectors, quality, 4))
    assert best + 1e-6 >= found >= (1 - 1 / math.e) * best
    assert found > 0.95 * best  # what it reaches in practice


@pytest.mark.parametrize("seed", range(12))
def test_k_centre_is_within_twice_the_best_radius(seed):
    vectors = rows(12, 3, seed)
    apart = np.sqrt(np.maximum(2 - 2 * vectors @ vectors.T, 0))
    best = min(apart[:, list(some)].min(1).max() for some in combinations(range(12), 4))
    kept = choose(vectors, np.ones(12), 4, "k-centre")
    assert len(set(kept)) == 4 and apart[:, kept].min(1).max() <= 2 * best + 1e-3


def test_k_centre_goes_to_the_far_and_facility_to_the_crowds():
    crowd = (
        np.array([[1, 0.01 * k, 0] for k in range(20)])
        / np.linalg.norm([[1, 0.01 * k, 0] for k in range(20)], axis=1)[:, None]
    )
    vectors = np.concatenate([crowd, [[0, 0, 1], [0, -1, 0]]]).astype(np.float32)
    assert set(choose(vectors, np.ones(22), 3, "k-centre")) >= {20, 21}
    assert choose(vectors, np.ones(22), 1)[0] < 20


LIMITED = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 99),
        "keep": st.integers(1, 30),
        "least": st.dictionaries(st.sampled_from("abc"), st.floats(0, 0.33), max_size=3),
        "most": st.dictionaries(st.sampled_from("abc"), st.floats(0.34, 1), max_size=2),
        "generated": st.floats(0, 1),
        "how": st.sampled_from(["facility", "k-centre"]),
    }
)


@given(LIMITED)
@settings(max_examples=80)
def test_limits_hold_whatever_they_are(given_):
    rng = np.random.default_rng(given_["seed"])
    source, keep = rng.choice(list("aaaabbc"), 40), given_["keep"]
    made = rng.random(40) < 0.5
    limits = source_limits(source.tolist(), keep, given_["least"], given_["most"])
    kept = choose(rows(40, 5, 1), rng.random(40), keep, given_["how"], limits=limits)
    assert len(set(kept)) == len(kept) <= keep
    for limit in limits:
        have = int(limit.members_N[kept].sum())
        assert limit.least <= have and (limit.most is None or have <= limit.most)
    cap = generated_limit(made, given_["generated"], keep)
    kept = choose(rows(40, 5, 1), rng.random(40), keep, given_["how"], limits=[cap])
    assert made[kept].sum() <= given_["generated"] * len(kept) + 1e-6 or not len(kept)
    if (~made).sum() >= keep:
        assert len(kept) == keep


def test_a_share_of_generated_rows_holds_where_there_are_few_real_ones():
    made = np.array([True] * 90 + [False] * 10)
    # 10 real rows at a share of 0.2: 2.5 generated ones at most, 12 rows in all
    assert generated_limit(made, 0.2, 50).most == 2
    kept = choose(rows(100, 5, 0), np.ones(100), 50, limits=[generated_limit(made, 0.2, 50)])
    assert len(kept) == 12 and made[kept].sum() == 2
    assert generated_limit(made, 1.0, 50).most == 50
    must = Limit("rare", np.arange(100) >= 98, least=2)
    assert {98, 99} <= set(choose(rows(100, 5, 0), np.linspace(1, 0, 100), 5, limits=[must]))


SHARED = st.fixed_dictionaries(
    {
        "rows": st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), min_size=1, max_size=14),
        "keep": st.integers(1, 16),
        "most": st.dictionaries(st.sampled_from("abc"), st.floats(0, 1), max_size=3),
        "made": st.none() | st.floats(0, 1),
    }
)


def part(share, total):
    return math.floor(share * total + 1e-9)


@given(SHARED, st.sampled_from(["facility", "k-centre"]))
@settings(max_examples=150)
def test_shares_hold_of_what_is_chosen_and_no_more_could_be(case, how):
    """Against all sets of rows: the largest of which every share is kept."""
    sources, made = [name for name, _ in case["rows"]], np.array([made for _, made in case["rows"]])
    total, limits = allowed(sources, made, case["keep"], {}, case["most"], case["made"])

    def right(some):
        counts = Counter(sources[row] for row in some)
        return all(counts[name] <= part(share, len(some)) for name, share in case["most"].items()) and (
            case["made"] is None or made[list(some)].sum() <= part(case["made"], len(some))
        )

    kinds = Counter(case["rows"])  # rows of one kind are all the same here: how many of each
    counts = itertools.product(*(range(count + 1) for count in kinds.values()))
    of_kind = [[i for i, row in enumerate(case["rows"]) if row == kind] for kind in kinds]
    sets = [[row for rows_, n in zip(of_kind, some, strict=True) for row in rows_[:n]] for some in counts]
    assert total == max(len(some) for some in sets if len(some) <= case["keep"] and right(some))
    kept = choose(rows(len(sources), 4, 0), np.ones(len(sources)), total, how, limits=limits)
    assert len(kept) < total or right(kept)
    better = choose(rows(len(sources), 4, 0), np.ones(len(sources)), total, how, better=0.3, limits=limits)
    assert better == kept or (len(better) == total and right(better))


def test_a_source_is_capped_as_a_share_of_what_is_chosen():
    # 100 others and 0.3 of slack: 142 in all, 42 of them slack (42/142 = 0.296; 43/143 would be 0.301)
    sources = ["slack"] * 1_000 + ["faq"] * 100
    nobody = np.zeros(1_100, dtype=bool)
    total, (cap,) = allowed(sources, nobody, 1_100, {}, {"slack": 0.3}, None)
    assert (total, cap.most) == (142, 42)
    total, (cap,) = allowed(sources, nobody, 50, {}, {"slack": 0.3}, None)
    assert (total, cap.most) == (50, 15)
    # half of the slack rows are generated and so is no other: 20 % generated leave 28 of 142, and 42 slack rows
    half = np.arange(1_100) % 2 * (np.arange(1_100) < 1_000)
    total, limits = allowed(sources, half, 1_100, {"faq": 0.5}, {"slack": 0.3}, 0.2)
    assert total == 142 and [(one.least, one.most) for one in limits] == [(0, 28), (71, None), (0, 42)]
    assert allowed(["slack"] * 9, np.zeros(9), 9, {}, {"slack": 0.3}, None)[0] == 0  # none is a share of nothing


def test_a_capped_crowd_does_not_fill_the_pool_of_candidates(monkeypatch):
    """Of 3,000 rows 30 are no slack, and the worst: they are there to choose, though only few rows may be looked at."""
    monkeypatch.setattr(choosing, "MOST_CANDIDATES", 100)
    slack = np.arange(3_000) >= 30
    cap = Limit("slack", slack, most=6)
    kept = choose(rows(3_000, 16, 4), 0.1 + 0.9 * slack, 20, limits=[cap])
    assert len(kept) == 20 and slack[kept].sum() == 6


def test_a_pool_and_a_sample_choose_nearly_as_well_as_all(monkeypatch):
    vectors, quality = rows(3_000, 16, 3, centres=40), np.random.default_rng(0).uniform(0.2, 1, 3_000)
    whole = choose(vectors, quality, 60)
    monkeypatch.setattr(choosing, "MOST_CANDIDATES", 400)
    monkeypatch.setattr(choosing, "MOST_PAIRS", 400 * 2_000)
    part = choose(vectors, quality, 60)
    assert part != whole and part == choose(vectors, quality, 60)
    assert served(vectors, quality, part) > 0.97 * served(vectors, quality, whole)
    rare = Limit("rare", np.arange(3_000) % 1_000 == 7, least=3)
    assert rare.members_N[choose(vectors, quality * (1 - rare.members_N), 60, limits=[rare])].sum() == 3


@pytest.mark.parametrize("how", ["facility", "k-centre"])
def test_only_the_better_rows_of_each_topic_where_that_is_asked_for(how):
    """40 topics of 50 rows, half of each bad: by default rare bad ones are chosen too; of the better half, none."""
    vectors, quality = rows(2_000, 64, 5, centres=40), np.where(np.arange(2_000) // 40 % 2, 0.7, 0.6)
    assert how == "facility" or (quality[choose(vectors, quality, 400, how)] == 0.6).any()
    some = choose(vectors, quality, 400, how, better=0.45)
    assert len(some) == 400 and (quality[some] == 0.7).mean() > 0.99
    assert len(choose(vectors, quality, 1_500, how, better=0.45)) == 1_500  # where more are to be kept, more may be


def test_topics_are_found_where_there_are_some():
    vectors = rows(900, 16, 5, centres=6)
    topic = topics_of(vectors, 6)
    crowd = np.random.default_rng(5)
    crowd.normal(size=(900, 16)), crowd.normal(size=(6, 16))
    true = crowd.integers(6, size=900)
    # of each found topic, the share of its largest true one
    purity = sum(np.bincount(true[topic == k]).max() for k in np.unique(topic)) / 900
    assert purity > 0.8
    assert topic[0] == 0 and topics_of(np.zeros((0, 4)), 3).size == 0
    assert len(np.unique(topics_of(np.ones((5, 2), dtype=np.float32) / 2**0.5, 3))) == 1


def test_coverage_by_hand():
    vectors = np.array([[1, 0], [1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
    assert coverage(vectors, vectors[:1]) == pytest.approx([1, 1, 0, 0.6])
    assert coverage(vectors, vectors[[0, 2]]) == pytest.approx([1, 1, 1, 0.8])
    assert coverage(vectors, vectors[:0]).tolist() == [0, 0, 0, 0]
    many = rows(1_300, 4, 0)  # more than are multiplied at once
    np.testing.assert_allclose(coverage(many, many[:9]), np.clip((many @ many[:9].T).max(1), 0, 1), atol=1e-6)


def test_chosen_rows_cover_more_than_as_many_at_random():
    vectors = rows(2_000, 16, 8, centres=150)
    topic = topics_of(vectors, 150)
    chosen = choose(vectors, np.ones(2_000), 150)
    rng = np.random.default_rng(0)
    drawn = [rng.choice(2_000, 150, replace=False) for _ in range(10)]
    near, *others = (coverage(vectors, vectors[kept]).mean() for kept in (chosen, *drawn))
    assert near > max(others)
    topics, *others = (len(np.unique(topic[kept])) for kept in (chosen, *drawn))
    assert topics > max(others)


def test_style_outliers_weigh_less():
    plain = [
        Chat((Message("user", "?"), Message("assistant", f"The {name} is {k} mm wide and weighs {k} g.")), "x")
        for k, name in enumerate(
            ["lens", "mirror", "frame", "mount", "tube", "cap", "case", "strap", "base", "ring"] * 3
        )
    ]
    loud = "🎉 Sure!!! I LOVE this!!!\n\n- **one**\n- **two**\n- **three**\n\n```py\nx\n```\n\n" + "More words. " * 120
    odd = Chat((Message("user", "?"), Message("assistant", loud)), "x")
    features = style_of([*plain, odd])
    assert features.shape == (31, len(FEATURES))
    weights = consistency(features)
    assert weights[:30].min() == 1 and weights[30] < 0.05
    # one feature of ten lies 8 deviations off: d = 8/sqrt(10) = 2.53, exp(-(2.53 - 1.5)²/2) = 0.588
    one = np.zeros((9, 10))
    one[8, 9] = 8 * 0.3
    assert consistency(one)[8] == pytest.approx(math.exp(-0.5 * (8 / math.sqrt(10) - 1.5) ** 2))
