"""The report's words: what a stage does, what a figure means, what a curve is called, and the colours of stages."""

from __future__ import annotations

PREFERRING = ("reward", "dpo", "orpo", "simpo", "kto")
"""Stages that measure themselves on held-out preferences."""
SHARES = frozenset({"choices", "answers", "reward", "win_rate", "fill_mask"})
SHARES |= {"alignment", "cloze", "consistency", "hallucination"}
"""Kinds of figures that lie in 0..1."""
COLOURS = {"base": "--grey", "pretrain": "--blue", "sft": "--green", "prefer": "--gold", "reward": "--plum"}
COLOURS |= dict.fromkeys(("ppo", "dpo", "orpo", "simpo", "kto", "grpo"), "--red") | dict.fromkeys(
    ("best_of", "curate"), "--gold"
)
COLOURS |= {"synthesise": "--plum"}
WORK = {
    "pretrain": "learns to continue documents",
    "masked": "learns to fill in hidden words",
    "sft": "learns to answer",
    "prefer": "answers are compared",
    "reward": "learns what is preferred",
    "ppo": "is moved towards what is preferred",
    "dpo": "learns from pairs which answer is preferred",
    "orpo": "learns answers and which is preferred at once",
    "simpo": "learns from pairs which answer is preferred",
    "kto": "learns from answers marked good or bad",
    "grpo": "learns from its own answers which are rewarded",
    "best_of": "its best answers are kept",
    "curate": "the rows worth training on are chosen",
    "synthesise": "rows are made",
}
PAIRS = (
    "Held-out preference pairs: how often the model's implicit reward is higher for the preferred answer, beside a "
    "baseline that only looks at length. Gains are in nats an answer, over the model it started from."
)
MEANING = {
    "choices": "Multiple choice: the share of questions whose right option the model finds most likely. Nothing is "
    "written.",
    "answers": "The model writes an answer to a held-out question; the share of answers that contain the right value.",
    "reward": "Held-out preference pairs: how often the reward model scores the preferred answer higher, beside a "
    "baseline that only looks at length.",
    **dict.fromkeys(("dpo", "orpo", "simpo"), PAIRS),
    "kto": "Held-out answers marked good or bad: how often a good one gained more, over the model it started from, "
    "than answers to other prompts did, and a bad one less. Gains and KL are in nats an answer.",
    "best_of": "Rewards of the answers drawn: the mean of all, the best to each prompt, by how much that is better, "
    "and the share of prompts of which an answer was kept.",
    "curate": "How near the rows that nothing speaks against are to a kept one (cosine, in the mean): to "
    "those that were chosen, and to as many drawn at random from all rows.",
    "win_rate": "Two models answer the same prompts and a rater or a judge prefers one; ties count half, 50 % is a "
    "draw.",
    "benchmark": "A benchmark's own items and score, as `luthier eval` measures them.",
    "loss": "Change of the loss on held-out text, in nats per token: right of zero the model has forgotten, left of it "
    "learned.",
    "fill_mask": "One place at a time is hidden in held-out text: how often the truth is the likeliest filling, and "
    "how often it is among the five likeliest.",
    "alignment": "Answers to held-out questions, right or wrong: the share that stop, answer instead of going on, do "
    "not loop, are not empty and have the format asked for.",
    "cloze": "A statement is continued as plain text: the share whose first sentence holds the right value.",
    "consistency": "The same question in other words, or once more: the share of pairs of answers that say the same.",
    "hallucination": "Answers held against their source: the share in which every claim is supported; of unanswerable "
    "questions, that were not answered.",
    "pseudo_perplexity": "Each token of held-out text is hidden in turn: exp of the mean −log p of the truth, lower is "
    "better.",
}
OWN_UNITS = {"reward": "In the reward model's own unit."}
"""What figures that are no shares are measured in, of stages that measure themselves on held-out preferences."""
NATS_AND_BETA = "Gains in nats an answer, over the model it started from; the margin in implicit reward."
OTHER_MEANING = "Measured on data that was not trained on."
PLUMBING = frozenset({"step", "steps", "t", "tokens", "seconds"})
"""Numbers of step events that say where a step is, not how it went."""
TITLES = {
    "accuracy": ("Accuracy", "pairs ranked as labelled"),
    "reward": ("Reward", "mean score of an answer"),
    "reward_std": ("Spread of rewards", "standard deviation within a group"),
    "no_spread_frac": ("Groups without spread", "share of prompts: they teach nothing"),
    "kl": ("KL to the reference", "nats an answer"),
    "entropy": ("Entropy", "nats a token"),
    "answer_tokens": ("Answer length", "tokens"),
    "clip_frac": ("Clipped", "share of tokens"),
    "ended_frac": ("Ended", "share of answers"),
    "kl_coefficient": ("KL coefficient", ""),
    "step_kl": ("KL of one update", "nats a token"),
    "value_loss": ("Value loss", ""),
    "policy_loss": ("Policy loss", ""),
    "loss": ("Loss", ""),
    "lr": ("Learning rate", ""),
    "grad_norm": ("Gradient norm", "before clipping"),
    "margin": ("Margin", "preferred − other"),
    "chosen_gain": ("Preferred answers", "nats over the reference"),
    "rejected_gain": ("Other answers", "nats over the reference"),
    "good_gain": ("Good answers", "nats over the reference"),
    "bad_gain": ("Bad answers", "nats over the reference"),
    "sampler_drift": ("Sampler − trainer", "nats, largest"),
}
LARGE = {"reward": ("loss", "accuracy"), "ppo": ("reward", "kl"), "grpo": ("reward", "kl")}
LARGE |= dict.fromkeys(("dpo", "orpo", "simpo", "kto"), ("loss", "accuracy"))
"""Which curves of a kind of stage are drawn large; of other kinds, the loss."""


def pretty(name: str) -> str:
    """A key as words: 'by_length' is 'by length'."""
    return name.replace("_", " ")
