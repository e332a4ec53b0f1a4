"""Which evaluation rows a model may have seen while it was trained: whole, or in runs of n words.

The n-gram rule is GPT-3's (Brown et al. 2020, appendix C; lm-evaluation-harness uses the same 13 words): text in lower
case without punctuation, and a row counts as seen where one of its runs of n words stands in the training text. Rows
shorter than that are seen where one is a whole training text. A long document shares a run with others by chance:
there the share of its runs decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from luthier.base.nouns import Chat, Choice, Example, Labelled, Pair, Text
from luthier.evals.values import folded

NGRAM = 13
DOCUMENT_SHARE = 0.5
"""Share of a document's runs that must stand in the training text."""
BOILERPLATE_ROWS = 10
"""A run that stands in more rows than this, and in more than a tenth of them, is their template and no content."""


class Seen(NamedTuple):
    """An evaluation row that stands in the training data."""

    origin: str
    how: str
    """exact: the whole row; ngram: n words in a row of it."""
    like: str
    """Origin of the first training row it was found in."""
    words: str
    """What they share (the beginning of it)."""


class Overlap(NamedTuple):
    """What was found."""

    rows: int
    """Evaluation rows looked at."""
    training_rows: int
    seen: tuple[Seen, ...]
    """In the order of the evaluation rows, each once."""

    @property
    def origins(self) -> frozenset[str]:
        return frozenset(row.origin for row in self.seen)


def overlap(evaluation: Sequence[Example], training: Iterable[Example], ngram: int = NGRAM) -> Overlap:
    """The evaluation rows that stand in the training rows. Reads the training rows once; what is remembered is of the
    size of the evaluation rows."""
    whole: dict[str, list[int]] = {}
    runs: dict[tuple[str, ...], set[int]] = {}
    sizes: list[set[tuple[str, ...]]] = []
    for index, row in enumerate(evaluation):
        for text in measured_texts(row):
            if plain := folded(text):
                whole.setdefault(plain, []).append(index)
        long = [*measured_texts(row), *reference_of(row)]
        sizes.append({run for text in long for run in ngrams(folded(text).split(), ngram)})
    counts = Counter(run for mine in sizes for run in mine)
    common = {r for r, c in counts.items() if c > max(BOILERPLATE_ROWS, len(evaluation) / 10)}
    for index, mine in enumerate(sizes):
        for run in mine - common:
            runs.setdefault(run, set()).add(index)
    exact: dict[int, str] = {}
    hits: dict[int, dict[tuple[str, ...], str]] = {}
    looked = 0
    for row in training:
        looked += 1
        for text in trained_texts(row):
            plain = folded(text)
            for index in whole.get(plain, ()):
                exact.setdefault(index, row.origin)
            for run in ngrams(plain.split(), ngram, runs) if runs else ():
                for index in runs[run]:
                    hits.setdefault(index, {}).setdefault(run, row.origin)
    found = []
    for index, row in enumerate(evaluation):
        if index in exact:
            found.append(Seen(row.origin, "exact", exact[index], " ".join(measured_texts(row)[0].split()[:20])))
        elif index in hits and enough(row, len(hits[index]), len(sizes[index] - common)):
            run, where = next(iter(hits[index].items()))
            found.append(Seen(row.origin, "ngram", where, " ".join(run)))
    return Overlap(len(evaluation), looked, tuple(found))


def enough(row: Example, hits: int, runs: int) -> bool:
    """Whether so many of a row's runs make it seen: one is enough, but for a document."""
    return hits > DOCUMENT_SHARE * runs if isinstance(row, Text) else hits > 0


def ngrams(
    words: Sequence[str], n: int, known: dict[tuple[str, ...], set[int]] | None = None
) -> Iterator[tuple[str, ...]]:
    """Every run of n words; of `known` runs only, where given."""
    for at in range(len(words) - n + 1):
        run = tuple(words[at : at + n])
        if known is None or run in known:
            yield run


def measured_texts(row: Example) -> list[str]:
    """What an evaluation row is known by: its question in every wording, a choice with its right option, a document
    whole."""
    match row:
        case Text(text):
            return [text]
        case Choice(context, options, gold):
            return [f"{context} {options[gold]}", *([context] if context.rstrip().endswith("?") else [])]
        case Chat():
            others = (row.meta or {}).get("paraphrases")
            wordings = [text for text in others if isinstance(text, str)] if isinstance(others, list) else []
            return [*([row.prompt[-1].content] if row.prompt else []), *wordings]
        case Pair(prompt) | Labelled(prompt):
            return [prompt[-1].content]


def reference_of(row: Example) -> list[str]:
    """Its right answer: a short one is said everywhere, so only its runs of words count."""
    return [row.answer] if isinstance(row, Chat) and row.answer is not None else []


def trained_texts(row: Example) -> list[str]:
    """The texts of a training row: each turn by itself, and a question with its answer."""
    match row:
        case Text(text):
            return [text]
        case Choice(context, options, gold):
            return [context, f"{context} {options[gold]}"]
        case Chat(messages):
            turns = [message.content for message in messages if message.role != "system"]
        case Pair(prompt, chosen, rejected):
            turns = [*(message.content for message in prompt), chosen, rejected]
        case Labelled(prompt, answer):
            turns = [*(message.content for message in prompt), answer]
    return [*turns, *(f"{a} {b}" for a, b in pairwise(turns))]
