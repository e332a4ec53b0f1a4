"""The sparse head is the dense one: values, gradients, entropy, and what it never allocates."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

from architectures import COMMON, tiny
from luthier.base.nouns import Tokens
from luthier.model import score as scoring
from luthier.model.score import head, score, sequence_sums, states
from luthier.model.verify import choose_layout
from luthier.tokens.pack import forest

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


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("kind", KINDS)
def test_sparse_and_chunked_equals_dense(kind, temperature, monkeypatch):
    monkeypatch.setattr(scoring, "CHUNK_LOGITS", 7 * 128)  # 7 predictions a chunk, so the last chunk is a part
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
    for chunk in (1, 13, 1000):
        monkeypatch.setattr(scoring, "CHUNK_LOGITS", chunk * 128)
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
    monkeypatch.setattr(scoring, "CHUNK_LOGITS", chunk)
    lm, _ = choose_layout(tiny("llama"))
    ours, theirs = (torch.randn(20, 32, generator=torch.Generator().manual_seed(0)).requires_grad_() for _ in range(2))
    found = head(lm, ours, torch.zeros(20, dtype=torch.int64), 0.5, entropy=True)
    expected = torch.distributions.Categorical(logits=lm.core.lm_head(theirs) / 0.5).entropy()
    torch.testing.assert_close(found.entropy_M, expected, rtol=1e-5, atol=1e-6)
    found.entropy_M.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    assert head(lm, ours, torch.zeros(20, dtype=torch.int64)).entropy_M is None


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
    assert (m, all_at_once) == (998, 998 * vocab) and kept > all_at_once  # one chunk here: the instrument sees it
    monkeypatch.setattr(scoring, "CHUNK_LOGITS", chunk)
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
