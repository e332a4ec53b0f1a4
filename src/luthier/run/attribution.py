"""What each stage added (the question of LIMA: Zhou et al. 2023): every ability before and after it, on the same items.

A gain is the mean difference over the items that both models were asked, with a paired bootstrap interval. A fresh
model's first stage is held against chance: one in as many options as an item has, and nothing at all where something
must be written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from luthier.base.probes import LossProbe
from luthier.evals.intervals import Figure, bootstrap_ratio, bounded_mean, paired_bootstrap, wilson
from luthier.run.context import Context

GROUPS = {
    "choices": "knowledge",
    "cloze": "knowledge",
    "alignment": "alignment",
    "answers": "both",
    "consistency": "both",
    "hallucination": "both",
}
"""What a kind of probe looks at: what is known, how it is said, or both at once."""
ITEMS = {"choices": "right", "cloze": "right", "alignment": "right", "answers": "right", "consistency": "agree",
         "hallucination": "faithful"}  # fmt: skip
"""Under which key a kind keeps its items, each from 0 to 1."""
CHANCE = "chance"
"""What a first stage on fresh weights is held against."""


Rows = Mapping[tuple[str, str], dict[str, Any]]
"""What was measured, by (probe, model)."""


def attribution(context: Context, rows: Rows, benchmarks: Rows | None = None) -> dict[str, Any]:
    """For report.json: the models in the order they were made, and of each probe and benchmark the value after each
    model, with the gain since the measured model it comes from. Empty where fewer than two points can be compared."""
    probes = context.recipe.evaluate
    made = [name for name in context.models if name != "base" or context.recipe.base.fresh is None]
    comes_from = origins(context)
    abilities: list[dict[str, Any]] = []
    for name, probe in probes.items():
        mine = {renamed(context, model): row for (of, model), row in rows.items() if of == name}
        mine = {model: mine[model] for model in made if model in mine}
        if probe.kind in GROUPS:
            points = gains(context, mine, ITEMS[probe.kind], probe.kind, comes_from)
            abilities.append({"probe": name, "kind": probe.kind, "group": GROUPS[probe.kind], "points": points})
        elif isinstance(probe, LossProbe):
            points = rises(context, mine, comes_from)
            abilities.append(
                {"probe": name, "kind": "loss", "group": "forgetting", "data": probe.data, "points": points}
            )
    for name in dict.fromkeys(name for name, _ in benchmarks or ()):
        mine = {renamed(context, model): row for (of, model), row in (benchmarks or {}).items() if of == name}
        mine = {model: mine[model] for model in made if model in mine}
        points = gains(context, mine, "right", "benchmark", comes_from)
        abilities.append({"probe": name, "kind": "benchmark", "group": "knowledge", "points": points})
    abilities = [a for a in abilities if sum("gain" in p for p in a["points"]) or len(a["points"]) > 1]
    models = [model for model in made if any(p["model"] == model for a in abilities for p in a["points"])]
    kinds = {folder.name: folder.kind for folder in context.stages}
    stages = [{"name": model, "kind": kinds.get(model, "base"), "from": comes_from.get(model)} for model in models]
    return {"stages": stages, "abilities": abilities} if abilities else {}


def renamed(context: Context, model: str) -> str:
    """The base of a run from fresh weights is what its pretraining made: one model, one name."""
    if model != "base" or context.recipe.base.fresh is None:
        return model
    base = context.models["base"].hash
    return next(name for name, ref in context.models.items() if ref.hash == base and name != "base")


def origins(context: Context) -> dict[str, str | None]:
    """Of each language model, the one it was made from; None where it began with random weights."""
    makers = {ref.hash: renamed(context, name) for name, ref in context.models.items()}
    return {
        folder.name: makers.get((folder.record.get("inputs") or {}).get("model", ""))
        for folder in context.stages
        if folder.name in context.models
    }


def before(model: str, measured: Mapping[str, Any], comes_from: Mapping[str, str | None]) -> str | None:
    """The nearest measured model that a model comes from; `chance` where it began with random weights."""
    at = comes_from.get(model)
    while at is not None and at not in measured:
        at = comes_from.get(at)
    if at is None and model in comes_from:
        fresh = model
        while (older := comes_from.get(fresh)) is not None:
            fresh = older
        return CHANCE if fresh in comes_from else None
    return at


def gains(
    context: Context, rows: Mapping[str, Any], key: str, kind: str, comes_from: Mapping[str, str | None]
) -> list[dict[str, Any]]:
    """The value after each model, and its gain over the measured one it comes from, over the items of both."""
    found, seed = [], context.recipe.seed
    for model, row in rows.items():
        values = dict(zip(row["origins"], map(float, row[key]), strict=True))
        point: dict[str, Any] = {"model": model, **bounded_mean(list(values.values()), seed).as_dict()}
        since = before(model, rows, comes_from)
        old: dict[str, float] = {}
        if since == CHANCE and kind in ("choices", "cloze", "alignment", "answers"):
            odds = [1 / len(one) for one in row["scores"]] if kind == "choices" else [0.0] * len(values)
            old = dict(zip(row["origins"], odds, strict=True))
        elif since is not None and since != CHANCE:
            old = dict(zip(rows[since]["origins"], map(float, rows[since][key]), strict=True))
        both = [origin for origin in values if origin in old]
        if both:
            gain = gained([values[o] for o in both], [old[o] for o in both], seed)
            point |= {"before": since, "was": float(np.mean([old[o] for o in both])), "gain": gain.as_dict()}
        found.append(point)
    return found


def gained(new: Sequence[float], old: Sequence[float], seed: int) -> Figure:
    """The mean difference over the same items with a paired bootstrap interval. Where every item differs by the same,
    a bootstrap would be certain: then what may still lie in items not seen (Wilson's bound for 0 of n) is the width."""
    figure = paired_bootstrap(new, old, seed)
    if figure.low < figure.high:
        return figure
    unseen, was = wilson(0, figure.n).high, float(np.mean(old))
    low, high = max(-was, figure.value - unseen), min(1 - was, figure.value + unseen)  # nothing rises above 1
    return Figure(figure.value, min(low, figure.value), max(high, figure.value), figure.n)


def rises(context: Context, rows: Mapping[str, Any], comes_from: Mapping[str, str | None]) -> list[dict[str, Any]]:
    """The held-out loss after each model (nats a token), and its rise since the measured one it comes from, and since
    the first one measured: what is forgotten on the way."""
    found, seed = [], context.recipe.seed
    first = next(iter(rows), None)
    for model, row in rows.items():
        nats, tokens = np.array(row["nats"]), np.array(row["tokens"])
        point: dict[str, Any] = {"model": model, **bootstrap_ratio(nats, tokens, seed).as_dict()}
        for label, since in (("gain", before(model, rows, comes_from)), ("rise", first)):
            old = rows.get(since) if since is not None else None
            if old is not None and since != model and len(old["nats"]) == len(nats):
                rise = bootstrap_ratio(nats - np.array(old["nats"]), tokens, seed)
                point |= {label: rise.as_dict()} | ({"before": since} if label == "gain" else {"since": since})
        found.append(point)
    return found
