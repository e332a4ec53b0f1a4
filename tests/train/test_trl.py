"""Loss and gradient equal TRL's on the same tokens: TRL's own trainers make the batch and compute theirs.

The models differ in weights only by name; the reference is another model than the policy, so that gains are not 0.
"""

from __future__ import annotations

import copy
import logging
import warnings

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from luthier.base.alignment import Dpo, Kto
from luthier.base.nouns import Tokens
from luthier.model.heads import scalar_head
from luthier.model.verify import choose_layout
from luthier.run.reward import pair_loss
from luthier.run.tune import lm_loss
from luthier.tokens.pack import forest
from luthier.tokens.tokenizer import train_tokenizer
from luthier.train.preference import (
    KtoReference,
    Marked,
    answer_logps,
    kto_loss,
    mismatched,
    preference_loss,
)
from luthier.train.sources import Micro, Pairs, pair_micro

RELATIVE = 1e-5
ROWS = [
    # prompt, better answer, worse answer: of one and of many tokens, with beginnings in common
    ("Where is the harbour office?", " By the old pier, next to the ice house.", " No idea."),
    ("When does the ferry leave?", " At nine.", " At nine in the evening, or later, or never, it depends on the fog."),
    ("Who keeps the light?", " Ines does.", " Ines and her brother."),
    ("How deep is the basin?", " Four metres at low water, seven at high water.", " Deep."),
    ("What is landed here?", " Mackerel, crab and salt.", " Mackerel, crabs and gold."),
]
VOCAB = 320


def llama(seed: int, kind=LlamaForCausalLM):
    """A small random Llama; weights of ordinary size."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.1, pad_token_id=2, num_labels=1,
    )  # fmt: skip
    return kind(config).eval()


@pytest.fixture(scope="module")
def trl():
    """The library; its imports take seconds."""
    warnings.filterwarnings("ignore", module="trl")
    trl = pytest.importorskip("trl")
    pytest.importorskip("datasets").disable_progress_bars()
    for name in ("trl", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return trl


@pytest.fixture(scope="module")
def tokenizer():
    """Byte pairs of the rows, with a padding token that ends no text."""
    made = train_tokenizer([" ".join(row) for row in ROWS], VOCAB)
    assert made.pad_token_id != made.eos_token_id and len(made) <= VOCAB
    return made


def options(config, folder, **settings):
    """TRL's settings with everything off that is not arithmetic."""
    fixed = {
        "report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "max_length": None,
        "per_device_train_batch_size": len(ROWS), "disable_tqdm": True,
    }  # fmt: skip
    return config(output_dir=str(folder), **{**fixed, **settings})


def dataset(**columns):
    """Columns as TRL wants them."""
    from datasets import Dataset

    return Dataset.from_dict(columns)


PROMPTS, BETTER, WORSE = (list(column) for column in zip(*ROWS, strict=True))


def batches(trainer) -> list[dict]:
    """All that the trainer's own loader gives in one pass."""
    return list(trainer.get_train_dataloader())


def rows_of(batch, ids="input_ids", attention="attention_mask", supervised="completion_mask") -> list[Tokens]:
    """TRL's padded rows as our sequences."""
    masks = batch[supervised] if supervised else batch[attention]
    found = []
    for row, real, mask in zip(batch[ids], batch[attention], masks, strict=True):
        kept = real.bool()
        weights = mask[kept].float()
        weights[0] = 0
        found.append(Tokens(tuple(row[kept].tolist()), tuple(weights.tolist()), "trl"))
    return found


def ours(model):
    """The same weights in a model of ours."""
    twin = LlamaForCausalLM(copy.deepcopy(model.config))
    twin.load_state_dict(model.state_dict())
    return choose_layout(twin.eval())[0]


