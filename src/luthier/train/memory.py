"""Memory: what it took at its peak, and what to do where it runs out.

When a step does not fit, its microbatches are cut smaller and the step is done anew: losses are sums and are divided
once by a total that is known before the first forward, so the mathematics is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from luthier.base.errors import RunError
from luthier.base.pages import give_back_freed_pages
from luthier.train.job import Job, clear_gradients
from luthier.train.ranks import here
from luthier.train.sources import BatchSource, Step

T = TypeVar("T")

SAYS_FULL = ("can't allocate memory", "Cannot allocate memory", "bad_alloc", "not enough memory")
"""How torch's allocator and other libraries on a CPU say it, each in a RuntimeError."""


def reset_peak(device: str) -> None:
    """Peak memory is counted anew from here (Linux lets a process reset its high-water mark)."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    give_back_freed_pages()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # not Linux, or not allowed: the peak of the whole process is reported instead


def peak_bytes(device: str) -> int:
    """Most memory held since the reset: resident memory on a CPU, allocated memory on a GPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def ran_out(error: BaseException) -> bool:
    """Whether an error says that there is no memory left."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(said in str(error) for said in SAYS_FULL)


def within_memory(job: Job, source: BatchSource, step: int, work: Callable[[Step], T]) -> tuple[Step, T] | str:
    """Does `work` on the microbatches of a step, which must change no weights. When memory runs out, does it anew with
    half the microbatch limit, down to one sequence at a time; then returns why not even that fits. Among several ranks
    RunError is raised at once: the others wait for this one in the middle of a step."""
    while True:
        item: Step | None = None
        try:
            with job.together.looking():
                item = source.at(step)
            return item, work(item)
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
            why = in_words(error)
            if here().world > 1:
                raise RunError(
                    f"{job.checkpoints.folder.parent}: step {step} ran out of memory on rank {here().rank} ({why}). "
                    f"Set microbatch_tokens below {source.microbatch_tokens}: the mathematics stays the same. Or set "
                    "gradient_checkpointing: true, or take more ranks. What is done is kept."
                ) from error
        # Out here the error is gone, and with it the tensors of the frames that it came through.
        make_room(job)
        if (smaller := halved(source, item, step)) is None:
            return why
        tell_limit(job, source, step, smaller, f"ran out of memory ({why})")


def in_words(error: BaseException) -> str:
    """What an allocator says, without the place in its code."""
    said = (str(error).splitlines() or ["no memory is left"])[0]
    return said[max(0, said.find("DefaultCPUAllocator")) :][:160]


def make_room(job: Job) -> None:
    """Frees what the failed attempt left behind."""
    clear_gradients(job)
    if job.device.type == "cuda":
        torch.cuda.empty_cache()
    give_back_freed_pages()


def halved(source: BatchSource, item: Step | None, step: int) -> int | None:
    """Half the microbatch limit, or half of the largest microbatch where that is less; None where every sequence (or
    pair, or group) stands alone already."""
    limit = source.microbatch_tokens
    if item is None:  # the step's samples could not be made
        return limit // 2 if limit > 16 else None
    source.microbatch_tokens = 1
    finest = len(source.at(step).micros)
    source.microbatch_tokens = limit
    if len(item.micros) == finest:
        return None
    return min(limit, max(micro.batch.tokens for micro in item.micros)) // 2


def tell_limit(job: Job, source: BatchSource, step: int, limit: int, why: str) -> None:
    """Sets the microbatch limit of the job and of the source at hand, and tells of it."""
    job.source.microbatch_tokens = source.microbatch_tokens = limit
    # What is tried before step 0 is no part of the steps that a resumed run forgets.
    at = {"step": step} if source is job.source else {}
    job.log.emit(
        "memory",
        **at,
        microbatch_tokens=limit,
        text=f"step {step} {why}: microbatches of at most {limit:,} tokens from here on, with the same mathematics",
    )


def no_room(job: Job, item: str, why: str) -> str:
    """What to do where one sequence at a time is too much."""
    return (
        f"{item} ran out of memory, one sequence at a time ({why}). Lower max_length, set gradient_checkpointing: "
        "true, train an adapter, or take an optimizer with less state (adafactor, adamw8bit); microbatch_tokens is "
        f"down to {job.source.microbatch_tokens} already."
    )
