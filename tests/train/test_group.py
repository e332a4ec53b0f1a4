"""Group rollouts: advantages and loss by hand, batches that are functions of (seed, step), a bandit that is learned,
and what must not change a trajectory."""

from __future__ import annotations

import math
from contextlib import nullcontext
from itertools import chain, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from architectures import tiny
from luthier.base.alignment import Grpo
from luthier.base.errors import RunError
from luthier.base.nouns import Chat, Message, Sample
from luthier.base.tuning import Lora
from luthier.model.adapt import add_adapter, only, trainable
from luthier.model.roles import evaluating
from luthier.model.score import score
from luthier.model.verify import choose_layout, library_attention
from luthier.objectives import group_advantages, group_policy
from luthier.tokens.pack import forest
from luthier.train.deal import as_tokens, asked, cut, minibatch
from luthier.train.group import Asked, GroupRollouts, Judge, group_loss

VOCAB, END, WANTED = 16, 2, 7


def words(ids):
    return " ".join(map(str, ids))


def how(**settings):
    given = {"iterations": 4, "rollout_prompts": 2, "samples": 4, "max_new_tokens": 5, "rewards": {"by:hand": 1.0}}
    return Grpo(kind="grpo", prompts="asked", **(given | settings))


def small(seed=0):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    return choose_layout(LlamaForCausalLM(config).eval())[0]


def adapted():
    return add_adapter(small(), Lora(rank=4), "policy", 0)


def wanted(chats, samples):
    """1 for every WANTED in an answer, less a little for its length."""
    return [one.ids.count(WANTED) - 0.01 * len(one.ids) for one in samples]


PROMPTS = [
    Asked(Chat((Message("user", words(ids)),), f"asked:{n}"), ids)
    for n, ids in enumerate([[3, 4, 5], [6, 8], [3, 4, 9, 9], [10], list(range(3, 15))])
]


def source_of(lm, grpo, seed=0, prompts=PROMPTS, microbatch_tokens=1000, scores=wanted, reference=None):
    judges = [Judge("wanted", 1.0, scores)]
    return GroupRollouts(lm, reference, judges, prompts, grpo, seed, [END], words, microbatch_tokens)


def train(source, lm, grpo, steps, lr):
    optimizer = torch.optim.Adam(list(trainable(lm.module).values()), lr=lr)
    for k in range(steps):
        step = source.at(k)
        for micro in step.micros:
            (group_loss(lm, grpo, micro, {}).total / step.total).backward()
        optimizer.step()
        optimizer.zero_grad()


# ---- advantages


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "rloo"])
def test_equal_rewards_are_worth_nothing(kind):
    reward_BG = torch.tensor([[0.1] * 7, [-3.0] * 7], dtype=torch.float64)  # the mean of 0.1s is not 0.1 in floats
    assert torch.equal(group_advantages(reward_BG, kind), torch.zeros(2, 7, dtype=torch.float64))


def test_advantages_by_hand():
    reward_BG = torch.tensor([[1.0, 0.0], [5.0, -1.0]], dtype=torch.float64)
    # a group of two: deviations ±1/2 and ±3; over n − 1 their standard deviations are √½ and 6·√½
    half = 0.5**0.5
    expected = {
        "grpo": [[0.5 / (half + 1e-4), -0.5 / (half + 1e-4)], [3 / (6 * half + 1e-4), -3 / (6 * half + 1e-4)]],
        "dr_grpo": [[0.5, -0.5], [3.0, -3.0]],
        "rloo": [[1.0, -1.0], [6.0, -6.0]],  # against the other one
    }
    for kind, values in expected.items():
        assert group_advantages(reward_BG, kind).tolist() == pytest.approx(np.array(values))
    # three answers 6, 3, 0: the others' means are 1.5, 3, 4.5
    assert group_advantages(torch.tensor([[6.0, 3.0, 0.0]]), "rloo").tolist() == [[4.5, 0.0, -4.5]]
    with pytest.raises(ValueError, match="group of one"):
        group_advantages(torch.ones(3, 1), "grpo")
    with pytest.raises(ValueError, match="gpro is not"):
        group_advantages(torch.ones(1, 2), "gpro")


