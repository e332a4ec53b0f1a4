"""Checkpoints: whole or absent, the last and the best kept, restored exactly; and files on disks that are full."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from luthier.base.errors import RunError
from luthier.base.events import EventLog, read_events
from luthier.base.files import new_folder, write_json, write_text
from luthier.base.recipe import Pretrain
from luthier.base.seeds import seed_for
from luthier.train.checkpoint import Checkpoints, Weights
from luthier.train.loop import Job, Loss, fit
from luthier.train.optim import optimizers
from luthier.train.rollout import Steering
from luthier.train.sources import Micro, Packed, Pool
from run.disks import fill, mounted, read_only
from train.rows import draw

HOW = Pretrain(kind="pretrain", data="x", learning_rate=1e-2, optimizer="muon")


class Toy:
    """A linear model with dropout, two optimizers, a value head, PPO's steering: everything a checkpoint holds."""

    def __init__(self, folder, seed=0) -> None:
        torch.manual_seed(seed)
        self.module = nn.Sequential(nn.Dropout(0.3), nn.Linear(6, 3))
        self.value, self.steering = nn.Linear(3, 1, bias=False), Steering(0.05)
        self.parameters = {"layers.0": self.module[1].weight, "bias": self.module[1].bias, "value": self.value.weight}
        self.optimizers = optimizers(self.parameters, HOW)
        self.states = {**self.optimizers, "value": self.value, "steering": self.steering}
        self.checkpoints = Checkpoints(folder / "checkpoints", Weights(self.save, self.restore), self.states)

    def save(self, path) -> None:
        save_file(self.module.state_dict(), path / "model.safetensors")

    def restore(self, path) -> None:
        self.module.load_state_dict(load_file(path / "model.safetensors"))

    def step(self, k: int) -> None:
        """Something that changes all of it."""
        torch.manual_seed(k)
        loss = self.value(self.module(torch.randn(4, 6))).square().sum()
        loss.backward()
        for optimizer in self.optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
        self.steering.see(torch.randn(5))
        self.steering.kl *= 1.01

    def everything(self) -> dict:
        """A copy of all state, moments of the optimizer included."""
        return copy.deepcopy(
            {"module": self.module.state_dict(), **{name: s.state_dict() for name, s in self.states.items()}}
        )


