"""Several processes that know of each other, started as a launcher does, but from a server that has the libraries
loaded: an import costs more than what they do."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any


def _rank(program: Callable[..., None], arguments: tuple[Any, ...], environment: dict[str, str], said: Path) -> None:
    """What a started process does; its output is kept where the parent finds it."""
    os.environ |= environment
    with open(said, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    import torch

    torch.set_num_threads(1)
    program(*arguments)


def start(world: int, folder: Path, program: Callable[..., None], *arguments: Any) -> list[BaseProcess]:
    """Calls `program` once in each of `world` processes, which find in their environment which they are. Their output
    goes to FOLDER/rank-R.txt."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["luthier.run.stages"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    ranks = []
    for rank in range(world):
        there = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        there |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {key: str(value) for key, value in there.items()}
        said = folder / f"rank-{rank}.txt"
        ranks.append(server.Process(target=_rank, args=(program, arguments, environment, said), daemon=True))
        ranks[-1].start()
    return ranks


def finished(ranks: list[BaseProcess], seconds: float = 300) -> list[int | None]:
    """The exit codes of all ranks; kills those that hang (None)."""
    codes = []
    for rank in ranks:
        rank.join(seconds)
        codes.append(rank.exitcode)
        rank.kill()
    return codes


def said(folder: Path, world: int = 2) -> list[str]:
    """What each rank has printed."""
    return [(folder / f"rank-{rank}.txt").read_text() for rank in range(world)]
