"""What a stage leaves behind: the model, read back and compared with what was trained, and its answers."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.base.errors import RunError
from luthier.base.files import new_folder, write_jsonl
from luthier.base.nouns import Chat, Tokens
from luthier.evals.answers import Answer, answer_all
from luthier.evals.masked import fillings
from luthier.generate import sample
from luthier.model.adapt import merged, save_adapter
from luthier.model.carried import kinds
from luthier.model.draw import Sampling
from luthier.model.load import load_folder, save_model
from luthier.model.quantise import settle
from luthier.model.score import LanguageModel, score
from luthier.model.verify import comparable
from luthier.run.context import Context
from luthier.run.greedy import MOST_NATS, same_answers
from luthier.run.learner import Learner
from luthier.run.masked import write_blanks
from luthier.run.memo import StageFolder
from luthier.tokens.masking import Hidden
from luthier.train import guards as g
from luthier.train.job import Job, Totals
from luthier.train.ranks import here


def close(
    context: Context,
    folder: StageFolder,
    learner: Learner,
    job: Job,
    used: Totals,
    passed: list[dict[str, Any]],
    facts: dict[str, Any],
) -> None:
    """Saves a language model with its certificate and samples, and writes the stage's record: the main rank's work."""
    if not here().is_main:
        return
    certificate = save_result(folder, learner)
    job.log.emit("guard", **certificate)
    show_samples(context, folder, learner)
    layout = learner.loaded.check.layout
    folder.close(**used.facts(job), guards=[*passed, certificate], layout=layout, **facts)
    job.checkpoints.clear()


@torch.no_grad()
def logps_of(lm: LanguageModel, sequences: Sequence[Tokens]) -> Tensor:
    """Log-probs of a few sequences, for comparing a model with its saved self."""
    lm.module.eval()
    return score(lm, comparable(lm, sequences)).cpu()


def likeliest(lm: LanguageModel, prompts: Sequence[tuple[int, ...]], learner: Learner) -> list[tuple[int, ...]]:
    """What the model writes behind each prompt, greedily; an encoder's likeliest token in each of its places."""
    if lm.encoder is not None:
        rows = [Hidden(ids, tuple(range(len(ids))), ids, "certificate") for ids in prompts]
        return [tuple(place.ids[0] for place in row) for row in fillings(lm, rows)]
    greedy, ends = Sampling(16, temperature=0), tuple(learner.renderer.end_ids)
    return [tuple(s.ids) for (s,) in sample(lm, prompts, greedy, ends, learner.renderer.decode)]


def account(lm: LanguageModel, learner: Learner) -> tuple[Tensor, list[tuple[int, ...]]]:
    """What a model says of, and writes behind, a few sequences. In float32, whatever it was trained in: rounding can
    neither be mistaken for a difference, nor hide one."""
    exact = replace(lm, dtype=torch.float32)
    probe = [Tokens(ids, (0.0,) + (1.0,) * (len(ids) - 1), "certificate") for ids in probed(learner)]
    return logps_of(exact, probe), likeliest(exact, asked(learner), learner)


def probed(learner: Learner) -> list[tuple[int, ...]]:
    """Sequences that any vocabulary has."""
    return [tuple(range(3, 3 + min(n, learner.loaded.context))) for n in (9, 17, 33)]


def asked(learner: Learner) -> list[tuple[int, ...]]:
    """The ends of those, as prompts."""
    return [ids[-8:] for ids in probed(learner)]


def save_result(folder: StageFolder, learner: Learner) -> dict[str, Any]:
    """Saves the model (and its adapter), reads it back, and compares: the export certificate. Raises RunError where
    what is on disk is not what was trained."""
    lm, tokenizer = learner.lm, learner.loaded.tokenizer
    ends = tuple(learner.renderer.end_ids) if lm.encoder is None else ()  # an encoder generates nothing
    settle(lm.core, torch.float32)
    trained_M, trained_words = account(lm, learner)
    settle(lm.core, lm.dtype)
    gaps, whole, result = {}, lm, folder.path / "model"
    if learner.adapter is not None:
        with new_folder(folder.path / "adapter") as path:
            save_adapter(lm, learner.adapter, path)
            tokenizer.save_pretrained(path)  # of as many tokens as the base it goes on must be resized to
        whole = merged(lm)
        what = "merged" if kinds(whole.core) == kinds(lm.core) else "carried"
        gaps[what] = float((account(whole, learner)[0] - trained_M).abs().max())
    with new_folder(result) as path:
        save_model(whole.core, tokenizer, path, ends)
    device = str(whole.device)
    del whole  # one model in full precision at a time
    saved = load_folder(result, device, lm.dtype).lm
    saved_M, saved_words = account(saved, learner)
    gaps["saved"] = float((saved_M - trained_M).abs().max())
    same = same_answers(saved, asked(learner), trained_words, saved_words)
    said = ", ".join(f"{name} differs by {gap:.1g} nats" for name, gap in gaps.items())
    guard = g.Guard("export certificate", max(gaps.values()) <= MOST_NATS and same.ok, f"{said}; {same.words}")
    if not guard.ok:
        shutil.rmtree(result)
        raise RunError(f"{folder.name}: what was saved is not what was trained: {guard.detail}. The checkpoints stay.")
    return {"name": guard.name, "ok": guard.ok, "detail": guard.detail}


def show_samples(context: Context, folder: StageFolder, learner: Learner) -> None:
    """Answers to the report's prompts, greedy, to samples.jsonl; of an encoder, its fillings."""
    if learner.lm.encoder is not None:
        return write_blanks(context, folder.path, replace(learner.loaded, lm=learner.lm))
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
