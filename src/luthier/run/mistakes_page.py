"""The report's section "What it gets wrong": each category after each stage, and the worst answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from luthier.base.mistakes import CATEGORY_WORDS
from luthier.run.mistakes import ANY
from luthier.run.pictures import interval_axis, interval_plot, nice_ticks
from luthier.run.story import Figure, Story, figures, interval, stage_word, written
from luthier.run.words import COLOURS

KIND = "mistakes"
"""The kind of probe whose figures stand here and not among the others."""
SHOWN_FIRST = 6
"""Worst answers that are open; the others unfold."""


def mistakes_of(story: Story) -> list[dict[str, Any]]:
    """One part of the section for each probe of kind mistakes that has figures."""
    probes = story.resolved.get("evaluate", {})
    kinds = {s.name: s.kind for s in story.stages}
    found = []
    for name, tree in story.report.get("metrics", {}).items():
        if probes.get(name, {}).get("kind") == KIND and ANY in tree:
            worst = [shown(row, kinds) for row in tree.get("worst", [])]
            found.append(
                {
                    "title": stage_word(name),
                    "how": how_asked(probes[name]),
                    **bars(tree, kinds),
                    "clean": [CATEGORY_WORDS[c].lower() for c in tree.get("clean", [])],
                    "worst": worst[:SHOWN_FIRST],
                    "more": worst[SHOWN_FIRST:],
                }
            )
    return found


def how_asked(probe: Mapping[str, Any]) -> str:
    """'greedy answers', or '8 answers to each prompt, drawn at temperature 1'."""
    if not probe.get("temperature"):
        return "greedy answers"
    draws = probe.get("samples", 1)
    each = f"{draws} answers to each prompt" if draws > 1 else "an answer to each prompt"
    return f"{each}, drawn at temperature {probe['temperature']:g}"


def bars(tree: Mapping[str, Any], kinds: Mapping[str, str]) -> dict[str, Any]:
    """{parts: (category, a row for each stage), axis}; all on one axis from 0 to the greatest interval's end."""
    groups = [
        (name, list(figures(tree[name], (name,)))) for name in CATEGORY_WORDS if isinstance(tree.get(name), Mapping)
    ]
    ends = [f.high or f.value for _, leaves in groups for f in leaves]
    domain = (0.0, nice_ticks(0.0, max([*ends, 0.02]), 5)[-1])

    def row(figure: Figure) -> dict[str, Any]:
        colour = COLOURS.get(kinds.get(figure.name, figure.name), "--ink")
        picture = interval_plot(figure.value, figure.low, figure.high, colour, domain)
        words = {"label": stage_word(figure.name), "value": written(figure.value, True, False)}
        return words | {"figure": figure, "picture": picture, "interval": interval(figure, True)}

    order = sorted(groups, key=lambda group: (group[0] == ANY, -max(f.value for f in group[1])))
    parts = [(CATEGORY_WORDS[name], [row(f) for f in leaves]) for name, leaves in order]
    return {"parts": parts, "axis": interval_axis(domain, True)}


def shown(row: Mapping[str, Any], kinds: Mapping[str, str]) -> dict[str, Any]:
    """A wrong answer in pieces, with why it is wrong and the training rows that are nearest."""
    categories = list(dict.fromkeys(f["category"] for f in row["findings"]))
    return {
        "prompt": row["prompt"],
        "origin": row["origin"],
        "after": row["after"],
        "colour": COLOURS.get(kinds.get(row["after"], row["after"]), "--ink"),
        "wanted": ", ".join(row.get("accept") or ()) or row.get("reference") or "",
        "categories": [CATEGORY_WORDS[c].lower() for c in categories],
        "why": list(dict.fromkeys(f["why"] for f in row["findings"])),
        "pieces": pieces(row["answer"], row["findings"]),
        "nearest": row.get("nearest", []),
    }


def pieces(answer: str, findings: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(text, category whose evidence it is, or ''); where evidence overlaps, the graver finding has it."""
    owner = [""] * len(answer)
    for f in findings:  # worst first
        for i in range(max(0, f["start"]), min(len(answer), f["end"])):
            owner[i] = owner[i] or f["category"]
    cuts = [i for i in range(len(answer) + 1) if i in (0, len(answer)) or owner[i] != owner[i - 1]]
    words = [(answer[a:b], owner[a]) for a, b in pairwise(cuts) if a < b]
    return [(text, CATEGORY_WORDS[name].lower() if name else "") for text, name in words]
