"""Trackers: TensorBoard, Weights & Biases, Trackio and MLflow as readers of what a run tells.

The run's own files come first. Each tracker works in a thread of its own, behind a queue, so that one that is slow
or down holds nothing up; it says once what failed, and at the end how many figures it did not get. What a tracker has
been given stands in `trackers/<tracker>-<id>.jsonl` of the run's folder: a run that goes on, or is replayed, gives no
figure twice, and what a tracker missed is given at the end, from `events.jsonl`.
"""

from __future__ import annotations

import json
import math
import netrc
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

from luthier.base.errors import UserError, did_you_mean
from luthier.base.events import Event, EventLog, Watcher, read_events
from luthier.base.files import hash_of, read_json
from luthier.run.context import Context
from luthier.run.words import PLUMBING
from luthier.train.ranks import here

NEEDS = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio", "mlflow": "mlflow"}
"""The package behind each tracker; the extra has the tracker's name."""
PATIENCE_S = 120.0
"""Longest wait for a tracker at the end of a run."""


class RunInfo(NamedTuple):
    """What a tracker is told of a run before its figures."""

    name: str
    folder: Path
    id: str
    """Of this run with these settings: the same when it goes on, another when the recipe has changed."""
    settings: dict[str, Any]


class Tracker(NamedTuple):
    """A tracker at work."""

    log: Callable[[str, int, Mapping[str, float]], None]
    """(stage, step, figures)."""
    finish: Callable[[Mapping[str, float]], None]
    """Takes the run's final figures (none of a run that was stopped), and ends."""


class Entry(NamedTuple):
    """Some figures of one step of a stage."""

    folder: str
    """The stage's folder: its hash tells a stage from the same one with other settings."""
    stage: str
    step: int
    figures: dict[str, float]

    @property
    def key(self) -> str:
        """What tells this entry from all others."""
        return json.dumps([self.folder, self.step, sorted(self.figures)])


def open_tensorboard(run: RunInfo) -> Tracker:
    """Event files in `trackers/tensorboard/<id>` of the run's folder: `tensorboard --logdir runs` finds them."""
    from tensorboardX import SummaryWriter

    folder = run.folder / "trackers" / "tensorboard" / run.id
    # Its files are named by the second: a run that goes on within one would write over the file it began.
    writer = SummaryWriter(logdir=str(folder), filename_suffix=f".{len(list(folder.glob('events.*'))):04d}")
    writer.add_text("settings", f"```\n{json.dumps(run.settings, indent=2)}\n```", 0)

    def log(stage: str, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            writer.add_scalar(f"{stage}/{name}", value, step)

    def finish(final: Mapping[str, float]) -> None:
        log("final", 0, final)
        writer.close()

    return Tracker(log, finish)


def open_wandb(run: RunInfo) -> Tracker:
    """A run of project `luthier`; offline, in `trackers/wandb` of the run's folder, where nobody is logged in or
    WANDB_MODE says so. `wandb sync` sends it later."""
    import wandb

    place = run.folder / "trackers"
    place.mkdir(parents=True, exist_ok=True)
    known = "WANDB_MODE" in os.environ or "WANDB_API_KEY" in os.environ or logged_in("api.wandb.ai")
    told = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "luthier"),
        name=run.name,
        id=run.id,
        dir=str(place),
        config=run.settings,
        resume="allow",
        mode=None if known else "offline",
        settings=wandb.Settings(silent=True, console="off"),
    )
    stages: set[str] = set()

    def log(stage: str, step: int, figures: Mapping[str, float]) -> None:
        if stage not in stages:  # every stage counts its own steps
            told.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
            stages.add(stage)
        told.log({f"{stage}/{name}": value for name, value in figures.items()} | {f"{stage}/step": step})

    def finish(final: Mapping[str, float]) -> None:
        told.summary.update({f"final/{name}": value for name, value in final.items()})
        told.finish()
        wandb.teardown()  # its own process has the end of the file until it is gone

    return Tracker(log, finish)


def logged_in(host: str) -> bool:
    """Whether this user has an account of a host on this machine; otherwise its library would ask for one."""
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def open_trackio(run: RunInfo) -> Tracker:
    """A run of project `luthier` in Trackio's own place (TRACKIO_DIR, one SQLite file a project): `trackio show`."""
    import trackio

    told = trackio.init(
        project="luthier",
        name=f"{run.name}-{run.id}",
        config=run.settings,
        resume="allow",
        embed=False,
        auto_log_gpu=False,
        auto_log_cpu=False,
    )

    def log(stage: str, step: int, figures: Mapping[str, float]) -> None:
        told.log({f"{stage}/{name}": value for name, value in figures.items()} | {f"{stage}/step": step}, step=step)

    def finish(final: Mapping[str, float]) -> None:
        if final:
            told.log({f"final/{name}": value for name, value in final.items()})
        told.finish()

    return Tracker(log, finish)


