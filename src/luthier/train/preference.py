"""Learning from preferences without a reward model: what a loss compares of a pair's two answers, the reference's
log-probs (data, scored once before the first step), and KTO's steps.

The step sees one model. What it needs of the reference comes with its microbatch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from luthier.base.alignment import Dpo, Kto, Orpo, Simpo
from luthier.base.nouns import Tokens
from luthier.base.seeds import seed_for
from luthier.model.roles import evaluating
from luthier.model.score import LanguageModel, score, sequence_sums
from luthier.objectives import dpo, ipo, kto, log_odds, orpo, simpo
from luthier.tokens.pack import Batch, forest, split_by_tokens
from luthier.train.deal import evenly
from luthier.train.job import Loss
from luthier.train.sources import Micro, Step

PairStage = Dpo | Orpo | Simpo


class Answers(NamedTuple):
    """Of each sequence, the log-prob of what carries weight, summed (nats), and how many tokens that are."""

    logp_N: Tensor
    tokens_N: Tensor


def answers(lm: LanguageModel, batch: Batch) -> Answers:
    """Log-probs of whole answers under the model."""
    return Answers(
        sequence_sums(score(lm, batch) * batch.weight_M, batch), sequence_sums(batch.weight_M, batch).clamp(min=1)
    )


@torch.no_grad()
def answer_logps(lm: LanguageModel, sequences: Sequence[Tokens], limit: int) -> list[float]:
    """Log-probs (nats) of the sequences' answers without dropout, at most `limit` tokens a forward."""
    found: list[float] = []
    with evaluating(lm):
        for run in split_by_tokens(sequences, limit):
            found += answers(lm, forest(run).to(lm.device)).logp_N.tolist()
    return found


class Compared(NamedTuple):
    """What a loss compares of the pairs of a batch."""

    chosen_P: Tensor
    """dpo: the policy's gain over the reference in nats (a token, if so asked); else mean log-probs a token."""
    rejected_P: Tensor
    mean_chosen_P: Tensor
    """Mean log-prob a token of the chosen answers."""


def compare(lm: LanguageModel, how: PairStage, micro: Micro) -> Compared:
    """Scores a microbatch of pairs: sequences 2p (chosen) and 2p+1 (rejected); for dpo its data are the reference's
    log-probs, `ref_chosen_P` and `ref_rejected_P`."""
    logp_N, tokens_N = answers(lm, micro.batch)
    value_N = mean_N = logp_N / tokens_N
    if isinstance(how, Dpo):
        value_N = logp_N - torch.stack([micro.data["ref_chosen_P"], micro.data["ref_rejected_P"]], dim=1).flatten()
        value_N = value_N / tokens_N if how.length_normalise else value_N
    return Compared(value_N[0::2], value_N[1::2], mean_N[0::2])


def pair_sum(how: PairStage, seen: Compared) -> Tensor:
    """The stage's loss, summed over the pairs. Beside dpo's stands −log p a token of the chosen answers, times
    `sft_weight`: Pang et al. 2024, "Iterative reasoning preference optimization", eq. 1."""
    match how:
        case Dpo():
            preferred = (
                ipo(seen.chosen_P, seen.rejected_P, how.beta)
                if how.loss == "ipo"
                else dpo(seen.chosen_P, seen.rejected_P, how.beta, how.label_smoothing)
            )
            return preferred - how.sft_weight * seen.mean_chosen_P.sum()
        case Orpo():
            return orpo(seen.chosen_P, seen.rejected_P, how.beta)
        case Simpo():
            return simpo(seen.chosen_P, seen.rejected_P, how.beta, how.target_margin)


def implicit_margin(how: PairStage, seen: Compared) -> Tensor:
    """By how much the implicit reward of the chosen answers leads [P]: β times the difference (dpo: Rafailov et al.
    2023, §4; simpo), or the log of the odds ratio (orpo)."""
    if isinstance(how, Dpo | Simpo):
        return how.beta * (seen.chosen_P - seen.rejected_P)
    return log_odds(seen.chosen_P) - log_odds(seen.rejected_P)


def preference_loss(lm: LanguageModel, how: PairStage, micro: Micro) -> Loss:
    """The loss of a microbatch of pairs; watched are the implicit reward's accuracy and margin, and for dpo the gains
    (nats) of chosen and rejected answers over the reference: both may fall while the margin grows."""
    seen = compare(lm, how, micro)
    margin_P, count = implicit_margin(how, seen).detach(), float(len(seen.chosen_P))
    watched: dict[str, tuple[Tensor | float, float]] = {
        "accuracy": ((margin_P > 0).sum(), count),
        "margin": (margin_P.sum(), count),
    }
    if isinstance(how, Dpo):
        watched["chosen_gain"] = (seen.chosen_P.detach().sum(), count)
        watched["rejected_gain"] = (seen.rejected_P.detach().sum(), count)
    return Loss(pair_sum(how, seen), watched)


