"""Stages that train a language model on data: pretrain and sft."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

from luthier.base.errors import RunError
from luthier.base.events import EventLog
from luthier.base.files import hash_of
from luthier.base.nouns import Tokens
from luthier.base.recipe import Pretrain, Sft
from luthier.base.tuning import Replay
from luthier.data.dataset import Dataset, at_hand, leaked, write_rejected
from luthier.evals.answers import answer_all
from luthier.evals.intervals import bootstrap_ratio
from luthier.evals.loss import losses
from luthier.generate import sample
from luthier.model.draw import Sampling
from luthier.model.score import LanguageModel, score
from luthier.objectives import nll
from luthier.run.context import Context, all_threads, chats, measured_rows
from luthier.run.fitting import job_for, microbatch_tokens, tried
from luthier.run.learner import Learner, learner_for
from luthier.run.masked import hides, hiding_for, masking_guard, watcher
from luthier.run.memo import StageFolder
from luthier.run.result import close
from luthier.run.shards import Rows, rows_for, rules_of
from luthier.tokens.facts import Facts, marks_of, total
from luthier.train import guards as g
from luthier.train.loop import Loss, fit, stop_if_broken
from luthier.train.sources import Micro, Packed, Pool

HELDOUT_ROWS = 64
"""Held-out rows looked at during training; the probes measure all of them afterwards."""
LOOKED_AT = 1000
"""Conversations of a streamed source among which the round trip through the template is tried."""


def sources_of(data: str | dict[str, float], replay: Replay | None) -> dict[str, float]:
    """Source names with their shares of the trained tokens; the first one's epochs count."""
    shares = {data: 1.0} if isinstance(data, str) else {name: w / sum(data.values()) for name, w in data.items()}
    if replay is not None:
        shares = {name: share * (1 - replay.share) for name, share in shares.items()} | {replay.data: replay.share}
    return shares


def train_language_model(context: Context, index: int, stage: Pretrain | Sft) -> None:
    """Runs, resumes or skips one stage."""
    name = stage.name or stage.kind
    shares = sources_of(stage.data, stage.replay)
    start = context.start(stage.init)
    inputs = {f"data.{source}": context.dataset(source).hash for source in shares}
    inputs["model"] = start.hash if start else "fresh"
    if start is None:
        inputs["base"] = hash_of(context.recipe.base.model_dump(mode="json"))
    folder = context.stage(index, name, stage, inputs)
    if not folder.done:
        run_stage(context, folder, stage, shares)
    elif not (guard := leak_guard(context, {source: context.dataset(source) for source in shares})).ok:
        raise RunError(f"guard: {guard.name}: {guard.detail}")  # a probe may be newer than the stage
    context.made(folder)


def run_stage(context: Context, folder: StageFolder, stage: Pretrain | Sft, shares: dict[str, float]) -> None:
    """Guards, training, certificate, saved model."""
    log = folder.open()
    log.emit("begin", stage=folder.name, stage_kind=folder.kind)
    data = {source: context.dataset(source) for source in shares}
    write_rejected(folder.path / "rejected.jsonl", (bad for d in data.values() for bad in d.rejected))
    learner = learner_for(context, folder, stage)
    made = training_rows(context, learner, stage, data, log)
    heldout = rules_of(stage, longest(learner, stage), True).apply(next(iter(data.values())).heldout, learner.renderer)
    pools = [Pool(made[s].sequences, part(stage, share), s, made[s].lengths) for s, share in shares.items()]
    passed = g.enforce(row_guards(context, learner, stage, data, made), log)
    hiding = hiding_for(context, folder, stage, learner)
    if hiding is not None:
        passed += g.enforce([masking_guard(pools[0].sequences, hiding)], log)
    source = Packed(pools, context.seed(folder), microbatch_tokens(context, stage), stage.epochs, stage.steps, hiding)
    watch = heldout_watcher(context, learner, stage, heldout.sequences, log)
    job = job_for(context, folder, stage, learner, source, lambda m: lm_loss(learner.lm, m), watch, log)
    passed += tried(job, learner, pools[0].sequences, source.largest())
    used = fit(job)
    close(context, folder, learner, job, used, passed, {"rows": {s: row_facts(m.facts) for s, m in made.items()}})


