"""The watchdog: what it takes for a runaway, where it goes back to, and that the way on is the same however often the
run is interrupted."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.base.errors import RunError
from luthier.base.tuning import Watchdog
from luthier.train.loop import fit
from luthier.train.watchdog import Watch
from train.jobs import equal, job, lm_loss, small, told, weights
from train.rows import draw


def watching(losses, **settings):
    """(the watch, what it said of each loss)."""
    watch = Watch(Watchdog(**settings))
    return watch, [watch.see(loss) for loss in losses]


def test_what_is_a_runaway():
    # window 10, so 2 recent steps. Usual 1.0; (1 + 3) / 2 = 2.0 is not above 2 · 1.0, (3 + 1.1) / 2 is
    _, said = watching([1.0] * 10 + [3.0, 1.1], window=10)
    assert said[:11] == [None] * 11
    assert said[11] == "the mean loss of 2 steps is 2.05, more than 2 times the usual 1"


def test_the_usual_is_a_median_so_that_one_bad_step_is_none():
    watch, said = watching([1.0, 1.0, 9.0, 1.0, 1.0, 1.2, 1.0], window=10, factor=6.0)
    assert watch.usual() == 1.0 and not any(said)


def test_a_loss_that_falls_from_the_start_is_fine_and_so_is_next_to_nothing():
    assert not any(watching([10 * 0.9**k for k in range(100)], window=10)[1])
    assert not any(watching([1e-3] * 20 + [1e-1] * 20, window=10)[1]), "a hundred times more, and still nothing"


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_a_runaway_at_once(loss):
    watch, said = watching([1.0, loss], window=10)
    assert said == [None, f"the loss is {loss}"] and watch.losses == [1.0]


def test_sane_is_nearer_to_the_usual_than_to_a_runaway():
    # a runaway is above 2.0: up to 1.5 is sane
    assert watching([1.0] * 10 + [1.4, 1.6], window=10)[0].sane
    assert not watching([1.0] * 10 + [1.5, 1.6], window=10)[0].sane


def test_the_good_checkpoint_is_sane_and_older_than_the_recent_steps():
    watch = Watch(Watchdog(window=50))  # 10 recent steps
    saved = {n: {"sane": n != 40} for n in (0, 20, 40, 50, 60)}
    assert [watch.good(saved, step) for step in (5, 10, 30, 59, 60, 70)] == [None, 0, 20, 20, 50, 60]
    # kept is the good one, and the first that will be good when it is old enough
    assert watch.wanted(saved, 60) == [50, 60] and watch.wanted(saved, 55) == [20, 50]


@given(st.lists(st.floats(0.5, 1.0), min_size=1, max_size=80))
def test_a_loss_within_the_factor_never_alarms(losses):
    assert not any(watching(losses, window=10)[1])


def test_state_goes_on():
    watch, _ = watching([1.0] * 9 + [1.5, 2.2], window=10, slower=0.5)
    watch.rollbacks = 2
    other = Watch(watch.how)
    other.load_state_dict(watch.state_dict())
    assert other.see(2.2) == watch.see(2.2) and other.losses == watch.losses and other.slowed == 0.25


RUNAWAY = {
    "steps": 40, "rows": draw(6), "learning_rate": 2 / 3, "schedule": "constant", "warmup_frac": 1.0,
    "checkpoint_every_steps": 5,
}  # fmt: skip
"""Six rows, and a rate that rises by 1/60 a step. At the 16th the loss is 1.3 and about to run away to 2 and more."""
DOG = {"window": 10, "factor": 1.5, "slower": 0.125}


def test_it_goes_back_and_on_from_there_at_a_lower_rate(tmp_path):
    lm, twin = small(), small()
    fit(job(tmp_path / "dog", lm, watchdog=DOG, **RUNAWAY))
    (back,) = told(tmp_path / "dog", "rollback")
    assert (back["step"], back["lr_share"]) == (15, 0.125) and "back to step 15" in back["text"]

    # Beside it: the same run without a watchdog up to its checkpoint of step 15, and from there at an eighth.
    stop_at(tmp_path / "twin", 16, **RUNAWAY)
    fit(job(tmp_path / "twin", twin, **{**RUNAWAY, "learning_rate": RUNAWAY["learning_rate"] / 8}))
    ours, theirs = ([e["loss"] for e in told(tmp_path / name, "step")] for name in ("dog", "twin"))
    assert ours == theirs and len(ours) == 40, "every step stands there once"
    assert equal(weights(lm), weights(twin))

    fit(job(tmp_path / "alone", small(), **RUNAWAY))
    alone = [e["loss"] for e in told(tmp_path / "alone", "step")]
    assert max(alone[15:]) > 2 * max(ours[15:]), "there was a reason to go back"


def stop_at(folder, step, **settings):
    """Runs a job until its evaluation at a step."""

    def evaluate(at):
        if at == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(job(folder, small(), evaluate=evaluate, **{**settings, "evaluate_every_steps": step}))


@pytest.mark.parametrize("settings", [{}, {"ema": 0.8, "neftune": 2.0, "optimizer": "lion"}], ids=["plain", "all"])
def test_resumed_before_and_after_going_back_is_uninterrupted(settings, tmp_path):
    settings = {**RUNAWAY, "watchdog": {**DOG, "slower": 0.5, "rollbacks": 9}, **settings}
    if "optimizer" in settings:
        settings["learning_rate"] /= 10
    whole, again = small(), small()
    fit(job(tmp_path / "whole", whole, **settings))
    backs = told(tmp_path / "whole", "rollback")
    assert backs, "the loss did not run away"
    for step in (backs[0]["since"] - 1, backs[0]["since"] + 1, 33):
        stop_at(tmp_path / "killed", step, **settings)
    fit(job(tmp_path / "killed", again, **settings))
    assert equal(weights(whole), weights(again))
    losses = [[(e["step"], e["loss"], e["lr"]) for e in told(tmp_path / name, "step")] for name in ("whole", "killed")]
    assert losses[0] == losses[1]


def test_it_gives_up_after_so_many_times_and_keeps_what_was_good(tmp_path):
    lm, looks = small(), {5: 3.0, 10: 1.0, 15: 2.0}
    last = job(
        tmp_path / "dog", lm, evaluate=lambda step: looks.get(step, 9.0), evaluate_every_steps=5,
        **{**RUNAWAY, "watchdog": {**DOG, "slower": 1.0, "rollbacks": 1}},
    )  # fmt: skip
    with pytest.raises(RunError) as stop:
        fit(last)
    (back,) = told(tmp_path / "dog", "rollback")
    said = str(stop.value)
    assert said.startswith(f"{tmp_path / 'dog'}: step {back['since']}: the mean loss of 2 steps is")
    assert "also after going back 1 times" in said and "Lower learning_rate" in said and "\n" not in said
    assert {10, 15} <= set(last.checkpoints.steps()), "the best and the last good one"


class Spoiled:
    """A language-model loss that is no number the first `times` that a step is tried."""

    def __init__(self, lm, at, times) -> None:
        self.lm, self.at, self.times, self.job = lm, at, times, None

    def __call__(self, micro):
        loss = lm_loss(self.lm)(micro)
        here = self.job.source.at(self.at).micros[0].batch.origins == micro.batch.origins
        self.times -= here
        return loss._replace(total=loss.total * math.nan) if here and self.times >= 0 else loss


def test_a_loss_that_is_no_number_is_gone_back_from_too(tmp_path):
    lm = small()
    loss = Spoiled(lm, at=7, times=1)
    loss.job = job(tmp_path / "dog", lm, steps=12, loss=loss, checkpoint_every_steps=2, watchdog=DOG)
    fit(loss.job)
    (back,) = told(tmp_path / "dog", "rollback")
    assert (back["step"], back["since"]) == (4, 7) and "the loss is nan" in back["text"]
    assert [e["step"] for e in told(tmp_path / "dog", "step")] == list(range(1, 13))
    assert all(math.isfinite(e["loss"]) for e in told(tmp_path / "dog", "step"))

    again = Spoiled(small(), at=7, times=99)
    again.job = job(tmp_path / "ever", again.lm, steps=12, loss=again, checkpoint_every_steps=2, watchdog=DOG)
    with pytest.raises(RunError, match="step 7: the loss is nan, also after going back 2 times"):
        fit(again.job)
