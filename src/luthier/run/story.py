"""A run's folder read back: its stages, its figures, and how they are written. No page here, no pictures.

What is absent is empty: a run with one stage, or one that was killed on its way, reads as far as it went.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.base.errors import UserError
from luthier.base.events import read_events
from luthier.base.files import read_json
from luthier.run.judged_words import said_under
from luthier.run.words import PREFERRING, SHARES

STAGE_FOLDER = re.compile(r"(?P<index>\d+)-(?P<name>.+)-(?P<hash>[0-9a-f]{6,})")
KIND_BY_GROUP = {"knowledge": "choices", "forgetting": "loss"}
"""What a group of metrics is when the resolved recipe does not say; other groups are called by their kind."""
NATS = frozenset({"margin", "loss", "chosen_gain", "rejected_gain", "good_gain", "bad_gain", "kl"})
"""Names of figures that are no probabilities, whatever their value."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage as its files tell it. `state` is done, stopped or planned; `record` is stage.json over its row in
    report.json; `failed` is failed.json, which a non-finite loss leaves."""

    name: str
    kind: str
    state: str
    record: Mapping[str, Any]
    events: Sequence[Mapping[str, Any]]
    samples: Sequence[Mapping[str, Any]]
    rejected: Sequence[Mapping[str, Any]]
    failed: Mapping[str, Any]
    curation: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Story:
    """A run's folder. `report` is empty when the run has not got that far."""

    name: str
    report: Mapping[str, Any]
    resolved: Mapping[str, Any]
    recipe: str
    stages: Sequence[Stage]
    base_samples: Sequence[Mapping[str, Any]]
    rejected: Sequence[Mapping[str, Any]]

    @property
    def finished(self) -> bool:
        return bool(self.report) and all(s.state == "done" for s in self.stages)


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value with its 95 % interval; `path` are the keys under its group. `loss` in nats per token."""

    path: tuple[str, ...]
    value: float
    low: float | None
    high: float | None
    n: int | None
    loss: float | None

    @property
    def name(self) -> str:
        """The innermost key: mostly a stage's name."""
        return self.path[-1] if self.path else ""


@dataclass(frozen=True, slots=True)
class Group:
    """The figures under one key of `metrics`. `said` is a sentence that came with them, or ''."""

    name: str
    kind: str
    figures: Sequence[Figure]
    said: str

    def is_share(self, figure: Figure) -> bool:
        """Whether a figure is shown as a percentage: a probability of something, not a loss or a margin."""
        if self.kind == "loss" or figure.loss is not None or figure.name in NATS:
            return False
        ends = [x for x in (figure.value, figure.low, figure.high) if x is not None]
        return self.kind in SHARES or all(0 <= x <= 1 for x in ends)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file; an absent file has none."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def read_run(run: Path) -> Story:
    """Reads the folder of one run. UserError when it is not one."""
    report = read_json(run / "report.json") if (run / "report.json").exists() else {}
    resolved = read_json(run / "resolved.json") if (run / "resolved.json").exists() else {}
    rows = {row["name"]: row for row in report.get("stages", [])}
    folders = [(name, folder) for name, folder in stage_folders(run, report) if not rows or name in rows]
    if not (report or resolved or folders):
        raise UserError(f"{run}: not a run's folder: no report.json, resolved.json or stage in it. "
                        "Give the folder that `luthier run` printed.")  # fmt: skip
    stages = [read_stage(name, folder, rows.get(name, {})) for name, folder in folders]
    told = {stage.name for stage in stages}
    stages += [stage_of_row(row) for name, row in rows.items() if name not in told]
    told |= set(rows)
    if not report:
        planned = [(p.get("name") or p["kind"], p["kind"]) for p in resolved.get("stages", [])]
        stages += [Stage(name, kind, "planned", {}, [], [], [], {}) for name, kind in planned if name not in told]
    recipe = (run / "recipe.yaml").read_text() if (run / "recipe.yaml").exists() else ""
    name = report.get("name") or resolved.get("name") or run.name
    base = sorted(run.glob("*base*/samples.jsonl"))
    base_samples = read_rows(base[0]) if base else []
    return Story(name, report, resolved, recipe, stages, base_samples, read_rows(run / "rejected.jsonl"))