@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=6), st.floats(-50, 50))
def test_advantages_sum_to_nothing_and_do_not_see_a_shift(rewards, shift):
    reward_BG = torch.tensor([rewards], dtype=torch.float64)
    for kind in ("grpo", "dr_grpo", "rloo"):
        found = group_advantages(reward_BG, kind)
        assert found.sum().abs() < 1e-9 * max(1.0, float(found.abs().max()))
        if len(set(rewards)) == len({r + shift for r in rewards}):  # a shift may swallow tiny differences
            torch.testing.assert_close(group_advantages(reward_BG + shift, kind), found, rtol=1e-6, atol=1e-6)


# ---- loss


def test_the_clipped_loss_at_ratio_one_is_reinforce():
    logp_M = torch.tensor([-1.0, -0.5, -2.0], requires_grad=True)
    advantage_M, weight_M = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([1.0, 0.5, 0.5])
    found = group_policy(logp_M, logp_M.detach(), advantage_M, weight_M, (0.2, 0.2))
    found.loss.backward()
    assert found.loss.item() == pytest.approx(-(2.0 - 0.5 + 0.25)) and found.clipped == 0
    assert logp_M.grad.tolist() == [-2.0, 0.5, -0.25]


def test_the_two_ends_of_the_clip_by_hand():
    # ratios 0.5, 0.75, 1.25, 1.5 with clip 0.8 .. 1.28, for both signs of the advantage
    ratios = [0.5, 0.75, 1.25, 1.5]
    logp_M = torch.tensor(ratios * 2).log().requires_grad_()
    advantage_M = torch.tensor([1.0] * 4 + [-1.0] * 4)
    found = group_policy(logp_M, torch.zeros(8), advantage_M, torch.ones(8), (0.2, 0.28))
    # good answers: held from above only, at 1.28; bad ones: held from below only, at 0.8
    assert found.loss.item() == pytest.approx(-(0.5 + 0.75 + 1.25 + 1.28) + (0.8 + 0.8 + 1.25 + 1.5))
    assert found.clipped == 3
    found.loss.backward()
    assert logp_M.grad.tolist() == pytest.approx([-0.5, -0.75, -1.25, 0.0, 0.0, 0.0, 1.25, 1.5])


def test_the_kl_is_schulmans_k3_with_its_gradient():
    logp_M = torch.tensor([-1.0, -2.0], requires_grad=True)
    ref_M = torch.tensor([-1.5, -1.0])
    found = group_policy(logp_M, logp_M.detach(), torch.zeros(2), torch.tensor([1.0, 0.5]), (0.2, 0.2), ref_M, kl=0.3)
    k3 = [math.exp(-0.5) + 0.5 - 1, math.exp(1.0) - 1.0 - 1]
    assert found.loss.item() == pytest.approx(0.3 * (k3[0] + 0.5 * k3[1]))
    found.loss.backward()  # d k3 / d logp = 1 − ref/π
    assert logp_M.grad.tolist() == pytest.approx([0.3 * (1 - math.exp(-0.5)), 0.3 * 0.5 * (1 - math.exp(1.0))])


def test_the_corrected_kl_has_the_gradient_of_the_kl():
    """In the mean over all tokens by their probability: Σ_v π_v ∇(ρ·k3)_v = ∇ KL(π‖ref), for any π and reference."""
    rng = torch.Generator().manual_seed(0)
    logits_V, ref_V = (torch.randn(6, generator=rng, dtype=torch.float64).requires_grad_() for _ in range(2))
    logp_V, ref_logp_V = logits_V.log_softmax(-1), ref_V.log_softmax(-1).detach()
    kl = (logp_V.exp() * (logp_V - ref_logp_V)).sum()
    (expected,) = torch.autograd.grad(kl, logits_V, retain_graph=True)
    zeros_V, weight_V = torch.zeros(6, dtype=torch.float64), logp_V.detach().exp()
    found = {}
    for corrected in (True, False):
        loss = group_policy(logp_V, logp_V.detach(), zeros_V, weight_V, (0.2, 0.2), ref_logp_V, 1.0, corrected).loss
        assert loss.item() == pytest.approx(kl.item())
        (found[corrected],) = torch.autograd.grad(loss, logits_V, retain_graph=True)
    torch.testing.assert_close(found[True], expected)
    assert (found[False] - expected).norm() > 0.1 * expected.norm()