def equal(a, b) -> bool:
    """Bit for bit, through dicts, lists and tensors."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def test_optimizers_head_and_steering_come_back_exactly(tmp_path):
    one = Toy(tmp_path)
    for k in range(5):
        one.step(k)
    one.checkpoints.save(5, {"best": 0.1, "best_step": None, "tokens": 70, "seconds": 1.5})
    kept = one.everything()
    other = Toy(tmp_path, seed=9)
    assert not equal(other.everything(), kept)
    assert other.checkpoints.restore() == {"step": 5, "best": 0.1, "best_step": None, "tokens": 70, "seconds": 1.5}
    assert equal(other.everything(), kept)
    assert other.steering.count == 25 and other.steering.kl == pytest.approx(0.05 * 1.01**5)
    for k in range(5, 9):  # and they go on alike: the moments are there, not only the weights
        one.step(k)
        other.step(k)
    assert equal(one.everything(), other.everything())


def test_nothing_to_restore(tmp_path):
    toy = Toy(tmp_path)
    before = toy.everything()
    assert toy.checkpoints.restore() is None and toy.checkpoints.steps() == []
    assert equal(toy.everything(), before)


def test_the_last_and_the_best_are_kept(tmp_path):
    toy = Toy(tmp_path)
    best = {1: 1, 2: 1, 4: 4, 6: 4, 9: 4, 12: 12}
    kept = []
    for step, best_step in best.items():
        toy.checkpoints.save(step, {"best_step": best_step})
        kept.append(toy.checkpoints.steps())
    assert kept == [[1], [1, 2], [4], [4, 6], [4, 9], [12]]
    toy.checkpoints.clear()
    assert toy.checkpoints.steps() == [] and not (tmp_path / "checkpoints").exists()


def test_fit_keeps_the_best_by_what_it_measures(tmp_path):
    """Held-out values 5, 4, 3 and then 6: the best is step 2, the last is step 8."""
    toy, rows = Toy(tmp_path), draw(60)
    measured = {0: 5.0, 1: 4.0, 2: 3.0}
    source = Packed([Pool(rows, 160, "x")], 3, 100_000, None, 8)
    how = HOW.model_copy(update={"evaluate_every_steps": 1, "checkpoint_every_steps": 3})

    def loss(micro: Micro) -> Loss:
        return Loss(toy.value(toy.module(torch.ones(1, 6))).square().sum(), {})

    log = EventLog(tmp_path / "events.jsonl")
    evaluate = lambda step: measured.get(step, 6.0)  # noqa: E731
    job = Job(
        toy.module, list(toy.parameters.values()), toy.optimizers, source, loss, evaluate, how, toy.checkpoints, log, 7,
        torch.device("cpu"),
    )  # fmt: skip
    used = fit(job)
    assert toy.checkpoints.steps() == [2, 8]
    state = json.loads((tmp_path / "checkpoints" / "step-8" / "state.json").read_text())
    assert (state["best"], state["best_step"], state["step"]) == (3.0, 2, 8)
    assert state["tokens"] == used.tokens == sum(source.at(k).tokens for k in range(8))


def test_a_kill_while_saving_leaves_the_checkpoint_before(tmp_path):
    """What a kill leaves is a hidden folder; it is never taken for a checkpoint, and the next save goes well."""
    toy = Toy(tmp_path)
    toy.checkpoints.save(3, {"best_step": None})
    kept = toy.everything()
    half = tmp_path / "checkpoints" / ".step-6.4711.tmp"
    half.mkdir()
    (half / "state.json").write_text('{"step": 6}')
    toy.step(0)
    assert toy.checkpoints.steps() == [3]
    assert toy.checkpoints.restore() == {"step": 3, "best_step": None}
    assert equal(toy.everything(), kept)
    toy.checkpoints.save(6, {"best_step": None})
    assert toy.checkpoints.steps() == [6]


def test_a_failure_while_saving_leaves_the_checkpoint_before(tmp_path):
    toy = Toy(tmp_path)
    toy.checkpoints.save(3, {"best_step": None})
    failing = Checkpoints(tmp_path / "checkpoints", Weights(lambda path: 1 / 0, toy.restore), toy.states)
    with pytest.raises(ZeroDivisionError):
        failing.save(6, {"best_step": None})
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-3"]


def test_saving_the_same_step_again_replaces_it(tmp_path):
    toy = Toy(tmp_path)
    toy.checkpoints.save(3, {"best_step": None})
    toy.step(0)
    toy.checkpoints.save(3, {"best_step": 3})
    kept = toy.everything()
    toy.step(1)
    assert toy.checkpoints.restore() == {"step": 3, "best_step": 3}
    assert equal(toy.everything(), kept)


# Room for nothing; for a part of the weights; for them, and not for the optimizers.
@pytest.mark.parametrize("leave", [0, 9_000, 20_500], ids=lambda n: f"{n} bytes left")
def test_a_full_disk_stops_with_one_line_and_keeps_what_was_made(leave, tmp_path):
    with mounted(tmp_path / "disk", "size=160k") as disk:
        toy = Toy(disk)
        toy.module.register_buffer("large", torch.zeros(4_000))
        toy.checkpoints.save(3, {"best_step": None})
        kept = toy.everything()
        ballast = fill(disk, leave)
        toy.step(0)
        with pytest.raises(RunError) as stop:
            toy.checkpoints.save(6, {"best_step": None})
        assert "\n" not in str(stop.value) and str(disk) in str(stop.value)
        assert "Free some space" in str(stop.value) and "run the same command again" in str(stop.value)
        assert [p.name for p in (disk / "checkpoints").iterdir()] == ["step-3"]
        toy.checkpoints.restore()
        assert equal(toy.everything(), kept)
        ballast.unlink()
        toy.checkpoints.save(6, {"best_step": None})
        assert toy.checkpoints.steps() == [6]


def test_a_read_only_disk_stops_with_one_line(tmp_path):
    with mounted(tmp_path / "disk", "size=160k") as disk:
        toy = Toy(disk)
        toy.checkpoints.save(3, {"best_step": None})
        with read_only(disk), pytest.raises(RunError, match=r"Read-only file system.*another `out`"):
            toy.checkpoints.save(6, {"best_step": None})
        assert toy.checkpoints.restore() == {"step": 3, "best_step": None}


def test_libraries_that_hide_the_system_error_are_understood(tmp_path):
    """safetensors and tokenizers are written in Rust and tell a full disk in an exception of their own."""
    with mounted(tmp_path / "disk", "size=64k") as disk:
        with (
            pytest.raises(RunError, match="No space left on device") as stop,
            new_folder(disk / "model") as folder,
        ):
            save_file({"weight": torch.zeros(50_000)}, folder / "model.safetensors")
        assert "\n" not in str(stop.value)
        assert list(disk.iterdir()) == []


def test_a_file_is_whole_or_as_it_was(tmp_path):
    with mounted(tmp_path / "disk", "size=64k") as disk:
        write_text(disk / "a.json", "before")
        with pytest.raises(RunError, match="No space left on device"):
            write_text(disk / "a.json", "x" * 100_000)
        assert (disk / "a.json").read_text() == "before"
        assert [p.name for p in disk.iterdir()] == ["a.json"]


def test_a_path_under_a_file_is_told_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for write in (
        lambda path: write_json(path, {}),
        lambda path: EventLog(path),
        lambda path: Checkpoints(path, Weights(lambda p: None, lambda p: None), {}).save(1, {}),
    ):
        with pytest.raises(RunError, match=r"Not a directory|File exists") as stop:
            write(tmp_path / "file" / "inside")
        assert "\n" not in str(stop.value)


@given(st.lists(st.integers(0, 20), max_size=12), st.integers(-1, 20), st.text(max_size=20))
def test_events_survive_a_torn_last_line(tmp_path_factory, steps, rewound, torn):
    """A crash or a full disk cuts the last line anywhere; what follows starts a line of its own, and going back to a
    step forgets the later ones."""
    path = tmp_path_factory.mktemp("events") / "events.jsonl"
    log = EventLog(path)
    log.emit("begin", stage="x")
    for step in steps:
        log.emit("step", step=step)
    log.close()
    with open(path, "a") as file:
        file.write('{"kind": "step", "text": ' + json.dumps(torn))
    log = EventLog(path)
    log.rewind(rewound)
    log.emit("note", text=torn)
    log.close()
    told = list(read_events(path))
    assert [e["kind"] for e in told] == ["begin", *("step" for s in steps if s <= rewound), "note"]
    assert [e["step"] for e in told if "step" in e] == [s for s in steps if s <= rewound]
    assert told[-1]["text"] == torn


def test_seeds_are_functions_of_seed_purpose_and_counter():
    """Resume depends on it: no seed is drawn from what ran before, and no two uses share one."""
    seeds = [seed_for(s, purpose, k) for s in (0, 1, 7) for purpose in ("dropout", "rollout") for k in range(50)]
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**63 for seed in seeds)
    assert seed_for(0, "weights") == seed_for(0, "weights", 0) == 378771459246839167


def test_another_stages_checkpoint_is_refused_and_stays(tmp_path):
    toy = Toy(tmp_path)
    toy.checkpoints.mark = "this recipe, this data"
    toy.step(1)
    toy.checkpoints.save(4, {"tokens": 7})
    assert toy.checkpoints.restore() == {"step": 4, "tokens": 7}
    toy.checkpoints.mark, before = "this recipe, other data", toy.everything()
    with pytest.raises(RunError, match="step-4: this checkpoint is of another recipe, or of other data"):
        toy.checkpoints.restore()
    assert equal(toy.everything(), before) and toy.checkpoints.steps() == [4]
