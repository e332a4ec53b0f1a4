"""Pictures for the report, drawn by hand: a line chart, a slope chart and an interval dot plot.

Each function returns a piece of HTML. Lines are SVG that stretches to the width it is given; every word is HTML laid
over it at a percentage, so that type keeps its size on a phone and on paper. Heights are fixed in pixels. Colours are
CSS variables of the page (`--blue`), so one picture serves the light and the dark theme. Data comes from models and
files: every string is escaped here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape

WIDTH = 1000  # of every viewBox: x runs over 0..WIDTH whatever the width on the screen
BUCKETS = 200  # more points than this in one line cannot be told apart on a screen

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """One line. `points` are (x, y) in order of x, finite. `colour` is a CSS variable's name. `dots` marks each point
    (figures measured now and then); `whiskers` are (x, low, high)."""

    label: str
    points: Sequence[Point]
    colour: str
    dots: bool = False
    whiskers: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True, slots=True)
class Thinned:
    """A line of at most `BUCKETS` points: the mean of each bucket, and between which values it lay."""

    points: list[Point]
    band: list[tuple[float, float, float]]


def thin(points: Sequence[Point], buckets: int = BUCKETS) -> Thinned:
    """Buckets of equal count, so that ten thousand steps draw as two hundred points and a min-max band.
    With no more points than buckets the points themselves, and no band."""
    if len(points) <= buckets:
        return Thinned(list(points), [])
    means, band = [], []
    for k in range(buckets):
        bucket = points[k * len(points) // buckets : (k + 1) * len(points) // buckets]
        x = sum(p[0] for p in bucket) / len(bucket)
        ys = [p[1] for p in bucket]
        means.append((x, math.fsum(ys) / len(ys)))
        band.append((x, min(ys), max(ys)))
    return Thinned(means, band)


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers (1, 2 or 5 × 10^k apart) from at or below `low` to at or above `high`, about `count` of them."""
    if high - low <= 1e-12 * max(abs(low), abs(high)):  # equal, but for rounding
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [k * step for k in range(first, last + 1)]


def number(value: float, digits: int = 3) -> str:
    """A figure for people: `digits` significant ones, thousands as k, tiny ones as 6e-4, a true minus sign."""
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 100_000:
        text = f"{value / 1000:,.0f}k" if size < 999_500 else f"{value / 1e6:,.3g}M"
    elif size >= 1000:
        text = f"{value:,.0f}"
    elif size < 0.001:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        text = f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(exponent)}"
    else:
        text = f"{value:.{max(0, digits - 1 - math.floor(math.log10(size)))}f}"
        text = text.rstrip("0").rstrip(".") if "." in text and len(text) > digits + 2 else text
    return text.replace("-", "−")


def duration(seconds: float) -> str:
    """'41 s', '3 min 34 s', '5 h 12 min'"""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h" + (f" {minutes % 60} min" if minutes % 60 else "")


def count(number: float) -> str:
    """'912', '17,480', '402 k', '1.72 M', '7.24 B'"""
    if number < 99_950:
        return f"{number:,.0f}"
    unit, scale = next((u, s) for u, s in (("B", 1e9), ("M", 1e6), ("k", 1e3)) if number >= 0.9995 * s)
    return f"{number / scale:.3g} {unit}"


def size(bytes_: float) -> str:
    """Bytes for people: '912 MB' (10^6), '1.4 GB'."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if bytes_ >= scale:
            return f"{bytes_ / scale:.3g} {unit}"
    return f"{bytes_ / 1e3:.0f} kB"


def created(when: str | float | None) -> str:
    """'21 November 2025, 02:13 UTC' of an ISO date or seconds since the epoch; '' when absent."""
    if when is None:
        return ""
    moment = datetime.fromtimestamp(when, UTC) if isinstance(when, int | float) else datetime.fromisoformat(when)
    zone = moment.strftime(" %Z").rstrip()
    return f"{moment.day} {moment:%B %Y}, {moment:%H:%M}{zone}"


def tick_label(value: float, step: float, percent: bool = False) -> str:
    """As many decimals as the distance between ticks needs."""
    if percent:
        value, step = value * 100, step * 100
    if abs(value) < step * 1e-6:
        text = "0"
    elif abs(value) >= 1000 or (step < 0.001 and not percent):
        text = number(value, 2)
    else:
        text = f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}".replace("-", "−")
    return f"{text} %" if percent else text


def spread(tops: Sequence[float], gap: float, limit: float) -> list[float]:
    """Moves label positions (px from the top) apart until neighbours are `gap` from each other, in their order,
    within 0..limit where there is room."""
    order = sorted(range(len(tops)), key=lambda i: tops[i])
    placed = list(tops)
    floor = -math.inf
    for i in order:
        placed[i] = max(placed[i], floor)
        floor = placed[i] + gap
    ceiling = max(limit, (len(tops) - 1) * gap)
    for i in reversed(order):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - gap
    return placed


@dataclass(frozen=True, slots=True)
class Frame:
    """Where data lands in a picture: x in 0..WIDTH, y in 0..height (down)."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    height: int

    def x(self, value: float) -> float:
        return round(WIDTH * (value - self.x_low) / (self.x_high - self.x_low), 1)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return round(self.height * (1 - min(max(share, 0.0), 1.0)), 1)

    def path(self, points: Sequence[Point]) -> str:
        return "M" + "L".join(f"{self.x(x):g} {self.y(y):g}" for x, y in points)

    def left(self, value: float) -> str:
        return f"{self.x(value) / WIDTH * 100:.2f}%"


