"""Batches are forests: the layout against tries, masks and predictions computed the slow way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from luthier.base.nouns import Tokens
from luthier.tokens.pack import forest, nodes, paths, split_by_tokens

# Few letters and short sequences: shared prefixes, duplicates and prefixes of each other come up by themselves.
sequences = st.lists(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0.0, 1.0, 0.5])), min_size=1, max_size=9).map(
        lambda row: Tokens(tuple(id for id, _ in row), tuple(w for _, w in row), "made")
    ),
    min_size=1,
    max_size=8,
)
min_shared = st.integers(1, 6)


def words(*texts, weight=1.0):
    return [Tokens(tuple(map(ord, text)), (weight,) * len(text), text) for text in texts]


def ancestors(batch):
    """Each token's path from the root, from `pos_T` alone: depth first, so the parent of a token at depth d is the
    latest token before it at depth d − 1."""
    latest, found = {}, []
    for q, depth in enumerate(batch.pos_T.tolist()):
        latest[depth] = q
        found.append([latest[d] for d in range(depth + 1)])
    return found


@given(sequences, min_shared)
def test_the_one_line_rule_is_the_ancestor_mask(rows, shared):
    batch = forest(rows, shared)
    expected = np.zeros((batch.tokens, batch.tokens), dtype=bool)
    for q, path in enumerate(ancestors(batch)):
        expected[q, path] = True
    q, k = np.arange(batch.tokens)[:, None], np.arange(batch.tokens)[None, :]
    assert ((k <= q) & (q < batch.end_T.numpy()[None, :]) == expected).all()


@given(sequences, min_shared)
@example(words("abcdefgh", "abcdefgh", "abc"), 3)
def test_every_sequence_reads_itself_and_predicts_as_if_alone(rows, shared):
    batch = forest(rows, shared)
    above = ancestors(batch)
    path_of = [above[last] for last in batch.last_N.tolist()]
    assert [tuple(batch.ids_T[path].tolist()) for path in path_of] == [row.ids for row in rows]
    assert [path.tolist() for path in paths(batch)] == path_of
    naive = [
        (path[t - 1], row.ids[t], row.weights[t], n)
        for n, (row, path) in enumerate(zip(rows, path_of, strict=True))
        for t in range(1, len(row.ids))
        if row.weights[t] != 0
    ]
    given_M = (batch.from_M, batch.target_M, batch.weight_M, batch.seq_M)
    assert list(zip(*(x.tolist() for x in given_M), strict=True)) == naive
    assert batch.n == len(rows) and batch.origins == tuple(row.origin for row in rows)


@given(sequences)
def test_with_full_sharing_a_token_is_stored_once_per_distinct_prefix(rows):
    assert forest(rows, 1).tokens == len({row.ids[: t + 1] for row in rows for t in range(len(row.ids))})


@given(sequences, min_shared)
def test_two_sequences_share_nothing_or_at_least_min_shared(rows, shared):
    batch = forest(rows, shared)
    found = [set(path.tolist()) for path in paths(batch)]
    for i, a in enumerate(found):
        for b in found[:i]:
            assert not a & b or len(a & b) >= shared


def test_what_is_stored_when_prefixes_are_long_enough():
    rows = words("abcdefghij", "abcdefghXY", "abcdefgh", "abcdefghij", "zz")
    # one path of 10, its branch XY of 2, the prefix and the duplicate of 0, zz of 2
    assert forest(rows).tokens == 14
    batch = forest(rows, min_shared=9)  # only the duplicate shares: 10 + 10 + 8 + 0 + 2
    assert batch.tokens == 30
    batch = forest(rows, min_shared=11)  # nothing shares, and the rows lie in their own order
    assert batch.tokens == 40
    assert batch.ids_T.tolist() == [id for row in rows for id in row.ids]


def test_a_shared_prefix_supervised_twice_predicts_twice():
    batch = forest(words("abcdefghij", "abcdefghij"))
    assert batch.tokens == 10
    assert batch.from_M.tolist() == [*range(9), *range(9)]
    assert batch.seq_M.tolist() == [0] * 9 + [1] * 9


def test_the_last_shared_token_predicts_the_first_of_every_branch():
    batch = forest(words("abcdefghX", "abcdefghY", "abcdefghZ"))
    first = batch.target_M < ord("a")
    assert batch.target_M[first].tolist() == [*map(ord, "XYZ")]
    assert batch.from_M[first].tolist() == [7, 7, 7]


def test_a_single_token_has_no_prediction_and_an_empty_sequence_is_refused():
    batch = forest(words("a"))
    assert (batch.tokens, len(batch.from_M), batch.last_N.tolist()) == (1, 0, [0])
    with pytest.raises(ValueError, match="without tokens"):
        forest([Tokens((), (), "empty")])


@given(sequences, min_shared)
def test_nodes_cut_the_layout_into_runs_without_a_branch(rows, shared):
    batch = forest(rows, shared)
    found, above = nodes(batch.end_T), ancestors(batch)
    assert [i for node in found for i in range(node.start, node.stop)] == list(range(batch.tokens))
    for node in found:
        before = [i for j in node.above for i in range(found[j].start, found[j].stop)]
        for q in range(node.start, node.stop):
            assert above[q] == [*before, *range(node.start, q + 1)]


@given(sequences, st.integers(1, 20))
def test_split_by_tokens_fills_runs_in_order(rows, limit):
    runs = split_by_tokens(rows, limit)
    assert [row for run in runs for row in run] == rows
    sizes = [sum(len(row.ids) for row in run) for run in runs]
    assert all(size <= limit or len(run) == 1 for run, size in zip(runs, sizes, strict=True))
    # a run ends only where the next row does not fit
    assert all(size + len(after[0].ids) > limit for size, after in zip(sizes, runs[1:], strict=False))
