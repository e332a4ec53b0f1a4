"""One function on many pieces of work, over all cores.

A worker is a Python process of its own that is given the function once and then one piece after another. It ends when
its pipe does: however the main process ends, nobody is left behind. (The pools of the standard library hold their own
pipe open, and wait for ever for a main process that was killed; and they import the user's script again.)
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, TypeVar

from luthier.base.errors import RunError, UserError

Work = Callable[[Any, Any], Any]
"""(what all pieces share, one piece) -> its result. A function at the top of a file."""
P = TypeVar("P")

START = "from luthier.base.workers import serve; serve(int(__import__('sys').argv[1]))"


class Refused(NamedTuple):
    """A piece that raised UserError: its problems."""

    problems: list[str]


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def each(work: Work, shared: Any, pieces: Iterable[P], workers: int) -> Iterator[tuple[P, Any]]:
    """(piece, result) of every piece, in the order in which they are done; the results do not depend on how many
    `workers` there are. Never more pieces are read ahead than there are workers.

    With one worker, or where `shared` cannot be handed to another process, the work is done here. Raises UserError
    with the problems of the first piece that had some, RunError when a worker dies.
    """
    given = packed(work, shared) if workers > 1 else None
    if given is None:
        for piece in pieces:
            yield piece, work(shared, piece)
        return
    crew: list[Worker] = []
    try:
        yield from dealt(given, pieces, workers, crew)
    finally:
        for worker in crew:
            worker.stop()


def packed(work: Work, shared: Any) -> bytes | None:
    """The function and what it shares as bytes; None where that cannot be sent (a tokenizer with code of its own)."""
    try:
        return pickle.dumps((work, shared))
    except Exception:  # whatever a stranger's class raises when it is pickled
        return None


class Worker:
    """A process that works. Owns it and its pipe."""

    def __init__(self, given: bytes) -> None:
        ours, theirs = socket.socketpair()
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, "-c", START, str(theirs.fileno())]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], env=environment | {"PYTHONPATH": paths()}
        )
        theirs.close()
        self.pipe = Connection(ours.detach())
        self.piece: Any = None
        self.send(given)

    def send(self, data: bytes) -> None:
        """Hands over bytes. Raises RunError when the worker has died."""
        try:
            self.pipe.send_bytes(data)
        except OSError as error:
            raise RunError(self.epitaph()) from error

    def result(self) -> Any:
        """What it sent back. Raises RunError when it died, or failed in a way that is our defect."""
        try:
            ok, value = self.pipe.recv()
        except (EOFError, OSError) as error:
            raise RunError(self.epitaph()) from error
        if not ok:
            raise RunError(f"a worker failed. This is a defect of luthier or of a library: please report it.\n{value}")
        return value

    def epitaph(self) -> str:
        """How it ended, in words."""
        code = self.process.wait()
        cause = " It was probably out of memory." if code == -signal.SIGKILL else ""
        return f"a worker process ended ({code}).{cause} Set `threads` lower and run again: what was done is kept."

    def stop(self) -> None:
        """Ends it, whatever it is doing."""
        self.pipe.close()
        self.process.kill()
        self.process.wait()


def paths() -> str:
    """Where this process finds its modules, for another one."""
    return os.pathsep.join(path for path in sys.path if path)


def dealt(given: bytes, pieces: Iterable[P], workers: int, crew: list[Worker]) -> Iterator[tuple[P, Any]]:
    """Deals the pieces to as many workers as there is work for, at most `workers`, who are added to `crew`."""
    refused: dict[int, list[str]] = {}
    number = 0
    for number, piece in enumerate(pieces):
        free = next((worker for worker in crew if worker.piece is None), None)
        if free is None and len(crew) < workers:
            free = Worker(given)
            crew.append(free)
        while free is None:
            free = yield from taken(crew, refused)
        if refused:
            break
        free.piece = (number, piece)
        free.send(pickle.dumps(piece))
    while any(worker.piece is not None for worker in crew):
        yield from taken(crew, refused)
    if refused:
        raise UserError(refused[min(refused)])


def taken(crew: list[Worker], refused: dict[int, list[str]]) -> Generator[Any, None, Worker | None]:
    """Waits for the workers, yields what they made; returns one that has nothing to do now."""
    busy = {worker.pipe: worker for worker in crew if worker.piece is not None}
    free = None
    for pipe in wait(list(busy)):
        free = busy[pipe]  # type: ignore[index]
        number, piece = free.piece
        value = free.result()
        free.piece = None
        if isinstance(value, Refused):
            refused[number] = value.problems
        else:
            yield piece, value
    return free


def serve(fd: int) -> None:
    """A worker's whole life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to answer
    pipe = Connection(fd)
    with suppress(EOFError, OSError):
        work, shared = pickle.loads(pipe.recv_bytes())
        while True:
            piece = pickle.loads(pipe.recv_bytes())
            try:
                answer = (True, work(shared, piece))
            except UserError as error:
                answer = (True, Refused(error.problems))
            except Exception:
                answer = (False, traceback.format_exc())
            pipe.send(answer)
