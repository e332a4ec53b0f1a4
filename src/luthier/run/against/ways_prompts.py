"""What each way shows a model: the question alone, with worked examples, with passages. What does not fit into the
model's context is dropped from the far end, and counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from luthier.base.nouns import Chat, Message, last_user
from luthier.tokens.render import Renderer

ASK = "Answer from these passages.\n\n{passages}\n\nQuestion: {question}"
"""What a model with a chat template is asked. One without is shown a document: passages, question, line end."""


class Prompted(NamedTuple):
    """One question as a way asks it."""

    chat: Chat
    shown: int
    """Examples or passages in it."""
    dropped: int
    """Those that had no room."""


def fewer(chat: Chat, extras: Sequence[object], build: Callable[[int], Chat], fits: Callable[[Chat], bool]) -> Prompted:
    """The prompt with as many of the extras, from the first, as fit; the question alone where none does."""
    for kept in range(len(extras), 0, -1):
        made = build(kept)
        if fits(made):
            return Prompted(made, kept, len(extras) - kept)
    return Prompted(chat, 0, len(extras))


def bare(chat: Chat) -> Chat:
    """The question without its answer."""
    return replace(chat, messages=chat.prompt)


def with_examples(chat: Chat, examples: Sequence[Chat], template: bool, fits: Callable[[Chat], bool]) -> Prompted:
    """Worked examples before the question, the nearest last, as turns; for a model without a template as text:
    question, line end, answer, empty line."""

    def build(kept: int) -> Chat:
        chosen = list(reversed(examples[:kept]))
        if template:
            system = [m for m in chat.prompt if m.role == "system"]
            turns = [m for one in chosen for m in one.messages if m.role != "system"]
            return replace(chat, messages=(*system, *turns, *(m for m in chat.prompt if m.role != "system")))
        said = "".join(f"{last_user(one.prompt)}\n{one.answer}\n\n" for one in chosen)
        return replace(chat, messages=(Message("user", f"{said}{last_user(chat.prompt)}"),))

    return fewer(bare(chat), examples, build, fits)


def with_passages(chat: Chat, passages: Sequence[str], template: bool, fits: Callable[[Chat], bool]) -> Prompted:
    """The best passages before the question, in its last turn."""

    def build(kept: int) -> Chat:
        text = "\n\n".join(passages[:kept])
        question = last_user(chat.prompt)
        asked = ASK.format(passages=text, question=question) if template else f"{text}\n\n{question}"
        return replace(chat, messages=(*chat.prompt[:-1], Message("user", asked)))

    return fewer(bare(chat), passages, build, fits)


def framed(chat: Chat, template: bool) -> Chat:
    """The question as `with_passages` asks it, around no passage."""
    return with_passages(chat, [""], template, lambda _: True).chat


def fits_in(renderer: Renderer, room: int) -> Callable[[Chat], bool]:
    """Whether a prompt has at most so many tokens."""
    return lambda chat: len(renderer.prompt(chat.prompt, chat.origin)) <= room
