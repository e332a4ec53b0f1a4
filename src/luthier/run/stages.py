"""A run is a straight list of memoised calls. What is finished is not run again; what was begun goes on."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from luthier.base.alignment import Kto, Preference, Reward
from luthier.base.config import pointed
from luthier.base.curation import Curate
from luthier.base.errors import UserError
from luthier.base.events import EventLog, Watcher
from luthier.base.files import hash_of, read_json, write_json, write_text
from luthier.base.made import MAKES_DATA, made_first
from luthier.base.nouns import Chat, Message
from luthier.base.reads import names_read
from luthier.base.recipe import Pretrain, Recipe, Sft, Stage
from luthier.base.synthesis import Synthesise
from luthier.base.tuning import Training
from luthier.data.dataset import Dataset, put_aside
from luthier.generate import sample
from luthier.model.draw import Sampling
from luthier.model.load import add_chat_template, compute_dtype, load_folder, save_model
from luthier.run.benchmarked import check_rows
from luthier.run.best_of import draw_best
from luthier.run.context import Context, all_threads, open_context, renderer_of, run_lock
from luthier.run.curate import curate_data, would_curate
from luthier.run.curve import curve_for_report
from luthier.run.export import check_exports, export_all
from luthier.run.grpo import train_grpo
from luthier.run.judged_words import is_simulated
from luthier.run.kto import train_kto
from luthier.run.learner import learner_for, require_libraries
from luthier.run.licences import require_made
from luthier.run.masked import as_trained, filler, hiding_for
from luthier.run.measure import base_samples, measure
from luthier.run.memo import code_hash, find_stage, hardware, versions
from luthier.run.pairs import answer_guards, answers_for, answers_leak, named_source
from luthier.run.ppo import train_ppo
from luthier.run.prefer import gather_preferences
from luthier.run.preference import train_preference
from luthier.run.report import write_report
from luthier.run.reward import train_reward
from luthier.run.suitable import check_made, check_sources
from luthier.run.synthesise import check_synthesise, synthesise
from luthier.run.trackers import require_trackers, tracked
from luthier.run.tune import row_guards, sources_of, train_language_model, training_rows
from luthier.run.words import PREFERRING
from luthier.tokens.prepare import prepare_labelled
from luthier.train.ranks import here

CHECKED_ROWS = 200
"""Of a streamed source, that `luthier check` looks at."""
STAGES: dict[str, Callable[[Context, int, Any], None]] = {
    "pretrain": train_language_model,
    "sft": train_language_model,
    "prefer": gather_preferences,
    "reward": train_reward,
    "ppo": train_ppo,
    "dpo": train_preference,
    "orpo": train_preference,
    "simpo": train_preference,
    "kto": train_kto,
    "grpo": train_grpo,
    "best_of": draw_best,
    "synthesise": synthesise,
    "curate": curate_data,
}


def run_recipe(recipe: Recipe, recipe_path: Path, watchers: tuple[Watcher, ...] = ()) -> Path:
    """Runs, or goes on with, a whole recipe; returns the run's folder with report.json and report.html.

    Raises UserError for what the recipe or the data get wrong, RunError for what fails on the way; finished stages
    and checkpoints stay.
    """
    context = open_context(recipe, recipe_path, watchers)
    with run_lock(context.folder), tracked(context):
        write_text(context.folder / "recipe.yaml", recipe_path.read_text())
        write_json(context.folder / "resolved.json", recipe.model_dump(mode="json"))
        write_json(context.folder / "origin.json", {"recipe": os.path.relpath(recipe_path, context.folder)})
        require_libraries(recipe)
        check_sources(context)  # first of all: what is broken is told before hours of training
        check_rows(context)
        check_exports(context, recipe)
        one_run(context)
        shown = made_first(recipe.stages)  # the base answers their held-out prompts, so that they are made before
        first = [s.name or s.kind for s in recipe.stages].index(shown[-1]) + 1 if shown else 0
        if first and recipe.base.model is not None and not (context.folder / "base").exists():
            context.load(context.models["base"])  # one that cannot be loaded is told before anything is made
        do_stages(context, range(first))
        if recipe.base.model is not None:
            here().once(lambda: base_samples(context, context.folder / "base"))
        do_stages(context, range(first, len(recipe.stages)))
        curve = curve_for_report(context)
        if not here().is_main:
            return context.folder  # what is left is the main rank's work
        log = EventLog(context.folder / "events.jsonl", context.watchers)
        log.emit("begin", stage="evaluate", stage_kind="evaluate")
        began = time.monotonic()
        metrics, also = measure(context, log)
        log.emit("end", seconds=time.monotonic() - began)
        log.close()
        add_seconds(context, time.monotonic() - began)
        exports = export_all(context, recipe)
        whole = summary(context, metrics) | also | {"exports": exports, "learning_curve": curve}
        whole["seconds"] = round(whole["seconds"] + (curve or {}).get("seconds", 0.0), 3)
        write_json(context.folder / "report.json", whole)
        write_report(context.folder)
    return context.folder


def do_stages(context: Context, indices: Iterable[int]) -> None:
    """Some of the recipe's stages, in order."""
    for index in indices:
        do_stage(context, index, context.recipe.stages[index])
        write_current(context)


