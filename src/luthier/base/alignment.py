"""The stages that learn from preferences and rewards, as a user writes them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from luthier.base.strict import Strict
from luthier.base.tuning import Training


class Prefer(Strict):
    """Gathers preference pairs: a scripted rater compares the model's own samples, or a file of pairs is read."""

    kind: Literal["prefer"]
    name: str | None = None
    init: str | None = None
    """Name of the stage whose model writes the answers; default: the last one."""
    pairs: str | None = None
    """Name of a source of ready pairs, or of a stage that makes some; nothing is sampled then."""
    prompts: str | None = None
    """Name of a source of conversations, or of a stage that makes some, whose prompts are answered."""
    rater: str | None = None
    """`path/file.py:name` or `package.module:name`, a function (messages, answer) -> score. Its preferences are
    simulated, and are labelled so wherever they appear."""
    samples: int = Field(default=4, ge=2)
    """Answers drawn for each prompt."""
    pairs_per_prompt: int = Field(default=2, ge=1)
    """Pairs kept for each prompt."""
    min_gap: float = Field(default=0.0, ge=0)
    """Least difference of the rater's scores for a pair; answers nearer than this count as a tie and make none."""
    noise: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of pairs whose label is flipped, as people's are."""
    temperature: float = Field(default=1.0, gt=0)
    max_new_tokens: int = Field(default=128, ge=1)
    heldout: float = Field(default=0.15, ge=0, lt=1)
    """Share of prompts whose pairs are kept for measuring the reward model."""


class Reward(Training):
    """A reward model on preference pairs: Bradley-Terry, one score at the last token."""

    kind: Literal["reward"]
    pairs: str | None = None
    """Name of a `prefer` stage, of one that makes pairs, or of a source of them; default: the last prefer stage."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the training pairs."""
    batch_pairs: int = Field(default=32, ge=1)
    """Pairs in one optimizer step."""
    max_length: int | None = Field(default=None, ge=8)
    overlong: Literal["error", "drop"] = "error"
    margin: bool = True
    """Use the pairs' margins, where they have any: −log σ(Δ − margin). Touvron et al. 2023 (Llama 2), eq. 2."""
    soft_labels: bool = True
    """Use the share of raters that agreed, where pairs have one, instead of treating each pair as certain."""
    min_accuracy: float | None = None
    """Stop the run when the reward model's held-out accuracy is below this."""


class Preference(Training):
    """What every stage that learns from pairs without a reward model has."""

    pairs: str | None = None
    """Name of a `prefer` stage, of one that makes pairs, or of a source of them; default: the last prefer stage."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the training pairs."""
    batch_pairs: int = Field(default=32, ge=1)
    """Pairs in one optimizer step."""
    max_length: int | None = Field(default=None, ge=8)
    """Longest sequence in tokens; default: the model's context."""
    overlong: Literal["error", "drop"] = "error"
    """Pairs longer than max_length: refuse to start, or leave out."""


class Dpo(Preference):
    """Direct preference optimisation against the model it starts from. Rafailov et al. 2023."""

    kind: Literal["dpo"]
    beta: float = Field(default=0.1, gt=0)
    """How near the policy stays to the reference."""
    loss: Literal["sigmoid", "ipo"] = "sigmoid"
    """sigmoid: eq. 7; ipo: squared distance from 1/(2β), which certain pairs cannot push on for ever (Azar et al.
    2023, eq. 17; with `length_normalise`, as its authors and TRL have it)."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Chance that a pair's label is wrong. Mitchell 2023, conservative DPO."""
    length_normalise: bool = False
    """Mean log-probs a token instead of sums, so that length is not what is learned."""
    sft_weight: float = Field(default=0.0, ge=0)
    """Weight of −log p a token of the chosen answers beside it."""


class Orpo(Preference):
    """Supervised tuning with an odds-ratio penalty; no reference. Hong et al. 2024."""

    kind: Literal["orpo"]
    beta: float = Field(default=0.1, gt=0)
    """Weight of the odds-ratio term (their λ)."""


class Simpo(Preference):
    """Preference optimisation on mean log-probs with a target margin; no reference. Meng et al. 2024."""

    kind: Literal["simpo"]
    beta: float = Field(default=2.0, gt=0)
    """Scale of the reward."""
    target_margin: float = Field(default=1.0, ge=0)
    """By how much the chosen answer's reward shall lead (their γ)."""


class Kto(Training):
    """Learns from single answers marked good or bad. Ethayarajh et al. 2024."""

    kind: Literal["kto"]
    data: str | None = None
    """Name of a source of labelled answers, or of pairs (each is one good and one bad answer), of a stage that makes
    such data, or of a `prefer` stage; default: the last prefer stage."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the training rows."""
    batch_answers: int = Field(default=64, ge=2)
    """Answers in one optimizer step."""
    beta: float = Field(default=0.1, gt=0)
    """How near the policy stays to the reference."""
    good_weight: float = Field(default=1.0, ge=0)
    """Weight of good answers."""
    bad_weight: float = Field(default=1.0, ge=0)
    """Weight of bad answers."""
    max_length: int | None = Field(default=None, ge=8)
    """Longest sequence in tokens; default: the model's context."""
    overlong: Literal["error", "drop"] = "error"
    """Answers longer than max_length: refuse to start, or leave out."""


