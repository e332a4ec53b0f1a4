"""A run tells its own story: `events.jsonl`, one dict a line. Console, report and trackers only read it.

Every event has `kind` and `t` (seconds since the epoch); those of a training stage have `step`. Kinds:
  begin    {stage, folder, seconds_estimate?, steps?}   a stage (or its continuation) starts
  resume   {step}                                       it went on from a checkpoint
  guard    {name, ok, detail}                           what was checked before step 0
  step     {step, loss, lr, grad_norm, tokens, seconds, ...metrics of the objective}
  eval     {step, name, value, low?, high?, n?}         a figure measured on held-out data
  sample   {step, prompt, answer, name}                 a text the model wrote
  progress {name, what, rows, total, share, rows_per_s, seconds_left}   a streamed source is read or tokenised
  plan     {step, steps, asked, text}                   how many steps a time budget leaves; again where that changes
  memory   {step?, microbatch_tokens, text}             microbatches were cut smaller, to fit
  rollback {step, since, lr_share, text}                the watchdog went back to `step`; what came after is forgotten
  note     {text}                                       a sentence for people
  end      {seconds, peak_bytes}
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from luthier.base.files import disk_errors, only_reads, write_text

Event = dict[str, Any]
Watcher = Callable[[Event], None]


class EventLog:
    """Appends events to a file and shows each to the watchers. Owns the file handle."""

    def __init__(self, path: Path, watchers: tuple[Watcher, ...] = ()) -> None:
        if only_reads():  # another process of this run tells the story
            path, watchers = Path(os.devnull), ()
        self.path, self.watchers = path, watchers
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            cut_torn_line(path)
            self.file = open(path, "a", buffering=1)  # noqa: SIM115  # `close` closes it

    def emit(self, kind: str, **fields: Any) -> None:
        if kind == "begin":
            fields = {**fields, "folder": self.path.parent.name}
        event = {"kind": kind, "t": round(time.time(), 3), **fields}
        with disk_errors(self.path):
            self.file.write(json.dumps(event, ensure_ascii=False) + "\n")
        for watch in self.watchers:
            watch(event)

    def rewind(self, step: int) -> None:
        """Forgets what was told after `step` (-1: of all steps): the run is about to live it again."""
        if only_reads():
            return
        self.file.close()
        kept = [e for e in read_events(self.path) if e.get("step", step) <= step]
        write_text(self.path, "".join(json.dumps(e, ensure_ascii=False) + "\n" for e in kept))
        self.file = open(self.path, "a", buffering=1)  # noqa: SIM115

    def close(self) -> None:
        self.file.close()


def cut_torn_line(path: Path) -> None:
    """Removes a last line that a crash or a full disk left unfinished: what is told next starts a line of its own."""
    if path.exists():
        told = path.read_bytes()
        whole = told.rfind(b"\n") + 1
        if whole < len(told):
            os.truncate(path, whole)


def read_events(path: Path) -> Iterator[Event]:
    """Yields the events of a file; a last line cut off by a crash is left out."""
    if not path.exists():
        return
    with open(path) as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)
