"""Loss and gradient of GRPO equal TRL's on the same tokens and advantages; TRL's own trainers compute theirs."""

from __future__ import annotations

import copy
import logging
import warnings
from contextlib import nullcontext

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM

from luthier.base.alignment import Grpo
from luthier.base.nouns import Chat, Message
from luthier.model.verify import choose_layout
from luthier.tokens.tokenizer import train_tokenizer
from luthier.train.group import Asked, GroupRollouts, Judge, group_loss

RELATIVE = 1e-5
VOCAB, LONGEST, PROMPTS, SAMPLES = 320, 9, 3, 4


def llama(seed: int):
    """A small random Llama; weights of ordinary size."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.1, pad_token_id=2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


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
    """Any one with a padding token; the tokens here are numbers."""
    return train_tokenizer(["three and four are seven"], VOCAB)


def rollout_of(how: Grpo, off_policy: bool):
    """A rollout of the policy, its one step with all answers; log-probs of before moved away from those of now."""
    policy, reference = (choose_layout(llama(seed))[0] for seed in (0, 1))
    asked = [
        Asked(Chat((Message("user", str(n)),), f"asked:{n}"), list(range(20 + 30 * n, 20 + 30 * n + length)))
        for n, length in enumerate((4, 12, 25))
    ]
    judge = Judge("noise", 1.0, lambda chats, samples: [float(sum(one.ids) % 7) for one in samples])
    ends = list(range(60, 100))  # many, so that answers differ in length
    role = (lambda: nullcontext(reference)) if how.kl else None
    source = GroupRollouts(policy, role, [judge], asked, how, 0, ends, lambda ids: "", 10_000)
    step = source.at(0)
    if off_policy:
        rng = torch.Generator().manual_seed(0)
        rollout = source.rollout
        rollout.old_logp = [x + 0.2 * torch.randn(len(x), generator=rng) for x in rollout.sampled]
        step = source.at(0)
    (micro,) = step.micros
    assert micro.batch.n == PROMPTS * SAMPLES and len(set(source.rollout.sizes)) > 3
    return policy, source, step, micro


def padded(source) -> dict[str, torch.Tensor]:
    """The same as TRL holds it: prompts padded on the left, answers on the right."""
    rollout = source.rollout
    pairs = list(zip(rollout.sequences, rollout.sizes, strict=True))
    right = lambda parts, value=0: pad_sequence(list(parts), batch_first=True, padding_value=value)  # noqa: E731
    left = lambda parts, value=0: right([p.flip(0) for p in parts], value).flip(1)  # noqa: E731
    prompts = [torch.tensor(s.ids[:-n]) for s, n in pairs]
    found = {
        "prompt_ids": left(prompts, 2),
        "prompt_mask": left([torch.ones_like(p) for p in prompts]),
        "completion_ids": right([torch.tensor(s.ids[-n:]) for s, n in pairs], 2),
        "completion_mask": right([torch.ones(n, dtype=torch.int64) for _, n in pairs]),
        "advantages": rollout.advantage_N,
        "num_items_in_batch": torch.tensor(sum(rollout.sizes)),
    }
    for name, kept in (("old_per_token_logps", rollout.old_logp), ("ref_per_token_logps", rollout.reference)):
        if kept is not None:
            found[name] = right(kept)
    return found


def theirs(kind, config, tokenizer, folder, inputs, kl=0.0, **settings):
    """TRL's loss and gradient, by parameter. `kl` is set late: its trainer would load a reference by its name, and the
    reference's log-probs are among the inputs."""
    datasets = pytest.importorskip("datasets")
    args = config(
        output_dir=str(folder), per_device_train_batch_size=PROMPTS * SAMPLES, num_generations=SAMPLES,
        max_completion_length=LONGEST, report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False,
        disable_tqdm=True, beta=0.0, **settings,
    )  # fmt: skip
    rows = datasets.Dataset.from_list([{"prompt": "three"}] * PROMPTS)
    trainer = kind(
        llama(0), reward_funcs=lambda **given: [0.0], args=args, train_dataset=rows,
        processing_class=copy.deepcopy(tokenizer),
    )  # fmt: skip
    trainer.current_gradient_accumulation_steps, trainer.beta = 1, kl
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in trainer.model.named_parameters()}


