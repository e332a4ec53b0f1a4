"""Stages that train a language model on data: pretrain and sft."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.base.errors import RunError
from luthier.base.events import EventLog
from luthier.base.files import new_folder, write_jsonl
from luthier.base.nouns import Chat, Example, Text, Tokens
from luthier.base.recipe import Pretrain, Replay, Sft
from luthier.data.dataset import Dataset, leaked, write_rejected
from luthier.evals.answers import Answer, answer_all
from luthier.evals.intervals import bootstrap_ratio
from luthier.evals.loss import losses
from luthier.generate import Sampling, sample
from luthier.model.adapt import add_adapter, merged, restore_adapter, save_adapter, trainable
from luthier.model.load import Loaded, add_chat_template, fresh_model, load_folder, load_tokenizer, save_model, wrap
from luthier.model.score import LanguageModel, score
from luthier.objectives import nll
from luthier.run.context import Context, chats, renderer_of, texts
from luthier.run.memo import StageFolder
from luthier.tokens.pack import forest
from luthier.tokens.prepare import Prepared, prepare
from luthier.tokens.render import Renderer
from luthier.tokens.tokenizer import train_tokenizer
from luthier.train import guards as g
from luthier.train.checkpoint import Checkpoints, Weights
from luthier.train.loop import Job, Loss, Totals, disk_for, fit, stop_if_broken, try_largest
from luthier.train.optim import optimizers
from luthier.train.sources import Micro, Packed, Pool

MICROBATCH_TOKENS = 8192
HELDOUT_ROWS = 64
"""Held-out rows looked at during training; the probes measure all of them afterwards."""
ADAPTER = "policy"


@dataclass(frozen=True)
class Learner:
    """A model about to be trained, with what training it needs."""

    loaded: Loaded
    lm: LanguageModel
    renderer: Renderer
    weights: Weights
    adapter: bool


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
    limit = stage.microbatch_tokens or MICROBATCH_TOKENS
    source = Packed(pools, context.seed(folder), limit, stage.epochs, stage.steps)
    parameters = trainable(learner.lm.module)
    steppers = optimizers(parameters, stage)
    job = Job(
        module=learner.lm.module,
        parameters=list(parameters.values()),
        optimizers=steppers,
        source=source,
        loss=lambda m: lm_loss(learner.lm, m),
        evaluate=heldout_watcher(context, learner, heldout.sequences, log),
        how=stage,
        checkpoints=Checkpoints(folder.path / "checkpoints", learner.weights, {**steppers}),
        log=log,
        seed=context.seed(folder),
        device=learner.lm.device,
    )
    passed += g.enforce(
        [g.packed_is_unpacked(learner.lm, pools[0].sequences), try_largest(job, source.largest()), disk_for(job)], log
    )
    used = fit(job)
    close(context, folder, learner, job, used, passed, {"rows": {s: prepared_facts(m) for s, m in made.items()}})


def close(
    context: Context,
    folder: StageFolder,
    learner: Learner,
    job: Job,
    used: Totals,
    passed: list[dict[str, Any]],
    facts: dict[str, Any],
) -> None:
    """Saves a language model with its certificate and samples, and writes the stage's record."""
    certificate = save_result(folder, learner)
    job.log.emit("guard", **certificate)
    show_samples(context, folder, learner)
    layout = learner.loaded.check.layout
    folder.close(**used.facts(job), guards=[*passed, certificate], layout=layout, **facts)
    job.checkpoints.clear()


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
    return data.heldout if probe.kind == "loss" and probe.heldout_only else data.train + data.heldout


def learner_for(context: Context, folder: StageFolder, stage: Pretrain | Sft) -> Learner:
    """The model to train: loaded or fresh, with a chat template if conversations come, with an adapter if asked."""
    start = context.start(stage.init)
    if start is not None:
        loaded = context.load(start)
    else:
        assert context.recipe.base.fresh is not None
        tokenizer = new_tokenizer(context, folder, stage)
        model = fresh_model(context.recipe.base.fresh, tokenizer, context.recipe.seed)
        loaded = wrap(model, tokenizer, context.device, context.dtype)
    grown = add_chat_template(loaded, context.recipe.seed) if isinstance(stage, Sft) else ()
    lm = loaded.lm
    if stage.gradient_checkpointing:
        lm.core.gradient_checkpointing_enable({"use_reentrant": False})
    renderer = renderer_of(loaded)
    if stage.adapter is None:
        return Learner(loaded, lm, renderer, full_weights(lm, loaded.tokenizer), adapter=False)
    lm.core.enable_input_require_grads()  # gradient checkpointing needs an input that has a gradient
    lm = add_adapter(lm, stage.adapter, ADAPTER, context.seed(folder), grown)
    weights = Weights(lambda path: save_adapter(lm, ADAPTER, path), lambda path: restore_adapter(lm, ADAPTER, path))
    return Learner(loaded, lm, renderer, weights, adapter=True)


