"""The words everyone uses. One type per arrow: file -> Row -> Example -> Tokens -> Batch -> Sample.

Shape legend, in the last part of every tensor's name:
`T` tokens of a batch · `M` predictions · `B` rows · `V` vocabulary · `D` width · `H` heads · `P` pairs ·
`G` samples of one prompt · `N` sequences · `L` padded length · `K` keys. No suffix: a scalar, or no tensor.

`origin` is where a thing came from, for a person to open: "faq.csv:17", "handbook/leave.md".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Row:
    """One raw record as its file held it, before anyone decided what it means."""

    fields: Mapping[str, Any]
    origin: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `role` is one of `ROLES`."""

    role: str
    content: str


def last_user(messages: Sequence[Message]) -> str:
    """What the user said last; "" where none did."""
    return next((message.content for message in reversed(messages) if message.role == "user"), "")


@dataclass(frozen=True, slots=True)
class Text:
    """A document to pretrain on, or to measure loss on."""

    text: str
    origin: str
    meta: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation. For supervised tuning the last message is the assistant's; as a prompt, it is not.

    `accept` holds strings of which a right answer contains at least one (empty: nothing to check against);
    `meta` is whatever else the row said (a category, an id), kept for reports and raters.
    """

    messages: tuple[Message, ...]
    origin: str
    accept: tuple[str, ...] = ()
    meta: Mapping[str, Any] | None = None

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The messages up to and without a final assistant turn."""
        return self.messages[:-1] if self.messages and self.messages[-1].role == "assistant" else self.messages

    @property
    def answer(self) -> str | None:
        """The final assistant turn's text, if there is one."""
        return self.messages[-1].content if self.messages and self.messages[-1].role == "assistant" else None


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt, of which `chosen` was preferred."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    origin: str
    meta: Mapping[str, Any] | None = None
    margin: float | None = None
    """By how much `chosen` was preferred, on a scale of the raters' own; at least 0."""
    agreement: float | None = None
    """Share of the raters that preferred `chosen`, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """One answer to a prompt, marked good or bad by itself."""

    prompt: tuple[Message, ...]
    answer: str
    good: bool
    origin: str
    meta: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """A multiple-choice item: `options[gold]` is the right continuation of `context`."""

    context: str
    options: tuple[str, ...]
    gold: int
    origin: str


Example = Text | Chat | Pair | Labelled | Choice


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a row came from, and what may be done with it. None: nobody said."""

    source: str
    """Its name under `data` in the recipe."""
    licence: str | None = None
    """An SPDX id or expression, or LicenseRef-... for terms of one's own."""
    made: Literal["human", "machine"] | None = None
    """Who wrote the answer, or the text."""
    generator: str | None = None
    """The model that wrote it, if one did."""
    terms: str | None = None
    """The terms under which its generator's output may be used, in a few words or by name."""
    date: str | None = None
    """ISO 8601: when it was written."""
    steps: tuple[str, ...] = ()
    """What was done to it since, in order: "question from a heading", "paraphrase by qwen3-4b"."""


@dataclass(frozen=True, slots=True)
class Record:
    """An example on its way through curation, with what is known of it."""

    example: Example
    provenance: Provenance
    group: str
    """Rows of one group (a document, a thread, a customer) stay on one side of every split."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Name of a measure -> value."""
    out: str | None = None
    """Why it was left out; None: it is kept."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that could not be used, with the reason in words a user can act on."""

    origin: str
    reason: str
    aside: bool = False
    """Left out by design (chatter, a private note): nothing is wrong with it, `max_rejected` does not count it."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A token sequence with a weight per token (0: context only). `ids[0]` can never be predicted."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    origin: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion drawn from a model. `logps` are the model's log-probs (nats) of `ids`, one per token."""

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    logps: tuple[float, ...]
    text: str
    stopped: bool
    """True when an end token was sampled (it is the last of `ids`); False when the token limit cut it off."""


Rater = Callable[[Sequence[Message], str], float]
"""(prompt messages, answer) -> score, higher is better."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model, or someone's endpoint, said to one prompt."""

    text: str
    ended: bool = True
    """False: cut off at the token limit."""
    tokens: int | None = None
    """How many it wrote, where that is known."""
    seconds: float | None = None
    """How long the answer took by itself, where that is known."""
    prompt_tokens: int | None = None
    """How many it read, where that is known."""
    error: str | None = None
    """Why there is no answer (`text` is then empty); None: there is one."""


Ask = Callable[[Sequence[Sequence[Message]]], list[Reply]]
"""Prompts -> a reply to each, in order: a model here, or an endpoint elsewhere. A prompt that cannot be answered has
its reply's `error`; nothing raises because of one prompt."""
