"""PPO's batch source: fresh samples of the current policy, scored by the reward model, cut into minibatches.

Sampler and trainer share one distribution exactly, so the KL to the reference is 0 before the first step; that is
checked at run time too, and shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from luthier.base.alignment import Ppo
from luthier.base.errors import RunError
from luthier.base.nouns import Sample, Tokens
from luthier.base.seeds import seed_for
from luthier.generate import sample
from luthier.model.draw import Sampling
from luthier.model.roles import Roles, evaluating, steady
from luthier.model.score import head, states
from luthier.objectives import adapt_kl, clipped_policy, clipped_value, gae, kl_estimate, whiten
from luthier.tokens.pack import Batch, forest, split_by_tokens
from luthier.train.deal import as_tokens, asked, cut, evenly, minibatch
from luthier.train.job import Loss
from luthier.train.sources import Micro, Step


@dataclass
class Steering:
    """What PPO adapts besides the weights; part of every checkpoint."""

    kl: float
    """Coefficient of the KL penalty."""
    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0
    """Running moments of the reward (Welford)."""

    def state_dict(self) -> dict[str, Any]:
        """See Stateful."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See Stateful."""
        vars(self).update(state)

    def see(self, rewards_N: Tensor) -> None:
        """Updates the moments."""
        for reward in rewards_N.double().tolist():
            self.count += 1
            delta = reward - self.mean
            self.mean += delta / self.count
            self.squares += delta * (reward - self.mean)

    @property
    def deviation(self) -> float:
        """Running standard deviation of the reward; 1 until there is one."""
        return (self.squares / (self.count - 1)) ** 0.5 if self.count > 1 and self.squares > 0 else 1.0


@dataclass
class Rollout:
    """The samples of one iteration. Lists hold one tensor a sequence, over its sampled tokens."""

    sequences: list[Tokens]
    old_logp: list[Tensor]
    old_value: list[Tensor]
    advantage: list[Tensor]
    returns: list[Tensor]
    stats: dict[str, float] = field(default_factory=dict)


