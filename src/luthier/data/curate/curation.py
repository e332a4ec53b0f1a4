"""Records in, the rows worth training on out: every step marks what it speaks against, and nothing is thrown away.

Each row that is left out says why in `out`: a reason of `REASONS`, a colon, and what is particular to the row. What is
wrong with a row is told before that it is a copy: so what stands for copies is one that nothing speaks against.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import numpy as np

from luthier.base.curation import Curate
from luthier.base.made import Wrote, wrote
from luthier.base.nouns import Choice, Example, Record
from luthier.data.curate.choose import choose
from luthier.data.curate.contamination import Seen, contaminated
from luthier.data.curate.copies import standing_for
from luthier.data.curate.engine import Engine, on_rows, started
from luthier.data.curate.groups import held_out, joined
from luthier.data.curate.limits import allowed
from luthier.data.curate.near import both, exact_clusters, near_clusters, near_vectors
from luthier.data.curate.parts import told
from luthier.data.curate.quality import flaws, quality, scores_of
from luthier.data.curate.questions import outvoted, same_question
from luthier.data.curate.stock import own_scores
from luthier.data.curate.style import consistency, style_of
from luthier.data.curate.vectors import Embed, tfidf
from luthier.data.dataset import content

REASONS = {
    "licence": "their licence forbids what the recipe asks for",
    "private": "they hold private things",
    "flawed": "something is plainly wrong with them",
    "other language": "they are in a language that the recipe does not want",
    "evaluated": "they share text with an evaluation set",
    "unsupported": "the documents do not say so",
    "contradicted": "most answers to the same question say something else",
    "duplicate": "exact copies of another row",
    "near duplicate": "nearly the same as another row",
    "low quality": "less quality than the recipe asks for",
    "machine-written": "more of them than the recipe allows",
    "not chosen": "nothing is wrong with them, others were chosen",
}
"""Why a row is left out, in the order in which it is looked for."""
STANDING: dict[Wrote, int] = {"human": 0, "unknown": 0, "quoted": 1, "machine": 2}
"""Of copies that nothing speaks against, one of the least number stays."""
LEAST_STYLE = 0.2
"""What a row's quality is multiplied by at least, however odd its style: a small source may have a style of its own."""
EXPLAINED = 120
"""Characters of a reason that are quoted from another row."""

Scoring = Callable[[Sequence[Example]], Sequence[float | None]]
"""Examples -> a number each, higher is better; None where none could be had."""
Doubting = Callable[[Sequence[Example]], Sequence[str | None]]
"""Examples -> what is wrong with each; None: nothing."""


class Told(NamedTuple):
    """What somebody who knows languages says of a row."""

    measures: dict[str, float]
    """Columns beside those of `quality.scores_of`."""
    foreign: str | None = None
    """The language it is in, where rows in it are left out."""


def any_row(example: Example) -> bool:
    """All rows."""
    return True


def nothing_told(example: Example) -> Told:
    """Nobody is asked."""
    return Told({})


@dataclass(frozen=True)
class Given:
    """What curation is handed from elsewhere."""

    evaluation: Sequence[Example] = ()
    """No kept row may share anything with these."""
    clean: Callable[[Example], Example] | None = None
    """Replaces private things, or counts them; None: nobody looks."""
    holds: Callable[[Example], bool] = any_row
    """Whether there is anything in a row for `clean`. Knows nothing but the row, and can be pickled."""
    words: Callable[[Example], Told] = nothing_told
    """What a row's words say besides. Knows nothing but the row, and can be pickled."""
    refused: Callable[[Example], str | None] = lambda example: None
    """What is private in a row, in words, where rows are left out for that."""
    doubts: Doubting | None = None
    """What documents say against an answer."""
    embed: Embed = tfidf
    """What stands for rows in the choice: vectors of length 1."""
    scores: Mapping[str, tuple[float, Scoring]] = field(default_factory=dict)
    """Further scores: (weight in the quality, how it is measured)."""
    forbidden: Callable[[Record], str | None] = lambda record: None
    """Why a row's licence forbids to keep it, where rows are left out for that."""
    read_as: Sequence[str] = ()
    """The name under the stage's `data` that each row was read by; none: as its provenance says."""
    seed: int = 0


