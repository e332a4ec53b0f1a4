"""The picture of a learning curve: what was measured at each size, the law through it with its band, and what is
expected of more data. By itself (curve.svg) or inside a page, whose colours it then takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from luthier.run.drawing import Plot, words
from luthier.run.pictures import count, nice_ticks

WIDE, TALL = 860, 430
LEFT, RIGHT, TOP, BOTTOM = 66, 118, 78, 62
"""Pixels at the edges of the plot; the right one has room for the forecast's words."""
JITTER = 5
"""Pixels between the runs of one size."""


def curve_picture(name: str, found: Mapping[str, Any], stage: str, alone: bool = True) -> str:
    """SVG text of one probe's curve, as `evals.forecast.as_json` gives it. `alone`: with colours and a ground of its
    own, for a file."""
    share, n = found["share"], found["n"]
    band = found["band"]
    plot = plot_of(found)
    sizes = [*(point["n"] for point in found["points"]), *(2**k * n for k in (1, 2))]
    parts = plot.axes(share, [(size, count(size)) for size in sizes if size <= plot.x_high], "training examples")
    inside = [row for row in band if row[0] <= n * 1.0001]
    beyond = [row for row in band if row[0] >= inside[-1][0]]
    for rows, opacity in ((inside, 0.16), (beyond, 0.09)):
        edge = [(row[0], row[3]) for row in rows] + [(row[0], row[2]) for row in reversed(rows)]
        parts.append(f'<path d="{plot.path(edge)}Z" style="fill:var(--blue);opacity:{opacity};stroke:none"/>')
    line = "fill:none;stroke:var(--blue);stroke-width:2"
    parts.append(f'<path d="{plot.path([(row[0], row[1]) for row in inside])}" style="{line}"/>')
    parts.append(f'<path d="{plot.path([(row[0], row[1]) for row in beyond])}" style="{line};stroke-dasharray:5 5"/>')
    parts.append(vertical(plot, n, "all there is"))
    for number, point in enumerate(found["points"]):
        parts.append(measured(plot, point, hollow=number < found["first"]))
    for ahead in found["ahead"]:
        if ahead["n"] > n:
            parts.append(expected(plot, ahead, share, ahead["n"] - n, over=ahead["n"] == 2 * n))
    return plot.titled(f"{name} by examples of {stage}", found["said"], parts, alone)


def plot_of(found: Mapping[str, Any]) -> Plot:
    """Room for all that was measured and all that is expected, with a little beside it."""
    xs = [row[0] for row in found["band"]] + [one["n"] for one in (*found["points"], *found["ahead"])]
    ends = [end for one in (*found["points"], *found["ahead"]) for end in (one["low"], one["high"])]
    ends += [row[1] for row in found["band"]]
    ends += [run for point in found["points"] for run in point["runs"]]
    low, high = min(ends), max(ends)
    pad = 0.06 * (high - low) or 0.05
    low, high = low - pad, high + pad
    if found["share"]:
        low, high = max(0.0, low), min(1.0, high)
    x_low, x_high = min(xs) * math.exp(-0.08), max(xs) * math.exp(0.04)
    return Plot(x_low, x_high, nice_ticks(low, high, 6), WIDE, TALL, LEFT, RIGHT, TOP, BOTTOM)


def vertical(plot: Plot, n: int, said: str) -> str:
    """A dotted rule at a size."""
    x = plot.x(n)
    rule = f'<path d="M{x} {TOP}V{TALL - BOTTOM}" style="stroke:var(--muted);stroke-dasharray:3 3;fill:none"/>'
    return rule + words(x - 6, TALL - BOTTOM - 8, said, size=11, ink="--muted", anchor="end")


def measured(plot: Plot, point: Mapping[str, Any], hollow: bool) -> str:
    """The mean of a size with its interval, and each of its runs beside it; hollow where the law passes it over."""
    x = plot.x(point["n"])
    ends = f'<path d="M{x} {plot.y(point["low"])}V{plot.y(point["high"])}" '
    parts = [f'{ends}style="stroke:var(--ink);stroke-width:1.5;opacity:.55;fill:none"/>']
    if len(point["runs"]) > 1:
        for k, run in enumerate(point["runs"]):
            at = x + JITTER * (k - (len(point["runs"]) - 1) / 2)
            parts.append(f'<circle cx="{at:g}" cy="{plot.y(run)}" r="2" style="fill:var(--muted)"/>')
    fill = "fill:var(--paper);stroke:var(--ink);stroke-width:1.5" if hollow else "fill:var(--ink)"
    parts.append(f'<circle cx="{x}" cy="{plot.y(point["value"])}" r="4.5" style="{fill}"/>')
    return "".join(parts)


def expected(plot: Plot, ahead: Mapping[str, Any], share: bool, plus: int, over: bool) -> str:
    """What the next run with more data should show: an open dot with its interval, and the figure over or under it."""
    x, y = plot.x(ahead["n"]), plot.y(ahead["value"])
    stroke = "stroke:var(--red);fill:none"
    parts = [f'<path d="M{x} {plot.y(ahead["low"])}V{plot.y(ahead["high"])}" style="{stroke};stroke-width:1.5"/>']
    parts.append(f'<circle cx="{x}" cy="{y}" r="4.5" style="{stroke};stroke-width:2;fill:var(--paper)"/>')
    shown = f"{ahead['value'] * 100:.1f} %" if share else f"{ahead['value']:.3f}"
    parts.append(words(x + 8, y - 9 if over else y + 22, f"+{plus:,}: {shown}", size=12, ink="--red"))
    return "".join(parts)
