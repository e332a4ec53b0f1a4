"""What a `win_rate` probe demands of its judge: one of rater and judge, and nothing for a judge that is not there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from luthier.base.abilities import is_endpoint
from luthier.base.errors import did_you_mean
from luthier.base.functions import resolve_path
from luthier.base.probes import WinRateProbe
from luthier.base.rubric import is_rubric_file

FOR_A_JUDGE = ("rubric", "votes", "key_env", "judge_tokens")


def judging_stage(probe: WinRateProbe) -> str | None:
    """The stage whose model judges, by its name; None where no model of this recipe does."""
    named = probe.judge
    return None if named is None or is_endpoint(named) or is_program(named) else named


def is_program(name: str) -> bool:
    """Whether a name is a function's, which no stage's can be."""
    return ":" in name


def check_judge(probe: WinRateProbe) -> Iterator[tuple[tuple[str, ...], str]]:
    """(setting, what is wrong with it), () for the probe as a whole. Whether the judge's stage is there is another
    matter."""
    if probe.rater is None and probe.judge is None:
        yield (
            (),
            (
                "has nobody who compares the answers. Give rater: path/file.py:name, a program, or judge: a model "
                "(https://host/v1#model, or the name of a stage)."
            ),
        )
    if probe.judge is None:
        for setting in FOR_A_JUDGE:
            if setting in probe.model_fields_set:
                yield (setting,), "is for a judge, and there is none. Give judge, or remove it."
        return
    if probe.rater is not None:
        yield ("judge",), f"is set, and so is rater ({probe.rater}). Keep one of them."
    if is_endpoint(probe.judge):
        if not re.fullmatch(r"https?://[^#\s]+#.+", probe.judge):
            yield ("judge",), f"{probe.judge}: which of its models? Write it behind a #: https://host/v1#model."
    elif is_program(probe.judge):
        yield ("judge",), f"{probe.judge} is a program, and programs are raters. Write rater: {probe.judge}."
    if probe.key_env is None:
        return
    if not is_endpoint(probe.judge):
        yield ("key_env",), f"is for an endpoint, and {probe.judge} is none. Remove it."
    elif not re.fullmatch(r"[A-Za-z_]\w*", probe.key_env):  # it may be the key itself: it is not repeated
        yield ("key_env",), "is no name of an environment variable. Write the variable's name, never the key itself."


def judge_files(probe: WinRateProbe, recipe_path: Path) -> Iterator[tuple[str, str]]:
    """(setting, what is wrong) of files that the probe names and that are not there."""
    rubric = probe.rubric if isinstance(probe.rubric, str) and is_rubric_file(probe.rubric) else None
    for setting, named in (("rubric", rubric), ("votes", probe.votes)):
        if named is None:
            continue
        file = resolve_path(recipe_path, named)
        if not file.is_file():
            files = file.parent.glob(f"*{file.suffix}") if file.parent.is_dir() else ()
            near = [path.name for path in files if path.name != recipe_path.name]
            yield setting, f"{named}: no such file.{did_you_mean(file.name, near)}"
