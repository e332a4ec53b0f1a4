"""A model elsewhere: a chat client for endpoints that speak OpenAI's protocol (vLLM, llama.cpp, Ollama, a provider),
on the standard library.

What can pass (timeouts, 429, 5xx, answers that are no JSON) is asked again after a growing wait; then the prompt is
skipped, with the reason in its reply. What cannot (a key that is refused, a model that is not there) is told at once.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Any
from urllib import request
from urllib.parse import urlsplit, urlunsplit

from luthier.base.errors import UserError
from luthier.base.nouns import Message, Reply

LARGEST_BYTES = 16 << 20
"""A longer answer is no answer."""
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
"""Before the second try, and before any; a server that asks for a longer wait than the longest is given up on."""
SHOWN = 160
"""Characters of what a server said that stand in a message."""


Pace = Callable[[Sequence[Message], Callable[[float], object]], str | None]
"""(prompt, what passes the time) -> None when its turn has come, or why it must not be sent."""


@dataclass(frozen=True)
class Endpoint:
    """One model at one place, and how it is asked. `ask` is an `Ask`."""

    url: str
    """Up to and with the version, such as https://api.openai.com/v1."""
    model: str
    key_env: str | None = None
    """Environment variable that holds the key. None: OPENAI_API_KEY at api.openai.com, LUTHIER_API_KEY elsewhere."""
    timeout_s: float = 60.0
    """For one try, from the question to the last byte of the answer."""
    retries: int = 5
    """Further tries after the first."""
    concurrency: int = 8
    """Questions under way at a time."""
    max_new_tokens: int = 256
    temperature: float = 0.0
    seed: int | None = 0
    """None: not sent, for servers that do not know it."""
    wait: Callable[[float], object] | None = field(default=None, compare=False)
    """What passes the time (s) between two tries; default: it is really waited, until Ctrl-C."""
    pace: Pace | None = field(default=None, compare=False)
    """Asked before each try."""
    heard: Callable[[Sequence[Message], Reply], object] | None = field(default=None, compare=False)
    """Told of each reply, or of why there is none, as it comes; in the thread that got it."""

    def ask(self, prompts: Sequence[Sequence[Message]]) -> list[Reply]:
        """A reply to each prompt, in order. A prompt that got no answer after all tries has its reply's `error`; once
        nobody has answered for a while (as many prompts in a row as are under way at a time, at least 3), the rest is
        not asked. Raises UserError where asking is in vain: a wrong address, key or model."""
        talk = _Talk(self)
        with ThreadPoolExecutor(max_workers=max(1, self.concurrency)) as pool:
            futures = [pool.submit(talk.told, prompt) for prompt in prompts]
            try:
                replies = [future.result() for future in futures]
            except BaseException:  # Ctrl-C, or an error that is everyone's: nothing more is sent
                talk.over.set()
                pool.shutdown(cancel_futures=True)
                raise
        return replies


def endpoint_of(name: str) -> tuple[str, str]:
    """(url, model) of "https://host/v1#model". Raises UserError where one of them is missing, or a key is in it."""
    url, _, model = name.partition("#")
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise UserError(f"{parts.hostname}: a key does not belong into an address. Put it in an environment variable.")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{name}: no address. Write https://host/v1#model.")
    if not model:
        raise UserError(f"{name}: which of its models? Write it behind a #: {url.rstrip('/')}#model.")
    return url.rstrip("/"), model


def skipped(replies: Sequence[Reply]) -> dict[str, int]:
    """How many prompts got no answer, by reason."""
    found: dict[str, int] = {}
    for reply in replies:
        if reply.error is not None:
            found[reply.error] = found.get(reply.error, 0) + 1
    return found


class _Failure(Exception):
    """One try came to nothing."""

    def __init__(self, why: str, again: bool, after_s: float | None = None) -> None:
        super().__init__(why)
        self.again, self.after_s = again, after_s