def full_weights(lm: LanguageModel, tokenizer: Any) -> Weights:
    """All weights, as a Hugging Face folder."""

    def restore(path: Path) -> None:
        saved = load_folder(path, str(lm.device), lm.dtype)
        lm.core.load_state_dict(saved.lm.core.state_dict())

    return Weights(lambda path: save_model(lm.core, tokenizer, path), restore)


def new_tokenizer(context: Context, folder: StageFolder, stage: Pretrain | Sft) -> Any:
    """The run's own tokenizer, trained once on the stage's documents and kept beside them."""
    kept = folder.path / "tokenizer"
    if not kept.is_dir():
        fresh = context.recipe.base.fresh
        assert fresh is not None
        documents = [t.text for source in sources_of(stage.data, None) for t in texts(context.dataset(source).train)]
        if not documents:
            raise RunError(f"{folder.name}: no documents to train a tokenizer on. Give a source of texts.")
        with new_folder(kept) as path:
            train_tokenizer(documents, fresh.vocab).save_pretrained(path)
    return load_tokenizer(kept)


def lm_loss(lm: LanguageModel, micro: Micro) -> Loss:
    """Weighted −log p over the predictions."""
    return Loss(nll(score(lm, micro.batch), micro.batch.weight_M), {})


def heldout_watcher(
    context: Context, learner: Learner, heldout: list[Tokens], log: EventLog
) -> Callable[[int], float | None]:
    """Measures held-out loss and shows a sampled text, at step 0 and at every evaluation."""
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


@torch.no_grad()
def logps_of(lm: LanguageModel, sequences: Sequence[Tokens]) -> Tensor:
    """Log-probs of a few sequences, for comparing a model with its saved self."""
    lm.module.eval()
    return score(lm, forest(sequences).to(lm.device)).cpu()


def save_result(folder: StageFolder, learner: Learner) -> dict[str, Any]:
    """Saves the model (and its adapter), reads it back, and compares: the export certificate.
    Raises RunError where what is on disk is not what was trained."""
    ends = tuple(learner.renderer.end_ids)
    probe = [Tokens(tuple(range(3, 3 + n)), (0.0,) + (1.0,) * (n - 1), "certificate") for n in (9, 17, 33)]
    trained_M = logps_of(learner.lm, probe)
    gaps = {}
    result = folder.path / "model"
    if learner.adapter:
        with new_folder(folder.path / "adapter") as path:
            save_adapter(learner.lm, ADAPTER, path)
        whole = merged(learner.lm)
        gaps["merged"] = float((logps_of(whole, probe) - trained_M).abs().max())
        module = whole.module
    else:
        module = learner.lm.module
    with new_folder(result) as path:
        save_model(module, learner.loaded.tokenizer, path, ends)
    again = load_folder(result, str(learner.lm.device), learner.lm.dtype)
    gaps["saved"] = float((logps_of(again.lm, probe) - trained_M).abs().max())
    greedy = Sampling(16, temperature=0)
    prompts = [s.ids[:8] for s in probe]
    texts_of = [
        [tuple(s.ids) for (s,) in sample(lm, prompts, greedy, ends, learner.renderer.decode)]
        for lm in (learner.lm, again.lm)
    ]
    tolerance = 1e-3 if learner.lm.dtype == torch.float32 else 0.1
    same = texts_of[0] == texts_of[1]
    said = ", ".join(f"{name} differs by {gap:.1g} nats" for name, gap in gaps.items())
    guard = g.Guard(
        "export certificate",
        max(gaps.values()) <= tolerance and same,
        f"{said}; greedy tokens {'equal' if same else 'differ'}",
    )
    if not guard.ok:
        shutil.rmtree(result)
        raise RunError(f"{folder.name}: what was saved is not what was trained: {guard.detail}. The checkpoints stay.")
    return {"name": guard.name, "ok": guard.ok, "detail": guard.detail}


def show_samples(context: Context, folder: StageFolder, learner: Learner) -> None:
    """Answers to the report's prompts, greedy, to samples.jsonl."""
    prompts = context.shown_prompts()
    how = Sampling(context.recipe.answer_tokens, temperature=0)
    write_samples(folder.path, prompts, answer_all(learner.lm, learner.renderer, prompts, how) if prompts else [])


def write_samples(folder: Path, prompts: Sequence[Chat], answers: Sequence[Answer]) -> None:
    """samples.jsonl: {origin, prompt, reference, accept, answer, right, ended}."""
    write_jsonl(
        folder / "samples.jsonl",
        [
            {
                "origin": a.origin,
                "prompt": a.prompt[-1].content,
                "reference": p.answer,
                "accept": list(p.accept),
                "answer": a.text,
                "right": a.right,
                "ended": a.ended,
            }
            for p, a in zip(prompts, answers, strict=True)
        ],
    )
