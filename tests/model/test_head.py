"""The sparse head is the dense one: values, gradients, entropy, and what it never allocates."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

from architectures import COMMON, tiny
from luthier.base.nouns import Tokens
from luthier.model import logp
from luthier.model import score as scoring
from luthier.model.score import head, score, sequence_sums, states
from luthier.model.verify import choose_layout
from luthier.tokens.pack import forest


def small_chunks(monkeypatch, chunk, kept=0):
    """Chunks of `chunk` logits, on the fused path and on the other; the fused one keeps at most `kept` of them."""
    monkeypatch.setattr(scoring, "CHUNK_LOGITS", chunk)
    monkeypatch.setattr(logp, "CHUNK_LOGITS", chunk)
    monkeypatch.setattr(logp, "KEPT_LOGITS", kept)


KINDS = ["llama", "gemma2", "granite", "cohere"]  # plain · soft-capped · divided · multiplied logits


def random_rows(lengths, vocab=128, seed=0):
    """Sequences of which about half the tokens are supervised, with weights other than 1."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda n: torch.randint(0, vocab, (n,), generator=generator).tolist()  # noqa: E731
    return [Tokens(tuple(draw(n)), tuple((w % 4) / 2 for w in draw(n)), "made") for n in lengths]


def dense_loss(model, rows, temperature):
    """−Σ w log p through the library's whole forward: every logit of every token."""
    total = torch.zeros(())
    for row in rows:
        ids = torch.tensor([row.ids])
        logp = torch.log_softmax(model(input_ids=ids).logits[0, :-1] / temperature, -1)
        total = total - (torch.tensor(row.weights[1:]) * logp.gather(1, ids[0, 1:, None]).squeeze(1)).sum()
    return total


@pytest.mark.parametrize("kept", [0, 1 << 25])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("kind", KINDS)
def test_sparse_and_chunked_equals_dense(kind, temperature, kept, monkeypatch):
    small_chunks(monkeypatch, 7 * 128, kept)  # 7 predictions a chunk, so the last chunk is a part
    rows = random_rows([24, 31, 9])
    model = tiny(kind)
    lm, _ = choose_layout(model)
    batch = forest(rows)
    ours = -(batch.weight_M * score(lm, batch, temperature)).sum()
    ours.backward()
    reference = tiny(kind)
    theirs = dense_loss(reference, rows, temperature)
    theirs.backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    for (name, a), b in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-5 * b.grad.abs().max().item() + 1e-7, msg=name)


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_chunks_change_neither_values_nor_gradients(kind, monkeypatch):
    lm, _ = choose_layout(tiny(kind))
    hidden, target = torch.randn(50, 32), torch.randint(0, 128, (50,))
    found = []
    for chunk, kept in ((1, 0), (13, 0), (13, 1 << 25), (1000, 1 << 25)):
        small_chunks(monkeypatch, chunk * 128, kept)
        leaf = hidden.clone().requires_grad_()
        lm.core.zero_grad()
        scores = head(lm, leaf, target, 0.8, entropy=True)
        (scores.logp_M.sum() + 2 * scores.entropy_M.sum()).backward()
        found.append((scores.logp_M, scores.entropy_M, leaf.grad, lm.core.get_output_embeddings().weight.grad.clone()))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk", [1 << 24, 7 * 128])
def test_entropy_and_its_gradient_are_torchs(chunk, monkeypatch):
    small_chunks(monkeypatch, chunk)
    lm, _ = choose_layout(tiny("llama"))
    ours, theirs = (torch.randn(20, 32, generator=torch.Generator().manual_seed(0)).requires_grad_() for _ in range(2))
    found = head(lm, ours, torch.zeros(20, dtype=torch.int64), 0.5, entropy=True)
    expected = torch.distributions.Categorical(logits=lm.core.lm_head(theirs) / 0.5).entropy()
    torch.testing.assert_close(found.entropy_M, expected, rtol=1e-5, atol=1e-6)
    found.entropy_M.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    assert head(lm, ours, torch.zeros(20, dtype=torch.int64)).entropy_M is None


