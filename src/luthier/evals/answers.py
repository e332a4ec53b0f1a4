"""Generated answers: do they contain the right value, and which of two does a rater prefer?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from luthier.base.nouns import Chat, Message, Rater, Sample
from luthier.base.values import contains
from luthier.generate import sample
from luthier.model.draw import Sampling
from luthier.model.score import LanguageModel
from luthier.model.verify import room_of
from luthier.tokens.render import Renderer


class Answer(NamedTuple):
    """One answer to one prompt."""

    origin: str
    prompt: tuple[Message, ...]
    text: str
    right: bool | None
    """Whether it contains an accepted value; None where the row names none."""
    ended: bool
    """False: cut off at the token limit."""


def answer_all(
    lm: LanguageModel,
    renderer: Renderer,
    chats: Sequence[Chat],
    how: Sampling,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Answer]:
    """The model's answer to every chat's prompt; a base model is shown the question as plain text. A prompt that fills
    the model's context gets no answer: an empty one that has not ended."""
    prompts = [renderer.prompt(chat.prompt, chat.origin) for chat in chats]
    room = room_of(lm)
    fitting = [prompt for prompt in prompts if len(prompt) < room]
    drawn = sample(lm, fitting, how, sorted(renderer.end_ids), renderer.decode, progress=progress)
    left = iter(drawn)
    found = []
    for chat, prompt in zip(chats, prompts, strict=True):
        one = next(left)[0] if len(prompt) < room else Sample(tuple(prompt), (), (), "", stopped=False)
        right = contains(one.text, chat.accept) if chat.accept else None
        found.append(Answer(chat.origin, chat.prompt, one.text.strip(), right, one.stopped))
    return found


def wins(rate: Rater, new: Sequence[Answer], old: Sequence[Answer]) -> list[float]:
    """1 where the rater scores the new answer higher, 0 where the old, ½ on a tie."""
    found = []
    for a, b in zip(new, old, strict=True):
        gap = rate(a.prompt, a.text) - rate(b.prompt, b.text)
        found.append(0.5 if gap == 0 else float(gap > 0))
    return found
