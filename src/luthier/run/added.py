"""The report's sections on what each stage added, on what it cost, and the closer looks of single probes. Everything
comes from report.json; where it says nothing, a section is empty and not shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from luthier.evals.calibration import in_words
from luthier.evals.support import listed
from luthier.run.pictures import Frame, tick_label
from luthier.run.story import Story, percent, stage_word
from luthier.run.tradeoff import Axis, Span, Spot, plane
from luthier.run.words import COLOURS

Point = Mapping[str, Any]
GROUPS = {
    "knowledge": ("What it knows", "the knowledge", "Facts recalled without being asked for: multiple choice, cloze."),
    "alignment": ("How it answers", "the manners", "Answers that stop, answer, do not loop: no knowledge is needed."),
    "both": ("Both at once", "", "Right answers to questions need the knowledge and the manners."),
}
HEIGHT = 150
"""Pixels of a panel."""
PARTS = {
    "stops": "stop by themselves",
    "answers": "answer, and do not go on with the text",
    "no_loop": "do not run in circles",
    "not_empty": "say something",
    "format": "have the format asked for",
    "logp": "mean log-prob of the right value, nats",
    "right": "answers that are right",
    "always_right": "questions answered rightly in every wording",
    "always_wrong": "questions with the same wrong answer in every wording",
    "claims_supported": "claims that the source holds",
    "unanswerable_answered": "unanswerable questions answered all the same",
    "answerable_refused": "answerable questions refused",
}


def abilities(story: Story, *groups: str) -> list[Mapping[str, Any]]:
    """What report.json tells of these groups, in the recipe's order."""
    return [a for a in (story.report.get("attribution") or {}).get("abilities", []) if a["group"] in groups]


def kinds(story: Story) -> dict[str, str]:
    """Kind of stage by model."""
    return {s["name"]: s["kind"] for s in (story.report.get("attribution") or {}).get("stages", [])}


def added(story: Story) -> dict[str, Any]:
    """Panels by what they are about, and the same in words; empty where fewer than two models can be compared."""
    found = abilities(story, *GROUPS)
    if not any("gain" in point for a in found for point in a["points"]):
        return {}
    colours = {name: COLOURS.get(kind, "--ink") for name, kind in kinds(story).items()}
    parts = []
    for group, (title, _, meaning) in GROUPS.items():
        pictures = [gain_chart(a["probe"], a["points"], colours) for a in found if a["group"] == group]
        if pictures:
            parts.append({"title": title, "meaning": meaning, "pictures": pictures})
    return {"parts": parts, "headline": headline(story), "lines": lines(story)}


def real(gain: Mapping[str, Any]) -> bool:
    """Whether a difference's interval leaves out 0."""
    return gain["low"] > 0 or gain["high"] < 0


def points_of(gain: Mapping[str, Any], unit: bool = True) -> str:
    """'+93.3 points [86, 98]' of a difference of shares."""
    ends = ", ".join(f"{100 * gain[key]:.0f}" for key in ("low", "high"))
    value = f"{100 * gain['value']:+.0f}" if round(100 * gain["value"]) else "±0"
    return f"{value}{' points' if unit else ''} [{ends}]".replace("-", "−")


