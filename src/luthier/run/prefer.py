"""The prefer stage: pairs of answers of which one is preferred, from a file or from a rater."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from luthier.base.alignment import Prefer
from luthier.base.config import load_rater
from luthier.base.errors import RunError
from luthier.base.events import EventLog
from luthier.base.files import hash_of
from luthier.base.nouns import Chat, Pair, Rater
from luthier.base.seeds import seed_for
from luthier.data.dataset import Dataset, write_rejected
from luthier.generate import sample
from luthier.model.draw import Sampling
from luthier.run.context import Context, asked_prompts, renderer_of
from luthier.run.memo import StageFolder
from luthier.run.pairs import pairs_in, write_pairs
from luthier.run.rollouts import fitting_prompts
from luthier.train import guards as g


def gather_preferences(context: Context, index: int, stage: Prefer) -> None:
    """Makes pairs.jsonl and heldout.jsonl: of a source of pairs, or of the model's own samples under a rater."""
    name = stage.name or stage.kind
    source = stage.pairs or stage.prompts
    assert source is not None
    start = context.start(stage.init)
    inputs = {f"data.{source}": context.dataset(source).hash}
    if stage.pairs is None:
        assert start is not None and stage.rater is not None
        inputs |= {"model": start.hash}
    folder = context.stage(index, name, stage, inputs)
    if folder.done:
        return
    log = folder.open()
    log.emit("begin", stage=folder.name, stage_kind=folder.kind, simulated=stage.rater is not None)
    data = context.dataset(source)
    write_rejected(folder.path / "rejected.jsonl", data.rejected)
    if stage.pairs is not None:
        pairs = [pairs_in(data, side) for side in (data.train, data.heldout)]
        facts: dict[str, Any] = {"simulated": False, "tokens": 0, "tokens_per_s": 0.0, "guards": []}
    else:
        pairs, facts = rated_pairs(context, folder, stage, data, log)
    for side, rows in zip(("pairs", "heldout"), pairs, strict=True):
        write_pairs(folder.path / f"{side}.jsonl", rows)
    log.emit(
        "note",
        text=f"{len(pairs[0])} pairs to train on, {len(pairs[1])} held out"
        + (f"; simulated by {stage.rater}, {stage.noise:.0%} of labels flipped" if facts["simulated"] else ""),
    )
    folder.close(pairs=len(pairs[0]), heldout=len(pairs[1]), **facts)


def rated_pairs(
    context: Context, folder: StageFolder, stage: Prefer, data: Dataset, log: EventLog
) -> tuple[list[list[Pair]], dict[str, Any]]:
    """Samples answers, scores them with the rater, and forms pairs; prompts are split into trained and held-out. What
    the source holds out stays so: pairs are also trained on by stages that write (dpo, kto)."""
    start = context.start(stage.init)
    assert start is not None and stage.rater is not None
    rate = load_rater(stage.rater, context.root)
    loaded = context.load(start)
    renderer = renderer_of(loaded)
    found = asked_prompts(data.train + data.heldout)
    asked, fits = fitting_prompts(found, renderer, loaded.context, stage.max_new_tokens)
    passed = g.enforce([fits], log)
    prompts, ids = [one.chat for one in asked], [one.ids for one in asked]
    kept_out = {chat.prompt for chat in asked_prompts(data.heldout)}
    how = Sampling(stage.max_new_tokens, stage.temperature, seed=context.seed(folder))
    began = time.monotonic()
    groups = sample(
        loaded.lm,
        ids,
        how,
        sorted(renderer.end_ids),
        renderer.decode,
        samples=stage.samples,
        progress=lambda done: log.emit("step", step=done, steps=len(prompts) * stage.samples),
    )
    sides: list[list[Pair]] = [[], []]
    for chat, group in zip(prompts, groups, strict=True):
        share = int(hash_of([m.content for m in chat.prompt])[:8], 16) / 2**32
        drawn = random.Random(seed_for(context.seed(folder), f"pairs {chat.origin}"))
        held = share < stage.heldout or chat.prompt in kept_out
        sides[held] += choose_pairs(chat, [s.text.strip() for s in group], rate, stage, drawn)
    seconds = time.monotonic() - began
    noise = random.Random(seed_for(context.seed(folder), "noise"))
    sides = [with_noise(side, stage.noise, noise) for side in sides]
    tokens = sum(len(s.ids) for group in groups for s in group)
    rate_s = round(tokens / seconds, 1)
    if not sides[0]:
        raise RunError(
            f"{folder.name}: the rater sees no difference between any two answers to one prompt. "
            "Raise temperature or samples, or look at the rater."
        )
    facts = {"simulated": True, "tokens": tokens, "tokens_per_s": rate_s, "prompts": len(prompts)}
    return sides, {**facts, "guards": passed}


def choose_pairs(chat: Chat, answers: Sequence[str], rate: Rater, stage: Prefer, drawn: random.Random) -> list[Pair]:
    """Up to `pairs_per_prompt` pairs of answers that the rater tells apart."""
    scores = [rate(chat.prompt, answer) for answer in answers]
    couples = [
        (i, j)
        for i, j in itertools.combinations(range(len(answers)), 2)
        if abs(scores[i] - scores[j]) > stage.min_gap and answers[i] and answers[j]
    ]
    drawn.shuffle(couples)
    made = []
    for i, j in couples[: stage.pairs_per_prompt]:
        better, worse = (i, j) if scores[i] > scores[j] else (j, i)
        meta = {"simulated": True, "flipped": False, "scores": [scores[better], scores[worse]]}
        made.append(Pair(chat.prompt, answers[better], answers[worse], chat.origin, meta))
    return made


def with_noise(pairs: list[Pair], share: float, drawn: random.Random) -> list[Pair]:
    """The pairs with the labels of exactly this share of them flipped: the ceiling of any accuracy is 1 − share."""
    flipped = set(drawn.sample(range(len(pairs)), round(share * len(pairs))))
    return [
        replace(p, chosen=p.rejected, rejected=p.chosen, meta={**(p.meta or {}), "flipped": True})
        if i in flipped
        else p
        for i, p in enumerate(pairs)
    ]
