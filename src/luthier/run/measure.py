"""The probes of `evaluate`: each model measured by each probe, every figure with its n and a 95 % interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from luthier.base.abilities import HallucinationProbe
from luthier.base.config import load_rater
from luthier.base.errors import UserError
from luthier.base.events import EventLog
from luthier.base.files import hash_of, read_json, write_json
from luthier.base.mistakes import MistakesProbe
from luthier.base.nouns import Chat, Choice
from luthier.base.objective import is_masked
from luthier.base.probes import AnswersProbe, ChoicesProbe, LossProbe, Probe, WinRateProbe
from luthier.evals.answers import answer_all, wins
from luthier.evals.calibration import calibration
from luthier.evals.choices import fitting, pick_options
from luthier.evals.intervals import bootstrap_mean, bootstrap_ratio, wilson
from luthier.evals.loss import losses
from luthier.model.draw import Sampling
from luthier.model.load import Loaded, add_chat_template
from luthier.run import abilities
from luthier.run.attribution import attribution
from luthier.run.benchmarked import benchmark_metrics, measured_on_benchmarks
from luthier.run.contaminated import summarised
from luthier.run.context import Context, ModelRef, chats, measured_rows, probe_prompts, renderer_of, texts
from luthier.run.hallucination import faithful, measure_hallucination
from luthier.run.judged import judged_wins, with_verdicts
from luthier.run.masked import (
    measure_fill_mask,
    measure_masked_loss,
    measure_pseudo_perplexity,
    pseudo_perplexities,
    shares_filled,
    write_blanks,
)
from luthier.run.memo import code_hash, versions
from luthier.run.mistakes import documents_behind, measure_mistakes, shares_wrong
from luthier.run.result import write_samples
from luthier.tokens.prepare import prepare

Measured = dict[str, Any]
UNMEASURED = {"after", "stages", "since", "ngram", "exclude_contaminated"}
"""Settings of a probe that change nothing of what is measured of one model."""
COMPARING = {"rater", "judge", "rubric", "votes", "key_env", "judge_tokens"}
"""Those of a win rate, of which the answers are measured."""


def models_of(context: Context, probe: Probe) -> list[ModelRef]:
    """The models a probe looks at, in the order they were made."""
    if isinstance(probe, WinRateProbe):
        return [context.models[name] for name in probe.stages]
    after = probe.after or [name for name in context.models if name != "base" or context.recipe.base.fresh is None]
    if isinstance(probe, LossProbe) and probe.since is not None and probe.since not in after:
        after = [probe.since, *after]  # what a rise is measured from is measured too
    return [context.models[name] for name in after if name in context.models]


class Measures(NamedTuple):
    """What the probes found: the metrics by probe and model, and what else report.json tells of them."""

    metrics: dict[str, Any]
    also: dict[str, Any]


def measure(context: Context, log: EventLog) -> Measures:
    """All probes on all their models, one model loaded at a time; what is on disk already is not measured again."""
    wanted: dict[str, list[tuple[str, Probe, ModelRef]]] = {}
    for name, probe in context.recipe.evaluate.items():
        for ref in models_of(context, probe):
            wanted.setdefault(ref.hash, []).append((name, probe, ref))
    rows: dict[tuple[str, str], Measured] = {}
    for jobs in wanted.values():
        model = cache(partial(context.load, jobs[0][2]))
        for name, probe, ref in jobs:
            rows[name, ref.name] = remembered(context, name, probe, ref, model, log)
    metrics: dict[str, Any] = {}
    seen: dict[str, Any] = {}
    for name, probe in context.recipe.evaluate.items():
        mine = {r.name: rows[name, r.name] for r in models_of(context, probe)}
        mine = with_verdicts(context, name, probe, mine, log)
        metrics[name], told = summarised(context, name, probe, mine, log, SUMMARIES[probe.kind])
        seen |= {name: told} if told else {}
    benchmarks = measured_on_benchmarks(context, log)
    added = attribution(context, rows, benchmarks)
    return Measures(metrics | benchmark_metrics(benchmarks), {"attribution": added, "contamination": seen})


def measured_file(context: Context, name: str, probe: Probe, ref: ModelRef) -> Path:
    """Where one probe's figures of one model stand, or will."""
    left_out = UNMEASURED | COMPARING if isinstance(probe, WinRateProbe) else UNMEASURED
    key = hash_of(
        {
            "probe": probe.model_dump(mode="json", exclude=left_out),
            "model": ref.hash,
            "data": context.dataset(probe.data).hash,
            "beside": beside(context, probe),
            "versions": versions(),
            "code": code_hash(),
            "seed": context.recipe.seed,
        }
    )
    return context.folder / "measures" / f"{name}-{ref.name}-{key[:8]}.json"


