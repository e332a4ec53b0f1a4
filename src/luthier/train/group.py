"""GRPO's batch source: several answers to each prompt, judged by programs or reward models, each weighed against the
others. Its loss is PPO's clipped one with the group in the place of the value function.

Sampler and trainer share one distribution exactly: temperature included, dropout off. With one step to a rollout the
old log-probs are the current ones and are not scored twice; without a KL there is no reference, and none is scored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from luthier.base.alignment import Grpo
from luthier.base.errors import RunError
from luthier.base.nouns import Chat, Sample, Tokens
from luthier.base.seeds import seed_for
from luthier.generate import sample
from luthier.model.draw import Sampling
from luthier.model.roles import Role, evaluating, steady
from luthier.model.score import LanguageModel, score
from luthier.objectives import group_advantages, group_policy, kl_estimate
from luthier.tokens.pack import forest
from luthier.train.deal import as_tokens, asked, cut, evenly, minibatch
from luthier.train.job import Loss
from luthier.train.ranks import here
from luthier.train.sources import Micro, Step


class Judge(NamedTuple):
    """A reward: what it is called, its weight, and what it says of answers (each to its prompt)."""

    name: str
    weight: float
    scores: Callable[[Sequence[Chat], Sequence[Sample]], list[float]]


def judged(judges: Sequence[Judge], chats: Sequence[Chat], samples: Sequence[Sample]) -> Tensor:
    """Each judge's scores of N answers, unweighted [judges, N], float64."""
    return torch.tensor([judge.scores(chats, samples) for judge in judges], dtype=torch.float64)


def total_of(judges: Sequence[Judge], scores_KN: Tensor) -> Tensor:
    """The weighted sum of the judges' scores [N]."""
    return torch.tensor([judge.weight for judge in judges], dtype=torch.float64) @ scores_KN


class Asked(NamedTuple):
    """A prompt: the conversation that a judge is shown, and the ids that the policy continues."""

    chat: Chat
    ids: Sequence[int]


@dataclass
class GroupRollout:
    """The answers of one iteration, the `samples` answers to one prompt beside each other."""

    sequences: list[Tokens]
    sizes: list[int]
    """Sampled tokens of each answer."""
    sampled: list[Tensor]
    """The sampler's log-probs, one tensor an answer."""
    advantage_N: Tensor
    old_logp: list[Tensor] | None
    """The trainer's, before the first step; None where there is one step only, which has them anyway."""
    reference: list[Tensor] | None
    stats: dict[str, float] = field(default_factory=dict)