def stage_folders(run: Path, report: Mapping[str, Any]) -> list[tuple[str, Path]]:
    """(name, folder) in the run's order. Memos of an earlier recipe lie beside those of this one: report.json and
    current.json name the right ones of finished stages; of a stage under way it is the newest."""
    current = read_json(run / "current.json")["stages"] if (run / "current.json").exists() else []
    named = {row.get("folder") for row in report.get("stages", [])} - {None} or set(current)
    best: dict[str, tuple[int, tuple[bool, float], Path]] = {}
    for folder in run.glob("*-*"):
        match = STAGE_FOLDER.fullmatch(folder.name)
        if not match or not folder.is_dir():
            continue
        rank = (folder.name in named, folder.stat().st_mtime)
        if match["name"] not in best or rank > best[match["name"]][1]:
            best[match["name"]] = (int(match["index"]), rank, folder)
    return [(name, folder) for name, (_, _, folder) in sorted(best.items(), key=lambda item: item[1][0])]


def read_stage(name: str, folder: Path, row: Mapping[str, Any]) -> Stage:
    """A stage's folder over its row in report.json; files that are not there yet are empty."""
    record = {**row, **(read_json(folder / "stage.json") if (folder / "stage.json").exists() else {})}
    events = list(read_events(folder / "events.jsonl"))
    begun = next((e for e in events if e["kind"] == "begin"), {})
    kind = record.get("kind") or begun.get("stage_kind") or name
    state = "done" if record.get("done", bool(row)) else "stopped"
    samples, rejected = read_rows(folder / "samples.jsonl"), read_rows(folder / "rejected.jsonl")
    failed, made = (read_json(folder / f) if (folder / f).exists() else {} for f in ("failed.json", "curation.json"))
    return Stage(name, kind, state, record, events, samples, rejected, failed, made)


def guards_of(stage: Stage) -> list[Mapping[str, Any]]:
    """What was checked: of stage.json, or as far as it was told before the stage stopped."""
    told = {e["name"]: e for e in stage.events if e["kind"] == "guard"}
    return list(stage.record.get("guards") or told.values())


def stage_of_row(row: Mapping[str, Any]) -> Stage:
    """A stage of which only the row in report.json is left."""
    return Stage(row["name"], row["kind"], "done", row, [], [], [], {})


def trouble(stage: Stage) -> list[str]:
    """Why a stage that is not done stopped, as far as its files say."""
    if stage.state != "stopped":
        return []
    said = [f"{guard['name']}: {guard['detail']}" for guard in guards_of(stage) if not guard["ok"]]
    if stage.failed:
        rows = ", ".join(stage.failed["origins"][:3])
        said.append(f"at step {stage.failed['step']} the loss was {stage.failed['loss']} (rows: {rows}, …)")
    return said


def rejected(story: Story) -> list[Mapping[str, Any]]:
    """The distinct rows that could not be used: {origin, reason}."""
    rows = [*story.rejected, *(row for s in story.stages for row in s.rejected)]
    return list({(row["origin"], row["reason"]): row for row in rows}.values())


def facts(story: Story, key: str) -> Mapping[str, Any]:
    """`versions` or `hardware` of the run, else of its last stage that says."""
    told = [story.report.get(key)] + [s.record.get(key) for s in reversed(story.stages)]
    return next((found for found in told if found), {})


def parents(story: Story) -> dict[str, list[str]]:
    """Of each stage, the earlier stages whose models it starts from or uses, by name."""
    makers = {s.record["hash"]: s.name for s in story.stages if s.record.get("hash")}
    return {
        s.name: [makers[digest] for digest in (s.record.get("inputs") or {}).values() if digest in makers]
        for s in story.stages
    }


