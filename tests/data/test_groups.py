"""Groups on one side of a split: against a slow twin, stable as data grows, no chain ever cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.data.curate.groups import held_out, joined


def slow_twin(groups, clusters):
    """Spreads the least name along every shared group or cluster until nothing changes."""
    names = list(groups)
    while True:
        new = [
            min(names[j] for j in range(len(names)) if groups[i] == groups[j] or clusters[i] == clusters[j])
            for i in range(len(names))
        ]
        if new == names:
            return names
        names = new


ROWS = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 6)), max_size=14)


@given(ROWS)
def test_joined_is_the_closure_of_both_relations(rows):
    groups, clusters = [g for g, _ in rows], [c for _, c in rows]
    assert joined(groups, clusters) == slow_twin(groups, clusters)


@given(ROWS, st.randoms())
def test_the_order_of_rows_does_not_matter(rows, random):
    shuffled = random.sample(rows, len(rows))
    name = dict(zip(rows, joined([g for g, _ in rows], [c for _, c in rows]), strict=True))
    assert [name[row] for row in shuffled] == joined([g for g, _ in shuffled], [c for _, c in shuffled])


def test_a_chain_of_groups_and_clusters_is_one_group():
    """a -cluster 0- b (same group as row 2) -cluster 2- c; d stands alone."""
    assert joined(["b", "a", "a", "c", "d"], [0, 0, 2, 2, 4]) == ["a", "a", "a", "a", "d"]


def test_clusters_by_first_index_join_only_their_own():
    assert joined(["x", "y", "z"], [0, 1, 2]) == ["x", "y", "z"]
    assert joined(["x", "y", "z"], [0, 1, 0]) == ["x", "y", "x"]


def test_lists_of_two_lengths_are_our_own_bug():
    with pytest.raises(ValueError):
        joined(["a"], [])


def test_held_out_is_a_share_of_groups_and_grows_with_it():
    """10,000 groups at 0.2: 2,000 ± 160 (4 standard deviations of a binomial: √(10,000·0.2·0.8) = 40)."""
    names = [f"thread-{i}" for i in range(10_000)]
    small, large = ({name for name in names if held_out(name, share)} for share in (0.05, 0.2))
    assert small < large
    assert abs(len(large) - 2000) < 160
    assert not any(held_out(name, 0.0) for name in names) and all(held_out(name, 1.0) for name in names)
