"""Attention over a forest: FlexAttention's mask and output, soft cap and sinks, against the rule and the library."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_mask
from transformers.masking_utils import chunked_overlay, sliding_window_overlay
from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward as gemma2_attention
from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward as gpt_oss_attention

from architectures import tiny
from luthier.base.nouns import Tokens
from luthier.model import attention
from luthier.model.attention import Extras, ForestPlan, lower_right, one_node, plain, using
from luthier.model.verify import choose_layout
from luthier.tokens.pack import forest

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")

WINDOWS = {
    "full": None,
    "window": sliding_window_overlay(16),
    "chunk": chunked_overlay(16, torch.zeros(1, dtype=torch.int64)),
}


def layer_rule(name):
    """The rule of a layer type as `_mask` hands it to a plan."""
    overlay = WINDOWS[name]
    return None if overlay is None else lambda q_pos, k_pos: overlay(0, 0, q_pos, k_pos)


def bushy(seed=0, vocab=128):
    """Nested branches, some of them longer than FlexAttention's block of 128 tokens and than a window of 16."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda n: tuple(torch.randint(0, vocab, (n,), generator=generator).tolist())  # noqa: E731
    root, stem = draw(20), draw(70)
    bodies = [
        root + stem + draw(60),
        root + stem + draw(5),
        root + draw(33),
        draw(150),
        root + stem + draw(60),
        draw(1),
    ]
    return [Tokens(body, (1.0,) * len(body), "made") for body in bodies]


def seen_by_hand(batch, name):
    """[T, T] booleans: the layer's rule in plain words, on positions, among the token's own ancestors."""
    pos, end, T = batch.pos_T.tolist(), batch.end_T.tolist(), batch.tokens
    seen = np.zeros((T, T), dtype=bool)
    for q in range(T):
        for k in range(q + 1):
            near = {"full": True, "window": pos[q] - pos[k] < 16, "chunk": pos[q] // 16 == pos[k] // 16}[name]
            seen[q, k] = near and q < end[k]
    return torch.from_numpy(seen)


@pytest.mark.parametrize("name", WINDOWS)
def test_the_flex_mask_is_the_rule(name):
    batch = forest(bushy())
    mask = ForestPlan(batch).block_mask(layer_rule(name))
    T = batch.tokens
    dense = create_mask(mask.mask_mod, None, None, T, T, device="cpu")[0, 0]
    expected = seen_by_hand(batch, name)
    assert torch.equal(dense, expected)
    # the blocks that FlexAttention visits are exactly those with something to see
    padded = torch.zeros(-(-T // 128) * 128, -(-T // 128) * 128, dtype=torch.bool)
    padded[:T, :T] = expected
    blocks = padded.view(-1, 128, padded.shape[1] // 128, 128).any(3).any(1)
    assert torch.equal(mask.to_dense()[0, 0].bool(), blocks)


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=40), min_size=1, max_size=5))
def test_flex_equals_one_call_per_node_on_random_forests(rows):
    batch = forest([Tokens(tuple(ids), (1.0,) * len(ids), "") for ids in rows], min_shared=1)
    generator = torch.Generator().manual_seed(len(rows))
    q, k, v = (torch.randn(1, heads, batch.tokens, 8, generator=generator) for heads in (4, 2, 2))
    outs = []
    for flex in (False, True):
        plan = ForestPlan(batch)
        plan.flex = flex
        outs.append(plan.attend(0, q, k, v, layer_rule("window"), Extras(0.3)))
    torch.testing.assert_close(*outs, rtol=0, atol=1e-5)


# grouped-query · soft cap and window · window · chunk · sinks and window
@pytest.mark.parametrize("kind", ["llama", "gemma2", "mistral", "llama4_text", "gpt_oss"])
def test_flex_equals_one_call_per_node_through_a_model(kind):
    lm, _ = choose_layout(tiny(kind))
    batch = forest(bushy())
    outs = []
    for flex in (False, True):
        plan = ForestPlan(batch)
        plan.flex = flex
        with torch.no_grad(), using(plan):
            out = lm.backbone(
                input_ids=batch.ids_T[None],
                position_ids=batch.pos_T[None],
                attention_mask=torch.ones_like(batch.ids_T)[None],
                use_cache=False,
            )
        outs.append(out.last_hidden_state)
        assert bool(plan.block_masks) == flex
    torch.testing.assert_close(*outs, rtol=0, atol=2e-5)


def test_flex_refuses_dropout():
    batch = forest(bushy())
    plan = ForestPlan(batch)
    plan.flex = True
    x = torch.randn(1, 2, batch.tokens, 8)
    with pytest.raises(NotImplementedError, match="attention_dropout"):
        plan.attend(0, x, x, x, None, Extras(1.0, dropout=0.1))


@pytest.fixture
def qkv():
    """Queries of 4 heads, keys and values of 2: the last 5 positions of 12."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, heads, n, 8, generator=generator) for heads, n in ((4, 5), (2, 12), (2, 12))]


def additive(seen):
    """The library's mask: 0 where seen, the least float elsewhere."""
    return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]


def test_soft_cap_is_transformers_eager(qkv):
    q, k, v = qkv
    seen = lower_right(5, 12, torch.device("cpu"))
    module = SimpleNamespace(num_key_value_groups=2, training=False, head_dim=8)
    theirs, _ = gemma2_attention(module, q, k, v, additive(seen), scaling=0.7, softcap=3.0)
    repeated = (attention.repeat_heads(x, 4) for x in (k, v))
    ours = plain(q, *repeated, seen, Extras(0.7, softcap=3.0))
    torch.testing.assert_close(ours.transpose(1, 2), theirs, rtol=0, atol=1e-6)


def test_sinks_are_transformers_eager(qkv):
    q, k, v = qkv
    seen = lower_right(5, 12, torch.device("cpu"))
    sinks = torch.tensor([-2.0, 0.0, 1.0, 5.0])
    module = SimpleNamespace(num_key_value_groups=2, training=False, sinks=sinks)
    theirs, _ = gpt_oss_attention(module, q, k, v, additive(seen), scaling=0.7)
    repeated = (attention.repeat_heads(x, 4) for x in (k, v))
    ours = plain(q, *repeated, seen, Extras(0.7, sinks_H=sinks))
    torch.testing.assert_close(ours.transpose(1, 2), theirs, rtol=0, atol=1e-6)


def test_a_sink_takes_its_share():
    # one key with score 0 against a sink of log 3: e⁰ / (e⁰ + 3) = 1/4 of the value
    one = torch.ones(1, 1, 1, 1)
    out = plain(
        one * 0, one, one * 8, torch.ones(1, 1, dtype=torch.bool), Extras(1.0, sinks_H=torch.tensor([3.0]).log())
    )
    assert out.item() == pytest.approx(2.0)


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("queries", [1, 5, 40])
def test_the_fused_call_is_attention_written_out(queries, name):
    generator = torch.Generator().manual_seed(queries)
    q, k, v = (torch.randn(1, 2, n, 8, generator=generator) for n in (queries, 40, 40))
    allowed = layer_rule(name)
    seen = lower_right(queries, 40, torch.device("cpu"))
    if allowed is not None:
        positions = torch.arange(40)
        seen = seen & allowed(positions[40 - queries :, None], positions[None, :])
    torch.testing.assert_close(
        one_node(q, k, v, allowed, Extras(0.4)), plain(q, k, v, seen, Extras(0.4)), rtol=0, atol=1e-5
    )
