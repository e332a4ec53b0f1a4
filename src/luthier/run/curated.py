"""What is told of a curated data set: counts, coverage with its interval, distributions, a map.

Everything is computed here, once, and written as curation.json: a page needs neither the rows nor the vectors.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from luthier.base.curation import Curate
from luthier.base.made import wrote
from luthier.base.nouns import Record, Text
from luthier.base.spaced import spaced
from luthier.data.curate.choose import coverage
from luthier.data.curate.curation import REASONS, Curation, reason_of
from luthier.data.curate.licences import refusals, verdict
from luthier.data.curate.parts import parts_of, told
from luthier.data.curate.topic_map import map_of, region_words
from luthier.evals.intervals import bootstrap_mean, paired_bootstrap

MAPPED = 2500
"""Rows on the map."""
COMPARED = 4000
"""Rows over which coverage is measured."""
DRAWS = 8
"""Random choices that the chosen rows are compared with."""
BARS = 24
CLUSTERS, MEMBERS = 12, 6
FIRST, LISTED, CHARACTERS = 8, 25, 400
QUOTING = "rules that quote people"
DETAILED = ("flawed", "other language", "not chosen")
"""Reasons that are counted by what they say in particular."""
STATES = ("out", "not chosen", "held out", "kept")
"""What became of a row, as the map colours it."""


def figures_of(made: Curation, stage: Curate, seed: int) -> dict[str, Any]:
    """curation.json: everything the report says of the stage."""
    states = states_of(made)
    texts = [told(row.example) for row in made.rows]
    found, measured = covered(made, states, seed)
    return {
        "rows": len(made.rows),
        "kept": len(made.kept),
        "heldout": len(made.heldout),
        "keep": stage.keep,
        "how": stage.how,
        "embeddings": stage.embeddings,
        "reasons": reasons_of(made),
        "sources": sources_of(made, states),
        "writers": writers_of(made, states),
        "lengths": lengths_of(texts, states),
        "scores": scores_of_rows(made, states),
        "map": mapped(made, texts, states, seed),
        "clusters": clusters_of(made),
        "flaws": flaws_of(made),
        "licences": licences_of(made, stage),
        "evaluated": [one._asdict() for one in list(made.seen.values())[:LISTED]],
        "evaluated_rows": len(made.seen),
        "groups": groups_of(made),
        "coverage": found,
        "first": [shown(made.rows[i]) for i in made.kept[:FIRST]],
        "metrics": measured,
    }


def states_of(made: Curation) -> np.ndarray:
    """What became of each row, as an index of STATES."""
    state_N = np.zeros(len(made.rows), dtype=np.int64)
    for i, row in enumerate(made.rows):
        if row.out is not None and reason_of(row) == "not chosen":
            state_N[i] = 1
    state_N[made.heldout] = 2
    state_N[made.kept] = 3
    return state_N


def reasons_of(made: Curation) -> list[dict[str, Any]]:
    """Why rows were left out: how many, what it means, the first of them in their own words."""
    found: dict[str, list[Record]] = defaultdict(list)
    for row in made.rows:
        if row.out is not None:
            found[reason_of(row)].append(row)
    return [
        {
            "reason": reason,
            "means": REASONS[reason],
            "rows": len(found[reason]),
            "details": Counter(details(found[reason])).most_common(6) if reason in DETAILED else [],
            "first": [shown(row) | {"why": (row.out or "").partition(": ")[2]} for row in spaced(found[reason], 4)],
        }
        for reason in REASONS
        if found[reason]
    ]


def details(rows: Sequence[Record]) -> list[str]:
    """Why rows were left out, without what differs from row to row: what is wrong with them, the language they are in,
    the share that is full."""
    said = [(row.out or "").partition(": ")[2].partition(":")[0] for row in rows]
    return [words for words in said if not words.startswith("quality ")]


def shown(row: Record) -> dict[str, Any]:
    """A row as the page shows it."""
    example = row.example
    parts = parts_of(example)
    question, answer = (parts.whole, "") if isinstance(example, Text) else (parts.prompt, parts.answer)
    return {
        "question": question[:CHARACTERS],
        "answer": answer[:CHARACTERS],
        "cut": max(0, len(question) - CHARACTERS) + max(0, len(answer) - CHARACTERS),
        "origin": example.origin,
        "source": row.provenance.source,
        "licence": row.provenance.licence or "",
        "made": writer_of(row),
        "quality": row.scores.get("quality"),
    }


def sources_of(made: Curation, state_N: np.ndarray) -> list[dict[str, Any]]:
    """Of each source how many rows were read, and what became of them."""
    found: dict[str, Counter[str]] = {}
    for row, state in zip(made.rows, state_N.tolist(), strict=True):
        found.setdefault(row.provenance.source, Counter())[STATES[state]] += 1
    return [{"name": name, "rows": counts.total(), **{s: counts[s] for s in STATES}} for name, counts in found.items()]


def writers_of(made: Curation, state_N: np.ndarray) -> dict[str, dict[str, int]]:
    """Who wrote the rows, before and after: human, machine, rules that quote, nobody said."""
    before, after = Counter[str](), Counter[str]()
    for row, state in zip(made.rows, state_N.tolist(), strict=True):
        who = writer_of(row) or "nobody said"
        before[who] += 1
        after[who] += state == 3
    return {"before": dict(before), "after": {who: after[who] for who in before}}


def writer_of(row: Record) -> str:
    """human, machine, rules that quote; empty: nobody said."""
    return {"quoted": QUOTING, "unknown": ""}.get(who := wrote(row.provenance), who)


def lengths_of(texts: Sequence[str], state_N: np.ndarray) -> dict[str, Any]:
    """How many rows have how many words, before and after, in bins of equal ratio."""
    words_N = np.array([max(1, len(text.split())) for text in texts])
    if not len(words_N):
        return {"edges": [], "before": [], "after": []}
    high = max(2.0, float(words_N.max()) + 1)
    edges = np.unique(np.round(np.geomspace(max(1, words_N.min()), high, BARS + 1)))
    before, _ = np.histogram(words_N, edges)
    after, _ = np.histogram(words_N[state_N == 3], edges)
    kept_N = words_N[state_N == 3]
    return {
        "edges": [float(edge) for edge in edges],
        "before": before.tolist(),
        "after": after.tolist(),
        "median_before": float(np.median(words_N)),
        "median_after": float(np.median(kept_N)) if len(kept_N) else None,
    }


def scores_of_rows(made: Curation, state_N: np.ndarray) -> list[dict[str, Any]]:
    """Each score's distribution over all rows and over the kept ones."""
    names = list(dict.fromkeys(name for row in made.rows for name in row.scores))
    names.sort(key=lambda name: name != "quality")
    found = []
    for name in names:
        value_N = np.array([row.scores.get(name, math.nan) for row in made.rows], dtype=np.float64)
        there = np.isfinite(value_N)
        if not there.any() or value_N[there].min() == value_N[there].max():
            continue
        low, high = np.quantile(value_N[there], [0.005, 0.995])
        low, high = (low, high) if high > low else (float(value_N[there].min()), float(value_N[there].max()))
        edges = np.linspace(low, high, BARS + 1)
        inside_N, kept = np.clip(value_N, low, high), there & (state_N == 3)
        before, _ = np.histogram(inside_N[there], edges)
        after, _ = np.histogram(inside_N[kept], edges)
        found.append(
            {
                "name": name,
                "low": float(low),
                "high": float(high),
                "before": before.tolist(),
                "after": after.tolist(),
                "median_before": float(np.median(value_N[there])),
                "median_after": float(np.median(value_N[kept])) if kept.any() else None,
                "known": int(there.sum()),
            }
        )
    return found


