"""Encoders: log-probs, loss and gradient are those of transformers' own ForMaskedLM, packed or alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

from architectures import COMMON, ENCODERS, ENCODERS_ON_ROWS, tiny, tiny_encoder
from luthier.base.errors import RunError, UserError
from luthier.base.nouns import Tokens
from luthier.base.recipe import Base, Fresh
from luthier.base.tuning import Bottleneck, Ia3, Lora, Masking
from luthier.generate import sample
from luthier.model import score as scoring
from luthier.model.adapt import add_adapter, merged, trainable
from luthier.model.attention import Extras
from luthier.model.bidirectional import BothSidesPlan
from luthier.model.draw import Sampling
from luthier.model.load import fresh_model, load_folder, load_model, save_model, wrap
from luthier.model.score import score
from luthier.model.verify import choose_layout, own_fillings, probe_rows, probe_sequences
from luthier.tokens.masking import Hidden, Vocabulary, hide, pack_hidden
from luthier.tokens.tokenizer import train_encoder_tokenizer

EVERY = [*ENCODERS, *ENCODERS_ON_ROWS]
LENGTHS = (31, 9, 47, 18, 31, 2)
"""Two of one length; the longest is past ModernBERT's window of 8 to either side."""


def hidden_rows(seed: int = 0) -> list[Hidden]:
    """Random rows with 15 % hidden; ids from 5 up, so none is padding."""
    rng = np.random.default_rng(seed)
    rows = [Tokens(tuple(rng.integers(5, 128, n).tolist()), (1.0,) * n, f"row {n}") for n in LENGTHS]
    return [hide(row, Masking(), Vocabulary(4, np.arange(5, 128), None), seed, 0, i) for i, row in enumerate(rows)]


def padded(rows: list[Hidden], pad: int) -> dict[str, torch.Tensor]:
    """The same as transformers' own inputs: padded on the right, labels −100 where nothing is predicted."""
    shape = (len(rows), max(len(row.ids) for row in rows))
    ids, mask, labels = torch.full(shape, pad), torch.zeros(shape, dtype=torch.int64), torch.full(shape, -100)
    for n, row in enumerate(rows):
        ids[n, : len(row.ids)], mask[n, : len(row.ids)] = torch.tensor(row.ids), 1
        labels[n, list(row.at)] = torch.tensor(row.targets)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_each_architecture_has_its_layout():
    for kind in EVERY:
        lm, check = choose_layout(tiny_encoder(kind))
        assert (kind, lm.layout, check.layout) == (kind, *["forest" if kind in ENCODERS else "rows"] * 2)


@pytest.mark.parametrize("kind", EVERY)
def test_loss_and_gradient_are_transformers(kind):
    rows, model = hidden_rows(), tiny_encoder(kind)
    reference = tiny_encoder(kind)
    lm, _ = choose_layout(model)
    theirs = reference(**padded(rows, reference.config.pad_token_id)).loss
    theirs.backward()
    ours = -score(lm, pack_hidden(rows)).sum() / sum(len(row.at) for row in rows)
    ours.backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    expected, found = gradients(reference), gradients(model)
    assert found.keys() == expected.keys()
    # Keys' biases move no softmax: their gradient is rounding in both, next to the largest there is.
    largest = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        near = 1e-4 * float(value.abs().max()) + 1e-6 * largest
        torch.testing.assert_close(found[name], value, rtol=0, atol=near, msg=name)


@pytest.mark.parametrize("kind", EVERY)
def test_packed_is_alone(kind):
    lm, _ = choose_layout(tiny_encoder(kind))
    rows = hidden_rows(1)
    together, apart = score(lm, pack_hidden(rows)), torch.cat([score(lm, pack_hidden([row])) for row in rows])
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(together, own_fillings(lm, rows), rtol=1e-5, atol=2e-5)


def test_each_side_matters():
    """What stands behind a hidden token moves its log-prob, what stands in another row does not."""
    lm, _ = choose_layout(tiny_encoder("bert"))
    row, other = Hidden((5, 4, 7, 8), (1,), (6,), "a"), Hidden((9, 10, 11, 4), (3,), (12,), "b")
    changed = Hidden((5, 4, 7, 99), (1,), (6,), "a")
    base, moved = (score(lm, pack_hidden([first, other])) for first in (row, changed))
    assert float((base[0] - moved[0]).detach().abs()) > 1e-2
    torch.testing.assert_close(base[1], moved[1], rtol=0, atol=1e-6)


