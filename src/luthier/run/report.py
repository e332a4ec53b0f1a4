"""report.html: one page that fetches nothing, made from the files of a run's folder only.

`story.py` reads the folder, `pictures.py` draws, `report.html.j2` is the page; here the parts are put in its order.
Everything a model or a file wrote is escaped by Jinja, and a content security policy allows only the page's own script.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from luthier.base.files import write_text
from luthier.base.values import marked
from luthier.run.added import added, contaminated, looks, tradeoffs
from luthier.run.curation_page import curation_section
from luthier.run.curve_page import curve_section
from luthier.run.judged_words import judges_in
from luthier.run.mistakes_page import KIND, mistakes_of
from luthier.run.pictures import (
    Series,
    Stop,
    count,
    created,
    duration,
    interval_axis,
    interval_plot,
    line_chart,
    nice_ticks,
    size,
    slope_chart,
)
from luthier.run.story import (
    Figure,
    Group,
    Stage,
    Story,
    facts,
    figure_label,
    finite,
    groups,
    guards_of,
    interval,
    lineage,
    losses,
    parents,
    read_run,
    rejected,
    stage_word,
    trouble,
    verdict,
    written,
)
from luthier.run.synthesised_page import synthesised
from luthier.run.words import (
    COLOURS,
    LARGE,
    MEANING,
    NATS_AND_BETA,
    OTHER_MEANING,
    OWN_UNITS,
    PLUMBING,
    PREFERRING,
    TITLES,
    WORK,
)

MOST_CURVES, MOST_PROMPTS, MOST_REJECTED, MOST_CHARACTERS, MOST_NOTES, MOST_SAMPLES = 24, 16, 12, 4000, 12, 8
PREVIEW = 240  # characters of a long answer before it is opened


def write_report(run: Path) -> Path:
    """Writes report.html into a run's folder and returns its path. UserError when the folder is not a run's."""
    page = run / "report.html"
    write_text(page, render(read_run(run)))
    return page


def render(story: Story) -> str:
    """The page as text."""
    return templates().get_template("report.html.j2").render(page(story))


def write_page(path: Path, title: str, kicker: str, verdict: str, section: str, values: Mapping[str, Any]) -> None:
    """Writes a page of its own, in the report's look, around one section's template and its values."""
    jinja = templates()
    words = {"title": title, "kicker": kicker, "verdict": verdict, "section": section, "style": style(jinja)}
    write_text(path, jinja.get_template("page.html.j2").render(words | dict(values)))


def templates() -> Environment:
    """The pages of this folder, and what they may write with."""
    jinja = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters |= {"duration": duration, "size": size, "count": count, "word": stage_word, "short": short}
    jinja.filters |= {
        "csp_hash": csp_hash,
        "pretty": pretty,
        "clip": clip,
        "colour": lambda kind: COLOURS.get(kind, "--ink"),
    }
    return jinja


def style(jinja: Environment) -> str:
    """The report's style sheet, for other pages that are to look like it."""
    assert jinja.loader is not None
    source = jinja.loader.get_source(jinja, "report.html.j2")[0]
    return source.partition("<style>")[2].partition("</style>")[0]


