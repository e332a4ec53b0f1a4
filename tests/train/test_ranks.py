"""Two processes are one: the same curves, the same weights, and a checkpoint of either goes on in the other; and what
happens when one of them fails. Real processes, which talk through gloo."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from luthier.base.nouns import Tokens
from luthier.tokens.pack import split_by_tokens
from luthier.train.deal import evenly
from luthier.train.ranks import Ranks
from run.disks import mounted
from train import rank_errors
from train.rank_cases import CASES, Curve, curve, lose, main
from train.several import finished, said, start

LOOSE = {"muon": 5e-5, "masked": 5e-5}
"""How near weights are where rounding weighs more: Muon computes in bfloat16, where the last bit of a gradient may move
an update by a hundredth; the gradient of a key's bias (BERT) is 0 but for rounding, which AdamW divides by itself."""
STOPPED = {"full": 4, "extras": 4, "adafactor": 4, "lora": 4, "reward": 4, "ppo": 5}
"""Cases that are also stopped, and before which evaluation: PPO has checkpoints after every second step."""


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """As the ranks have it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder in which two processes ran every case, after one process had been stopped in some of them, and were
    stopped in others themselves."""
    folder = tmp_path_factory.mktemp("two")
    for name, at in STOPPED.items():
        lose(name, folder / "from one" / name, at)
    stopped = folder / "stopped"
    ranks = start(2, stopped, main, stopped, [f"{name}@{at}" for name, at in STOPPED.items()])
    others = start(2, folder, main, folder, ["shards", "refused", *CASES])
    assert finished(ranks) == [0, 0], said(stopped)
    # The same stop goes on in two processes and in one.
    shutil.copytree(stopped, folder / "to two")
    ranks = [rank for at in ("to two", "from one") for rank in start(2, folder / at, main, folder / at, list(STOPPED))]
    assert finished(ranks) == [0] * 4, said(folder / "to two") + said(folder / "from one")
    assert finished(others) == [0, 0], said(folder)
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """Every case in one process, uninterrupted."""
    folder = tmp_path_factory.mktemp("one")
    return {name: curve(name, folder / name) for name in CASES}


def kept(folder, name) -> Curve:
    """What two processes wrote of a case."""
    return Curve(**torch.load(folder / f"{name}.pt", weights_only=True))


def gap(one, other) -> float:
    return float(np.abs(np.array(one) - np.array(other)).max())


def equal(a: Curve, b: Curve, most: float, weights: float | None = None) -> None:
    """Two curves are one, step by step, and so are the weights they came to."""
    assert len(a.loss) == len(b.loss) == 6
    assert gap(a.loss, b.loss) <= most
    assert gap(a.norm, b.norm) <= most * max(1, *a.norm)
    assert a.watched.keys() == b.watched.keys()
    for name in a.watched:
        assert gap(a.watched[name], b.watched[name]) <= most * max(1, np.abs(a.watched[name]).max()), name
    assert a.weights.keys() == b.weights.keys()
    for name in a.weights:
        assert float((a.weights[name] - b.weights[name]).abs().max()) <= (weights or most), name
    assert max(a.loss) - min(a.loss) > 1e-4, "nothing was learned: equality would say nothing"


@pytest.mark.parametrize("name", CASES)
def test_two_processes_have_the_curve_of_one(name, one, two):
    equal(one[name], kept(two, name), 1e-5, LOOSE.get(name))


def test_gradients_of_shards_are_those_of_the_whole(two):
    drift = torch.load(two / "shards.pt", weights_only=True)
    assert len(drift) == 7
    for name, worst in drift.items():
        assert worst <= 2e-6, (name, worst)  # in bfloat16 too: shards are rounded where autocast rounds


def test_an_optimizer_that_cannot_step_shards_is_refused(two):
    assert "adamw8bit" in torch.load(two / "refused.pt", weights_only=True)


@pytest.mark.parametrize("name", STOPPED)
def test_stopped_in_one_process_goes_on_in_two(name, one, two):
    equal(one[name], kept(two / "from one", name), 1e-6)


@pytest.mark.parametrize("name", STOPPED)
def test_stopped_in_two_processes_goes_on_in_two(name, two):
    """On as many ranks a resumed run is the uninterrupted one bit for bit."""
    whole, resumed = kept(two, name), kept(two / "to two", name)
    assert whole.loss == resumed.loss and whole.norm == resumed.norm and whole.watched == resumed.watched
    assert all(torch.equal(w, resumed.weights[n]) for n, w in whole.weights.items())