def gradients(module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def same(our_loss, our_gradients, their_loss, their_gradients):
    """Loss and every gradient equal, relative to the largest of each tensor's."""
    assert our_loss == pytest.approx(their_loss, rel=RELATIVE)
    assert our_gradients.keys() == their_gradients.keys() and their_gradients
    for name, theirs in their_gradients.items():
        scale = theirs.abs().max()
        assert scale > 0, name
        gap = float((our_gradients[name] - theirs).abs().max() / scale)
        assert gap < 3 * RELATIVE, f"{name}: {gap}"
    flat = [torch.cat([g.flatten() for g in side.values()]) for side in (our_gradients, their_gradients)]
    assert float((flat[0] - flat[1]).norm() / flat[1].norm()) < RELATIVE


def theirs(trainer, found) -> tuple[float, dict[str, torch.Tensor]]:
    """TRL's mean loss over some batches, and its gradient."""
    trainer.model.zero_grad()
    losses = []
    for batch in found:
        loss = trainer.compute_loss(trainer.model, dict(batch))
        (loss / len(found)).backward()
        losses.append(loss.item())
    return sum(losses) / len(losses), gradients(trainer.model)


def test_sft(trl, tokenizer, tmp_path):
    policy = llama(0)
    lm = ours(policy)
    trainer = trl.SFTTrainer(
        policy,
        options(trl.SFTConfig, tmp_path),
        train_dataset=dataset(prompt=PROMPTS, completion=BETTER),
        processing_class=tokenizer,
    )
    (batch,) = batches(trainer)
    batch["completion_mask"] = (batch["labels"] != -100).long()
    rows = rows_of(batch)
    batch.pop("completion_mask")
    loss = lm_loss(lm, Micro(forest(rows), {})).total / sum(sum(row.weights) for row in rows)
    loss.backward()
    same(loss.item(), gradients(lm.module), *theirs(trainer, [batch]))


DPO = {
    "sigmoid": (Dpo(kind="dpo", beta=0.3), {"loss_type": "sigmoid"}, 1),
    "sigmoid, mean log-probs": (
        Dpo(kind="dpo", beta=0.3, length_normalise=True), {"loss_type": "sigmoid_norm"}, 1,
    ),
    # TRL's ipo takes means, ours when it is asked to.
    "ipo": (Dpo(kind="dpo", beta=0.3, loss="ipo", length_normalise=True), {"loss_type": "ipo"}, 1),
    # TRL has conservative DPO within aot, which sorts a batch: of one pair, nothing is to sort.
    "smoothing": (Dpo(kind="dpo", beta=0.3, label_smoothing=0.2), {"loss_type": "aot", "label_smoothing": 0.2}, 5),
}  # fmt: skip


@pytest.mark.parametrize("case", DPO)
def test_dpo(case, trl, tokenizer, tmp_path):
    how, settings, cuts = DPO[case]
    policy, reference = llama(0), llama(1)
    lm, ref = ours(policy), ours(reference)
    trainer = trl.DPOTrainer(
        policy,
        reference,
        options(trl.DPOConfig, tmp_path, beta=how.beta, per_device_train_batch_size=len(ROWS) // cuts, **settings),
        train_dataset=dataset(prompt=PROMPTS, chosen=BETTER, rejected=WORSE),
        processing_class=tokenizer,
    )
    found = batches(trainer)
    assert len(found) == cuts
    pairs = []
    for batch in found:
        rows = rows_of(batch)  # first all chosen, then all rejected
        pairs += zip(rows[: len(rows) // 2], rows[len(rows) // 2 :], strict=True)
    logps = answer_logps(ref, [answer for pair in pairs for answer in pair], 4096)
    facts = {"ref_chosen_P": logps[0::2], "ref_rejected_P": logps[1::2]}
    step = Pairs(pairs, 0, len(pairs), 4096, 1, facts).at(0)
    loss = sum(preference_loss(lm, how, micro).total for micro in step.micros) / step.total
    loss.backward()
    same(loss.item(), gradients(lm.module), *theirs(trainer, found))


@pytest.mark.parametrize("swapped", [False, True], ids=["KL above 0", "KL clamped at 0"])
def test_kto(swapped, trl, tokenizer, tmp_path):
    policy, reference = (llama(1), llama(0)) if swapped else (llama(0), llama(1))
    lm, ref = ours(policy), ours(reference)
    how = Kto(kind="kto", beta=0.3, good_weight=1.2, bad_weight=0.7)
    good = [True, False, True, True, False]
    trainer = trl.KTOTrainer(
        policy,
        reference,
        options(trl.KTOConfig, tmp_path, beta=0.3, desirable_weight=1.2, undesirable_weight=0.7),
        train_dataset=dataset(prompt=PROMPTS, completion=BETTER, label=good),
        processing_class=tokenizer,
    )
    (batch,) = batches(trainer)
    assert batch["label"].tolist() == good
    rows = rows_of(batch)
    others = mismatched(rows, 4096)
    assert [o.ids for o in others] == [
        t.ids for t in rows_of(batch, "KL_input_ids", "KL_attention_mask", "KL_completion_mask")
    ]
    known = KtoReference(answer_logps(ref, rows, 4096), [answer_logps(ref, others, 4096)])
    source = Marked(lm, rows, good, [list(range(len(rows)))], known, 64, 4096)
    assert (source.baseline(0) == 0) == swapped
    step = source.at(0)
    assert len(step.micros) > 1
    loss = sum(kto_loss(lm, how, micro).total for micro in step.micros) / step.total
    loss.backward()
    same(loss.item(), gradients(lm.module), *theirs(trainer, [batch]))


@pytest.mark.parametrize("margins", [None, [0.5, 0.0, 2.0, 1.0, 0.25]], ids=["plain", "margins"])
def test_reward(margins, trl, tokenizer, tmp_path):
    classifier = llama(0, LlamaForSequenceClassification)
    body = llama(1)
    body.model.load_state_dict(classifier.model.state_dict())
    lm, head = choose_layout(body)[0], scalar_head(32, 0, "head")
    head.load_state_dict(classifier.score.state_dict())
    whole = [[prompt + answer for prompt, answer in zip(PROMPTS, side, strict=True)] for side in (BETTER, WORSE)]
    columns = {"chosen": whole[0], "rejected": whole[1], **({"margin": margins} if margins else {})}
    trainer = trl.RewardTrainer(
        classifier, options(trl.RewardConfig, tmp_path), train_dataset=dataset(**columns), processing_class=tokenizer
    )
    (batch,) = batches(trainer)
    rows = rows_of(batch, supervised=None)
    pairs = list(zip(rows[: len(ROWS)], rows[len(ROWS) :], strict=True))
    micro = pair_micro(pairs, {"margin_P": batch["margin"]} if margins else {})
    loss = pair_loss(lm, head, micro).total / len(pairs)
    loss.backward()
    found = gradients(lm.module) | {"score.weight": head.weight.grad}
    same(loss.item(), found, *theirs(trainer, [batch]))
