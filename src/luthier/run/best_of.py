"""The best_of stage: several answers to each prompt, of which the best are kept as conversations to train on
(best-of-n), or those that are good enough (rejection sampling)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from luthier.base.alignment import BestOf
from luthier.base.errors import RunError, UserError
from luthier.base.events import EventLog
from luthier.base.nouns import Chat, Message, Sample
from luthier.data.dataset import write_rejected
from luthier.evals.intervals import Figure, bootstrap_mean, paired_bootstrap, wilson
from luthier.generate import sample
from luthier.model.draw import Sampling
from luthier.model.load import Loaded
from luthier.run.context import Context, ModelRef, asked_prompts, renderer_of
from luthier.run.fitting import MICROBATCH_TOKENS
from luthier.run.kept import SIDES, write_kept
from luthier.run.memo import StageFolder
from luthier.run.rewards import judges_of, reward_inputs
from luthier.run.rollouts import fitting_prompts
from luthier.tokens.render import Renderer
from luthier.train import guards as g
from luthier.train.group import Asked, judged, total_of


@dataclass
class Kept:
    """What was kept of some prompts' answers, and what became of all of them."""

    chats: list[Chat] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    """One a chat."""
    prompts: int = 0
    """Prompts of which an answer was kept."""
    fates: Counter[str] = field(default_factory=Counter)
    """Answers: kept, unfinished (cut off at the token limit), unusable (empty, or with a control token spelled out),
    below (min_score), equal (to one that was kept), more (than `keep`)."""


def draw_best(context: Context, index: int, stage: BestOf) -> None:
    """Makes kept.jsonl and heldout.jsonl, or skips the stage. Raises RunError where nothing is kept to train on."""
    start = context.start(stage.init)
    assert start is not None
    data = context.dataset(stage.prompts)
    inputs = {"model": start.hash, f"data.{stage.prompts}": data.hash, **reward_inputs(context, stage)}
    folder = context.stage(index, stage.name or stage.kind, stage, inputs)
    if not folder.done:
        log = folder.open()
        log.emit("begin", stage=folder.name, stage_kind=folder.kind)
        write_rejected(folder.path / "rejected.jsonl", data.rejected)
        run_best_of(context, folder, stage, start, log)


def run_best_of(context: Context, folder: StageFolder, stage: BestOf, start: ModelRef, log: EventLog) -> None:
    """Samples, judges, keeps."""
    loaded, data = context.load(start), context.dataset(stage.prompts)
    renderer = renderer_of(loaded)
    room = (renderer, loaded.context, stage.max_new_tokens)
    asked, fits = fitting_prompts(asked_prompts(data.train), *room)
    passed = g.enforce([fits], log)
    heldout, _ = fitting_prompts(asked_prompts(data.heldout), *room)
    began = time.monotonic()
    samples = draw(context, folder, stage, loaded, [*asked, *heldout], log)
    tokens, seconds = sum(len(one.ids) for one in samples), time.monotonic() - began
    judges = judges_of(context, stage, loaded.lm, start, MICROBATCH_TOKENS[context.device])
    chats = [one.chat for one in [*asked, *heldout] for _ in range(stage.samples)]
    scores_KN = judged(judges, chats, samples)
    score_BG, first = total_of(judges, scores_KN).view(-1, stage.samples), len(asked)
    border = first * stage.samples
    kept = keep(stage, renderer, asked, samples[:border], score_BG[:first])
    for name, side in zip(
        SIDES, (kept, keep(stage, renderer, heldout, samples[border:], score_BG[first:])), strict=True
    ):
        write_kept(folder.path / f"{name}.jsonl", side.chats, side.scores)
    figures = statistics(kept, score_BG[:first], context.recipe.seed)
    tell(folder, stage, kept, figures, log)
    folder.close(
        guards=passed,
        tokens=tokens,
        tokens_per_s=round(tokens / max(seconds, 1e-9), 1),
        prompts=first,
        answers=dict(kept.fates),
        rewards={judge.name: float(row.mean()) for judge, row in zip(judges, scores_KN, strict=True)},
        metrics={name: figure.as_dict() for name, figure in figures.items()},
    )


