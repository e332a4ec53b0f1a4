"""PPO's rollouts: credit by hand, batches that are functions of (seed, step), and a bandit that is learned."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from luthier.base.alignment import Ppo
from luthier.base.errors import RunError
from luthier.base.nouns import Sample
from luthier.base.tuning import Lora
from luthier.model.adapt import add_adapter, trainable
from luthier.model.heads import scalar_head
from luthier.model.roles import separate_roles, shared_roles
from luthier.model.score import score
from luthier.model.verify import choose_layout, library_attention
from luthier.tokens.pack import forest
from luthier.train.deal import as_tokens
from luthier.train.rollout import Rollouts, Steering, ppo_loss

VOCAB, END, WANTED = 16, 2, 7


def words(ids):
    return " ".join(map(str, ids))


def how(**settings):
    given = {"iterations": 4, "rollout_prompts": 2, "samples": 4, "max_new_tokens": 5, "epochs": 2, "minibatches": 2}
    return Ppo(kind="ppo", prompts="asked", **(given | settings))


def small(seed=0):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def likes_wanted():
    """A reward model by hand: it sees the last token only, and scores 1 where that is WANTED, else 0."""
    model = small()
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(VOCAB))
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
    head = scalar_head(16, 0, "by hand").requires_grad_(False)
    head.weight.copy_(torch.eye(VOCAB)[WANTED : WANTED + 1] / 4)  # a one-hot state of width 16 has norm 4 after RMSNorm
    return choose_layout(model)[0], head


def apart(seed=0):
    """Policy with all its weights, reference and reward model, each a model of its own."""
    (rewarder, head), value = likes_wanted(), scalar_head(16, 0, "value head", zero=True)
    return separate_roles(choose_layout(small(seed))[0], choose_layout(small(seed))[0], rewarder, head, value)


def adapted():
    lm = add_adapter(add_adapter(choose_layout(small())[0], Lora(rank=4), "policy", 0), Lora(rank=2), "reward", 0)
    lm.module.set_adapter("policy")
    heads = scalar_head(16, 0, "reward head").requires_grad_(False), scalar_head(16, 0, "value head", zero=True)
    return shared_roles(lm, "policy", "reward", *heads)


PROMPTS = [[3, 4, 5], [6, 8], [3, 4, 9, 9], [10], [11, 12]]


def source_of(roles, ppo, seed=0, prompts=PROMPTS, microbatch_tokens=1000):
    return Rollouts(roles, prompts, ppo, Steering(ppo.kl), seed, [END], words, microbatch_tokens)


def train(source, roles, ppo, steps, lr):
    parameters = [*trainable(roles.policy.module).values(), *roles.value_head.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=lr)
    for k in range(steps):
        step = source.at(k)
        for micro in step.micros:
            (ppo_loss(roles, ppo, micro, {}).total / step.total).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("roles", [apart, adapted])
def test_kl_is_exactly_zero_before_the_first_step_and_not_after(roles):
    cast, ppo = roles(), how()
    source = source_of(cast, ppo)
    first = source.make(0).stats
    assert first["kl"] == 0.0
    assert first["sampler_drift"] < 1e-4
    train(source, cast, ppo, 4, lr=0.02)
    later = source.make(1).stats
    assert later["kl"] > 1e-3
    assert later["sampler_drift"] < 1e-4  # the sampler follows the weights


def test_ppo_learns_a_bandit():
    """One token to choose, a reward of 1 for one of 16 tokens: the policy comes to choose it."""
    roles, ppo = apart(), how(max_new_tokens=1, samples=16, iterations=25, kl=0.01)
    prompts = [[3, 4], [5, 6]]
    source = source_of(roles, ppo, prompts=prompts)
    ask = forest([as_tokens(Sample(tuple(p), (WANTED,), (), "", False)) for p in prompts])

    def probability():
        with torch.no_grad():
            return score(roles.policy, ask).exp()

    assert (probability() < 0.3).all()
    train(source, roles, ppo, source.steps, lr=0.02)
    assert (probability() > 0.9).all()
    assert source.rollout.stats["reward"] > 0.9
    assert source.rollout.stats["kl"] > 0.5  # nats, from a policy that chose it rarely


def test_a_step_is_a_function_of_seed_and_step():
    ppo = how()
    one, other = source_of(adapted(), ppo), source_of(adapted(), ppo)
    steps = [one.at(k) for k in range(4)]
    for k in (3, 1, 2, 0):
        assert_same(other.at(k), steps[k])
    different = source_of(adapted(), ppo, seed=1).at(0)
    assert [m.batch.ids_T.tolist() for m in different.micros] != [m.batch.ids_T.tolist() for m in steps[0].micros]


def assert_same(a, b):
    assert (a.total, a.tokens, len(a.micros)) == (b.total, b.tokens, len(b.micros))
    for x, y in zip(a.micros, b.micros, strict=True):
        assert torch.equal(x.batch.ids_T, y.batch.ids_T) and torch.equal(x.batch.from_M, y.batch.from_M)
        assert x.data.keys() == y.data.keys()
        assert all(torch.equal(x.data[name], y.data[name]) for name in x.data)


def test_a_pass_over_a_rollout_takes_every_sample_once_with_its_own_numbers():
    source = source_of(adapted(), how(minibatches=2, rollout_prompts=4), microbatch_tokens=40)
    for epoch in range(2):
        steps = [source.at(2 * epoch + k) for k in range(2)]
        rollout = source.rollout
        assert sum(len(step.micros) for step in steps) > 2
        drawn = sum(len(x) for x in rollout.old_logp)
        assert sum(step.total for step in steps) == drawn
        for name, whole in (
            ("old_logp_M", rollout.old_logp),
            ("advantage_M", rollout.advantage),
            ("return_M", rollout.returns),
            ("old_value_M", rollout.old_value),
        ):
            taken = torch.cat([m.data[name] for step in steps for m in step.micros])
            torch.testing.assert_close(taken.sort().values, torch.cat(whole).sort().values, rtol=0, atol=0)
        # what lies beside a token is what the policy said of that very token
        for step in steps:
            for micro in step.micros:
                with torch.no_grad():
                    now = score(source.roles.policy, micro.batch)
                torch.testing.assert_close(now, micro.data["old_logp_M"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("rollout_prompts", [2, 5, 7])
def test_every_prompt_is_asked_once_before_any_is_asked_again(rollout_prompts):
    source = source_of(adapted(), how(rollout_prompts=rollout_prompts, samples=1, max_new_tokens=1))
    asked = [s.ids[:-1] for iteration in range(10) for s in source.make(iteration).sequences]
    for start in range(0, 10 * rollout_prompts - 4, 5):
        assert sorted(asked[start : start + 5]) == sorted(map(tuple, PROMPTS))


def gae_twin(rewards, values, gamma, lam):
    """Schulman et al. 2016, eq. 16."""
    running, found = 0.0, []
    for t in reversed(range(len(rewards))):
        after = values[t + 1] if t + 1 < len(values) else 0.0
        running = rewards[t] + gamma * after - values[t] + gamma * lam * running
        found.append(running)
    return np.array(found[::-1])


def credit(ppo, sizes, stopped, seed=0, steering=None):
    """One rollout of given lengths with random numbers, and those numbers."""
    rng = np.random.default_rng(seed)
    m = sum(sizes)
    logp, value, score_N = -rng.random(m), rng.normal(size=m), rng.normal(size=len(sizes))
    ref = logp + 0.1 * rng.normal(size=m)
    cut = np.cumsum(sizes)[:-1]
    samples = [
        Sample((3,), (4,) * n, tuple(part.tolist()), "", stop)
        for n, part, stop in zip(sizes, np.split(logp, cut), stopped, strict=True)
    ]
    source = Rollouts(adapted(), PROMPTS, ppo, steering or Steering(ppo.kl), 0, [END], words, 1000)
    sequences = [as_tokens(s) for s in samples]
    tensors = [torch.tensor(x, dtype=torch.float32) for x in (logp, ref, value)]
    rollout = source.credit(0, samples, sequences, *tensors, list(sizes), torch.tensor(score_N, dtype=torch.float32))
    return rollout, source, (logp, ref, value, score_N, cut)


@pytest.mark.parametrize("normalise", [True, False])
def test_credit_is_its_numpy_twin(normalise):
    ppo = how(kl=0.3, gamma=0.9, lam=0.8, normalise_rewards=normalise, unfinished_reward=-2.0)
    sizes, stopped = (3, 1, 5), (True, False, True)
    rollout, _, (logp, ref, value, score_N, cut) = credit(ppo, sizes, stopped)
    score_N = np.where(stopped, score_N, -2.0)
    raw = score_N
    if normalise:
        score_N = (score_N - score_N.mean()) / score_N.std(ddof=1)
    advantages, values = [], np.split(value, cut)
    for penalty, v, reward in zip(np.split(-0.3 * (logp - ref), cut), values, score_N, strict=True):
        rewards = penalty.copy()
        rewards[-1] += reward
        advantages.append(gae_twin(rewards, v, 0.9, 0.8))
    flat = np.concatenate(advantages)
    np.testing.assert_allclose(torch.cat(rollout.returns), flat + value, atol=1e-5)
    np.testing.assert_allclose(torch.cat(rollout.advantage), (flat - flat.mean()) / flat.std(), atol=1e-5)
    assert [len(x) for x in rollout.advantage] == list(sizes)
    d = ref - logp
    expected = {
        "reward": raw.mean(),
        "kl": np.mean([part.sum() for part in np.split(np.exp(d) - 1 - d, cut)]),
        "kl_coefficient": 0.3,
        "answer_tokens": 3.0,
        "ended_frac": 2 / 3,
    }
    assert {name: rollout.stats[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert rollout.stats["sampler_drift"] < 1e-6


def test_without_kl_and_values_the_reward_alone_is_credited():
    # γ = λ = 1, V = 0, no penalty: every token of an answer is worth the answer's reward
    ppo = how(kl=0.0, gamma=1.0, lam=1.0, normalise_rewards=False)
    source = Rollouts(adapted(), PROMPTS, ppo, Steering(0.0), 0, [END], words, 1000)
    samples = [Sample((3,), (4,) * n, (-1.0,) * n, "", True) for n in (2, 4)]
    zeros = torch.zeros(6)
    rollout = source.credit(
        0, samples, [as_tokens(s) for s in samples], zeros - 1, zeros - 1, zeros, [2, 4], torch.tensor([5.0, -1.0])
    )
    assert [x.tolist() for x in rollout.returns] == [[5.0, 5.0], [-1.0] * 4]
    # mean (2·5 − 4)/6 = 1, deviation √((2·16 + 4·4)/6) = √8
    assert rollout.advantage[0].tolist() == pytest.approx([4 / 8**0.5] * 2)
    assert rollout.advantage[1].tolist() == pytest.approx([-2 / 8**0.5] * 4)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_loss_is_its_equation_through_the_librarys_forward(temperature):
    """Schulman et al. 2017, eq. 9, one token after another."""
    ppo = how(temperature=temperature, clip=0.1, value_clip=0.05, value_weight=0.3, entropy_weight=0.2)
    roles = adapted()
    torch.nn.init.normal_(roles.value_head.weight, generator=torch.Generator().manual_seed(0))
    source = source_of(roles, ppo)
    micro = source.at(0).micros[0]
    rng = torch.Generator().manual_seed(1)
    noise = lambda: torch.randn(len(micro.batch.from_M), generator=rng)  # noqa: E731
    for name, size in (("old_logp_M", 0.15), ("old_value_M", 0.2), ("return_M", 1.0)):
        micro.data[name].add_(size * noise())
    stats = {"reward": 0.25}
    found = ppo_loss(roles, ppo, micro, stats)

    data = {name: values.tolist() for name, values in micro.data.items()}
    sums, clipped = dict.fromkeys(("policy", "value", "entropy"), 0.0), 0
    with library_attention(roles.policy), torch.no_grad():
        for i, (path, target) in enumerate(zip(predicting(micro.batch), micro.batch.target_M.tolist(), strict=True)):
            out = roles.policy.module(input_ids=path[None], output_hidden_states=True)
            distribution = torch.distributions.Categorical(logits=out.logits[0, -1] / temperature)
            ratio = math.exp(distribution.log_prob(torch.tensor(target)).item() - data["old_logp_M"][i])
            advantage, old = data["advantage_M"][i], data["old_value_M"][i]
            sums["policy"] -= min(ratio * advantage, min(max(ratio, 0.9), 1.1) * advantage)
            clipped += min(max(ratio, 0.9), 1.1) * advantage < ratio * advantage
            value = roles.value_head(out.hidden_states[-1][0, -1]).item()
            held = old + min(max(value - old, -0.05), 0.05)
            sums["value"] += 0.5 * max((value - data["return_M"][i]) ** 2, (held - data["return_M"][i]) ** 2)
            sums["entropy"] += distribution.entropy().item()
    n = len(micro.batch.from_M)
    assert found.total.item() == pytest.approx(
        sums["policy"] + 0.3 * sums["value"] - 0.2 * sums["entropy"], rel=1e-4, abs=1e-4
    )
    watched = {name: float(value) / count for name, (value, count) in found.watched.items()}
    expected = {
        "policy_loss": sums["policy"] / n,
        "value_loss": sums["value"] / n,
        "entropy": sums["entropy"] / n,
        "clip_frac": clipped / n,
        "reward": 0.25,
    }
    assert {name: watched[name] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert 0 < clipped < n


def predicting(batch):
    """The tokens that each prediction is made from, root first."""
    return [batch.ids_T[: at + 1][batch.end_T[: at + 1] > at] for at in batch.from_M.tolist()]


def test_a_policy_that_left_the_reference_stops_the_run():
    with pytest.raises(RunError, match=r"ppo: iteration 0: KL to the reference is .* above kl_stop 0.001"):
        credit(how(kl_stop=0.001), (3, 4), (True, True))


def test_the_kl_coefficient_adapts_towards_its_target():
    # far above the target: β grows by 0.2 · 2/100
    _, source, _ = credit(how(kl=0.3, kl_target=1e-6, kl_horizon=100), (3, 4), (True, True))
    assert source.steering.kl == pytest.approx(0.3 * 1.004)
    _, source, _ = credit(how(kl=0.3), (3, 4), (True, True))
    assert source.steering.kl == 0.3


@given(st.lists(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=5), min_size=1, max_size=5))
def test_running_moments_are_those_of_all_rewards(batches):
    steering = Steering(0.1)
    for batch in batches:
        steering.see(torch.tensor(batch))
        resumed = Steering(0.0)
        resumed.load_state_dict(steering.state_dict())
        assert vars(resumed) == vars(steering)
    seen = np.concatenate(batches).astype(np.float64)
    assert steering.mean == pytest.approx(seen.mean(), abs=1e-6)
    expected = seen.std(ddof=1) if len(seen) > 1 and len(set(seen)) > 1 else 1.0
    assert steering.deviation == pytest.approx(expected, rel=1e-6, abs=1e-6)
