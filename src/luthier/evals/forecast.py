"""A learning curve in words and figures: what more data would buy, where it stops paying, what cannot be told yet."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from luthier.evals.powerlaw import MISFIT, Curve, Range, expected, exponent, forecast, gain, interval, knee

WORTH_SHARE, WORTH_LOSS = 0.01, 0.01
"""What doubling the data has to bring: a point of 100; a hundredth of the loss."""
AHEAD = 4.0
"""The picture's curve ends at so many times the data."""
OUT_OF_SIGHT = 32.0
"""A knee beyond so many times the data is not located: nothing near it was measured."""
DRAWN = 48
"""Points of the drawn curve."""
SURE = 0.25
"""A gain is told as one where the lower end of its interval is at least this part of it."""
LOCATED = 100.0
"""An interval of a knee whose ends are further apart than this many times says nothing."""


@dataclass(frozen=True)
class Outlook:
    """What a curve says of more data. Figures are as people read them: accuracies rise, losses fall; gains are
    improvements, above 0 when it gets better."""

    n: int
    """Examples of the largest size."""
    more: int
    gain: Range
    """Improvement that so many more examples are expected to bring, in the mean of many runs."""
    doubling: Range
    """The same for twice the data."""
    knee: Range
    """Examples from which a doubling brings less than `worth`."""
    worth: float
    exponent: Range
    floor: Range
    """The figure that no amount of such data passes."""
    ahead: list[tuple[int, Range]]
    """(examples, what the next run with so many is expected to show)."""
    verdict: str
    """helps, past, unknown."""
    said: list[str]
    """The same in sentences, the first one the answer."""


def outlook(curve: Curve, more: int, worth: float | None, seed: int) -> Outlook:
    """What the curve says of `more` examples. `worth` is in points of 100 for shares, in nats a token for losses."""
    n, share = curve.n, curve.share
    at_n = float(expected(curve, n).value)
    least = worth / 100 if worth is not None and share else worth
    least = least if least is not None else WORTH_SHARE if share else max(WORTH_LOSS * at_n, 1e-9)
    gained, doubled, bend = gain(curve, more), gain(curve, n), knee(curve, least)
    floor = interval(curve.laws.c, float(curve.law.c[0]))
    ahead = [(m, forecast(curve, m, seed)) for m in dict.fromkeys((n, n + more, 2 * n))]
    verdict = verdict_of(gained, least * np.log2(1 + more / n))
    said = [*answer(verdict, gained, more, share), *about_knee(bend, n, least, share), *about_fit(curve)]
    said += [
        f"With {m:,} examples the next run is expected to show {figure(shown(r, share), share)}."
        for m, r in ahead
        if m > n
    ]
    return Outlook(
        n,
        more,
        gained,
        doubled,
        bend,
        least,
        exponent(curve),
        shown(floor, share),
        [(m, shown(r, share)) for m, r in ahead],
        verdict,
        said,
    )


def verdict_of(gained: Range, worth: float) -> str:
    """helps: a good part of the gain is sure. past: even its upper end is not worth it. Else unknown."""
    if gained.high < worth:
        return "past"
    return "helps" if gained.value > 0 and gained.low >= SURE * gained.value else "unknown"


def answer(verdict: str, gained: Range, more: int, share: bool) -> list[str]:
    """'500 more examples: +2.1 ± 0.8 points.'"""
    found = f"{signed(gained.value, share)} ± {plain(gained.half, share)}"
    if verdict == "helps":
        return [f"{more:,} more examples: {found} {unit(share)}."]
    if verdict == "past":
        return [f"Past the knee: {more:,} more examples are not expected to help ({found} {unit(share)})."]
    ends = f"between {signed(gained.low, share)} and {signed(gained.high, share)} {unit(share)}"
    said = "More seeds, more sizes or more test items would narrow that."
    return [f"Cannot tell yet: {more:,} more examples would bring something {ends}.", said]


