"""The stages dpo, orpo and simpo: a language model learns from preference pairs, without a reward model between."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from luthier.base.alignment import Dpo
from luthier.base.errors import RunError
from luthier.base.events import EventLog
from luthier.base.files import read_json, write_text
from luthier.base.nouns import Pair, Tokens
from luthier.base.tuning import Training
from luthier.evals.intervals import Figure, bootstrap_mean, wilson
from luthier.evals.reward import agreement, verdicts
from luthier.model.adapt import only
from luthier.model.roles import evaluating
from luthier.model.score import LanguageModel
from luthier.run.context import Context
from luthier.run.fitting import job_for, microbatch_tokens, tried
from luthier.run.learner import Learner, started
from luthier.run.memo import StageFolder
from luthier.run.pairs import pair_guards, pair_leak, pairs_for, write_source_rejects
from luthier.run.result import close
from luthier.run.reward import report_card
from luthier.run.rollouts import show_answer
from luthier.tokens.prepare import prepare_pairs
from luthier.train import guards as g
from luthier.train.loop import fit, stop_if_broken
from luthier.train.preference import (
    Compared,
    PairStage,
    answer_logps,
    compare,
    implicit_margin,
    pair_sum,
    preference_loss,
)
from luthier.train.ranks import here
from luthier.train.sources import Pairs, pair_micro, split_pairs

WATCHED_PAIRS = 256
"""Held-out pairs (or answers) looked at during training; at the end all are."""
ROUNDING = 1e-3
"""Nats: implicit rewards nearer than this are a tie. A policy that has not moved yet prefers nothing."""
STARTS_AS_BASE = ("lora", "ia3", "bottleneck")
"""Adapters that change nothing before the first step."""

TokenPairs = list[tuple[Tokens, Tokens]]


def train_preference(context: Context, index: int, stage: PairStage) -> None:
    """Runs, resumes or skips one stage."""
    start = context.start(stage.init)
    assert start is not None
    training, heldout, digest = pairs_for(context, stage.kind, stage.pairs)
    folder = context.stage(index, stage.name or stage.kind, stage, {"model": start.hash, "pairs": digest})
    if not folder.done:
        log = folder.open()
        log.emit("begin", stage=folder.name, stage_kind=folder.kind)
        write_source_rejects(context, folder, stage.pairs)
        run_preference(context, folder, stage, log, training, heldout)
    elif not (guard := pair_leak(context, training, heldout)).ok:
        raise RunError(f"guard: {guard.name}: {guard.detail}")  # a probe may be newer than the stage
    context.made(folder)


def run_preference(
    context: Context, folder: StageFolder, stage: PairStage, log: EventLog, training: list[Pair], heldout: list[Pair]
) -> None:
    """Guards, the reference's log-probs, training, figures, certificate, saved model."""
    learner = started(context, folder, stage, chat=True)
    length = min(stage.max_length or learner.loaded.context, learner.loaded.context)
    pairs, _, made = prepare_pairs(training, learner.renderer, length, stage.overlong)
    held, _, _ = prepare_pairs(heldout, learner.renderer, length, "drop")
    passed = g.enforce(pair_guards(context, learner, made.sequences, training, heldout), log)
    limit = microbatch_tokens(context, stage)
    facts: dict[str, dict[str, list[float]]] = {"training": {}, "heldout": {}}
    if isinstance(stage, Dpo):
        facts = once(folder, lambda: of_pairs(learner, {"training": pairs, "heldout": held}, limit))
        passed += g.enforce([starts_at_reference(stage, learner, pairs, facts["training"], limit)], log)
    source = Pairs(pairs, context.seed(folder), stage.batch_pairs, limit, stage.epochs, facts["training"])
    judged = lambda most: judge_pairs(learner.lm, stage, held[:most], facts["heldout"], limit)  # noqa: E731
    watch = held_out_watcher(context, learner, lambda: losses_and_rights(stage, judged(WATCHED_PAIRS)), log)
    loss = lambda m: preference_loss(learner.lm, stage, m)  # noqa: E731
    job = job_for(context, folder, stage, learner, source, loss, watch, log)
    passed += tried(job, learner, made.sequences, source.largest())
    used = fit(job)
    figures, bias = pair_figures(judged(len(held)), stage, held, pairs, context.recipe.seed)
    for name, figure in figures.items():
        log.emit("eval", step=used.steps, name=name, **figure.as_dict())
    said = {"pairs": len(pairs), "heldout": len(held), "dropped": len(made.dropped), "bias": bias}
    metrics = {name: figure.as_dict() for name, figure in figures.items()}
    close(context, folder, learner, job, used, passed, {**said, "metrics": metrics})


def once(folder: StageFolder, make: Callable[[], Any]) -> Any:
    """reference.json: what the reference says of the stage's rows. Made before the first step and read ever after, so
    that a stage that goes on measures against the same numbers. Raises RunError where they are no numbers."""
    path = folder.path / "reference.json"
    if not path.exists():
        try:
            write_text(path, json.dumps(make(), allow_nan=False) + "\n")
        except ValueError:
            raise RunError(
                f"{folder.name}: the model that the stage starts from gives log-probs that are not finite: its "
                "weights are broken. Start from another stage (init)."
            ) from None
    here().meet()  # a rank that does not write reads what the main one wrote
    return read_json(path)


@contextmanager
def reference(learner: Learner) -> Iterator[LanguageModel]:
    """Inside this block, before the first step: the model that the policy starts from."""
    if learner.adapter is None:
        yield learner.lm
        return
    with only(learner.lm, None) as lm:
        yield lm


