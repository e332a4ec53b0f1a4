"""NEFTune's noise: its size, what it is a function of, and that evaluations know nothing of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers.integrations.neftune import neftune_post_forward_hook

from luthier.base.nouns import Tokens
from luthier.base.tuning import PromptTuning
from luthier.model.adapt import add_adapter
from luthier.model.score import score
from luthier.tokens.pack import forest
from luthier.train.loop import fit
from luthier.train.noise import Noise, prefixes
from train.jobs import equal, job, small, told, weights
from train.rows import draw, draw_pairs


def test_each_number_is_uniform_up_to_the_papers_limit():
    lm, rows = small(), draw(200, 8, 60)
    batch, noise = forest(rows), Noise(lm, 5.0, seed=1)
    noise_TD = noise.of(batch, 3, 32)
    for n, row in enumerate(rows):
        own = noise_TD[int(batch.last_N[n]) + 1 - len(row.ids) : int(batch.last_N[n]) + 1]
        limit = 5 / math.sqrt(len(row.ids) * 32)  # the sequence's own length, not the pack's
        assert own.abs().max() < limit and own.abs().max() > 0.9 * limit
    length_T = prefixes(batch)[1]
    unit = noise_TD.double().numpy() * np.sqrt(length_T * 32)[:, None] / 5
    # mean 0 ± 1/√(3n), variance ⅓, neighbours and columns unrelated: all within four standard errors
    n = unit.size
    assert abs(unit.mean()) < 4 / math.sqrt(3 * n) and abs(unit.var() - 1 / 3) < 4 * math.sqrt(4 / 45 / n)
    for a, b in ((unit[1:], unit[:-1]), (unit[:, 1:], unit[:, :-1])):
        assert abs((a * b).mean()) < 4 / 3 / math.sqrt(a.size)


def test_the_limit_is_the_librarys():
    """One sequence: the spread of transformers' hook, whose noise is drawn from torch's generator."""
    lm, row = small(), draw(1, 30, 31)[0]
    module, out = torch.nn.Module(), torch.zeros(1, len(row.ids), 32)
    module.train()
    module.neftune_noise_alpha = 5.0
    torch.manual_seed(0)
    theirs = neftune_post_forward_hook(module, None, out)
    ours = Noise(lm, 5.0, 0).of(forest([row]), 0, 32)
    assert float(ours.abs().max()) == pytest.approx(float(theirs.abs().max()), rel=0.01)
    assert float(ours.std()) == pytest.approx(float(theirs.std()), rel=0.05)


def test_it_is_a_function_of_seed_step_and_the_tokens_so_far():
    lm, rows = small(), draw(5)
    one = Noise(lm, 5.0, 1).of(forest(rows), 3, 32)
    assert torch.equal(one, Noise(lm, 5.0, 1).of(forest(rows), 3, 32))
    assert not torch.equal(one, Noise(lm, 5.0, 1).of(forest(rows), 4, 32))
    assert not torch.equal(one, Noise(lm, 5.0, 2).of(forest(rows), 3, 32))
    begin = 0
    for row in rows:  # laid out alone, a sequence has the noise that it has among others
        alone = Noise(lm, 5.0, 1).of(forest([row]), 3, 32)
        assert torch.equal(alone, one[begin : begin + len(row.ids)])
        begin += len(row.ids)


def noisy_logps(lm, batch, step=2):
    with Noise(lm, 5.0, 1)(batch, step):
        return score(lm, batch)


def test_shared_prefixes_share_their_noise():
    """A pair as a forest, and its two answers apart: the same log-probs, as the longest sequence says what L is."""
    lm = small()
    pair = draw_pairs(1)[0]
    size = min(len(s.ids) for s in pair)  # of equal length, so that apart the prompt has the same limit
    pair = [Tokens(s.ids[:size], s.weights[:size], s.origin) for s in pair]
    batch = forest(pair)
    assert batch.tokens < 2 * size, "the prompt is stored once"
    apart = torch.cat([noisy_logps(lm, forest([s])) for s in pair])
    torch.testing.assert_close(noisy_logps(lm, batch), apart, atol=2e-5, rtol=0)
    assert (noisy_logps(lm, batch) - score(lm, batch)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["gptj", "bloom"])
def test_padded_rows_have_the_noise_of_the_forest(kind):
    """An architecture without the forest: each sequence alone has what it has among padded ones."""
    lm, rows = small(kind), draw(4)
    assert lm.layout == "rows"
    together = noisy_logps(lm, forest(rows))
    apart = torch.cat([noisy_logps(lm, forest([row])) for row in rows])
    torch.testing.assert_close(together, apart, atol=2e-5, rtol=0)
    assert (together - score(lm, forest(rows))).abs().max() > 1e-3


def test_virtual_tokens_have_none():
    """The same log-probs as with the noise put by hand on what the embedding makes of the real tokens."""
    lm = add_adapter(small(), PromptTuning(kind="prompt", tokens=3), "policy", 0)
    batch, noise = forest(draw(3)), Noise(lm, 5.0, 1)
    embedding = lm.core.get_input_embeddings()
    seen = []
    hook = embedding.register_forward_hook(lambda module, inputs, out: seen.append(inputs[0].numel()))
    with noise(batch, 2):
        score(lm, batch)
    hook.remove()
    assert seen == [batch.tokens]


def test_a_step_is_the_same_in_one_microbatch_and_in_many(tmp_path):
    one, many, plain = small(), small(), small()
    fit(job(tmp_path / "one", one, neftune=5.0))
    fit(job(tmp_path / "many", many, microbatch_tokens=16, neftune=5.0))
    fit(job(tmp_path / "plain", plain))
    losses = [[e["loss"] for e in told(tmp_path / name, "step")] for name in ("one", "many", "plain")]
    assert np.abs(np.subtract(losses[0], losses[1])).max() < 5e-6
    assert np.abs(np.subtract(losses[0], losses[2])).min() > 1e-5
    for name, value in weights(one).items():
        torch.testing.assert_close(value, weights(many)[name], atol=5e-6, rtol=0)


def test_evaluation_is_without_it_and_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    lm, killed, again = small(), small(), small()
    batch, seen = forest(draw(4)), []
    fit(job(tmp_path / "whole", lm, neftune=5.0, evaluate=lambda step: seen.append(score(lm, batch).detach())))
    assert torch.equal(seen[-1], score(lm, batch))

    def kill(step):
        if step == 5:
            raise KeyboardInterrupt

    settings = {"neftune": 5.0, "checkpoint_every_steps": 2, "evaluate_every_steps": 5}
    with pytest.raises(KeyboardInterrupt):
        fit(job(tmp_path / "killed", killed, evaluate=kill, **settings))
    fit(job(tmp_path / "killed", again, **settings))
    assert equal(weights(lm), weights(again))
