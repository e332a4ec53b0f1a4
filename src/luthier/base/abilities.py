"""Probes of what a model is able to, beside being right: to answer at all, to know without being asked, to say the same
twice, to keep to its source."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from luthier.base.strict import Strict


class AlignmentProbe(Strict):
    """Answers behave as answers, whatever they say: they stop, answer instead of going on, do not loop, are not empty,
    have the format asked for. The share of answers that do all of it, and each part."""

    kind: Literal["alignment"]
    data: str
    """Name of a source of conversations; their prompts are answered."""
    after: list[str] | None = None
    max_new_tokens: int = Field(default=128, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    regex: str | None = None
    """A regular expression that a whole answer must match, such as `[A-D]`."""
    json_schema: str | None = None
    """A file with the JSON schema that an answer must fit."""
    limit: int | None = Field(default=None, ge=1)
    ngram: int = Field(default=13, ge=4)
    exclude_contaminated: bool = False


class ClozeProbe(Strict):
    """Facts without instructions: the model continues a plain statement, and the right value must come in its first
    sentence. The share right, and the mean log-prob of the value."""

    kind: Literal["cloze"]
    data: str
    """Name of a source of prompts with a column `accept`: {"prompt": "The Altair is built in", "accept": ["Basel"]}."""
    after: list[str] | None = None
    max_new_tokens: int = Field(default=16, ge=1)
    limit: int | None = Field(default=None, ge=1)
    ngram: int = Field(default=13, ge=4)
    exclude_contaminated: bool = False


class ConsistencyProbe(Strict):
    """The same question in other words, and asked again: the share of pairs of answers that say the same."""

    kind: Literal["consistency"]
    data: str
    """Name of a source of conversations. Columns: `paraphrases` (a list of other wordings of the question), `accept`
    (what a right answer contains) and `candidates` (other values that an answer could give); all may be absent."""
    after: list[str] | None = None
    samples: int = Field(default=1, ge=1)
    """Answers to each wording; more than one are drawn at `temperature`."""
    temperature: float = Field(default=0.0, ge=0)
    threshold: float = Field(default=0.7, gt=0, le=1)
    """Answers that give no known value agree when their words' F1 is at least this."""
    paraphraser: str | None = None
    """Who writes the paraphrases of rows that have none: a stage's model, base, or one at an endpoint
    (https://host/v1#model); default: nobody."""
    paraphrases: int = Field(default=3, ge=1)
    """How many it is asked for; of those that a row has, all are used."""
    max_new_tokens: int = Field(default=64, ge=1)
    limit: int | None = Field(default=None, ge=1)
    ngram: int = Field(default=13, ge=4)
    exclude_contaminated: bool = False


class HallucinationProbe(Strict):
    """Answers keep to their source: the share of answers without a claim that the source does not hold, the share of
    claims that it holds, and how often an unanswerable question is answered."""

    kind: Literal["hallucination"]
    data: str
    """Name of a source of conversations. Columns: `source` or `document` (a text, or a list of them), `unanswerable`
    (true where the right answer is that it is not known)."""
    after: list[str] | None = None
    documents: str | None = None
    """Name of a source of documents: the passages nearest to the question and the answer are the source of rows that
    have none of their own."""
    passages: int = Field(default=5, ge=1)
    """How many of them."""
    least_share: float = Field(default=0.6, ge=0, le=1)
    """Share of a claim's words that one place of the source must hold."""
    judge: str | None = None
    """Who decides instead: a function (claim, source) -> 0 to 1 such as an NLI model, as `path/file.py:name` or
    `package.module:name` (from 0.5 on a claim is supported), or a model at an endpoint, https://host/v1#model."""
    max_new_tokens: int = Field(default=128, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    limit: int | None = Field(default=None, ge=1)
    ngram: int = Field(default=13, ge=4)
    exclude_contaminated: bool = False


Ability = AlignmentProbe | ClozeProbe | ConsistencyProbe | HallucinationProbe
"""All of them ask a model that writes."""


def is_endpoint(name: str) -> bool:
    """Whether a name is the address of a model elsewhere."""
    return re.match(r"https?:", name) is not None


def check_ability(probe: Ability) -> Iterator[tuple[str, str]]:
    """(setting, what is wrong with it) of a probe by itself."""
    if isinstance(probe, ConsistencyProbe) and probe.samples > 1 and not probe.temperature:
        yield "samples", f"is {probe.samples}, and at temperature 0 all are the same. Give temperature, such as 0.7."
    if isinstance(probe, ConsistencyProbe) and probe.paraphraser is None and "paraphrases" in probe.model_fields_set:
        yield "paraphrases", "is how many a model writes, and none is named. Give paraphraser, or remove it."
    if isinstance(probe, HallucinationProbe) and probe.documents is None and "passages" in probe.model_fields_set:
        yield "passages", "is how many are looked up, and no documents are named. Give documents, or remove it."
    if isinstance(probe, AlignmentProbe) and probe.regex is not None:
        try:
            re.compile(probe.regex)
        except re.error as error:
            yield "regex", f"is no regular expression: {error}."