class _Talk:
    """One call of `ask`: the connection's settings and what its threads know together."""

    def __init__(self, how: Endpoint) -> None:
        self.how = how
        self.address = chat_address(how.url)
        self.key = key_for(how)
        proxy = request.ProxyHandler({} if is_here(how.url) else None)
        # No handler for redirects: urllib would carry the key to wherever a server points.
        self.opener = request.OpenerDirector()
        for handler in (proxy, request.HTTPHandler(), request.HTTPSHandler()):
            self.opener.add_handler(handler)
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.given_up = 0
        """Prompts in a row, up to now, that nobody answered."""
        self.limit_name = "max_tokens"

    def told(self, prompt: Sequence[Message]) -> Reply:
        """The answer to one prompt, or why there is none; whoever wants to hear of it does."""
        reply = self.reply(prompt)
        if self.how.heard is not None:
            self.how.heard(prompt, reply)
        return reply

    def reply(self, prompt: Sequence[Message]) -> Reply:
        """The answer to one prompt, after as many tries as it takes, or why there is none."""
        why = ""
        for attempt in range(self.how.retries + 1):
            if self.over.is_set():
                return Reply("", ended=False, error="not asked: it was stopped")
            if self.given_up >= max(3, self.how.concurrency):
                return Reply("", ended=False, error=f"not asked: {self.given_up} prompts before it got no answer")
            if self.how.pace is not None and (no := self.how.pace(prompt, self.how.wait or self.over.wait)) is not None:
                return Reply("", ended=False, error=no)
            try:
                answer = self.attempt(prompt)
            except UserError:
                self.over.set()
                raise
            except _Failure as failure:
                why = str(failure)
                if not failure.again:
                    return Reply("", ended=False, error=why)
                if attempt == self.how.retries:
                    break
                pause_s = failure.after_s
                if pause_s is None:  # exponential, each thread at another moment
                    pause_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**attempt) * random.uniform(0.5, 1)
                if pause_s > LONGEST_WAIT_S:
                    why = f"{why}, to be asked again in {pause_s:.0f} s"
                    break
                (self.how.wait or self.over.wait)(pause_s)
            else:
                with self.lock:
                    self.given_up = 0
                return answer
        with self.lock:
            self.given_up += 1
        return Reply("", ended=False, error=why)

    def attempt(self, prompt: Sequence[Message]) -> Reply:
        """One try. Raises _Failure, and UserError where every other prompt would fare the same."""
        began = time.monotonic()
        limit_name = self.limit_name
        status, headers, body = self.send(prompt, limit_name, began + self.how.timeout_s)
        if status == 200:
            return read_answer(body, time.monotonic() - began)
        said = self.hidden(said_by(body))
        if status in (401, 403, 404) or 300 <= status < 400:
            raise UserError(told(self.how, status, said, self.key is not None))
        if status == 400 and limit_name == "max_tokens" and "max_completion_tokens" in said:
            self.limit_name = "max_completion_tokens"  # the newer name of the same
            return self.attempt(prompt)
        again = status in (408, 409, 425, 429) or status >= 500
        after_s = seconds_after(headers.get("Retry-After")) if again else None
        raise _Failure(f"HTTP {status}: {said}" if said else f"HTTP {status}", again, after_s)

    def send(self, prompt: Sequence[Message], limit_name: str, deadline: float) -> tuple[int, Any, bytes]:
        """(status, headers, body) of one request. Raises _Failure where the line breaks or the time is over."""
        how = self.how
        content: dict[str, Any] = {
            "model": how.model,
            "messages": [{"role": message.role, "content": message.content} for message in prompt],
            limit_name: how.max_new_tokens,
            "temperature": how.temperature,
        }
        content |= {} if how.seed is None else {"seed": how.seed}
        asked = request.Request(self.address, json.dumps(content).encode(), {"Content-Type": "application/json"})
        asked.add_header("User-Agent", "luthier")
        if self.key is not None:
            asked.add_unredirected_header("Authorization", f"Bearer {self.key}")
        try:
            with self.opener.open(asked, timeout=how.timeout_s) as answer:
                return answer.status, answer.headers, whole(answer, deadline)
        except (OSError, http.client.HTTPException) as error:
            raise _Failure(self.hidden(no_line(error, how.timeout_s)), again=True) from error

    def hidden(self, text: str) -> str:
        """A text that may be shown: servers repeat keys that they refuse."""
        return text.replace(self.key, "…") if self.key else text


