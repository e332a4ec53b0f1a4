"""A run in two processes that fails in one way. See test_ranks.py."""

from __future__ import annotations

import os
import signal

from luthier.base.errors import RunError, UserError
from luthier.train.ranks import Ranks, joined


def fail(way: str, ranks: Ranks) -> None:
    """The rank that fails does it while the other waits for it, except where both do."""
    second = ranks.rank == 1
    if way == "user error on the second" and second:
        raise UserError(["recipe.yaml:3: name: wrong.", "recipe.yaml:4: seed: wrong too."])
    if way == "run error on the main" and not second:
        raise RunError("the disk is full")
    if way == "the same on both":
        raise UserError("recipe.yaml:3: name: wrong.")
    if way == "a bug on the second" and second:
        print(1 / 0)
    if way == "killed" and second:
        os.kill(os.getpid(), signal.SIGKILL)
    if way == "stopped" and second:
        raise KeyboardInterrupt
    if way == "other data":
        ranks.agree("data.news", "abc" if second else "def")
    if way == "none":
        agree(ranks)
    ranks.meet()


def agree(ranks: Ranks) -> None:
    """What the ranks tell each other."""
    assert ranks.sums([1.5, float(ranks.rank)]) == [1.5 * ranks.world, sum(range(ranks.world))]
    assert ranks.told(f"by {ranks.rank}") == "by 0"
    assert ranks.gathered(ranks.rank) == list(range(ranks.world))
    shares = ranks.gathered(list(ranks.share(7)))
    assert [i for share in shares for i in share] == list(range(7))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    done: list[int] = []
    ranks.once(lambda: done.append(1))
    assert ranks.gathered(len(done)) == [1] + [0] * (ranks.world - 1)
    ranks.agree("all", "the same")


def main(way: str) -> None:
    """One rank of that run."""
    with joined() as ranks:
        fail(way, ranks)
    print("done")
