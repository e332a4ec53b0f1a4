"""An example as curation sees it: what was asked, what was answered, and the passage that the answer must keep to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from luthier.base.nouns import Chat, Choice, Example, Labelled, Message, Pair, Text

PASSAGE_KEYS = ("context", "source", "passage", "source_text")
"""Columns that hold the text an answer is taken from, the first that there is."""


class Parts(NamedTuple):
    """The words of an example, apart by what they are there for."""

    prompt: str
    """The last thing a user said; '' of a document."""
    answer: str
    """What is learned: the answer, the chosen one of two, the right option, or the whole document."""
    whole: str
    """All that a model is shown, in its order, without roles."""
    passage: str | None = None
    """What the answer must keep to, where the row says so."""


def parts_of(example: Example) -> Parts:
    """The parts of an example. A conversation's earlier turns are in `whole` only."""
    match example:
        case Text(text):
            return Parts("", text, text)
        case Chat(messages):
            answer = example.answer or ""
            return Parts(_asked(example.prompt), answer, _said(messages), _passage(example.meta))
        case Pair(prompt, chosen):
            return Parts(_asked(prompt), chosen, f"{_said(prompt)}\n{chosen}", _passage(example.meta))
        case Labelled(prompt, answer):
            return Parts(_asked(prompt), answer, f"{_said(prompt)}\n{answer}", _passage(example.meta))
        case Choice(context, options, gold):
            return Parts(context, options[gold], "\n".join([context, *options]))


def _asked(prompt: Sequence[Message]) -> str:
    return next((message.content for message in reversed(prompt) if message.role == "user"), "")


def _said(messages: Sequence[Message]) -> str:
    return "\n".join(message.content for message in messages)


def _passage(meta: object) -> str | None:
    if not isinstance(meta, dict):
        return None
    return next((meta[key] for key in PASSAGE_KEYS if isinstance(meta.get(key), str) and meta[key].strip()), None)
