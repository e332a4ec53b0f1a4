"""A judge's verdicts in words: who said it, and how far that can be believed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # words need no torch
    from luthier.evals.intervals import Figure
    from luthier.run.judging import Judging


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


def judge_lines(judging: Judging) -> list[str]:
    """What is known of a judge, before what it says."""
    lines = [f"judge {judging.judge}: {judging.trust}"]
    if (e := judging.examined) is not None:
        lines += [
            f"with people: Cohen's κ {short(e.kappa)}, the same verdict {percent(e.agreement)}, "
            f"correlation {number(e.pearson)} (ranks {number(e.spearman)}), n = {e.agreement.n}",
            f"always the longer answer: κ {short(e.length_kappa)}, the same verdict {percent(e.length_agreement)}",
        ]
        if e.people_alpha is not None:
            lines.append(f"people among themselves: Krippendorff's α {number(e.people_alpha)}")
        if e.no_verdict:
            lines.append(f"{e.no_verdict} of the duels that people voted on have no verdict of the judge")
    if (b := judging.bias) is not None:
        if judging.rubric is not None:  # to a program the order is nothing
            lines.append(
                f"same verdict in both orders {percent(b.consistent)}; {b.first} times it took the first both times, "
                f"{b.second} times the second (ties, then)"
            )
        if b.longer is not None:
            lines.append(f"it takes the longer answer in {percent(b.longer)} of its decisions")
    lines += [f"{count} duels without a verdict: {why}" for why, count in judging.reasons.items()]
    return lines


def bout_lines(judging: Judging) -> list[str]:
    """What a judge says; marked where it is not to be believed."""
    mark = "" if judging.reliable else "unverified: " if judging.examined is None else "UNRELIABLE: "
    return [f"{mark}{bout.words}" for bout in judging.bouts]


def percent(f: Figure) -> str:
    """'81 % [75, 86]'"""
    return f"{f.value * 100:.0f} % [{f.low * 100:.0f}, {f.high * 100:.0f}]"


def short(f: Figure | None) -> str:
    """'0.41 [0.30, 0.52]'; a dash where it is not defined."""
    return "—" if f is None else f"{f.value:.2f} [{f.low:.2f}, {f.high:.2f}]".replace("-", "−")


def number(value: float | None) -> str:
    """'0.41'; a dash where it is not defined."""
    return "—" if value is None else f"{value:.2f}".replace("-", "−")
