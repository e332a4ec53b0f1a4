"""Stages that train a language model on data: pretrain and sft."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from luthier.base.errors import RunError
from luthier.base.events import EventLog
from luthier.base.files import hash_of
from luthier.base.nouns import Chat, Example, Text, Tokens
from luthier.base.recipe import Pretrain, Sft
from luthier.base.tuning import Replay
from luthier.data.dataset import Dataset, leaked, write_rejected
from luthier.evals.answers import answer_all
from luthier.evals.intervals import bootstrap_ratio
from luthier.evals.loss import losses
from luthier.generate import Sampling, sample
from luthier.model.score import LanguageModel, score
from luthier.objectives import nll
from luthier.run.context import Context, chats, texts
from luthier.run.fitting import job_for, microbatch_tokens, tried
from luthier.run.learner import Learner, learner_for
from luthier.run.masked import hides, hiding_for, masking_guard, rows_of, watcher
from luthier.run.memo import StageFolder
from luthier.run.result import close
from luthier.tokens.prepare import Prepared, prepare
from luthier.tokens.render import Renderer
from luthier.train import guards as g
from luthier.train.loop import Loss, fit, stop_if_broken
from luthier.train.sources import Micro, Packed, Pool

HELDOUT_ROWS = 64
"""Held-out rows looked at during training; the probes measure all of them afterwards."""


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
    write_rejected(folder.path / "rejected.jsonl", [bad for d in data.values() for bad in d.rejected])
    learner = learner_for(context, folder, stage)
    length = min(stage.max_length or learner.loaded.context, learner.loaded.context)
    made = {source: prepare_rows(d.train, learner.renderer, length, stage) for source, d in data.items()}
    heldout = prepare_rows(next(iter(data.values())).heldout, learner.renderer, length, stage, lenient=True)
    pools = [Pool(made[s].sequences, max(1, round(stage.batch_tokens * share)), s) for s, share in shares.items()]
    passed = g.enforce(row_guards(context, learner, stage, data, made), log)
    hiding = hiding_for(context, folder, stage, learner)
    if hiding is not None:
        passed += g.enforce([masking_guard(pools[0].sequences, hiding)], log)
    source = Packed(pools, context.seed(folder), microbatch_tokens(context, stage), stage.epochs, stage.steps, hiding)
    watch = heldout_watcher(context, learner, stage, heldout.sequences, log)
    job = job_for(context, folder, stage, learner, source, lambda m: lm_loss(learner.lm, m), watch, log)
    passed += tried(job, learner, pools[0].sequences, source.largest())
    used = fit(job)
    close(context, folder, learner, job, used, passed, {"rows": {s: prepared_facts(m) for s, m in made.items()}})


def prepared_facts(made: Prepared) -> dict[str, Any]:
    """What stage.json says of one source's rows."""
    return {
        "sequences": len(made.sequences),
        "tokens": sum(len(s.ids) for s in made.sequences),
        "dropped": len(made.dropped),
        "truncated": len(made.truncated),
        "split": made.split,
    }


def prepare_rows(
    examples: Sequence[Example], renderer: Renderer, length: int, stage: Pretrain | Sft, lenient: bool = False
) -> Prepared:
    """Documents and conversations as token sequences; replayed documents may always be split, and held-out rows that
    are too long are left out."""
    if isinstance(stage, Pretrain) and hides(stage):
        return rows_of(examples, renderer.tokenizer, length, stage, lenient)
    train_on = stage.train_on if isinstance(stage, Sft) else "answers"
    documents = prepare(texts(list(examples)), renderer, length, "split")
    if isinstance(stage, Pretrain) and stage.overlong != "split":
        documents = prepare(texts(list(examples)), renderer, length, "drop" if lenient else stage.overlong)
    rule = "drop" if lenient else stage.overlong if isinstance(stage, Sft) else "error"
    conversations = prepare(chats(list(examples)), renderer, length, rule, train_on)
    others = [e for e in examples if not isinstance(e, Text | Chat)]
    prepare(others[:1], renderer, length, "error")  # says what is wrong with them
    return Prepared(
        documents.sequences + conversations.sequences,
        documents.dropped + conversations.dropped,
        documents.truncated + conversations.truncated,
        documents.split,
        documents.lost_tokens + conversations.lost_tokens,
    )


def row_guards(
    context: Context, learner: Learner, stage: Pretrain | Sft, data: dict[str, Dataset], made: dict[str, Prepared]
) -> list[g.Guard]:
    """The guards that look at rows only."""
    renderer, tokenizer = learner.renderer, learner.loaded.tokenizer
    rows = [s for m in made.values() for s in m.sequences]
    lost = sum(m.lost_tokens for m in made.values())
    cut = [origin for m in made.values() for origin in m.truncated]
    conversations = [e for d in data.values() for e in chats(d.train)]
    found = [
        g.supervised(rows),
        g.nothing_lost(lost, cut, stage.overlong == "truncate"),
        g.single_bos(rows, tokenizer.bos_token_id),
        g.pad_unsupervised(rows, tokenizer.pad_token_id, renderer.end_ids),
        leak_guard(context, data),
    ]
    if conversations:
        answered = [s for source, m in made.items() if chats(data[source].train) for s in m.sequences]
        if stage.overlong != "truncate" and not (isinstance(stage, Sft) and stage.train_on == "all"):
            found.append(g.answers_end(answered, renderer.end_ids))
        found.append(g.round_trip(conversations, renderer))
    return found


def leak_guard(context: Context, data: dict[str, Dataset]) -> g.Guard:
    """No row that any probe measures is trained on."""
    measured = [e for probe in context.recipe.evaluate.values() for e in measured_rows(context, probe)]
    return g.no_leak(leaked([e for d in data.values() for e in d.train], measured))


def measured_rows(context: Context, probe: Any) -> list[Example]:
    """The rows that a probe measures: none of them may be trained on."""
    data = context.dataset(probe.data)
    held = probe.kind in ("loss", "fill_mask", "pseudo_perplexity") and probe.heldout_only
    return data.heldout if held else data.train + data.heldout


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