def draw(
    context: Context, folder: StageFolder, stage: BestOf, loaded: Loaded, asked: Sequence[Asked], log: EventLog
) -> list[Sample]:
    """The answers, those to one prompt beside each other."""
    renderer = renderer_of(loaded)
    groups = sample(
        loaded.lm,
        [one.ids for one in asked],
        Sampling(stage.max_new_tokens, stage.temperature, seed=context.seed(folder)),
        sorted(renderer.end_ids),
        renderer.decode,
        samples=stage.samples,
        progress=lambda done: log.emit("step", step=done, steps=len(asked) * stage.samples),
    )
    return [one for group in groups for one in group]


def keep(
    stage: BestOf, renderer: Renderer, asked: Sequence[Asked], samples: Sequence[Sample], score_BG: Tensor
) -> Kept:
    """Up to `keep` answers of each prompt, the best first, drawn earlier where equally good. An answer that was cut off
    is left out: trained on, it would teach to stop there."""
    kept = Kept()
    for b, (prompt, scores) in enumerate(zip(asked, score_BG.tolist(), strict=True)):
        texts: list[str] = []
        for s in sorted(range(stage.samples), key=lambda s: -scores[s]):
            one = samples[b * stage.samples + s]
            text = one.text.strip()
            fate = fate_of(stage, one, text, scores[s], texts)
            chat = Chat((*prompt.chat.prompt, Message("assistant", text)), prompt.chat.origin, prompt.chat.accept)
            if fate == "kept" and refused(renderer, chat):
                fate = "unusable"
            kept.fates[fate] += 1
            if fate == "kept":
                texts.append(text)
                kept.chats.append(chat)
                kept.scores.append(scores[s])
        kept.prompts += bool(texts)
    return kept


def fate_of(stage: BestOf, one: Sample, text: str, score: float, before: Sequence[str]) -> str:
    """What becomes of an answer, when `before` are the texts that were kept of its prompt. See Kept.fates."""
    if not one.stopped:
        return "unfinished"
    if not text:
        return "unusable"
    if stage.min_score is not None and score < stage.min_score:
        return "below"
    if text in before:
        return "equal"
    return "kept" if len(before) < stage.keep else "more"


def refused(renderer: Renderer, chat: Chat) -> bool:
    """Whether the template would refuse to train on an answer: one in which a control token is spelled out."""
    if not renderer.has_template:
        return False
    try:
        renderer.chat(chat, "last")
    except UserError:
        return True
    return False


def statistics(kept: Kept, score_BG: Tensor, seed: int) -> dict[str, Figure]:
    """Scores of the training prompts: the mean of all answers, the best of each prompt, by how much it is better, and
    the share of prompts of which something was kept."""
    mean_B, best_B = score_BG.mean(1).numpy(), score_BG.amax(1).numpy()
    return {
        "all": bootstrap_mean(mean_B, seed),
        "best": bootstrap_mean(best_B, seed),
        "gain": paired_bootstrap(best_B, mean_B, seed),
        "kept": wilson(kept.prompts, len(best_B)),
    }


def tell(folder: StageFolder, stage: BestOf, kept: Kept, figures: dict[str, Figure], log: EventLog) -> None:
    """Says what was kept. Raises RunError, with what to change, where nothing was."""
    fates = kept.fates
    drawn = sum(fates.values())
    said = ", ".join(f"{fates[name]} {words}" for name, words in FATES.items() if fates[name])
    for name, figure in figures.items():
        log.emit("eval", step=drawn, name=name, **figure.as_dict())
    if not kept.chats:
        best = figures["best"].value
        advice = [f"raise max_new_tokens (now {stage.max_new_tokens})"] * bool(fates["unfinished"])
        if fates["below"] and stage.min_score is not None:
            advice.append(f"lower min_score (now {stage.min_score:g}; the prompts' best answers score {best:.3g})")
        advice.append("draw more samples, or start from a model that is nearer to the task (init)")
        first, *rest = advice
        advised = "; ".join([first[0].upper() + first[1:], *rest])
        raise RunError(f"{folder.name}: nothing was kept of {drawn} answers: {said}. {advised}.")
    log.emit(
        "note",
        text=f"{len(kept.chats)} answers kept to {kept.prompts} of {figures['kept'].n} prompts; the best score "
        f"{figures['best'].value:.3g}, all {figures['all'].value:.3g} in the mean" + (f"; {said}" if said else ""),
    )


FATES = {
    "unfinished": "cut off at the token limit",
    "unusable": "empty or with a control token in them",
    "below": "below min_score",
    "equal": "equal to another",
}
"""Why answers were left out, in words."""
