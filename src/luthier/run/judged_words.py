"""A judge's win rate in words: who said it, and how far that can be believed. Reads report.json only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Told(NamedTuple):
    """What report.json holds of one judge."""

    probe: str
    pair: str
    """new_vs_old."""
    judge: str
    mark: str
    """"unverified", "unreliable", or "" for a judge that people's votes bear out."""
    trust: str
    lines: list[str]
    verdicts: int
    asked: int


def judges_in(metrics: Mapping[str, Any]) -> list[Told]:
    """The judges of all win rates."""
    return [told for name, tree in metrics.items() if isinstance(tree, Mapping) for told in judges_of(name, tree)]


def judges_of(probe: str, tree: Mapping[str, Any]) -> Iterator[Told]:
    """The judges of one probe's metrics."""
    for pair, found in tree.items():
        facts = found.get("judge") if isinstance(found, Mapping) else None
        if isinstance(facts, Mapping) and "trust" in facts:
            mark = "" if facts["standing"] == "reliable" else facts["standing"]
            verdicts = facts["asked"] - sum(facts["skipped"].values())
            lines = list(facts["lines"])
            yield Told(probe, pair, facts["judge"], mark, facts["trust"], lines, verdicts, facts["asked"])


def said_under(probe: str, tree: Mapping[str, Any]) -> str:
    """What stands under a probe's figures; '' without a judge."""
    return ". ".join(warning(told) for told in judges_of(probe, tree))


def warning(told: Told) -> str:
    """One judge in a sentence, without its full stop."""
    trust = told.trust.removeprefix("unreliable: ")
    said = f"{told.mark}: {trust}" if told.mark else trust
    skipped = f"; {told.asked - told.verdicts} of {told.asked} pairs have no verdict"
    return f"judge {told.judge}: {said}{skipped if told.verdicts < told.asked else ''}"


def in_whose_eyes(report: Mapping[str, Any], probe: str, pair: str) -> tuple[str, str]:
    """(what comes before a win rate in a sentence, what comes after it). Of a judge that nobody has checked, or that is
    not shown to be better than a ruler, the reader hears before the figure."""
    told = next((t for t in judges_in(report.get("metrics", {})) if (t.probe, t.pair) == (probe, pair)), None)
    if told is None:
        return "", " in the eyes of the scripted rater" if report.get("simulated") else ""
    called = told.judge.rpartition("#")[2]
    if not told.mark:
        return "", f" in the eyes of {called}, a judge that people's votes bear out"
    which = "a judge that nobody has checked" if told.mark == "unverified" else "a judge that is not reliable"
    return f"By the word of {called}, {which}, ", ""


def is_simulated(tree: Any) -> bool:
    """Whether some figure comes from a program in a person's place."""
    if not isinstance(tree, Mapping):
        return False
    return tree.get("simulated") is True or any(is_simulated(inner) for inner in tree.values())