def open_mlflow(run: RunInfo) -> Tracker:
    """A run of experiment `luthier`: where MLFLOW_TRACKING_URI says, else in `mlflow.db` beside the run's folder
    (making its tables takes about 10 s, once)."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    beside = f"sqlite:///{run.folder.resolve().parent / 'mlflow.db'}"
    client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", beside))
    known = client.get_experiment_by_name("luthier")
    experiment = known.experiment_id if known else client.create_experiment("luthier")
    same = client.search_runs([experiment], f"tags.luthier_run = '{run.name}-{run.id}'", max_results=1)
    if same:
        identity = same[0].info.run_id
    else:
        tags = {"luthier_run": f"{run.name}-{run.id}"}
        identity = client.create_run(experiment, tags=tags, run_name=run.name).info.run_id
        params = [Param(name, value[:500]) for name, value in flat(run.settings)]
        for first in range(0, len(params), 100):  # a batch takes no more
            client.log_batch(identity, params=params[first : first + 100])

    def log(stage: str, step: int, figures: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        client.log_batch(identity, [Metric(f"{stage}/{name}", value, now, step) for name, value in figures.items()])

    def finish(final: Mapping[str, float]) -> None:
        if final:
            log("final", 0, final)
        client.set_terminated(identity, "FINISHED" if final else "KILLED")

    return Tracker(log, finish)


TRACKERS: dict[str, Callable[[RunInfo], Tracker]] = {
    "tensorboard": open_tensorboard,
    "wandb": open_wandb,
    "trackio": open_trackio,
    "mlflow": open_mlflow,
}


def flat(settings: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, value) of every leaf: stages.0.learning_rate, 0.001."""
    inner = settings.items() if isinstance(settings, dict) else enumerate(settings)
    for key, value in inner:
        where = f"{path}.{key}" if path else str(key)
        if isinstance(value, dict | list) and value:
            yield from flat(value, where)
        elif value is not None:
            yield where, str(value)


def require_trackers(names: Sequence[str]) -> None:
    """Raises UserError for trackers that there are not, and those whose library is not installed."""
    wrong = [
        f"track: {name}: no such tracker.{did_you_mean(name, NEEDS)} There are: {', '.join(NEEDS)}."
        for name in names
        if name not in NEEDS
    ]
    wrong += [
        f'track: {name}: needs {NEEDS[name]}, which is not installed. pip install "luthier[{name}]"'
        for name in names
        if name in NEEDS and find_spec(NEEDS[name]) is None
    ]
    if wrong:
        raise UserError(wrong)


