"""Training rows and evaluation rows that are the same, or share runs of n words: one rule for both directions.

The n-gram rule is GPT-3's (Brown et al. 2020, appendix C; lm-evaluation-harness uses the same 13 words): text in lower
case without punctuation, and two rows are of one where they share a run of n words. Rows shorter than that are of one
where one is a whole text of the other. A long document shares a run with others by chance: there the share of its runs
decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from luthier.base.nouns import Chat, Choice, Example, Labelled, Pair, Text
from luthier.data.text import words_only

NGRAM = 13
DOCUMENT_SHARE = 0.5
"""Share of a document's runs that must stand in the other row."""
BOILERPLATE_ROWS = 10
"""A run that stands in more rows than this, and in more than a tenth of them, is their template and no content."""

Run = tuple[str, ...]


class Seen(NamedTuple):
    """A row that stands on the other side too."""

    origin: str
    how: str
    """exact: the whole row; ngram: n words in a row of it."""
    like: str
    """Origin of the row on the other side (the first that was found)."""
    words: str
    """What they share (the beginning of it)."""


class Known(NamedTuple):
    """Evaluation rows, ready to be recognised. Of the size of the rows."""

    rows: Sequence[Example]
    ngram: int
    whole: Mapping[str, Sequence[int]]
    """A whole text's words -> indices of the rows that are it."""
    runs: Mapping[Run, frozenset[int]]
    """n words -> indices of the rows that hold them; without the words of a template."""
    sizes: Sequence[int]
    """How many runs each row has."""


class Shared(NamedTuple):
    """What one training row shares with evaluation rows, by their index."""

    exact: list[int]
    runs: dict[int, list[Run]]
    size: int
    """Runs of n words in the training row, each as often as it stands there."""


def known(evaluation: Sequence[Example], ngram: int = NGRAM) -> Known:
    """The evaluation rows by their texts and their runs of n words."""
    whole: dict[str, list[int]] = {}
    own: list[set[Run]] = []
    for index, row in enumerate(evaluation):
        for text in measured_texts(row):
            if plain := words_only(text):
                whole.setdefault(plain, []).append(index)
        long = [*measured_texts(row), *reference_of(row)]
        own.append({run for text in long for run in ngrams(words_only(text).split(), ngram)})
    counts = Counter(run for mine in own for run in mine)
    common = {r for r, c in counts.items() if c > max(BOILERPLATE_ROWS, len(evaluation) / 10)}
    runs: dict[Run, set[int]] = {}
    for index, mine in enumerate(own):
        for run in mine - common:
            runs.setdefault(run, set()).add(index)
    frozen = {run: frozenset(rows) for run, rows in runs.items()}
    return Known(evaluation, ngram, whole, frozen, [len(mine - common) for mine in own])


def shared(row: Example, of: Known) -> Shared:
    """What a training row shares with the evaluation rows."""
    exact: dict[int, None] = {}
    runs: dict[int, dict[Run, None]] = {}
    size = 0
    for text in trained_texts(row):
        plain = words_only(text)
        for index in of.whole.get(plain, ()):
            exact[index] = None
        if of.runs:
            words = plain.split()
            size += max(0, len(words) - of.ngram + 1)
            for run in ngrams(words, of.ngram, of.runs):
                for index in of.runs[run]:
                    runs.setdefault(index, {})[run] = None
    return Shared(list(exact), {index: list(mine) for index, mine in runs.items()}, size)


def contaminated(training: Sequence[Example], evaluation: Sequence[Example], ngram: int = NGRAM) -> dict[int, Seen]:
    """Index of a training row -> what it shares with which evaluation row, for those that share anything that counts.

    A run of n words is enough, but where the evaluation row is a document: there more than half of its runs must stand
    in the training row, or more than half of the training row's in it (a page cut into pieces).
    """
    of, found = known(evaluation, ngram), {}
    for index, row in enumerate(training):
        same = shared(row, of)
        if same.exact:
            measured = evaluation[same.exact[0]]
            found[index] = Seen(row.origin, "exact", measured.origin, beginning(measured))
            continue
        for other, runs in same.runs.items():
            if enough(evaluation[other], len(runs), of.sizes[other]) or len(runs) > DOCUMENT_SHARE * same.size:
                found[index] = Seen(row.origin, "ngram", evaluation[other].origin, " ".join(runs[0]))
                break
    return found


def enough(row: Example, hits: int, runs: int) -> bool:
    """Whether so many of an evaluation row's runs make it seen: one is enough, but for a document."""
    return hits > DOCUMENT_SHARE * runs if isinstance(row, Text) else hits > 0


def beginning(row: Example) -> str:
    """The first words of what an evaluation row is known by."""
    return " ".join(measured_texts(row)[0].split()[:20])


def ngrams(words: Sequence[str], n: int, among: Mapping[Run, object] | None = None) -> Iterator[Run]:
    """Every run of n words; only those that are `among` others, where given."""
    for at in range(len(words) - n + 1):
        run = tuple(words[at : at + n])
        if among is None or run in among:
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
