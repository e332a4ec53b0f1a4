"""What a way of making rows has to work with: who is asked, and what it may find out about an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from luthier.base.nouns import Ask, Message, Reply
from luthier.base.synthesis import Synthesise
from luthier.data.synthesis.made import Dropped, Made

Draw = Callable[[int], Ask]
"""Number of a draw -> someone who is asked; other numbers draw other replies to the same prompt."""


@dataclass(frozen=True)
class Means:
    """Handed down by the stage."""

    settings: Synthesise
    draw: Draw
    """Who writes."""
    judge: Ask
    """Who grades."""
    writer: str
    """What the one who writes is called in a row's steps."""
    unsupported: Callable[[str, str, str], str | None]
    """(question, answer, passage) -> what of the answer the passage does not hold; None: it holds all."""
    same: Callable[[str, str], bool]
    """Whether a wording asks for the same as a question: the same names and numbers, about as long."""
    declines: Callable[[str], bool]
    """Whether an answer declines, or does not know."""
    seed: int = 0

    def ask(self, prompts: Sequence[str], draw: int = 0) -> list[Reply]:
        """The replies to prompts of one message each."""
        return self.draw(draw)([[Message("user", prompt)] for prompt in prompts]) if prompts else []

    def grade(self, prompts: Sequence[str]) -> list[Reply]:
        """The judge's replies."""
        return self.judge([[Message("user", prompt)] for prompt in prompts]) if prompts else []

    def random(self, purpose: str) -> Random:
        """Chance that is the same in every run with this seed."""
        return Random(f"{self.seed} {purpose}")


def no_reply(reply: Reply, whole: bool = True) -> str | None:
    """Why a reply cannot be used; None where it can be read. `whole`: one that was cut off cannot."""
    if reply.error is not None:
        return f"no answer: {reply.error}"
    if not reply.text.strip():
        return "the reply is empty"
    if whole and not reply.ended:
        return "the reply was cut off at the token limit"
    return None


Found = list[Made | Dropped]
