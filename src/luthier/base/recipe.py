"""The recipe: what a user may write, and nothing else. The docstring under a field is its help text everywhere.

Absent is None; `auto` values are filled before step 0 by the stage that owns them, and the result is saved.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    """A frozen record in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Fresh(Strict):
    """A new Llama-shaped model with random weights, and a tokenizer trained on the first pretraining data."""

    layers: int = Field(default=4, ge=1)
    """Transformer blocks."""
    width: int = Field(default=128, ge=8)
    """Hidden size D."""
    heads: int = Field(default=4, ge=1)
    """Attention heads; must divide the width."""
    kv_heads: int | None = None
    """Key/value heads (grouped-query attention); default: as many as heads."""
    ffn: int | None = None
    """Inner size of the gated MLP; default: 8/3 of the width, rounded up to a multiple of 16."""
    vocab: int = Field(default=1024, ge=300)
    """Size of the byte-level BPE vocabulary, special tokens included."""
    context: int = Field(default=512, ge=16)
    """Longest sequence in tokens."""
    tie_embeddings: bool = True
    """Use the input embedding as the output head too."""


class Base(Strict):
    """The model to start from: exactly one of `model` and `fresh`. A plain string in the recipe means `model`."""

    model: str | None = None
    """A local folder in the Hugging Face layout, or a hub id."""
    fresh: Fresh | None = None
    """Start from random weights instead."""
    revision: str | None = None
    """Hub revision."""
    allow_pickle: bool = False
    """Load pickled weights (pytorch_model.bin), which can run code. Prefer safetensors."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    chat_template: str | None = None
    """Path of a Jinja chat template that replaces the model's own; default: its own, or ChatML if it has none."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic: auto is bfloat16 autocast on a GPU that has it, float32 on a CPU."""


class Source(Strict):
    """A place data comes from. A plain string in the recipe means `path`."""

    path: str
    """A file or a folder, relative to the recipe: .jsonl .json .csv .tsv .parquet .txt .md, also .gz."""
    format: Literal[
        "auto", "text", "messages", "sharegpt", "alpaca", "prompt_completion", "qa", "pairs", "hh", "choices"
    ] = "auto"
    """Shape of the rows; auto looks at the first ones and says what it found."""
    columns: dict[str, str] = {}
    """Renames columns before the format is read: {question: body, answer: reply}."""
    roles: dict[str, str] = {}
    """Maps the file's role names to system|user|assistant|tool: {bot: assistant}."""
    system: str | None = None
    """A system message put before every conversation that has none."""
    heldout: float = Field(default=0.05, ge=0, lt=1)
    """Share of rows kept out of training, chosen by a hash of their content."""
    split_by: Literal["row", "origin"] = "row"
    """row: each row is held out or not by itself; origin: all rows of one file stay together."""
    limit: int | None = Field(default=None, ge=1)
    """Use only the first rows in the file's order (after the format was read)."""
    separator: str | None = None
    """For .txt files: the string between documents; default: one document a file."""
    max_rejected: float = Field(default=0.1, ge=0, le=1)
    """Stop when a larger share of the rows than this cannot be used."""


class Lora(Strict):
    """Low-rank adapters on the linear layers; the base stays frozen. Hu et al. 2021."""

    rank: int = Field(default=16, ge=1)
    """Rank of the update."""
    alpha: float = Field(default=32, gt=0)
    """The update is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""
    targets: Literal["all-linear"] | list[str] = "all-linear"
    """Names of the modules that get an adapter."""


class Replay(Strict):
    """Mixes rows of another source into training, as a remedy against forgetting."""

    data: str
    """Name of a source under `data`."""
    share: float = Field(default=0.2, gt=0, lt=1)
    """Share of the trained tokens that come from it."""


class Training(Strict):
    """What every training stage has."""

    name: str | None = None
    """The stage's name in folders and reports; default: its kind."""
    init: str | None = None
    """Name of the earlier stage whose model to start from; default: the last stage that made a language model."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon orthogonalises the updates of the blocks' matrices (the rest goes through AdamW, at the same rate): about
    half the tokens to the same loss when training from scratch; not for adapters."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape after the warm-up; cosine and linear end at `final_lr_frac`."""
    warmup_frac: float = Field(default=0.03, ge=0, le=1)
    """Share of the steps in which the learning rate rises from 0."""
    final_lr_frac: float = Field(default=0.0, ge=0, le=1)
    """Learning rate at the end, as a share of the peak."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled decay, on matrices only."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's moment decays."""
    clip_norm: float | None = Field(default=1.0, gt=0)
    """Largest norm of the gradient; null: no clipping."""
    microbatch_tokens: int | None = Field(default=None, ge=16)
    """Most tokens in one forward; a step is cut into as many as it needs. Default: 8192 (CPU) or what fits (GPU)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    adapter: Lora | None = None
    """Train an adapter instead of all weights."""
    checkpoint_every_steps: int | None = Field(default=None, ge=1)
    """Steps between checkpoints; default: about every 30 seconds."""
    evaluate_every_steps: int | None = Field(default=None, ge=1)
    """Steps between looks at held-out loss and a sampled answer; default: a tenth of the steps."""


class Supervised(Training):
    """What every stage that reads a data set has."""

    data: str | dict[str, float]
    """Name of a source under `data`, or several with weights."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the training rows. Give epochs or steps; default: one epoch."""
    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps."""
    batch_tokens: int = Field(default=4096, ge=16)
    """Tokens in one optimizer step."""
    max_length: int | None = Field(default=None, ge=8)
    """Longest sequence in tokens; default: the model's context."""
    overlong: Literal["error", "drop", "truncate", "split"] = "error"
    """Rows longer than max_length: refuse to start, leave out, cut (supervised tokens are lost), or cut into
    several (documents only)."""


