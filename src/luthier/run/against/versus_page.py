"""compare.html: one page that fetches nothing, in the report's look. Answers stand side by side, those that differ most
first; what a model or a file wrote is escaped by Jinja."""

from __future__ import annotations

import difflib
import re
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from luthier.base.files import write_text
from luthier.base.nouns import last_user
from luthier.base.values import marked
from luthier.evals.intervals import Figure
from luthier.run.against.measures import Measure
from luthier.run.against.versus import Versus
from luthier.run.against.versus_words import (
    arena_lines,
    arena_table,
    correction,
    difference_rows,
    plain,
    said,
)
from luthier.run.judged_words import bout_lines, judge_lines
from luthier.run.pictures import interval_axis, interval_plot, nice_ticks
from luthier.run.report import style, templates

COLOURS = ("--blue", "--gold", "--green", "--plum", "--red", "--grey")
MOST_ITEMS, MOST_CHARACTERS = 300, 4000


def write_page(found: Versus) -> Path:
    """Writes compare.html beside compare.json, and returns its path."""
    jinja = templates()
    page = jinja.get_template("against/versus.html.j2").render(style=style(jinja), **page_of(found))
    file = found.folder / "compare.html"
    write_text(file, page)
    return file


def page_of(found: Versus) -> dict[str, Any]:
    """What the template is given."""
    first, _ = said(found)
    judging = found.judging
    return {
        "found": found,
        "title": " against ".join(found.labels),
        "first": first,
        "differences": difference_rows(found),
        "correction": correction(found),
        "colour": {label: COLOURS[k % len(COLOURS)] for k, label in enumerate(found.labels)},
        "tables": [table_of(found, measure) for measure in found.measures],
        "items": items_of(found),
        "more": max(0, len(found.chats) - MOST_ITEMS),
        "judge": None if judging is None else judge_lines(judging),
        "bouts": [] if judging is None else bout_lines(judging),
        "reliable": judging is not None and judging.reliable,
        "arena": None if judging is None or judging.table is None else arena_table(judging.table),
        "arena_said": [] if judging is None or judging.table is None else arena_lines(judging.table),
    }


def table_of(found: Versus, measure: Measure) -> dict[str, Any]:
    """One measure of every model on one axis."""
    figures = found.figures[measure.key]
    domain = domain_of(measure, list(figures.values()))
    share = measure.kind == "share"
    rows = []
    for number, label in enumerate(found.labels):
        f = figures.get(label)
        if f is None:
            rows.append({"label": label, "picture": "", "value": "—", "range": "no endpoint says it", "n": ""})
            continue
        colour = COLOURS[number % len(COLOURS)]
        rows.append(
            {
                "label": label,
                "picture": interval_plot(f.value, f.low, f.high, colour, domain),
                "value": f"{plain(f.value, measure)}{' %' if share else ''}",
                "range": f"{plain(f.low, measure)} to {plain(f.high, measure)}",
                "n": f"{f.n:,}",
            }
        )
    better = {True: "higher is better", False: "lower is better", None: ""}[measure.higher]
    return {
        "title": measure.title[0].upper() + measure.title[1:],
        "better": better,
        "note": measure.note,
        "rows": rows,
        "axis": interval_axis(domain, False),
    }


def domain_of(measure: Measure, figures: Sequence[Figure]) -> tuple[float, float]:
    """The axis: all of 0 to 100 for shares and scores, from 0 on for lengths, what there is for perplexities."""
    if measure.kind in ("share", "points"):
        return (0.0, 100.0)
    low = 0.0 if measure.kind == "count" else min(f.low for f in figures)
    ticks = nice_ticks(low, max(f.high for f in figures), 5)
    return (ticks[0], ticks[-1])


