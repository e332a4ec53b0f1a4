"""What `evaluate:` may hold: the probes, each a way to measure a model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from luthier.base.abilities import AlignmentProbe, ClozeProbe, ConsistencyProbe, HallucinationProbe
from luthier.base.mistakes import MistakesProbe
from luthier.base.rubric import Rubric
from luthier.base.strict import Strict


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
    ngram: int = Field(default=13, ge=4)
    """A row counts as seen in training when it shares so many words in a row with the training data; how many were is
    told."""
    exclude_contaminated: bool = False
    """Leave such rows out of the figure (both figures are shown). Default: they stay in it."""


class AnswersProbe(Strict):
    """Generated answers contain the right value (`accept`)."""

    kind: Literal["answers"]
    data: str
    """Name of a source of conversations whose rows have `accept`."""
    after: list[str] | None = None
    max_new_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    """0 is greedy."""
    limit: int | None = Field(default=None, ge=1)
    ngram: int = Field(default=13, ge=4)
    exclude_contaminated: bool = False


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
    ngram: int = Field(default=13, ge=4)
    exclude_contaminated: bool = False


class WinRateProbe(Strict):
    """A rater or a judge compares answers of two stages' models to the same prompts; ties count half."""

    kind: Literal["win_rate"]
    data: str
    """Name of a source of conversations."""
    stages: tuple[str, str]
    """[new, old]."""
    rater: str | None = None
    """A program that scores an answer: `path/file.py:name` or `package.module:name`. Give it, or `judge`."""
    judge: str | None = None
    """A model that is shown both answers, in both orders: https://host/v1#model of an endpoint that speaks OpenAI's
    protocol, the name of a stage of this recipe, or base."""
    rubric: Rubric | str | None = None
    """What the judge looks for: settings, a YAML file (.yaml, relative to the recipe), or a sentence."""
    votes: str | None = None
    """A file of people's votes, relative to the recipe, which the judge is examined with before its verdict is used.
    Without it the judge is called unverified."""
    key_env: str | None = None
    """Environment variable that holds the endpoint's key; default: OPENAI_API_KEY at api.openai.com, LUTHIER_API_KEY
    elsewhere."""
    judge_tokens: int = Field(default=512, ge=1)
    """Longest reply of the judge; one that reasons needs room."""
    max_new_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=1.0, ge=0)
    limit: int | None = Field(default=None, ge=1)
    ngram: int = Field(default=13, ge=4)
    exclude_contaminated: bool = False


class FillMaskProbe(Strict):
    """Hides one place at a time in text: how often the truth is the likeliest filling of an encoder, and how often
    among the five likeliest."""

    kind: Literal["fill_mask"]
    data: str
    """Name of a source of documents; its held-out rows are measured."""
    after: list[str] | None = None
    hide: Literal["token", "word"] = "token"
    """token: one token a place; word: a whole word, which is right where each of its tokens is."""
    places: int = Field(default=500, ge=1)
    """How many, drawn over all rows by the seed."""
    heldout_only: bool = True
    max_length: int | None = Field(default=None, ge=8)
    """Cut documents to this many tokens; default: the model's context."""
    limit: int | None = Field(default=None, ge=1)
    ngram: int = Field(default=13, ge=4)
    exclude_contaminated: bool = False


class PseudoPerplexityProbe(Strict):
    """exp of an encoder's mean −log p of each token, when that token alone is hidden. Salazar et al. 2020."""

    kind: Literal["pseudo_perplexity"]
    data: str
    """Name of a source of documents; its held-out rows are measured."""
    after: list[str] | None = None
    heldout_only: bool = True
    max_length: int = Field(default=128, ge=8)
    """Cut documents to this many tokens: a row of n tokens is read n times."""
    limit: int | None = Field(default=100, ge=1)
    ngram: int = Field(default=13, ge=4)
    exclude_contaminated: bool = False


Probe = Annotated[
    ChoicesProbe
    | AnswersProbe
    | LossProbe
    | WinRateProbe
    | FillMaskProbe
    | PseudoPerplexityProbe
    | AlignmentProbe
    | ClozeProbe
    | ConsistencyProbe
    | HallucinationProbe
    | MistakesProbe,
    Field(discriminator="kind"),
]
