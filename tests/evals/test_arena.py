"""Bradley–Terry against closed forms, scipy's minimiser and choix."""

from __future__ import annotations

import math

import choix
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.base.errors import UserError
from luthier.base.nouns import Row
from luthier.evals.arena import ELO, PRIOR_GAMES, Vote, arena, fit, groups, votes_of

RANDOM = np.random.default_rng(3)
TRUE_K = np.array([0.9, 0.3, -0.2, -1.0])


def games(n: int, gamma: float = 0.0):
    """n games of four models with known strengths, a fifth of them ties; and a length covariate that sways them."""
    a_N = RANDOM.integers(0, 4, n)
    b_N = (a_N + RANDOM.integers(1, 4, n)) % 4
    length_N = RANDOM.normal(0, 1, n) + 0.5 * (TRUE_K[a_N] - TRUE_K[b_N])
    margin_N = TRUE_K[a_N] - TRUE_K[b_N] + gamma * length_N
    score_N = (RANDOM.random(n) < 1 / (1 + np.exp(-margin_N))).astype(float)
    score_N[RANDOM.random(n) < 0.2] = 0.5
    return a_N, b_N, score_N, length_N


def scipys(a_N, b_N, score_N, length_N=None):
    """The same likelihood in the hands of scipy's minimiser, strengths free but the last."""

    def loss(x):
        theta = np.append(x[:3], 0)
        margin = theta[a_N] - theta[b_N] + (x[3] * length_N if length_N is not None else 0)
        return -(score_N * margin - np.logaddexp(0, margin)).sum()

    x = scipy.optimize.minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-9}).x
    theta = np.append(x[:3], 0)
    return theta - theta.mean(), x[3]


def rows(*votes: tuple[str, str, str], **more: str) -> list[Row]:
    return [
        Row({"a": a, "b": b, "winner": w, **more}, f"votes.jsonl:{n}") for n, (a, b, w) in enumerate(votes, start=1)
    ]


def test_three_wins_to_one_is_191_elo():
    # P = 3/4, θ = log 3, 400/ln 10 · ln 3 = 400·log10(3) = 190.85.
    votes = votes_of(rows(("x", "y", "a"), ("y", "x", "b"), ("x", "y", "a"), ("x", "y", "b")))
    made = arena(votes, resamples=20)
    first, second = made.standings
    assert (first.model, first.wins, first.losses) == ("x", 3, 1) and not made.prior
    assert first.elo.value - second.elo.value == pytest.approx(400 * math.log10(3)) == pytest.approx(190.848, abs=1e-3)
    assert first.elo.value + second.elo.value == pytest.approx(2000)
    assert made.gap is not None and made.gap.value == pytest.approx(190.848, abs=1e-3)


def test_ties_are_half_a_win_each_and_both_bad_is_one():
    # 2 wins, 1 loss, 1 tie, 1 both bad: 3 of 5, θ = log(3/2).
    votes = votes_of(rows(*[("x", "y", winner) for winner in ("a", "a", "b", "tie", "Both-bad")]))
    made = arena(votes, resamples=20)
    assert made.standings[0].elo.value - made.standings[1].elo.value == pytest.approx(400 * math.log10(1.5))
    assert made.standings[0].ties == 2 and made.standings[0].both_bad.value == 0.2


def test_the_fit_is_scipys_and_choixs():
    a_N, b_N, score_N, _ = games(800)
    ours = fit(a_N, b_N, score_N, 4)
    assert ours.theta_K == pytest.approx(scipys(a_N, b_N, score_N)[0], abs=1e-5) and not ours.prior
    decided = score_N != 0.5
    won = np.where(score_N == 1, a_N, b_N)[decided]
    lost = np.where(score_N == 1, b_N, a_N)[decided]
    theirs = choix.opt_pairwise(4, list(zip(won.tolist(), lost.tolist(), strict=True)), alpha=0.0, tol=1e-10)
    assert fit(a_N[decided], b_N[decided], score_N[decided], 4).theta_K == pytest.approx(
        theirs - theirs.mean(), abs=1e-5
    )


def test_length_is_held_apart_as_scipy_does():
    a_N, b_N, score_N, length_N = games(1500, gamma=1.5)
    ours = fit(a_N, b_N, score_N, 4, length_N=length_N)
    theta_K, gamma = scipys(a_N, b_N, score_N, length_N)
    assert ours.theta_K == pytest.approx(theta_K, abs=1e-5) and ours.gamma == pytest.approx(gamma, abs=1e-5)
    # Who writes longer looks stronger than it is, unless length is held apart.
    plain = fit(a_N, b_N, score_N, 4).theta_K
    assert np.ptp(plain) > 1.2 * np.ptp(ours.theta_K)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3), st.sampled_from([0, 0.5, 1])), min_size=1, max_size=30))