def test_a_head_with_a_bias_in_bfloat16_is_torchs_to_rounding():
    torch.manual_seed(0)
    layer, target = torch.nn.Linear(48, 301), torch.randint(0, 301, (40,))
    ours, theirs = (torch.randn(40, 48, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    pull_M = torch.randn(40)
    found = []
    for leaf, dtype in ((ours, torch.bfloat16), (theirs, torch.float32)):
        layer.zero_grad()
        (logp.fused_logp(layer, leaf, target, dtype, 1.3, False).logp_M * pull_M).sum().backward()
        found.append((leaf.grad, layer.weight.grad.clone(), layer.bias.grad.clone()))
    leaf = theirs.detach().clone().requires_grad_()
    layer.zero_grad()
    reference_M = torch.log_softmax(1.3 * layer(leaf), -1).gather(1, target[:, None]).squeeze(1)
    (reference_M * pull_M).sum().backward()
    for a, b, c in zip(found[0], found[1], (leaf.grad, layer.weight.grad, layer.bias.grad), strict=True):
        torch.testing.assert_close(b, c, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(a, c, rtol=0.05, atol=0.02 * float(c.abs().max()))


def test_an_improbable_token_has_its_finite_log_prob():
    layer = torch.nn.Linear(1, 3, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[200.0], [0.0], [-100.0]]))
    scores = logp.fused_logp(layer, torch.ones(3, 1), torch.tensor([0, 1, 2]), torch.float32, 1.0, True)
    assert scores.logp_M.tolist() == [0.0, -200.0, -300.0]  # e^-200 is no float32
    assert scores.entropy_M is not None and scores.entropy_M.abs().max() < 1e-4


class Largest(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation returned, backward included."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return out


def largest_of_a_step(lm, length):
    """(predictions, elements of the largest tensor, elements kept from forward to backward) of one step."""
    rows = [Tokens(row.ids, (1.0,) * length, "made") for row in random_rows([length, length], vocab=4096)]
    batch = forest(rows)
    kept = {}
    keep = lambda x: kept.update({x.data_ptr(): x.numel()}) or x  # noqa: E731
    with Largest() as seen:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            loss = (batch.weight_M * score(lm, batch)).sum()
        loss.backward()
    return len(batch.from_M), seen.elements, sum(kept.values())


def test_logits_of_all_predictions_never_exist(monkeypatch):
    vocab, chunk = 4096, 64 * 4096
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**COMMON, "vocab_size": vocab, "max_position_embeddings": 2048}))
    lm, _ = choose_layout(model)
    m, all_at_once, kept = largest_of_a_step(lm, 500)
    # One chunk here: the instrument sees it. A product of 998 rows may be filled up to 1,024 (model/products.py).
    assert m == 998 and all_at_once in (998 * vocab, 1024 * vocab) and kept > 998 * vocab
    small_chunks(monkeypatch, chunk)
    for length in (500, 1000):
        m, largest, kept = largest_of_a_step(lm, length)
        assert m == 2 * length - 2
        # 262,144 elements, whatever M; all logits of the longer batch would be 8,183,808
        assert largest == chunk
        assert kept < m * vocab / 2  # weights and the activations of two layers: no logits


def test_sequence_sums_are_sums_over_each_sequence():
    rows = random_rows([12, 3, 9])
    batch = forest(rows)
    expected = [sum(w != 0 for w in row.weights[1:]) for row in rows]
    assert sequence_sums(torch.ones(len(batch.from_M)), batch).tolist() == expected


def test_states_are_those_of_the_library():
    model = tiny("qwen3")
    lm, _ = choose_layout(model)
    row = random_rows([30])[0]
    batch = forest([row])
    at = torch.tensor([0, 7, 29])
    expected = tiny("qwen3").model(input_ids=torch.tensor([row.ids])).last_hidden_state[0, at]
    torch.testing.assert_close(states(lm, batch, at, torch.zeros(3, dtype=torch.int64)), expected, rtol=0, atol=2e-5)
