"""Does an answer behave like one, whatever it says? It stops, it answers instead of going on, it does not loop, it is
not empty, it has the format that was asked for. No knowledge is needed to pass, none helps."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from luthier.base.repetition import repeat
from luthier.base.sentences import sentences
from luthier.data.text import words_only

Follows = Callable[[str], bool]
"""Whether a text has the format that was asked for."""


class Manners(NamedTuple):
    """What holds of one answer. `format` is None where none was asked for."""

    stops: bool
    """It ended by itself, before the token limit."""
    answers: bool
    """It does not repeat the question, ask another, or write the user's next turn or another document."""
    no_loop: bool
    not_empty: bool
    format: bool | None

    @property
    def passed(self) -> bool:
        """All of it."""
        return all(held for held in self if held is not None)


def manners(question: str, answer: str, ended: bool, follows: Follows | None = None) -> Manners:
    """How an answer to a question behaves."""
    return Manners(
        stops=ended,
        answers=not goes_on(question, answer),
        no_loop=repeat(answer) is None,
        not_empty=bool(re.search(r"\w", answer)),
        format=None if follows is None else follows(answer),
    )


TURN = re.compile(
    r"^\s*(?:(?:#+\s*)?(?:user|human|question|instruction|q|student|customer|assistant|answer|a|response)\s*[:>]"
    r"|<\|?(?:im_start|user|human|assistant|start_header_id|endoftext)[^>\n]*>?|\[INST\]|<(?:human|user)>|###\s)",
    re.IGNORECASE | re.MULTILINE,
)
"""A line that begins somebody's turn."""
MINE = re.compile(r"\A\s*(?:(?:assistant|answer|a|response)\s*[:>])", re.IGNORECASE)
"""An answer may say that it is one, at its beginning."""
OFFERS = re.compile(r"\b(?:you|your|i|me|we|us|else|help|more)\b", re.IGNORECASE)
"""What a question to the user has that a new exam question has not."""


def goes_on(question: str, answer: str) -> bool:
    """Whether a text goes on where an answer should stand: with the question again, with other questions, with the
    user's next turn, with the middle of a sentence."""
    text = MINE.sub("", answer, count=1)
    if TURN.search(text) or re.match(r"\s*[,;:)\]]", text):
        return True
    asked, said = words_only(question), words_only(text)
    if len(asked.split()) >= 3 and f"{said} ".startswith(f"{asked} "):
        return True
    parts = sentences(text)
    asking = [part for part in parts if part.rstrip("\"”')").endswith("?")]
    if not asking:
        return False
    new = [part for part in asking if not OFFERS.search(part) and len(part.split()) > 3]  # "Its colour? Black."
    if len(asking) == len(parts):  # nothing but questions: one that turns to the user may ask back
        return len(asking) > 1 or bool(new) or overlap(question, asking[0]) > 0.5
    answered_next = any(part in new for part in parts[:-1])  # "Who? She did." is an exam going on
    return answered_next or (parts[0] in asking and bool(new)) or len(new) > 1


def overlap(a: str, b: str) -> float:
    """Share of b's words that a has too."""
    ours, theirs = set(words_only(a).split()), words_only(b).split()
    return sum(word in ours for word in theirs) / len(theirs) if theirs else 0.0
