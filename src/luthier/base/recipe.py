"""The recipe: what a user may write, and nothing else. The docstring under a field is its help text everywhere.

Absent is None; `auto` values are filled before step 0 by the stage that owns them, and the result is saved.
What all training stages share is in `tuning.py`, the probes are in `probes.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from luthier.base.alignment import BestOf, Dpo, Grpo, Kto, Orpo, Ppo, Prefer, Reward, Simpo
from luthier.base.benchmarks import Benchmarks
from luthier.base.curation import Curate
from luthier.base.curves import LearningCurve
from luthier.base.licences import LicencePolicy
from luthier.base.probes import Probe
from luthier.base.source import Source
from luthier.base.strict import Strict
from luthier.base.synthesis import Synthesise
from luthier.base.tuning import Budget, Masking, Replay, Training


class Fresh(Strict):
    """A new model with random weights, and a tokenizer trained on the first pretraining data."""

    shape: Literal["decoder", "encoder"] = "decoder"
    """decoder: Llama-shaped, writes text. encoder: BERT-shaped, for masked language modelling."""

    layers: int = Field(default=4, ge=1)
    """Transformer blocks."""
    width: int = Field(default=128, ge=8)
    """Hidden size D."""
    heads: int = Field(default=4, ge=1)
    """Attention heads; must divide the width."""
    kv_heads: int | None = None
    """Key/value heads of a decoder (grouped-query attention); default: as many as heads."""
    ffn: int | None = None
    """Inner size of the MLP; default: 8/3 of the width, rounded up to a multiple of 16, for a decoder's, which is
    gated; 4 widths for an encoder's."""
    vocab: int = Field(default=1024, ge=300)
    """Size of the byte-level BPE vocabulary, special tokens included."""
    context: int = Field(default=512, ge=16)
    """Longest sequence in tokens."""
    tie_embeddings: bool = True
    """Use the input embedding as the output head too."""


class Base(Strict):
    """The model to start from: exactly one of `model` and `fresh`. A plain string in the recipe means `model`. A
    run that only makes data needs none."""

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


class Supervised(Training):
    """What every stage that reads a data set has."""

    data: str | dict[str, float]
    """Name of a source under `data`, or of a stage that makes data; or several with weights."""
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
    """Language modelling on documents (from scratch, or continued on a knowledge base)."""

    kind: Literal["pretrain"]
    objective: Literal["causal", "masked"] = "causal"
    """causal: predict the next token. masked: predict hidden ones, for encoders (BERT, RoBERTa, ModernBERT)."""
    masking: Masking = Masking()
    """What a masked objective hides."""
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


Stage = Annotated[
    Pretrain | Sft | Prefer | Reward | Ppo | Dpo | Orpo | Simpo | Kto | Grpo | BestOf | Synthesise | Curate,
    Field(discriminator="kind"),
]


class Recipe(Strict):
    """A whole run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run and of its folder."""
    base: Base = Base()
    """What to start from; not needed where no stage and no probe asks for a model."""
    data: dict[str, Source] = {}
    """Sources by name."""
    stages: list[Stage] = []
    """What to do, in order."""
    evaluate: dict[str, Probe] = {}
    """What to measure, by the name it gets under `metrics`. A probe's `data` is a source, or what a stage makes, of
    which the held-out rows are measured."""
    benchmarks: Benchmarks | None = None
    """Public benchmarks, or your own, before and after each stage."""
    learning_curve: LearningCurve | None = None
    """Also train a stage on parts of its data, and forecast what more of it would buy."""
    licences: LicencePolicy | None = None
    """Which licences and terms the rows may have that are trained on; default: any."""
    seed: int = Field(default=0, ge=0)
    """All randomness is a function of this, a purpose and a counter."""
    out: str = "runs"
    """Folder that holds the run's folder, relative to where the command is run."""
    samples: int = Field(default=8, ge=0)
    """Held-out prompts whose answers are shown before and after each stage in the report; where stages make data before
    tuning begins, of that, and from then on."""
    answer_tokens: int = Field(default=64, ge=1)
    """Longest answer shown there."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; default: all cores. Part of what makes two runs bit-identical."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    budget: Budget | None = None
    """Plan to end in time; default: the steps that the stages ask for."""
    shards: str = "shards"
    """Where streamed sources are kept as tokens: a folder (relative to `out`), or an fsspec URL such as s3://…"""
    export: list[Literal["gguf-f32", "gguf-f16", "gguf-q8_0", "gguf-q4_0"]] = []
    """Also write the last model as GGUF (for llama.cpp and Ollama); what cannot be is told before training. The Hugging
    Face folder is always made."""
    track: list[Literal["tensorboard", "wandb", "trackio", "mlflow"]] = []
    """Trackers that get the run's figures too; each is an extra. A tracker that fails is told of, and never stops
    the run."""
