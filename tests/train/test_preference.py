"""Learning from preferences: losses and gradients by hand, and KTO's steps are what the paper says."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.base.alignment import Dpo, Kto, Orpo, Simpo
from luthier.base.nouns import Tokens
from luthier.objectives import dpo, ipo, kto, orpo, simpo
from luthier.tokens.pack import forest
from luthier.train.preference import (
    KtoReference,
    Marked,
    answer_logps,
    kl_baseline,
    kto_loss,
    mismatched,
    preference_loss,
    shuffled_steps,
)
from luthier.train.sources import Micro, Pairs, pair_micro
from train.cases import model
from train.rows import draw_pairs

HOW = {
    "dpo": Dpo(kind="dpo", beta=0.5),
    "dpo with all": Dpo(kind="dpo", beta=0.5, label_smoothing=0.1, sft_weight=0.3, length_normalise=True),
    "ipo": Dpo(kind="dpo", loss="ipo", beta=0.5),
    "orpo": Orpo(kind="orpo", beta=0.5),
    "simpo": Simpo(kind="simpo"),
    "kto": Kto(kind="kto", beta=0.5, good_weight=1.3),
}
WIDE = 100_000
"""Tokens in a forward: all of them."""


def kto_source(lm):
    """KTO's three steps of sixteen answers; the reference is the model as it is."""
    rows = [answer for pair in draw_pairs(24) for answer in pair]
    which = shuffled_steps(len(rows), 16, 1, 3)
    others = [answer_logps(lm, mismatched([rows[i] for i in step], 64), WIDE) for step in which]
    known = KtoReference(answer_logps(lm, rows, WIDE), others)
    return Marked(lm, rows, [True, False] * 24, which, known, 64, 64)


def plain_logps(module, row) -> torch.Tensor:
    """Log-prob of a row's answer through the library's own forward."""
    logp_LV = torch.log_softmax(module(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0, :-1], -1)
    return (logp_LV.gather(1, torch.tensor(row.ids[1:])[:, None]).squeeze(1) * torch.tensor(row.weights[1:])).sum()


def by_hand(how, pairs, logps, refs) -> torch.Tensor:
    """The stage's loss, from log-probs of answers [2P] (chosen, rejected, chosen ...) under policy and reference."""
    tokens = torch.tensor([sum(answer.weights) for pair in pairs for answer in pair])
    gains, means = logps - refs, logps / tokens
    if isinstance(how, Kto):
        good = torch.tensor([1.0, 0.0] * len(pairs))
        return kto(gains, good, 0.25, how.beta, how.good_weight, how.bad_weight)
    if isinstance(how, Orpo):
        return orpo(means[0::2], means[1::2], how.beta)
    if isinstance(how, Simpo):
        return simpo(means[0::2], means[1::2], how.beta, how.target_margin)
    gains = gains / tokens if how.length_normalise else gains
    if how.loss == "ipo":
        return ipo(gains[0::2], gains[1::2], how.beta)
    return dpo(gains[0::2], gains[1::2], how.beta, how.label_smoothing) - how.sft_weight * means[0::2].sum()


@pytest.mark.parametrize("name", HOW)
def test_a_forest_of_pairs_is_its_sequences_through_the_library(name):
    """Loss and gradient where pairs share their prompts equal those of one answer at a time, without luthier."""
    how, lm = HOW[name], model()
    twin = copy.deepcopy(lm.module)
    twin.set_attn_implementation("sdpa")
    pairs = draw_pairs(5)
    rows = [answer for pair in pairs for answer in pair]
    refs = torch.linspace(-60, -20, len(rows))
    data = {"ref_chosen_P": refs[0::2], "ref_rejected_P": refs[1::2]}
    micro = pair_micro(pairs, data)
    assert micro.batch.tokens == sum(len(row.ids) for row in rows) - 12 * len(pairs), "prompts are not shared"
    if isinstance(how, Kto):
        good, baseline = torch.tensor([1.0, 0.0] * len(pairs)), torch.full((len(rows),), 0.25)
        micro = Micro(micro.batch, {"good_N": good, "ref_N": refs, "baseline_N": baseline})
        loss = kto_loss(lm, how, micro).total
    else:
        loss = preference_loss(lm, how, micro).total
    loss.backward()
    expected = by_hand(how, pairs, torch.stack([plain_logps(twin, row) for row in rows]), refs)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    for (name, ours), theirs in zip(lm.module.named_parameters(), twin.parameters(), strict=True):
        scale = float(theirs.grad.abs().max())
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-4 * scale, msg=name)