def beside(context: Context, probe: Probe) -> list[str]:
    """Hashes of what else a probe reads: documents that answers are held against, or whose names are right."""
    if isinstance(probe, HallucinationProbe) and probe.documents is not None:
        return [context.dataset(probe.documents).hash]
    if isinstance(probe, MistakesProbe):
        return [context.dataset(name).hash for name in documents_behind(context.recipe, probe.judging)]
    return []


def remembered(
    context: Context, name: str, probe: Probe, ref: ModelRef, model: Callable[[], Loaded], log: EventLog
) -> Measured:
    """One probe on one model: from its file, or measured now."""
    path = measured_file(context, name, probe, ref)
    if path.exists():
        return read_json(path)
    log.emit("note", text=f"measuring {name} after {ref.name}")
    found = MEASURES[probe.kind](context, probe, model(), ref)
    write_json(path, found)
    return found


def measure_choices(context: Context, probe: ChoicesProbe, loaded: Loaded, ref: ModelRef) -> Measured:
    """Right or wrong, item by item; those that the model cannot read are left out, and counted."""
    items = [e for e in measured_rows(context, probe) if isinstance(e, Choice)][: probe.limit]
    if not items:
        raise UserError(f"evaluate: data.{probe.data} holds no multiple-choice rows (query, choices, gold).")
    items = [replace(item, context=item.context + probe.joint) for item in items]
    fit = fitting(loaded.lm, renderer_of(loaded), items)
    if not fit:
        raise UserError(
            f"evaluate: data.{probe.data}: every item is longer than the model's context of {loaded.context} tokens. "
            "Take a model with a longer context, or other items."
        )
    picked = pick_options(loaded.lm, renderer_of(loaded), fit, probe.normalise)
    left_out = len(items) - len(fit)
    return {
        "right": [int(p.right) for p in picked],
        "scores": [list(p.scores) for p in picked],
        "golds": [p.gold for p in picked],
        "origins": [p.origin for p in picked],
        "left_out": left_out,
    }


def answered(context: Context, probe: AnswersProbe | WinRateProbe, loaded: Loaded) -> tuple[list[Chat], list[Any]]:
    """The probe's prompts and the model's answers."""
    asked = probe_prompts(context, probe)
    how = Sampling(probe.max_new_tokens, probe.temperature, seed=context.recipe.seed)
    return asked, answer_all(loaded.lm, renderer_of(loaded), asked, how)


def measure_answers(context: Context, probe: AnswersProbe, loaded: Loaded, ref: ModelRef) -> Measured:
    """Whether each answer contains an accepted value."""
    _, answers = answered(context, probe, loaded)
    if any(a.right is None for a in answers):
        raise UserError(f"evaluate: data.{probe.data}: an `answers` probe needs a column `accept` in every row.")
    return {
        "right": [int(bool(a.right)) for a in answers],
        "ended": [int(a.ended) for a in answers],
        "origins": [a.origin for a in answers],
        "texts": [a.text for a in answers],
    }


def measure_loss(context: Context, probe: LossProbe, loaded: Loaded, ref: ModelRef) -> Measured:
    """Summed nats and tokens, row by row; of an encoder, the hidden ones under a fixed mask."""
    if loaded.lm.encoder is not None:
        return measure_masked_loss(context, probe, loaded)
    rows = measured_rows(context, probe)
    length = min(probe.max_length or loaded.context, loaded.context)
    conversations = chats(rows)[: probe.limit]
    if conversations and not renderer_of(loaded).has_template:
        # A model that has no template yet is asked in the one that tuning would give it; other probes keep theirs.
        loaded = context.load(ref)
        add_chat_template(loaded, context.recipe.seed)
    renderer = renderer_of(loaded)
    documents = prepare(
        texts(rows)[: probe.limit], renderer, length, "truncate" if probe.max_length else "split"
    ).sequences
    if conversations:
        documents += prepare(conversations, renderer, length, "drop").sequences
    if not documents:
        raise UserError(f"evaluate: data.{probe.data} has no held-out rows to measure. Raise its `heldout`.")
    nats, counts = losses(loaded.lm, documents)
    return {"nats": nats.tolist(), "tokens": counts.tolist(), "origins": [row.origin for row in documents]}