@pytest.mark.parametrize("name", STOPPED)
def test_stopped_in_two_processes_goes_on_in_one(name, one, two, tmp_path):
    shutil.copytree(two / "stopped" / name, tmp_path / name)
    steps = [p.name for p in (tmp_path / name / "checkpoints").iterdir()]
    assert steps == [f"step-{STOPPED[name] - 1}"]  # no more and no less, and nothing half written
    assert (tmp_path / name / "checkpoints" / steps[0] / "shards" / ".metadata").exists()
    equal(one[name], curve(name, tmp_path / name), 1e-6)


def test_a_disk_that_is_full_on_any_rank_stops_all_with_one_line(tmp_path):
    with mounted(tmp_path / "disk", "size=300k") as disk:
        ranks = start(2, tmp_path, main, disk, ["full"])
        assert finished(ranks) == [1, 1]
        main_said, other_said = said(tmp_path)
        assert main_said.count("could not be written") == 1 and "Free some space" in main_said, main_said
        assert "Traceback" not in main_said and not other_said
        assert not any((disk / "full" / "checkpoints").iterdir())  # what is half written is gone


@given(st.lists(st.integers(1, 40), min_size=1, max_size=14), st.integers(1, 60), st.integers(1, 5))
def test_microbatches_are_cut_so_that_no_rank_waits(lengths, limit, world):
    """As many rounds as the limit alone takes, all rows in order, and the largest microbatch as small as it can be:
    against every way to cut a list."""
    rows = [Tokens(tuple(range(n)), (1.0,) * n, str(n)) for n in lengths]
    plain = split_by_tokens(rows, limit)
    runs = evenly(lambda n: split_by_tokens(rows, n), limit, Ranks(0, world))
    if world == 1:
        assert runs == plain
        return
    rounds = -(-len(plain) // world)
    assert [row for run in runs for row in run] == rows
    assert -(-len(runs) // world) == rounds
    assert largest(runs) <= largest(plain)
    best = least_largest(tuple(lengths), rounds * world)
    assert largest(runs) == best


def largest(runs) -> int:
    return max(sum(len(row.ids) for row in run) for run in runs)


def least_largest(lengths: tuple[int, ...], parts: int) -> int:
    """The least that the largest of at most `parts` runs of a list can be, by trying every sum that a run can have."""
    sums = sorted({sum(lengths[i:j]) for i in range(len(lengths)) for j in range(i + 1, len(lengths) + 1)})

    def needed(most: int) -> int:
        count, size = 1, 0
        for n in lengths:
            count, size = (count, size + n) if size + n <= most else (count + 1, n)
        return count

    return next(s for s in sums if s >= max(lengths) and needed(s) <= parts)


FAILURES = {
    "none": ([0, 0], "done\n", "done\n"),
    "user error on the second": ([2, 2], "recipe.yaml:3: name: wrong.\nrecipe.yaml:4: seed: wrong too.\n", ""),
    "run error on the main": ([1, 1], "the disk is full\n", ""),
    "the same on both": ([2, 2], "recipe.yaml:3: name: wrong.\n", ""),
    "stopped": ([130, 130], "stopped; the same command goes on from the last checkpoint\n", ""),
    "killed": ([1, -9], "another of the 2 processes ended without a word (killed, or out of memory). "
               "The same command goes on from the last checkpoint.\n", ""),
    "other data": ([1, 1], "data.news is not the same on every rank: def on rank 0, abc on rank 1. Use the same "
                   "recipe, data, number of threads and library versions on every machine.\n", ""),
    "a bug on the second": ([1, 1], "rank 1 of 2: ZeroDivisionError: division by zero\n", None),
}  # fmt: skip
"""How a run of two ranks fails: exit codes, and what each rank prints. A bug's traceback is the failing rank's."""


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """Every way to fail, all at once: they only wait."""
    folder = tmp_path_factory.mktemp("failed")
    ranks = {way: start(2, folder / way, rank_errors.main, way) for way in FAILURES}
    return {way: (finished(started), *said(folder / way)) for way, started in ranks.items()}


@pytest.mark.parametrize("way", FAILURES)
def test_an_error_on_any_rank_ends_all_with_one_message(way, failed):
    codes, main_says, second = FAILURES[way]
    found, spoken, whispered = failed[way]
    assert (found, spoken) == (codes, main_says), whispered
    if second is None:
        assert "Traceback" in whispered and "print(1 / 0)" in whispered
    else:
        assert whispered == second
