"""Charts side by side over the number of rows, in plain SVG, light or dark as their reader's screen is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

LEFT, TOP, WIDTH, HEIGHT, APART, BELOW = 64, 44, 270, 170, 90, 60
"""Pixels: left of the first chart, above them, of each, between them, and below them with two lines' names."""
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#444}.t{font-weight:600;fill:#222}.g{stroke:#ddd}"
    ".l{fill:none;stroke-width:2}@media(prefers-color-scheme:dark){text{fill:#bbb}.t{fill:#eee}.g{stroke:#444}}"
)
BLUE, RED, GREY, GREEN = "#2b6cb0", "#c05621", "#888888", "#2f855a"


class Line(NamedTuple):
    """(rows, value) of each size that was measured."""

    label: str
    colour: str
    points: list[tuple[int, float]]


class Panel(NamedTuple):
    """One chart; lines without points are left out."""

    title: str
    lines: list[Line]
    most: float | None = None
    """Where an even axis from 0 ends; None: powers of ten."""


def picture(sizes: Sequence[int], panels: Sequence[Panel]) -> str:
    """All charts as SVG text; the number of rows on a logarithmic axis."""
    drawn = [panel._replace(lines=[line for line in panel.lines if line.points]) for panel in panels]
    wide = LEFT + len(drawn) * (WIDTH + APART) - APART + 20
    tall = TOP + HEIGHT + BELOW + 20 * (max(len(panel.lines) for panel in drawn) > 2)
    body = "".join(one(LEFT + k * (WIDTH + APART), sizes, panel) for k, panel in enumerate(drawn))
    size = f'viewBox="0 0 {wide} {tall}" width="{wide}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"><style>{STYLE}</style>{body}</svg>\n'


def one(left: int, sizes: Sequence[int], panel: Panel) -> str:
    """One chart."""
    values = [value for line in panel.lines for _, value in line.points]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    span = max(1e-9, math.log(sizes[-1] / sizes[0]))
    if panel.most is None:
        ticks = [(10.0**power, f"{10.0**power:g}") for power in range(low, high + 1)]
    else:
        ticks = [(panel.most * k / 3, f"{panel.most * k / 3:.1f}") for k in range(4)]

    def x(size: int) -> float:
        return left + WIDTH * math.log(size / sizes[0]) / span

    def y(value: float) -> float:
        up = value / panel.most if panel.most else (math.log10(value) - low) / max(1, high - low)
        return TOP + HEIGHT * (1 - up)

    parts = [f'<text class="t" x="{left - 34}" y="{TOP - 24}">{panel.title}</text>']
    for value, said in ticks:
        at = f'y1="{y(value):.1f}" y2="{y(value):.1f}"'
        parts.append(f'<line class="g" x1="{left}" x2="{left + WIDTH}" {at}/>')
        parts.append(f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{said}</text>')
    for size in sizes:
        said = f"{size // 1_000_000} M" if size >= 1_000_000 else f"{size // 1000} k"
        parts.append(f'<text x="{x(size):.1f}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{said}</text>')
    for k, (label, colour, points) in enumerate(panel.lines):
        drawn = " ".join(f"{x(size):.1f},{y(value):.1f}" for size, value in points)
        parts.append(f'<polyline class="l" stroke="{colour}" points="{drawn}"/>')
        parts += [f'<circle cx="{x(s):.1f}" cy="{y(v):.1f}" r="3" fill="{colour}"/>' for s, v in points]
        at = f'x="{left - 30 + 150 * (k % 2)}" y="{TOP + HEIGHT + 42 + 18 * (k // 2)}"'
        parts.append(f'<text {at} style="fill:{colour}">— {label}</text>')
    return "".join(parts)