def items_of(found: Versus) -> list[dict[str, Any]]:
    """Questions with their answers, those that differ most first: by the primary measure, by nearness to the reference,
    by their words."""
    near = next((m for m in found.measures if m.key in ("chrf", "rouge_l", "f1")), None)
    gaps = []
    for k in range(len(found.chats)):
        first, *others = (replies[k].text.split() for replies in found.answers.values())
        alike = min(difflib.SequenceMatcher(None, first, words, autojunk=False).quick_ratio() for words in others)
        gaps.append([-span(found.measures[0], k), -span(near, k) if near is not None else 0.0, alike])
    order = sorted(range(len(gaps)), key=lambda k: [round(x, 6) for x in gaps[k]])
    return [item_of(found, k, place) for place, k in enumerate(order[:MOST_ITEMS])]


def item_of(found: Versus, k: int, place: int) -> dict[str, Any]:
    """One question with its answers."""
    chat, labels = found.chats[k], found.labels
    first = found.answers[labels[0]][k].text
    return {
        "number": k + 1,
        "place": place,
        "prompt": last_user(chat.prompt)[:MOST_CHARACTERS],
        "before": len(chat.prompt) - 1,
        "reference": chat.answer,
        "origin": chat.origin,
        "answers": [answer_of(found, label, k, first if label != labels[0] else None) for label in labels],
        "worst": {label: worst(found, label, k) for label in labels},
    }


def value_at(measure: Measure, label: str, k: int) -> float | None:
    """An item's own value; None where it is not measured on it."""
    at = bisect_left(measure.items, k)
    if label not in measure.each or at == len(measure.items) or measure.items[at] != k:
        return None
    return float(measure.each[label][at])


def span(measure: Measure, k: int) -> float:
    """How far the models are apart on an item."""
    values = [v for label in measure.each if (v := value_at(measure, label, k)) is not None]
    return float(np.ptp(values)) if values else 0.0


def worst(found: Versus, label: str, k: int) -> float:
    """To order by, the worst first: the primary measure, then the nearness to the reference."""
    total = 0.0
    for weight, key in ((1000.0, found.measures[0].key), (1.0, "chrf"), (0.001, "f1")):
        measure = next((m for m in found.measures if m.key == key), None)
        value = None if measure is None else value_at(measure, label, k)
        if measure is not None and value is not None:
            total += weight * value * (-1 if measure.higher is False else 1)
    return round(total, 6)


def answer_of(found: Versus, label: str, k: int, beside: str | None) -> dict[str, Any]:
    """An answer with its marks: accepted values, and words that the first model's answer does not have."""
    reply, chat = found.answers[label][k], found.chats[k]
    text = reply.text[:MOST_CHARACTERS]
    near = [(m, v) for m in found.measures if m.key in ("f1", "chrf") and (v := value_at(m, label, k)) is not None]
    right = next((value_at(m, label, k) for m in found.measures if m.key == "right"), None)
    formed = next((value_at(m, label, k) for m in found.measures if m.key == "format"), None)
    return {
        "label": label,
        "pieces": pieces_of(text, beside, chat.accept),
        "ended": reply.ended,
        "right": None if right is None else bool(right),
        "formed": None if formed is None else bool(formed),
        "words": len(reply.text.split()),
        "scores": [f"F1 {v * 100:.0f}" if m.key == "f1" else f"chrF {v:.0f}" for m, v in near],
        "left_out": len(reply.text) - len(text),
    }


def pieces_of(text: str, beside: str | None, accept: Sequence[str]) -> list[tuple[str, bool, bool]]:
    """(piece, whether it is an accepted value, whether the other answer lacks it)."""
    words = re.findall(r"\s+|\S+", text)
    fresh = [False] * len(words)
    if beside is not None:
        other = re.findall(r"\s+|\S+", beside)
        for tag, start, end, _, _ in difflib.SequenceMatcher(None, words, other, autojunk=False).get_opcodes():
            if tag in ("replace", "delete"):
                fresh[start:end] = [True] * (end - start)
    differs = [new for word, new in zip(words, fresh, strict=True) for _ in word]  # letter by letter
    made: list[tuple[str, bool, bool]] = []
    at = 0
    for piece, accepted in marked(text, accept):
        start = at
        for here in range(at + 1, at + len(piece) + 1):
            if here == at + len(piece) or differs[here] != differs[start]:
                made.append((text[start:here], accepted, differs[start]))
                start = here
        at += len(piece)
    return made