@dataclass(frozen=True)
class Curation:
    """What became of the rows."""

    rows: list[Record]
    """All of them, in the order they were read, private things replaced, with scores; `out` says why one is left
    out."""
    kept: list[int]
    """Rows to train on, in the order they were chosen."""
    heldout: list[int]
    """Rows that training never sees; no group and no duplicate of theirs is among the kept."""
    clusters: list[int]
    """Index of the row that stands for each: itself where it has no duplicate."""
    vectors_ND: np.ndarray
    """What `Given.embed` makes of each row's words."""
    quality_N: np.ndarray
    seen: dict[int, Seen]
    """What rows share with evaluation sets."""
    flaws: dict[int, list[str]]
    """What is wrong with rows, whether they are left out for it or not."""

    @property
    def reasons(self) -> Counter[str]:
        """How many rows each reason left out."""
        return Counter(reason_of(row) for row in self.rows if row.out is not None)


def reason_of(row: Record) -> str:
    """The reason of `REASONS` that a row was left out for."""
    assert row.out is not None
    return row.out.partition(":")[0]


def curate(
    records: Sequence[Record], how: Curate, given: Given, tell: Callable[[str], None] = lambda text: None
) -> Curation:
    """Marks, splits and chooses. The same records, settings and seed give the same result."""
    with started(how.engine):
        rows, refused = without_private(records, given, how.engine)
        examples = [row.example for row in rows]
        looked = on_rows(partial(look_at, given.words), examples, how.engine)
    asked = same_question(examples)
    faults, owns = [one.flaws for one in looked], own_scores(examples, asked)
    scores = [one.measures | one.told.measures | own for one, own in zip(looked, owns, strict=True)]
    texts = [told(example) for example in examples]
    tell(f"{len(rows):,} rows: looking for duplicates")
    base_N = quality(scores)
    out: list[str | None] = [None] * len(rows)
    exact = exact_clusters(texts)
    for index, row in enumerate(rows):
        if out[index] is None and (why := given.forbidden(row)) is not None:
            out[index] = f"licence: {why}"
    mark(out, refused, "private")
    if how.flaws:
        mark(out, {i: found[0] for i, found in enumerate(faults) if found}, "flawed")
    mark(out, {i: one.told.foreign for i, one in enumerate(looked) if one.told.foreign is not None}, "other language")
    tell("looking for evaluation rows")
    seen = contaminated(examples, given.evaluation, how.ngram) if given.evaluation else {}
    mark(out, {i: f"{one.how} with {one.like} ({clip(one.words)})" for i, one in seen.items()}, "evaluated")
    if given.doubts is not None:
        tell("holding answers against the documents")
        left = [i for i, why in enumerate(out) if why is None]
        found = given.doubts([examples[i] for i in left])
        mark(out, {i: why for i, why in zip(left, found, strict=True) if why is not None}, "unsupported")
    if how.conflicts:
        voters = {exact[i]: i for i in reversed(range(len(rows))) if out[i] is None}  # a copy has no vote
        said = outvoted(examples, sorted(voters.values()))
        same = {exact[i]: f"most say {clip(most)}" for i, most in said.items()}
        mark(out, {i: same[cluster] for i, cluster in enumerate(exact) if cluster in same}, "contradicted")
    vectors_ND = given.embed(texts)
    clusters = mark_duplicates(rows, texts, how, exact, vectors_ND, base_N, out)
    quality_N = scored(examples, scores, base_N, out, given)
    if how.style == "consistent":
        style_N = np.maximum(consistency(style_of(examples)), LEAST_STYLE)
        quality_N = quality_N * style_N
        for measured, value in zip(scores, style_N.tolist(), strict=True):
            measured["style"] = round(value, 4)
    if how.min_quality is not None:
        low = {i: f"{value:.2f}" for i, value in enumerate(quality_N) if value < how.min_quality}
        mark(out, low, "low quality")
    groups = joined(joined([row.group for row in rows], clusters), asked)
    sides = [held_out(group, how.heldout) for group in groups]
    heldout = [i for i, side in enumerate(sides) if side and out[i] is None]
    fit = [i for i, side in enumerate(sides) if not side and out[i] is None]
    tell(f"{len(fit):,} rows fit for training, {len(heldout):,} held out")
    kept = chosen(rows, fit, vectors_ND, quality_N, how, out, given)
    done = [
        replace(row, scores=scores[i] | {"quality": round(float(quality_N[i]), 4)}, out=out[i], group=groups[i])
        for i, row in enumerate(rows)
    ]
    wrong = {i: found for i, found in enumerate(faults) if found}
    return Curation(done, kept, heldout, clusters, vectors_ND, quality_N, seen, wrong)