def about_knee(bend: Range, n: int, worth: float, share: bool) -> list[str]:
    """Where doubling the data stops paying."""
    brings = f"a doubling brings less than {plain(worth, share)} {unit(share)}"
    if bend.low > OUT_OF_SIGHT * n:
        return [f"The knee, where {brings}, is not in sight: beyond {OUT_OF_SIGHT:g} times this data."]
    most = f"{round_n(bend.high):,}" if bend.high <= OUT_OF_SIGHT * n else f"more than {OUT_OF_SIGHT:g} times this data"
    if bend.value > OUT_OF_SIGHT * n or bend.high > LOCATED * max(bend.low, 1):
        return [f"Where the knee lies, from which {brings}, these points do not say."]
    return [
        f"The knee, where {brings}, lies at about {round_n(bend.value):,} examples [{round_n(bend.low):,}, {most}]."
    ]


def about_fit(curve: Curve) -> list[str]:
    """Whether the points lie on such a curve at all."""
    said = []
    if curve.first:
        small = ", ".join(f"{point.n:,}" for point in curve.points[: curve.first])
        said.append(f"The law runs through the larger sizes: {small} examples lie off it, and are left out.")
    if curve.misfit > MISFIT:
        said.append(
            f"The points lie further from a power law than the luck of seeds explains (χ² per degree of freedom "
            f"{curve.misfit:.1f}): every forecast is widened by that."
        )
    return said


def round_n(n: float) -> int:
    """Two significant digits."""
    return int(float(f"{n:.2g}"))


def shown(error: Range, share: bool) -> Range:
    """An error as people read it: a share as accuracy."""
    return Range(1 - error.value, 1 - error.high, 1 - error.low) if share else error


def unit(share: bool) -> str:
    """Of a difference."""
    return "points" if share else "nats a token"


def plain(value: float, share: bool) -> str:
    """'2.1', '0.034'"""
    return f"{value * 100:.1f}" if share else f"{value:.3f}"


def signed(value: float, share: bool) -> str:
    """'+2.1'; an improvement of a loss is a fall: '−0.034'."""
    return f"+{plain(value, True)}" if share else f"−{plain(value, False)}" if value > 0 else plain(value, False)


def figure(one: Range, share: bool) -> str:
    """'84.2 % [81.0, 87.1]', '1.312 [1.280, 1.350]'"""
    low, value, high = (plain(x, share) for x in (one.low, one.value, one.high))
    return f"{value}{' %' if share else ''} [{low}, {high}]"


def as_json(curve: Curve, found: Outlook) -> dict[str, Any]:
    """The whole of it as plain values, for curve.json and report.json: points, law, band, forecasts, words."""
    share = curve.share
    points = []
    for k, point in enumerate(curve.points):
        inside = shown(interval(curve.drawn_RK[:, k], float(curve.error_K[k])), share)
        runs = [1 - error if share else error for error in point.errors_S.tolist()]
        points.append({"n": point.n, **inside._asdict(), "runs": runs, "items": len(point.bottoms_N)})
    first, last = curve.points[curve.first].n, max(AHEAD * found.n, found.n + found.more)
    band = [[round(n, 2), *shown(expected(curve, n), share)] for n in np.geomspace(first, last, DRAWN).tolist()]
    words = asdict(found) | {key: value._asdict() for key, value in ranges_of(found).items()}
    words["ahead"] = [{"n": n, **one._asdict()} for n, one in found.ahead]
    law = {"a": float(curve.law.a[0]), "b": float(curve.law.b[0]), "c": float(curve.law.c[0]), "unit": curve.law.unit}
    fit = {"law": law, "misfit": curve.misfit, "first": curve.first}
    return {"share": share, "points": points, "band": band, **fit, **words}


def ranges_of(found: Outlook) -> dict[str, Range]:
    """Its figures that have an interval, by name."""
    return {
        "gain": found.gain,
        "doubling": found.doubling,
        "knee": found.knee,
        "exponent": found.exponent,
        "floor": found.floor,
    }
