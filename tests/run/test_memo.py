"""A stage that was made, or begun, with other settings or data is made anew: it says so, and the other stays."""

from __future__ import annotations

import fnmatch
from pathlib import Path

import luthier
from luthier.base.events import read_events
from luthier.run.memo import READERS, StageFolder, decides, stage_folder


def stage(run, seed=0, settings=None, data="one") -> StageFolder:
    given = {"epochs": 1, "learning_rate": 0.1} | (settings or {})
    return stage_folder(run, 2, "sft", "sft", given, {"data.faq": data, "model": "m"}, seed, "cpu", 1, ())


def told(made) -> list[str]:
    """What a stage says when it is opened; whoever opens it closes it."""
    made.open().close()
    return [event["text"] for event in read_events(made.path / "events.jsonl")]


def test_a_stage_that_is_made_anew_says_what_has_changed_and_what_stays(tmp_path):
    first = stage(tmp_path)
    assert told(first) == [] == told(first)  # the first time, and when it goes on
    (first.path / "checkpoints").mkdir()
    rate = stage(tmp_path, settings={"learning_rate": 0.2})
    kept = "which was not finished, and keeps its checkpoints"
    assert told(rate) == [f"sft is made anew: not the learning_rate of {first.path.name}, {kept}"]
    assert (first.path / "checkpoints").is_dir()
    rate.open()
    rate.close()
    both = stage(tmp_path, settings={"epochs": 2}, data="other")
    assert told(both)[0] == (
        f"sft is made anew: not the epochs, learning_rate, data.faq of {rate.path.name}, which is finished"
    )
    assert told(stage(tmp_path, seed=1, settings={"epochs": 2}, data="other"))[0].startswith(
        f"sft is made anew: not the seed or threads of {both.path.name}"
    )


def test_what_may_decide_a_result_is_in_the_hash_of_the_code():
    """A page is not; a file that decides is, though another of the same name does not: run/against/arena.py counts
    votes that were given, evals/arena.py says how."""
    pages = ("cli.py", "verbs/data.py", "run/report.py", "run/report_charts.py", "run/asked.py")
    assert not any(map(decides, (*pages, "run/against/versus_page.py", "run/against/ask_ways.py")))
    rules = ("evals/arena.py", "run/judging.py", "run/judged.py", "run/curate.py", "run/against/ways.py")
    assert all(map(decides, rules))
    root = Path(luthier.__file__).parent
    files = [path.relative_to(root).as_posix() for path in root.rglob("*.py")]
    assert [reader for reader in READERS if not fnmatch.filter(files, reader)] == []  # every pattern names a file
