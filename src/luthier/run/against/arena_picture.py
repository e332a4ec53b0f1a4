"""One picture of an arena: a row a model, its strength with its interval. Plain SVG, light or dark as its reader's
screen is."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from luthier.evals.arena import Arena
from luthier.evals.intervals import Figure
from luthier.run.against.compare_picture import EDGE
from luthier.run.drawing import svg
from luthier.run.pictures import nice_ticks, tick_label

ROW, TOP, PANEL, LETTER, AFTER = 34, 92, 460, 7.4, 190
"""Pixels: a row's height, above the first, width of the panel, about what a letter takes, for the figures behind it."""


def arena_picture(whole: Arena, fair: Arena | None) -> str:
    """Strengths in Elo, the strongest on top; below each dot a hollow one with length held apart, where that is
    known."""
    names = [standing.model for standing in whole.standings]
    apart = {standing.model: standing.elo for standing in fair.standings} if fair is not None else {}
    bounded = [standing for standing in whole.standings if standing.undecided is None] or whole.standings
    figures = [standing.elo for standing in bounded] + [apart[s.model] for s in bounded if s.model in apart]
    ticks = nice_ticks(min(f.low for f in figures), max(f.high for f in figures), 6)
    left = EDGE + round(max(len(name) for name in names) * LETTER) + 18
    width, bottom = left + PANEL + AFTER, TOP + ROW * len(names)

    def x(value: float) -> float:
        return round(left + PANEL * (value - ticks[0]) / (ticks[-1] - ticks[0]), 1)

    drawn = {"vote": "votes", "prompt": "prompts", "voter": "voters"}[whole.resampled]
    under = f"{whole.votes:,} votes, 95 % intervals over {drawn}"
    under += "; hollow: length held apart" if apart else ""
    title = "Arena: strength in Elo"
    parts = [f'<text class="h" x="{EDGE}" y="36">{title}</text>']
    parts.append(f'<text class="m" x="{EDGE}" y="58">{escape(under)}</text>')
    for tick in ticks:
        parts.append(f'<path class="{"ref" if tick == 1000 else "hair"}" d="M{x(tick)} {TOP - 6}V{bottom}"/>')
        label = tick_label(tick, ticks[1] - ticks[0])
        parts.append(f'<text class="s c" x="{x(tick)}" y="{bottom + 18}">{label}</text>')
    for row, standing in enumerate(whole.standings):
        y, f = TOP + ROW * row + ROW / 2, standing.elo
        other = apart.get(standing.model)
        up = 6 if other is not None else 0
        parts.append(f'<text class="e" x="{left - 14}" y="{y + 4}">{escape(standing.model)}</text>')
        if standing not in bounded:  # beyond the edge, votes cannot say how far
            below = standing.undecided == "never won"
            at, turn = (left + 6, 1) if below else (left + PANEL - 6, -1)
            arrow = f"M{at + 10 * turn} {y - 5}L{at} {y}L{at + 10 * turn} {y + 5}M{at} {y}H{at + 40 * turn}"
            parts.append(f'<path d="{arrow}" style="fill:none;stroke:var(--blue);stroke-width:2"/>')
            parts.append(f'<text x="{left + PANEL + 18}" y="{y + 4}">{standing.undecided}</text>')
            continue
        parts.append(mark(f, x, y - up, hollow=False))
        if other is not None:
            parts.append(mark(other, x, y + up, hollow=True))
        said = f"{f.value:.0f} [{f.low:.0f}, {f.high:.0f}]"
        parts.append(f'<text x="{left + PANEL + 18}" y="{y + 4}">{said}</text>')
    return svg(width, bottom + 38, title, parts)


def mark(f: Figure, x: Callable[[float], float], y: float, hollow: bool) -> str:
    """A dot on its interval."""
    style = f"stroke:var(--blue);stroke-width:4;opacity:{0.2 if hollow else 0.35}"
    line = f'<path d="M{x(f.low)} {y}H{x(f.high)}" style="{style}"/>'
    fill = "fill:var(--paper);stroke:var(--blue);stroke-width:1.5" if hollow else "fill:var(--blue)"
    return f'{line}<circle cx="{x(f.value)}" cy="{y}" r="{4 if hollow else 5}" style="{fill}"/>'