@pytest.mark.parametrize(
    ("average", "expected"),
    # answers of 1 and 3 tokens with advantages 2 and −1, at ratio 1: −Σ over tokens of A
    [
        ("answers", (-2.0 + 3 * 1.0 / 3) / 2),  # each answer's mean, then their mean
        ("tokens", (-2.0 + 3.0) / 4),
        ("constant", (-2.0 + 3.0) / (2 * 5)),  # max_new_tokens 5
    ],
)
def test_averages_by_hand(average, expected):
    lm, grpo = small(), how(average=average, rollout_prompts=1, samples=2, iterations=1)
    source = source_of(lm, grpo, prompts=PROMPTS[:1])
    step = with_answers(source, [[5], [6, 4, END]], [2.0, -1.0])
    (micro,) = step.micros
    assert (group_loss(lm, grpo, micro, {}).total / step.total).item() == pytest.approx(expected)


def with_answers(source, answers, advantages):
    """The source's first step if these had been drawn."""
    ids = tuple(source.prompts[0].ids)
    rollout = source.rollout_at(0)
    rollout.sequences = [as_tokens(Sample(ids, tuple(a), (), "", True), "by hand") for a in answers]
    rollout.sizes = [len(a) for a in answers]
    rollout.sampled = [torch.zeros(len(a)) for a in answers]
    rollout.advantage_N = torch.tensor(advantages)
    return source.at(0)


# ---- rollouts


@pytest.mark.parametrize("make", [small, adapted])
@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_a_bandit_is_learned(make, kind):
    """One token to choose, a reward of 1 for one of 16 tokens: the policy comes to choose it, and so does RLOO's."""
    lm, grpo = make(), how(max_new_tokens=1, samples=32, iterations=40, advantage=kind)
    right = lambda chats, samples: [s.ids[0] == WANTED for s in samples]  # noqa: E731
    source = source_of(lm, grpo, prompts=PROMPTS[:2], scores=right)
    ask = forest([as_tokens(Sample(tuple(p.ids), (WANTED,), (), "", False)) for p in PROMPTS[:2]])

    def probability():
        with torch.no_grad():
            return score(lm, ask).exp()

    assert (probability() < 0.3).all()
    train(source, lm, grpo, source.steps, lr=0.02)
    assert (probability() > 0.9).all(), probability()
    assert source.rollout.stats["reward"] > 0.9


def test_a_longer_bandit_with_clip_and_kl_is_learned():
    """Several tokens, several passes over a rollout, a KL to hold it: more of the wanted token, at a distance."""
    lm = adapted()
    grpo = how(samples=8, iterations=15, epochs=2, minibatches=2, kl=0.02, average="tokens", advantage="dr_grpo")
    source = source_of(lm, grpo, reference=lambda: only(lm, None))
    before = source.rollout_at(0).stats
    assert before["kl"] == 0.0
    train(source, lm, grpo, source.steps, lr=0.03)
    after = source.rollout.stats
    assert after["reward"] > before["reward"] + 1.5
    assert after["kl"] > 0.5 and after["sampler_drift"] < 1e-4


def test_a_step_is_a_function_of_seed_and_step():
    grpo = how(epochs=2, minibatches=2, kl=0.1)
    lms = [adapted() for _ in range(3)]
    one, other, different = (
        source_of(lm, grpo, seed, reference=lambda lm=lm: only(lm, None))
        for lm, seed in zip(lms, (0, 0, 1), strict=True)
    )
    steps = [one.at(k) for k in range(4)]
    for k in (3, 1, 2, 0):
        assert_same(other.at(k), steps[k])
    assert [m.batch.ids_T.tolist() for m in different.at(0).micros] != [m.batch.ids_T.tolist() for m in steps[0].micros]