def one_run(context: Context) -> None:
    """Raises RunError where the ranks do not work on the same: then each would train on its own."""
    facts = {"the recipe": hash_of(context.recipe.model_dump(mode="json")), "luthier's code": code_hash()}
    facts |= {"the device": context.device, "the number of threads": str(all_threads(context.recipe))}
    facts |= {f"the version of {library}": version for library, version in versions().items()}
    facts |= {f"data.{name}": context.dataset(name).hash for name in context.recipe.data}
    for what, value in facts.items():
        here().agree(what, value)


def do_stage(context: Context, index: int, stage: Stage) -> None:
    """Training is every rank's work. What else there is to do the main rank does, and the others then find it done."""
    read = names_read(stage)
    require_made(context.recipe.licences, {made.name: made.path for made in context.stages if made.name in read})
    if isinstance(stage, Training):
        with pointing(context, index):
            STAGES[stage.kind](context, index, stage)
    else:
        here().once(lambda: STAGES[stage.kind](context, index, stage))
        if not here().is_main:
            STAGES[stage.kind](context, index, stage)
    here().meet()
    if stage.kind in MAKES_DATA:
        check_made(context, stage.name or stage.kind)


SETTING = re.compile(
    r"((?:adapter|freeze|quantize|optimizer|layer_decay|embedding_lr_frac|gradient_checkpointing)(?:\.\w+)*): (.*)",
    re.DOTALL,
)
"""How a problem begins that a model has with a stage's setting."""


@contextmanager
def pointing(context: Context, index: int) -> Iterator[None]:
    """Inside this block, what a model cannot take of a stage's settings is told with the line it stands on."""
    try:
        yield
    except UserError as error:
        told = []
        for problem in error.problems:
            found = SETTING.fullmatch(problem)
            where = (context.recipe_path, context.recipe, index)
            told.append(pointed(*where, tuple(found[1].split(".")), found[2]) if found else problem)
        raise UserError(told) from error


def write_current(context: Context) -> None:
    """current.json: the folders that the recipe, as it stands, has led to."""
    made = {"stages": [f.path.name for f in context.stages], "root": str(context.root.resolve())}
    write_json(context.folder / "current.json", made)


def add_seconds(context: Context, seconds: float) -> None:
    """Time spent measuring, over all sessions."""
    path = context.folder / "measures" / "seconds.json"
    before = read_json(path)["seconds"] if path.exists() else 0.0
    write_json(path, {"seconds": round(before + seconds, 3)})


