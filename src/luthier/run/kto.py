"""The kto stage: a language model learns from single answers marked good or bad."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from luthier.base.alignment import Kto
from luthier.base.errors import RunError
from luthier.base.events import EventLog
from luthier.base.nouns import Chat, Labelled, Message, Tokens
from luthier.evals.intervals import Figure, bootstrap_mean, wilson
from luthier.evals.reward import agreement
from luthier.objectives import kto
from luthier.run.context import Context
from luthier.run.fitting import job_for, microbatch_tokens, tried
from luthier.run.learner import Learner, started
from luthier.run.memo import StageFolder
from luthier.run.pairs import answer_guards, answers_for, answers_leak, write_source_rejects
from luthier.run.preference import ROUNDING, WATCHED_PAIRS, at_reference, held_out_watcher, once, reference
from luthier.run.result import close
from luthier.tokens.prepare import prepare_labelled
from luthier.train import guards as g
from luthier.train.loop import fit
from luthier.train.preference import (
    KtoReference,
    Marked,
    answer_logps,
    kto_loss,
    mismatched,
    shuffled_steps,
)

BALANCE = (1.0, 4 / 3)
"""Good answers' weight over the bad ones', times their numbers: Ethayarajh et al. 2024, eq. 8."""


def train_kto(context: Context, index: int, stage: Kto) -> None:
    """Runs, resumes or skips the stage."""
    start = context.start(stage.init)
    assert start is not None
    training, heldout, digest = answers_for(context, stage.data)
    folder = context.stage(index, stage.name or stage.kind, stage, {"model": start.hash, "answers": digest})
    if not folder.done:
        log = folder.open()
        log.emit("begin", stage=folder.name, stage_kind=folder.kind)
        write_source_rejects(context, folder, stage.data)
        run_kto(context, folder, stage, log, training, heldout)
    elif not (guard := answers_leak(context, training, heldout)).ok:
        raise RunError(f"guard: {guard.name}: {guard.detail}")  # a probe may be newer than the stage
    context.made(folder)


def run_kto(
    context: Context, folder: StageFolder, stage: Kto, log: EventLog, training: list[Labelled], heldout: list[Labelled]
) -> None:
    """Guards, the reference's log-probs, training, figures, certificate, saved model."""
    learner = started(context, folder, stage, chat=True)
    length = min(stage.max_length or learner.loaded.context, learner.loaded.context)
    kept, made = prepare_labelled(training, learner.renderer, length, stage.overlong)
    held, held_made = prepare_labelled(heldout, learner.renderer, length, "drop")
    rows, good, limit = made.sequences, [row.good for row in kept], microbatch_tokens(context, stage)
    answered = [Chat((*row.prompt, Message("assistant", row.answer)), row.origin) for row in kept]
    guards = [*answer_guards(learner.renderer, rows, answered), answers_leak(context, training, heldout)]
    passed = g.enforce(guards, log)
    if said := unbalanced(stage, good):
        log.emit("note", text=said)
    which = shuffled_steps(len(rows), stage.batch_answers, stage.epochs, context.seed(folder))
    held_out = HeldOut(
        held_made.sequences, np.array([row.good for row in held], dtype=bool), mismatched(held_made.sequences, length)
    )
    facts = once(folder, lambda: of_answers(learner, rows, which, held_out, length, limit))
    passed += g.enforce([starts_at_reference(stage, learner, rows, facts["answers"], limit)], log)
    known = KtoReference(facts["answers"], facts["mismatched"])
    source = Marked(learner.lm, rows, good, which, known, limit, length)
    judged = lambda most: judge_answers(learner, held_out, facts, most, limit)  # noqa: E731
    watch = held_out_watcher(context, learner, lambda: losses_and_rights(stage, judged(WATCHED_PAIRS)), log)
    loss = lambda m: kto_loss(learner.lm, stage, m)  # noqa: E731
    job = job_for(context, folder, stage, learner, source, loss, watch, log)
    passed += tried(job, learner, rows, source.largest())
    used = fit(job)
    figures = kto_figures(stage, judged(len(held)), context.recipe.seed)
    for name, figure in figures.items():
        log.emit("eval", step=used.steps, name=name, **figure.as_dict())
    counts = {"answers": len(rows), "good": sum(good), "heldout": len(held), "dropped": len(made.dropped)}
    metrics = {name: figure.as_dict() for name, figure in figures.items()}
    close(context, folder, learner, job, used, passed, {**counts, "metrics": metrics})


class HeldOut(NamedTuple):
    """Held-out answers, their marks, and their prompts with each other's answers."""

    rows: Sequence[Tokens]
    good_N: np.ndarray
    mismatched: Sequence[Tokens]