def assert_same(a, b):
    assert (a.total, a.tokens, len(a.micros)) == (b.total, b.tokens, len(b.micros))
    for x, y in zip(a.micros, b.micros, strict=True):
        assert torch.equal(x.batch.ids_T, y.batch.ids_T) and torch.equal(x.batch.from_M, y.batch.from_M)
        assert x.data.keys() == y.data.keys()
        assert all(torch.equal(x.data[name], y.data[name]) for name in x.data)


def test_what_is_told_of_a_rollout_and_what_it_is_worth():
    """Two judges with weights, against the same by numpy; of prompts that all answers solve alike it is told."""
    lm, grpo = small(), how(rollout_prompts=5, samples=3, kl=0.1)
    long = Judge("long", 0.5, lambda chats, samples: [float(len(s.ids)) for s in samples])
    easy = Judge("easy", -2.0, lambda chats, samples: [float(c.origin == "asked:3") for c in chats])
    source = GroupRollouts(lm, lambda: nullcontext(small(1)), [long, easy], PROMPTS, grpo, 0, [END], words, 1000)
    rollout = source.rollout_at(0)
    lengths = np.array(rollout.sizes)
    solved = np.array([s.origin == "asked:3" for s in rollout.sequences])
    reward_BG = (0.5 * lengths - 2.0 * solved).reshape(5, 3)
    deviation_B1 = reward_BG.std(1, ddof=1, keepdims=True)
    expected = (reward_BG - reward_BG.mean(1, keepdims=True)) / (deviation_B1 + 1e-4)
    np.testing.assert_allclose(rollout.advantage_N, expected.flatten(), atol=1e-6)
    with torch.no_grad():
        per_prompt = [score(m, forest(rollout.sequences)) for m in (lm, small(1))]
    d = (per_prompt[1] - per_prompt[0]).double().numpy()
    assert rollout.stats == pytest.approx({
        "reward": reward_BG.mean(),
        "reward_long": lengths.mean(),
        "reward_easy": 0.2,
        "reward_std": deviation_B1.mean(),
        "no_spread_frac": (np.ptp(reward_BG, axis=1) == 0).mean(),
        "answer_tokens": lengths.mean(),
        "ended_frac": np.mean([s.ids[-1] == END for s in rollout.sequences]),
        "kl": (np.exp(d) - 1 - d).sum() / 15,
    }, abs=1e-5)  # fmt: skip
    assert sorted(s.origin for s in rollout.sequences[::3]) == [f"asked:{n}" for n in range(5)]


def gradients(lm, grpo, step):
    """The gradient of a step, all parameters in one vector, and its loss."""
    loss = sum(group_loss(lm, grpo, micro, {}).total for micro in step.micros) / step.total
    loss.backward()
    parameters = trainable(lm.module).values()
    found = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters])
    lm.module.zero_grad()
    return loss.item(), found


def test_answers_without_an_advantage_are_left_out_and_change_nothing():
    lm, grpo = small(), how(rollout_prompts=4)
    half = lambda chats, samples: [(c.origin < "asked:2") * s.ids[0] for c, s in zip(chats, samples, strict=True)]  # noqa: E731
    source = source_of(lm, grpo, scores=half)
    rollout = source.rollout_at(0)
    taught = [i for i in range(16) if rollout.advantage_N[i] != 0]
    assert 0 < len(taught) < 16
    step = source.at(0)
    assert sum(m.batch.n for m in step.micros) == len(taught) and step.total == 16
    everything = source.micro(list(range(16)))
    loss, gradient = gradients(lm, grpo, step)
    whole_loss, whole_gradient = gradients(lm, grpo, step._replace(micros=[everything]))
    assert loss == pytest.approx(whole_loss, abs=1e-6)
    torch.testing.assert_close(gradient, whole_gradient, rtol=1e-5, atol=1e-7)
    # where nothing teaches, the step is there all the same, with a gradient of 0 exactly
    alike = source_of(lm, grpo, scores=lambda chats, samples: [0.3] * len(samples))
    step = alike.at(0)
    loss, gradient = gradients(lm, grpo, step)
    assert alike.rollout.stats["no_spread_frac"] == 1.0
    assert (loss, float(gradient.abs().max()), step.total) == (0.0, 0.0, 16)


