"""What pictures that are files share: SVG with its words inside, light or dark as their reader's screen is. Inside a
page they take the page's colours."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from luthier.run.pictures import Point, tick_label

STYLE = """
svg{--ink:#1c1b1a;--muted:#6a6761;--hair:#e6e2d9;--paper:#fcfbf8;--bar:#cfc9bd;--grey:#87837b;--blue:#2568b0;
--green:#0d7f68;--gold:#b07800;--plum:#8a4a9c;--red:#c8442a}
@media (prefers-color-scheme:dark){svg{--ink:#ece9e2;--muted:#a09c93;--hair:#2e3036;--paper:#15161a;--bar:#4a4d55;
--grey:#98948b;--blue:#74aeea;--green:#4bc4a3;--gold:#e2b34b;--plum:#c792dc;--red:#ff8b6e}}
text{font:13px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;fill:var(--ink);
font-variant-numeric:tabular-nums}
.h{font-size:19px;font-weight:600}.b{font-weight:600}.m{fill:var(--muted)}.s{font-size:11.5px;fill:var(--muted)}
.e{text-anchor:end}.c{text-anchor:middle}.hair{stroke:var(--hair)}.ref{stroke:var(--muted);stroke-dasharray:3 3}
"""
"""The page's colours; classes for words and lines."""
FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif"


def svg(width: int, height: int, label: str, parts: Iterable[str], alone: bool = True) -> str:
    """A picture as SVG text; `label` is what is read out. `alone`: with colours and a ground of its own, for a file;
    else as wide as the page lets it be."""
    paper = f'<rect width="{width}" height="{height}" style="fill:var(--paper)"/>'
    ground = f"<style>{STYLE}</style>{paper}" if alone else ""
    size = f'width="{width}" height="{height}"' if alone else 'style="width:100%;height:auto"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {size} role="img" '
        f'aria-label="{escape(label)}">{ground}{"".join(parts)}</svg>\n'
    )


def words(
    x: float, y: float, text: str, size: int = 13, ink: str = "--ink", anchor: str = "start", bold: bool = False
) -> str:
    """A line of text."""
    style = f"font:{size}px {FONT};fill:var({ink}){';font-weight:600' if bold else ''};text-anchor:{anchor}"
    return f'<text x="{x:g}" y="{y:g}" style="{style}">{escape(text)}</text>'


@dataclass(frozen=True)
class Plot:
    """Where data lands in a picture: x on a logarithmic axis between two values, y between the first and the last of
    the ticks. Pixels: the picture's size, and what is left free at its edges."""

    x_low: float
    x_high: float
    ticks: Sequence[float]
    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int

    @property
    def base(self) -> int:
        """Where the horizontal axis runs, px from the top."""
        return self.height - self.bottom

    @property
    def end(self) -> int:
        """Where the plot ends, px from the left."""
        return self.width - self.right

    def x(self, value: float) -> float:
        share = math.log(value / self.x_low) / math.log(self.x_high / self.x_low)
        return round(self.left + (self.end - self.left) * share, 1)

    def y(self, value: float) -> float:
        """What lies outside is drawn at the edge."""
        inside = min(max(value, self.ticks[0]), self.ticks[-1])
        share = (inside - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])
        return round(self.base - (self.base - self.top) * share, 1)

    def path(self, points: Sequence[Point]) -> str:
        return "M" + "L".join(f"{self.x(x):g} {self.y(y):g}" for x, y in points)

    def axes(self, share: bool, marks: Iterable[tuple[float, str]], below: str) -> list[str]:
        """Rules at the ticks with their figures, the marks (value, words) of the horizontal axis, and what it is."""
        parts = []
        for tick in self.ticks:
            at, label = self.y(tick), tick_label(tick, self.ticks[1] - self.ticks[0], share)
            parts.append(f'<path d="M{self.left} {at}H{self.end}" style="stroke:var(--hair);fill:none"/>')
            parts.append(words(self.left - 10, at + 4, label, size=12, ink="--muted", anchor="end"))
        for value, label in marks:
            parts.append(f'<path d="M{self.x(value)} {self.base}v5" style="stroke:var(--muted);fill:none"/>')
            parts.append(words(self.x(value), self.base + 20, label, size=12, ink="--muted", anchor="middle"))
        middle = (self.left + self.end) / 2
        return [*parts, words(middle, self.height - 18, below, size=12, ink="--muted", anchor="middle")]

    def titled(self, title: str, said: Sequence[str], parts: Iterable[str], alone: bool) -> str:
        """The picture below its title; in a file also the first of what is said of it, which a page says beside it."""
        head = [words(self.left, 30, title, size=17, bold=True)]
        if alone:
            head.append(words(self.left, 52, said[0], ink="--muted"))
        return svg(self.width, self.height, f"{title}. {' '.join(said)}", [*head, *parts], alone)