def givers(story: Story, group: str) -> list[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """(model, its point, the ability) of the stage that gave most of a group, for the group's first ability."""
    for ability in abilities(story, group):
        gained = [p for p in ability["points"] if "gain" in p and p["gain"]["low"] > 0]
        if gained:
            best = max(gained, key=lambda p: p["gain"]["value"])
            return [(best["model"], best, ability)]
    return []


def headline(story: Story) -> str:
    """'Pretraining gave the knowledge (25 % → 97 %), SFT the manners (0 % → 93 %).'"""
    said = []
    for group in ("knowledge", "alignment"):
        for model, point, _ in givers(story, group):
            change = f"({percent(point['was'])} → {percent(point['value'])}, {points_of(point['gain'])})"
            said.append((named(model), GROUPS[group][1], change))
    if not said:
        return "No stage changed what was measured by more than chance explains."
    first = f"{said[0][0]} gave {said[0][1]} {said[0][2]}"
    return ", ".join([first, *(f"{who} {what} {change}" for who, what, change in said[1:])]) + "."


def named(model: str) -> str:
    """A stage's name at the beginning of a sentence."""
    word = stage_word(model)
    return "Pretraining" if word == "pretrain" else word[:1].upper() + word[1:]


def lines(story: Story) -> list[str]:
    """One sentence a stage: what changed really, what did not, what it cost."""
    told = []
    for stage in (story.report.get("attribution") or {}).get("stages", []):
        mine = [(a, p) for a in abilities(story, *GROUPS) for p in a["points"] if p["model"] == stage["name"]]
        gains = [(a["probe"].replace("_", " "), p["gain"]) for a, p in mine if "gain" in p]
        sure = [f"{name} {points_of(gain)}" for name, gain in gains if real(gain)]
        unsure = [name for name, gain in gains if not real(gain)]
        costs = [
            f"held-out loss on {a.get('data', a['probe']).replace('_', ' ')} {signed(p['gain'])} nats per token"
            + ("" if real(p["gain"]) else " (not a real difference)")
            for a in abilities(story, "forgetting")
            for p in a["points"]
            if p["model"] == stage["name"] and "gain" in p
        ]
        wins = [
            f"preferred in {percent(f['value'])} of comparisons with {stage_word(old)}"
            for old, f in won(story, stage["name"])
        ]
        pieces = [*sure, *wins, *costs]
        pieces += [f"no real difference in {listed(unsure)}"] if unsure else []
        if pieces:
            told.append(f"{named(stage['name'])}: {'; '.join(pieces)}.")
    return told


def won(story: Story, model: str) -> list[tuple[str, Mapping[str, Any]]]:
    """(whom it was compared with, the win rate) of a stage's model."""
    leaves = [
        (key, figure)
        for tree in story.report.get("metrics", {}).values()
        if isinstance(tree, Mapping)
        for key, figure in tree.items()
        if isinstance(figure, Mapping) and "value" in figure
    ]
    return [(key.partition("_vs_")[2], figure) for key, figure in leaves if key.startswith(f"{model}_vs_")]


def signed(gain: Mapping[str, Any]) -> str:
    """'+0.012 [0.008, 0.016]'"""
    return f"{gain['value']:+.3f} [{gain['low']:.3f}, {gain['high']:.3f}]".replace("-", "−")


def gain_chart(title: str, points: Sequence[Point], colours: Mapping[str, str]) -> str:
    """One ability over the stages: each value with its interval, joined to the one it came from, its gain below."""
    stops = [(p["model"], p["value"], p["low"], p["high"]) for p in points]
    first = next((p for p in points if p.get("before") == "chance"), None)
    if first is not None:
        stops.insert(0, ("chance", first["was"], None, None))
    index = {name: i for i, (name, *_) in enumerate(stops)}
    frame = Frame(-0.5, len(stops) - 0.5, 0, 1, HEIGHT)
    body = "".join(f'<path class="grid" d="M0 {frame.y(y):g}H1000"/>' for y in (0.25, 0.5, 0.75, 1))
    body += f'<path class="base" d="M0 {HEIGHT}H1000"/>'
    label = [
        f'<span class="ytick" style="top:{frame.y(y):g}px">{tick_label(y, 0.25, True)}</span>' for y in (0, 0.5, 1)
    ]
    for p in points:
        if p.get("before") in index:
            a, b = index[p["before"]], index[p["model"]]
            body += f'<path class="line quiet" d="{frame.path([(a, stops[a][1]), (b, stops[b][1])])}"/>'
    for i, (name, value, low, high) in enumerate(stops):
        colour = colours.get(name, "--grey")
        if low is not None and high is not None:
            ends = f"M{frame.x(i):g} {frame.y(low):g}V{frame.y(high):g}"
            body += f'<path class="interval" d="{ends}" style="stroke:var({colour})"/>'
        body += f'<path class="dot big" d="M{frame.x(i):g} {frame.y(value):g}h.01" style="stroke:var({colour})"/>'
        label.append(
            f'<span class="value" style="left:{frame.left(i)};top:{frame.y(value):g}px">{percent(value)}</span>'
            f'<span class="xtick" style="left:{frame.left(i)}">{under(name, points)}</span>'
        )
    described = "; ".join(f"{stage_word(name)} {percent(value)}" for name, value, *_ in stops)
    return (
        f'<figure class="chart slope gains"><figcaption><b>{escape(title.replace("_", " "))}</b></figcaption>'
        f'<div class="plot" role="img" aria-label="{escape(f"{title}. {described}")}">'
        f'<div class="area" style="height:{HEIGHT}px"><svg viewBox="0 0 1000 {HEIGHT}" preserveAspectRatio="none" '
        f'aria-hidden="true">{body}</svg>{"".join(label)}</div></div></figure>'
    )


def under(name: str, points: Sequence[Point]) -> str:
    """A stage's name, and below it its gain: coloured where it is real."""
    if name == "chance":
        return "<b>chance</b>"
    gain = next((p["gain"] for p in points if p["model"] == name and "gain" in p), None)
    if gain is None:
        return f"<b>{escape(stage_word(name))}</b>"
    kind = "up" if gain["low"] > 0 else "down" if gain["high"] < 0 else "same"
    value, _, ends = points_of(gain, unit=False).partition(" ")
    return f'<b>{escape(stage_word(name))}</b><br><i class="{kind}">{value}</i><br>{ends}'


def tradeoffs(story: Story) -> list[str]:
    """For each held-out text, gain over forgetting: where each stage took the model, as arrows."""
    colours = {name: COLOURS.get(kind, "--ink") for name, kind in kinds(story).items()}
    first = {ability["group"]: ability for ability in reversed(abilities(story, *GROUPS))}  # one a group
    pictures = []
    for loss in abilities(story, "forgetting"):
        rises = {p["model"]: p.get("rise", {"value": 0.0, "low": None, "high": None}) for p in loss["points"]}
        for ability in (first[group] for group in ("both", "alignment", "knowledge") if group in first):
            points = [p for p in ability["points"] if p["model"] in rises]
            index = {p["model"]: i for i, p in enumerate(points)}
            spots = [
                Spot(
                    stage_word(p["model"]),
                    Span(*(rises[p["model"]][key] for key in ("value", "low", "high"))),
                    Span(p["value"], p["low"], p["high"]),
                    colours.get(p["model"], "--grey"),
                    index.get(p.get("before", "")),
                )
                for p in points
            ]
            if len(spots) > 1:
                x = Axis(f"rise of the loss on {loss.get('data', loss['probe']).replace('_', ' ')}, nats per token")
                name = ability["probe"].replace("_", " ")
                pictures.append(plane(f"{name} over forgetting", spots, x, Axis(name, share=True), size=(420, 290)))
    return pictures


def looks(story: Story) -> list[dict[str, Any]]:
    """The closer looks: one entry a probe that says more than one figure."""
    found = []
    for name, tree in story.report.get("metrics", {}).items():
        if not isinstance(tree, Mapping):
            continue
        mine = {after: f for after, f in tree.items() if isinstance(f, Mapping)}
        calibrated = [calibration_look(after, f, story) for after, f in mine.items() if f.get("calibration")]
        rows = [(after, f["parts"], f.get("examples", [])) for after, f in mine.items() if f.get("parts")]
        if calibrated or rows:
            table = parts_table(rows)
            shown = [(after, e) for after, _, examples in rows for e in examples[:3]]
            found.append(
                {
                    "name": name,
                    "calibrated": calibrated,
                    "table": table,
                    "examples": shown,
                    "models": [r[0] for r in rows],
                }
            )
    return found


def parts_table(rows: Sequence[tuple[str, Mapping[str, Any], Any]]) -> list[tuple[str, list[str]]]:
    """(what is counted, a cell a model)."""
    keys = list(dict.fromkeys(key for _, parts, _ in rows for key in parts))
    return [
        (PARTS.get(key, key.replace("_", " ")), [cell(key, parts.get(key)) for _, parts, _ in rows]) for key in keys
    ]


def cell(key: str, figure: Mapping[str, Any] | None) -> str:
    """'93 % [86, 97]'"""
    if figure is None:
        return ""
    if key == "logp":
        return f"{figure['value']:.2f} [{figure['low']:.2f}, {figure['high']:.2f}]".replace("-", "−")
    return f"{percent(figure['value'])} [{100 * figure['low']:.0f}, {100 * figure['high']:.0f}]"


def calibration_look(after: str, figure: Mapping[str, Any], story: Story) -> dict[str, Any]:
    """A reliability diagram with what it says."""
    c = figure["calibration"]
    colour = COLOURS.get(kinds(story).get(after, after), "--ink")
    ece = c["ece"]
    return {
        "after": after,
        "picture": reliability_diagram(c["bins"], colour),
        "ece": f"{100 * ece['value']:.1f} [{100 * ece['low']:.1f}, {100 * ece['high']:.1f}]",
        "chance": f"{100 * c['by_chance']:.1f}",
        "brier": f"{c['brier']['value']:.3f}",
        "words": in_words(ece["value"], c["by_chance"], c["confidence"], c["accuracy"]),
    }


def reliability_diagram(bins: Sequence[Mapping[str, Any]], colour: str, side: int = 190) -> str:
    """How often the pick is right over how likely the model held it, bin by bin; the diagonal is perfect."""
    left, top, inner = 38, 8, side - 58

    def x(share: float) -> float:
        return round(left + inner * share, 1)

    def y(share: float) -> float:
        return round(top + inner * (1 - share), 1)

    parts = [f'<path class="grid" d="M{left} {y(t)}H{left + inner}M{x(t)} {top}V{top + inner}"/>' for t in (0, 0.5, 1)]
    parts.append(f'<path class="mark" d="M{x(0)} {y(0)}L{x(1)} {y(1)}"/>')
    for b in bins:
        ends = f"M{x(b['confidence'])} {y(b['low'])}V{y(b['high'])}"
        parts.append(f'<path class="whisker" d="{ends}" style="stroke:var({colour})"/>')
        parts.append(f'<circle cx="{x(b["confidence"])}" cy="{y(b["accuracy"])}" r="4" style="fill:var({colour})"/>')
    small = "fill:var(--muted);font-size:11px"
    parts += [
        f'<text x="{x(t)}" y="{top + inner + 15}" text-anchor="middle" style="{small}">{t:.0%}</text>'
        for t in (0, 0.5, 1)
    ]
    parts += [
        f'<text x="{left - 6}" y="{y(t) + 4}" text-anchor="end" style="{small}">{t:.0%}</text>' for t in (0, 0.5, 1)
    ]
    parts.append(
        f'<text x="{left + inner / 2}" y="{side - 4}" text-anchor="middle" style="{small}">how sure it is</text>'
    )
    described = "; ".join(f"{b['confidence']:.0%} sure, {b['accuracy']:.0%} right" for b in bins)
    shown = f'viewBox="0 0 {side} {side}" role="img" aria-label="{escape(described)}"'
    return f'<svg class="plane" {shown}>{"".join(parts)}</svg>'


def contaminated(story: Story) -> list[dict[str, Any]]:
    """Probes with rows that are in the training data too, and the figures with and without them."""
    found = []
    for name, told in (story.report.get("contamination") or {}).items():
        whole, clean = told["all"], told["clean"]
        both = {key for key in whole if key in clean}  # a category of mistakes may be gone from one of them
        rows = [
            (stage_word(after), written(whole.get(after)), written(clean.get(after)))
            for after in whole | clean
            if after in both or not both
        ]
        found.append({"name": name, **told, "figures": rows})
    return found


def written(figure: Mapping[str, Any] | None) -> str:
    """'0.933 [0.861, 0.969] of 90'"""
    if not figure or figure.get("value") is None:
        return "nothing left"
    low, high, n = figure.get("low"), figure.get("high"), figure.get("n")
    ends = f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None else ""
    return f"{figure['value']:.3f}{ends}{f', n = {n}' if n else ''}".replace("-", "−")