def test_one_step_a_rollout_needs_no_second_scoring():
    """What is not scored again is what scoring again would give: loss and gradient to the last bits."""
    lm, grpo = small(), how(rollout_prompts=4)
    source = source_of(lm, grpo)
    step = source.at(0)
    assert source.rollout.old_logp is None and "old_logp_M" not in step.micros[0].data
    quick = gradients(lm, grpo, step)
    for micro in step.micros:
        with torch.no_grad(), evaluating(lm):
            micro.data["old_logp_M"] = score(lm, micro.batch, grpo.temperature)
    slow = gradients(lm, grpo, step)
    assert quick[0] == slow[0] and torch.equal(quick[1], slow[1])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_loss_is_its_equation_through_the_librarys_forward(temperature):
    """Shao et al. 2024, eq. 3, one token after another, each answer alone: a forest is its sequences."""
    grpo = how(temperature=temperature, clip=0.1, clip_high=0.2, kl=0.3, rollout_prompts=5, minibatches=1, epochs=2)
    lm = adapted()
    source = source_of(lm, grpo, reference=lambda: only(lm, None))
    step = source.at(0)
    (micro,) = step.micros
    rng = torch.Generator().manual_seed(1)
    for name, size in (("old_logp_M", 0.15), ("ref_logp_M", 0.4)):
        micro.data[name].add_(size * torch.randn(len(micro.batch.from_M), generator=rng))
    found = group_loss(lm, grpo, micro, {"reward": 0.25})
    found.total.backward()
    forests = {name: p.grad.clone() for name, p in trainable(lm.module).items()}
    lm.module.zero_grad()

    data = {name: values.split(torch.bincount(micro.batch.seq_M).tolist()) for name, values in micro.data.items()}
    order = minibatch(5, 1, 0, 0, 0, 0)
    sequences = [source.rollout.sequences[4 * g + s] for g in order for s in range(4)]
    total, clipped, tokens = torch.zeros(()), 0, 0
    with library_attention(lm):
        for n, sequence in enumerate(sequences):
            logits = lm.module(input_ids=torch.tensor([sequence.ids])).logits[0] / temperature
            loss = torch.zeros(())
            answer = [t for t, weight in enumerate(sequence.weights) if weight]
            for i, t in enumerate(answer):
                logp = torch.log_softmax(logits[t - 1], -1)[sequence.ids[t]]
                ratio = (logp - data["old_logp_M"][n][i]).exp()
                advantage, d = data["advantage_M"][n][i], data["ref_logp_M"][n][i] - logp
                held = ratio.clamp(0.9, 1.2) * advantage
                loss = loss - torch.minimum(ratio * advantage, held) + 0.3 * (d.exp() - 1 - d)
                clipped += int(held < ratio * advantage)
            total = total + loss / len(answer)
            tokens += len(answer)
    total.backward()
    assert found.total.item() == pytest.approx(total.item(), rel=1e-5) and step.total == 20
    for name, p in trainable(lm.module).items():
        torch.testing.assert_close(forests[name], p.grad, rtol=1e-4, atol=1e-6)
    watched = {name: float(value) / count for name, (value, count) in found.watched.items()}
    assert watched["clip_frac"] == pytest.approx(clipped / tokens) and 0 < clipped < tokens
    assert watched["reward"] == 0.25


def test_a_policy_that_left_the_reference_stops_the_run():
    source = source_of(small(), how(kl_stop=0.001, name="sums"), reference=lambda: nullcontext(small(1)))
    with pytest.raises(RunError, match=r"sums: iteration 0: KL to the reference is .* above kl_stop 0.001"):
        source.at(0)


def dropping_attention():
    """A Llama with dropout in its attention."""
    lm = small()
    lm.core.config.attention_dropout = 0.5
    for layer in lm.core.model.layers:
        layer.self_attn.attention_dropout = 0.5
    return lm


