"""Checkpoints: whole or absent, the last and the best are kept.

A checkpoint is a Hugging Face (or PEFT) folder plus `optimizer.pt` and `state.json`; resume is those and one integer.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from luthier.base.errors import RunError
from luthier.base.files import new_folder, read_json, write_json


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
    """Owns one stage's `checkpoints/` folder."""

    def __init__(self, folder: Path, weights: Weights, states: dict[str, Stateful]) -> None:
        self.folder, self.weights, self.states = folder, weights, states

    def save(self, step: int, facts: dict[str, Any]) -> Path:
        """Writes `step-<step>` atomically, then removes what is neither the last nor the best.
        `facts` are JSON; `facts["best_step"]` names the best checkpoint so far, if any."""
        path = self.folder / f"step-{step}"
        with new_folder(path) as folder:
            self.weights.save(folder)
            try:
                torch.save({name: s.state_dict() for name, s in self.states.items()}, folder / "optimizer.pt")
            except RuntimeError as error:  # torch's writer hides the system's error
                raise RunError(
                    f"{path}: could not be written ({str(error).splitlines()[0]}). Free some space or choose another "
                    "`out`, then run the same command again: finished stages are kept."
                ) from error
            write_json(folder / "state.json", {"step": step, **facts})
        for other in self.steps():
            if other not in (step, facts.get("best_step")):
                shutil.rmtree(self.folder / f"step-{other}")
        return path

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints on disk, in order."""
        if not self.folder.is_dir():
            return []
        return sorted(int(p.name.removeprefix("step-")) for p in self.folder.glob("step-*"))

    def restore(self) -> dict[str, Any] | None:
        """Loads the last checkpoint into the live objects and returns its facts; None when there is none."""
        if not self.steps():
            return None
        path = self.folder / f"step-{self.steps()[-1]}"
        self.weights.restore(path)
        saved = torch.load(path / "optimizer.pt", weights_only=True)
        for name, stateful in self.states.items():
            stateful.load_state_dict(saved[name])
        return read_json(path / "state.json")

    def clear(self) -> None:
        """Removes all: the stage's final model stands."""
        shutil.rmtree(self.folder, ignore_errors=True)