class Judged(NamedTuple):
    """What KTO's loss compares of some answers: gains over the reference (nats), marks, and gains of mismatched
    answers, whose mean is the KL baseline."""

    gain_N: np.ndarray
    good_N: np.ndarray
    mismatched_N: np.ndarray

    @property
    def drift(self) -> float:
        """Mean gain of the mismatched answers, in nats: what any answer gained. The loss's z is this, or 0 where it is
        negative."""
        return float(self.mismatched_N.mean()) if len(self.mismatched_N) else 0.0


def of_answers(
    learner: Learner, rows: Sequence[Tokens], which: Sequence[Sequence[int]], held: HeldOut, length: int, limit: int
) -> dict[str, Any]:
    """The reference's log-probs (nats) of every answer, of every step's mismatched answers, and of held-out ones."""
    with reference(learner) as lm:
        return {
            "answers": answer_logps(lm, rows, limit),
            "mismatched": [answer_logps(lm, mismatched([rows[i] for i in step], length), limit) for step in which],
            "heldout": answer_logps(lm, held.rows, limit),
            "heldout_mismatched": answer_logps(lm, held.mismatched, limit),
        }


def starts_at_reference(
    stage: Kto, learner: Learner, rows: Sequence[Tokens], facts: Sequence[float], limit: int
) -> g.Guard:
    """Before the first step the policy is the reference: every gain is 0."""
    some = range(0, len(rows), max(1, len(rows) // 16))
    now = answer_logps(learner.lm, [rows[i] for i in some], limit)
    return at_reference(stage, learner, now, [facts[i] for i in some], [sum(rows[i].weights) for i in some])


def unbalanced(stage: Kto, good: Sequence[bool]) -> str:
    """A sentence where the weights leave one kind of answer with too much of the loss; else nothing."""
    many, few = sum(good), len(good) - sum(good)
    low, high = BALANCE
    if not stage.bad_weight or low <= stage.good_weight * many / (stage.bad_weight * few) <= high + 1e-9:
        return ""
    fit = stage.bad_weight * few / many
    return (
        f"{many} good answers at weight {stage.good_weight:g} and {few} bad ones at {stage.bad_weight:g}: one kind has "
        f"more of the loss than is advised. good_weight between {low * fit:.2g} and {high * fit:.2g} balances them "
        "(Ethayarajh et al. 2024, eq. 8)"
    )


def judge_answers(learner: Learner, held: HeldOut, facts: dict[str, list[float]], most: int, limit: int) -> Judged:
    """Gains of the first held-out answers, under the present weights."""
    gain_N = np.subtract(answer_logps(learner.lm, held.rows[:most], limit), facts["heldout"][:most])
    others = answer_logps(learner.lm, held.mismatched[:most], limit)
    return Judged(gain_N, held.good_N[:most], np.subtract(others, facts["heldout_mismatched"][:most]))


def losses_of(stage: Kto, seen: Judged) -> np.ndarray:
    """KTO's loss of each answer."""
    one = lambda gain, good: kto(  # noqa: E731
        torch.tensor([gain]),
        torch.tensor([float(good)]),
        max(0.0, seen.drift),
        stage.beta,
        stage.good_weight,
        stage.bad_weight,
    )
    return np.array([float(one(gain, good)) for gain, good in zip(seen.gain_N, seen.good_N, strict=True)])


def rightness(seen: Judged) -> np.ndarray:
    """1 where a good answer gained more, or a bad one less, than any answer did; ½ where neither, else 0."""
    beyond_N = seen.gain_N - seen.drift
    beyond_N = np.where(np.abs(beyond_N) > ROUNDING, beyond_N, 0.0)
    return agreement(np.where(seen.good_N, beyond_N, -beyond_N))


def losses_and_rights(stage: Kto, seen: Judged) -> tuple[np.ndarray, np.ndarray] | None:
    """Each answer's loss (nats) and whether it moved as it is marked; None of no answers."""
    return (losses_of(stage, seen), rightness(seen)) if len(seen.gain_N) else None


def kto_figures(stage: Kto, seen: Judged, seed: int) -> dict[str, Figure]:
    """Of the held-out answers: how many moved as they are marked, the loss, and by how many nats good, bad and
    mismatched answers moved."""
    if not len(seen.gain_N):
        return {}
    figures = {
        "accuracy": wilson(float(rightness(seen).sum()), len(seen.gain_N)),
        "loss": bootstrap_mean(losses_of(stage, seen), seed),
    }
    sides = {"good_gain": seen.gain_N[seen.good_N], "bad_gain": seen.gain_N[~seen.good_N], "kl": seen.mismatched_N}
    return figures | {name: bootstrap_mean(nats, seed) for name, nats in sides.items() if len(nats)}
