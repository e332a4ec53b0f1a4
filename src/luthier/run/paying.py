"""An endpoint that is paid for: no faster than its limits, no dearer than the cap, and nothing asked twice. Replies are
on disk as they come in, one a line, so that a killed run goes on behind the last of them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

from luthier.base.files import hash_of
from luthier.base.lines import add_lines, read_lines
from luthier.base.nouns import Ask, Message, Reply
from luthier.base.synthesis import Price
from luthier.data.synthesis.estimate import cost_usd, prompt_tokens, tokens_about
from luthier.evals.endpoint import Endpoint

WINDOW_S = 60.0
"""Limits are for a minute; the last one counts."""
CAPPED = "not asked: the spend cap would be passed"


@dataclass
class Usage:
    """What was read and written, by the endpoint's own count where it gives one."""

    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    def add(self, tokens_in: int, tokens_out: int) -> None:
        """One more reply."""
        self.requests += 1
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out

    def usd(self, price: Price | None) -> float | None:
        """What it cost; None where no price is known."""
        return None if price is None else cost_usd(price, self.tokens_in, self.tokens_out)


class Meter:
    """Lets prompts through as limits and money allow. One for all threads of a stage; owns its lock.

    Before a prompt is sent, the most that it can cost is set aside: an answer as long as it may be, and twice the
    tokens that English has for its bytes, more where the endpoint was seen to count more. What it did cost is counted
    when the answer is there; together they do not pass the cap.
    """

    def __init__(
        self,
        price: Price | None = None,
        cap_usd: float | None = None,
        requests_per_min: int | None = None,
        tokens_per_min: int | None = None,
        max_new_tokens: int = 256,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.price, self.cap_usd, self.clock = price, cap_usd, clock
        self.requests_per_min, self.tokens_per_min = requests_per_min, tokens_per_min
        self.max_new_tokens = max_new_tokens
        self.usage = Usage()
        """Before and in this session."""
        self.capped = 0
        """Prompts that were not sent for the cap's sake."""
        self.aside: dict[str, float] = {}
        self.denser = 2.0
        """How many times the estimated tokens a prompt may have."""
        self.sent: deque[tuple[float, int]] = deque()
        self.lock = threading.Lock()

    def pace(self, prompt: Sequence[Message], wait: Callable[[float], object]) -> str | None:
        """`endpoint.Pace`."""
        tokens = prompt_tokens(prompt)
        with self.lock:
            if not self.affordable(key_of(prompt), tokens):
                self.capped += 1
                return CAPPED
        while True:
            with self.lock:
                pause_s = self.pause(tokens + self.max_new_tokens)
                if pause_s <= 0:
                    self.sent.append((self.clock(), tokens + self.max_new_tokens))
                    return None
            wait(pause_s)

    def affordable(self, key: str, tokens: int) -> bool:
        """Sets aside what a prompt may cost, where the cap leaves room for it."""
        if self.price is None or self.cap_usd is None:
            return True
        most = cost_usd(self.price, ceil(self.denser * tokens), self.max_new_tokens)
        spent = (self.usage.usd(self.price) or 0.0) + sum(self.aside.values())
        if key not in self.aside and spent + most > self.cap_usd:
            return False
        self.aside[key] = most
        return True

    def pause(self, tokens: int) -> float:
        """Seconds until one more request of so many tokens fits in the last minute. One that is larger than the limit
        goes alone."""
        now = self.clock()
        while self.sent and self.sent[0][0] <= now - WINDOW_S:
            self.sent.popleft()
        if not self.sent:
            return 0.0
        full = self.requests_per_min is not None and len(self.sent) >= self.requests_per_min
        if self.tokens_per_min is not None:
            full = full or sum(size for _, size in self.sent) + tokens > self.tokens_per_min
        return max(self.sent[0][0] + WINDOW_S - now, 1e-3) if full else 0.0

    def heard(self, prompt: Sequence[Message], reply: Reply) -> None:
        """Counts an answer. A prompt that got none costs nothing, as far as is known."""
        with self.lock:
            self.aside.pop(key_of(prompt), None)
            if reply.error is None:
                read, written = tokens_of(prompt, reply)
                self.usage.add(read, written)
                self.denser = max(self.denser, read / prompt_tokens(prompt))


def tokens_of(prompt: Sequence[Message], reply: Reply) -> tuple[int, int]:
    """(tokens read, tokens written): the endpoint's count, or an estimate."""
    read = reply.prompt_tokens if reply.prompt_tokens is not None else prompt_tokens(prompt)
    return read, reply.tokens if reply.tokens is not None else tokens_about(reply.text)


def key_of(prompt: Sequence[Message]) -> str:
    """A prompt's key among the replies on disk."""
    return hash_of([[message.role, message.content] for message in prompt])


def paid(endpoint: Endpoint, file: Path, meter: Meter, stage: str, progress: Callable[[int], None]) -> Ask:
    """The endpoint with a memory and a meter. The file holds replies to one model asked in one way; `stage` is noted
    with each, and what that stage has paid before counts. A prompt without an answer is not remembered."""
    lock = threading.Lock()
    for row in read_lines(file).values():
        if row.get("stage") == stage:
            meter.usage.add(row.get("paid_in") or 0, row.get("paid_out") or 0)

    def ask(prompts: Sequence[Sequence[Message]]) -> list[Reply]:
        known = {key: reply_of(row) for key, row in read_lines(file).items()}
        fresh = {key: prompt for prompt in prompts if (key := key_of(prompt)) not in known}

        def heard(prompt: Sequence[Message], reply: Reply) -> None:
            meter.heard(prompt, reply)
            if reply.error is None:
                paid_in, paid_out = tokens_of(prompt, reply)
                said = {"text": reply.text, "ended": reply.ended, "tokens": reply.tokens, "seconds": reply.seconds}
                said |= {"prompt_tokens": reply.prompt_tokens, "stage": stage, "paid_in": paid_in, "paid_out": paid_out}
                with lock:
                    add_lines(file, {key_of(prompt): said})
            progress(1)

        progress(len(prompts) - len(fresh))
        asked = replace(endpoint, pace=meter.pace, heard=heard).ask(list(fresh.values())) if fresh else []
        replies = known | dict(zip(fresh, asked, strict=True))
        return [replies[key_of(prompt)] for prompt in prompts]

    return ask


def reply_of(row: dict[str, Any]) -> Reply:
    """A line of the file as the reply it was."""
    return Reply(row["text"], row["ended"], row.get("tokens"), row.get("seconds"), row.get("prompt_tokens"))
