"""Turns as files write them -> Message. Each way in which a conversation cannot be used has its words here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from luthier.base.nouns import ROLES, Message
from luthier.data.text import parse_json
from luthier.data.tools import calls_of, written


class Unusable(Exception):
    """Why a row cannot become an example, in words a user can act on. `formats.convert` turns it into Rejected."""


@dataclass(frozen=True)
class Reading:
    """What the recipe says about how to read a source: its name under `data`, its role names, its system message, and
    the templates that make a conversation of any row."""

    name: str
    roles: Mapping[str, str]
    system: str | None
    prompt: str | None = None
    answer: str | None = None
    unanswerable: str | None = None
    """The answer to questions that their passage does not answer."""


SHAREGPT_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant",
    "bard": "assistant", "assistant": "assistant", "system": "system", "tool": "tool",
}  # fmt: skip
LIKELY_ROLES = SHAREGPT_ROLES | {
    "bot": "assistant", "model": "assistant", "ai": "assistant", "agent": "assistant", "claude": "assistant",
    "developer": "system", "function": "tool", "observation": "tool",
}  # fmt: skip
"""For the hint only: nobody's roles are guessed."""
OPENAI_ROLES = {"developer": "system", "function": "tool"}
"""OpenAI's own newer and older names."""


def messages_of(value: Any, at: str, reading: Reading, known: Mapping[str, str] | None = None) -> tuple[Message, ...]:
    """Messages from a list of {role, content} or {from, value}, or from one such object, or from its JSON text.

    `at` is the column, for the reasons; `known` maps role names beside the recipe's `roles`. Raises Unusable.
    """
    turns = from_json(value)
    if isinstance(turns, dict):
        turns = [turns]
    if not isinstance(turns, list) or not turns:
        raise Unusable(f"{at}: {shown(value)} is not a list of messages")
    roles = {**(known or {}), **reading.roles}
    return tuple(_message(turn, f"{at}[{index}]", reading, roles) for index, turn in enumerate(turns))


def _message(turn: Any, at: str, reading: Reading, roles: Mapping[str, str]) -> Message:
    if not isinstance(turn, dict):
        raise Unusable(f"{at}: {shown(turn)} is not an object with role and content")
    role_key = "role" if "role" in turn else "from"
    content_key = next((key for key in ("content", "value", "text") if key in turn), "content")
    calls = calls_of(turn)
    if role_key not in turn or (content_key not in turn and not calls):
        keys = ", ".join(map(str, turn)) or "no keys"
        raise Unusable(f"{at}: has {keys}, needs role and content (or from and value)")
    said = turn[role_key]
    role = roles.get(said, said) if isinstance(said, str) else said
    if role not in ROLES:
        wrong = f"{at}.{role_key}: {shown(said)} is not {'|'.join(ROLES)}"
        if not isinstance(said, str):
            raise Unusable(wrong)
        raise Unusable(
            f"{wrong}. Map it: data.{reading.name}.roles: {{{said}: {LIKELY_ROLES.get(said.lower(), 'user')}}}"
        )
    return Message(role, _content(turn.get(content_key), f"{at}.{content_key}", _calls(calls, f"{at}.tool_calls")))


def _calls(calls: list[Any], at: str) -> str:
    try:
        return written(calls, at)
    except ValueError as error:
        raise Unusable(str(error)) from None


PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Types of OpenAI's parts of a message that are text, and where the text stands."""


def _content(value: Any, at: str, calls: str = "") -> str:
    """A string, or OpenAI's list of parts, of which only text is used by a language model; then the calls, if any."""
    if isinstance(value, list):
        for index, part in enumerate(value):
            kind = part.get("type") if isinstance(part, dict) else None
            if kind not in PARTS or not isinstance(part.get(PARTS[kind]), str):
                raise Unusable(f"{at}[{index}]: {shown(kind or part)} is not a text part. Only text can be used")
        value = "".join(part[PARTS[part["type"]]] for part in value)
    if calls and (value is None or isinstance(value, str)):
        return f"{value.strip()}\n{calls}" if value and value.strip() else calls
    if value is None or value == "" or (isinstance(value, str) and not value.strip()):
        raise Unusable(f"{at}: is empty. Fill it or take the row away")
    if not isinstance(value, str):
        raise Unusable(f"{at}: {shown(value)} is not text")
    return value


