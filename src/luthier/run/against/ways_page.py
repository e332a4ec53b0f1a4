"""What people see of the ways: a table, a picture of quality against cost, a page with the answers side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from luthier.base.spaced import spaced
from luthier.run.against.ways_words import TUNED, dollars, points, signed
from luthier.run.drawing import Plot, words
from luthier.run.pictures import nice_ticks, spread

WIDE, TALL = 860, 420
LEFT, RIGHT, TOP, BOTTOM = 66, 150, 84, 62
SHOWN = 8
"""Questions whose answers the page shows."""
HEADINGS = (
    "way", "quality", "over the best simple way", "waits: median", "p90", "tokens in", "out", "1,000 answers",
    "pays from",
)  # fmt: skip


def table(made: Mapping[str, Any]) -> list[list[str]]:
    """A row a way, in the order of HEADINGS."""
    cells = []
    for way, row in made["rows"].items():
        quality, over = row["quality"], row.get("over_best_simple")
        shown = f"{points(quality['value'])} % [{points(quality['low'])}, {points(quality['high'])}]"
        gap = f"{signed(over['value'])} [{signed(over['low'])}, {signed(over['high'])}]" if over else "—"
        pays = "" if way not in TUNED else "never" if row["breaks_even_at"] is None else f"{row['breaks_even_at']:,}"
        times = [time_words(row[key]) for key in ("median_s", "p90_s")]
        tokens = [f"{row[key]:,.0f}" for key in ("tokens_in", "tokens_out")]
        cells.append([way, shown, gap, *times, *tokens, dollars(row["usd_1000"]), pays])
    return cells


def time_words(seconds: float) -> str:
    """'38 ms', '1.2 s'"""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def notes(made: Mapping[str, Any]) -> list[str]:
    """What was equal, what it cost, what had no room."""
    lines = [
        f"{made['items']} held-out questions, the same for every way; quality: {made['measure']}",
        f"costs: measured seconds at {dollars(made['price_per_hour_usd'])} an hour (--price-per-hour), "
        "answers made together; waits: asked one at a time",
    ]
    for way, row in made["rows"].items():
        if row["held"] is not None:
            lines.append(f"{way}: what was looked up held the right value for {points(row['held']['value'])} % of them")
        if row["dropped"]:
            what = "examples" if way == "few-shot" else "passages"
            lines.append(
                f"{way}: {row['dropped']} {what} had no room in the model's context, {row['shown']:.1f} were shown"
            )
    cut = {way: row["cut_off"] for way, row in made["rows"].items() if row["cut_off"]}
    if cut:
        lines.append("cut off at the token limit: " + ", ".join(f"{way} {count}" for way, count in cut.items()))
    return lines


def ways_picture(made: Mapping[str, Any], title: str, alone: bool = True) -> str:
    """Quality against the cost of 1,000 answers (logarithmic), a dot and its interval a way, as SVG text."""
    rows = made["rows"]
    costs = {way: max(row["usd_1000"], 1e-9) for way, row in rows.items()}
    low, high = min(costs.values()) * 10**-0.15, max(costs.values()) * 10**0.15
    ends = [row["quality"][key] for row in rows.values() for key in ("low", "high")]
    ticks = nice_ticks(max(0.0, min(ends) - 0.03), min(1.0, max(ends) + 0.03), 6)
    plot = Plot(low, high, ticks, WIDE, TALL, LEFT, RIGHT, TOP, BOTTOM)
    amounts = [(usd, dollars(usd)) for usd in money_ticks(low, high)]
    parts = plot.axes(True, amounts, "cost of 1,000 answers (up and left is better)")
    order = list(rows)
    tops = spread([plot.y(rows[way]["quality"]["value"]) for way in order], 17, plot.base)
    for way, top in zip(order, tops, strict=True):
        quality, at = rows[way]["quality"], plot.x(costs[way])
        ink = "--red" if way == made["chosen"] else "--blue" if way in TUNED else "--ink"
        whisker = f'd="M{at} {plot.y(quality["low"])}V{plot.y(quality["high"])}"'
        parts.append(f'<path {whisker} style="stroke:var({ink});stroke-width:1.5;opacity:.5;fill:none"/>')
        parts.append(f'<circle cx="{at}" cy="{plot.y(quality["value"])}" r="5.5" style="fill:var({ink})"/>')
        parts.append(words(at + 11, top + 4, way, ink=ink, bold=way == made["chosen"]))
    return plot.titled(title, made["said"], parts, alone)


def money_ticks(low: float, high: float) -> list[float]:
    """Round amounts between two others: powers of ten; their 2 and 5 fold too where those are few, or all."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 2, 5), range(1, 10)):
        ticks = [m * 10.0**k for k in powers for m in digits if low <= m * 10.0**k <= high]
        if len(ticks) >= 3:
            break
    return ticks


def section(made: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]], title: str) -> dict[str, Any]:
    """What `ways_section.html.j2` is given."""
    first = next(iter(found.values()))
    picked = spread_out([[one["right"][i] for one in found.values()] for i in range(len(first["questions"]))])
    answers = [
        {
            "question": first["questions"][i],
            "reference": first["references"][i],
            "origin": first["origins"][i],
            "by": [(way, one["answers"][i], one["right"][i]) for way, one in found.items()],
        }
        for i in picked
    ]
    picture = ways_picture(made, title, alone=False)
    rows = [(row, row[0] == made["chosen"]) for row in table(made)]
    return {"picture": picture, "headings": HEADINGS, "rows": rows, "notes": notes(made), "answers": answers} | {
        "said": made["said"][1:], "failed": made["failed"], "left_out": made["left_out"],
    }  # fmt: skip


def spread_out(rights: Sequence[Sequence[int | None]]) -> list[int]:
    """Some questions to show: those first on which the ways part, else any, each half from the whole range."""
    parted = [i for i, row in enumerate(rights) if len(set(row)) > 1]
    rest = [i for i in range(len(rights)) if i not in set(parted)]
    chosen = spaced(parted, SHOWN - 2)
    return sorted([*chosen, *spaced(rest, SHOWN - len(chosen))])
