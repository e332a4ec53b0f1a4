"""A process with little memory left, which trains, and writes what came of it. The limit is on the address space, so
that torch's allocator meets it as on a full machine."""

from __future__ import annotations

import multiprocessing
import resource
from pathlib import Path
from typing import Any

import torch

from luthier.base.files import read_json, write_json
from luthier.base.pages import keep_freed_pages
from luthier.train.loop import fit
from luthier.train.trial import try_largest
from train.jobs import job, small, told
from train.rows import draw

TOKENS = 1_000_000
"""Of a step and of a microbatch: all rows at once."""


def starved(folder: Path, mib: int) -> dict[str, Any]:
    """What comes of `train` in a process of its own."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["luthier.run.stages"])
    child = server.Process(target=train, args=(folder, mib), daemon=True)
    child.start()
    child.join(300)
    assert child.exitcode == 0, f"exit code {child.exitcode}"
    return read_json(folder / "found.json")


def train(folder: Path, mib: int) -> None:
    """Tries and takes two steps of 80 rows (about 12,000 tokens) with `mib` MiB to spare; then tries one row of 12,000
    tokens."""
    torch.set_num_threads(1)
    keep_freed_pages()
    rows, long = draw(80, 100, 200), draw(1, 12_000, 12_001)
    many = job(folder / "many", small(), steps=2, rows=rows, microbatch_tokens=TOKENS, batch_tokens=TOKENS)
    one = job(folder / "one", small(), steps=2, rows=long, microbatch_tokens=TOKENS, batch_tokens=TOKENS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + mib * 2**20,) * 2)
    tried = try_largest(many, 0)
    used = fit(many)
    losses = [e["loss"] for e in told(folder / "many", "step")]
    alone = try_largest(one, 0)
    facts = {"tried": [tried.ok, tried.detail], "losses": losses, "facts": used.facts(many)}
    write_json(folder / "found.json", {**facts, "alone": [alone.ok, alone.detail]})
