"""Processes with little memory, which train, and write what came of it. They start with nothing but the libraries: in
one that has run a thousand tests, freed memory lies about in pieces, and what is held is no measure of what is used."""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from luthier.base.files import read_json, write_json
from luthier.base.pages import keep_freed_pages
from luthier.train.loop import fit
from luthier.train.memory import peak_bytes, reset_peak
from luthier.train.trial import try_largest
from train.jobs import job, small, told
from train.rows import draw

TOKENS = 1_000_000
"""Of a step and of a microbatch: all rows at once."""


def alone(program: Callable[[Path, int], dict[str, Any]], folder: Path, mib: int) -> dict[str, Any]:
    """What `program` finds in a process of its own, with so much memory to spare."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["luthier.run.stages"])
    child = server.Process(target=write_found, args=(program, folder, mib), daemon=True)
    child.start()
    child.join(300)
    assert child.exitcode == 0, f"exit code {child.exitcode}"
    return read_json(folder / "found.json")


def write_found(program: Callable[[Path, int], dict[str, Any]], folder: Path, mib: int) -> None:
    """What the process does, as every run begins."""
    torch.set_num_threads(1)
    keep_freed_pages()
    write_json(folder / "found.json", program(folder, mib))


def starved(folder: Path, mib: int) -> dict[str, Any]:
    """Tries and takes two steps of 80 rows (about 12,000 tokens), then tries one row of 12,000 tokens. The limit is on
    the address space, so that torch's allocator meets it as on a full machine."""
    rows, long = draw(80, 100, 200), draw(1, 12_000, 12_001)
    many = job(folder / "many", small(), steps=2, rows=rows, microbatch_tokens=TOKENS, batch_tokens=TOKENS)
    one = job(folder / "one", small(), steps=2, rows=long, microbatch_tokens=TOKENS, batch_tokens=TOKENS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + mib * 2**20,) * 2)
    tried = try_largest(many, 0)
    used = fit(many)
    losses = [e["loss"] for e in told(folder / "many", "step")]
    long_one = try_largest(one, 0)
    facts = {"tried": [tried.ok, tried.detail], "losses": losses, "facts": used.facts(many)}
    return {**facts, "alone": [long_one.ok, long_one.detail]}


def allowed(folder: Path, mib: int) -> dict[str, Any]:
    """The same steps, cut to a peak `mib` MiB above what is held before them; then to one that nothing fits into."""
    made = job(folder / "cut", small(), steps=2, rows=draw(80, 100, 200), microbatch_tokens=4000, batch_tokens=TOKENS)
    try_largest(made, 0)  # the libraries' own code, of products of all sizes too, is read in when it is first used
    made.source.microbatch_tokens = 12_000
    reset_peak("cpu")
    most = peak_bytes("cpu") + mib * 2**20
    object.__setattr__(made, "most_bytes", most)
    tried, limit = try_largest(made, 0), made.source.microbatch_tokens
    reset_peak("cpu")
    fit(made)
    peak = peak_bytes("cpu")
    object.__setattr__(made, "most_bytes", 2**20)
    refused = try_largest(made, 0)
    return {
        "tried": [tried.ok, tried.detail], "limit": limit, "most": most, "peak": peak,
        "text": told(folder / "cut", "memory")[0]["text"], "refused": [refused.ok, refused.detail],
    }  # fmt: skip