def checked(messages: tuple[Message, ...], at: str) -> tuple[Message, ...]:
    """The messages, if some model's template can render them: a user speaks, and nobody speaks twice in a row."""
    for index, (before, after) in enumerate(pairwise(messages), 1):
        if before.role == after.role and after.role in ("user", "assistant"):
            raise Unusable(f"{at}[{index}].role: a second {after.role} turn in a row. Join the two or take one away")
    if not any(message.role == "user" for message in messages):
        raise Unusable(f"{at}: no user turn. Add the question that was answered")
    return messages


def with_system(messages: tuple[Message, ...], own: str | None, reading: Reading) -> tuple[Message, ...]:
    """The messages, begun by the row's own system message or the recipe's where they have none."""
    system = own or reading.system
    if not system or any(message.role == "system" for message in messages):
        return messages
    return (Message("system", system), *messages)


def part(chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> tuple[tuple[Message, ...], str, str]:
    """(prompt, chosen answer, rejected answer) of two whole conversations.

    The prompt is their longest common beginning that an assistant must answer. Where they part earlier than at the
    last turn, the preference was about several turns, not about one answer: such pairs are Unusable.
    """
    if chosen == rejected:
        raise Unusable("chosen and rejected are the same")
    common = 0
    while common < min(len(chosen), len(rejected)) and chosen[common] == rejected[common]:
        common += 1
    while common and chosen[common - 1].role not in ("user", "tool"):
        common -= 1
    if not any(message.role == "user" for message in chosen[:common]):
        raise Unusable("chosen and rejected answer different prompts")
    for column, turns in (("chosen", chosen[common:]), ("rejected", rejected[common:])):
        if [message.role for message in turns] != ["assistant"]:
            raise Unusable(
                f"{column}: {len(turns)} turns follow where chosen and rejected part (after turn {common}); "
                "one answer is needed. End both there with one answer"
            )
    return checked(chosen[:common], "prompt"), chosen[common].content, rejected[common].content


SPEAKER = re.compile(r"\n\n(Human|Assistant):")


def hh_messages(text: str, at: str) -> tuple[Message, ...]:
    """Turns of Anthropic's "\\n\\nHuman: ...\\n\\nAssistant: ..." form.

    Turns of one speaker in a row are one turn, joined by a blank line: of the 2,312 rows of harmless-base/test, nine
    have them, all the assistant's, and they read on.
    """
    before, *parts = SPEAKER.split("\n\n" + text.lstrip())
    if before.strip() or not parts:
        raise Unusable(f'{at}: does not begin with "Human:"')
    messages: list[Message] = []
    for speaker, said in zip(parts[::2], parts[1::2], strict=True):
        role, content = "user" if speaker == "Human" else "assistant", said.strip()
        if messages and messages[-1].role == role:
            content = f"{messages.pop().content}\n\n{content}".strip()
        messages.append(Message(role, content))
    for index, message in enumerate(messages):
        if not message.content:
            raise Unusable(f"{at}: turn {index + 1} ({message.role}) is empty. Fill it or take the row away")
    return tuple(messages)


def from_json(value: Any) -> Any:
    """What a CSV cell or a Parquet string holds as JSON text; any other value as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return parse_json(value)
        except ValueError:
            return value
    return value


def is_turns(value: Any) -> bool:
    """Whether a table's cell held messages as JSON, and no question that begins with a bracket."""
    turns = value if isinstance(value, list) else []
    return bool(turns) and all(isinstance(turn, dict) and "role" in turn and "content" in turn for turn in turns)


def shown(value: Any) -> str:
    """A value as JSON, cut to fit a line."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