def test_what_is_watched():
    """Accuracy, margin and gains are sums over the pairs, by hand."""
    lm, how = model(), HOW["dpo"]
    pairs = draw_pairs(4)
    logps = torch.tensor(answer_logps(lm, [answer for pair in pairs for answer in pair], WIDE))
    gains = torch.tensor([1.0, -1.0, 2.0, 2.5, -3.0, -1.0, 0.5, 0.0])
    refs = logps - gains
    found = preference_loss(lm, how, pair_micro(pairs, {"ref_chosen_P": refs[0::2], "ref_rejected_P": refs[1::2]}))
    told = {name: float(value) / count for name, (value, count) in found.watched.items()}
    # leads 2, −½, −2, ½: two of four are right; β = ½
    assert told == pytest.approx(
        {"accuracy": 0.5, "margin": 0.0, "chosen_gain": 0.125, "rejected_gain": 0.125}, abs=1e-4
    )
    good = torch.tensor([1.0, 0.0] * 4)
    data = {"good_N": good, "ref_N": refs, "baseline_N": torch.full((8,), 0.75)}
    found = kto_loss(lm, HOW["kto"], Micro(forest([a for pair in pairs for a in pair]), data))
    told = {name: float(value) / count for name, (value, count) in found.watched.items()}
    # beyond ¾: 1 ✓, −1 ✓, 2 ✓, 2½ ✗, −3 ✗, −1 ✓, ½ ✗, 0 ✓
    expected = {"accuracy": 5 / 8, "good_gain": 0.125, "bad_gain": 0.125, "kl": 0.75}
    assert told == pytest.approx(expected, abs=1e-4)


def row(prompt, answer):
    return Tokens((*prompt, *answer), (0.0,) * len(prompt) + (1.0,) * len(answer), "x")


def test_mismatched_answers_are_those_to_other_prompts():
    a, b, c = (1, 2), (3, 4, 5), (6,)
    rows = [row(a, (10, 11)), row(b, (20,)), row(b, (21,)), row(c, (30, 31, 32))]
    # a with the last one's answer, b with the one before it; the second b's neighbour answers b too: the one before
    found = mismatched(rows, 64)
    assert [one.ids for one in found] == [(1, 2, 30, 31, 32), (3, 4, 5, 10, 11), (3, 4, 5, 10, 11), (6, 21)]
    assert [sum(one.weights) for one in found] == [3, 2, 2, 1]
    assert [one.ids for one in mismatched(rows, 4)] == [(1, 2, 30, 31), (3, 4, 5, 10), (3, 4, 5, 10), (6, 21)]
    assert mismatched([row(a, (1,)), row(a, (2,))], 64) == [] and kl_baseline([], []) == 0
    assert kl_baseline([1.0, 2.0], [0.0, 0.0]) == 1.5 and kl_baseline([-1.0, 0.5], [0.0, 0.0]) == 0


@pytest.mark.parametrize(("scale", "above"), [(0.8, True), (1.2, False)], ids=["above 0", "clamped"])
def test_the_baseline_is_the_steps_kl_under_the_weights_of_that_moment(scale, above):
    lm = model()
    source = kto_source(lm)
    assert source.baseline(0) == pytest.approx(0, abs=1e-5)
    with torch.no_grad():
        for parameter in lm.module.parameters():
            parameter.mul_(scale)
    twin = copy.deepcopy(lm.module)
    twin.set_attn_implementation("sdpa")
    for step in range(source.steps):
        others = mismatched([source.rows[i] for i in source.which[step]], 64)
        gains = [plain_logps(twin, one).item() for one in others] - np.array(source.reference.mismatched[step])
        item = source.at(step)
        assert len(item.micros) > 1 and item.total == 16
        assert (gains.mean() > 0) == above
        told = [float(z) for micro in item.micros for z in micro.data["baseline_N"]]
        assert told == pytest.approx([max(0.0, gains.mean())] * 16, abs=1e-4)


@settings(max_examples=40)
@given(st.integers(2, 60), st.integers(2, 16), st.floats(0.1, 3), st.integers(0, 2**32))
def test_steps_of_answers_show_each_once_a_pass_and_none_is_tiny(count, batch, epochs, seed):
    steps = shuffled_steps(count, batch, epochs, seed)
    per_epoch = -(-count // batch)
    assert len(steps) == max(1, round(epochs * per_epoch))
    for first in range(0, len(steps) - per_epoch + 1, per_epoch):
        assert sorted(i for step in steps[first : first + per_epoch] for i in step) == list(range(count))
    sizes = {len(step) for step in steps}
    assert max(sizes) <= batch and max(sizes) - min(sizes) <= 1
    assert steps == shuffled_steps(count, batch, epochs, seed)


def test_a_pairs_facts_follow_it():
    """Whatever the order and the cut: what is known of a pair stands beside its answers."""
    pairs = [tuple(replace(side, origin=f"pair:{i}") for side in pair) for i, pair in enumerate(draw_pairs(20))]
    source = Pairs(pairs, 5, 6, 64, 2.0, {"margin_P": [float(i) for i in range(20)]})
    for step in range(source.steps):
        for micro in source.at(step).micros:
            assert [f"pair:{int(x)}" for x in micro.data["margin_P"]] == list(micro.batch.origins[0::2])