class Looked(NamedTuple):
    """What a row alone says of itself."""

    flaws: list[str]
    measures: dict[str, float]
    told: Told


def look_at(words: Callable[[Example], Told], example: Example) -> Looked:
    """All that needs no other row, in one go."""
    return Looked(flaws(example), scores_of(example), words(example))


def without_private(
    records: Sequence[Record], given: Given, engine: Engine = "process"
) -> tuple[list[Record], dict[int, str]]:
    """(the records as `clean` leaves them, why some are refused by their index). Rows are looked through wherever
    `engine` works; placeholders are numbered here, in the rows' order."""
    rows, refused = list(records), dict[int, str]()
    if given.clean is None:
        return rows, refused
    holding = on_rows(given.holds, [record.example for record in records], engine)
    for i, record in enumerate(records):
        if holding[i]:
            if (why := given.refused(record.example)) is not None:
                refused[i] = why
            rows[i] = cleaned(record, given.clean)
    return rows, refused


def cleaned(record: Record, clean: Callable[[Example], Example]) -> Record:
    """A record without private things, also in what its row and its group said; one that had some says so in its
    steps."""
    example = clean(record.example)
    if example == record.example:
        return record
    steps = (*record.provenance.steps, "private things replaced")
    group = record.group.replace(together(record.example), together(example))
    return replace(record, example=example, provenance=replace(record.provenance, steps=steps), group=group)


def together(example: Example) -> str:
    """What `records.record_of` makes an example's group of: what its row named, else all that it says."""
    named = None if isinstance(example, Choice) else (example.meta or {}).get("group")
    return content(example) if named is None else str(named)


def mark(out: list[str | None], found: Mapping[int, str], reason: str) -> None:
    """Notes a reason on the rows that have none yet."""
    for index, what in found.items():
        if out[index] is None:
            out[index] = f"{reason}: {what}"


def clip(text: str) -> str:
    """A text on one line, shortened."""
    flat = " ".join(text.split())
    return flat if len(flat) <= EXPLAINED else f"{flat[:EXPLAINED].rstrip()} …"


def mark_duplicates(
    rows: Sequence[Record],
    texts: Sequence[str],
    how: Curate,
    exact: Sequence[int],
    vectors_ND: np.ndarray,
    quality_N: np.ndarray,
    out: list[str | None],
) -> list[int]:
    """Marks all but the best row of each cluster; returns the row that stands for each. The best is one that nothing
    speaks against, was written by a person rather than quoted by rules or written by a machine (STANDING), and has the
    most quality, in this order. A row that speaks of another name or number than the best is no duplicate of it,
    however alike they are: questions from one template are not."""

    def standing(i: int) -> tuple[bool, int, float, int]:
        return out[i] is not None, STANDING[wrote(rows[i].provenance)], -float(quality_N[i]), i

    stands = list(range(len(rows)))
    near = exact if how.near is None else near_clusters(texts, how.near)
    cosine = how.near_meaning if how.embeddings is not None else None
    members: dict[int, list[int]] = defaultdict(list)
    for index, cluster in enumerate(near if cosine is None else both(near, near_vectors(vectors_ND, cosine))):
        members[cluster].append(index)

    def like(i: int, best: int) -> bool:
        """Whether two rows are near each other themselves, and not only by what lies between them."""
        return near[i] == near[best] or (cosine is not None and float(vectors_ND[i] @ vectors_ND[best]) >= cosine)

    for some in members.values():
        for index, best in standing_for(sorted(some, key=standing), texts, exact, like).items():
            stands[index] = best
            kind = "duplicate" if exact[index] == exact[best] else "near duplicate"
            words = "" if near[index] == near[best] else ", in other words"
            mark(out, {index: f"of {rows[best].example.origin}{words}"}, kind)
    return stands


