"""A user's own function, named in a recipe as `path/file.py:name` or `package.module:name`; and a recipe's paths."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from luthier.base.errors import RunError, UserError, did_you_mean
from luthier.base.files import hash_of, hash_path
from luthier.base.nouns import Message, Rater

SHOWN_CHARACTERS = 80
"""Of an answer in an error."""


def resolve_path(recipe_path: Path, path: str) -> Path:
    """A path as a recipe means it: relative to the recipe's folder, `~` expanded. Raises UserError on ~nobody."""
    try:
        return recipe_path.parent / Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: {error}. Write the path out.") from None


def function_problem(spec: str, recipe_path: Path) -> str | None:
    """What is wrong with the way a function is named, as far as can be told without running its file."""
    module, colon, name = spec.rpartition(":")
    if not colon or not module or not name.isidentifier():
        return f'"{spec}" is not path/file.py:name or package.module:name.'
    if not module.endswith(".py"):
        return None
    file = resolve_path(recipe_path, module)
    if file.is_file():
        return None
    near = [other.name for other in file.parent.glob("*.py")] if file.parent.is_dir() else []
    return f"{module}: no such file.{did_you_mean(file.name, near)}"


def load_function(spec: str, relative_to: Path) -> Callable[..., Any]:
    """The function that `spec` names; files are relative to `relative_to`, a recipe or its folder. Runs the file.

    Raises UserError when the file, the module or the function is not there, or the file fails to load.
    """
    recipe_path = relative_to / "recipe.yaml" if relative_to.is_dir() else relative_to
    problem = function_problem(spec, recipe_path)
    if problem:
        raise UserError(problem)
    where, _, name = spec.rpartition(":")
    module = module_of_file(resolve_path(recipe_path, where)) if where.endswith(".py") else module_named(where)
    functions = {key: value for key, value in vars(module).items() if callable(value) and not key.startswith("_")}
    if name not in functions:
        own = [key for key, value in functions.items() if value.__module__ == module.__name__]
        what = "is not a function" if name in vars(module) else "is not there"
        raise UserError(
            f"{spec}: {name} {what}.{did_you_mean(name, own)} The functions in {where}: {', '.join(own) or 'none'}."
        )
    return functions[name]


def load_rater(spec: str, relative_to: Path) -> Rater:
    """The rater that `spec` names, whose scores are numbers or a RunError that says for which answer they were not.
    Raises UserError as `load_function` does."""
    function = load_function(spec, relative_to)

    def rate(messages: Sequence[Message], answer: str) -> float:
        asked = f"for the answer {answer[:SHOWN_CHARACTERS]!r} to {messages[-1].content[:SHOWN_CHARACTERS]!r}"
        try:
            score = function(messages, answer)
        except (Exception, SystemExit) as error:
            said = raised(error)
            raise RunError(f"rater {spec} {said}, {asked}. Mend it, then run the same command again.") from error
        try:
            number = float(score)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            said = f"returned {score!r}, which is no finite number"
            raise RunError(f"rater {spec} {said}, {asked}. Mend it, then run the same command again.")
        return number

    return rate


def raised(error: BaseException) -> str:
    """'raised KeyError: 'x' (rater.py:17)': an exception of a user's function, and where it came from."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    return f"raised {type(error).__name__}: {error} ({Path(at.filename).name}:{at.lineno})"


def program_hash(spec: str, relative_to: Path) -> str:
    """Hash of the file that the program `spec` (path/file.py:name, module:name) stands in: an edited one is another."""
    where = spec.rpartition(":")[0]
    if where.endswith(".py"):
        return hash_path(resolve_path(relative_to, where))
    module = importlib.util.find_spec(where)
    origin = Path(module.origin) if module is not None and module.origin else None
    return hash_path(origin) if origin is not None and origin.is_file() else hash_of(spec)


def module_named(name: str) -> ModuleType:
    """Imports an installed module. Raises UserError."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f"{name}: there is no module {error.name} here. For a file, write path/file.py:name.") from None
    except (Exception, SystemExit) as error:
        raise UserError(failure(name, error)) from error


def module_of_file(file: Path) -> ModuleType:
    """Runs a file as a module, once a process. Raises UserError with the file's own line."""
    name = f"luthier_user_{file.stem}_{hash_of(str(file.resolve()))[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None, "a .py file always has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses look their module up while they are made
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UserError(failure(str(file), error)) from error
    return module


def failure(source: str, error: BaseException) -> str:
    """An exception in a user's code as one line, with the last line of theirs that it passed through."""
    if isinstance(error, SyntaxError):
        return f"{error.filename or source}:{error.lineno}: {error.msg}."
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(source)]
    line = f":{frames[-1].lineno}" if frames else ""
    return f"{source}{line}: {type(error).__name__}: {error}."
