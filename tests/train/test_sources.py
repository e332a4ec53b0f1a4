"""Where steps come from: nothing lost, nothing twice, the same from any side."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.base.errors import UserError
from luthier.base.store import open_store
from luthier.tokens.shards import open_shards
from luthier.train.sources import Packed, Pairs, Pool
from tokens.written import write
from train.rows import draw, draw_pairs


def as_other(row):
    return replace(row, origin=f"other {row.origin}")


def test_the_limit_does_cut_a_step_into_microbatches():
    packed = [Packed([Pool(draw(60), 160, "x")], 3, limit, None, 8).at(0) for limit in (100_000, 16)]
    assert [len(step.micros) for step in packed] == [1, sum(m.batch.n for m in packed[0].micros)]
    pairs = [Pairs(draw_pairs(32), 3, 8, limit, 1).at(0) for limit in (100_000, 16)]
    assert [len(step.micros) for step in pairs] == [1, 8]
    assert packed[0].total == packed[1].total and pairs[0].total == pairs[1].total == 8


def test_mixed_pools_keep_their_shares():
    """A step takes its share of the tokens from each source; the first one decides how long an epoch is."""
    rows, others = draw(60), [as_other(row) for row in draw(8, seed=9)]
    source = Packed([Pool(rows, 160, "a"), Pool(others, 40, "b")], 3, 100_000, 1.0, None)
    sizes = {row.origin: len(row.ids) for row in rows + others}
    before = [0, 0]
    for step in range(source.steps):
        item = source.at(step)
        shown = [o for m in item.micros for o in m.batch.origins]
        by_pool = [sum(sizes[o] for o in shown if o.startswith("other") is other) for other in (False, True)]
        assert by_pool[0] <= 160  # a row that does not fit waits for the next step
        before = [a + b for a, b in zip(before, by_pool, strict=True)]
        assert 0 <= before[1] - before[0] / 4 < max(len(row.ids) for row in others)
        assert item.tokens == sum(by_pool)
        assert item.total == sum(float(m.batch.weight_M.sum()) for m in item.micros)
    origins = [o for step in range(source.steps) for m in source.at(step).micros for o in m.batch.origins]
    assert sorted(o for o in origins if not o.startswith("other")) == sorted(row.origin for row in rows)
    turns = [origins.count(row.origin) for row in others]
    assert max(turns) >= 2 and max(turns) - min(turns) <= 1, "a small pool goes round"


@pytest.mark.parametrize(
    ("rows", "others"),
    [
        (draw(400, 30, 120), draw(60, 255, 256, seed=9)),  # answers with whole windows of documents beside them
        (draw(400, 30, 120), draw(3, 10, 20, seed=9)),  # a source smaller than its part of one step
        (draw(60, 255, 256), draw(400, 8, 30, seed=9)),
    ],
)
@pytest.mark.parametrize("share", [0.1, 0.35, 0.8])
def test_replay_has_its_share_of_the_tokens(rows, others, share):
    pools = [Pool(rows, round(1024 * (1 - share)), "a"), Pool([as_other(r) for r in others], round(1024 * share), "b")]
    source = Packed(pools, 3, 100_000, 1.0, None)
    sizes = {row.origin: len(row.ids) for pool in pools for row in pool.sequences}
    origins = [o for step in range(source.steps) for m in source.at(step).micros for o in m.batch.origins]
    replayed = sum(sizes[o] for o in origins if o.startswith("other"))
    assert replayed / sum(sizes[o] for o in origins) == pytest.approx(share, abs=0.01)


def test_the_largest_step_is_found():
    source = Packed([Pool(draw(60), 160, "a"), Pool(draw(8, seed=9), 40, "b")], 3, 100_000, 2.0, None)
    assert source.at(source.largest()).tokens == max(source.at(step).tokens for step in range(source.steps))
    pairs = Pairs(draw_pairs(32), 3, 8, 100_000, 2.0)
    assert pairs.at(pairs.largest()).tokens == max(pairs.at(step).tokens for step in range(pairs.steps))


def test_mixed_pools_give_the_same_step_from_any_side():
    made = [Packed([Pool(draw(60), 160, "a"), Pool(draw(8, seed=9), 40, "b")], 3, 64, 3.0, None) for _ in range(2)]
    shown = [[m.batch.ids_T.tolist() for m in made[0].at(k).micros] for k in range(made[0].steps)]
    again = [[m.batch.ids_T.tolist() for m in made[1].at(k).micros] for k in reversed(range(made[1].steps))]
    assert shown == again[::-1]
    per_epoch = made[0].steps // 3
    assert shown[:per_epoch] != shown[per_epoch : 2 * per_epoch], "another order in every epoch"


def test_a_source_without_rows_is_refused():
    with pytest.raises(UserError, match="data: handbook: no rows are left to train on"):
        Packed([Pool(draw(3), 160, "faq"), Pool([], 40, "handbook")], 0, 64, 1.0, None)


def test_epochs_and_steps():
    rows = [replace(row, ids=row.ids[:8], weights=row.weights[:8]) for row in draw(60)]
    # 60 rows of 8 tokens, 10 rows a step: 6 steps an epoch
    assert [Packed([Pool(rows, 80, "a")], 0, 64, epochs, None).steps for epochs in (None, 0.5, 1.0, 2.5)] == [
        6,
        3,
        6,
        15,
    ]
    assert Packed([Pool(rows, 80, "a")], 0, 64, 2.0, 7).steps == 7
    assert Packed([Pool(rows, 80, "a")], 0, 64, 0.01, None).steps == 1


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


def on_disk(folder, rows, size=7):
    """Rows as shards of `size`, about."""
    parts = [rows[k : k + size] for k in range(0, len(rows), size)]
    return open_shards(write(open_store("x", folder), parts, "uint16"))


def tensors(step):
    """All that a step is made of."""
    return [
        (m.batch.origins, *(v.tolist() for v in vars(m.batch).values() if isinstance(v, torch.Tensor)))
        for m in step.micros
    ]


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 60), epochs=st.sampled_from([0.5, 1.0, 2.0]))
def test_steps_from_disk_are_those_from_memory_in_the_same_order(tmp_path_factory, seed, count, epochs):
    """The same rows in the same order make the same steps, tensor by tensor, whichever step is asked for first."""
    rows, others = draw(count, seed=seed % 97), [as_other(row) for row in draw(9, seed=9)]
    disk = [on_disk(tmp_path_factory.mktemp("d"), part) for part in (rows, others)]
    sizes = [np.array([len(row.ids) for row in part]) for part in (rows, others)]
    held = [Pool(rows, 90, "a", sizes[0]), Pool(others, 30, "b", sizes[1])]
    read = [Pool(disk[0], 90, "a", disk[0].lengths), Pool(disk[1], 30, "b", disk[1].lengths)]
    one, other = (Packed(pools, seed, 64, epochs, None) for pools in (held, read))
    assert one.steps == other.steps and one.largest() == other.largest()
    backwards = [tensors(other.at(k)) for k in reversed(range(other.steps))][::-1]
    assert [tensors(one.at(k)) for k in range(one.steps)] == backwards
    assert [one.at(k)[1:] for k in range(one.steps)] == [other.at(k)[1:] for k in range(one.steps)]


@pytest.mark.parametrize("share", [0.1, 0.8])
def test_replay_from_disk_has_its_share(tmp_path, share):
    rows, others = draw(300, 30, 120), [as_other(r) for r in draw(50, 255, 256, seed=9)]
    disk = [on_disk(tmp_path / name, part, 40) for name, part in (("a", rows), ("b", others))]
    tokens = [round(1024 * (1 - share)), round(1024 * share)]
    source = Packed([Pool(d, t, n, d.lengths) for d, t, n in zip(disk, tokens, "ab", strict=True)], 3, 10**6, 1.0, None)
    sizes = {row.origin: len(row.ids) for row in rows + others}
    origins = [o for step in range(source.steps) for m in source.at(step).micros for o in m.batch.origins]
    assert sorted(o for o in origins if not o.startswith("other")) == sorted(row.origin for row in rows)
    replayed = sum(sizes[o] for o in origins if o.startswith("other"))
    assert replayed / sum(sizes[o] for o in origins) == pytest.approx(share, abs=0.01)


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 20))
def test_an_epoch_of_pairs_shows_every_pair_once_and_whole(seed, batch, count):
    pairs = draw_pairs(count)
    source = Pairs(pairs, seed, batch, 64, 1.0)
    shown = [o for k in range(source.steps) for m in source.at(k).micros for o in m.batch.origins]
    assert sorted(shown[0::2]) == sorted(shown[1::2]) == sorted(chosen.origin for chosen, _ in pairs)
    assert all(a == b for a, b in zip(shown[0::2], shown[1::2], strict=True)), "chosen and rejected alternate"
    assert sum(source.at(k).total for k in range(source.steps)) == count
