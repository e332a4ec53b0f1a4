"""A library that reads hostile files, kept in a process of its own: one that hangs, crashes or eats memory costs the
file and not the run. The process stays for the next file; what it costs is starting it once, and the pipe."""

from __future__ import annotations

import atexit
import math
import os
import pickle
import resource
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from luthier.base.errors import RunError, UserError
from luthier.base.workers import Refused, Worker

STEP_S = 20
"""Processor time for a step, such as a page, which takes milliseconds; counted in the process itself, so that a busy
machine makes nothing too slow."""
WAIT_S = 900.0
"""Time for a whole file by the clock, for what hangs without working."""
MOST_BYTES = 8 << 30
"""Address space of the process."""

Work = Callable[[None, bytes], Any]
"""(nothing, a file's bytes) -> what was read. A function at the top of a file that calls `another_step` as it goes."""


class Guarded:
    """A process that does one kind of work on one file after another. Owns it; starts it when it is first needed, and
    anew when it is gone. May be asked by several threads, one after the other."""

    def __init__(self, work: Work, what: str, wait_s: float = WAIT_S) -> None:
        """`what` is the file in an error: "a PDF file"."""
        self.work, self.what, self.wait_s = work, what, wait_s
        self.worker: Worker | None = None
        self.owner = 0
        self.lock = threading.Lock()
        atexit.register(self.stop)

    def __call__(self, data: bytes) -> Any:
        """What the work returns. Raises ValueError, in words, where the process ended or had to be ended; UserError as
        the work does; RunError where no process can be started."""
        with self.lock:
            worker = self._worker()
            try:
                worker.send(pickle.dumps(data))
                ended = not worker.pipe.poll(self.wait_s)
                value = None if ended else worker.result()
            except RunError as error:
                code = worker.process.poll()
                self.stop()
                if code is None or code >= 0:
                    raise  # it ended by itself, or failed in a way that is our defect
                raise ValueError(self._why(-code)) from error
            if ended:
                self.stop()
                raise ValueError(f"not {self.what} that can be read (the library waits for ever)")
        if isinstance(value, Refused):
            raise UserError(value.problems)
        return value

    def stop(self) -> None:
        """Ends the process."""
        if self.worker is not None and self.owner == os.getpid():
            self.worker.stop()
        self.worker = None

    def _worker(self) -> Worker:
        """The process, alive, and this process's own: a fork has its parent's pipe and must leave it alone."""
        if self.worker is None or self.owner != os.getpid() or self.worker.process.poll() is not None:
            self.worker, self.owner = Worker(pickle.dumps((self.work, None))), os.getpid()
        return self.worker

    def _why(self, number: int) -> str:
        """How the process ended, in words."""
        if number == signal.SIGXCPU:
            return f"not {self.what} that can be read (a part of it takes more than {STEP_S} s)"
        return f"not {self.what} that can be read (the library ended with {signal.Signals(number).name})"


def another_step(step_s: int = STEP_S) -> None:
    """Gives the process that calls it so much more processor time, after which the system ends it; and bounds its
    memory. The system counts whole seconds."""
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    until = math.ceil(time.process_time()) + step_s
    resource.setrlimit(resource.RLIMIT_CPU, (until if most < 0 else min(until, most), most))
    soft, most = resource.getrlimit(resource.RLIMIT_AS)
    if soft != MOST_BYTES and (most < 0 or most >= MOST_BYTES):
        resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, most))