def mapped(made: Curation, texts: Sequence[str], state_N: np.ndarray, seed: int) -> dict[str, Any]:
    """Rows on a plane, alike beside alike, with what they are about: of many rows a sample, in which the kept ones have
    their share or a third, whatever is more."""
    if not len(texts):
        return {"points": [], "topics": []}
    found = map_of(made.vectors_ND, int(min(14, max(3, math.sqrt(len(texts) / 12)))), seed)
    count = len(found.middle_R2)
    names = region_words(texts, found.region_N, count)
    topics = []
    for region in range(count):
        mine = found.region_N == region
        x, y = (round(float(value), 3) for value in found.middle_R2[region])
        kept, fit = (int((mine & (state_N > least)).sum()) for least in (2, 0))
        topics.append({"name": names[region], "x": x, "y": y, "rows": int(mine.sum()), "fit": fit, "kept": kept})
    at_N = sample_of(state_N, np.random.default_rng(seed))
    points = [
        [round(float(x), 3), round(float(y), 3), int(state)]
        for (x, y), state in zip(found.place_N2[at_N].tolist(), state_N[at_N].tolist(), strict=True)
    ]
    return {"points": points, "topics": topics, "sampled": len(at_N) < len(texts)}


def sample_of(state_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Indices of the rows on the map, in order."""
    every_N = np.arange(len(state_N))
    if len(every_N) <= MAPPED:
        return every_N
    kept_N, rest_N = every_N[state_N == 3], every_N[state_N != 3]
    share = max(len(kept_N) / len(every_N), 1 / 3)
    few = min(len(kept_N), int(share * MAPPED))
    picked = [rng.choice(kept_N, few, replace=False), rng.choice(rest_N, min(len(rest_N), MAPPED - few), replace=False)]
    return np.sort(np.concatenate(picked))


def clusters_of(made: Curation) -> dict[str, Any]:
    """Rows that are the same or nearly: how many, and the largest clusters with their members."""
    members: dict[int, list[int]] = defaultdict(list)
    for index, stands in enumerate(made.clusters):
        if index != stands:
            members[stands].append(index)
    largest = sorted(members, key=lambda stands: (-len(members[stands]), stands))
    return {
        "count": len(members),
        "rows": sum(len(found) for found in members.values()),
        "largest": [
            {
                "stands": shown(made.rows[stands]),
                "size": 1 + len(members[stands]),
                "others": [
                    shown(made.rows[i]) | {"why": (made.rows[i].out or "").partition(":")[0]}
                    for i in members[stands][:MEMBERS]
                ],
            }
            for stands in largest[:CLUSTERS]
        ],
    }


def flaws_of(made: Curation) -> list[list[Any]]:
    """What is wrong with rows, and how many have it, whatever they were left out for."""
    counts = Counter(flaw.partition(":")[0] for found in made.flaws.values() for flaw in found)
    return [[flaw, count] for flaw, count in counts.most_common(12)]


def licences_of(made: Curation, stage: Curate) -> dict[str, Any]:
    """What may be done with the rows that stay, in words, and what the policy says to it."""
    rows = [made.rows[i].provenance for i in (*made.kept, *made.heldout)]
    found = verdict(rows, stage.licences.cleared)
    return {
        "sentences": list(found.sentences),
        "duties": list(found.duties),
        "commercial": found.commercial,
        "share": found.share,
        "refusals": refusals(found, stage.licences),
        "lines": [
            {
                "source": line.source,
                "licence": line.licence.written if line.licence is not None else "",
                "made": line.made or "",
                "generator": line.generator or "",
                "rows": line.rows,
                "commercial": line.terms.commercial,
                "share": line.terms.share,
                "why": list(line.why),
            }
            for line in found.lines
        ],
    }


def groups_of(made: Curation) -> dict[str, int]:
    """Groups of rows that stay together, and how many of them each side has."""
    kept, held = ({made.rows[i].group for i in side} for side in (made.kept, made.heldout))
    return {"all": len({row.group for row in made.rows}), "kept": len(kept), "heldout": len(held)}


def covered(made: Curation, state_N: np.ndarray, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """(coverage for the page, the same as metrics): how near the fit rows are to a kept one, beside as many rows drawn
    at random from all that were read."""
    fit_N = np.flatnonzero((state_N == 1) | (state_N == 3))
    if not len(made.kept) or len(made.kept) == len(fit_N):
        return {}, {}
    rng = np.random.default_rng(seed)
    looked_N = fit_N if len(fit_N) <= COMPARED else np.sort(rng.choice(fit_N, COMPARED, replace=False))

    def of(rows: Sequence[int] | np.ndarray) -> np.ndarray:
        return coverage(made.vectors_ND[looked_N], made.vectors_ND[np.asarray(rows)])

    kept_N = of(made.kept)
    draws = [rng.choice(len(made.rows), len(made.kept), replace=False) for _ in range(DRAWS)]
    random_N = np.mean([of(draw) for draw in draws], axis=0)
    figures: Mapping[str, Any] = {
        "kept": bootstrap_mean(kept_N, seed).as_dict(),
        "random": bootstrap_mean(random_N, seed).as_dict(),
        "gain": paired_bootstrap(kept_N, random_N, seed).as_dict(),
    }
    return {**figures, "over": len(looked_N), "rows": len(made.kept)}, {"coverage": dict(figures)}
