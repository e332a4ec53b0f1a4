"""Losses and advantages: closed forms, and the definitions written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from luthier.objectives import (
    adapt_kl,
    bradley_terry,
    clipped_policy,
    clipped_value,
    gae,
    kl_estimate,
    nll,
    whiten,
)


def leaf(*values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def test_nll_of_a_uniform_model_is_log_v():
    # three tokens of weight 1, one of weight ½, all with probability 1/128: 3.5 · log 128
    logp = torch.full((4,), -math.log(128.0))
    assert nll(logp, torch.tensor([1.0, 1.0, 1.0, 0.5])).item() == pytest.approx(3.5 * math.log(128))


def test_bradley_terry():
    equal = bradley_terry(torch.zeros(3), torch.zeros(3))
    assert equal.item() == pytest.approx(3 * math.log(2))  # −log σ(0) = log 2, a sum over pairs
    # odds of 3 to 1: σ(log 3) = 3/4
    assert bradley_terry(torch.tensor([math.log(3)]), torch.tensor([0.0])).item() == pytest.approx(math.log(4 / 3))
    # only the difference counts, and its gradient is −(1 − σ(difference)) = −1/4
    chosen = leaf(7 + math.log(3))
    bradley_terry(chosen, leaf(7.0)).backward()
    assert chosen.grad.item() == pytest.approx(-0.25)
    # far apart: no overflow; −log σ(−1000) = 1000
    assert bradley_terry(torch.tensor([0.0]), torch.tensor([1000.0])).item() == pytest.approx(1000)


def gae_by_definition(rewards, values, gamma, lam):
    """Schulman et al. 2016, eq. 16, term by term, for one sequence."""
    n = len(rewards)
    after = [*values[1:], 0.0]
    delta = [rewards[t] + gamma * after[t] - values[t] for t in range(n)]
    return [sum((gamma * lam) ** (u - t) * delta[u] for u in range(t, n)) for t in range(n)]


rewards_and_values = st.lists(
    st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=1, max_size=7), min_size=1, max_size=4
)


@given(rewards_and_values, st.floats(0, 1), st.floats(0, 1), st.floats(-9, 9))
def test_gae_is_its_definition_whatever_stands_in_the_padding(rows, gamma, lam, junk):
    longest = max(map(len, rows))
    reward, value = (torch.full((len(rows), longest), junk, dtype=torch.float64) for _ in range(2))
    mask = torch.zeros(len(rows), longest, dtype=torch.float64)
    for n, row in enumerate(rows):
        reward[n, : len(row)], value[n, : len(row)] = torch.tensor(row, dtype=torch.float64).T
        mask[n, : len(row)] = 1
    advantage = gae(reward, value, mask, gamma, lam)
    for n, row in enumerate(rows):
        np.testing.assert_allclose(
            advantage[n, : len(row)].numpy(), gae_by_definition(*zip(*row, strict=True), gamma, lam), atol=1e-9
        )
        assert advantage[n, len(row) :].abs().sum() == 0


def test_gae_at_its_ends():
    reward, value, mask = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[10.0, 20.0, 30.0]]), torch.ones(1, 3)
    # λ = 0: one-step errors. 1 + ½·20 − 10 = 1, 2 + ½·30 − 20 = −3, 4 + 0 − 30 = −26
    assert gae(reward, value, mask, 0.5, 0.0).tolist() == [[1.0, -3.0, -26.0]]
    # λ = 1: discounted return minus value. 1 + 2/2 + 4/4 − 10 = −7, 2 + 4/2 − 20 = −16, 4 − 30 = −26
    assert gae(reward, value, mask, 0.5, 1.0).tolist() == [[-7.0, -16.0, -26.0]]
    # γ = λ = 1: sum of what is still to come minus value. 7 − 10, 6 − 20, 4 − 30
    assert gae(reward, value, mask, 1.0, 1.0).tolist() == [[-3.0, -14.0, -26.0]]
    # γ = 1, V = 0, one reward R = 8 at the end: A_t = λ^(T−1−t) R, here 8/4, 8/2, 8
    assert gae(torch.tensor([[0.0, 0.0, 8.0]]), torch.zeros(1, 3), mask, 1.0, 0.5).tolist() == [[2.0, 4.0, 8.0]]


def test_at_ratio_one_the_clipped_policy_gradient_is_reinforce():
    logits = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    action, advantage = torch.tensor([0, 3, 4, 1, 1, 2]), torch.tensor([1.0, -2.0, 0.5, 3.0, -0.1, 0.0]).double()
    logp = torch.log_softmax(logits, -1).gather(1, action[:, None]).squeeze(1)
    found = clipped_policy(logp, logp.detach(), advantage, 0.2)
    (gradient,) = torch.autograd.grad(found.loss, logits)
    # REINFORCE written out: ∂(−A log π(a))/∂logits = −A (onehot(a) − π)
    onehot = torch.nn.functional.one_hot(action, 5)
    expected = -advantage[:, None] * (onehot - torch.softmax(logits.detach(), -1))
    torch.testing.assert_close(gradient, expected)
    assert found.clipped == 0
    assert found.loss.item() == pytest.approx(-2.4)  # −ΣA, since every ratio is 1


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        (1.5, 1.0, -1.2, 0.0, 1),  # already likelier than 1 + ε allows: no more push
        (1.5, -1.0, 1.5, 1.5, 0),  # a bad action made likelier: pushed back, however far; ∂ρ/∂logp = ρ
        (0.5, 1.0, -0.5, -0.5, 0),  # a good action made rarer: pushed back
        (0.5, -1.0, 0.8, 0.0, 1),  # already rarer than 1 − ε allows
        (1.1, 2.0, -2.2, -2.2, 0),  # within the clip
    ],
)
def test_the_clip_holds_only_what_went_too_far(ratio, advantage, loss, gradient, clipped):
    logp = leaf(math.log(ratio) - 1.0)
    found = clipped_policy(logp, leaf(-1.0).detach(), torch.tensor([advantage]), 0.2)
    found.loss.backward()
    assert (found.loss.item(), logp.grad.item(), found.clipped.item()) == pytest.approx((loss, gradient, clipped))


@pytest.mark.parametrize(
    ("value", "target", "loss", "gradient", "clipped"),
    [
        (0.1, 1.0, 0.405, -0.9, 0),  # moved by less than ε = 0.2: ½(0.1 − 1)² and V − R
        (0.5, 1.0, 0.32, 0.0, 1),  # moved too far towards R: counted as if held at 0.2, ½(0.2 − 1)²
        (-0.5, 1.0, 1.125, -1.5, 0),  # moved away from R: ½(−0.5 − 1)² is the larger, and pulls back
        (0.0, 1.0, 0.5, -1.0, 0),  # unmoved
    ],
)
def test_clipped_value(value, target, loss, gradient, clipped):
    now = leaf(value)
    found = clipped_value(now, leaf(0.0).detach(), leaf(target).detach(), 0.2)
    found.loss.backward()
    assert (found.loss.item(), now.grad.item(), found.clipped.item()) == pytest.approx((loss, gradient, clipped))


@given(st.lists(st.tuples(st.floats(-30, 0), st.floats(-30, 0)), min_size=1, max_size=20))
def test_the_kl_estimate_is_never_negative(pairs):
    logp, ref = torch.tensor(pairs, dtype=torch.float64).T
    assert (kl_estimate(logp, ref) >= 0).all()


def test_the_kl_estimate_is_zero_on_agreement_and_unbiased():
    logp = torch.randn(50)
    assert (kl_estimate(logp, logp) == 0).all()
    # its expectation under π, summed exactly over a small vocabulary, is KL(π‖ref)
    policy, ref = (torch.log_softmax(torch.randn(7, dtype=torch.float64), -1) for _ in range(2))
    exact = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=policy), torch.distributions.Categorical(logits=ref)
    )
    torch.testing.assert_close((policy.exp() * kl_estimate(policy, ref)).sum(), exact)
    # d = ref − logp = log 2: e^d − 1 − d = 1 − log 2
    assert kl_estimate(torch.tensor([-1.0]), torch.tensor([-1.0 + math.log(2)])).item() == pytest.approx(
        1 - math.log(2), abs=1e-6
    )


def test_whiten():
    # 1 and 3: mean 2, standard deviation 1
    assert whiten(torch.tensor([1.0, 3.0])).tolist() == pytest.approx([-1.0, 1.0])
    # 2 and 6: mean 4, standard deviation 2; without the shift the mean stays, 4 ∓ 1
    assert whiten(torch.tensor([2.0, 6.0]), shift_mean=False).tolist() == pytest.approx([3.0, 5.0])
    assert whiten(torch.full((5,), 3.0)).tolist() == [0.0] * 5  # no NaN where nothing differs
    values = torch.randn(1000, dtype=torch.float64) * 7 + 3
    assert (whiten(values).mean().item(), whiten(values).std(correction=0).item()) == pytest.approx((0, 1), abs=1e-6)


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (6.0, 0.05),  # on target: stays
        (6.6, 0.05 * 1.0125),  # 10 % above: grows by 0.1 · 512/4096
        (60.0, 0.05 * 1.025),  # far above: the error counts as 0.2 at most
        (0.0, 0.05 * 0.975),  # far below: −0.2 at most
    ],
)
def test_the_kl_coefficient_follows_ziegler(kl, expected):
    assert adapt_kl(0.05, kl, target=6.0, samples=512, horizon=4096) == pytest.approx(expected)
