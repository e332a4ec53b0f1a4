"""Checkpoints: whole or absent, the last and the best are kept.

A checkpoint is a Hugging Face (or PEFT) folder plus `optimizer.pt` and `state.json`; resume is those and one integer.
Where the weights lie in shards, each rank writes its own (train/sharded.py). Either resumes on any number of ranks.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from luthier.base.errors import RunError
from luthier.base.files import new_folder, only_reads, read_json, write_json
from luthier.train.ranks import here
from luthier.train.sharded import empty, mesh_of, put_together, read_shards, taken_apart, write_shards

IN_SHARDS = "states.pt"
"""What only a checkpoint in shards has."""


class Stateful(Protocol):
    """Anything with a state that must survive: a value head, a running variance, a KL coefficient."""

    def state_dict(self) -> dict[str, Any]:
        """Its state, as torch can save it."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Puts a saved state back."""
        ...


@dataclass(frozen=True)
class Weights:
    """How a stage's weights go to a folder and come back into the same objects."""

    save: Callable[[Path], None]
    restore: Callable[[Path], None]
    numbers: int | None = None
    """How many numbers a folder holds; None: as many as the model."""


class Checkpoints:
    """Owns one stage's `checkpoints/` folder. `trained` are the parameters that a step changes, by name: what a
    checkpoint in shards holds of the weights; `mark` is the fingerprint of the stage, which no other has. In a run of
    several ranks all methods are called by every rank."""

    def __init__(
        self,
        folder: Path,
        weights: Weights,
        states: dict[str, Stateful],
        trained: Mapping[str, Tensor] | None = None,
        mark: str | None = None,
    ) -> None:
        self.folder, self.weights, self.states, self.mark = folder, weights, states, mark
        self.trained: Mapping[str, Tensor] = trained or {}

    def save(self, step: int, facts: dict[str, Any], keep: Collection[int] = ()) -> Path:
        """Writes `step-<step>` atomically, then removes what is neither the last nor the best, nor among the steps to
        `keep`. `facts` are JSON; `facts["best_step"]` names the best checkpoint so far, if any."""
        path, ranks = self.folder / f"step-{step}", here()
        facts = {**facts, "stage": self.mark}
        states = {name: s.state_dict() for name, s in self.states.items()}
        if mesh_of(self.trained) is not None:
            self.save_shards(path, states, {"step": step, **facts})
        elif ranks.is_main:
            with new_folder(path) as folder:
                self.weights.save(folder)
                save_tensors(states, folder / "optimizer.pt", path)
                write_json(folder / "state.json", {"step": step, **facts})
        for other in self.steps() if ranks.is_main else ():
            if other not in (step, facts.get("best_step"), *keep):
                shutil.rmtree(self.folder / f"step-{other}")
        ranks.meet()
        return path

    def save_shards(self, path: Path, states: dict[str, Any], state: dict[str, Any]) -> None:
        """Each rank its own part of what lies in shards, the main one the rest."""
        ranks = here()
        weights = {name: p.detach() for name, p in self.trained.items()}
        rest, pieces = taken_apart({"weights": weights, "states": states})
        with ExitStack() as stack:
            mine = stack.enter_context(new_folder(path)) if ranks.is_main else path
            folder = Path(ranks.told(str(mine)))
            write_shards(pieces, folder / "shards")
            if ranks.is_main:
                save_tensors(rest, folder / IN_SHARDS, path)
                write_json(folder / "state.json", state)

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints on disk, in order."""
        if not self.folder.is_dir():
            return []
        return sorted(int(p.name.removeprefix("step-")) for p in self.folder.glob("step-*"))

    def facts(self) -> dict[int, dict[str, Any]]:
        """What the checkpoints on disk know, by step."""
        return {step: read_json(self.folder / f"step-{step}" / "state.json") for step in self.steps()}

    def forget_after(self, step: int) -> None:
        """Removes the checkpoints of later steps: the run is about to live them otherwise."""
        for other in self.steps():
            if other > step:
                shutil.rmtree(self.folder / f"step-{other}")

    def restore(self, step: int | None = None) -> dict[str, Any] | None:
        """Loads a checkpoint (default: the last) into the live objects and returns its facts; None when there is
        none. Raises RunError where it is another stage's: of another recipe, or of other data."""
        path = self.last() if step is None else self.folder / f"step-{step}"
        if path is None:
            return None
        facts = read_json(path / "state.json")
        if facts.pop("stage", self.mark) != self.mark:
            raise RunError(
                f"{path}: this checkpoint is of another recipe, or of other data. Take it away, or run the recipe that "
                "it was made by; nothing was changed."
            )
        if self.in_shards(path):
            saved = self.read_shards(path)
        else:
            self.weights.restore(path)
            saved = torch.load(path / "optimizer.pt", weights_only=True)
        for name, stateful in self.states.items():
            stateful.load_state_dict(saved[name])
        return facts

    def last(self) -> Path | None:
        """The last checkpoint, as the main rank sees it."""
        steps = here().told(self.steps())
        return self.folder / f"step-{steps[-1]}" if steps else None

    def in_shards(self, path: Path) -> bool:
        """Whether each rank wrote its own part of the checkpoint."""
        return (path / IN_SHARDS).exists()

    def read_shards(self, path: Path) -> dict[str, Any]:
        """Puts the weights of a checkpoint in shards into the live ones, whole or in shards as they are; returns the
        states likewise."""
        rest = torch.load(path / IN_SHARDS, weights_only=True)
        mesh = mesh_of(self.trained)
        pieces: dict[str, Tensor] = {}
        states = put_together(rest["states"], lambda note: empty(note, mesh), pieces)
        for name, parameter in self.trained.items():
            kept = rest["weights"][name]
            if isinstance(kept, Tensor):  # every rank held it whole
                parameter.data.copy_(kept)
            else:
                pieces[f"/weights/{name}"] = parameter.detach()
        read_shards(pieces, path / "shards", alone=mesh is None)
        return states

    def clear(self) -> None:
        """Removes all: the stage's final model stands."""
        if not only_reads():
            shutil.rmtree(self.folder, ignore_errors=True)


def save_tensors(tree: Any, file: Path, path: Path) -> None:
    """A tree of tensors as one file of the checkpoint `path`. Raises RunError where there is no room for it."""
    try:
        torch.save(tree, file)
    except RuntimeError as error:  # torch's writer hides the system's error
        raise RunError(
            f"{path}: could not be written ({str(error).splitlines()[0]}). Free some space or choose another "
            "`out`, then run the same command again: finished stages are kept."
        ) from error
