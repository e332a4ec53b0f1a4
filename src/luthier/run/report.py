"""report.html: one page that fetches nothing, made from the files of a run's folder only.

`story.py` reads the folder, `verdict.py` says it in a sentence, `report_charts.py` and `pictures.py` draw,
`report.html.j2` is the page; here the parts are put in its order.
Everything a model or a file wrote is escaped by Jinja, and a content security policy allows only the page's own script.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
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
from luthier.run.pictures import count, created, duration, interval_axis, interval_plot, nice_ticks, size
from luthier.run.report_charts import curves, forgetting
from luthier.run.story import (
    Figure,
    Group,
    Story,
    facts,
    figure_label,
    finite,
    groups,
    guards_of,
    interval,
    lineage,
    parents,
    read_run,
    rejected,
    stage_word,
    trouble,
    written,
)
from luthier.run.synthesised_page import synthesised
from luthier.run.verdict import verdict
from luthier.run.words import COLOURS, MEANING, NATS_AND_BETA, OTHER_MEANING, OWN_UNITS, PREFERRING, WORK, pretty

MOST_PROMPTS, MOST_REJECTED, MOST_CHARACTERS = 16, 12, 4000
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


def data_tables(story: Story) -> list[dict[str, Any]]:
    """report.json's data rows, each with the source's settings and its reasons, most frequent first."""
    found = []
    for row in story.report.get("data", []):
        source = story.resolved.get("data", {}).get(row["name"], {})
        reasons = sorted((row.get("reasons") or {}).items(), key=lambda item: -item[1])
        found.append({**row, "source": source, "reasons": reasons})
    return found
