"""Pictures of a curated data set: the map of what it is about, and distributions before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from luthier.run.pictures import number, spread

WIDE, TALL = 1000, 460
"""Of the map's box: x runs over 0..WIDE whatever the width on the screen; TALL is in pixels."""
EDGE = 14
LAYERS = ((0, "out"), (1, "left"), (2, "held"), (3, "kept"))
"""Order in which rows are drawn: what is kept lies on top."""
LINE = 21
"""Pixels between two labels that would touch."""
REACH = 26.0
"""Labels nearer than this, in per cent of the width, touch where they are on one line."""
BORDER = 16.0
"""Labels so near to a side, in per cent, stand inside of it."""
MAJOR = 7
"""Topics that are named on a phone too."""


def topic_map(found: Mapping[str, Any]) -> str:
    """A figure: every row a dot, the kept ones over the others, topics named where they lie."""
    points, topics = found["points"], found["topics"]
    body = []
    for state, kind in LAYERS:
        dots = "".join(f"M{across(x):g} {down(y):g}h.01" for x, y, s in points if s == state)
        if dots:
            body.append(f'<path class="row {kind}" d="{dots}"/>')
    named = [topic for topic in topics if topic["rows"]]
    labels = []
    for rank, (topic, top) in enumerate(zip(named, apart(named), strict=True)):
        left = across(topic["x"]) / WIDE * 100
        where = " first" if left < BORDER else " last" if left > 100 - BORDER else ""
        where += " minor" if rank >= MAJOR else ""
        left = min(max(left, 1.0), 99.0) if where[:6] in (" first", " last") else left
        labels.append(f'<b class="place{where}" style="left:{left:.1f}%;top:{top:.0f}px">{escape(topic["name"])}</b>')
    said = "; ".join(f"{topic['name']}: {topic['kept']} of {topic['rows']}" for topic in named)
    return (
        f'<figure class="map"><div class="ground" style="height:{TALL}px" role="img" aria-label="{escape(said)}">'
        f'<svg viewBox="0 0 {WIDE} {TALL}" preserveAspectRatio="none" aria-hidden="true">{"".join(body)}</svg>'
        f"{''.join(labels)}</div></figure>"
    )


def across(x: float) -> float:
    """−1..1 to the box's width."""
    return round(EDGE + (WIDE - 2 * EDGE) * (x + 1) / 2, 1)


def down(y: float) -> float:
    """−1..1 to the box's height."""
    return round(EDGE + (TALL - 2 * EDGE) * (1 - (y + 1) / 2), 1)


def apart(topics: Sequence[Mapping[str, Any]]) -> list[float]:
    """Where the labels stand (pixels from the top), moved so that none lies on another."""
    tops = [down(topic["y"]) for topic in topics]
    lefts = [across(topic["x"]) / WIDE * 100 for topic in topics]
    for i in sorted(range(len(topics)), key=lambda i: lefts[i]):
        near = [j for j in range(len(topics)) if abs(lefts[i] - lefts[j]) < REACH]
        for j, top in zip(near, spread([tops[j] for j in near], LINE, TALL - EDGE), strict=True):
            tops[j] = top
    return [min(max(top, 10.0), TALL - 10.0) for top in tops]


def distribution(
    title: str, note: str, before: Sequence[int], after: Sequence[int], ends: tuple[str, str], height: int = 96
) -> str:
    """Two histograms on one ground, each as shares of its own rows: all rows grey, the kept ones a line."""
    bars = len(before)
    all_, kept = (shares(counts) for counts in (before, after))
    top = max([*all_, *kept, 1e-9])
    step = WIDE / max(1, bars)
    ground = "".join(
        f"M{k * step + step * 0.06:.1f} {height}v{-height * share / top:.1f}h{step * 0.88:.1f}V{height}z"
        for k, share in enumerate(all_)
        if share
    )
    line = "".join(
        f"{'M' if k == 0 else 'L'}{k * step:.1f} {y(share, top, height)}H{(k + 1) * step:.1f}"
        for k, share in enumerate(kept)
    )
    under = f'<path class="bars" d="{ground}"/>' if ground else ""
    over = f'<path class="keptline" d="{line}"/>' if any(after) else ""
    described = escape(f"{title}. {note}")
    return (
        f'<figure class="chart dist"><figcaption><b>{escape(title)}</b> <span>{escape(note)}</span></figcaption>'
        f'<div role="img" aria-label="{described}"><svg viewBox="0 0 {WIDE} {height}" preserveAspectRatio="none" '
        f'style="height:{height}px" aria-hidden="true">{under}{over}<path class="grid" d="M0 {height}H{WIDE}"/></svg>'
        f'<p class="ends"><span>{escape(ends[0])}</span><span>{escape(ends[1])}</span></p></div></figure>'
    )


def y(share: float, top: float, height: int) -> str:
    return f"{height - height * share / top:.1f}"


def shares(counts: Sequence[int]) -> list[float]:
    """Counts as parts of their sum."""
    total = sum(counts) or 1
    return [count / total for count in counts]


def lengths_picture(found: Mapping[str, Any]) -> str:
    """How long rows are, before and after."""
    if not found["edges"]:
        return ""
    after = found["median_after"]
    note = f"words a row; half have at most {found['median_before']:,.0f}"
    note += f", of the kept ones {after:,.0f}" if after is not None else ""
    ends = (f"{found['edges'][0]:,.0f}", f"{found['edges'][-1]:,.0f} words (logarithmic)")
    return distribution("Length", note, found["before"], found["after"], ends, 120)


def score_picture(found: Mapping[str, Any]) -> str:
    """How a score is distributed, before and after."""
    name = str(found["name"]).replace("_", " ")
    name = f"{name.removesuffix(' frac')} (share)" if name.endswith(" frac") else name
    note = f"median {number(found['median_before'])}"
    if found["median_after"] is not None:
        note += f", kept {number(found['median_after'])}"
    ends = (number(found["low"]), number(found["high"]))
    return distribution(name[:1].upper() + name[1:], note, found["before"], found["after"], ends, 72)
