"""Scores of rows by a language model: how little it wonders at an answer, and how little the question helps with it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from luthier.base.nouns import Chat, Example, Message, Text
from luthier.model.draw import Sampling
from luthier.model.load import Loaded
from luthier.run.subjects import Local, Nats


def perplexities(loaded: Loaded, examples: Sequence[Example]) -> list[float | None]:
    """log p of each answer (of a document: of its text) a token, in nats: higher is more expected. None where there is
    no answer, or it does not fit the context."""
    return [None if one is None else -one.nats / max(1, one.tokens) for one in nats(loaded, examples)]


def difficulties(loaded: Loaded, examples: Sequence[Example]) -> list[float | None]:
    """Instruction-following difficulty: perplexity of the answer given its question over that of the answer alone (Li
    et al. 2024, eq. 3). Near 1 the question hardly helps: there is something to learn. From 1 on it misleads, and
    question and answer do not belong together: such a row gets 0, as the paper leaves it out."""
    alone = [
        Chat((Message("user", ""), Message("assistant", e.answer)), e.origin)
        if isinstance(e, Chat) and e.answer is not None
        else e
        for e in examples
    ]
    found: list[float | None] = []
    for example, asked, bare in zip(examples, nats(loaded, examples), nats(loaded, alone), strict=True):
        if not isinstance(example, Chat) or asked is None or bare is None or not asked.tokens or not bare.tokens:
            found.append(None)
            continue
        ratio = math.exp(min(50.0, asked.nats / asked.tokens - bare.nats / bare.tokens))
        found.append(ratio if ratio < 1 else 0.0)
    return found


def nats(loaded: Loaded, examples: Sequence[Example]) -> list[Nats | None]:
    """−log p of each answer; a document is an answer to nothing."""
    chats = [
        Chat((Message("user", ""), Message("assistant", e.text)), e.origin)
        if isinstance(e, Text)
        else e
        if isinstance(e, Chat)
        else Chat((), e.origin)
        for e in examples
    ]
    return Local(lambda: loaded, Sampling(1)).nats(chats)