def test_a_window_is_over_positions_of_a_row():
    """ModernBERT's first layer of a two-layer model sees all, its second 8 to either side: with both local, a token
    beyond twice the window is out of sight, and one at its edge is not."""
    model = tiny_encoder("modernbert")
    assert model.config.layer_types == ["full_attention", "sliding_attention"]
    model.config.layer_types = ["sliding_attention"] * 2
    for layer in model.model.layers:
        layer.attention_type = "sliding_attention"
    lm, check = choose_layout(model)
    assert check.layout == "forest"
    ids = torch.randint(5, 128, (60,), generator=torch.Generator().manual_seed(0)).tolist()
    before = Hidden(tuple(range(20, 43)), (0,), (20,), "another row, so that indices are no positions")

    def at_30(place: int) -> float:
        shown = [*ids[:place], (ids[place] + 1) % 100 + 5, *ids[place + 1 :]]
        return float(score(lm, pack_hidden([before, Hidden(tuple(shown), (30,), (7,), "row")]))[1])

    base = at_30(30)
    reach = [place for place in range(60) if place != 30 and abs(at_30(place) - float(at_30(0))) > 1e-6]
    assert base != at_30(0) and min(reach) >= 14 and max(reach) <= 46 and {23, 37} <= set(reach)


@pytest.mark.parametrize("kind", ["bert", "distilbert", "electra"])
def test_a_head_in_chunks_is_the_whole_head(kind, monkeypatch):
    rows, found = hidden_rows(2), []
    for chunk in (1 << 24, 5 * 128):
        monkeypatch.setattr(scoring, "CHUNK_LOGITS", chunk)
        model = tiny_encoder(kind)
        loss = -score(choose_layout(model)[0], pack_hidden(rows)).sum()
        loss.backward()
        found.append((loss, gradients(model)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "modernbert", "distilbert"])
def test_checkpointing_changes_nothing(kind):
    model, found = tiny_encoder(kind), []
    lm, _ = choose_layout(model)
    batch = pack_hidden(hidden_rows(3))
    for on in (False, True):
        model.train()
        model.zero_grad()
        if on:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        score(lm, batch).sum().backward()
        found.append(gradients(model))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("window", [None, 5])
def test_the_mask_for_a_gpu_is_the_same_rule(window):
    """FlexAttention, which a CPU runs forward, against the fused calls."""
    batch = pack_hidden(hidden_rows(4))
    q, k, v = torch.randn(3, 1, 2, batch.tokens, 16, generator=torch.Generator().manual_seed(0))
    allowed = None if window is None else lambda q_pos, k_pos: (q_pos - k_pos).abs() <= window
    plan, extras = BothSidesPlan(batch), Extras(0.25)
    torch.testing.assert_close(plan._by_flex(q, k, v, allowed, extras), plan.attend(0, q, k, v, allowed, extras))


def test_positions_begin_behind_the_paddings_row():
    """RoBERTa counts from pad + 1, so that many positions are lost to text."""
    for kind, first in (("bert", 0), ("roberta", 2), ("distilbert", 0), ("modernbert", 0)):
        loaded = wrap(tiny_encoder(kind), None, "cpu", torch.float32)
        assert (kind, loaded.lm.encoder.first_position, loaded.context) == (kind, first, 256 - first)
        row = Hidden(tuple(5 + i % 100 for i in range(loaded.context)), (0, loaded.context - 1), (5, 6), "longest")
        torch.testing.assert_close(
            score(loaded.lm, pack_hidden([row])), own_fillings(loaded.lm, [row]), atol=2e-5, rtol=0
        )


def test_mixing_other_than_by_attention_is_refused():
    """FNet's Fourier transform mixes all that it is given, padding too."""
    ENCODERS_ON_ROWS["fnet"] = {"use_tpu_fourier_optimizations": False}
    try:
        with pytest.raises(RunError, match="neither layout"):
            choose_layout(tiny_encoder("fnet"))
    finally:
        del ENCODERS_ON_ROWS["fnet"]


@pytest.mark.parametrize("how", [Lora(rank=4), Ia3(kind="ia3"), Bottleneck(kind="bottleneck", size=8)])
@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert", "distilbert"])
def test_adapters_begin_at_nothing_and_merge(kind, how):
    lm, _ = choose_layout(tiny_encoder(kind))
    batch = pack_hidden(hidden_rows(5))
    before = score(lm, batch).detach()
    tuned = add_adapter(lm, how, "policy", seed=1)
    torch.testing.assert_close(score(tuned, batch).detach(), before, rtol=0, atol=1e-5)
    score(tuned, batch).sum().backward()
    learning = trainable(tuned.module)
    assert learning and all(p.grad is not None for p in learning.values())
    with torch.no_grad():
        for parameter in learning.values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    after = score(tuned, batch).detach()
    assert float((after - before).abs().max()) > 1e-2
    if not isinstance(how, Bottleneck):  # which is carried, not merged
        torch.testing.assert_close(score(merged(tuned), batch).detach(), after, rtol=0, atol=1e-4)


