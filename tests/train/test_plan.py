"""Which rows make which step: the plan equals the loop that holds everything, and its orders are permutations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.base.seeds import seed_for
from luthier.train import plan as p
from luthier.train.shuffle import Passes, Rule


def held_runs(lengths: list[list[int]], tokens: list[int], seed: int, steps: int) -> list[list[list[int]]]:
    """The same steps by a loop over everything, held in memory."""

    def rounds(pool: int):
        for epoch in itertools.count():
            order = np.random.default_rng(seed_for(seed, f"order {pool}", epoch)).permutation(len(lengths[pool]))
            yield order.tolist()

    def leading():
        for order in rounds(0):
            run, size = [], 0
            for row in order:
                if run and size + lengths[0][row] > tokens[0]:
                    yield run
                    run, size = [], 0
                run.append(row)
                size += lengths[0][row]
            yield run

    rows = [itertools.chain.from_iterable(rounds(pool)) for pool in range(len(lengths))]
    owed = [0.0] * len(lengths)
    made = []
    for run in itertools.islice(leading(), steps):
        made.append([run])
        for pool in range(1, len(lengths)):
            owed[pool] += sum(lengths[0][row] for row in run) * tokens[pool] / tokens[0]
            beside = []
            while owed[pool] > 0:
                beside.append(next(rows[pool]))
                owed[pool] -= lengths[pool][beside[-1]]
            made[-1].append(beside)
    return made


LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=30)


@settings(max_examples=60)
@given(
    lengths=st.lists(LENGTHS, min_size=1, max_size=3),
    tokens=st.lists(st.integers(1, 90), min_size=3, max_size=3),
    seed=st.integers(0, 2**40),
    steps=st.integers(1, 40),
    block=st.sampled_from([1, 3, 256]),
    window=st.sampled_from([1, 2, 4096]),
)
def test_the_plan_is_the_loop_that_holds_everything(lengths, tokens, seed, steps, block, window):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(p, "BLOCK", block)
        patch.setattr(p, "WINDOW", window)
        patch.setattr(p, "BESIDE", window)
        passes = [Passes(len(one), str(pool), seed, held=True) for pool, one in enumerate(lengths)]
        plan = p.Plan([np.array(one) for one in lengths], passes, tokens[: len(lengths)])
        asked = np.random.default_rng(seed).permutation(steps).tolist()
        made = {step: [rows.tolist() for rows in plan.at(step)] for step in asked}
        expected = held_runs(lengths, tokens, seed, steps)
        assert [made[step] for step in range(steps)] == expected
        sizes = [sum(lengths[pool][row] for pool, rows in enumerate(run) for row in rows) for run in expected]
        assert plan.largest(steps) == int(np.argmax(sizes))
        first = next(
            k
            for k in itertools.count(1)
            if sum(len(run[0]) for run in held_runs(lengths, tokens, seed, k)) >= len(lengths[0])
        )
        assert plan.pass_steps() == first


@given(count=st.integers(1, 3000), seed=st.integers(0, 2**63 - 1))
def test_a_rule_is_a_permutation(count, seed):
    assert np.array_equal(np.sort(Rule(count, seed).at(np.arange(count))), np.arange(count))


@given(count=st.integers(1, 2**50), seed=st.integers(0, 2**63 - 1), places=st.lists(st.integers(0, 2**50), max_size=20))
def test_a_rule_gives_each_element_by_itself(count, seed, places):
    """Of an order far too long to be held: distinct elements, the same alone as together."""
    places = np.unique(np.array([place % count for place in places], dtype=np.int64))
    together = Rule(count, seed).at(places)
    assert [int(Rule(count, seed).at(places[i : i + 1])[0]) for i in range(len(places))] == together.tolist()
    assert len(set(together.tolist())) == len(places) and all(0 <= element < count for element in together)


def test_every_order_of_four_is_as_likely():
    """χ² of 24 orders over 4,800 seeds: mean 23, standard deviation √46; below 60 with p > 0.9999."""
    seen = np.unique([Rule(4, seed).at(np.arange(4)) for seed in range(4800)], axis=0, return_counts=True)[1]
    assert len(seen) == 24
    assert ((seen - 200) ** 2 / 200).sum() < 60


def test_a_rule_leaves_no_trace_of_the_old_order():
    """Spearman's correlation of place and element, and of neighbours: 0 ± 4/√n."""
    order = Rule(20_000, 7).at(np.arange(20_000))
    assert abs(np.corrcoef(order, np.arange(20_000))[0, 1]) < 4 / np.sqrt(20_000)
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 4 / np.sqrt(20_000)


@pytest.mark.parametrize("held", [True, False])
def test_each_pass_and_each_seed_has_its_own_order(held):
    orders = [
        tuple(Passes(50, name, seed, held).rows(50 * number, 50 * number + 50).tolist())
        for name, seed, number in itertools.product(["a", "b"], [0, 1], [0, 1])
    ]
    assert len(set(orders)) == 8
    assert all(sorted(order) == list(range(50)) for order in orders)