def kto_loss(lm: LanguageModel, how: Kto, micro: Micro) -> Loss:
    """KTO's loss of a microbatch of answers; its data are `good_N` (1 or 0), the reference's log-probs `ref_N`, and
    the step's KL `baseline_N`, the same for all."""
    gain_N = answers(lm, micro.batch).logp_N - micro.data["ref_N"]
    good_N, baseline_N = micro.data["good_N"], micro.data["baseline_N"]
    seen_N, count = gain_N.detach(), float(len(gain_N))
    right_N = torch.where(good_N > 0, seen_N > baseline_N, seen_N < baseline_N)
    return Loss(
        kto(gain_N, good_N, baseline_N, how.beta, how.good_weight, how.bad_weight),
        {
            "accuracy": (right_N.sum(), count),
            "good_gain": ((seen_N * good_N).sum(), float(good_N.sum())),
            "bad_gain": ((seen_N * (1 - good_N)).sum(), count - float(good_N.sum())),
            "kl": (baseline_N.sum(), count),
        },
    )


def shuffled_steps(count: int, batch: int, epochs: float, seed: int) -> list[list[int]]:
    """Which of `count` answers each step takes: shuffled passes, cut into steps of at most `batch` that differ by one
    answer at most, so that none is left with a single one."""
    per_epoch = -(-count // batch)
    steps: list[list[int]] = []
    for epoch in range(-(-max(1, round(epochs * per_epoch)) // per_epoch)):
        order = np.random.default_rng(seed_for(seed, "answers", epoch)).permutation(count)
        steps += [run.tolist() for run in np.array_split(order, per_epoch)]
    return steps[: max(1, round(epochs * per_epoch))]


def mismatched(rows: Sequence[Tokens], max_length: int) -> list[Tokens]:
    """Each row's prompt with another's answer: that of the row before it (of the last one for the first), or of the
    nearest before that which answers another prompt. Rows without such a one are left out. What is longer than
    `max_length` tokens is cut, as it is only measured."""
    prompts = [row.weights.index(1.0) for row in rows]
    found = []
    for i, row in enumerate(rows):
        asked = row.ids[: prompts[i]]
        for back in range(1, len(rows)):
            other, begin = rows[i - back], prompts[i - back]
            if other.ids[:begin] != asked:
                ids, weights = asked + other.ids[begin:], row.weights[: prompts[i]] + other.weights[begin:]
                found.append(Tokens(ids[:max_length], weights[:max_length], row.origin))
                break
    return found


class KtoReference(NamedTuple):
    """The reference's log-probs (nats): of every answer, and of every step's mismatched ones."""

    answers: list[float]
    mismatched: list[list[float]]


class Marked:
    """KTO's steps. A step's KL baseline z = max(0, mean of log π − log ρ over its prompts with each other's answers)
    (Ethayarajh et al. 2024, §4.1) is measured under the weights of that moment, over the whole step: how it is cut
    into microbatches changes nothing. Where all answers of a step are to one prompt, z is 0."""

    period = 1

    def __init__(
        self,
        lm: LanguageModel,
        rows: Sequence[Tokens],
        good: Sequence[bool],
        which: Sequence[Sequence[int]],
        reference: KtoReference,
        microbatch_tokens: int,
        max_length: int,
    ) -> None:
        self.lm, self.rows, self.which, self.max_length = lm, rows, which, max_length
        self.reference, self.microbatch_tokens, self.steps = reference, microbatch_tokens, len(which)
        self.good_N = torch.tensor(good, dtype=torch.float32)
        self.ref_N = torch.tensor(reference.answers, dtype=torch.float32)

    def largest(self) -> int:
        """The step with the most tokens: the one to try first."""
        return max(range(self.steps), key=lambda step: sum(len(self.rows[i].ids) for i in self.which[step]))

    def baseline(self, step: int) -> float:
        """The step's z under the present weights, in nats."""
        pairs = mismatched([self.rows[i] for i in self.which[step]], self.max_length)
        return kl_baseline(answer_logps(self.lm, pairs, self.microbatch_tokens), self.reference.mismatched[step])

    def at(self, step: int) -> Step:
        """See BatchSource."""
        baseline = self.baseline(step)
        # Answers to one prompt side by side: they share it.
        chosen = sorted(self.which[step], key=lambda i: self.rows[i].ids)
        micros, begin = [], 0
        rows = [self.rows[i] for i in chosen]
        for run in evenly(lambda n: split_by_tokens(rows, n), self.microbatch_tokens):
            own = chosen[begin : begin + len(run)]
            begin += len(run)
            data = {"good_N": self.good_N[own], "ref_N": self.ref_N[own]}
            micros.append(Micro(forest(run), {**data, "baseline_N": torch.full((len(own),), baseline)}))
        return Step(micros, float(len(chosen)), sum(len(self.rows[i].ids) for i in chosen))


def kl_baseline(policy: Sequence[float], reference: Sequence[float]) -> float:
    """max(0, mean of policy − reference) over mismatched answers (nats); 0 without any."""
    return max(0.0, float(np.mean(np.subtract(policy, reference)))) if policy else 0.0
