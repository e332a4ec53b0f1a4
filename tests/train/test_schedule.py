"""The schedule in closed form."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.base.tuning import Training
from luthier.train.schedule import Plan, lr_at, rate


def rates(steps, **settings):
    how = Training(learning_rate=0.8, **settings)
    return [lr_at(step, steps, how) for step in range(steps)]


def test_warm_up_and_linear():
    # 2 of 10 steps rise by thirds of the peak: 0.8/3, 1.6/3; then 0.8 down to 0 in 7 equal moves
    expected = [0.8 / 3, 1.6 / 3, *(0.8 * (7 - k) / 7 for k in range(8))]
    assert rates(10, schedule="linear", warmup_frac=0.2) == pytest.approx(expected)


def test_linear_to_a_share_of_the_peak():
    # from 0.8 to a quarter of it in 4 moves of 0.15
    found = rates(5, schedule="linear", warmup_frac=0, final_lr_frac=0.25)
    assert found == pytest.approx([0.8, 0.65, 0.5, 0.35, 0.2])


def test_cosine():
    # half a turn in 4 moves: (1 + cos 0)/2, (1 + √½)/2, ½, (1 − √½)/2, 0
    root = math.sqrt(0.5)
    assert rates(5, schedule="cosine", warmup_frac=0) == pytest.approx(
        [0.8, 0.8 * (1 + root) / 2, 0.4, 0.8 * (1 - root) / 2, 0.0]
    )
    # with an end at half the peak everything shrinks towards it: ½ + ½·shape
    assert rates(3, schedule="cosine", warmup_frac=0, final_lr_frac=0.5) == pytest.approx([0.8, 0.6, 0.4])


def test_constant_after_the_warm_up():
    # 3 % of 50 steps is 1.5, so 2 rise; what `final_lr_frac` says is not for a constant rate
    assert rates(50, schedule="constant", final_lr_frac=0.1) == pytest.approx([0.8 / 3, 1.6 / 3, *[0.8] * 48])


def test_warmup_stable_decay():
    # 1 of 11 steps rises by halves; the last 4 moves (⅓ of 11 steps is 3.7) go from 0.8 to 0.2 by 0.15 each
    found = rates(11, schedule="wsd", warmup_frac=0.05, decay_frac=1 / 3, final_lr_frac=0.25)
    assert found == pytest.approx([0.4, *[0.8] * 6, 0.65, 0.5, 0.35, 0.2])


def test_a_decay_longer_than_what_the_warm_up_leaves_is_linear():
    # 5 of 10 steps rise by sixths; 4 moves are left for the 10 that decay_frac asks
    found = rates(10, schedule="wsd", warmup_frac=0.5, decay_frac=1.0)
    assert found == pytest.approx([0.8 * k / 6 for k in range(1, 6)] + [0.8, 0.6, 0.4, 0.2, 0.0])


SCHEDULES = ["cosine", "linear", "constant", "wsd"]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_stage_of_one_step_takes_it_at_the_peak(schedule):
    assert rates(1, schedule=schedule) == [0.8]
    assert rates(1, schedule=schedule, warmup_frac=1.0) == [0.8]
    assert rates(2, schedule=schedule) == pytest.approx([0.4, 0.8])


@given(st.integers(1, 300), st.floats(0, 1), st.floats(0, 1), st.sampled_from(SCHEDULES))
def test_a_rate_is_never_zero_at_first_never_above_the_peak_and_never_rises_after_it(steps, warm, final, schedule):
    found = rates(steps, schedule=schedule, warmup_frac=warm, final_lr_frac=final)
    assert found[0] > 0 and max(found) <= 0.8 + 1e-12 and min(found) >= 0
    top = found.index(max(found))
    assert found[: top + 1] == sorted(found[: top + 1])
    assert all(a >= b - 1e-12 for a, b in pairwise(found[top:]))


def planned(plan, **settings):
    how = Training(learning_rate=0.8, warmup_frac=0, **settings)
    return [rate(step, plan, how) for step in range(plan.steps)]


def test_a_plan_without_turns_is_the_schedule():
    for schedule in SCHEDULES:
        assert planned(Plan(37), schedule=schedule) == rates(37, schedule=schedule, warmup_frac=0)


def test_a_turn_passes_the_rest_of_the_schedule_faster():
    # 0.8 to 0 in 10 moves of 0.08; from step 4 on the 6 moves that are left are made in 3: by 0.16
    assert planned(Plan(11).turned(4, 8), schedule="linear") == pytest.approx(
        [0.8, 0.72, 0.64, 0.56, 0.48, 0.32, 0.16, 0.0]
    )


def test_wsd_still_goes_down_after_a_turn():
    # peak up to step 8 of 11, then two moves down. Turned at 2: the 8 moves left are made in 4, two each
    assert planned(Plan(11).turned(2, 7), schedule="wsd", decay_frac=0.4) == pytest.approx(
        [0.8, 0.8, 0.8, 0.8, 0.64, 0.32, 0.0], abs=1e-12
    )


def test_turns_follow_each_other():
    # 10 moves; at 2 the other 8 are to be made in 4, two a step; at 4 the 4 left are to be made in one
    plan = Plan(11).turned(2, 7).turned(4, 6)
    assert [plan.place(step) for step in range(6)] == [0, 1, 2, 4, 6, 10]
    assert plan.steps == 6


def test_no_time_left_is_one_last_step_at_the_end_of_the_schedule():
    plan = Plan(11).turned(4, 2)
    assert plan.steps == 5 and planned(plan, schedule="linear")[-1] == 0


@given(st.integers(1, 200), st.lists(st.tuples(st.integers(0, 100), st.integers(1, 200)), max_size=4))
def test_turns_never_jump_and_always_reach_the_end(first, asked):
    plan = Plan(first)
    for at, steps in sorted(asked):
        if at < plan.steps:
            before = [plan.place(step) for step in range(at)]
            plan = plan.turned(at, min(steps, plan.steps))
            assert [plan.place(step) for step in range(at)] == before, "what was passed stays as it was"
    places = [plan.place(step) for step in range(plan.steps)]
    assert places == sorted(places) and places[-1] == first - 1
    assert places[0] == 0 or plan.steps == 1