def of_pairs(learner: Learner, sides: dict[str, TokenPairs], limit: int) -> dict[str, dict[str, list[float]]]:
    """The reference's log-probs (nats) of both answers of every pair, as dpo's loss takes them."""
    found = {}
    with reference(learner) as lm:
        for side, pairs in sides.items():
            logps = answer_logps(lm, [answer for pair in pairs for answer in pair], limit)
            found[side] = {"ref_chosen_P": logps[0::2], "ref_rejected_P": logps[1::2]}
    return found


def starts_at_reference(
    stage: Training, learner: Learner, pairs: TokenPairs, facts: dict[str, list[float]], limit: int
) -> g.Guard:
    """Before the first step the policy is the reference: implicit rewards are 0, and the loss is that of a coin."""
    some = range(0, len(pairs), max(1, len(pairs) // 8))
    now = answer_logps(learner.lm, [answer for i in some for answer in pairs[i]], limit)
    then = [facts[side][i] for i in some for side in ("ref_chosen_P", "ref_rejected_P")]
    tokens = [sum(answer.weights) for i in some for answer in pairs[i]]
    return at_reference(stage, learner, now, then, tokens)


def at_reference(
    stage: Training, learner: Learner, now: Sequence[float], then: Sequence[float], tokens: Sequence[float]
) -> g.Guard:
    """The guard for answers' log-probs under policy (`now`) and reference (`then`), and their lengths."""
    gap = float(np.max(np.abs(np.subtract(now, then)) / np.array(tokens)))
    moved = stage.adapter is not None and stage.adapter.kind not in STARTS_AS_BASE
    ok = moved or gap <= (1e-3 if learner.lm.dtype == torch.float32 else 0.2)
    said = f"policy and reference differ by {gap:.1g} nats a token on {len(now)} answers"
    if moved and stage.adapter is not None:
        said += f": a new {stage.adapter.kind} adapter changes the model from the start"
    wrong = ". They are not the same model, or they are scored differently: please report it."
    return g.Guard("starts at the reference", ok, said + ("" if ok else wrong))


@torch.no_grad()
def judge_pairs(
    lm: LanguageModel, stage: PairStage, pairs: TokenPairs, facts: dict[str, list[float]], limit: int
) -> Compared:
    """What the stage compares of some pairs, on the CPU."""
    parts, begin = [], 0
    with evaluating(lm):
        for run in split_pairs(pairs, limit):
            own = {name: torch.tensor(values[begin : begin + len(run)]) for name, values in facts.items()}
            begin += len(run)
            parts.append(compare(lm, stage, pair_micro(run, own).to(lm.device)))
    nothing = Compared(*(torch.zeros(0) for _ in Compared._fields))
    return Compared(*(torch.cat([x.cpu() for x in columns]) for columns in zip(nothing, *parts, strict=True)))


def losses_of(stage: PairStage, seen: Compared) -> np.ndarray:
    """The stage's loss of each pair."""
    return np.array([float(pair_sum(stage, Compared(*(x[i : i + 1] for x in seen)))) for i in range(len(seen[0]))])


def settled(stage: PairStage, seen: Compared) -> np.ndarray:
    """Implicit margins, 0 where only rounding tells the answers apart."""
    apart = (seen.chosen_P - seen.rejected_P).abs() > ROUNDING
    return (implicit_margin(stage, seen) * apart).double().numpy()


def losses_and_rights(stage: PairStage, seen: Compared) -> tuple[np.ndarray, np.ndarray] | None:
    """Each pair's loss (nats) and whether the implicit reward prefers the chosen answer; None of no pairs."""
    return (losses_of(stage, seen), agreement(settled(stage, seen))) if len(seen.chosen_P) else None


def held_out_watcher(
    context: Context, learner: Learner, seen: Callable[[], tuple[np.ndarray, np.ndarray] | None], log: EventLog
) -> Callable[[int], float | None]:
    """Held-out loss, accuracy of the implicit reward and a sampled answer, at step 0 and at every evaluation. The loss
    is what the best checkpoint has least of. `seen`: the losses and rights of the held-out rows that are watched."""

    def watch(step: int) -> float | None:
        found, value = seen(), None
        if found is not None:
            losses, right = found
            stop_if_broken(step, losses)
            figure = bootstrap_mean(losses, context.recipe.seed, resamples=200)
            log.emit("eval", step=step, name="heldout_loss", **figure.as_dict())
            log.emit("eval", step=step, name="heldout_accuracy", **wilson(float(right.sum()), len(right)).as_dict())
            value = figure.value
        show_answer(context, learner, log, step)
        return value

    return watch


def pair_figures(
    seen: Compared, stage: PairStage, held: TokenPairs, pairs: TokenPairs, seed: int
) -> tuple[dict[str, Figure], str]:
    """Accuracy and margin of the implicit reward as a reward model's, the held-out loss, and for dpo by how many nats
    chosen and rejected answers moved."""
    figures, bias = report_card(verdicts(settled(stage, seen), held, pairs), seed)
    if figures:
        figures["loss"] = bootstrap_mean(losses_of(stage, seen), seed)
    if figures and isinstance(stage, Dpo):
        figures["chosen_gain"] = bootstrap_mean(seen.chosen_P.double().numpy(), seed)
        figures["rejected_gain"] = bootstrap_mean(seen.rejected_P.double().numpy(), seed)
    return figures, bias
