"""The report's section on rows that were made: how many, by which way, what they look like, what was dropped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.base.synthesis import METHODS
from luthier.run.story import Story, percent


def synthesised(story: Story) -> list[dict[str, Any]]:
    """One entry a stage that made rows; empty where there is none."""
    found = []
    for stage in story.stages:
        if stage.kind != "synthesise" or not stage.record.get("methods"):
            continue
        record = stage.record
        by = record["settings"].get("model") or "rules alone, without a model"
        methods = [method_row(name, told) for name, told in record["methods"].items()]
        found.append(
            {
                "name": stage.name,
                "by": by,
                "of": record["settings"]["data"],
                "rows": record["rows"],
                "methods": methods,
                "dropped": list(record.get("dropped", {}).items()),
                "usage": usage_words(record.get("usage", {})),
            }
        )
    return found


def method_row(name: str, told: Mapping[str, Any]) -> dict[str, Any]:
    """What one method made, as the page shows it."""
    share = told["share"]
    ends = f"[{share['low'] * 100:.0f}, {share['high'] * 100:.0f}]" if share.get("low") is not None else ""
    about = METHODS.get(name)
    return {
        "name": name.replace("_", " "),
        "what": about.what if about else "",
        "paper": about.paper if about else "",
        "rows": told["rows"],
        "share": f"{percent(share['value'])} {ends}" if share["n"] else "",
        "tried": share["n"],
        "steps": list(told.get("steps", {}).items()),
        "shown": told.get("shown", []),
    }


def usage_words(usage: Mapping[str, Any]) -> str:
    """What was paid, in words; "" where nobody was asked."""
    if not usage.get("requests"):
        return ""
    said = f"{usage['requests']:,} answers: {usage['tokens_in']:,} tokens read, {usage['tokens_out']:,} written"
    if usage.get("usd") is not None:
        said += f", ${usage['usd']:.2f}"
    if usage.get("capped"):
        said += f"; the spend cap kept {usage['capped']:,} questions from being sent"
    return said