class Rollouts:
    """See BatchSource. A period is one rollout: `epochs` passes of `minibatches` steps."""

    def __init__(
        self,
        roles: Roles,
        prompts: Sequence[Sequence[int]],
        how: Ppo,
        steering: Steering,
        seed: int,
        end_ids: Sequence[int],
        decode: Callable[[Sequence[int]], str],
        microbatch_tokens: int,
    ) -> None:
        self.roles, self.prompts, self.how, self.steering, self.seed = roles, prompts, how, steering, seed
        self.end_ids, self.decode, self.microbatch_tokens = end_ids, decode, microbatch_tokens
        self.period = how.epochs * how.minibatches
        self.steps = how.iterations * self.period
        self.rollout: Rollout | None = None
        self.iteration = -1

    def at(self, step: int) -> Step:
        """See BatchSource."""
        iteration, inner = divmod(step, self.period)
        if iteration != self.iteration:
            self.rollout = self.make(iteration)
            self.iteration = iteration
        assert self.rollout is not None
        epoch, k = divmod(inner, self.how.minibatches)
        sequences, samples = self.rollout.sequences, self.how.samples
        groups = minibatch(len(sequences) // samples, self.how.minibatches, self.seed, iteration, epoch, k)
        chosen = [g * samples + s for g in groups for s in range(samples)]
        shared = self.roles.policy.layout == "forest"
        runs = evenly(lambda n: cut(sequences, chosen, n, shared), self.microbatch_tokens)
        micros = [self.micro(run) for run in runs]
        return Step(micros, float(sum(len(m.batch.from_M) for m in micros)), sum(m.batch.tokens for m in micros))

    def micro(self, chosen: list[int]) -> Micro:
        """The rollout's sequences `chosen`, with what the loss needs of each sampled token."""
        rollout = self.rollout
        assert rollout is not None
        join = lambda parts: torch.cat([parts[i] for i in chosen])  # noqa: E731
        return Micro(
            forest([rollout.sequences[i] for i in chosen]),
            {
                "old_logp_M": join(rollout.old_logp),
                "old_value_M": join(rollout.old_value),
                "advantage_M": join(rollout.advantage),
                "return_M": join(rollout.returns),
            },
        )

    def make(self, iteration: int) -> Rollout:
        """Samples, scores and credits. Raises RunError when the policy has left the reference (kl_stop)."""
        how, lm = self.how, self.roles.policy
        chosen = asked(len(self.prompts), self.seed, iteration * how.rollout_prompts, how.rollout_prompts)
        prompts = [self.prompts[i] for i in chosen]
        groups = sample(
            lm,
            prompts,
            Sampling(how.max_new_tokens, how.temperature, seed=seed_for(self.seed, "rollout", iteration)),
            self.end_ids,
            self.decode,
            samples=how.samples,
        )
        samples = [one for group in groups for one in group]
        sequences = [as_tokens(one) for one in samples]
        with evaluating(lm):
            scored = [self.look(forest(run)) for run in split_by_tokens(sequences, self.microbatch_tokens)]
        logp, reference, value, sizes = (torch.cat([s[i] for s in scored]) for i in range(4))
        reward_N = torch.cat([s[4] for s in scored])
        return self.credit(iteration, samples, sequences, logp, reference, value, sizes.tolist(), reward_N)

    @torch.no_grad()
    def look(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Log-probs of policy and reference and values, all [M]; predictions and rewards per sequence [N]; on the CPU,
        where rollouts are kept."""
        policy = self.roles.policy
        batch = batch.to(policy.device)
        hidden_MD = states(policy, batch, batch.from_M, batch.seq_M)
        logp_M = head(policy, hidden_MD, batch.target_M, self.how.temperature).logp_M
        value_M = self.roles.value_head(hidden_MD.float()).squeeze(-1)
        reference_M = self.roles.reference_logp(batch, self.how.temperature)
        sizes_N = torch.bincount(batch.seq_M, minlength=batch.n)
        found = (logp_M, reference_M, value_M, sizes_N, self.roles.rewards(batch))
        return tuple(x.cpu() for x in found)  # type: ignore[return-value]

    def credit(
        self,
        iteration: int,
        samples: list[Sample],
        sequences: list[Tokens],
        logp_M: Tensor,
        reference_M: Tensor,
        value_M: Tensor,
        sizes: list[int],
        reward_N: Tensor,
    ) -> Rollout:
        """Rewards per token (−β·KL on each, the score on the last), advantages and returns."""
        how, steering = self.how, self.steering
        if how.unfinished_reward is not None:
            stopped_N = torch.tensor([s.stopped for s in samples])
            reward_N = torch.where(stopped_N, reward_N, how.unfinished_reward)
        steering.see(reward_N)
        scaled_N = (reward_N - steering.mean) / steering.deviation if how.normalise_rewards else reward_N
        split = lambda x: list(x.split(sizes))  # noqa: E731
        per_token = [-steering.kl * (a - b) for a, b in zip(split(logp_M), split(reference_M), strict=True)]
        for reward, score in zip(per_token, scaled_N, strict=True):
            reward[-1] += score
        pad = lambda parts: pad_sequence(parts, batch_first=True)  # noqa: E731
        mask_NL = pad([torch.ones(n) for n in sizes])
        values = split(value_M)
        advantage_NL = gae(pad(per_token), pad(values), mask_NL, how.gamma, how.lam)
        returns_NL = advantage_NL + pad(values)
        alive = mask_NL.bool()
        white_M = whiten(advantage_NL[alive])
        drift = (logp_M - torch.tensor([x for s in samples for x in s.logps])).abs().max()
        kl_N = torch.tensor([float(k.sum()) for k in split(kl_estimate(logp_M, reference_M))])
        stats = {
            "reward": float(reward_N.mean()),
            "kl": float(kl_N.mean()),
            "kl_coefficient": steering.kl,
            "answer_tokens": sum(sizes) / len(sizes),
            "ended_frac": sum(s.stopped for s in samples) / len(samples),
            "sampler_drift": float(drift),
        }
        if how.kl_stop is not None and stats["kl"] > how.kl_stop:
            raise RunError(
                f"ppo: iteration {iteration}: KL to the reference is {stats['kl']:.2f} nats an answer, above kl_stop "
                f"{how.kl_stop}: the policy has left the reference. Raise kl or lower learning_rate."
            )
        if how.kl_target is not None:
            steering.kl = adapt_kl(steering.kl, stats["kl"], how.kl_target, len(samples), how.kl_horizon)
        return Rollout(sequences, split(logp_M), values, split(white_M), split(returns_NL[alive]), stats)


def ppo_loss(roles: Roles, how: Ppo, micro: Micro, stats: dict[str, float]) -> Loss:
    """Clipped policy loss + value_weight · clipped value loss − entropy_weight · entropy, summed over tokens.
    Schulman et al. 2017, eq. 9."""
    batch, data = micro
    policy = roles.policy
    steady(policy)
    hidden_MD = states(policy, batch, batch.from_M, batch.seq_M)
    scores = head(policy, hidden_MD, batch.target_M, how.temperature, entropy=True)
    assert scores.entropy_M is not None
    value_M = roles.value_head(hidden_MD.float()).squeeze(-1)
    actor = clipped_policy(scores.logp_M, data["old_logp_M"], data["advantage_M"], how.clip)
    critic = clipped_value(value_M, data["old_value_M"], data["return_M"], how.value_clip)
    entropy = scores.entropy_M.sum()
    n = float(len(batch.from_M))
    total = actor.loss + how.value_weight * critic.loss - how.entropy_weight * entropy
    step_kl = kl_estimate(data["old_logp_M"], scores.logp_M).sum().detach()
    watched = {
        "policy_loss": (actor.loss.detach(), n),
        "value_loss": (critic.loss.detach(), n),
        "entropy": (entropy.detach(), n),
        "clip_frac": (actor.clipped.detach(), n),
        "step_kl": (step_kl, n),
    }
    return Loss(total, watched | {name: (value, 1.0) for name, value in stats.items()})
