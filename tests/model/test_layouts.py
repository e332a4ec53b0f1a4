"""Forest = sequences, per architecture: values, gradients, and the choice the load-time check makes."""

from __future__ import annotations

import pytest
import torch

from architectures import FOREST, ROWS, tiny
from luthier.base.errors import RunError
from luthier.model.score import score
from luthier.model.verify import choose_layout, own_forward, probe_sequences
from luthier.tokens.pack import forest


@pytest.mark.parametrize("kind", FOREST)
def test_forest_equals_sequences(kind):
    lm, check = choose_layout(tiny(kind))
    assert (check.layout, lm.layout) == ("forest", "forest")
    assert check.difference <= 1e-5
    sequences = probe_sequences(128, 256, 16, seed=3)
    batch = forest(sequences, min_shared=2)
    assert batch.tokens < sum(len(s.ids) for s in sequences)  # prefixes really are shared
    torch.testing.assert_close(score(lm, batch), own_forward(lm, sequences), atol=2e-5, rtol=0)


@pytest.mark.parametrize("kind", ROWS)
def test_other_architectures_are_caught_and_run_on_rows(kind):
    lm, check = choose_layout(tiny(kind))
    assert (check.layout, lm.layout) == ("rows", "rows")
    assert "padded rows" in check.reason
    sequences = probe_sequences(128, 256, 16, seed=3)
    batch = forest(sequences, min_shared=2)
    torch.testing.assert_close(score(lm, batch), own_forward(lm, sequences), atol=5e-5, rtol=0)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2", "gpt_oss", "llama4_text", "exaone4"])
def test_gradient_through_a_shared_prefix_is_the_sum_over_sequences(kind):
    model = tiny(kind)
    lm, _ = choose_layout(model)
    sequences = probe_sequences(128, 256, 16, seed=5)

    def gradient(batches):
        model.zero_grad()
        for batch in batches:
            (score(lm, batch) * batch.weight_M).sum().backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    shared = gradient([forest(sequences, min_shared=2)])
    apart = gradient([forest([s]) for s in sequences])
    assert shared.keys() == apart.keys()
    for name, value in apart.items():
        torch.testing.assert_close(shared[name], value, atol=1e-4 * value.abs().max().item() + 1e-7, rtol=0, msg=name)


def test_a_model_that_neither_layout_reproduces_is_refused():
    model = tiny("llama")
    project = model.lm_head.forward
    # A head that looks at how many positions it is given cannot be computed only where it is needed.
    model.lm_head.forward = lambda h: project(h) * (1 + h.shape[-2])
    with pytest.raises(RunError, match="neither layout"):
        choose_layout(model)


def test_checkpointing_changes_nothing():
    model = tiny("gemma2")
    lm, _ = choose_layout(model)
    batch = forest(probe_sequences(128, 256, 16), min_shared=2)
    grads = []
    for on in (False, True):
        model.train()
        model.zero_grad()
        if on:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        (score(lm, batch) * batch.weight_M).sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(grads[0], grads[1], atol=1e-6, rtol=1e-5)
