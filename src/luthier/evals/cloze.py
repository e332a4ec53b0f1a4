"""Cloze: a plain statement up to its value, which the model continues. No instruction is followed, none is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from luthier.base.nouns import Chat
from luthier.base.sentences import sentences
from luthier.base.values import contains
from luthier.generate import sample
from luthier.model.draw import Sampling
from luthier.model.score import LanguageModel, score, sequence_sums
from luthier.model.verify import room_of
from luthier.tokens.pack import forest, split_by_tokens
from luthier.tokens.render import Renderer


class Filled(NamedTuple):
    """How a model continued one statement."""

    origin: str
    text: str
    right: bool
    """The first sentence of it holds an accepted value."""
    logp: float
    """log-prob of the likeliest accepted value after the statement, in nats."""


@torch.no_grad()
def cloze(
    lm: LanguageModel, renderer: Renderer, chats: Sequence[Chat], max_new_tokens: int, batch_tokens: int = 8192
) -> list[Filled]:
    """Greedy continuations of the chats' last user messages as plain text, whatever template the model has. Those
    that the model's context has no room for are left out."""
    statements = [chat.prompt[-1].content.rstrip() for chat in chats]
    valued = [
        [renderer.plain(text, f" {value}", chat.origin) for value in chat.accept]
        for chat, text in zip(chats, statements, strict=True)
    ]
    room = room_of(lm)
    kept = [i for i, rows in enumerate(valued) if max(len(row.ids) for row in rows) < room]
    lm.module.eval()
    sums: list[float] = []
    for run in split_by_tokens([row for i in kept for row in valued[i]], batch_tokens):
        batch = forest(run, min_shared=4).to(lm.device)
        sums += sequence_sums(score(lm, batch), batch).tolist()
    prompts = [row.ids[: row.weights.index(1.0)] for row in (valued[i][0] for i in kept)]
    drawn = sample(lm, prompts, Sampling(max_new_tokens, temperature=0), sorted(renderer.end_ids), renderer.decode)
    found, at = [], 0
    for i, one in zip(kept, drawn, strict=True):
        logps, at = sums[at : at + len(valued[i])], at + len(valued[i])
        said = next(iter(sentences(one[0].text)), "")
        found.append(Filled(chats[i].origin, one[0].text.strip(), contains(said, chats[i].accept), max(logps)))
    return found