class GroupRollouts:
    """See BatchSource. A period is one rollout: `epochs` passes of `minibatches` steps."""

    def __init__(
        self,
        policy: LanguageModel,
        reference: Role | None,
        judges: Sequence[Judge],
        prompts: Sequence[Asked],
        how: Grpo,
        seed: int,
        end_ids: Sequence[int],
        decode: Callable[[Sequence[int]], str],
        microbatch_tokens: int,
    ) -> None:
        self.policy, self.reference, self.judges, self.prompts = policy, reference, judges, prompts
        self.how, self.seed, self.end_ids, self.decode = how, seed, end_ids, decode
        self.microbatch_tokens = microbatch_tokens
        self.period = how.epochs * how.minibatches
        self.steps = how.iterations * self.period
        self.rollout: GroupRollout | None = None
        self.iteration = -1

    def rollout_at(self, iteration: int) -> GroupRollout:
        """The rollout of an iteration: made when it is first asked for, with the weights of that moment."""
        if iteration != self.iteration or self.rollout is None:
            self.rollout, self.iteration = self.make(iteration), iteration
        return self.rollout

    def at(self, step: int) -> Step:
        """See BatchSource. Answers without an advantage are left out where there is no KL: their loss is 0."""
        how = self.how
        iteration, inner = divmod(step, self.period)
        rollout = self.rollout_at(iteration)
        epoch, k = divmod(inner, how.minibatches)
        groups = minibatch(how.rollout_prompts, how.minibatches, self.seed, iteration, epoch, k)
        chosen = [g * how.samples + s for g in groups for s in range(how.samples)]
        total = float({
            "answers": len(chosen),
            "tokens": sum(rollout.sizes[i] for i in chosen),
            "constant": len(chosen) * how.max_new_tokens,
        }[how.average])  # fmt: skip
        if not how.kl:  # one stays, so that a step in which nothing is learned is a step of gradient 0 all the same
            chosen = [i for i in chosen if rollout.advantage_N[i] != 0] or chosen[:1]
        shared = self.policy.layout == "forest"
        runs = evenly(lambda n: cut(rollout.sequences, chosen, n, shared), self.microbatch_tokens)
        micros = [self.micro(run) for run in runs]
        return Step(micros, total, sum(m.batch.tokens for m in micros))

    def micro(self, chosen: list[int]) -> Micro:
        """The rollout's answers `chosen`, with what the loss needs of each sampled token."""
        rollout = self.rollout
        assert rollout is not None
        sizes_N = torch.tensor([rollout.sizes[i] for i in chosen])
        weight_N = 1.0 / sizes_N if self.how.average == "answers" else torch.ones(len(chosen))
        data = {
            "advantage_M": rollout.advantage_N[chosen].repeat_interleave(sizes_N),
            "weight_M": weight_N.repeat_interleave(sizes_N),
            "sampled_M": torch.cat([rollout.sampled[i] for i in chosen]),
        }
        for name, kept in (("old_logp_M", rollout.old_logp), ("ref_logp_M", rollout.reference)):
            if kept is not None:
                data[name] = torch.cat([kept[i] for i in chosen])
        return Micro(forest([rollout.sequences[i] for i in chosen]), data)

    def make(self, iteration: int) -> GroupRollout:
        """Samples, judges and compares. Raises RunError when the policy has left the reference (kl_stop)."""
        how = self.how
        chosen = asked(len(self.prompts), self.seed, iteration * how.rollout_prompts, how.rollout_prompts)
        prompts = [self.prompts[i] for i in chosen]
        seed = seed_for(self.seed, "rollout", iteration)
        groups = sample(
            self.policy,
            [prompt.ids for prompt in prompts],
            Sampling(how.max_new_tokens, how.temperature, seed=seed),
            self.end_ids,
            self.decode,
            samples=how.samples,
        )
        chats = [prompt.chat for prompt in prompts for _ in range(how.samples)]
        samples = [one for group in groups for one in group]
        # One rank judges for all: a program may call on the world, and need not say the same twice.
        scores_KN = here().told(judged(self.judges, chats, samples) if here().is_main else torch.empty(0))
        reward_BG = total_of(self.judges, scores_KN).view(-1, how.samples)
        sequences = [as_tokens(one, chat.origin) for one, chat in zip(samples, chats, strict=True)]
        sizes = [len(one.ids) for one in samples]
        sampled_M = torch.tensor([x for one in samples for x in one.logps])
        logp_M = self.score(sequences, self.policy) if self.period > 1 else None
        reference_M = self.reference_logp(sequences)
        stats: dict[str, float] = {
            "reward": float(reward_BG.mean()),
            **{f"reward_{j.name}": float(row.mean()) for j, row in zip(self.judges, scores_KN, strict=True)},
            "reward_std": float(reward_BG.std(1).mean()),
            "no_spread_frac": float((reward_BG.amax(1) == reward_BG.amin(1)).double().mean()),
            "answer_tokens": sum(sizes) / len(sizes),
            "ended_frac": sum(one.stopped for one in samples) / len(samples),
        }
        if logp_M is not None:
            stats["sampler_drift"] = float((logp_M - sampled_M).abs().max())
        if reference_M is not None:
            policy_M = sampled_M if logp_M is None else logp_M
            stats["kl"] = float(kl_estimate(policy_M, reference_M).sum()) / len(samples)
            self.stop_if_gone(iteration, stats["kl"])
        split = lambda x_M: None if x_M is None else list(x_M.split(sizes))  # noqa: E731
        advantage_N = group_advantages(reward_BG, how.advantage).float().flatten()
        sampled = list(sampled_M.split(sizes))
        return GroupRollout(sequences, sizes, sampled, advantage_N, split(logp_M), split(reference_M), stats)

    def stop_if_gone(self, iteration: int, kl: float) -> None:
        """Raises RunError when the KL to the reference is above kl_stop."""
        if self.how.kl_stop is not None and kl > self.how.kl_stop:
            raise RunError(
                f"{self.how.name or self.how.kind}: iteration {iteration}: KL to the reference is {kl:.2f} nats an "
                f"answer, above kl_stop {self.how.kl_stop}: the policy has left the reference. Raise kl or lower "
                "learning_rate."
            )

    @torch.no_grad()
    def score(self, sequences: Sequence[Tokens], lm: LanguageModel) -> Tensor:
        """Log-probs of the sampled tokens [M] without dropout, on the CPU, where rollouts are kept."""
        shared = lm.layout == "forest"
        with evaluating(lm):
            found = [
                score(lm, forest([sequences[i] for i in run]).to(lm.device), self.how.temperature).cpu()
                for run in cut(sequences, range(len(sequences)), self.microbatch_tokens, shared)
            ]
        return torch.cat(found)

    def reference_logp(self, sequences: Sequence[Tokens]) -> Tensor | None:
        """The reference's log-probs [M]; None where nothing asks for them."""
        if self.reference is None:
            return None
        with self.reference() as lm:
            return self.score(sequences, lm)

    def agreement(self) -> tuple[float | None, float]:
        """(KL to the reference in nats an answer, largest difference between sampler and trainer in nats a token) on
        the first rollout, scored by the policy itself."""
        rollout = self.rollout_at(0)
        logp_M = self.score(rollout.sequences, self.policy)
        drift = float((logp_M - torch.cat(rollout.sampled)).abs().max())
        if rollout.reference is None:
            return None, drift
        return float(kl_estimate(logp_M, torch.cat(rollout.reference)).sum()) / len(rollout.sizes), drift


def group_loss(lm: LanguageModel, how: Grpo, micro: Micro, stats: dict[str, float]) -> Loss:
    """The clipped loss of a group's answers with its KL, summed with the weights of `how.average`. Shao et al. 2024,
    eq. 3; see `objectives.group_policy`."""
    batch, data = micro
    steady(lm)
    logp_M = score(lm, batch, how.temperature)
    old_logp_M = data.get("old_logp_M", logp_M.detach())
    clip = (how.clip, how.clip if how.clip_high is None else how.clip_high)
    reference_M = data.get("ref_logp_M")
    actor = group_policy(
        logp_M, old_logp_M, data["advantage_M"], data["weight_M"], clip, reference_M, how.kl, how.kl_corrected
    )
    n = float(len(batch.from_M))
    watched: dict[str, tuple[Tensor | float, float]] = {"clip_frac": (actor.clipped.detach(), n)}
    if "old_logp_M" in data:
        watched["step_kl"] = (kl_estimate(old_logp_M, logp_M.detach()).sum(), n)
    else:
        watched["sampler_drift"] = ((logp_M.detach() - data["sampled_M"]).abs().max(), 1.0)
    return Loss(actor.loss, watched | {name: (value, 1.0) for name, value in stats.items()})