def longest(learner: Learner, stage: Pretrain | Sft) -> int:
    """Tokens of the longest sequence that the stage trains on."""
    return min(stage.max_length or learner.loaded.context, learner.loaded.context)


def part(stage: Pretrain | Sft, share: float) -> int:
    """Tokens of a step that come from a source with this share."""
    return max(1, round(stage.batch_tokens * share))


def row_facts(facts: Facts) -> dict[str, Any]:
    """What stage.json says of one source's rows."""
    return {
        "sequences": facts.sequences,
        "tokens": facts.tokens,
        "dropped": facts.dropped.rows,
        "truncated": facts.truncated.rows,
        "split": facts.split,
    }


def training_rows(
    context: Context, learner: Learner, stage: Pretrain | Sft, data: dict[str, Dataset], log: EventLog
) -> dict[str, Rows]:
    """Each source's training rows as token sequences."""
    rules = rules_of(stage, longest(learner, stage))
    recipe, threads = context.recipe, all_threads(context.recipe)
    return {source: rows_for(recipe, d, learner.renderer, rules, threads, log) for source, d in data.items()}


def row_guards(
    context: Context, learner: Learner, stage: Pretrain | Sft, data: dict[str, Dataset], made: dict[str, Rows]
) -> list[g.Guard]:
    """The guards that look at rows only."""
    renderer = learner.renderer
    facts = total(m.facts for m in made.values())
    some = {source: d.train if d.survey is None else list(islice(at_hand(d), LOOKED_AT)) for source, d in data.items()}
    conversations = [e for rows in some.values() for e in chats(rows)]
    found = [
        g.supervised_in(facts),
        g.nothing_lost_in(facts, stage.overlong == "truncate"),
        g.single_bos_in(facts),
        g.pad_unsupervised_in(facts, marks_of(renderer)),
        leak_guard(context, data),
    ]
    if conversations:
        answered = total(m.facts for source, m in made.items() if chats(some[source]))
        if stage.overlong != "truncate" and not (isinstance(stage, Sft) and stage.train_on == "all"):
            found.append(g.answers_end_in(answered))
        found.append(g.round_trip(conversations, renderer))
    return found


def leak_guard(context: Context, data: dict[str, Dataset]) -> g.Guard:
    """No row that any probe measures is trained on."""
    measured = [e for probe in context.recipe.evaluate.values() for e in measured_rows(context, probe)]
    here = leaked([e for d in data.values() if d.survey is None for e in d.train], measured)
    return g.no_leak(here + [row for d in data.values() if d.survey is not None for row in d.survey.leaked(measured)])


def lm_loss(lm: LanguageModel, micro: Micro) -> Loss:
    """Weighted −log p over the predictions."""
    return Loss(nll(score(lm, micro.batch), micro.batch.weight_M), {})


def heldout_watcher(
    context: Context, learner: Learner, stage: Pretrain | Sft, heldout: list[Tokens], log: EventLog
) -> Callable[[int], float | None]:
    """Measures held-out loss and shows a sampled text, at step 0 and at every evaluation."""
    if isinstance(stage, Pretrain) and hides(stage):
        return watcher(context, learner, stage.masking, heldout, log)
    rows = g.spread(heldout, HELDOUT_ROWS)
    prompts = context.shown_prompts()[:1]

    def watch(step: int) -> float | None:
        value = None
        if rows:
            nats, counts = losses(learner.lm, rows)
            stop_if_broken(step, nats)
            figure = bootstrap_ratio(nats, counts, context.recipe.seed, resamples=200)
            log.emit("eval", step=step, name="heldout_loss", **figure.as_dict())
            value = figure.value
        if prompts:
            how = Sampling(min(48, context.recipe.answer_tokens), temperature=0)
            answer = answer_all(learner.lm, learner.renderer, prompts, how)[0]
            log.emit("sample", step=step, prompt=answer.prompt[-1].content, answer=answer.text)
        elif rows:
            begin = rows[0].ids[: max(1, min(16, len(rows[0].ids) // 2))]
            how = Sampling(32, temperature=0)
            one = sample(learner.lm, [begin], how, sorted(learner.renderer.end_ids), learner.renderer.decode)[0][0]
            log.emit("sample", step=step, prompt=learner.renderer.decode(begin), answer=one.text)
        return value

    return watch