def page(story: Story) -> dict[str, Any]:
    """What the template is given: one value a section, empty where there is nothing to show."""
    seconds = story.report.get("seconds") or sum(s.record.get("seconds", 0) for s in story.stages)
    peaks = [s.record["peak_bytes"] for s in story.stages if finite(s.record.get("peak_bytes"))]
    measuring, bad = story.report.get("evaluate_seconds", 0), rejected(story)
    return {
        "story": story,
        "verdict": verdict(story),
        "created": created(story.report.get("created")),
        "seed": story.report.get("seed", story.resolved.get("seed")),
        "seconds": seconds,
        "peak_bytes": story.report.get("peak_bytes") or max(peaks, default=None),
        "simulated": story.report.get("simulated") or any(s.record.get("simulated") for s in story.stages),
        "path": path_of(story),
        "metrics": [table for group in groups(story) if group.kind != KIND for table in metric_tables(group, story)],
        "answers": answers(story),
        "curves": [c for c in (curves(s) for s in story.stages) if c["large"] or c["small"]],
        "forgetting": forgetting(story),
        "added": added(story),
        "tradeoffs": tradeoffs(story),
        "looks": looks(story),
        "judges": judges_in(story.report.get("metrics", {})),
        "contaminated": contaminated(story),
        "wrong": mistakes_of(story),
        "curated": [curation_section(s.name, s.curation) for s in story.stages if s.curation],
        "synthesised": synthesised(story),
        "curve": curve_section(story.report.get("learning_curve")),
        "guards": [(s, guards_of(s)) for s in story.stages if guards_of(s)],
        "data": data_tables(story),
        "rejected": bad[:MOST_REJECTED],
        "rejected_more": max(0, len(bad) - MOST_REJECTED),
        "versions": facts(story, "versions"),
        "hardware": facts(story, "hardware"),
        "lineage": lineage(story),
        "evaluate_seconds": measuring,
        "evaluate_share": measuring / (seconds or 1),
        "parameters": max((s.record.get("parameters") or 0 for s in story.stages), default=0),
        "resolved": json.dumps(story.resolved, indent=2, ensure_ascii=False) if story.resolved else "",
    }


def short(digest: str) -> str:
    """The beginning of a hash; words ("fresh") stay whole."""
    return digest[:12]


def pretty(name: str) -> str:
    """A key as words: 'by_length' is 'by length'."""
    return name.replace("_", " ")


def clip(text: str, most: int) -> str:
    """The beginning of a text that is too long to stand whole."""
    return text if len(text) <= most else f"{text[:most].rstrip()} …"


