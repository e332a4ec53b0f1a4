"""The reward stage: a Bradley-Terry model on preference pairs, judged before anything relies on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from luthier.base.alignment import Reward
from luthier.base.errors import RunError
from luthier.base.events import EventLog
from luthier.base.files import new_folder
from luthier.base.nouns import Chat, Message, Pair, Tokens
from luthier.evals.intervals import Figure, bootstrap_mean, wilson
from luthier.evals.reward import Verdicts, buckets, judge
from luthier.model.adapt import merged, save_adapter
from luthier.model.heads import (
    classifier_class_missing,
    folder_scores,
    save_head,
    save_reward_model,
    scalar_head,
    sequence_scores,
    state_width,
)
from luthier.model.load import save_model
from luthier.model.score import LanguageModel
from luthier.objectives import bradley_terry
from luthier.run.context import Context
from luthier.run.fitting import job_for, microbatch_tokens, tried
from luthier.run.learner import Learner, started
from luthier.run.memo import StageFolder
from luthier.run.pairs import answer_guards, pairs_for, shared_prompts, write_source_rejects
from luthier.tokens.pack import forest
from luthier.tokens.prepare import prepare_pairs
from luthier.train import guards as g
from luthier.train.loop import Loss, fit, stop_if_broken
from luthier.train.ranks import here
from luthier.train.sources import Micro, Pairs

REWARD = "reward"


def train_reward(context: Context, index: int, stage: Reward) -> None:
    """Runs, resumes or skips the stage."""
    start = context.start(stage.init)
    assert start is not None
    training, heldout, digest = pairs_for(context, stage.kind, stage.pairs)
    folder = context.stage(index, stage.name or stage.kind, stage, {"model": start.hash, "pairs": digest})
    if not folder.done:
        log = folder.open()
        log.emit("begin", stage=folder.name, stage_kind=folder.kind)
        write_source_rejects(context, folder, stage.pairs)
        run_reward(context, folder, stage, log, training, heldout)


def run_reward(
    context: Context, folder: StageFolder, stage: Reward, log: EventLog, training: list[Pair], heldout: list[Pair]
) -> None:
    """Guards, training, report card, saved model."""
    learner, head = reward_learner(context, folder, stage)
    length = min(stage.max_length or learner.loaded.context, learner.loaded.context)
    pairs, fitting, made = prepare_pairs(training, learner.renderer, length, stage.overlong)
    held, _, _ = prepare_pairs(heldout, learner.renderer, length, "drop")
    passed = g.enforce(reward_guards(learner, made.sequences, training, heldout), log)
    facts = strengths(stage, fitting)
    limit = microbatch_tokens(context, stage)
    source = Pairs(pairs, context.seed(folder), stage.batch_pairs, limit, stage.epochs, facts)
    watch = accuracy_watcher(learner, head, held[:256], pairs, log)
    loss = lambda m: pair_loss(learner.lm, head, m)  # noqa: E731
    job = job_for(context, folder, stage, learner, source, loss, watch, log, heads={"head": head})
    passed += tried(job, learner, made.sequences, source.largest())
    used = fit(job)
    if not here().is_main:
        return
    figures, bias = report_card(judge(learner.lm, head, held, pairs), context.recipe.seed)
    certificate = save_reward(folder, learner, head, held or pairs)
    log.emit("guard", **certificate)
    for name, figure in figures.items():
        log.emit("eval", step=used.steps, name=name, **figure.as_dict())
    gate(stage, figures, folder)
    folder.close(
        **used.facts(job),
        guards=[*passed, certificate],
        shared_with=folder.inputs["model"],
        dropped=len(made.dropped),
        strengths=[name.removesuffix("_P") for name in facts],
        metrics={name: figure.as_dict() for name, figure in figures.items()},
        bias=bias,
    )
    job.checkpoints.clear()


def strengths(stage: Reward, pairs: Sequence[Pair]) -> dict[str, list[float]]:
    """What the pairs say of how strongly, and how unanimously, the chosen answer was preferred; a pair that does not
    say is certain, and without a margin."""
    facts = {}
    if stage.margin and any(p.margin is not None for p in pairs):
        facts["margin_P"] = [p.margin or 0.0 for p in pairs]
    if stage.soft_labels and any(p.agreement is not None for p in pairs):
        facts["agreement_P"] = [1.0 if p.agreement is None else p.agreement for p in pairs]
    return facts


def reward_guards(learner: Learner, rows: list[Tokens], training: list[Pair], heldout: list[Pair]) -> list[g.Guard]:
    """The guards that look at rows only."""
    missing = classifier_class_missing(learner.lm)
    chosen = [Chat((*p.prompt, Message("assistant", p.chosen)), p.origin) for p in training]
    return [
        g.Guard("saves for transformers", missing is None, missing or "as a sequence classifier with one label"),
        *answer_guards(learner.renderer, rows, chosen),
        g.no_leak(shared_prompts(training, heldout)),
    ]


def reward_learner(context: Context, folder: StageFolder, stage: Reward) -> tuple[Learner, nn.Linear]:
    """The model and its scalar head."""
    learner = started(context, folder, stage, REWARD)
    head = scalar_head(state_width(learner.lm), context.seed(folder), "reward head")
    return learner, head.to(learner.lm.device)


def pair_loss(lm: LanguageModel, head: nn.Linear, micro: Micro) -> Loss:
    """Bradley-Terry over the pairs of a microbatch, with their margins and agreement where they have them."""
    scores_N = sequence_scores(lm, head, micro.batch)
    chosen_P, rejected_P = scores_N[0::2], scores_N[1::2]
    right = float((chosen_P > rejected_P).sum())
    return Loss(
        bradley_terry(chosen_P, rejected_P, micro.data.get("margin_P", 0.0), micro.data.get("agreement_P", 1.0)),
        {"accuracy": (right, float(len(chosen_P))), "margin": ((chosen_P - rejected_P).detach().sum(), len(chosen_P))},
    )


def accuracy_watcher(
    learner: Learner,
    head: nn.Linear,
    heldout: list[tuple[Tokens, Tokens]],
    training: list[tuple[Tokens, Tokens]],
    log: EventLog,
) -> Callable[[int], float | None]:
    """Held-out accuracy at every evaluation; the error is what the best checkpoint has least of."""

    def watch(step: int) -> float | None:
        if not heldout:
            return None
        verdicts = judge(learner.lm, head, heldout, training)
        stop_if_broken(step, verdicts.margin_P)
        figure = wilson(float(verdicts.right_P.sum()), len(heldout))
        log.emit("eval", step=step, name="heldout_accuracy", **figure.as_dict())
        return 1 - figure.value

    return watch


def report_card(verdicts: Verdicts, seed: int) -> tuple[dict[str, Figure], str]:
    """Accuracy with its interval, the length-only baseline, accuracy by length difference, and a sentence."""
    n = len(verdicts.right_P)
    if n == 0:
        return {}, "no held-out pairs: nothing was measured"
    figures = {
        "accuracy": wilson(float(verdicts.right_P.sum()), n),
        "length_baseline": wilson(float(verdicts.by_length_P.sum()), n),
    }
    for name, mask_P in buckets(verdicts.longer_P).items():
        if mask_P.any():
            figures[f"by_length.{name}"] = wilson(float(verdicts.right_P[mask_P].sum()), int(mask_P.sum()))
    figures["margin"] = bootstrap_mean(verdicts.margin_P, seed)
    above = figures["accuracy"].value > figures["length_baseline"].high
    return figures, ("better than length alone" if above else "NOT shown to be better than length alone")


def gate(stage: Reward, figures: dict[str, Figure], folder: StageFolder) -> None:
    """Stops before RL when the reward model is not good enough."""
    if stage.min_accuracy is not None and figures and figures["accuracy"].value < stage.min_accuracy:
        value = figures["accuracy"]
        raise RunError(
            f"{folder.name}: held-out accuracy {value.value:.3f} [{value.low:.3f}, {value.high:.3f}] on "
            f"{value.n} pairs is below min_accuracy {stage.min_accuracy}. Gather more or cleaner pairs, or "
            "train longer; PPO against such a reward model would go wrong."
        )


def save_reward(
    folder: StageFolder, learner: Learner, head: nn.Linear, pairs: list[tuple[Tokens, Tokens]]
) -> dict[str, Any]:
    """Saves the scorer (for PPO) and the classifier (for everyone); reads the latter back through transformers."""
    with new_folder(folder.path / "scorer") as path:
        if learner.adapter is not None:
            save_adapter(learner.lm, learner.adapter, path)
        else:
            save_model(learner.lm.core, learner.loaded.tokenizer, path)
        save_head(head, path / "head.safetensors")
    ends = {sequence.ids[-1] for pair in pairs for sequence in pair}
    with new_folder(folder.path / "model") as path:
        whole = merged(learner.lm) if learner.adapter is not None else learner.lm
        save_reward_model(whole, head, learner.loaded.tokenizer, path, ends)
    probe = [sequence for pair in pairs[:4] for sequence in pair]
    with torch.no_grad():
        learner.lm.module.eval()
        ours_N = sequence_scores(learner.lm, head, forest(probe).to(learner.lm.device)).cpu()
    gap = float((folder_scores(folder.path / "model", [s.ids for s in probe]) - ours_N).abs().max())
    guard = g.Guard(
        "export certificate",
        gap <= (1e-3 if learner.lm.dtype == torch.float32 else 0.1),
        f"transformers' scores of {len(probe)} texts differ by {gap:.1g}",
    )
    if not guard.ok:
        raise RunError(f"{folder.name}: what was saved is not what was trained: {guard.detail}.")
    return asdict(guard)
