"""One base with four roles is four separate models: in what each says, and in how the policy moves."""

from __future__ import annotations

import pytest
import torch

from architectures import tiny
from luthier.base.alignment import Ppo
from luthier.base.tuning import Lora
from luthier.model.adapt import add_adapter, trainable
from luthier.model.heads import scalar_head
from luthier.model.roles import separate_roles, shared_roles
from luthier.model.score import score, states
from luthier.model.verify import choose_layout, probe_sequences
from luthier.tokens.pack import forest
from luthier.train.rollout import Rollouts, Steering, ppo_loss

POLICY, REWARD = Lora(rank=4, alpha=8), Lora(rank=2, alpha=8)
BATCH = forest(probe_sequences(128, 256, 16, seed=4), min_shared=2)
PROMPTS = [[5, 9, 33, 7], [80, 41, 12], [5, 9, 33, 8, 8]]
HOW = Ppo(
    kind="ppo", prompts="asked", iterations=4, rollout_prompts=3, samples=2, max_new_tokens=6, epochs=2, minibatches=1,
    kl=0.1, entropy_weight=0.01,
)  # fmt: skip


def base(kind):
    return choose_layout(tiny(kind))[0]


def stir(lm, name, seed):
    """Weights that an adapter might have after training, the same wherever it sits."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in lm.module.named_parameters():
            if f".{name}." in key and "lora_" in key:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return lm


def heads():
    value = scalar_head(32, 0, "value head")
    return scalar_head(32, 0, "reward head").requires_grad_(False), value


def shared(kind, trained=True, lora=POLICY):
    reward = REWARD.model_copy(update={"dropout": lora.dropout})
    lm = stir(add_adapter(add_adapter(base(kind), lora, "policy", 0), reward, "reward", 0), "reward", 2)
    lm.module.set_adapter("policy")
    return shared_roles(stir(lm, "policy", 1) if trained else lm, "policy", "reward", *heads())


def separate(kind):
    policy = stir(add_adapter(base(kind), POLICY, "policy", 0), "policy", 1)
    rewarder = stir(add_adapter(base(kind), REWARD, "reward", 0), "reward", 2)
    return separate_roles(policy, base(kind), rewarder, *heads())


def close(a, b, msg=None):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * max(1.0, b.abs().max().item()), msg=msg)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
def test_every_role_says_the_same(kind):
    one, four = shared(kind), separate(kind)
    assert (one.shared, four.shared) == (True, False)
    close(one.reference_logp(BATCH, 0.9), four.reference_logp(BATCH, 0.9))
    close(one.rewards(BATCH), four.rewards(BATCH))
    with torch.no_grad():
        close(score(one.policy, BATCH, 0.9), score(four.policy, BATCH, 0.9))
        values = [r.value_head(states(r.policy, BATCH, BATCH.from_M, BATCH.seq_M)) for r in (one, four)]
        close(*values)
        # and the roles are not one another
        reference, plain = one.reference_logp(BATCH, 0.9), score(base(kind), BATCH, 0.9)
        close(reference, plain)
        assert (score(one.policy, BATCH, 0.9) - reference).abs().max() > 0.1
    with one.rewarder() as lm, torch.no_grad():
        assert (score(lm, BATCH) - score(base(kind), BATCH)).abs().max() > 0.1


def rollouts(roles):
    return Rollouts(roles, PROMPTS, HOW, Steering(HOW.kl), 0, [2], lambda ids: " ".join(map(str, ids)), 32)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
def test_a_ppo_step_moves_the_policy_the_same_way(kind):
    found = []
    for roles in (shared(kind), separate(kind)):
        source = rollouts(roles)
        source.at(0)
        source.rollout.old_logp = [x + 0.05 * (-1) ** i for i, x in enumerate(source.rollout.old_logp)]  # ratios ≠ 1
        step = source.at(1)
        assert len(step.micros) > 1
        roles.policy.module.zero_grad()
        total = 0.0
        for micro in step.micros:
            loss = ppo_loss(roles, HOW, micro, {}).total / step.total
            loss.backward()
            total += loss.item()
        gradients = {n: p.grad for n, p in trainable(roles.policy.module).items()}
        found.append((source.rollout, total, gradients, roles.value_head.weight.grad))
    (one, loss, gradients, value), (four, its_loss, its_gradients, its_value) = found
    assert one.sequences == four.sequences
    for name in ("old_logp", "old_value", "advantage", "returns"):
        close(torch.cat(getattr(one, name)), torch.cat(getattr(four, name)), name)
    assert one.stats == pytest.approx(four.stats, abs=1e-4)
    assert loss == pytest.approx(its_loss, abs=1e-5)
    assert gradients.keys() == its_gradients.keys() and all("policy" in name for name in gradients)
    for name, gradient in its_gradients.items():
        close(gradients[name], gradient, name)
    assert torch.cat([g.flatten() for g in gradients.values()]).abs().max() > 1e-3
    close(value, its_value)


def test_before_the_first_step_the_policy_is_the_reference_exactly():
    roles = shared("llama", trained=False)
    with torch.no_grad():
        assert torch.equal(score(roles.policy, BATCH), roles.reference_logp(BATCH, 1.0))


def test_asking_the_others_leaves_the_policy_as_it_was():
    """Adapter, gradients and dropout: on again after the reference and the reward model, which work without."""
    roles = shared("llama", lora=Lora(rank=4, alpha=8, dropout=0.5))
    lm = roles.policy
    lm.module.train()
    before = set(trainable(lm.module))
    reference, rewards = roles.reference_logp(BATCH, 1.0), roles.rewards(BATCH)
    assert torch.equal(reference, roles.reference_logp(BATCH, 1.0)) and torch.equal(rewards, roles.rewards(BATCH))
    assert lm.module.training and lm.module.active_adapter == "policy" and set(trainable(lm.module)) == before
    assert not torch.equal(score(lm, BATCH), score(lm, BATCH))  # dropout is on in training
    assert not reference.requires_grad and not rewards.requires_grad