class Pretrain(Supervised):
    """Causal language modelling on documents (from scratch, or continued on a knowledge base)."""

    kind: Literal["pretrain"]
    overlong: Literal["error", "drop", "truncate", "split"] = "split"
    replay: Replay | None = None
    """Mix in another source."""


class Sft(Supervised):
    """Supervised tuning on conversations."""

    kind: Literal["sft"]
    train_on: Literal["last", "answers", "all"] = "answers"
    """Which tokens carry loss: the last answer, every assistant turn, or everything."""
    replay: Replay | None = None
    """Mix in another source (documents or conversations)."""


class Prefer(Strict):
    """Gathers preference pairs: a scripted rater compares the model's own samples, or a file of pairs is read."""

    kind: Literal["prefer"]
    name: str | None = None
    init: str | None = None
    """Name of the stage whose model writes the answers; default: the last one."""
    pairs: str | None = None
    """Name of a source of ready pairs under `data`; nothing is sampled then."""
    prompts: str | None = None
    """Name of a source of conversations whose prompts are answered."""
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
    """Name of a `prefer` stage, or of a source of pairs; default: the last prefer stage."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the training pairs."""
    batch_pairs: int = Field(default=32, ge=1)
    """Pairs in one optimizer step."""
    max_length: int | None = Field(default=None, ge=8)
    overlong: Literal["error", "drop"] = "error"
    min_accuracy: float | None = None
    """Stop the run when the reward model's held-out accuracy is below this."""


class Ppo(Training):
    """Proximal policy optimisation against a reward model, with a KL penalty to the model it started from."""

    kind: Literal["ppo"]
    reward: str | None = None
    """Name of the reward stage; default: the last one."""
    prompts: str
    """Name of the source whose prompts are answered."""
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


Stage = Annotated[Pretrain | Sft | Prefer | Reward | Ppo, Field(discriminator="kind")]


class ChoicesProbe(Strict):
    """Multiple choice by log-likelihood."""

    kind: Literal["choices"]
    data: str
    """Name of a source of choices."""
    after: list[str] | None = None
    """Names of the stages after which to measure; default: base and every language model."""
    normalise: Literal["none", "tokens", "bytes"] = "none"
    """Compare summed log-probs, or per token, or per byte."""
    joint: str = ""
    """Put between the context and every option, such as a line end and "Answer: "."""
    limit: int | None = Field(default=None, ge=1)


class AnswersProbe(Strict):
    """Generated answers contain the right value (`accept`)."""

    kind: Literal["answers"]
    data: str
    """Name of a source of conversations with `accept` (or a reference answer)."""
    after: list[str] | None = None
    max_new_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    """0 is greedy."""
    limit: int | None = Field(default=None, ge=1)


class LossProbe(Strict):
    """Held-out loss in nats per token, and its rise since the stage that trained on it (forgetting)."""

    kind: Literal["loss"]
    data: str
    """Name of a source; its held-out rows are measured."""
    after: list[str] | None = None
    since: str | None = None
    """Stage against which a rise is forgetting; default: the base."""
    heldout_only: bool = True
    """False: all rows of the source (for data that is never trained on)."""
    max_length: int | None = Field(default=None, ge=8)
    """Cut documents to this many tokens."""
    limit: int | None = Field(default=None, ge=1)


class WinRateProbe(Strict):
    """A rater compares answers of two stages' models to the same prompts; ties count half."""

    kind: Literal["win_rate"]
    data: str
    """Name of a source of conversations."""
    stages: tuple[str, str]
    """[new, old]."""
    rater: str
    """`path/file.py:name` or `package.module:name`."""
    max_new_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=1.0, ge=0)
    limit: int | None = Field(default=None, ge=1)


Probe = Annotated[ChoicesProbe | AnswersProbe | LossProbe | WinRateProbe, Field(discriminator="kind")]


class Recipe(Strict):
    """A whole run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run and of its folder."""
    base: Base
    """What to start from."""
    data: dict[str, Source] = {}
    """Sources by name."""
    stages: list[Stage] = []
    """What to do, in order."""
    evaluate: dict[str, Probe] = {}
    """What to measure, by the name it gets under `metrics`."""
    seed: int = Field(default=0, ge=0)
    """All randomness is a function of this, a purpose and a counter."""
    out: str = "runs"
    """Folder that holds the run's folder, relative to where the command is run."""
    samples: int = Field(default=8, ge=0)
    """Held-out prompts whose answers are shown before and after each stage in the report."""
    answer_tokens: int = Field(default=64, ge=1)
    """Longest answer shown there."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; default: all cores. Part of what makes two runs bit-identical."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
