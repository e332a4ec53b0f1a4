"""One run in many processes: which of them this is, and how they agree.

Every rank runs the same recipe on the same data and takes its share of each step. Only the main rank writes
(`only_read`) and speaks. A rank that fails rings the alarm; then all end with one message, which the main rank prints:
without it the others would wait in a collective for ever. Nothing here is used by a run in one process.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from luthier.base.errors import RunError, UserError
from luthier.base.files import only_read

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""How long a rank waits for another, which may be at work alone (tokenising, measuring). The dead ring no bell, but
their launcher ends the rest."""
POLL_S = 0.2
"""Seconds between two looks at the alarm."""
LAST_WORDS_S = 10.0
"""Most seconds that a rank waits for the main one to print what went wrong, before it ends itself."""
LOST = re.compile(r"[Cc]onnection (closed|reset|refused)|[Bb]roken pipe|NCCL (communicator|error)|\[.*gloo")
"""What a library says when another process has gone."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of its run. All methods but `share` must be called by every rank, in the same order."""

    rank: int
    world: int

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    @property
    def on_this_machine(self) -> int:
        """How many of the ranks share this machine."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if self.world > 1 else 1

    def share(self, count: int) -> range:
        """This rank's run of `count` things in a row; the shares differ by one at most, and are the ranks' in order."""
        return range(count * self.rank // self.world, count * (self.rank + 1) // self.world)

    def sums(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the ranks, in double precision."""
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def meet(self) -> None:
        """Returns when every rank is here: what the main one wrote before is there for all."""
        self.sums([0.0])

    def told(self, value: T) -> T:
        """The main rank's value, on every rank."""
        if self.world == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, src=0, device=torch.device("cpu"))
        return held[0]

    def gathered(self, value: T) -> list[T]:
        """Every rank's value, in the ranks' order."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value)
        return found

    def once(self, make: Callable[[], Any]) -> None:
        """The main rank does it; the others go on when it is done."""
        if self.is_main:
            make()
        self.meet()

    def agree(self, what: str, value: str) -> None:
        """Raises RunError unless the value is the same on every rank."""
        values = self.gathered(value)
        if len(set(values)) > 1:
            other = next(r for r, v in enumerate(values) if v != values[0])
            raise RunError(
                f"{what} is not the same on every rank: {values[0]} on rank 0, {values[other]} on rank {other}. Use "
                "the same recipe, data, number of threads and library versions on every machine."
            )

    def add_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Sums the gradients of parameters that every rank holds whole. One that has none on any rank keeps none."""
        if self.world == 1 or not parameters:
            return
        held = self.sums([float(p.grad is not None) for p in parameters])
        used = [p for p, count in zip(parameters, held, strict=True) if count]
        for p in used:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        for dtype in {p.dtype for p in used}:
            grads = [p.grad for p in used if p.dtype == dtype and p.grad is not None]
            flat = torch.cat([grad.flatten() for grad in grads])
            dist.all_reduce(flat)
            for grad, part in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
                grad.copy_(part.view_as(grad))


ALONE = Ranks(0, 1)


def here() -> Ranks:
    """This process among those that `joined` brought together; alone where none did."""
    return Ranks(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else ALONE


@contextmanager
def joined() -> Iterator[Ranks]:
    """Inside this block the process is one of those that a launcher started (its environment says which): gloo between
    CPUs, NCCL between GPUs. An error in it, on whichever rank, ends every rank with SystemExit or at once, after the
    main rank has printed it: UserError 2, RunError and everything else 1, Ctrl-C 130."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE)
    ranks = here()
    if not ranks.is_main:
        only_read()
    alarm = Alarm(ranks)
    try:
        yield ranks
        ranks.meet()  # all have done their work: from here on nothing is left that could fail
    except BaseException as error:
        alarm.ring(error)
    alarm.stop()
    ranks.meet()
    dist.destroy_process_group()


class Alarm:
    """Watches, in a thread of its own, for a rank that failed. Owns the thread and a connection to the store that the
    ranks met at; the thread ends the process where its main thread hangs in a collective."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        # A launcher that starts everything anew keeps its store.
        start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self.rang, self.told = f"luthier/{start}/rang", f"luthier/{start}/told"
        # A connection of its own: the process group's is busy while it waits.
        self.store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        self.stopped, self.lock = threading.Event(), threading.Lock()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """No rank can fail any more."""
        self.stopped.set()
        self.thread.join()

    def watch(self) -> None:
        """Looks now and then; ends the process when another rank has rung, or the place to look has gone."""
        while not self.stopped.wait(POLL_S):
            try:
                rang = self.store.check([self.rang])
            except RuntimeError:  # the process that held the store has ended, and with it the run
                os._exit(1)
            if rang:
                with self.lock:
                    self.end()

    def end(self) -> None:
        """Ends this process as the rank that rang says; the main one prints its words, and the others wait for that."""
        code, said = json.loads(self.store.get(self.rang))
        if self.ranks.is_main:
            print(said, file=sys.stderr, flush=True)
            with contextlib.suppress(RuntimeError):
                self.store.set(self.told, "1")
            time.sleep(2 * POLL_S)  # the store may be this process's: it stays until the others have read
        else:
            with contextlib.suppress(RuntimeError):  # it is told, or there is nobody to tell it any more
                self.store.wait([self.told], timedelta(seconds=LAST_WORDS_S))
        sys.stdout.flush()
        os._exit(code)

    def ring(self, error: BaseException) -> None:
        """Tells every rank of the error that this one met, and ends the process."""
        code, said = verdict(error, self.ranks)
        if code == 0:  # typer's way to say that all is done
            raise error
        if LOST.search(str(error)) and not isinstance(error, UserError | RunError):
            time.sleep(2 * POLL_S)  # another rank has failed: it rings first, and knows why
        elif code == 1 and not isinstance(error, RunError):
            traceback.print_exception(error)
        with self.lock:  # the thread looks no more
            with contextlib.suppress(RuntimeError):
                self.store.compare_set(self.rang, "", json.dumps([code, said]))
                self.end()
            print(said, file=sys.stderr, flush=True)
            os._exit(code)


def verdict(error: BaseException, ranks: Ranks) -> tuple[int, str]:
    """Exit code and message for an error that ends a rank."""
    match error:
        case UserError():
            return 2, "\n".join(error.problems)
        case RunError():
            return 1, str(error)
        case KeyboardInterrupt():
            return 130, "stopped; the same command goes on from the last checkpoint"
        case SystemExit():
            code = error.code if isinstance(error.code, int) else 1
            return code, f"rank {ranks.rank} of {ranks.world} ended with exit code {code}"
    if LOST.search(str(error)):
        return 1, (
            f"another of the {ranks.world} processes ended without a word (killed, or out of memory). "
            "The same command goes on from the last checkpoint."
        )
    return 1, f"rank {ranks.rank} of {ranks.world}: {type(error).__name__}: {error}"