class Ppo(Training):
    """Proximal policy optimisation against a reward model, with a KL penalty to the model it started from."""

    kind: Literal["ppo"]
    reward: str | None = None
    """Name of the reward stage; default: the last one."""
    prompts: str
    """Name of the source, or of the stage that makes data, whose prompts are answered."""
    iterations: int = Field(default=20, ge=1)
    """Rollouts, each followed by `epochs` passes over its samples."""
    rollout_prompts: int = Field(default=32, ge=1)
    """Prompts in one rollout."""
    samples: int = Field(default=4, ge=1)
    """Answers for each prompt."""
    max_new_tokens: int = Field(default=64, ge=1)
    """Longest answer."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature; the log-probs that are trained are those of the same distribution."""
    epochs: int = Field(default=2, ge=1)
    """Passes over one rollout."""
    minibatches: int = Field(default=2, ge=1)
    """Optimizer steps in one pass."""
    clip: float = Field(default=0.2, gt=0)
    """Policy ratio is clipped to 1 ± clip."""
    value_clip: float = Field(default=0.2, gt=0)
    """New values stay within ± this of the old ones."""
    value_weight: float = Field(default=0.1, ge=0)
    """Weight of the value loss."""
    entropy_weight: float = Field(default=0.0, ge=0)
    """Weight of the entropy bonus."""
    gamma: float = Field(default=1.0, gt=0, le=1)
    """Discount."""
    lam: float = Field(default=0.95, ge=0, le=1)
    """λ of generalised advantage estimation."""
    kl: float = Field(default=0.05, ge=0)
    """Coefficient of the per-token KL penalty to the reference."""
    kl_target: float | None = Field(default=None, gt=0)
    """Adapt the coefficient to keep the KL per answer (nats) near this; default: fixed coefficient."""
    kl_horizon: int = Field(default=4096, ge=1)
    """Samples over which the coefficient adapts (Ziegler et al. 2019, §2.2)."""
    kl_stop: float | None = Field(default=None, gt=0)
    """Stop with an error when the mean KL per answer (nats) passes this: the policy has left the reference."""
    unfinished_reward: float | None = None
    """Reward of an answer that did not end; default: what the reward model says."""
    normalise_rewards: bool = True
    """Subtract the running mean of the rewards and divide by their running standard deviation."""


class Grpo(Training):
    """Policy optimisation against rewards that are programs (or a reward model), relative to the other answers to the
    same prompt. Shao et al. 2024; RLOO: Ahmadian et al. 2024."""

    kind: Literal["grpo"]
    rewards: dict[str, float]
    """Rewards with their weights: `path/file.py:name`, a function (messages, answer, row) -> score, or the name of a
    reward stage. A plain string, or a list of them, means weight 1."""
    prompts: str
    """Name of the source, or of the stage that makes data, whose prompts are answered."""
    iterations: int = Field(default=20, ge=1)
    """Rollouts, each followed by `epochs` passes over its samples."""
    rollout_prompts: int = Field(default=16, ge=1)
    """Prompts in one rollout."""
    samples: int = Field(default=8, ge=2)
    """Answers for each prompt."""
    max_new_tokens: int = Field(default=64, ge=1)
    """Longest answer."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature; the log-probs that are trained are those of the same distribution."""
    epochs: int = Field(default=1, ge=1)
    """Passes over one rollout."""
    minibatches: int = Field(default=1, ge=1)
    """Optimizer steps in one pass."""
    advantage: Literal["grpo", "dr_grpo", "rloo"] = "grpo"
    """grpo: deviation from the group's mean over its standard deviation; dr_grpo: the deviation alone (Liu et al.
    2025); rloo: deviation from the mean of the others."""
    average: Literal["answers", "tokens", "constant"] = "answers"
    """Mean over each answer's tokens, then over answers (grpo); over all tokens (dapo); or the sum over tokens divided
    by answers · max_new_tokens (dr_grpo)."""
    clip: float = Field(default=0.2, gt=0)
    """Policy ratio is clipped to 1 − clip from below."""
    clip_high: float | None = Field(default=None, gt=0)
    """... and to 1 + this from above; default: the same. Yu et al. 2025 (DAPO) use 0.28."""
    kl: float = Field(default=0.0, ge=0)
    """Weight of the KL to the reference in the loss."""
    kl_corrected: bool = False
    """Multiply the KL of a token by the policy ratio, which makes its gradient that of the KL itself (DeepSeek-V3.2,
    2025); default: the gradient of the estimate, as GRPO has it."""
    kl_stop: float | None = Field(default=None, gt=0)
    """Stop with an error when the mean KL per answer (nats) passes this: the policy has left the reference."""


class BestOf(Strict):
    """Draws several answers to each prompt and keeps the best (best-of-n), or those that are good enough (rejection
    sampling), as conversations that a later stage trains on: `data: <this stage's name>`."""

    kind: Literal["best_of"]
    name: str | None = None
    """The stage's name in folders and reports, and as `data` of later stages; default: its kind."""
    init: str | None = None
    """Name of the stage whose model writes the answers; default: the last one."""
    prompts: str
    """Name of the source, or of the stage that makes data, whose prompts are answered."""
    rewards: dict[str, float]
    """Rewards with their weights, as in grpo."""
    samples: int = Field(default=8, ge=1)
    """Answers drawn for each prompt."""
    keep: int = Field(default=1, ge=1)
    """Most answers kept for each prompt, the best first; equal texts count once."""
    min_score: float | None = None
    """Keep only answers with at least this score; default: the best, whatever it is."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature."""
    max_new_tokens: int = Field(default=128, ge=1)
    """Longest answer."""
