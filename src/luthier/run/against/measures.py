"""The measures of `luthier compare A B`: what answers to the same prompts are worth, item by item and as a whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from luthier.base.errors import UserError
from luthier.base.nouns import Chat, Reply
from luthier.base.values import contains
from luthier.evals.formats import Check
from luthier.evals.intervals import Figure, wilson
from luthier.evals.paired import Score, chance, difference, figure_of, holm, items_needed, ratio, rows_of_mean
from luthier.evals.wording import corpus_score, exact_match, rouge_l, token_f1
from luthier.run.subjects import Nats

Kind = Literal["share", "points", "perplexity", "count"]
REAL = 0.05
"""A difference is real below this p."""


@dataclass(frozen=True)
class Measure:
    """One way to look at answers."""

    key: str
    title: str
    kind: Kind
    higher: bool | None
    """Whether more is better; None: neither."""
    items: list[int]
    """Which items it is measured on."""
    stats: dict[str, np.ndarray]
    """By subject, [N, F] over those items."""
    score: Score
    each: dict[str, np.ndarray]
    """By subject, each item's own value: to find items by."""
    scale: float = 1.0
    """What a score is multiplied by where it is shown."""
    note: str = ""


@dataclass(frozen=True)
class Difference:
    """B less A by one measure."""

    measure: str
    a: str
    b: str
    figure: Figure
    chance: float
    """p of the paired randomisation test."""
    adjusted: float
    """The same, after Holm's correction over the tests that it stands among."""
    primary: bool
    unit: str
    words: str

    @property
    def real(self) -> bool:
        """Whether it is more than chance, by test and interval."""
        return self.adjusted < REAL and (self.figure.low > 0 or self.figure.high < 0)


def golds_of(chat: Chat) -> list[str]:
    """What counts as a right answer, whole: the reference, and every accepted value."""
    return [*([chat.answer] if chat.answer is not None else []), *chat.accept]


def measures_of(
    chats: Sequence[Chat],
    answers: Mapping[str, Sequence[Reply]],
    nats: Mapping[str, Sequence[Nats | None]],
    form: Check | None,
) -> tuple[list[Measure], list[str]]:
    """(what can be measured on these items, what cannot and why). The first is the primary one."""
    said = {label: [reply.text for reply in replies] for label, replies in answers.items()}
    accepted = [k for k, chat in enumerate(chats) if chat.accept]
    golden = [k for k, chat in enumerate(chats) if golds_of(chat)]
    referenced = [k for k, chat in enumerate(chats) if chat.answer is not None]
    found, notes = [], []

    def mean(key: str, title: str, kind: Kind, higher: bool | None, items: list[int], value: Any) -> None:
        if items:
            each = {s: np.array([float(value(t[k], chats[k])) for k in items]) for s, t in said.items()}
            stats = {s: rows_of_mean(values) for s, values in each.items()}
            scale = 1.0 if kind == "count" else 100.0
            found.append(Measure(key, title, kind, higher, items, stats, ratio, each, scale))

    mean("right", "right answers", "share", True, accepted, lambda text, chat: contains(text, chat.accept))
    if form is not None:
        everything = list(range(len(chats)))
        mean("format", "right form", "share", True, everything, lambda text, chat: form(text) is None)
    against = "" if referenced else " with an accepted value"
    mean("f1", f"F1 of words{against}", "points", True, golden, lambda text, chat: token_f1(text, golds_of(chat)))
    mean("exact", "exact match", "share", True, golden, lambda text, chat: exact_match(text, golds_of(chat)))
    mean("rouge_l", "ROUGE-L", "points", True, referenced, lambda text, chat: rouge_l(text, chat.answer or ""))
    if referenced:
        try:
            found += [
                corpus(key, title, chats, said, referenced) for key, title in (("bleu", "BLEU"), ("chrf", "chrF"))
            ]
        except UserError as error:
            notes += error.problems
    if known := [k for k in referenced if nats and all(each[k] is not None for each in nats.values())]:
        found.append(perplexity(chats, nats, known))
    mean("words", "words", "count", None, list(range(len(chats))), lambda text, chat: len(text.split()))
    return found, notes


def corpus(key: str, title: str, chats: Sequence[Chat], said: Mapping[str, Sequence[str]], items: list[int]) -> Measure:
    """BLEU or chrF: a score of the corpus, not a mean of its items."""
    references = [chats[k].answer or "" for k in items]
    made = {label: corpus_score(key, [texts[k] for k in items], references) for label, texts in said.items()}
    one = next(iter(made.values()))
    stats, each = ({s: m.stats_NF for s, m in made.items()}, {s: m.each_N for s, m in made.items()})
    return Measure(key, title, "points", True, items, stats, one.score, each, note=f"sacrebleu {one.signature}")


