"""A stage is a memo: same hash, same folder, not run again.

The hash covers what decides the result: the stage's resolved settings, its inputs' hashes, the seed, the library
versions and luthier's own code.
"""

from __future__ import annotations

import platform
import shutil
import time
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import luthier
from luthier.base.errors import UserError
from luthier.base.events import EventLog, Watcher, read_events
from luthier.base.files import disk_errors, hash_of, hash_path, only_reads, read_json, write_json
from luthier.train.memory import peak_bytes, reset_peak

LIBRARIES = ("torch", "transformers", "tokenizers", "peft", "numpy", "safetensors")

READERS = (
    *("cli.py", "console.py", "doctor.py", "verbs/*", "evals/forecast.py"),
    *("run/story.py", "run/verdict.py", "run/report*.py", "run/*_page.py", "run/added.py", "run/trackers.py"),
    *("run/pictures.py", "run/drawing.py", "run/*_picture.py", "run/tradeoff.py", "run/asked.py", "run/*ask_*.py"),
    *(f"run/against/{name}.py" for name in ("compare", "methods", "sweep", "versus*", "measures", "arena", "*_words")),
)
"""Files that decide no stage's result: they write recipes, remember replies, or read what a run has told."""


def extras(settings: dict[str, Any]) -> dict[str, str]:
    """Versions of the optional libraries that a stage's settings ask for, where they are installed."""
    asked = settings.get("quantize") is not None or settings.get("optimizer") == "adamw8bit"
    return {"bitsandbytes": version("bitsandbytes")} if asked and find_spec("bitsandbytes") else {}


@cache
def versions() -> dict[str, str]:
    """What the result depends on besides the recipe."""
    return {
        "luthier": luthier.__version__,
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }


@cache
def decides(file: str) -> bool:
    """Whether a file of luthier (its path below the package) may decide a stage's result."""
    return not any(fnmatch(file, reader) for reader in READERS)


def code_hash() -> str:
    """Hash of luthier's Python files: an edited rule must not meet a stale result."""
    root = Path(luthier.__file__).parent
    files = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*.py"))}
    return hash_of({name: hash_path(path) for name, path in files.items() if decides(name)})


def hardware(device: str) -> dict[str, Any]:
    """The machine, in words and numbers."""
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    return {"cpu": cpu, "threads": torch.get_num_threads(), "gpu": gpu, "device": device, "system": platform.system()}