def equal(ours, other):
    """Loss and gradient are one, relative to their size: the loss is a difference of numbers of about 1, where good
    answers and bad ones meet."""
    assert ours[0] == pytest.approx(other[0], rel=RELATIVE, abs=RELATIVE / 10)
    assert ours[1].keys() == other[1].keys()
    size = torch.cat([g.flatten() for g in other[1].values()]).norm()
    gap = torch.cat([(ours[1][name] - other[1][name]).flatten() for name in ours[1]]).norm()
    assert size > 0.01 and gap <= RELATIVE * size


def settings(**given):
    return Grpo(
        kind="grpo", prompts="x", rewards={"a:b": 1.0}, rollout_prompts=PROMPTS, samples=SAMPLES,
        max_new_tokens=LONGEST, iterations=1, **given,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("loss_type", "average"), [("grpo", "answers"), ("dapo", "tokens"), ("bnpo", "tokens"), ("dr_grpo", "constant")]
)
@pytest.mark.parametrize(
    ("off_policy", "options"),
    [
        (False, {}),
        (True, {"clip": 0.1, "clip_high": 0.28}),
        (True, {"kl": 0.3, "temperature": 0.8}),
        (False, {"kl": 0.3, "kl_corrected": True}),
    ],
    ids=["on policy", "clip higher", "kl", "kl corrected"],
)
def test_grpo_is_trls(loss_type, average, off_policy, options, trl, tokenizer, tmp_path):
    how = settings(average=average, **options)
    policy, source, step, micro = rollout_of(how, off_policy)
    found = group_loss(policy, how, micro, {})
    (found.total / step.total).backward()
    ours = (found.total / step.total).item(), {name: p.grad for name, p in policy.module.named_parameters()}
    if off_policy:
        assert 0 < found.watched["clip_frac"][0] < found.watched["clip_frac"][1]
    args = {
        "epsilon": how.clip, "epsilon_high": how.clip_high, "temperature": how.temperature, "kl": how.kl,
        "use_bias_correction_kl": how.kl_corrected,
    }  # fmt: skip
    trainer = trl.GRPOTrainer, trl.GRPOConfig
    equal(ours, theirs(*trainer, tokenizer, tmp_path, padded(source), loss_type=loss_type, **args))


def test_rloos_gradient_is_trls(trl, tokenizer, tmp_path):
    """TRL's RLOO takes the ratio of whole answers, ours of tokens: at ratio 1 both are REINFORCE, −A ∇Σ logp, which
    `constant` divides by the longest answer besides."""
    how = settings(average="constant", advantage="rloo")
    policy, source, step, micro = rollout_of(how, off_policy=False)
    (LONGEST * group_loss(policy, how, micro, {}).total / step.total).backward()
    ours = {name: p.grad for name, p in policy.module.named_parameters()}
    inputs = padded(source) | {"old_logps": torch.stack([x.sum() for x in source.rollout.sampled])}
    trainer = trl.RLOOTrainer, trl.RLOOConfig
    loss, gradient = theirs(*trainer, tokenizer, tmp_path, inputs)
    assert loss == pytest.approx(-float(source.rollout.advantage_N.mean()), abs=1e-5)
    equal((0.0, ours), (0.0, gradient))


def test_advantages_are_trls_formula(trl):
    """(r − mean) / (std + 1e-4) with TRL's own standard deviation."""
    from trl.trainer.utils import nanstd

    from luthier.objectives import group_advantages

    reward_BG = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    expected = (reward_BG - reward_BG.mean(1, keepdim=True)) / (nanstd(reward_BG, dim=1, keepdim=True) + 1e-4)
    torch.testing.assert_close(group_advantages(reward_BG, "grpo"), expected)
