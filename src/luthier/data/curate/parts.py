"""An example as curation sees it: what was asked, what was answered, and the passage that the answer must keep to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from luthier.base.nouns import Chat, Choice, Example, Labelled, Message, Pair, Text, last_user

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
    """The parts of an example. A conversation's earlier turns are in `whole` only, a pair's rejected answer nowhere."""
    match example:
        case Text(text):
            return Parts("", text, text)
        case Chat(messages):
            answer = example.answer or ""
            return Parts(last_user(example.prompt), answer, _said(messages), _passage(example.meta))
        case Pair(prompt, answer) | Labelled(prompt, answer):
            return Parts(last_user(prompt), answer, f"{_said(prompt)}\n{answer}", _passage(example.meta))
        case Choice(context, options, gold):
            return Parts(context, options[gold], "\n".join([context, *options]))


def asked(example: Example) -> str:
    """The question that a row answers; of a text its first line, which may be its heading."""
    return example.text.strip().split("\n", 1)[0] if isinstance(example, Text) else parts_of(example).prompt


def told(example: Example) -> str:
    """All that is told in a row, for comparing rows: `Parts.whole` without system messages, which many rows share, and
    with a pair's rejected answer."""
    match example:
        case Text() | Choice():
            return parts_of(example).whole
        case Chat(messages):
            return _said(messages, system=False)
        case Pair(prompt, chosen, rejected):
            return "\n".join([_said(prompt, system=False), chosen, rejected])
        case Labelled(prompt, answer):
            return f"{_said(prompt, system=False)}\n{answer}"


def _said(messages: Sequence[Message], system: bool = True) -> str:
    return "\n".join(message.content for message in messages if system or message.role != "system")


def _passage(meta: object) -> str | None:
    if not isinstance(meta, dict):
        return None
    return next((meta[key] for key in PASSAGE_KEYS if isinstance(meta.get(key), str) and meta[key].strip()), None)