def perplexity(chats: Sequence[Chat], nats: Mapping[str, Sequence[Nats | None]], items: list[int]) -> Measure:
    """Of the reference answers: exp(Σ nats / Σ tokens). Where subjects cut text into other tokens, perplexities do not
    compare, and differences are told by the byte."""
    stats, each, sizes = {}, {}, [len((chats[k].answer or "").encode()) for k in items]
    for label, found in nats.items():
        rows = [row for k in items if (row := found[k]) is not None]
        stats[label] = np.array([[n.nats, n.tokens, size] for n, size in zip(rows, sizes, strict=True)], dtype=float)
        each[label] = stats[label][:, 0] / stats[label][:, 1]
    title = "perplexity of the reference"
    return Measure(
        "perplexity", title, "perplexity", False, items, stats, lambda s: math.exp(min(700.0, s[0] / s[1])), each
    )


def figures_of(measure: Measure, seed: int) -> dict[str, Figure]:
    """Every subject's figure, as it is shown."""
    found = {}
    for label, stats_NF in measure.stats.items():
        if measure.kind == "share":
            f = wilson(float(stats_NF[:, 0].sum()), len(stats_NF))
        else:
            f = figure_of(stats_NF, measure.score, seed)
        found[label] = scaled(f, measure.scale)
    return found


def scaled(f: Figure, by: float) -> Figure:
    """A figure in other units."""
    return Figure(f.value * by, f.low * by, f.high * by, f.n)


def differences_of(measures: Sequence[Measure], labels: Sequence[str], seed: int) -> list[Difference]:
    """Every later subject less the first, by every measure. The primary measure's tests are corrected among themselves
    (one with two subjects: not at all), all others together."""
    found: list[tuple[Measure, str, Figure, float, str]] = []
    for measure in measures:
        for label in labels[1:]:
            if labels[0] in measure.stats and label in measure.stats:
                a_NF, b_NF = measure.stats[labels[0]], measure.stats[label]
                score, scale, unit = gap_score(measure, a_NF, b_NF)
                gap = scaled(difference(a_NF, b_NF, score, seed), scale)
                found.append((measure, label, gap, chance(a_NF, b_NF, score, seed), unit))
    primary = measures[0].key if measures else ""
    adjusted: list[float] = [0.0] * len(found)
    for first in (True, False):
        among = [k for k, (measure, *_) in enumerate(found) if (measure.key == primary) == first]
        for k, p in zip(among, holm([found[k][3] for k in among]), strict=True):
            adjusted[k] = p
    made = []
    for (measure, label, gap, p, unit), corrected in zip(found, adjusted, strict=True):
        one = Difference(measure.key, labels[0], label, gap, p, corrected, measure.key == primary, unit, "")
        made.append(replace(one, words=in_words(measure, one)))
    return made


def gap_score(measure: Measure, a_NF: np.ndarray, b_NF: np.ndarray) -> tuple[Score, float, str]:
    """(score whose difference is told, what it is multiplied by, its unit)."""
    if measure.kind != "perplexity":
        return measure.score, measure.scale, "words" if measure.kind == "count" else "points"
    if (a_NF[:, 1] == b_NF[:, 1]).all():
        return ratio, 1.0, "nats a token"
    return (lambda s: float(s[0] / s[2])), 1 / math.log(2), "bits a byte"


VERBS = {"right": "answers right", "exact": "matches exactly", "format": "keeps the form"}


def in_words(measure: Measure, found: Difference) -> str:
    """'B answers right 4.2 points more often than A [1.1, 7.3] (n = 200): the difference is real (p = 0.004).'"""
    f, digits = found.figure, 1 if found.unit in ("points", "words") else 3
    size = f"{abs(f.value):.{digits}f} {found.unit}"
    low, high = (-f.high, -f.low) if measure.kind == "perplexity" else (f.low, f.high)  # more likely is up
    ends = f"[{low:+.{digits}f}, {high:+.{digits}f}] (n = {f.n:,})".replace("-", "−")
    if f.low == f.high == 0:
        return f"{found.b} and {found.a} are even by {measure.title} on each of {f.n:,} questions."
    if f.value == 0:
        return f"{found.b} and {found.a} are even by {measure.title} {ends}."
    more = "more" if f.value > 0 else "less"
    if measure.key in VERBS:
        said = f"{found.b} {VERBS[measure.key]} {size} {more} often than {found.a} {ends}"
    elif measure.kind == "perplexity":
        likely = "less" if f.value > 0 else "more"
        said = f"{found.b} finds the reference answers {likely} likely than {found.a} does, by {size} {ends}"
    elif measure.kind == "count":
        said = f"{found.b} writes {size} {'more' if f.value > 0 else 'fewer'} than {found.a} {ends}"
    else:
        said = f"{found.b}'s {measure.title} is {size} {'higher' if f.value > 0 else 'lower'} than {found.a}'s {ends}"
    return f"{said}: {verdict(found)}"


def verdict(found: Difference) -> str:
    """Whether it is real, in words."""
    p = f"p = {found.adjusted:.3f}" if found.adjusted >= 0.0005 else "p < 0.001"
    if found.real:
        return f"the difference is real ({p})."
    needed = items_needed(found.figure)
    more = f"; about {rounded(needed):,} items would tell" if needed and needed > found.figure.n else ""
    return f"that may be chance ({p}){more}."


def rounded(count: int) -> int:
    """Two digits are all that such an estimate is worth."""
    return int(float(f"{count:.1e}"))
