"""A comparison in words and cells, for the console and the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from luthier.evals.arena import Arena
from luthier.evals.intervals import Figure
from luthier.run.judged_words import percent

if TYPE_CHECKING:  # an arena's words need no torch
    from luthier.run.against.measures import Difference, Measure
    from luthier.run.against.versus import Versus

BOUND = {None: "", "never lost": "≥ ", "never won": "≤ "}
"""Before a strength that votes do not bound on one side."""
ARROWS = {True: "↑", False: "↓", None: ""}


def written(f: Figure | None, measure: Measure) -> str:
    """'62.5 % [54.1, 70.2]'; a dash where there is none."""
    if f is None:
        return "—"
    show = [plain(x, measure) for x in (f.value, f.low, f.high)]
    return f"{show[0]}{' %' if measure.kind == 'share' else ''} [{show[1]}, {show[2]}]"


def plain(value: float, measure: Measure) -> str:
    """A figure's digits: one behind the point; a perplexity's first three."""
    if measure.kind != "perplexity":
        return f"{value:,.1f}"
    return f"{value:.2e}" if value >= 1e6 else f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def table(found: Versus) -> tuple[list[str], list[list[str]]]:
    """(headings, rows of cells): a row a measure, a column a model."""
    headings = ["measure", *found.labels, "n"]
    rows = [
        [
            f"{m.title} {ARROWS[m.higher]}".strip(),
            *(written(found.figures[m.key].get(label), m) for label in found.labels),
            f"{len(m.items):,}",
        ]
        for m in found.measures
    ]
    return headings, rows


def said(found: Versus) -> tuple[list[str], list[str]]:
    """(the primary measure's differences, all others), in words; those that may be chance in one line a model."""
    first = [d.words for d in found.differences if d.primary]
    others = [d for d in found.differences if not d.primary]
    titles = {measure.key: measure.title for measure in found.measures}
    lines = [d.words for d in others if d.real]
    for label in found.labels[1:]:
        chance = [f"{titles[d.measure]} {gap(d)}" for d in others if d.b == label and not d.real]
        lines += [f"May be chance, {label} less {found.labels[0]}: {'; '.join(chance)}."] if chance else []
    return first, lines


def gap(d: Difference) -> str:
    """'+2.1 [−0.4, +4.6] points, p = 0.21'"""
    size, ends = sized(d)
    return f"{size} {ends} {d.unit}, p = {d.adjusted:.{3 if d.adjusted < 0.1 else 2}f}"


def sized(d: Difference) -> tuple[str, str]:
    """('+2.1', '[−0.4, +4.6]')"""
    digits = 1 if d.unit in ("points", "words") else 3
    value, low, high = (f"{x:+.{digits}f}".replace("-", "−") for x in (d.figure.value, d.figure.low, d.figure.high))
    return value, f"[{low}, {high}]"


def difference_rows(found: Versus) -> list[dict[str, str | bool]]:
    """A row a difference, for the page."""
    titles = {measure.key: measure.title for measure in found.measures}
    rows: list[dict[str, str | bool]] = []
    for d in found.differences:
        value, ends = sized(d)
        p = f"{d.adjusted:.3f}" if d.adjusted >= 0.0005 else "< 0.001"
        title = titles[d.measure][0].upper() + titles[d.measure][1:]
        rows.append(
            {
                "title": title,
                "b": d.b,
                "value": f"{value} {d.unit}",
                "ends": ends,
                "p": p,
                "real": d.real,
                "even": d.figure.low == d.figure.high == 0,
                "primary": d.primary,
            }
        )
    return rows


def correction(found: Versus) -> str:
    """What the p of a difference has been corrected for."""
    others = sum(not d.primary for d in found.differences)
    primary = found.measures[0].title
    among = f", corrected for {len(found.labels) - 1} comparisons" if len(found.labels) > 2 else ""
    return (
        f"{primary[0].upper()}{primary[1:]}: the measure that counts, named before looking{among}; the p of the other "
        f"{others} are corrected "
        "together (Holm). Intervals are 95 %, by paired bootstrap; p by paired randomisation."
    )


def arena_table(found: Arena) -> tuple[list[str], list[list[str]]]:
    """(headings, rows of cells) of an arena."""
    rows = [
        [
            str(s.rank),
            s.model,
            f"{BOUND[s.undecided]}{s.elo.value:.0f}".replace("-", "−"),
            f"[{s.elo.low:.0f}, {s.elo.high:.0f}]".replace("-", "−") if s.undecided is None else "no bound",
            f"{s.elo.n:,}",
            f"{s.wins}",
            f"{s.losses}",
            f"{s.ties}",
            percent(s.both_bad),
        ]
        for s in found.standings
    ]
    return ["rank", "model", "Elo", "95 %", "votes", "won", "lost", "tied", "both bad"], rows


def category_table(found: Mapping[str, Arena]) -> tuple[list[str], list[list[str]]]:
    """(headings, rows of cells) of arenas by category, a column each; in the order of their mean strength."""
    by = {name: {standing.model: standing for standing in made.standings} for name, made in found.items()}
    models = list(dict.fromkeys(model for standings in by.values() for model in standings))
    elo = {m: [standings[m].elo.value for standings in by.values() if m in standings] for m in models}
    models.sort(key=lambda m: -sum(elo[m]) / len(elo[m]))
    rows = [
        [
            model,
            *(
                f"{s[model].elo.value:.0f} [{s[model].elo.low:.0f}, {s[model].elo.high:.0f}]".replace("-", "−")
                if model in s
                else "—"
                for s in by.values()
            ),
        ]
        for model in models
    ]
    return ["model", *(f"{name} ({made.votes:,})" for name, made in found.items())], rows


def arena_lines(found: Arena) -> list[str]:
    """An arena in words."""
    lines: list[str] = []
    if found.gap is not None:
        first, second = found.standings[:2]
        gap = f"{found.gap.value:.0f} Elo [{found.gap.low:.0f}, {found.gap.high:.0f}]".replace("-", "−")
        real = "the difference is real" if found.gap.low > 0 else "that may be chance"
        odds = 100 / (1 + 10 ** (-found.gap.value / 400))
        lines.append(
            f"{first.model} stands {gap} above {second.model}, {odds:.0f} wins in 100 between the two: {real}."
        )
    for one in found.standings:
        if one.undecided is not None:
            bound = "at least" if one.undecided == "never lost" else "at most"
            lines.append(
                f"{one.model} {one.undecided}: how far {'above' if bound == 'at least' else 'below'} the others it is, "
                f"votes cannot say. Its figure is held by a prior of 0.1 games against a mean opponent."
            )
    if found.prior and not any(one.undecided for one in found.standings):
        lines.append("some models beat all others in every game: held by a prior of 0.1 games against a mean opponent.")
    if found.length is not None:
        leaning = "longer" if found.length.value > 0 else "shorter"
        sure = "" if found.length.low > 0 or found.length.high < 0 else " (it may be chance)"
        lines.append(
            f"voters lean to the {leaning} answer{sure}: {abs(found.length.value):.2f} nats for a usual difference in "
            f"length [{found.length.low:.2f}, {found.length.high:.2f}]".replace("-", "−")
        )
    return lines