@dataclass
class StageFolder:
    """One stage's folder: its record while it runs and after. Owns the event log."""

    path: Path
    name: str
    kind: str
    hash: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    device: str
    watchers: tuple[Watcher, ...]
    seconds_before: float = 0.0
    """What earlier sessions have taken."""

    @property
    def record(self) -> dict[str, Any]:
        """stage.json as it stands; an empty record before there is one."""
        file = self.path / "stage.json"
        return read_json(file) if file.exists() else {}

    @property
    def done(self) -> bool:
        """Whether this stage has been finished with this hash."""
        return bool(self.record.get("done"))

    def tidy(self) -> None:
        """Removes what a kill left behind: half-written files, and the checkpoints of a stage that is done."""
        if only_reads():
            return
        for left in list(self.path.rglob(".*.tmp")):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        if self.done:
            shutil.rmtree(self.path / "checkpoints", ignore_errors=True)

    def open(self) -> EventLog:
        """Begins, or goes on with, the stage."""
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        reset_peak(self.device)
        self.began = time.monotonic()
        before = self.record
        anew = self.changed() if not before else ""
        self.seconds_before = float(before.get("seconds", 0.0)) + cut_off_s(self.path / "events.jsonl")
        self.peak_before = int(before.get("peak_bytes", 0))
        self.log = EventLog(self.path / "events.jsonl", self.watchers)
        self.write(done=False)
        if anew:
            self.log.emit("note", text=anew)
        return self.log

    def changed(self) -> str:
        """Why a stage that was made, or begun, before is made anew, and where the other stays; empty where there is no
        other."""
        known = [p for p in self.path.parent.glob(f"*-{self.name}-*/stage.json") if p.parent != self.path]
        others = [p for p in known if (found := read_json(p))["name"] == self.name and found["kind"] == self.kind]
        if not others:
            return ""
        last = max(others, key=lambda p: p.stat().st_mtime)
        old = read_json(last)
        ours = {"settings": self.settings, "inputs": self.inputs, "versions": versions() | extras(self.settings)}
        differ = [key for part, new in ours.items() for key in new | old[part] if new.get(key) != old[part].get(key)]
        differ += ["luthier's code"] * (old["code"] != code_hash()) + ["device"] * (
            old["hardware"]["device"] != self.device
        )
        what = ", ".join(differ) or "seed or threads"
        stays = "is finished" if old["done"] else "was not finished, and keeps its checkpoints"
        return f"{self.name} is made anew: not the {what} of {last.parent.name}, which {stays}"

    def write(self, done: bool, **facts: Any) -> dict[str, Any]:
        """Writes stage.json. Seconds and peak are over all sessions of the stage."""
        record = {
            "name": self.name,
            "kind": self.kind,
            "hash": self.hash,
            "done": done,
            "settings": self.settings,
            "inputs": self.inputs,
            "versions": versions() | extras(self.settings),
            "code": code_hash(),
            "hardware": hardware(self.device),
            "seconds": round(self.seconds_before + time.monotonic() - self.began, 3),
            "peak_bytes": max(self.peak_before, peak_bytes(self.device)),
            **facts,
        }
        write_json(self.path / "stage.json", record)
        return record

    def close(self, **facts: Any) -> dict[str, Any]:
        """The stage is done."""
        record = self.write(done=True, **facts)
        self.log.emit("end", seconds=record["seconds"], peak_bytes=record["peak_bytes"])
        self.log.close()
        return record


def cut_off_s(events: Path) -> float:
    """How long the last session was, of a stage that was not finished: from its beginning to the last it told."""
    began = told = 0.0
    for event in read_events(events):
        began, told = event["t"] if event["kind"] == "begin" else began, event["t"]
    return told - began


def stage_folder(
    run: Path,
    index: int,
    name: str,
    kind: str,
    settings: dict[str, Any],
    inputs: dict[str, str],
    seed: int,
    device: str,
    threads: int,
    watchers: tuple[Watcher, ...],
) -> StageFolder:
    """The folder that these settings and inputs lead to, whether it exists or not, and however many processes share
    the work."""
    digest = hash_of(
        {
            "kind": kind,
            "settings": settings,
            "inputs": inputs,
            "seed": seed,
            "device": device,
            "threads": threads,
            "versions": versions() | extras(settings),
            "code": code_hash(),
        }
    )
    place = f"{name}-{digest[:8]}"  # a stage keeps its folder when others come or go before it
    moved = [path.name for path in run.glob("*-*") if path.name.partition("-")[2] == place]
    path = run / (moved[0] if moved else f"{index}-{place}")
    return StageFolder(path, name, kind, digest, settings, inputs, device, watchers)


def find_stage(run: Path, wanted: str | None) -> tuple[Path, dict[str, Any]]:
    """The folder and record of a finished stage with a language model: the one named, or the last.
    Raises UserError when the run or the stage is not there."""
    report = run / "current.json"
    if not report.exists():
        raise UserError(f"{run}: no run here. Give the folder that `luthier run` printed, such as runs/demo.")
    found = []
    for folder in read_json(report)["stages"]:
        file = run / folder / "stage.json"
        record = read_json(file) if file.exists() else {}
        if record.get("done") and (run / folder / "model").is_dir() and record["kind"] != "reward":
            found.append((run / folder, record))
    if wanted is not None:
        found = [(path, record) for path, record in found if record["name"] == wanted]
    if not found:
        which = f"stage {wanted!r} has no finished model" if wanted else "no stage has finished a model yet"
        raise UserError(f"{run}: {which}. Run its recipe to the end first.")
    return found[-1]
