"""The picture of a learning curve: what was measured at each size, the law through it with its band, and what is
expected of more data. By itself (curve.svg) or inside a page, whose colours it then takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from luthier.run.compare_picture import STYLE
from luthier.run.pictures import count, nice_ticks, tick_label

WIDE, TALL = 860, 430
LEFT, RIGHT, TOP, BOTTOM = 66, 118, 78, 62
"""Pixels at the edges of the plot; the right one has room for the forecast's words."""
TEXT = "font:{size}px system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;fill:var({ink})"
JITTER = 5
"""Pixels between the runs of one size."""


def curve_picture(name: str, found: Mapping[str, Any], stage: str, alone: bool = True) -> str:
    """SVG text of one probe's curve, as `evals.forecast.as_json` gives it. `alone`: with colours and a ground of its
    own, for a file."""
    share, n = found["share"], found["n"]
    band = found["band"]
    plot = Plot(found)
    title = f"{name} by examples of {stage}"
    parts = [words(LEFT, 30, title, size=17, bold=True)]
    if alone:  # a page says it beside the picture
        parts.append(words(LEFT, 52, found["said"][0], ink="--muted"))
    parts += plot.axes(share)
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
    body = "".join(parts)
    label = escape(f"{title}. {' '.join(found['said'])}")
    ground = f'<style>{STYLE}</style><rect width="{WIDE}" height="{TALL}" style="fill:var(--paper)"/>' if alone else ""
    size = f'width="{WIDE}" height="{TALL}"' if alone else 'style="width:100%;height:auto"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {TALL}" {size} role="img" '
        f'aria-label="{label}">{ground}{body}</svg>\n'
    )


class Plot:
    """Where data lands: examples on a logarithmic axis, figures on a plain one."""

    def __init__(self, found: Mapping[str, Any]) -> None:
        self.found = found
        xs = [row[0] for row in found["band"]] + [one["n"] for one in (*found["points"], *found["ahead"])]
        self.x_low, self.x_high = math.log(min(xs)) - 0.08, math.log(max(xs)) + 0.04
        ends = [end for one in (*found["points"], *found["ahead"]) for end in (one["low"], one["high"])]
        ends += [row[1] for row in found["band"]]
        ends += [run for point in found["points"] for run in point["runs"]]
        low, high = min(ends), max(ends)
        pad = 0.06 * (high - low) or 0.05
        low, high = low - pad, high + pad
        if found["share"]:
            low, high = max(0.0, low), min(1.0, high)
        self.ticks = nice_ticks(low, high, 6)
        self.y_low, self.y_high = self.ticks[0], self.ticks[-1]

    def x(self, n: float) -> float:
        return round(LEFT + (WIDE - LEFT - RIGHT) * (math.log(n) - self.x_low) / (self.x_high - self.x_low), 1)

    def y(self, value: float) -> float:
        inside = min(max(value, self.y_low), self.y_high)
        share = (inside - self.y_low) / (self.y_high - self.y_low)
        return round(TALL - BOTTOM - (TALL - TOP - BOTTOM) * share, 1)

    def path(self, points: list[tuple[float, float]]) -> str:
        return "M" + "L".join(f"{self.x(n):g} {self.y(value):g}" for n, value in points)

    def axes(self, share: bool) -> list[str]:
        """Rules and labels: a tick at every size measured, and one where the curve ends."""
        step = self.ticks[1] - self.ticks[0]
        parts = []
        for tick in self.ticks:
            y = self.y(tick)
            parts.append(f'<path d="M{LEFT} {y}H{WIDE - RIGHT}" style="stroke:var(--hair);fill:none"/>')
            label = tick_label(tick, step, share)
            parts.append(words(LEFT - 10, y + 4, label, size=12, ink="--muted", anchor="end"))
        base = TALL - BOTTOM
        sizes = [point["n"] for point in self.found["points"]]
        for n in [*sizes, *(2**k * self.found["n"] for k in (1, 2))]:
            if math.log(n) <= self.x_high:
                parts.append(f'<path d="M{self.x(n)} {base}v5" style="stroke:var(--muted);fill:none"/>')
                parts.append(words(self.x(n), base + 20, count(n), size=12, ink="--muted", anchor="middle"))
        middle = (LEFT + WIDE - RIGHT) / 2
        parts.append(words(middle, TALL - 18, "training examples", size=12, ink="--muted", anchor="middle"))
        return parts


def words(
    x: float, y: float, text: str, size: int = 13, ink: str = "--ink", anchor: str = "start", bold: bool = False
) -> str:
    """A line of text."""
    style = TEXT.format(size=size, ink=ink) + (";font-weight:600" if bold else "")
    return f'<text x="{x:g}" y="{y:g}" style="{style};text-anchor:{anchor}">{escape(text)}</text>'


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
