"""Losses on preferences: closed forms with their arithmetic, and the gradients they stand for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize

from luthier.objectives import bradley_terry, dpo, ipo, kto, log_odds, orpo, simpo

NATS = st.floats(-20, 20)


def leaf(*values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_bradley_terry_with_a_margin():
    # a lead of 3 that should be 2 is as good as a lead of 1: −log σ(1); one of log 3 without margin: −log ¾
    chosen, rejected = leaf(3.0, math.log(3)), leaf(0.0, 0.0)
    loss = bradley_terry(chosen, rejected, torch.tensor([2.0, 0.0]))
    assert loss.item() == pytest.approx(-math.log(sigmoid(1)) + math.log(4 / 3))
    loss.backward()
    assert chosen.grad.tolist() == pytest.approx([-(1 - sigmoid(1)), -0.25])


def test_bradley_terry_with_a_soft_label():
    # three raters of four agree: cross-entropy of (¾, ¼) with (σ(Δ), σ(−Δ)); at Δ = log 3 the two are the same, so the
    # loss is their entropy and its gradient is 0
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    chosen = leaf(math.log(3))
    loss = bradley_terry(chosen, leaf(0.0), agreement_P=torch.tensor([0.75]))
    assert loss.item() == pytest.approx(entropy)
    loss.backward()
    assert chosen.grad.item() == pytest.approx(0, abs=1e-12)
    # raters who are split prefer neither: −½ log σ(2) − ½ log σ(−2)
    split = bradley_terry(leaf(2.0), leaf(0.0), agreement_P=torch.tensor([0.5]))
    assert split.item() == pytest.approx(-0.5 * math.log(sigmoid(2)) - 0.5 * math.log(sigmoid(-2)))


@given(NATS, st.floats(0, 3), st.floats(0.05, 0.95))
def test_the_best_lead_is_the_margin_and_the_raters_odds(start, margin, agreement):
    def loss(lead):
        return bradley_terry(torch.tensor([lead]).double(), leaf(0.0), margin, agreement).item()

    best = optimize.minimize_scalar(loss, bracket=(start, start + 1)).x
    assert best == pytest.approx(margin + math.log(agreement / (1 - agreement)), abs=1e-3)


def test_dpo():
    # policy = reference: gains are 0, and the loss of each pair is log 2
    assert dpo(torch.zeros(3), torch.zeros(3), 0.1).item() == pytest.approx(3 * math.log(2))
    # β = ½, gains of 3 and −1 nats: −log σ(½·4) = −log σ(2), gradient −β(1 − σ(2)) and its opposite
    chosen, rejected = leaf(3.0), leaf(-1.0)
    loss = dpo(chosen, rejected, 0.5)
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(sigmoid(2)))
    assert (chosen.grad.item(), rejected.grad.item()) == pytest.approx(
        (-0.5 * (1 - sigmoid(2)), 0.5 * (1 - sigmoid(2)))
    )
    # far apart: no overflow; −log σ(−100) = 100
    assert dpo(torch.tensor([-1000.0]), torch.tensor([0.0]), 0.1).item() == pytest.approx(100)


def test_conservative_dpo_stops_at_the_odds_of_its_labels():
    # a fifth of the labels are wrong: at βh = log(0.8 / 0.2) = log 4 the gradient is 0, beyond it it pushes back
    at = leaf(math.log(4) / 0.1)
    dpo(at, leaf(0.0), 0.1, smoothing=0.2).backward()
    assert at.grad.item() == pytest.approx(0, abs=1e-12)
    beyond = leaf(math.log(5) / 0.1)
    dpo(beyond, leaf(0.0), 0.1, smoothing=0.2).backward()
    # β(−0.8(1 − σ) + 0.2σ) at σ = 5/6: 0.1(−0.8/6 + 1/6) = 0.1/30
    assert beyond.grad.item() == pytest.approx(0.1 / 30)


def test_ipo():
    # β = ¼: the target is h = 2. There the loss is 0; at policy = reference 2² = 4, and its gradient −2·2
    assert ipo(torch.tensor([5.0]), torch.tensor([3.0]), 0.25).item() == 0
    chosen = leaf(0.0)
    loss = ipo(chosen, leaf(0.0), 0.25)
    loss.backward()
    assert (loss.item(), chosen.grad.item()) == (4, -4)
    # a lead that is too large costs as much as one too small by the same
    assert ipo(torch.tensor([4.0]), torch.tensor([0.0]), 0.25).item() == 4


def test_simpo():
    # means of −1 and −2 nats a token, β = 2, γ = 1: −log σ(2·1 − 1)
    assert simpo(torch.tensor([-1.0]), torch.tensor([-2.0]), 2.0, 1.0).item() == pytest.approx(-math.log(sigmoid(1)))
    # equal answers are short of the margin by γ: −log σ(−1)
    assert simpo(torch.tensor([-1.0]), torch.tensor([-1.0]), 2.0, 1.0).item() == pytest.approx(-math.log(sigmoid(-1)))


def test_orpo():
    # p = ¾ and ½: odds of 3 and 1, −log ¾ − λ log σ(log 3) = log(4/3) + λ log(4/3)
    chosen, rejected = torch.tensor([math.log(0.75)]), torch.tensor([math.log(0.5)])
    assert orpo(chosen, rejected, 0.5).item() == pytest.approx(1.5 * math.log(4 / 3))
    # equal answers: −log ½ + λ log 2
    assert orpo(rejected, rejected, 0.1).item() == pytest.approx(1.1 * math.log(2))
    # Hong et al. 2024, eq. 8 to 10: the penalty's gradient is −(1 − σ(log OR)) · ∂ log odds, ∂ log odds = 1 / (1 − p)
    c = leaf(math.log(0.75))
    (orpo(c, leaf(math.log(0.5)), 1.0) + c.sum()).backward()
    assert c.grad.item() == pytest.approx(-(1 - 0.75) / (1 - 0.75))


def test_odds_stay_finite_where_an_answer_is_certain():
    certain = torch.tensor([0.0, -1e-9], requires_grad=True)
    loss = orpo(certain, torch.tensor([-3.0, 0.0]), 1.0)
    loss.backward()
    assert math.isfinite(loss.item()) and torch.isfinite(certain.grad).all()
    p = np.linspace(0.001, 0.999, 50)
    found = log_odds(torch.from_numpy(np.log(p)))
    torch.testing.assert_close(found, torch.from_numpy(np.log(p / (1 - p))))


def test_kto():
    good = torch.tensor([1.0, 0.0])
    # policy = reference: gains and baseline are 0, each answer costs its weight times ½
    assert kto(torch.zeros(2), good, 0.0, 0.1, 1.0, 1.0).item() == pytest.approx(0.5 + 0.5)
    assert kto(torch.zeros(2), good, 0.0, 0.1, 1.5, 0.5).item() == pytest.approx(0.75 + 0.25)
    # β = ½, baseline 1 nat, both gained 5: 1 − σ(½·4) for the good one, 1 − σ(−½·4) = σ(2) for the bad one
    gain = leaf(5.0, 5.0)
    loss = kto(gain, good, 1.0, 0.5, 1.0, 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(1 - sigmoid(2) + sigmoid(2))
    # ∂(1 − σ(x)) = −σ(x)(1 − σ(x)): equal and opposite
    slope = 0.5 * sigmoid(2) * (1 - sigmoid(2))
    assert gain.grad.tolist() == pytest.approx([-slope, slope])


@given(st.lists(st.tuples(NATS, NATS), min_size=1, max_size=8), st.floats(0.01, 2))
def test_sums_are_sums_and_only_differences_count(pairs, beta):
    chosen, rejected = torch.tensor(pairs, dtype=torch.float64).T
    for loss in (lambda c, r: dpo(c, r, beta, 0.1), lambda c, r: ipo(c, r, beta), lambda c, r: simpo(c, r, beta, 1.0)):
        apart = sum(loss(chosen[i : i + 1], rejected[i : i + 1]) for i in range(len(pairs)))
        torch.testing.assert_close(loss(chosen, rejected), apart)
        torch.testing.assert_close(loss(chosen + 3, rejected + 3), apart)