def csp_hash(script: str) -> str:
    """The source expression that lets this very inline script run, and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(str(script).encode()).digest()).decode()


def path_of(story: Story) -> list[dict[str, Any]]:
    """The stages as a picture: share of the time, figures, and how far a stopped one came."""
    total = sum(s.record.get("seconds", 0) for s in story.stages) + story.report.get("evaluate_seconds", 0) or 1
    found, came_from = [], parents(story)
    for stage in story.stages:
        seconds = stage.record.get("seconds", 0)
        last: Mapping[str, Any] = next((e for e in reversed(stage.events) if e["kind"] == "step"), {})
        steps = f"step {last['step']} of {last['steps']}" if last.get("steps") else ""
        kind = "masked" if stage.record.get("settings", {}).get("objective") == "masked" else stage.kind
        words = {"work": WORK.get(kind, kind), "steps": steps, "trouble": trouble(stage)}
        words["before"] = " and ".join(stage_word(name) for name in came_from[stage.name])
        found.append({"stage": stage, "share": seconds / total, **words})
    return found


def metric_tables(group: Group, story: Story) -> list[dict[str, Any]]:
    """A group as tables with one axis each: shares in per cent, other figures in their own unit."""
    shares = [f for f in group.figures if group.is_share(f)]
    return [
        metric_table(group, part, share, story)
        for part, share in ((shares, True), ([f for f in group.figures if f not in shares], False))
        if part
    ]


def metric_table(group: Group, part: Sequence[Figure], share: bool, story: Story) -> dict[str, Any]:
    """Rows of label, picture and figures, by the key they stand under, on one axis."""
    domain, references, remark = scale_of(group, part, share, story)
    kinds = {s.name: s.kind for s in story.stages}

    def row(figure: Figure) -> dict[str, Any]:
        colour = colour_of(figure, group, kinds)
        picture = interval_plot(figure.value, figure.low, figure.high, colour, domain, references)
        value = written(figure.value, share, signed=group.kind == "loss")
        words = {"label": figure_label(figure), "value": value, "interval": interval(figure, share)}
        return {"figure": figure, "picture": picture, **words}

    parents = list(dict.fromkeys(f.path[:-1] for f in part))
    parts = [(pretty(" · ".join(parent)), [row(f) for f in part if f.path[:-1] == parent]) for parent in parents]
    title, meaning, said = stage_word(group.name), MEANING.get(group.kind, OTHER_MEANING), group.said
    if len(parts) == 1 and parts[0][0]:
        title, parts = f"{title}: {parts[0][0]}", [("", parts[0][1])]
    if group.kind in PREFERRING and not share:
        title, meaning, said = f"{title}: scores", OWN_UNITS.get(group.kind, NATS_AND_BETA), ""
    return {
        "title": title[0].upper() + title[1:],
        "meaning": f"{meaning} {remark}",
        "said": said[:1].upper() + said[1:],
        "parts": parts,
        "axis": interval_axis(domain, share),
    }


def scale_of(
    group: Group, part: Sequence[Figure], share: bool, story: Story
) -> tuple[tuple[float, float], list[float], str]:
    """(axis, values to draw a rule at, what a rule means when it needs words)."""
    if not share:
        ends = [x for f in part for x in (f.value, f.low, f.high) if x is not None]
        ticks = nice_ticks(min(0.0, *ends), max(0.0, *ends), 5)
        return (ticks[0], ticks[-1]), [0.0], ""
    references, remark = [0.5] if group.kind in ("win_rate", *PREFERRING) else [], ""
    noise = [stage["noise"] for stage in story.resolved.get("stages", []) if stage.get("noise")]
    if group.kind in PREFERRING and noise:
        references.append(1 - noise[0])
        remark = (
            f"{100 - noise[0] * 100:g} % is all that can be expected: {noise[0] * 100:g} % of the labels are flipped."
        )
    return (0.0, 1.0), references, remark


def colour_of(figure: Figure, group: Group, kinds: Mapping[str, str]) -> str:
    """The colour of the stage whose model was measured; grey for the base and for baselines."""
    name = figure.name.partition("_vs_")[0]
    if group.kind in PREFERRING:
        return "--grey" if "baseline" in name else COLOURS[group.kind]
    return COLOURS.get(kinds.get(name, name), "--ink")


def answers(story: Story) -> dict[str, Any]:
    """The same held-out prompts answered after one stage and the next: {columns, prompts, more}."""
    columns = [("base", "base", story.base_samples)] if story.base_samples else []
    columns += [(s.name, s.kind, s.samples) for s in story.stages if s.samples]
    told: dict[tuple[str, str], dict[str, Any]] = {}
    for name, _, rows in columns:
        for row in rows:
            key = (row["origin"], row["prompt"])
            found = told.setdefault(key, {"prompt": row["prompt"], "origin": row["origin"], "by": {}})
            found["reference"] = row.get("reference") or ", ".join(row.get("accept") or ())
            found["by"][name] = shown_answer(row)
    right = {name: [r["right"] for r in rows if r.get("right") is not None] for name, _, rows in columns}
    return {
        "columns": [{"name": n, "kind": k, "right": sum(right[n]), "of": len(right[n])} for n, k, _ in columns],
        "prompts": list(told.values())[:MOST_PROMPTS],
        "more": max(0, len(told) - MOST_PROMPTS),
    }


def shown_answer(row: Mapping[str, Any]) -> dict[str, Any]:
    """An answer in pieces (text, is an accepted value); a long one also as a preview."""
    text = row["answer"]
    pieces = marked(text[:MOST_CHARACTERS], row.get("accept") or ())
    return {
        "pieces": pieces,
        "preview": text[:PREVIEW] if len(text) > PREVIEW * 1.25 else "",
        "left_out": max(0, len(text) - MOST_CHARACTERS),
        "length": len(text),
        "right": row.get("right"),
        "ended": row.get("ended", True),
    }


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
    return [{**same[i], "answer": same[i]["answer"][:PREVIEW]} for i in kept]


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


def data_tables(story: Story) -> list[dict[str, Any]]:
    """report.json's data rows, each with the source's settings and its reasons, most frequent first."""
    found = []
    for row in story.report.get("data", []):
        source = story.resolved.get("data", {}).get(row["name"], {})
        reasons = sorted((row.get("reasons") or {}).items(), key=lambda item: -item[1])
        found.append({**row, "source": source, "reasons": reasons})
    return found
