"""The report's charts: a stage's figures over its steps, and a text's held-out loss over the stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from luthier.run.pictures import Series, Stop, line_chart, slope_chart
from luthier.run.story import Stage, Story, finite, losses, parents, stage_word
from luthier.run.words import COLOURS, LARGE, PLUMBING, TITLES, pretty

MOST_CURVES, MOST_NOTES, MOST_SAMPLES = 24, 12, 8
MOST_CHARACTERS = 240
"""Of an answer that was written as the model learned."""


def curves(stage: Stage) -> dict[str, Any]:
    """The charts of one stage: a few large, the rest as small multiples."""
    steps = [e for e in stage.events if e["kind"] == "step"]
    keys = list(dict.fromkeys(k for e in steps for k, v in e.items() if k not in PLUMBING and finite(v)))
    measured: dict[str, list[Mapping[str, Any]]] = {}
    for event in stage.events:
        if event["kind"] == "eval" and finite(event.get("value")):
            measured.setdefault(event["name"], []).append(event)
    measured = {name: rows for name, rows in measured.items() if len(rows) > 1 or name.startswith("heldout")}
    large = [k for k in LARGE.get(stage.kind, ("loss",)) if k in keys]
    rest = sorted((k for k in keys if k not in large), key=lambda k: list(TITLES).index(k) if k in TITLES else 99)
    lone = [name for name in measured if name.removeprefix("heldout_") not in keys]
    moments = {"resume": "resumed", "rollback": "went back"}
    marks = [(e["step"], moments[e["kind"]]) for e in stage.events if e["kind"] in moments][-3:]
    alone = len(large) == 1 and len(rest) + len(lone) <= 2
    draw: Callable[..., str] = lambda key, **how: chart(key, steps, measured, stage, **how)  # noqa: E731
    return {
        "stage": stage,
        "alone": alone,
        "steps": len(steps),
        "large": [draw(key, height=236 if alone else 190, marks=marks) for key in large],
        "small": [draw(key, height=84) for key in [*rest, *lone][:MOST_CURVES]],
        "samples": thinned([e for e in stage.events if e["kind"] == "sample"]),
        "notes": [e["text"] for e in stage.events if e["kind"] == "note"][:MOST_NOTES],
    }


def thinned(samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the model wrote as it learned, for the prompt it was shown most: the first, the last, some between."""
    prompts = [e["prompt"] for e in samples]
    same = [e for e in samples if e["prompt"] == max(prompts, key=prompts.count)]
    kept = sorted({round(i * (len(same) - 1) / (MOST_SAMPLES - 1)) for i in range(MOST_SAMPLES)}) if same else []
    return [{**same[i], "answer": same[i]["answer"][:MOST_CHARACTERS]} for i in kept]


def chart(
    key: str,
    steps: Sequence[Mapping[str, Any]],
    measured: Mapping[str, Sequence[Mapping[str, Any]]],
    stage: Stage,
    height: int,
    marks: Sequence[tuple[float, str]] = (),
) -> str:
    """One figure over the steps: as trained, and as measured on held-out rows."""
    title, note = TITLES.get(key, (pretty(key.removesuffix("_frac")).capitalize(), ""))
    points = [(float(e["step"]), float(e[key])) for e in steps if finite(e.get(key))]
    series = [Series("training", points, COLOURS.get(stage.kind, "--ink"))]
    for name in (key, f"heldout_{key}"):
        rows = [e for e in measured.get(name, []) if len(measured[name]) > 1 or name != key]
        dots = [(float(e["step"]), float(e["value"])) for e in rows]
        whiskers = [
            (float(e["step"]), float(e["low"]), float(e["high"]))
            for e in rows
            if len(rows) <= 40 and finite(e.get("low")) and finite(e.get("high"))
        ]
        series.append(Series("held out", dots, "--ink", dots=True, whiskers=whiskers))
    share = key.endswith("_frac") or key == "accuracy"
    if key == "loss" and stage.kind in ("pretrain", "sft"):
        note = "nats per token, by step"
    elif height > 100:
        note = f"{note}, by step" if note else "by step"
    return line_chart(series, title, note=note, height=height, percent=share, x_range=(0, 1), marks=marks)


def forgetting(story: Story) -> list[str]:
    """A slope chart for each text whose held-out loss was measured after more than one stage."""
    kinds, came_from = {s.name: s.kind for s in story.stages}, parents(story)
    found = []
    for corpus, leaves in losses(story).items():
        names, stops = [f.name for f in leaves], []
        for i, f in enumerate(leaves):
            change = "" if not f.value or f.value == f.loss else f"{f.value:+.3f}".replace("-", "−")
            colour = COLOURS.get(kinds.get(f.name, f.name), "--ink")
            before = ancestor(f.name, names, came_from) if i else None
            stops.append(Stop(stage_word(f.name), f.loss or 0.0, change, colour, before))
        if len(stops) > 1:
            found.append(slope_chart(pretty(corpus), stops, note="held-out loss, nats per token"))
    return found


def ancestor(name: str, among: Sequence[str], came_from: Mapping[str, Sequence[str]]) -> int | None:
    """Index of the nearest measured model that a stage's model comes from; the base when it is measured; else None."""
    for parent in came_from.get(name, []):
        if parent in among:
            return among.index(parent)
        if (older := ancestor(parent, among, came_from)) is not None:
            return older
    return among.index("base") if "base" in among else None
