"""Attention written out for bfloat16 is attention: the rule in float64, values and gradients."""

from __future__ import annotations

import pytest
import torch

from luthier.base.nouns import Tokens
from luthier.model.attend import write_out
from luthier.model.attention import Extras, ForestPlan, one_node
from luthier.tokens.pack import forest, nodes

ROOT, STEM = tuple(range(20)), tuple(range(100, 115))
ROWS = [ROOT + STEM + (1, 2, 3), ROOT + STEM + (4,), ROOT + tuple(range(50, 81)), (7, 8, 9), (5,)]


def dense(q, k, v, end_T, lead, scale):
    """softmax over `j <= i < end_j`, keys repeated for grouped heads, the leading keys seen by all."""
    size = len(end_T)
    i, j = torch.arange(size)[:, None], torch.arange(size)[None]
    seen = torch.cat([torch.ones(size, lead, dtype=torch.bool), (j <= i) & (i < end_T[None])], dim=1)
    groups = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
    score = (q @ k.transpose(-1, -2) * scale).masked_fill(~seen, float("-inf"))
    return torch.softmax(score, -1) @ v


@pytest.mark.parametrize("lead", [0, 6])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_values_and_gradients_are_those_of_the_rule(kv_heads, lead):
    batch = forest([Tokens(ids, (1.0,) * len(ids), "") for ids in ROWS], min_shared=2)
    generator = torch.Generator().manual_seed(0)
    draw = lambda heads, size: torch.randn(1, heads, size, 8, generator=generator, dtype=torch.float64)  # noqa: E731
    inputs = [draw(4, batch.tokens), draw(kv_heads, lead + batch.tokens), draw(kv_heads, lead + batch.tokens)]
    pull = draw(4, batch.tokens)
    found = []
    for attend in (
        lambda q, k, v: write_out(q, k, v, nodes(batch.end_T), lead, 0.3),
        lambda q, k, v: dense(q, k, v, batch.end_T, lead, 0.3),
    ):
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = attend(*leaves)
        (out * pull).sum().backward()
        found.append([out, *(leaf.grad for leaf in leaves)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_under_bfloat16_the_plan_writes_out_what_the_fused_call_computes():
    batch = forest([Tokens(ids, (1.0,) * len(ids), "") for ids in ROWS], min_shared=2)
    q, k, v = (torch.randn(1, 4, batch.tokens, 16, generator=torch.Generator().manual_seed(i)) for i in range(3))
    plan = ForestPlan(batch)
    exact = plan.attend(0, q, k, v, None, Extras(0.25))
    with torch.autocast("cpu", torch.bfloat16):
        half = plan.attend(0, q, k, v, None, Extras(0.25))
    assert half.dtype == torch.bfloat16 and exact.dtype == torch.float32
    torch.testing.assert_close(half.float(), exact, rtol=0.02, atol=0.02)
    alone = one_node(q[:, :, :4], k[:, :, :4], v[:, :, :4], None, Extras(0.25))
    torch.testing.assert_close(exact[:, :, :4], alone)
