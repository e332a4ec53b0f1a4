"""What every training stage may say: what is trained (all, some layers, an adapter), and how it is stepped."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from luthier.base.strict import Strict


class Lora(Strict):
    """Low-rank adapters on the linear layers; the base stays frozen. Hu et al. 2021."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(default=16, ge=1)
    """Rank of the update."""
    alpha: float = Field(default=32, gt=0)
    """The update is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""
    targets: Literal["all-linear"] | list[str] = "all-linear"
    """Names of the layers that get an adapter, or their ends: q_proj, mlp.down_proj."""
    rslora: bool = False
    """Scale by alpha / √rank instead, which keeps high ranks learning. Kalajdzievski 2023."""
    dora: bool = False
    """Learn each weight column's magnitude apart from its direction. Liu et al. 2024."""


class Ia3(Strict):
    """Learned factors on keys, values and the MLP's inner activations: the fewest weights. Liu et al. 2022."""

    kind: Literal["ia3"]
    targets: Literal["auto"] | list[str] = "auto"
    """Names of the layers that are scaled; auto: keys, values and the MLP's last projection."""
    feedforward: Literal["auto"] | list[str] = "auto"
    """Those of `targets` that are scaled at their input (the MLP's last projection), not at their output."""


class Bottleneck(Strict):
    """Small two-layer networks between the blocks' parts; the base stays frozen."""

    kind: Literal["bottleneck"]
    size: int = Field(default=64, ge=1)
    """Width of the bottleneck."""
    placement: Literal["houlsby", "pfeiffer"] = "houlsby"
    """houlsby: after attention and after the MLP (Houlsby et al. 2019); pfeiffer: after the MLP only (Pfeiffer et al.
    2020), half the weights."""
    activation: Literal["relu", "gelu", "silu"] = "gelu"
    """Between its two layers."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""


class PromptTuning(Strict):
    """Learned embeddings before every sequence. Lester et al. 2021."""

    kind: Literal["prompt"]
    tokens: int = Field(default=20, ge=1)
    """Virtual tokens."""
    start: str | None = None
    """A text whose embeddings they start from; default: embeddings of random tokens of the vocabulary."""


class PrefixTuning(Strict):
    """Learned keys and values before every sequence, in every layer. Li & Liang 2021."""

    kind: Literal["prefix"]
    tokens: int = Field(default=20, ge=1)
    """Virtual tokens."""
    projection: int | None = Field(default=None, ge=1)
    """Train them through an MLP of this width, which is dropped at the end; default: directly."""


class PTuning(Strict):
    """Learned embeddings before every sequence, made by a small encoder. Liu et al. 2021."""

    kind: Literal["p_tuning"]
    tokens: int = Field(default=20, ge=1)
    """Virtual tokens."""
    encoder: Literal["mlp", "lstm"] = "mlp"
    """What makes them."""
    width: int = Field(default=128, ge=1)
    """Inner width of the encoder."""


Adapter = Annotated[
    Lora | Ia3 | Bottleneck | PromptTuning | PrefixTuning | PTuning,
    Field(discriminator="kind"),
]
ADAPTERS: dict[str, type[BaseModel]] = {
    "lora": Lora,
    "ia3": Ia3,
    "bottleneck": Bottleneck,
    "prompt": PromptTuning,
    "prefix": PrefixTuning,
    "p_tuning": PTuning,
}


class Freeze(Strict):
    """Layers that stay as they are while the rest is trained."""

    first: int = Field(default=0, ge=0)
    """The first blocks."""
    last: int = Field(default=0, ge=0)
    """The last blocks."""
    embeddings: bool = False
    """The embeddings of tokens (and a head tied to them), and of positions where they are learned."""
    head: bool = False
    """The output head, where it has weights of its own."""
    pattern: list[str] = []
    """Regular expressions, searched for in parameter names: whatever matches is frozen."""


class Quantize(Strict):
    """Holds the frozen base in fewer bits while an adapter is trained (QLoRA, Dettmers et al. 2023). Needs
    bitsandbytes. A plain string in the recipe means `kind`."""

    kind: Literal["nf4", "int8"] = "nf4"
    """4-bit normal floats, or 8-bit integers."""
    double: bool = True
    """Quantise nf4's scales too: 0.4 bits a weight less."""


