"""One picture of a comparison: a row a method, a panel a figure. A file of its own, in plain SVG, light or dark as its
reader's screen is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from luthier.run.drawing import svg
from luthier.run.pictures import nice_ticks, tick_label

ROW, TOP, NAMES, PANEL, BAR, GAP, EDGE = 30, 116, 96, 210, 128, 38, 28
"""Pixels: height of a row, above the first one, width of the names, of a panel of figures, of a panel of costs, between
panels, at the edges."""
MOST = 4
"""Panels of figures; the table has them all."""


@dataclass(frozen=True)
class Column:
    """How the figures of one probe are shown. `name` heads them; `probe` is whose they are."""

    name: str
    probe: str
    share: bool = False
    """Shares of 1, shown in per cent."""
    higher: bool = False
    """Better when higher."""
    rise: bool = False
    """A rise since before: 0 is no change."""


Figures = tuple[Column, Sequence[Mapping[str, Any] | None], Mapping[str, Any] | None]
"""(column, a figure a method, the figure before)."""
Costs = tuple[str, Sequence[float], Callable[[float], str]]
"""(heading, a value a method, how it is written)."""


def methods_picture(
    title: str, note: str, names: Sequence[str], figures: Sequence[Figures], costs: Sequence[Costs]
) -> str:
    """The picture as SVG text: dots with 95 % intervals for what was measured, bars for what it cost."""
    figures = figures[:MOST]
    bottom = TOP + ROW * len(names)
    wide = max(NAMES, 14 + 7 * max(map(len, names), default=0))
    width = 2 * EDGE + wide + len(figures) * (PANEL + GAP) + len(costs) * (BAR + GAP) - GAP
    parts = [f'<text class="h" x="{EDGE}" y="38">{escape(title)}</text>']
    parts.append(f'<text class="m" x="{EDGE}" y="59">{escape(note)}</text>')
    for i, name in enumerate(names):
        y = TOP + ROW * i
        parts.append(f'<path class="hair" d="M{EDGE} {y}H{width - EDGE}"/>')
        parts.append(f'<text class="b" x="{EDGE}" y="{y + 20}">{escape(name)}</text>')
    parts.append(f'<path class="hair" d="M{EDGE} {bottom}H{width - EDGE}"/>')
    left = EDGE + wide
    for panel in figures:
        parts.append(dots(panel, left, bottom))
        left += PANEL + GAP
    for cost in costs:
        parts.append(bars(cost, left))
        left += BAR + GAP
    return svg(width, bottom + 44, title, parts)


def dots(panel: Figures, left: int, bottom: int) -> str:
    """A panel of figures with their intervals; the one before is a dotted rule."""
    column, found, before = panel
    shown = [figure for figure in (*found, before) if figure is not None]
    ends = [f[key] for f in shown for key in ("value", "low", "high") if f.get(key) is not None]
    ends += [0.0] if column.rise else []
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    pad = 0.06 * (high - low) or 0.1
    low, high = low - pad, high + pad
    every = nice_ticks(low, high, 5)
    ticks = [tick for tick in every if low <= tick <= high]

    def x(value: float) -> float:
        return round(left + PANEL * (value - low) / (high - low), 1)

    direction = "higher is better" if column.higher else "lower is better"
    parts = [f'<text class="b" x="{left}" y="{TOP - 24}">{escape(column.name)}</text>']
    parts.append(f'<text class="s" x="{left}" y="{TOP - 9}">{"a rise, " if column.rise else ""}{direction}</text>')
    parts += [f'<path class="hair" d="M{x(tick)} {TOP}V{bottom}"/>' for tick in ticks]
    labels = [tick_label(tick, every[1] - every[0], column.share) for tick in ticks]
    parts += [
        f'<text class="s c" x="{x(tick)}" y="{bottom + 18}">{label}</text>'
        for tick, label in zip(ticks, labels, strict=True)
    ]
    if column.rise or before is not None:
        at = x(0.0 if column.rise or before is None else before["value"])
        parts.append(f'<path class="ref" d="M{at} {TOP}V{bottom}"/>')
        parts.append(f'<text class="s c" x="{at}" y="{bottom + 34}">before</text>')
    for i, figure in enumerate(found):
        if figure is None:
            continue
        y = TOP + ROW * i + ROW / 2
        if figure.get("low") is not None and figure.get("high") is not None:
            ends_of = f"M{x(figure['low'])} {y}H{x(figure['high'])}"
            parts.append(f'<path d="{ends_of}" style="stroke:var(--blue);stroke-width:4;opacity:.35"/>')
        parts.append(f'<circle cx="{x(figure["value"])}" cy="{y}" r="5" style="fill:var(--blue)"/>')
    return "".join(parts)


def bars(cost: Costs, left: int) -> str:
    """A panel of bars from 0, each with its value."""
    heading, values, write = cost
    most, room = max(values, default=0.0) or 1.0, BAR - 62
    parts = [f'<text class="b" x="{left}" y="{TOP - 24}">{escape(heading)}</text>']
    for i, value in enumerate(values):
        y, length = TOP + ROW * i, max(1.0, round(room * value / most, 1))
        parts.append(f'<rect x="{left}" y="{y + 9}" width="{length}" height="12" rx="2" style="fill:var(--bar)"/>')
        parts.append(f'<text x="{left + length + 7}" y="{y + 20}">{escape(write(value))}</text>')
    return "".join(parts)
