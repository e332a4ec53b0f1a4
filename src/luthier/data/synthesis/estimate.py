"""What asking would take, found by going through the motions: every way runs on replies as they usually look."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from luthier.base.nouns import Chat, Example, Message, Reply, Text
from luthier.base.synthesis import Price, Synthesise, asking
from luthier.data.synthesis.means import Means
from luthier.data.synthesis.passages import passages
from luthier.data.synthesis.ways import MIXING, WAYS

BYTES_A_TOKEN = 4
"""Of English, about; other languages have fewer."""
TOKENS_A_MESSAGE = 8
"""What a chat template adds, about."""


class Estimate(NamedTuple):
    """Tokens are estimates."""

    requests: int
    tokens_in: int
    tokens_out: int
    most_out: int
    """Were every reply as long as it may be."""
    source_tokens: int
    """Of the rows themselves, once."""
    items: int
    """Passages, or conversations."""

    def usd(self, price: Price | None, most: bool = False) -> float | None:
        """What it costs; None where no price is known."""
        return None if price is None else cost_usd(price, self.tokens_in, self.most_out if most else self.tokens_out)


def cost_usd(price: Price, tokens_in: int, tokens_out: int) -> float:
    """USD of so many tokens."""
    return (price.input * tokens_in + price.output * tokens_out) / 1e6


def tokens_about(text: str) -> int:
    """How many tokens a text has, about: a quarter of its bytes."""
    return -(-len(text.encode()) // BYTES_A_TOKEN)


def prompt_tokens(prompt: Sequence[Message]) -> int:
    """How many tokens a prompt has, about."""
    return sum(tokens_about(message.content) + TOKENS_A_MESSAGE for message in prompt)


@dataclass
class Rehearsal:
    """Someone who answers everything as a good model would, in length and in form, and counts."""

    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seen: list[int] = field(default_factory=list)

    def ask(self, prompts: Sequence[Sequence[Message]]) -> list[Reply]:
        """An `Ask`."""
        replies = []
        for prompt in prompts:
            self.requests += 1
            text = typical(prompt[-1].content, self.requests)
            self.tokens_in += prompt_tokens(prompt)
            self.tokens_out += tokens_about(text)
            replies.append(Reply(text))
        return replies


def typical(prompt: str, number: int) -> str:
    """A reply of the usual length and form; no two hold the same words."""
    asked_for = re.search(r"Write up to (\d+) questions|in (\d+) other ways|Write (\d+) more", prompt)
    count = int(next(number for number in asked_for.groups() if number)) if asked_for else 1
    if "one word: yes or no" in prompt:
        return "no"
    if '"Score: <rating>"' in prompt:
        return f"{words(number, 20)}\nScore: 5"
    if '"quote"' in prompt:
        row = '{"question": "%s?", "answer": "%s", "quote": "%s"}'
        rows = (row % (words(number * 50 + i, 12), words(number * 50 + i, 30), words(number, 15)) for i in range(count))
        return f"[{', '.join(rows)}]"
    if "Return only JSON: [" in prompt:
        return "[" + ", ".join(f'"{words(number * 50 + i, 12)}?"' for i in range(count)) + "]"
    if "Return only JSON with a grade" in prompt:
        return re.findall(r"\{.*\}", prompt)[-1]
    if "One a line, numbered." in prompt:
        return "\n".join(f"{i + 1}. {words(number * 50 + i, 15)}" for i in range(count))
    return words(number, 25 if prompt.rstrip().endswith("alone.") else 120)


def words(number: int, count: int) -> str:
    """So many words that no other number has, of usual length."""
    return " ".join(f"w{number:x}{i:x}ord" for i in range(count))


def estimate(settings: Synthesise, examples: Sequence[Example], heldout: Sequence[Example]) -> Estimate:
    """What the stage's methods would ask for these rows."""
    rehearsal = Rehearsal()
    means = Means(
        settings,
        lambda number: rehearsal.ask,
        rehearsal.ask,
        "a model",
        unsupported=lambda question, answer, passage: None,
        same=lambda question, wording: True,
        declines=lambda answer: False,
    )
    for name in asking(settings):
        WAYS[name](examples, means)
        if name not in MIXING:
            WAYS[name](heldout, means)
    most_out = rehearsal.requests * settings.max_new_tokens
    texts, items = texts_of(settings, [*examples, *heldout])
    return Estimate(
        rehearsal.requests,
        rehearsal.tokens_in,
        min(rehearsal.tokens_out, most_out),
        most_out,
        sum(map(tokens_about, texts)),
        items,
    )


def texts_of(settings: Synthesise, examples: Sequence[Example]) -> tuple[list[str], int]:
    """(what of the rows is sent, in how many pieces)."""
    cut = list(passages([e for e in examples if isinstance(e, Text)], settings.passage_words))
    chats = [e for e in examples if isinstance(e, Chat)]
    said = [message.content for chat in chats for message in chat.prompt]
    return [passage.text for passage in cut] + said, len(cut) + len(chats)
