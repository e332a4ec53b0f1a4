"""What people see of a curated data set: the section of a run's report, and a page of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from luthier.run.curation_picture import lengths_picture, score_picture, topic_map
from luthier.run.pictures import interval_axis, interval_plot

SCORES = 9
"""Pictures of scores; what tells kept rows from the others most comes first."""


def curation_section(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """What `curation.html.j2` is given of one curate stage's curation.json."""
    kept, rows = found["kept"], found["rows"]
    return {
        **found,
        "name": name,
        "said": headline(found),
        "parts": parts(found),
        "map_picture": topic_map(found["map"]) if found["map"]["points"] else "",
        "sampled": found["map"].get("sampled", False),
        "topics": [topic_row(topic, rows, kept) for topic in found["map"]["topics"]],
        "length_picture": lengths_picture(found["lengths"]),
        "score_pictures": [score_picture(score) for score in telling(found["scores"])],
        "covered": coverage_rows(found["coverage"]),
        "covered_said": coverage_words(found["coverage"], found.get("embeddings")),
        "verdicts": [verdict_word(found["licences"][use]) for use in ("commercial", "share")],
        "rejected": found.get("rejected", 0),
        "private": found.get("private"),
        "moved": found.get("moved", {}).get("words", ""),
    }


def headline(found: Mapping[str, Any]) -> str:
    """What became of the rows, in a sentence."""
    out = found["rows"] - found["kept"] - found["heldout"]
    none: dict[str, Any] = {"rows": 0, "details": []}
    spare = next((row for row in found["reasons"] if row["reason"] == "not chosen"), none)
    chosen, over = spare["rows"], sum(count for _, count in spare["details"])
    said = f"{found['kept']:,} of {found['rows']:,} rows are kept to train on, {found['heldout']:,} held out"
    if not out:
        return f"{said}; nothing speaks against any."
    wrong = out - chosen
    tail = [f"something speaks against {wrong:,}"] * bool(wrong)
    tail += [f"{chosen - over:,} are good enough, and others stand for them"] * bool(chosen - over)
    tail += [f"{over:,} are more of a source than the recipe allows"] * bool(over)
    return f"{said}; {' and '.join(tail)}."


def made_words(stages: Sequence[tuple[str, Mapping[str, Any]]]) -> list[tuple[str, bool]]:
    """[(words, stressed)]: the rows that the last of some stages made (kind, stage.json), where all of them make rows;
    empty otherwise."""
    if not stages or any(kind not in ("curate", "synthesise") or "rows" not in record for kind, record in stages):
        return []
    kind, record = stages[-1]
    rows = record["rows"]
    if kind == "synthesise":
        return [(f"{rows:,} rows", True), (" were made.", False)]
    held = f", {rows['heldout']:,} held out to measure on" if rows["heldout"] else ""
    return [(f"{rows['kept']:,} of {rows['read']:,} rows", True), (f" are kept to train on{held}.", False)]


def parts(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows as a bar: kept, held out, not chosen, left out."""
    chosen = next((row["rows"] for row in found["reasons"] if row["reason"] == "not chosen"), 0)
    wrong = sum(row["rows"] for row in found["reasons"]) - chosen
    counted = (
        ("kept", found["kept"], "--green"),
        ("held out", found["heldout"], "--blue"),
        ("not chosen", chosen, "--grey"),
        ("left out", wrong, "--red"),
    )
    return [{"word": word, "rows": rows, "colour": colour} for word, rows, colour in counted if rows]


def topic_row(topic: Mapping[str, Any], rows: int, kept: int) -> dict[str, Any]:
    """A topic's share of all rows and of the kept ones, in per cent."""
    return {**topic, "before": 100 * topic["rows"] / max(1, rows), "after": 100 * topic["kept"] / max(1, kept)}


def telling(scores: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The scores to show: the quality, then those in which the kept rows differ most from all."""

    def moved(score: Mapping[str, Any]) -> float:
        before, after = (sum(score[key]) or 1 for key in ("before", "after"))
        both = zip(score["before"], score["after"], strict=True)
        return sum(abs(a / before - b / after) for a, b in both)

    return sorted(scores, key=lambda score: (score["name"] != "quality", -moved(score)))[:SCORES]


def coverage_rows(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """Coverage as interval plots."""
    if not found:
        return None
    words = {"kept": ("the chosen rows", "--green"), "random": ("as many at random", "--grey")}
    rows = [
        {
            "label": label,
            "picture": interval_plot(found[key]["value"], found[key]["low"], found[key]["high"], colour, (0.0, 1.0)),
            "value": f"{found[key]['value']:.3f}",
            "range": f"{found[key]['low']:.3f} to {found[key]['high']:.3f}",
            "n": found[key]["n"],
        }
        for key, (label, colour) in words.items()
    ]
    return {"rows": rows, "axis": interval_axis((0.0, 1.0), False)}


def coverage_words(found: Mapping[str, Any], embeddings: str | None = None) -> str:
    """How much better the choice stands for the rest than chance would."""
    if not found:
        return ""
    gain = found["gain"]
    vectors = "TF-IDF" if embeddings is None else f"the vectors of {embeddings}"
    between = f"{gain['value']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]".replace("-", "−")
    sure = (
        "the difference is real"
        if gain["low"] > 0
        else "random rows stand nearer"
        if gain["high"] < 0
        else "no difference that could be told from chance"
    )
    return (
        f"How near each of {found['over']:,} fit rows is to its nearest kept row (cosine of {vectors}; 1: it is kept "
        f"itself). The {found['rows']:,} chosen ones beside as many drawn at random from all rows: {between}; {sure}."
    )


def verdict_word(answer: bool | None) -> str:
    """Yes, no, or nobody knows."""
    return {True: "yes", False: "no", None: "not known"}[answer]