def measure_wins(context: Context, probe: WinRateProbe, loaded: Loaded, ref: ModelRef) -> Measured:
    """The answers; they are compared when both models have theirs."""
    _, answers = answered(context, probe, loaded)
    return {"answers": [[a.origin, [[m.role, m.content] for m in a.prompt], a.text, a.ended] for a in answers]}


def share_right(context: Context, name: str, probe: Probe, rows: dict[str, Measured], log: EventLog) -> Any:
    """Accuracy after each stage, and how many items were too long for its model, where any were."""
    found: dict[str, Any] = {}
    for after, row in rows.items():
        found[after] = wilson(sum(row["right"]), len(row["right"])).as_dict()
        log.emit("eval", step=0, name=f"{name}.{after}", **found[after])
        if "scores" in row:
            found[after] |= {"calibration": calibration(row["scores"], row["golds"], context.recipe.seed).as_dict()}
        if left_out := row.get("left_out"):
            found[after] |= {"left_out": left_out}
            log.emit("note", text=f"{name}.{after}: {left_out} items are longer than the model's context: left out")
    return found


def rises(context: Context, name: str, probe: LossProbe, rows: dict[str, Measured], log: EventLog) -> Any:
    """Loss after each stage, and its rise since the stage named, with a paired interval."""
    since = probe.since or next(iter(rows))
    found = {}
    for after, row in rows.items():
        nats, tokens = np.array(row["nats"]), np.array(row["tokens"])
        loss = bootstrap_ratio(nats, tokens, context.recipe.seed)
        before = rows.get(since)
        if before is None or len(before["nats"]) != len(nats):
            found[after] = {**loss.as_dict(), "loss": loss.as_dict()}
        else:
            rise = bootstrap_ratio(nats - np.array(before["nats"]), tokens, context.recipe.seed)
            found[after] = {**rise.as_dict(), "loss": loss.as_dict(), "since": since}
        log.emit("eval", step=0, name=f"{name}.{after}", **loss.as_dict())
    return found


def win_rate(context: Context, name: str, probe: WinRateProbe, rows: dict[str, Measured], log: EventLog) -> Any:
    """How often the rater, or the judge, prefers the new model's answer; ties count half."""
    if probe.judge is not None:
        return judged_wins(context, name, probe, rows, log)
    from luthier.base.nouns import Message
    from luthier.evals.answers import Answer

    new, old = probe.stages
    sides = [
        [
            Answer(o, tuple(Message(*m) for m in prompt), text, None, ended)
            for o, prompt, text, ended in rows[stage]["answers"]
        ]
        for stage in (new, old)
    ]
    assert probe.rater is not None
    won = wins(load_rater(probe.rater, context.root), sides[0], sides[1])
    figure = bootstrap_mean(won, context.recipe.seed).as_dict()
    key = f"{new}_vs_{old}"
    log.emit("eval", step=0, name=f"{name}.{key}", **figure)
    return {key: {**figure, "simulated": True, "ties": won.count(0.5)}}


MEASURES: dict[str, Callable[..., Measured]] = {
    "choices": measure_choices,
    "answers": measure_answers,
    "loss": measure_loss,
    "win_rate": measure_wins,
    "fill_mask": measure_fill_mask,
    "pseudo_perplexity": measure_pseudo_perplexity,
    **abilities.MEASURES,
    "hallucination": measure_hallucination,
    "mistakes": measure_mistakes,
}
SUMMARIES: dict[str, Callable[..., Any]] = {
    "choices": share_right,
    "answers": share_right,
    "loss": rises,
    "win_rate": win_rate,
    "fill_mask": shares_filled,
    "pseudo_perplexity": pseudo_perplexities,
    **abilities.SUMMARIES,
    "hallucination": faithful,
    "mistakes": shares_wrong,
}


def base_samples(context: Context, folder: Path) -> None:
    """Answers of an outside base to the report's prompts, before anything is trained."""
    prompts, fills = context.shown_prompts(), is_masked(context.recipe)
    if folder.joinpath("samples.jsonl").exists() or not (prompts or fills):
        return
    loaded = context.load(context.models["base"])
    if fills:
        return write_blanks(context, folder, loaded)
    how = Sampling(context.recipe.answer_tokens, temperature=0)
    folder.mkdir(parents=True, exist_ok=True)
    write_samples(folder, prompts, answer_all(loaded.lm, renderer_of(loaded), prompts, how))
