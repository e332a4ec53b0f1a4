"""A real server on this machine whose answers are a script: what endpoints do on their bad days."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answer:
    """One answer of the server. `stall`: nothing is sent until the test is over. `short`: bytes that it promises and
    does not send."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    stall: bool = False
    short: int = 0


def says(text: str | None, finish: str = "stop", tokens: int = 3) -> Answer:
    """A good answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return Answer(json.dumps({"choices": [choice], "usage": {"completion_tokens": tokens}}).encode())


@dataclass
class Served:
    """A running server: where it is, and what it was asked."""

    url: str
    asked: list[dict[str, Any]]
    headers: list[dict[str, str]]
    most_at_once: int = 0


@contextmanager
def serving(script: Callable[[dict[str, Any], int], Answer]) -> Iterator[Served]:
    """Serves what `script` (request, how often this last message was asked before) returns."""
    lock, over = threading.Lock(), threading.Event()
    served = Served("", [], [])
    now = 0

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            nonlocal now
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                before = sum(one["messages"][-1] == asked["messages"][-1] for one in served.asked)
                served.asked.append(asked)
                served.headers.append(dict(self.headers))
                now += 1
                served.most_at_once = max(served.most_at_once, now)
            try:
                answer = script(asked | {"path": self.path}, before)
                if answer.stall:
                    over.wait()
                    return
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body) + answer.short))
                self.end_headers()
                self.wfile.write(answer.body)
            finally:
                with lock:
                    now -= 1

        def log_message(self, *words: Any) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join()
