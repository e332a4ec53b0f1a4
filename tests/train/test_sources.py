"""Where steps come from: nothing lost, nothing twice, the same from any side."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.train.sources import Packed, Pairs, Pool
from train.rows import draw, draw_pairs


def test_the_limit_does_cut_a_step_into_microbatches():
    packed = [Packed([Pool(draw(60), 160, "x")], 3, limit, None, 8).at(0) for limit in (100_000, 16)]
    assert [len(step.micros) for step in packed] == [1, sum(m.batch.n for m in packed[0].micros)]
    pairs = [Pairs(draw_pairs(32), 3, 8, limit, 1).at(0) for limit in (100_000, 16)]
    assert [len(step.micros) for step in pairs] == [1, 8]
    assert packed[0].total == packed[1].total and pairs[0].total == pairs[1].total == 8


def test_mixed_pools_keep_their_shares():
    """A step takes its share of the tokens from each source; the first one decides how long an epoch is."""
    rows, others = draw(60), [replace(row, origin=f"other {row.origin}") for row in draw(8, seed=9)]
    source = Packed([Pool(rows, 160, "a"), Pool(others, 40, "b")], 3, 100_000, 1.0, None)
    sizes = {row.origin: len(row.ids) for row in rows + others}
    for step in range(source.steps):
        item = source.at(step)
        shown = [o for m in item.micros for o in m.batch.origins]
        by_pool = [sum(sizes[o] for o in shown if o.startswith("other") is other) for other in (False, True)]
        assert by_pool[0] <= 160 and by_pool[1] <= 40  # a row that does not fit waits for the next step
        assert item.tokens == sum(by_pool)
        assert item.total == sum(float(m.batch.weight_M.sum()) for m in item.micros)
    origins = [o for step in range(source.steps) for m in source.at(step).micros for o in m.batch.origins]
    assert sorted(o for o in origins if not o.startswith("other")) == sorted(row.origin for row in rows)
    turns = [origins.count(row.origin) for row in others]
    assert max(turns) >= 2 and max(turns) - min(turns) <= 1, "a small pool goes round"


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 7), st.integers(1, 30))
def test_an_epoch_shows_every_row_once(seed, batch, count):
    """Batch k is a function of (data, seed, k): two sources agree, in any order of asking, and lose no row."""
    rows = draw(count, seed=seed % 97)
    one, other = (Packed([Pool(rows, 20 * batch, "x")], seed, 64, 1.0, None) for _ in range(2))
    shown = [[o for m in one.at(k).micros for o in m.batch.origins] for k in range(one.steps)]
    backwards = [[o for m in other.at(k).micros for o in m.batch.origins] for k in reversed(range(one.steps))][::-1]
    assert shown == backwards
    assert sorted(o for step in shown for o in step) == sorted(row.origin for row in rows)


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 20))
def test_an_epoch_of_pairs_shows_every_pair_once_and_whole(seed, batch, count):
    pairs = draw_pairs(count)
    source = Pairs(pairs, seed, batch, 64, 1.0)
    shown = [o for k in range(source.steps) for m in source.at(k).micros for o in m.batch.origins]
    assert sorted(shown[0::2]) == sorted(shown[1::2]) == sorted(chosen.origin for chosen, _ in pairs)
    assert all(a == b for a, b in zip(shown[0::2], shown[1::2], strict=True)), "chosen and rejected alternate"
    assert sum(source.at(k).total for k in range(source.steps)) == count