def chat_address(url: str) -> str:
    """Where chats are asked for; a query stays behind."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/")
    path = path if path.endswith("/chat/completions") else f"{path}/chat/completions"
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def key_for(how: Endpoint) -> str | None:
    """The key from the environment, if one is set there. Raises UserError where a variable that was named is not, or
    holds what no header can carry."""
    host = urlsplit(how.url).hostname
    name = how.key_env or ("OPENAI_API_KEY" if host == "api.openai.com" else "LUTHIER_API_KEY")
    key = os.environ.get(name, "").strip()
    if not key and how.key_env is not None:
        raise UserError(f"{name}: the environment has no such variable. Set it: export {name}=…")
    if not key.isascii() or not key.isprintable():
        raise UserError(f"{name}: what it holds is no key: there are signs in it that a header cannot carry.")
    return key or None


def is_here(url: str) -> bool:
    """Whether an address is this machine, which no proxy leads to."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def whole(answer: Any, deadline: float) -> bytes:
    """All of a body, in time. Raises _Failure where it is endless, or comes too slowly."""
    parts, size = [], 0
    while part := answer.read1(1 << 16):
        parts.append(part)
        size += len(part)
        if size > LARGEST_BYTES:
            raise _Failure(f"its answer is longer than {LARGEST_BYTES >> 20} MiB", again=False)
        if time.monotonic() > deadline:
            raise TimeoutError
    if answer.length:  # bytes that it promised
        raise http.client.IncompleteRead(b"", answer.length)
    return b"".join(parts)


def no_line(error: Exception, timeout_s: float) -> str:
    """What a broken line is called."""
    reason = error.reason if isinstance(error, request.URLError) else error  # type: ignore[attr-defined]
    if isinstance(reason, TimeoutError):
        return f"no answer within {timeout_s:g} s"
    if isinstance(reason, ConnectionRefusedError):
        return "nobody listens there"
    if isinstance(reason, http.client.IncompleteRead):
        return "its answer broke off"
    if isinstance(reason, http.client.HTTPException | ConnectionError):
        return "it hung up"
    return str(reason.strerror or reason) if isinstance(reason, OSError) else str(reason)


def read_answer(body: bytes, seconds: float) -> Reply:
    """The reply in a body. Raises _Failure, to be tried again, where there is none in it."""
    try:
        choice = json.loads(body)["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        text = message.get("content")
        text = message.get("refusal") if text is None else text
        if isinstance(text, list):  # in parts, as some servers give it
            text = "".join(part["text"] for part in text if part.get("type") == "text")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        kind = "HTML" if re.match(rb"\s*<(!doctype|html)", body, re.IGNORECASE) else "no chat answer"
        raise _Failure(f"it answered with {kind}: {said_by(body)}", again=True) from error
    if finish == "content_filter" and not text:
        raise _Failure("its content filter withheld the answer", again=False)
    if not isinstance(text, str):
        raise _Failure("its answer holds no text", again=True)
    usage = json.loads(body).get("usage")
    tokens, read = (
        usage.get(key) if isinstance(usage, dict) else None for key in ("completion_tokens", "prompt_tokens")
    )
    counts = [count if isinstance(count, int) else None for count in (tokens, read)]
    return Reply(text.strip(), finish != "length", counts[0], seconds, counts[1])


def said_by(body: bytes) -> str:
    """The beginning of what a server said, on one line: its error message, or else the text of its page."""
    text = body.decode(errors="replace")
    try:
        said = json.loads(text)
        said = said.get("error", said.get("message", said.get("detail", said)))
        said = said.get("message", said) if isinstance(said, dict) else said
        text = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
    except (ValueError, AttributeError):
        text = re.sub(r"(?is)<(script|style)\b.*?</\1>|<[^>]*>", " ", text)
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= SHOWN else f"{line[:SHOWN]}…"


def seconds_after(header: str | None) -> float | None:
    """How long a server asks to be left alone: seconds, or an HTTP date. None where it does not say."""
    if header is None:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", header.strip()):
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None


def told(how: Endpoint, status: int, said: str, had_key: bool) -> str:
    """One line for an answer that every prompt would get."""
    said = f" ({said})" if said else ""
    where = f"{how.url}#{how.model}"
    if status == 404:
        return f"{where}: HTTP 404{said}. Is the address right (it often ends in /v1), and the model's name?"
    if 300 <= status < 400:
        return f"{where}: HTTP {status}: it points elsewhere. Give the address that it points to."
    if had_key:
        return f"{where}: HTTP {status}: the key is refused{said}. Is it the right one, and may it use this model?"
    named = how.key_env or ("OPENAI_API_KEY" if "api.openai.com" in how.url else "LUTHIER_API_KEY")
    return f"{where}: HTTP {status}: it wants a key{said}. Set one: export {named}=…, or name its variable: --key-env."