def saved(model, folder, tokenizer=None):
    """A folder with a model and a tokenizer."""
    tokenizer = tokenizer or train_encoder_tokenizer(["The lamp is red."] * 9, 300)
    save_model(model, tokenizer, folder)
    return folder


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert", "distilbert"])
def test_a_folder_keeps_its_class(kind, tmp_path):
    model = tiny_encoder(kind)
    torch.manual_seed(1)
    model.resize_token_embeddings(300, mean_resizing=False)  # as many as the tokenizer may have
    saved(model, tmp_path)
    names = json.loads((tmp_path / "config.json").read_text())["architectures"]
    assert names == [type(model).__name__] and names[0].endswith("ForMaskedLM")
    assert not (tmp_path / "generation_config.json").exists()
    rows = probe_rows(probe_sequences(128, 60), model.config.pad_token_id)
    expected = own_fillings(choose_layout(model)[0], rows)
    again = load_folder(tmp_path, "cpu", torch.float32)
    base = load_model(Base(model=str(tmp_path)), tmp_path, "cpu", masked=True)
    for loaded in (again, base):
        torch.testing.assert_close(score(loaded.lm, pack_hidden(rows)), expected, rtol=0, atol=2e-5)


def test_a_fresh_encoder_is_plain_transformers(tmp_path):
    tokenizer = train_encoder_tokenizer(["The lamp is red.", "It hangs in the shed."] * 9, 400)
    fresh = Fresh(shape="encoder", layers=2, width=32, heads=4, vocab=400, context=64)
    model = fresh_model(fresh, tokenizer, seed=3)
    torch.testing.assert_close(model.state_dict(), fresh_model(fresh, tokenizer, seed=3).state_dict(), rtol=0, atol=0)
    saved(model, tmp_path, tokenizer)
    filler = pipeline("fill-mask", model=str(tmp_path), device="cpu")
    found = filler("The [MASK] is red.", top_k=100)
    ids = AutoTokenizer.from_pretrained(tmp_path)("The [MASK] is red.")["input_ids"]
    assert (ids[0], ids[-1], ids.count(tokenizer.mask_token_id)) == (tokenizer.cls_token_id, tokenizer.sep_token_id, 1)
    (at,) = (i for i, id in enumerate(ids) if id == tokenizer.mask_token_id)
    loaded = load_folder(tmp_path, "cpu", torch.float32)
    for one in found[:20]:
        row = Hidden(tuple(ids), (at,), (one["token"],), "text")
        assert float(score(loaded.lm, pack_hidden([row])).exp()) == pytest.approx(one["score"], rel=1e-4)
    plain = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert plain.config.architectures == ["BertForMaskedLM"]


def test_the_wrong_kind_of_model_is_refused(tmp_path):
    saved(tiny_encoder("bert"), tmp_path / "bert")
    saved(tiny_encoder("modernbert"), tmp_path / "modernbert")
    saved(tiny("llama"), tmp_path / "llama")
    for kind in ("bert", "modernbert"):  # BERT would load as a causal model too, and see both sides
        with pytest.raises(UserError, match=f"{kind} is an encoder: it fills masks and cannot write"):
            load_model(Base(model=kind), tmp_path, "cpu")
    with pytest.raises(UserError, match="llama is no encoder"):
        load_model(Base(model="llama"), tmp_path, "cpu", masked=True)
    config = json.loads((tmp_path / "bert" / "config.json").read_text())
    (tmp_path / "bert" / "config.json").write_text(json.dumps(config | {"is_decoder": True}))
    with pytest.raises(UserError, match="bert is no encoder: it sees one side"):
        load_model(Base(model="bert"), tmp_path, "cpu", masked=True)


def test_an_encoder_without_its_head_is_refused(tmp_path):
    model = tiny_encoder("bert")
    saved(model.bert, tmp_path)
    with pytest.raises(UserError, match=r"lack \d+ of the model's tensors .* of a masked language model"):
        load_model(Base(model=str(tmp_path)), tmp_path, "cpu", masked=True)


def test_an_encoder_cannot_write():
    lm, _ = choose_layout(tiny_encoder("roberta"))
    with pytest.raises(UserError, match="RobertaForMaskedLM is an encoder: it fills masks and cannot write"):
        sample(lm, [[5, 6]], Sampling(4), [2], str)


def test_padding_among_the_probes_would_shift_positions():
    """The load-time check shows no padding to RoBERTa, whose own positions skip it."""
    rows = probe_rows(probe_sequences(8, 60), pad=1)
    assert not any(1 in row.ids for row in rows)
    assert any(1 in sequence.ids for sequence in probe_sequences(8, 60)), "nothing is tested"
    assert COMMON["pad_token_id"] == 0