def lineage(story: Story) -> list[dict[str, Any]]:
    """Each stage's hash and its inputs'; an input that an earlier stage made is called by its name."""
    makers = {s.record["hash"]: s.name for s in story.stages if s.record.get("hash")}
    return [
        {
            "stage": stage,
            "inputs": [
                {"label": label, "hash": digest, "maker": makers.get(digest, "")}
                for label, digest in (stage.record.get("inputs") or {}).items()
            ],
        }
        for stage in story.stages
        if stage.record.get("hash")
    ]


def finite(value: Any) -> bool:
    """A number that can be drawn (True and NaN are not)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def figures(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[Figure]:
    """The leaves of nested metrics: every object with a number called `value`. Its `loss`, where it has one, is a
    number or again such an object."""
    if finite(tree.get("value")):
        held = tree.get("loss")
        held = held.get("value") if isinstance(held, Mapping) else held
        low, high, loss = (x if finite(x) else None for x in (tree.get("low"), tree.get("high"), held))
        yield Figure(path, tree["value"], low, high, tree.get("n"), loss)
        return
    for key, inner in tree.items():
        if isinstance(inner, Mapping):
            yield from figures(inner, (*path, key))


def groups(story: Story) -> list[Group]:
    """The figures by their top-level key, each group with the kind of probe that measured it."""
    probes = story.resolved.get("evaluate", {})
    found = []
    made = {s.name: s.kind for s in story.stages if s.kind in (*PREFERRING, "best_of", "curate")}
    for name, tree in story.report.get("metrics", {}).items():
        benchmark = any(isinstance(leaf, Mapping) and "metric" in leaf for leaf in tree.values())
        known = "benchmark" if benchmark else KIND_BY_GROUP.get(name, name)
        kind = probes.get(name, {}).get("kind") or made.get(name) or known
        leaves = list(figures(tree))
        if leaves:
            found.append(Group(name, kind, leaves, tree.get("bias") or said_under(name, tree)))
    return found


def losses(story: Story) -> dict[str, list[Figure]]:
    """Held-out losses after one stage and the next, by the text they were measured on."""
    corpora: dict[str, list[Figure]] = {}
    for group in groups(story):
        source = story.resolved.get("evaluate", {}).get(group.name, {}).get("data", group.name)
        for figure in group.figures:
            if figure.loss is not None:
                corpora.setdefault(" · ".join(figure.path[:-1]) or source, []).append(figure)
    return corpora


def stage_word(name: str) -> str:
    """A stage's name in a sentence: the field's acronyms in capitals."""
    words = name.replace("_", " ").split(" ")
    return " ".join(word.upper() if word in ("sft", "ppo", "dpo", "orpo", "kto", "grpo") else word for word in words)


def percent(value: float) -> str:
    """Whole per cent, except that only all is 100 % and only nothing is 0 %."""
    whole = round(value * 100)
    if whole not in (0, 100) or value in (0, 1):
        return f"{whole} %"
    return f"{min(max(value * 100, 0.1), 99.9):.1f} %"


def figure_label(figure: Figure) -> str:
    """'PPO against SFT' of ppo_vs_sft; else the innermost key in words."""
    if "_vs_" in figure.name:
        new, _, old = figure.name.partition("_vs_")
        return f"{stage_word(new)} against {stage_word(old)}"
    return stage_word(figure.name)


def written(value: float, share: bool, signed: bool) -> str:
    """A figure as the tables show it: per cent with one decimal, or three decimals; a true minus, and no minus zero."""
    rounded = round(value * 100, 1) + 0.0 if share else round(value, 3) + 0.0
    text = f"{rounded:.1f} %" if share else f"{rounded:+.3f}" if signed and rounded else f"{rounded:.3f}"
    return text.replace("-", "−")


def interval(figure: Figure, share: bool) -> str:
    """'[95.1, 99.6]', in the value's own unit; '' where none was measured."""
    if figure.low is None or figure.high is None:
        return ""
    low, high = (written(x, share, signed=False).removesuffix(" %") for x in (figure.low, figure.high))
    return f"[{low}, {high}]"
