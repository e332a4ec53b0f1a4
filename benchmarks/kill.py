"""Killed at random moments = never killed: a run's metrics and final weights, byte for byte.

    python benchmarks/kill.py                          the demo, killed 10 times (about three runs of it)
    python benchmarks/kill.py --recipe my.yaml --kills 5
    python benchmarks/kill.py --quick --json           a small world, 3 kills, a minute or two

The recipe is run once without interference. Then it is run again: random moments are drawn over that first run's wall
time, and the second run gets SIGKILL when it has come as far as the first one had by then; the same command goes on
each time. Moments are matched by what the runs tell in their events, not by the clock alone, so that they fall all
over the road although every restart costs seconds and repeats the steps since the last checkpoint.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

Mark = tuple[str, str, int, str]
"""(folder, kind, step, name): what an event is called in every run of the recipe."""


@dataclass(frozen=True)
class Moment:
    """A point on the road: `delay_s` after the mark of this rank was told (-1: after the start), or when the next one
    is told, if that comes first."""

    second: float
    rank: int
    delay_s: float
    place: str


def command(recipe: Path, out: Path) -> list[str]:
    """The command line that is killed and repeated."""
    return [sys.executable, "-m", "luthier", "run", str(recipe), f"out={json.dumps(str(out))}", "--offline"]


def read_marks(run: Path) -> list[tuple[float, Mark]]:
    """All that a run has told so far, with the time of each (seconds since the epoch)."""
    told = []
    for folder in [run, *(path for path in run.glob("[0-9]*") if path.is_dir())]:
        path = folder / "events.jsonl"
        for line in path.read_text().splitlines(keepends=True) if path.exists() else ():
            if line.endswith("\n"):  # the last one may be in the writing
                event = json.loads(line)
                told.append((event["t"], (folder.name, event["kind"], event.get("step", 0), event.get("name", ""))))
    return sorted(told)


def ranks(run: Path) -> dict[Mark, int]:
    """The order in which an undisturbed run tells its marks."""
    return {mark: rank for rank, mark in enumerate(dict.fromkeys(mark for _, mark in read_marks(run)))}


def whole_run(recipe: Path, out: Path) -> float:
    """Runs without interference; its wall time in seconds."""
    began = time.time()
    ended = subprocess.run(command(recipe, out), capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise SystemExit(f"the undisturbed run failed (exit code {ended.returncode}):\n{ended.stderr}")
    return time.time() - began


def draw_moments(run: Path, began: float, seconds: float, kills: int, seed: int) -> Iterator[Moment]:
    """`kills` moments, uniform over the undisturbed run's wall time, in order."""
    told, order, drawn = read_marks(run), ranks(run), random.Random(seed)
    for second in sorted(drawn.uniform(0, seconds) for _ in range(kills)):
        before = [(at, mark) for at, mark in told if at <= began + second]
        at, mark = before[-1] if before else (began, None)
        place = "loading" if mark is None else f"{mark[0]} {mark[1]} {mark[2]}"
        yield Moment(second, -1 if mark is None else order[mark], began + second - at, place)


def kill_at(recipe: Path, out: Path, run: Path, moment: Moment, order: dict[Mark, int], log: Path) -> dict[str, Any]:
    """Starts, or goes on with, the run and kills it at a moment. What sessions before have told does not count: the
    run must get there itself."""
    began, clock = time.time(), time.monotonic()
    with open(log, "a") as file:
        child = subprocess.Popen(command(recipe, out), stdout=file, stderr=file)
    reached = clock if moment.rank < 0 else None
    while child.poll() is None:
        so_far = max((order.get(mark, -1) for at, mark in read_marks(run) if at >= began), default=-1)
        if reached is None and so_far >= moment.rank:
            reached = time.monotonic()
        if so_far > moment.rank or (reached is not None and time.monotonic() - reached >= moment.delay_s):
            child.send_signal(signal.SIGKILL)
            break
        time.sleep(0.01)
    code = child.wait()
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"a session failed by itself (exit code {code}): see {log}")
    session_s = round(time.monotonic() - clock, 2)
    return {"second": round(moment.second, 2), "place": moment.place, "killed": code != 0, "session_s": session_s}


def outcome(run: Path) -> dict[str, str]:
    """Digests of what must be equal: the metrics block, and every stage's weights and preference pairs."""
    found = {"metrics": hashlib.sha256(json.dumps(read(run / "report.json")["metrics"]).encode()).hexdigest()}
    for folder in read(run / "current.json")["stages"]:
        files = [p for p in (run / folder).rglob("*") if p.name.endswith((".safetensors", "pairs.jsonl"))]
        for path in sorted(files):
            found[str(path.relative_to(run))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def read(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text())


def recipe_of(options: argparse.Namespace, folder: Path) -> Path:
    """The recipe asked for; the small world's with --quick; else the demo's."""
    if options.recipe is not None:
        return options.recipe.resolve()
    if options.quick:
        from run.small import small_world

        return small_world(folder / "world")
    from luthier.world.make import write_world

    (folder / "world").mkdir()
    write_world(folder / "world", options.seed)
    return folder / "world" / "recipe.yaml"


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both runs, and what differs between them."""
    recipe = recipe_of(options, folder)
    began = time.time()
    seconds = whole_run(recipe, folder / "whole")
    (whole,) = (folder / "whole").iterdir()
    run = folder / "killed" / whole.name
    print(f"undisturbed: {seconds:.1f} s; now killed {options.kills} times", flush=True)
    kills, order = [], ranks(whole)
    for moment in draw_moments(whole, began, seconds, options.kills, options.seed):
        kills.append(kill_at(recipe, folder / "killed", run, moment, order, folder / "killed.log"))
        said = "killed" if kills[-1]["killed"] else "was done already"
        print(f"  at {kills[-1]['second']:7.2f} s  {kills[-1]['place']:<40} {said}", flush=True)
    last = whole_run(recipe, folder / "killed")
    expected, found = outcome(whole), outcome(run)
    different = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
    return {
        "recipe": recipe.name if options.recipe else "small world" if options.quick else "demo",
        "undisturbed_s": round(seconds, 1),
        "sessions_s": round(sum(kill["session_s"] for kill in kills) + last, 1),
        "kills": sum(kill["killed"] for kill in kills),
        "moments": kills,
        "compared": len(expected),
        "different": different,
    }


def main() -> None:
    """Prints a table; with --json, the figures as the last line. Exit code 1 when anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small world instead of the demo")
    parser.add_argument("--json", action="store_true", help="a last line for programs")
    parser.add_argument("--kills", type=int, help="default: 10, or 3 with --quick")
    parser.add_argument("--recipe", type=Path, help="another recipe than the demo's")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments, and of the demo's world")
    parser.add_argument("--keep", type=Path, help="a folder for both runs; default: a temporary one")
    options = parser.parse_args()
    options.kills = options.kills or (3 if options.quick else 10)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        figures = measure(options, folder)
    print(f"{figures['compared']} things compared: the metrics block, and all weights and pairs of every stage")
    for key in figures["different"]:
        print(f"  DIFFERS  {key}")
    holds = not figures["different"] and figures["kills"] > 0
    print(f"bit-identical: {'yes' if holds else 'NO'}, after {figures['kills']} kills")
    if options.json:
        bars = {"different": 0, "kills": options.kills}
        print(json.dumps({"name": "kill", "figures": figures, "bars": bars, "holds": holds}))
    raise SystemExit(0 if holds else 1)


if __name__ == "__main__":
    main()
