"""The moving average of the weights in closed form, and where it stands in for the weights."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from luthier.train.average import Average
from luthier.train.loop import fit
from train.jobs import equal, job, small, weights


def test_the_first_average_is_the_first_weights_and_the_second_is_by_hand():
    average, theta = Average(0.9), torch.nn.Parameter(torch.tensor([5.0]))
    average.update([theta])
    assert average.mean[0].item() == 5.0
    theta.data.fill_(7.0)
    average.update([theta])
    # (0.9 · 5 + 7) / (0.9 + 1) = 11.5 / 1.9
    assert average.mean[0].item() == pytest.approx(11.5 / 1.9)


@given(st.floats(0.01, 0.9999), st.lists(st.floats(-10, 10), min_size=1, max_size=40))
def test_it_is_the_weighted_mean_of_all_weights_so_far(decay, values):
    average, theta = Average(decay), torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    for value in values:
        theta.data[:] = torch.tensor([value, -2 * value], dtype=torch.float64)
        average.update([theta])
    shares = [decay ** (len(values) - 1 - k) for k in range(len(values))]
    mean = math.fsum(s * v for s, v in zip(shares, values, strict=True)) / math.fsum(shares)
    torch.testing.assert_close(average.mean[0], torch.tensor([mean, -2 * mean], dtype=torch.float64))


def test_swapped_twice_is_untouched_bit_for_bit():
    torch.manual_seed(0)
    average, theta = Average(0.9), torch.nn.Parameter(torch.randn(7))
    for _ in range(3):
        theta.data.add_(torch.randn(7))
        average.update([theta])
    last, mean = theta.detach().clone(), average.mean[0].clone()
    with average.shown([theta]):
        assert torch.equal(theta, mean) and torch.equal(average.mean[0], last)
    assert torch.equal(theta, last) and torch.equal(average.mean[0], mean)


def test_evaluations_see_the_average_and_so_does_what_is_kept(tmp_path):
    """Beside a run without: its weights after each step, averaged by hand, are what evaluations and the end have."""
    lm, plain, trail, seen = small(), small(), [], []
    fit(job(tmp_path / "plain", plain, evaluate=lambda step: trail.append(weights(plain)), evaluate_every_steps=1))
    fit(job(tmp_path / "mean", lm, ema=0.7, evaluate=lambda step: seen.append(weights(lm)), evaluate_every_steps=1))
    assert equal(seen[0], trail[0]), "before the first step there is nothing to average"
    for t in range(1, 9):
        shares = [0.7 ** (t - k) for k in range(1, t + 1)]
        for name in trail[0]:
            mean = sum(s * trail[k][name].double() for k, s in enumerate(shares, start=1)) / sum(shares)
            torch.testing.assert_close(seen[t][name], mean.float(), atol=1e-7, rtol=1e-5)
    assert equal(weights(lm), seen[-1])
    assert not equal(weights(lm), weights(plain))


@pytest.mark.parametrize("stop", [1, 5])
def test_resumed_is_uninterrupted(stop, tmp_path):
    one, other, again = small(), small(), small()
    fit(job(tmp_path / "whole", one, ema=0.7))

    def killed(step):
        if step == stop + 1:
            raise KeyboardInterrupt

    settings = {"ema": 0.7, "checkpoint_every_steps": 1, "evaluate_every_steps": 1}
    with pytest.raises(KeyboardInterrupt):
        fit(job(tmp_path / "killed", other, evaluate=killed, **settings))
    fit(job(tmp_path / "killed", again, **settings))
    assert equal(weights(one), weights(again))