def scored(
    examples: Sequence[Example],
    scores: Sequence[dict[str, float]],
    base_N: np.ndarray,
    out: Sequence[str | None],
    given: Given,
) -> np.ndarray:
    """The quality with the further scores, each by its rank among the rows that are left (0 to 1), weighted; a row
    without such a score is in its middle. Writes the scores into `scores`."""
    total_N, weights = base_N.astype(np.float64), 1.0
    left = [i for i, why in enumerate(out) if why is None]
    for name, (weight, measure) in given.scores.items():
        found = measure([examples[i] for i in left])
        known = {i: float(value) for i, value in zip(left, found, strict=True) if value is not None}
        order = sorted(set(known.values()))
        rank = {value: k / max(1, len(order) - 1) for k, value in enumerate(order)}
        total_N = total_N + weight * np.array([rank[known[i]] if i in known else 0.5 for i in range(len(examples))])
        weights += weight
        for i, value in known.items():
            scores[i][name] = round(value, 4)
    return total_N / weights


def chosen(
    rows: Sequence[Record],
    fit: Sequence[int],
    vectors_ND: np.ndarray,
    quality_N: np.ndarray,
    how: Curate,
    out: list[str | None],
    given: Given,
) -> list[int]:
    """The rows to train on, in the order they were chosen; the others of `fit` are marked. All of them, in their own
    order, where that is allowed."""
    at_N = np.asarray(fit, dtype=np.int64)
    written_N = np.array([by_model(rows[i]) for i in fit], dtype=bool)
    names = [given.read_as[i] if given.read_as else rows[i].provenance.source for i in fit]
    total = len(fit) if how.keep is None else how.keep
    while True:  # once; again where kinds that overlap were in each other's way
        total, limits = allowed(names, written_N, total, how.at_least, how.at_most, how.max_generated)
        if total == len(fit):
            return list(fit)
        picked = choose(
            vectors_ND[at_N], quality_N[at_N], total, how.how, better=how.better, limits=limits, seed=given.seed
        )
        if len(picked) == total:
            break
        total = len(picked)
    kept = [fit[k] for k in picked]
    left_N = np.ones(len(fit), dtype=bool)
    left_N[picked] = False
    caps = [] if how.max_generated is None else [("machine-written", percent(how.max_generated))]
    caps += [("not chosen", f"{percent(how.at_most.get(one.name, 1.0))} of {one.name}") for one in limits[len(caps) :]]
    for limit, (reason, share) in zip(limits, caps, strict=True):
        if limit.most is not None and limit.members_N[picked].sum() >= limit.most:
            over = at_N[left_N & limit.members_N].tolist()
            mark(out, dict.fromkeys(over, f"the recipe allows {share}"), reason)
    mark(out, {i: f"quality {quality_N[i]:.2f}" for i in at_N[left_N].tolist()}, "not chosen")
    return kept


def percent(share: float) -> str:
    """0.125 as 12.5%."""
    return f"{100 * share:g}%"


def by_model(row: Record) -> bool:
    """Whether a model wrote the row's answer. What rules quoted is a person's text under a question of a template."""
    return wrote(row.provenance) == "machine"