def _svg(height: int, body: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" preserveAspectRatio="none" aria-hidden="true">{body}</svg>'


def _dot(x: float, y: float, colour: str, kind: str = "dot") -> str:
    """A round dot in a stretched picture: the round cap of a line without length."""
    return f'<path class="{kind}" d="M{x:g} {y:g}h.01" style="stroke:var({colour})"/>'


def _line(frame: Frame, series: Series, thinned: Thinned) -> str:
    colour = f"var({series.colour})"
    parts = []
    if thinned.band:
        upper = [(x, high) for x, _, high in thinned.band]
        lower = [(x, low) for x, low, _ in reversed(thinned.band)]
        parts.append(f'<path class="band" d="{frame.path(upper + lower)}Z" style="fill:{colour}"/>')
    parts += [
        f'<path class="whisker" d="M{frame.x(x):g} {frame.y(low):g}V{frame.y(high):g}" style="stroke:{colour}"/>'
        for x, low, high in series.whiskers
    ]
    parts.append(f'<path class="line" d="{frame.path(thinned.points)}" style="stroke:{colour}"/>')
    if series.dots and len(thinned.points) <= 40:
        parts += [_dot(frame.x(x), frame.y(y), series.colour) for x, y in thinned.points]
    last_x, last_y = thinned.points[-1]
    parts.append(_dot(frame.x(last_x), frame.y(last_y), series.colour, "dot end"))
    return "".join(parts)


def _axes(frame: Frame, x_ticks: Sequence[float], y_ticks: Sequence[float], percent: bool) -> tuple[str, str]:
    """(grid lines in SVG, tick labels in HTML)."""
    y_step = y_ticks[1] - y_ticks[0]
    lines = [f'<path class="grid" d="M0 {frame.y(y):g}H{WIDTH}"/>' for y in y_ticks[1:]]
    lines.append(f'<path class="base" d="M0 {frame.height}H{WIDTH}"/>')
    labels = [
        f'<span class="ytick" style="top:{frame.y(y):g}px">{tick_label(y, y_step, percent)}</span>' for y in y_ticks
    ]
    x_step = x_ticks[1] - x_ticks[0] if len(x_ticks) > 1 else 1
    labels += [f'<span class="xtick" style="left:{frame.left(x)}">{tick_label(x, x_step)}</span>' for x in x_ticks]
    return "".join(lines), "".join(labels)


def _end_labels(frame: Frame, series: Sequence[Series], lines: Sequence[Thinned]) -> str:
    tops = spread([frame.y(line.points[-1][1]) for line in lines], 17, frame.height)
    return "".join(
        f'<span class="endlabel" style="top:{top:g}px;color:var({s.colour})">{escape(s.label)}</span>'
        for s, top in zip(series, tops, strict=True)
    )


def _read_out(frame: Frame, series: Sequence[Series], lines: Sequence[Thinned]) -> str:
    """What the page's script needs to show figures under the pointer, as an attribute's value."""
    shown = [
        {"l": s.label, "c": s.colour, "p": [[round(x, 1), float(f"{y:.4g}")] for x, y in line.points]}
        for s, line in zip(series, lines, strict=True)
    ]
    box = [frame.x_low, frame.x_high, frame.y_low, frame.y_high, frame.height]
    return escape(json.dumps({"box": box, "series": shown}, separators=(",", ":"), ensure_ascii=False))


def line_chart(
    series: Sequence[Series],
    title: str,
    *,
    note: str = "",
    height: int = 150,
    percent: bool = False,
    x_range: tuple[float, float] | None = None,
    marks: Sequence[tuple[float, str]] = (),
) -> str:
    """Lines over training steps, each labelled at its end; `marks` are vertical rules (x, words). Series without
    points are left out; '' when none has any. `x_range` widens what the data needs."""
    series = [s for s in series if s.points]
    if not series:
        return ""
    lines = [thin(s.points) for s in series]
    ys = [y for s in series for _, y in s.points]
    ys += [y for s in series for _, low, high in s.whiskers for y in (low, high)]
    xs = [x for s in series for x, _ in s.points] + list(x_range or ())
    y_ticks = nice_ticks(min(ys), max(ys), max(3, height // 34))
    x_low, x_high = min(xs), max(xs)
    x_high = x_high if x_high > x_low else x_low + 1
    x_ticks = [x for x in nice_ticks(x_low, x_high, 5) if x_low <= x <= x_high]
    frame = Frame(x_low, x_high, y_ticks[0], y_ticks[-1], height)
    grid, ticks = _axes(frame, x_ticks, y_ticks, percent)
    body = grid + "".join(f'<path class="mark" d="M{frame.x(x):g} 0V{height}"/>' for x, _ in marks)
    body += "".join(_line(frame, s, line) for s, line in zip(series, lines, strict=True))
    words = "".join(f'<span class="marklabel" style="left:{frame.left(x)}">{escape(w)}</span>' for x, w in marks)
    labelled = len(series) > 1
    described = "; ".join(f"{s.label}: {number(s.points[0][1])} to {number(s.points[-1][1])}" for s in series)
    ends = _end_labels(frame, series, lines) if labelled else ""
    return (
        f'<figure class="chart"><figcaption><b>{escape(title)}</b> <span>{escape(note)}</span></figcaption>'
        f'<div class="plot{" labelled" if labelled else ""}" role="img" aria-label="{escape(f"{title}. {described}")}">'
        f'<div class="area" style="height:{height}px" data-chart="{_read_out(frame, series, lines)}">'
        f"{_svg(height, body)}{ticks}{words}{ends}</div></div></figure>"
    )


@dataclass(frozen=True, slots=True)
class Stop:
    """One figure of a slope chart. `before` is the index of the stop it came from (None: it is a beginning)."""

    name: str
    value: float
    under: str
    colour: str
    before: int | None


def slope_chart(title: str, stops: Sequence[Stop], *, note: str = "", height: int = 190) -> str:
    """One figure over stages: each stop is joined to the one it came from, so that branches stay apart."""
    values = [stop.value for stop in stops]
    room = 0.12 * (max(values) - min(values))  # for the figures that stand over and under the dots
    y_ticks = nice_ticks(min(values) - room, max(values) + room, 4)
    frame = Frame(-0.5, len(stops) - 0.5, y_ticks[0], y_ticks[-1], height)
    grid, ticks = _axes(frame, [], y_ticks, False)
    joined = [(stop.before, i) for i, stop in enumerate(stops) if stop.before is not None]
    body = grid + "".join(
        f'<path class="line quiet" d="{frame.path([(a, values[a]), (b, values[b])])}"/>' for a, b in joined
    )
    words = []
    for i, stop in enumerate(stops):
        body += _dot(frame.x(i), frame.y(stop.value), stop.colour, "dot big")
        beside = [values[a + b - i] for a, b in joined if i in (a, b)]
        side = "below" if beside and min(beside) > stop.value else "above"  # where no line runs
        left, top = frame.left(i), frame.y(stop.value)
        words.append(
            f'<span class="value {side}" style="left:{left};top:{top:g}px">{stop.value:.3f}</span>'
            f'<span class="xtick" style="left:{left}"><b>{escape(stop.name)}</b><br>{escape(stop.under)}</span>'
        )
    described = ", ".join(f"{stop.name} {stop.value:.3f}" for stop in stops)
    return (
        f'<figure class="chart slope"><figcaption><b>{escape(title)}</b> <span>{escape(note)}</span></figcaption>'
        f'<div class="plot" role="img" aria-label="{escape(f"{title}. {described}")}">'
        f'<div class="area" style="height:{height}px">{_svg(height, body)}{ticks}{"".join(words)}</div></div></figure>'
    )


def interval_plot(
    value: float,
    low: float | None,
    high: float | None,
    colour: str,
    domain: tuple[float, float],
    references: Sequence[float] = (),
) -> str:
    """A dot with its interval on a track from `domain[0]` to `domain[1]`; `references` are thin rules behind it."""
    frame = Frame(domain[0], domain[1], 0, 1, 22)
    body = '<path class="grid" d="M0 11H1000"/>'
    body += "".join(f'<path class="mark" d="M{frame.x(r):g} -6V28"/>' for r in references)
    if low is not None and high is not None:
        body += f'<path class="interval" d="M{frame.x(low):g} 11H{frame.x(high):g}" style="stroke:var({colour})"/>'
    return _svg(22, body + _dot(frame.x(value), 11, colour, "dot big"))


def interval_axis(domain: tuple[float, float], percent: bool) -> str:
    """Tick labels under a column of interval plots."""
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0] if percent and domain == (0.0, 1.0) else nice_ticks(*domain, 5)
    frame = Frame(domain[0], domain[1], 0, 1, 1)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1
    return "".join(
        f'<span class="xtick" style="left:{frame.left(t)}">{tick_label(t, step, percent)}</span>' for t in ticks
    )