def test_at_the_maximum_expected_wins_are_the_wins(played):
    """The score equations of Bradley–Terry, with the prior's games where there is one; whatever was played."""
    a_N = np.array([a for a, _, _ in played])
    b_N = np.array([(a + step) % 4 for a, step, _ in played])
    score_N = np.array([float(score) for _, _, score in played])
    made = fit(a_N, b_N, score_N, 4)
    win_N = 1 / (1 + np.exp(-(made.theta_K[a_N] - made.theta_K[b_N])))
    left_K = np.zeros(4)
    np.add.at(left_K, a_N, score_N - win_N)
    np.add.at(left_K, b_N, win_N - score_N)
    if not made.prior:
        assert left_K == pytest.approx(np.zeros(4), abs=1e-6)
    else:  # the opponent's place, too, is free up to the shift of the mean: what is left adds up to 0 among models
        assert abs(left_K.sum()) < 1e-9 and (np.abs(left_K) <= PRIOR_GAMES / 2 + 1e-6).all()


def test_intervals_hold_the_truth():
    """Of strengths drawn with known differences: 95 % intervals of 12 arenas hold 12·4 truths nearly always."""
    held = 0
    for _ in range(12):
        a_N, b_N, score_N, _ = games(300)
        said = {1.0: "a", 0.0: "b", 0.5: "tie"}
        votes = [Vote("wxyz"[a], "wxyz"[b], said[s]) for a, b, s in zip(a_N, b_N, score_N.tolist(), strict=True)]
        # A fifth of ties pulls every margin towards 0: the truth is what 200,000 games would say.
        made = arena(votes, resamples=200)
        for standing in made.standings:
            held += standing.elo.low <= 1000 + ELO * FLAT_K["wxyz".index(standing.model)] <= standing.elo.high
    assert held >= 41  # P(fewer | 95 % each, independent) is below 0.5 %


FLAT_K = fit(*games(200_000)[:3], 4).theta_K


def test_a_model_that_won_everything_is_held_by_a_stated_prior():
    votes = votes_of(rows(*[("x", "y", "a")] * 6, *[("y", "z", "a")] * 2, *[("y", "z", "b")] * 2))
    made = arena(votes, resamples=50)
    assert made.prior and made.standings[0].model == "x" and made.standings[0].undecided == "never lost"
    assert math.isfinite(made.standings[0].elo.value) and made.standings[0].elo.value > 1300
    # By hand for two models, x with 6 wins of 6: 6(1 − p) = 0.1(q − ½), p = σ(2t), q = σ(t), at the fit's t.
    alone = fit(np.zeros(6, int), np.ones(6, int), np.ones(6), 2)
    t = float(alone.theta_K[0])
    assert 6 * (1 - 1 / (1 + math.exp(-2 * t))) == pytest.approx(0.1 * (1 / (1 + math.exp(-t)) - 0.5), abs=1e-7)


def test_groups_that_never_met_are_named():
    votes = votes_of(rows(("x", "y", "a"), ("y", "x", "a"), ("p", "q", "tie")))
    with pytest.raises(UserError, match="no vote joins these groups: p, q; x, y"):
        arena(votes)
    with pytest.raises(UserError, match="there are no votes"):
        arena([])
    assert groups(np.array([[0, 1, 0], [1, 0, 0], [0, 1, 0]], dtype=bool)) == [[0, 1], [2]]


def test_all_bad_lines_are_told_at_once():
    bad = rows(("x", "y", "a"), ("x", "y", "left"), ("x", "x", "tie"))
    bad += [Row({"a": "x", "winner": "a"}, "votes.jsonl:4"), Row({"a": "x", "b": "y"}, "votes.jsonl:5")]
    with pytest.raises(UserError) as error:
        votes_of(bad)
    assert error.value.problems == [
        'votes.jsonl:2: winner: "left" is not a, b, tie or both_bad.',
        "votes.jsonl:3: a and b: both are x.",
        "votes.jsonl:4: b: a model's name is wanted.",
        "votes.jsonl:5: winner: is missing.",
    ]


def test_votes_on_one_prompt_are_drawn_together():
    """Ten votes on each of eight prompts that agree within a prompt: intervals are those of eight, not of eighty."""
    votes = [Vote("x", "y", "a" if p % 4 else "b", prompt=str(p)) for p in range(8) for _ in range(10)]
    by_prompt, by_vote = arena(votes, resamples=400), arena(votes, resamples=400, by="vote")
    assert (by_prompt.resampled, by_vote.resampled) == ("prompt", "vote")
    wide, narrow = (made.standings[0].elo.high - made.standings[0].elo.low for made in (by_prompt, by_vote))
    assert wide > 2 * narrow
    with pytest.raises(UserError, match="--by voter: 80 votes name no voter"):
        arena(votes, by="voter")


def test_a_length_controlled_arena_takes_length_away():
    """Models as good as each other, one of which writes longer; voters like what is longer."""
    votes = []
    for _ in range(400):
        long, short = "w" * int(RANDOM.integers(60, 140)), "w" * int(RANDOM.integers(40, 100))
        liked = RANDOM.random() < 1 / (1 + math.exp(-3 * (len(long) - len(short)) / (len(long) + len(short))))
        votes.append(Vote("wordy", "terse", "a" if liked else "b", answer_a=long, answer_b=short))
    plain, fair = arena(votes, resamples=100), arena(votes, resamples=100, length=True)
    assert plain.gap is not None and plain.standings[0].model == "wordy" and plain.gap.low > 0
    assert fair.gap is not None and fair.gap.low < 60 and fair.length is not None and fair.length.low > 0
    assert abs(fair.gap.value) < plain.gap.value
