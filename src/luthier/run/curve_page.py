"""What people see of a learning curve: a table, the section of a page, the files of `luthier curve`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.evals.forecast import figure
from luthier.evals.powerlaw import Range
from luthier.run.curve_picture import curve_picture


def curve_section(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What `curve_section.html.j2` is given; None where there is no curve."""
    if found is None or "error" in found:
        return dict(found) if found is not None else None
    curves = [
        {
            "name": name,
            "picture": curve_picture(name, one, found["stage"], alone=False),
            "said": one["said"],
            "rows": table_rows(one),
        }
        for name, one in found["curves"].items()
    ]
    return {**found, "curves": curves, "error": ""}


def table_rows(one: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row a size: examples, figure, interval, the runs by themselves."""
    share, rows = one["share"], []
    for point in one["points"]:
        value, _, interval = figure(Range(point["value"], point["low"], point["high"]), share).partition(" [")
        runs = ", ".join(f"{run * 100:.1f}" if share else f"{run:.3f}" for run in point["runs"])
        words = {"n": f"{point['n']:,}", "value": value, "interval": f"[{interval}", "runs": runs}
        rows.append(words | {"asked": f"{point['items']:,}"})
    return rows


def headline(found: Mapping[str, Any]) -> str:
    """The answer, in a sentence."""
    return str(found["curves"][found["metric"]]["said"][0])