class Watchdog(Strict):
    """Looks at the training loss; when it runs away, goes back to the last good checkpoint, once or several times,
    each time at a lower learning rate; then stops."""

    window: int = Field(default=50, ge=5)
    """Steps whose losses say what is usual."""
    factor: float = Field(default=2.0, gt=1)
    """A mean loss over a fifth of the window above this many times the usual is a runaway."""
    rollbacks: int = Field(default=2, ge=0)
    """Times to go back before giving up."""
    slower: float = Field(default=0.5, gt=0, le=1)
    """Learning rate after going back, as a share of the one before."""


class Replay(Strict):
    """Mixes rows of another source into training, as a remedy against forgetting."""

    data: str
    """Name of a source under `data`, or of a stage that makes data."""
    share: float = Field(default=0.2, gt=0, lt=1)
    """Share of the trained tokens that come from it."""


class Training(Strict):
    """What every training stage has."""

    name: str | None = None
    """The stage's name in folders and reports; default: its kind."""
    init: str | None = None
    """Name of the earlier stage whose model to start from (base: the model of `base.model`); default: the last stage
    that made a language model."""
    seed: int | None = Field(default=None, ge=0)
    """Randomness of this stage; default: the recipe's seed and the stage's name. Stages with the same number see the
    same batches."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate."""
    optimizer: Literal["adamw", "adamw8bit", "adafactor", "lion", "muon"] = "adamw"
    """muon orthogonalises the updates of the blocks' matrices (the rest goes through AdamW, at the same rate): about
    half the tokens to the same loss when training from scratch; not for adapters. adamw8bit (needs bitsandbytes)
    holds its state in a quarter of the memory, adafactor in next to none, lion in half (at a tenth of AdamW's rate)."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """Shape after the warm-up; all but constant end at `final_lr_frac`. wsd: constant, then down over `decay_frac`."""
    decay_frac: float = Field(default=0.2, gt=0, le=1)
    """Share of the steps in which wsd goes down."""
    warmup_frac: float = Field(default=0.03, ge=0, le=1)
    """Share of the steps in which the learning rate rises from 0."""
    final_lr_frac: float = Field(default=0.0, ge=0, le=1)
    """Learning rate at the end, as a share of the peak."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled decay, on matrices only."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Moment decays of AdamW and Lion."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Each block's learning rate as a share of the one above it; the embeddings count as the lowest."""
    embedding_lr_frac: float = Field(default=1.0, gt=0)
    """The embeddings' learning rate as a share of the rest's."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Keep a moving average of the trained weights with this decay a step, and save that; default: the last weights."""
    neftune: float | None = Field(default=None, gt=0)
    """Noise on the input embeddings while training, of size this / √(tokens · width). Jain et al. 2023 use 5."""
    watchdog: Watchdog | None = None
    """Go back when the loss runs away; default: a finite loss is never interfered with."""
    clip_norm: float | None = Field(default=1.0, gt=0)
    """Largest norm of the gradient; null: no clipping."""
    microbatch_tokens: int | None = Field(default=None, ge=16)
    """Most tokens in one forward; a step is cut into as many as it needs. Default: 1024 on a CPU, 16384 on a GPU;
    halved as often as memory asks."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    adapter: Adapter | None = None
    """Train an adapter instead of all weights. A plain string means its kind; without a kind it is lora."""
    freeze: Freeze | None = None
    """Layers that are not trained; default: none."""
    quantize: Quantize | None = None
    """Hold the base in fewer bits under the adapter; default: full precision."""
    checkpoint_every_steps: int | None = Field(default=None, ge=1)
    """Steps between checkpoints; default: about every 30 seconds."""
    evaluate_every_steps: int | None = Field(default=None, ge=1)
    """Steps between looks at held-out loss and a sampled answer; default: a tenth of the steps."""


class Masking(Strict):
    """What masked language modelling hides. Devlin et al. 2019, §3.1."""

    share: float = Field(default=0.15, gt=0, lt=1)
    """Share of the tokens that are predicted."""
    mask: float = Field(default=0.8, ge=0, le=1)
    """Of those, the share shown as the mask token."""
    random: float = Field(default=0.1, ge=0, le=1)
    """Of those, the share shown as a random token; the rest stay as they are."""
    whole_words: bool = False
    """Hide all tokens of a word, or none: as near to the share as whole words come."""


class Budget(Strict):
    """Plans the run to end in time and to fit."""

    hours: float | None = Field(default=None, gt=0)
    """All stages together, with evaluation and saving; steps are cut to what the measured speed allows."""
    memory_gib: float | None = Field(default=None, gt=0)
    """Peak memory of the process; microbatches are cut to what fits."""