def dropping_layers():
    """OPT drops out in its layers themselves, not in parts of them."""
    lm = choose_layout(tiny("opt"))[0]
    assert all(layer.dropout == 0.1 for layer in lm.core.model.decoder.layers)
    return lm


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("dropping", [dropping_attention, dropping_layers], ids=["llama", "opt"])
def test_dropout_is_off_where_policies_are_trained(dropping, checkpointing, steps):
    """What is trained is what was sampled, also where the model, a layer of it or its adapter has dropout."""
    lm = add_adapter(dropping(), Lora(rank=4, dropout=0.5), "policy", 0)
    torch.nn.init.normal_(lm.module.get_parameter(next(n for n in trainable(lm.module) if "lora_B" in n)))
    if checkpointing:
        lm.core.gradient_checkpointing_enable({"use_reentrant": False})
        lm.core.enable_input_require_grads()
    grpo = how(epochs=steps)
    source = source_of(lm, grpo, scores=lambda chats, samples: [one.ids[0] % 5 for one in samples])
    lm.module.train()
    source.at(0)
    found = [group_loss(lm, grpo, micro, source.rollout.stats) for micro in source.at(0).micros]
    for loss in found:
        assert float(loss.watched["sampler_drift"][0]) < 1e-4
        assert float(loss.watched["clip_frac"][0]) == 0
        loss.total.backward()
    gradient = torch.cat([p.grad.flatten() for p in trainable(lm.module).values()])
    lm.module.zero_grad()
    lm.module.eval()
    again = sum(group_loss(lm, grpo, micro, {}).total for micro in source.at(0).micros)
    again.backward()
    plain = torch.cat([p.grad.flatten() for p in trainable(lm.module).values()])
    torch.testing.assert_close(gradient, plain, rtol=1e-5, atol=1e-6 * float(plain.norm()))
    assert plain.norm() > 1e-3


# ---- dealing


@given(st.integers(1, 9), st.integers(0, 40), st.integers(1, 20))
def test_every_prompt_is_asked_once_before_any_is_asked_again(count, first, number):
    whole = asked(count, 0, 0, first + number)
    assert asked(count, 0, first, number) == whole[first:]
    for start in range(0, len(whole) - count + 1, count):
        assert sorted(whole[start : start + count]) == list(range(count))


@given(st.integers(1, 12), st.integers(1, 12))
def test_minibatches_take_every_prompt_once(groups, minibatches):
    taken = [minibatch(groups, minibatches, 0, 3, 1, k) for k in range(minibatches)]
    assert sorted(chain.from_iterable(taken)) == list(range(groups))
    assert max(map(len, taken)) - min(map(len, taken)) <= 1


DRAWN = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 20)), min_size=1, max_size=12)


@given(DRAWN, st.integers(1, 80), st.booleans())
def test_microbatches_hold_what_their_forest_stores(drawn, limit, shared):
    prompts = [tuple(range(3, 15)), (3, 4), tuple(range(30, 60))]
    answers = [tuple(range(100 + 50 * i, 100 + 50 * i + n)) for i, (_, n) in enumerate(drawn)]
    sequences = [as_tokens(Sample(prompts[p], a, (), "", True)) for (p, _), a in zip(drawn, answers, strict=True)]
    runs = cut(sequences, range(len(sequences)), limit, shared)
    assert list(chain.from_iterable(runs)) == list(range(len(sequences)))

    def stored(run):
        lengths = [len(sequences[i].ids) for i in run]
        if not shared:
            return sum(lengths)
        # a prompt of at least 8 tokens is stored once by samples of it that follow each other
        again = [drawn[j][0] for i, j in pairwise(run) if drawn[i][0] == drawn[j][0]]
        return sum(lengths) - sum(len(prompts[p]) for p in again if len(prompts[p]) >= 8)

    for run, after in pairwise(runs):
        assert stored([*run, after[0]]) > limit
    for run in runs:
        assert stored(run) <= limit or len(run) == 1
        assert forest([sequences[i] for i in run]).tokens <= stored(run) or not shared
