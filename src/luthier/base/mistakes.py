"""What counts as a mistake, and the probe that looks for them. The thresholds are the recipe's."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from luthier.base.made import no_such_source
from luthier.base.strict import Strict

Category = Literal[
    "unsafe",
    "wrong_value",
    "unsupported_claim",
    "off_topic",
    "refused",
    "wrong_language",
    "wrong_format",
    "cut_off",
    "repetitive",
    "too_long",
    "misspelling",
]

CATEGORY_WORDS = {
    "unsafe": "Unsafe",
    "wrong_value": "Wrong value",
    "unsupported_claim": "Unsupported claim",
    "off_topic": "Off topic",
    "refused": "Refused",
    "wrong_language": "Wrong language",
    "wrong_format": "Wrong format",
    "cut_off": "Cut off",
    "repetitive": "Repetitive",
    "too_long": "Too long",
    "misspelling": "Misspelt",
    "any": "Any mistake",
    "right": "Right value",
}
"""The categories as people read them, the gravest first; then answers with one at least, and those that are right."""


def _compiles(pattern: str) -> str:
    """The pattern, if it is one."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f'"{pattern}" is no regular expression: {error}') from None
    return pattern


Pattern = Annotated[str, AfterValidator(_compiles)]


class Judging(Strict):
    """When an answer counts as which mistake. The same rules judge a model's answers and the rows it was trained on."""

    categories: list[Category] | None = None
    """Mistakes to look for; default: all. wrong_language needs the extra `eval` and is left out, with a note, where
    that is not installed."""
    dictionary: str = "en"
    """Language of the spelling dictionary (pyspellchecker's: en de es fr it pt nl ru lv eu)."""
    words: list[str] = []
    """More words that are spelt right: products, people, terms."""
    words_file: str | None = None
    """A text file of such words, one a line, relative to the recipe."""
    names_from: list[str] = []
    """Sources of documents whose names (words with a capital within a sentence) are spelt right; of data that a stage
    makes, the documents it is made of. Only documents: answers that are trained on would vouch for their own
    misspellings."""
    strict_spelling: bool = False
    """Also count words that the dictionary lacks and that are a letter off none that it has. Most of them are new or
    rare, not wrong."""
    max_words: int = Field(default=250, ge=1)
    """An answer of more words is too long."""
    times_reference: float | None = Field(default=4.0, gt=1)
    """So is one that is this many times as long as the reference answer, if it has more than 30 words."""
    loop_times: int = Field(default=3, ge=2)
    """A phrase said so often in a row is a loop."""
    loop_words: int = Field(default=6, ge=2)
    """A loop covers at least so many words ("no, no, no" is none)."""
    repeat_frac: float = Field(default=0.4, gt=0, le=1)
    """An answer of which so large a share of the words stands in 5-grams that were said before is repetitive."""
    pattern: Pattern | None = None
    """A regular expression that a whole answer must match."""
    json_schema: dict[str, Any] | str | None = None
    """A JSON schema (or the path of one, relative to the recipe) that an answer, read as JSON, must hold to."""
    language: str | None = None
    """Language of the answers, as two letters; default: that of each prompt."""
    language_sure_frac: float = Field(default=0.8, gt=0, le=1)
    """Another language counts only if the detector is so sure of it."""
    unsafe: list[Pattern] = []
    """Regular expressions of what must not be said (any case), beside the few that come with luthier."""
    unsafe_defaults: bool = True
    """Use those that come with luthier: threats, self-harm urged, steps to a weapon or a theft, contempt of a group,
    keys and cards' numbers. They catch words, not meaning."""
    refusals: list[Pattern] = []
    """More ways in which an answer declines, as regular expressions (any case)."""
    source: str = "source"
    """Column with the document that an answer must keep to; rows without it are not judged for unsupported claims."""


class MistakesProbe(Strict):
    """Answers prompts and says, category by category, what is wrong with the answers."""

    kind: Literal["mistakes"]
    data: str
    """Name of a source of conversations; `accept`, a reference answer and a `source` column are used where there are
    any."""
    after: list[str] | None = None
    """Names of the stages after which to measure; default: base and every language model."""
    max_new_tokens: int = Field(default=128, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    """0 is greedy."""
    samples: int = Field(default=1, ge=1)
    """Answers to each prompt; more than one needs a temperature above 0."""
    limit: int | None = Field(default=None, ge=1)
    ngram: int = Field(default=13, ge=4)
    exclude_contaminated: bool = False
    worst: int = Field(default=24, ge=0)
    """Worst examples that the report shows."""
    judging: Judging = Judging()
    """When an answer counts as which mistake."""


def mistakes_problems(
    probe: MistakesProbe, sources: Collection[str], made: Sequence[str]
) -> Iterator[tuple[tuple[str, ...], str]]:
    """(setting within the probe, what is wrong with it) where its settings contradict each other or the recipe."""
    if probe.samples > 1 and not probe.temperature:
        yield ("samples",), f"is {probe.samples}, and at temperature 0 they would all be the same. Raise temperature."
    for name in probe.judging.names_from:
        if name not in sources and name not in made:
            yield ("judging", "names_from"), no_such_source(name, sources, made)
