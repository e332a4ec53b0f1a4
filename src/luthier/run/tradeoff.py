"""Two figures of each model in one plane, with their intervals: what was gained over what was forgotten. SVG with its
words inside, so that it is the same picture in a page and as a file of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from luthier.run.drawing import FONT, STYLE
from luthier.run.pictures import nice_ticks, tick_label

LEFT, RIGHT, TOP, BOTTOM = 58, 26, 58, 48
"""Pixels around the plane."""
LINE = 15
"""Height of a label."""
COLOURS = ("--blue", "--red", "--green", "--gold", "--plum", "--grey")


class Span(NamedTuple):
    """A value and its 95 % interval (None: none was measured)."""

    value: float
    low: float | None = None
    high: float | None = None


class Spot(NamedTuple):
    """One model in the plane. `before` is the index of the spot it came from; `stressed` fills its dot."""

    label: str
    x: Span
    y: Span
    colour: str
    before: int | None = None
    stressed: bool = True


class Axis(NamedTuple):
    """What an axis measures; shares are shown in per cent."""

    title: str
    share: bool = False


def front(spots: Sequence[Spot]) -> set[int]:
    """The Pareto front: indices of the spots that no other beats in both, less in x and more in y."""
    at = [(spot.x.value, spot.y.value) for spot in spots]
    return {
        i
        for i, (x, y) in enumerate(at)
        if not any((u <= x and v >= y) and (u < x or v > y) for u, v in at)
    }  # fmt: skip


def plane(
    title: str,
    spots: Sequence[Spot],
    x: Axis,
    y: Axis,
    *,
    arrows: bool = True,
    size: tuple[int, int] = (520, 330),
    alone: bool = False,
    legend: Sequence[tuple[str, str]] = (),
) -> str:
    """The picture as SVG text; `alone`: a file of its own, light or dark as its reader's screen is. `arrows` go from
    each spot to those that came from it; without, they are lines. `legend`: (words, colour). '' without spots."""
    if not spots:
        return ""
    width, height = size
    x_ticks, y_ticks = (ticks([s.x for s in spots], x.share), ticks([s.y for s in spots], y.share))
    inner_w, inner_h = width - LEFT - RIGHT, height - TOP - BOTTOM

    def place(spot: Spot) -> tuple[float, float]:
        return across(spot.x.value), up(spot.y.value)

    def across(value: float) -> float:
        share = (value - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        return round(LEFT + inner_w * min(max(share, 0.0), 1.0), 1)

    def up(value: float) -> float:
        share = (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return round(TOP + inner_h * (1 - min(max(share, 0.0), 1.0)), 1)

    parts = [f'<text x="0" y="14" style="{words(13.5)};font-weight:600">{escape(title)}</text>']
    parts += axes(x, y, [(across(t), t) for t in x_ticks], [(up(t), t) for t in y_ticks], width, height)
    for spot in spots:
        at_x, at_y = place(spot)
        if spot.x.low is not None and spot.x.high is not None:
            parts.append(stroke(f"M{across(spot.x.low)} {at_y}H{across(spot.x.high)}", spot.colour, 3, 0.35))
        if spot.y.low is not None and spot.y.high is not None:
            parts.append(stroke(f"M{at_x} {up(spot.y.low)}V{up(spot.y.high)}", spot.colour, 3, 0.35))
    for spot in spots:
        if spot.before is not None:
            parts.append(joined(place(spots[spot.before]), place(spot), spot.colour, arrows))
    for spot in spots:
        fill = f"var({spot.colour})" if spot.stressed else "var(--paper)"
        at_x, at_y = place(spot)
        ring = f"fill:{fill};stroke:var({spot.colour});stroke-width:2"
        parts.append(f'<circle cx="{at_x}" cy="{at_y}" r="5" style="{ring}"/>')
    parts += labels([(place(spot), spot) for spot in spots], width)
    parts += legend_of(legend, width)
    style = f"<style>{STYLE}</style>" if alone else ""
    edge = 24 if alone else 0
    box = f"{-edge} {-edge} {width + 2 * edge} {height + 2 * edge}"
    paper = f'<rect x="{-edge}" y="{-edge}" width="100%" height="100%" style="fill:var(--paper)"/>' if alone else ""
    fixed = f' width="{width + 2 * edge}" height="{height + 2 * edge}" xmlns="http://www.w3.org/2000/svg"'
    described = "; ".join(f"{s.label}: {s.x.value:.3g}, {s.y.value:.3g}" for s in spots)
    return (
        f'<svg class="plane" viewBox="{box}"{fixed if alone else ""} role="img" '
        f'aria-label="{escape(f"{title}. {described}")}">{style}{paper}{"".join(parts)}</svg>'
    )


def legend_of(legend: Sequence[tuple[str, str]], width: int) -> list[str]:
    """Words with their colours, in the upper right corner."""
    at, parts = float(width - RIGHT), []
    for name, colour in reversed(legend):
        at -= 7.2 * len(name) + 18
        parts.append(f'<circle cx="{at:.1f}" cy="28" r="4.5" style="fill:var({colour})"/>')
        parts.append(f'<text x="{at + 9:.1f}" y="32" style="{words(12)}">{escape(name)}</text>')
    return parts


def ticks(spans: Sequence[Span], share: bool) -> list[float]:
    """Round numbers around all values and their intervals."""
    ends = [end for span in spans for end in span if end is not None]
    low, high = min(ends), max(ends)
    if share and high - low > 0.5:
        return [0.0, 0.25, 0.5, 0.75, 1.0]
    pad = 0.05 * (high - low)
    found = nice_ticks(low - pad, high + pad, 5)
    return [tick for tick in found if -1e-9 <= tick <= 1 + 1e-9] if share and len(found) > 3 else found


def axes(
    x: Axis,
    y: Axis,
    x_ticks: Sequence[tuple[float, float]],
    y_ticks: Sequence[tuple[float, float]],
    width: int,
    height: int,
) -> list[str]:
    """Grid lines, the figures along them, and what they measure."""
    base = height - BOTTOM
    parts = [stroke(f"M{LEFT} {at}H{width - RIGHT}", "--hair", 1) for at, _ in y_ticks]
    parts += [stroke(f"M{at} {TOP}V{base}", "--hair", 1) for at, _ in x_ticks]
    x_step, y_step = x_ticks[1][1] - x_ticks[0][1], y_ticks[1][1] - y_ticks[0][1]
    parts += [
        f'<text x="{at}" y="{base + 17}" text-anchor="middle" style="{words(11.5, "--muted")}">'
        f"{tick_label(value, x_step, x.share)}</text>"
        for at, value in x_ticks
    ]
    parts += [
        f'<text x="{LEFT - 8}" y="{at + 4}" text-anchor="end" style="{words(11.5, "--muted")}">'
        f"{tick_label(value, y_step, y.share)}</text>"
        for at, value in y_ticks
    ]
    parts.append(
        f'<text x="{width - RIGHT}" y="{base + 36}" text-anchor="end" style="{words(12, "--muted")}">'
        f"{escape(x.title)} →</text>"
    )
    return [*parts, f'<text x="0" y="32" style="{words(12, "--muted")}">↑ {escape(y.title)}</text>']


def words(size: float, colour: str = "--ink") -> str:
    """The style of a piece of text."""
    return f"fill:var({colour});font-size:{size}px;font-family:{FONT}"


def stroke(path: str, colour: str, width: float, opacity: float = 1) -> str:
    """A line."""
    style = f"fill:none;stroke:var({colour});stroke-width:{width};stroke-linecap:round;opacity:{opacity}"
    return f'<path d="{path}" style="{style}"/>'


def joined(start: tuple[float, float], end: tuple[float, float], colour: str, arrow: bool) -> str:
    """A line between two dots, that begins and ends beside them; with a head if it is an arrow."""
    length = math.dist(start, end)
    if length < 16:
        return ""
    ux, uy = (end[0] - start[0]) / length, (end[1] - start[1]) / length
    first, last = (start[0] + 8 * ux, start[1] + 8 * uy), (end[0] - 8 * ux, end[1] - 8 * uy)
    line = stroke(f"M{first[0]:.1f} {first[1]:.1f}L{last[0]:.1f} {last[1]:.1f}", colour, 1.5, 0.8)
    if not arrow:
        return line
    corners = [last, (last[0] - 7 * ux + 4 * uy, last[1] - 7 * uy - 4 * ux)]
    corners.append((last[0] - 7 * ux - 4 * uy, last[1] - 7 * uy + 4 * ux))
    path = "L".join(f"{a:.1f} {b:.1f}" for a, b in corners)
    return f'{line}<path d="M{path}Z" style="fill:var({colour});stroke:none"/>'


def labels(placed: Sequence[tuple[tuple[float, float], Spot]], width: int) -> list[str]:
    """Names beside the dots: at the corner of the dot where the name covers no other name and no dot."""
    taken = [(x - 6, y - 6, x + 6, y + 6) for (x, y), _ in placed]
    parts = []
    for (x, y), spot in sorted(placed, key=lambda item: item[0]):
        if not spot.label:
            continue
        wide = 7.0 * len(spot.label)
        corners = [(x - 11 - wide, y - 8), (x + 11, y - 8), (x - 11 - wide, y + 18), (x + 11, y + 18)]
        corners += [(left, at + LINE * step) for step in (1, 2, 3) for left, at in corners[2:]]
        boxes = [(left, at - 11, left + wide, at + 3) for left, at in corners if left >= 0 and left + wide <= width]
        free = [box for box in boxes if not any(covers(box, other) for other in taken)]
        box = (free or boxes or [(x + 11, y - 19, x + 11 + wide, y - 5)])[0]
        taken.append(box)
        style = f"{words(12, spot.colour)};font-weight:600"
        parts.append(f'<text x="{box[0]:.1f}" y="{box[3] - 3:.1f}" style="{style}">{escape(spot.label)}</text>')
    return parts


def covers(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether two boxes (left, top, right, bottom) overlap."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