def figures_of(event: Event) -> dict[str, float]:
    """The figures of an event that a tracker shows over steps."""
    if event["kind"] == "eval":
        named = {event["name"]: event.get("value")}
        named |= {f"{event['name']}_{end}": event[end] for end in ("low", "high") if end in event}
    elif event["kind"] == "step":
        named = {name: value for name, value in event.items() if name not in PLUMBING and name != "kind"}
    elif event["kind"] == "end":
        named = {name: event.get(name) for name in ("seconds", "peak_bytes")}
    else:
        return {}
    return {
        name: float(value)
        for name, value in named.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def final_figures(report: Mapping[str, Any]) -> dict[str, float]:
    """Every figure of report.json's metrics with its interval: {"loss.sft": 1.2, "loss.sft.low": 1.1, …}, and the
    run's seconds and peak."""
    found = {name: float(report[name]) for name in ("seconds", "peak_bytes") if report.get(name) is not None}

    def walk(node: Any, path: str) -> None:
        if not isinstance(node, dict):
            return
        for end, suffix in (("value", ""), ("low", ".low"), ("high", ".high")):
            if isinstance(node.get(end), int | float) and math.isfinite(node[end]):
                found[path + suffix] = float(node[end])
        for key, inner in node.items():
            walk(inner, f"{path}.{key}" if path else key)

    walk(report["metrics"], "")
    return found


class Sink:
    """One tracker behind its queue. Owns the thread, and the file of what the tracker has been given."""

    def __init__(self, name: str, run: RunInfo, tell: Callable[[str], None]) -> None:
        self.name, self.run, self.tell = name, run, tell
        self.entries: SimpleQueue[Entry | Mapping[str, float]] = SimpleQueue()
        self.marks = run.folder / "trackers" / f"{name}-{run.id}.jsonl"
        self.given = set(self.marks.read_text().splitlines()) if self.marks.exists() else set()
        self.new, self.lost, self.failures = 0, 0, 0
        self.thread = Thread(target=self.tried, args=(self.work,), name=f"tracker {name}", daemon=True)
        self.thread.start()

    def work(self) -> None:
        """Gives the tracker what comes, until the final figures have come."""
        tracker = self.tried(lambda: TRACKERS[self.name](self.run))
        self.marks.parent.mkdir(parents=True, exist_ok=True)
        with open(self.marks, "a", buffering=1) as marks:
            while isinstance(entry := self.entries.get(), Entry):
                if entry.key in self.given:
                    continue
                before = self.failures
                if tracker is not None:
                    self.tried(partial(tracker.log, *entry[1:]))
                if tracker is None or self.failures > before:
                    self.lost += 1
                else:
                    self.new += 1
                    self.given.add(entry.key)
                    marks.write(entry.key + "\n")
        if tracker is not None:
            self.tried(partial(tracker.finish, entry))

    def tried(self, act: Callable[[], Any]) -> Any:
        """What an act returns; None where it fails, which is told the first time: a tracker never stops a run."""
        try:
            return act()
        except Exception as error:
            self.failures += 1
            if self.failures == 1:
                said = " ".join(str(error).split())[:200]
                self.tell(f"track: {self.name} failed ({type(error).__name__}: {said}); the run goes on")
            return None

    def close(self, final: Mapping[str, float]) -> str:
        """Waits until everything is given; says what was not. Empty where nothing is missing."""
        self.entries.put(final)
        self.thread.join(PATIENCE_S)
        if self.thread.is_alive():
            return f"track: {self.name} took no answer in {PATIENCE_S:g} s; {self.entries.qsize()} figures wait in vain"
        if not self.failures:
            return ""
        again = f"luthier track {self.run.folder} --to {self.name} tries again"
        return f"track: {self.name} failed {self.failures} times, {self.lost} steps are missing there; {again}"


class Trackers:
    """A watcher that hands a run's figures to its trackers."""

    def __init__(self, names: Sequence[str], run: RunInfo, tell: Callable[[str], None]) -> None:
        self.run = run
        self.sinks = [Sink(name, run, tell) for name in dict.fromkeys(names)]
        self.folder, self.stage, self.step = "", "", 0

    def __call__(self, event: Event) -> None:
        """Takes one event of the stage at work."""
        if event["kind"] == "begin":
            self.folder, self.stage, self.step = event["folder"], event["stage"], 0
        self.step = event.get("step", self.step)
        if figures := figures_of(event):
            for sink in self.sinks:
                sink.entries.put(Entry(self.folder, self.stage, self.step, figures))

    def catch_up(self) -> None:
        """Everything that the run's finished stages have told: what was given before is passed over."""
        stages = [self.run.folder / name for name in read_json(self.run.folder / "current.json")["stages"]]
        for folder in (*stages, self.run.folder):
            for event in read_events(folder / "events.jsonl"):
                self(event | ({"folder": folder.name} if event["kind"] == "begin" else {}))

    def close(self, final: Mapping[str, float]) -> list[str]:
        """Ends all trackers; what they did not get, one line each."""
        return [line for line in [sink.close(final) for sink in self.sinks] if line]


def run_info(folder: Path, settings: dict[str, Any]) -> RunInfo:
    """A run as its trackers know it. Where it is written, and who else is told, is no part of what it is."""
    what = {key: value for key, value in settings.items() if key not in ("out", "track")}
    return RunInfo(settings["name"], folder, hash_of(what)[:8], settings)


@contextmanager
def tracked(context: Context) -> Iterator[None]:
    """Inside this block the recipe's trackers see what the run tells; at its end they get what they missed, and the
    figures of report.json. Raises UserError where one is not installed."""
    names = context.recipe.track
    require_trackers(names)
    if not names or not here().is_main:
        yield
        return
    watchers = context.watchers
    trackers = Trackers(names, run_info(context.folder, context.recipe.model_dump(mode="json")), teller(watchers))
    context.watchers = (*watchers, trackers)
    final: dict[str, float] = {}
    try:
        yield
        trackers.catch_up()
        final = final_figures(read_json(context.folder / "report.json"))
    finally:
        lines = trackers.close(final)
        if lines:
            log = EventLog(context.folder / "events.jsonl", watchers)
            for line in lines:
                log.emit("note", text=line)
            log.close()


def teller(watchers: Sequence[Watcher]) -> Callable[[str], None]:
    """Shows a sentence to a run's other watchers."""

    def tell(text: str) -> None:
        for watch in watchers:
            watch({"kind": "note", "t": round(time.time(), 3), "text": text})

    return tell


def replay(folder: Path, names: Sequence[str]) -> list[str]:
    """Gives a finished run to trackers; what came of it, a line each. Raises UserError where the run is not finished,
    or a tracker is not there."""
    require_trackers(names)
    if not (folder / "report.json").exists():
        raise UserError(f"{folder}: the run is not finished. Run its recipe to the end first.")
    trackers = Trackers(names, run_info(folder, read_json(folder / "resolved.json")), print)
    trackers.catch_up()
    lines = trackers.close(final_figures(read_json(folder / "report.json")))
    counts = [f"{sink.name}: {sink.new} steps given, {len(sink.given) - sink.new} it had" for sink in trackers.sinks]
    return [*counts, *lines]