def summary(context: Context, metrics: dict[str, Any]) -> dict[str, Any]:
    """report.json."""
    records = [f.record for f in context.stages]
    for folder, record in zip(context.stages, records, strict=True):
        if folder.kind in PREFERRING and record["metrics"]:
            said = {"bias": record["bias"]} if "bias" in record else {}
            metrics[folder.name] = nested(record["metrics"]) | said
        if folder.kind in MAKES_DATA and record.get("metrics"):
            metrics[folder.name] = record["metrics"]
    measured = read_json(context.folder / "measures" / "seconds.json")["seconds"]
    keep = (
        "name",
        "kind",
        "hash",
        "seconds",
        "tokens",
        "tokens_per_s",
        "peak_bytes",
        "guards",
        "parameters",
        "trainable_parameters",
        "weights_bytes",
        "steps",
        "pairs",
        "heldout",
        "simulated",
        "inputs",
        "layout",
        "rows",
    )
    return {
        "name": context.recipe.name,
        "seed": context.recipe.seed,
        "created": time.strftime("%Y-%m-%d %H:%M:%S"),
        "seconds": round(sum(r["seconds"] for r in records) + measured, 3),
        "peak_bytes": max((r["peak_bytes"] for r in records), default=0),
        "simulated": any(r.get("simulated") for r in records) or is_simulated(metrics),
        "metrics": metrics,
        "stages": [
            {key: r[key] for key in keep if key in r} | {"folder": f.path.name}
            for f, r in zip(context.stages, records, strict=True)
        ],
        "evaluate_seconds": measured,
        "data": [dataset_facts(context.datasets[name]) for name in context.recipe.data],
        "versions": versions(),
        "hardware": hardware(context.device),
    }


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """{"a.b": x} -> {"a": {"b": x}}."""
    out: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        inner = out
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return out


def dataset_facts(data: Dataset) -> dict[str, Any]:
    """What went in, and what did not."""
    reasons: dict[str, int] = {}
    if data.survey is not None:
        reasons = {kind: count for kind, (count, _) in data.survey.kinds().items()}
    for bad in data.rejected if data.survey is None else ():
        reasons[bad.reason] = reasons.get(bad.reason, 0) + 1
    return {
        "name": data.name,
        "format": data.format,
        "files": data.files,
        "rows": data.rows,
        "train": data.survey.count("train") if data.survey else len(data.train),
        "heldout": data.survey.count("heldout") if data.survey else len(data.heldout),
        "rejected": len(data.rejected) - put_aside(data),
        "aside": put_aside(data),
        "duplicates": data.duplicates,
        "reasons": dict(sorted(reasons.items(), key=lambda item: -item[1])[:10]),
        "hash": data.hash,
        "examples": [asdict(bad) for bad in data.rejected[:5]],
        "notes": list(data.notes),
    }


@dataclass(frozen=True)
class Check:
    """What `luthier check` shows of one stage: its guards and its first rows, token by token."""

    stage: str
    guards: list[dict[str, Any]]
    rows: list[list[tuple[str, float]]]
    note: str = ""


def check_recipe(recipe: Recipe, recipe_path: Path, rows: int = 3) -> list[Check]:
    """Reads the data, loads the base, applies the guards that look at rows, renders the first ones. Trains nothing
    and leaves nothing behind. Raises UserError for what the recipe or the data get wrong."""
    import tempfile

    require_libraries(recipe)
    with tempfile.TemporaryDirectory() as scratch:
        context = open_context(recipe.model_copy(update={"out": scratch}), recipe_path, ())
        context.first_rows = CHECKED_ROWS
        require_trackers(recipe.track)
        check_sources(context)
        check_rows(context)
        check_exports(context, recipe)
        checks = []
        for index, stage in enumerate(recipe.stages):
            with pointing(context, index):
                checks.append(check_stage(context, index, stage, rows))
        return checks


