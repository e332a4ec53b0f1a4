"""A source that is a person's own function, `path/file.py:function`: the dicts it yields -> Row."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from luthier.base.errors import UserError
from luthier.base.functions import function_problem, load_function
from luthier.base.nouns import Rejected, Row
from luthier.data.text import Read, kind_name

SPEC = re.compile(r".+\.py:[A-Za-z_]\w*")


def is_program(path: str) -> bool:
    """Whether a source's path names a function."""
    return SPEC.fullmatch(path) is not None


def program_file(name: str, spec: str, root: Path) -> Path:
    """The file of a function. Raises UserError where there is none."""
    if problem := function_problem(spec, root / "recipe.yaml"):
        raise UserError(f"data.{name}.path: {problem}")
    return root / Path(spec.rpartition(":")[0]).expanduser()


def program_rows(name: str, spec: str, root: Path) -> Iterator[Read]:
    """The rows that the function yields, called with nothing, or with the recipe's folder if it takes an argument.
    Origins count from 0: "tickets.py:rows[3]". What is no dict of plain values is rejected by itself. Raises UserError
    with the file's line and the number of the row where the function fails."""
    function = load_function(spec, root)
    file, _, called = spec.rpartition(":")
    origin = f"{Path(file).name}:{called}"
    count = 0
    try:
        made = function(root) if takes_folder(function) else function()
        for value in iter(made):
            at, wrong = f"{origin}[{count}]", not_plain(value, set())
            if isinstance(value, dict) and not wrong:
                yield Row({str(key): inner for key, inner in value.items()}, at)
            else:
                yield Rejected(at, wrong or f"{kind_name(value)}, where an object {{...}} is needed. Yield dicts")
            count += 1
    except GeneratorExit:
        raise
    except (Exception, SystemExit) as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.endswith(Path(file).name)]
        line = f":{frames[-1].lineno}" if frames else ""
        said = f"{type(error).__name__}: {error}".strip().rstrip(".").split("\n")[0]
        raise UserError(
            f"data.{name}.path: {file}{line}: {called} failed at row {count}: {said}. Mend it and run "
            "the same command again."
        ) from error


def takes_folder(function: Any) -> bool:
    """Whether a function takes an argument that has no default."""
    parameters = inspect.signature(function).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.kind in kinds and p.default is inspect.Parameter.empty for p in parameters)


def not_plain(value: Any, above: set[int]) -> str | None:
    """Why a value is none that JSON knows, or None."""
    if value is None or isinstance(value, str | bool | int):
        return None
    if isinstance(value, float):
        return None if value - value == 0 else f"holds {value}, which is no number. Yield None"
    if not isinstance(value, dict | list | tuple):
        return f"holds a {type(value).__name__}. Yield strings, numbers, lists and dicts"
    if id(value) in above:
        return "holds itself. Yield plain values"
    inner = value.values() if isinstance(value, dict) else value
    return next((wrong for item in inner if (wrong := not_plain(item, above | {id(value)}))), None)