def check_stage(context: Context, index: int, stage: Stage, rows: int) -> Check:
    """One stage of `check_recipe`. What a stage makes is not there yet, so later ones start from the base; where that
    is fresh, from the untrained model that the first stage starts from, with its tokenizer."""
    name = stage.name or stage.kind
    if isinstance(stage, Synthesise):
        return Check(name, [], [], check_synthesise(context, stage))
    if isinstance(stage, Reward | Preference | Kto) and named_source(stage) in context.recipe.data:
        return check_answers(context, index, name, stage, rows)
    if isinstance(stage, Curate):
        return Check(name, [], [], would_curate(context, stage))
    if not isinstance(stage, Pretrain | Sft) or set(sources_of(stage.data, stage.replay)) - set(context.recipe.data):
        return Check(name, [], [], "works on what earlier stages make: its guards run when they have")
    shares = sources_of(stage.data, stage.replay)
    folder = context.stage(index, name, stage, {})
    changes: dict[str, Any] = {"init": None, "quantize": None}
    if context.start(None) is None:  # what this stage begins with is kept for the others
        changes["adapter"] = None
    learner = learner_for(context, folder, stage.model_copy(update=changes))
    data = {source: context.dataset(source) for source in shares}
    made = training_rows(context, learner, stage, data, EventLog(folder.path / "events.jsonl"))
    found = row_guards(context, learner, stage, data, made)
    first = list(next(iter(made.values())).sequences[:rows])
    trained = as_trained(first, hiding_for(context, folder, stage, learner))
    shown = [list(zip(learner.renderer.pieces(ids), weights, strict=True)) for ids, weights in trained]
    said = "; ".join(f"{source}: {m.facts.words()}" for source, m in made.items() if m.facts.words())
    if context.start(None) is None:
        save_model(learner.lm.core, learner.loaded.tokenizer, folder.path / "model")
        context.made(folder)
    return Check(name, [asdict(guard) for guard in found], shown, said)


def check_answers(context: Context, index: int, name: str, stage: Reward | Preference | Kto, rows: int) -> Check:
    """`check_stage` for a stage that reads preferences from a source: its answers, good and bad, by themselves."""
    start = context.start(None)
    assert start is not None
    loaded = context.load(start)
    if not isinstance(stage, Reward) or any(isinstance(other, Sft) for other in context.recipe.stages[:index]):
        add_chat_template(loaded, context.recipe.seed)
    renderer = renderer_of(loaded)
    training, heldout, _ = answers_for(context, named_source(stage))
    length = min(stage.max_length or loaded.context, loaded.context)
    fitting, made = prepare_labelled(training, renderer, length, stage.overlong)
    answered = [Chat((*row.prompt, Message("assistant", row.answer)), row.origin) for row in fitting]
    guards = [*answer_guards(renderer, made.sequences, answered), answers_leak(context, training, heldout)]
    shown = [list(zip(renderer.pieces(s.ids), s.weights, strict=True)) for s in made.sequences[:rows]]
    return Check(name, [asdict(g) for g in guards], shown, made.words())


def open_chat(
    run: Path, stage: str | None = None, max_new_tokens: int = 256, temperature: float = 0.0
) -> tuple[str, Callable[[Sequence[Message]], str]]:
    """(which model answers, a function from messages to its answer) for a finished stage of a run. An encoder's
    answer is what it would put in the last message's masks. Raises UserError when there is none."""
    folder, record = find_stage(run, stage)
    resolved = read_json(run / "resolved.json")
    device = record["hardware"]["device"]
    loaded = load_folder(folder / "model", device, compute_dtype(resolved["base"]["dtype"], device))
    label = f"{run.name}, stage {record['name']} ({record['parameters']:,} parameters)"
    if loaded.lm.encoder is not None:
        fill = filler(loaded)
        return label, lambda messages: fill(messages[-1].content)
    renderer = renderer_of(loaded)
    turn = 0

    def answer(messages: Sequence[Message]) -> str:
        nonlocal turn
        ids = renderer.prompt(messages)
        room = loaded.context - len(ids)
        if room < 1:
            raise UserError(
                f"the conversation fills the model's context of {loaded.context} tokens. Start anew: /reset."
            )
        how = Sampling(min(max_new_tokens, room), temperature, seed=turn)
        turn += 1
        return sample(loaded.lm, [ids], how, sorted(renderer.end_ids), renderer.decode)[0][0].text.strip()

    return label, answer
