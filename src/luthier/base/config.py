"""YAML with positions -> Recipe. Everything that is wrong with a recipe is told at once, each on its line.

YAML is composed to nodes and resolved here by the 1.2 core rules, so that `1e-3` is a number, `no` is a text, a key
given twice is an error, and the line of every value is known. This is the one file that imports yaml.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from luthier.base.alignment import BestOf, Grpo, Prefer
from luthier.base.crosscheck import crosscheck
from luthier.base.errors import UserError, did_you_mean
from luthier.base.functions import function_problem, load_function, load_rater, resolve_path
from luthier.base.invalid import invalid
from luthier.base.judged import judge_files
from luthier.base.probes import WinRateProbe
from luthier.base.recipe import Recipe
from luthier.base.settings import Loc

__all__ = ["load_function", "load_rater", "load_recipe", "resolve_path"]

LARGEST_BYTES, LARGEST_NODES, DEEPEST = 1_000_000, 100_000, 30
"""Beyond these a file is no recipe, whatever it parses to (aliases can make a short text endless)."""

INT = re.compile(r"[-+]?[0-9]{1,300}|0o[0-7]{1,300}|0x[0-9a-fA-F]{1,300}")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}
"""YAML 1.2 core schema, §10.3.2: the plain scalars that are neither numbers nor texts."""

OVERRIDES = 10**9
"""Overrides are told after every line of the file."""
INSTEAD = {"steps": "epochs", "epochs": "steps", "model": "fresh", "fresh": "model"}
"""Settings that exclude each other: an override of one takes the place of the other in the file."""

YAML_HINTS = {
    "cannot start any token": "A tab cannot indent (use spaces), and texts that begin with @, ` or % need quotes.",
    "mapping values are not allowed": 'Check the indentation, or put a text that holds ": " in quotes.',
    "could not find expected ':'": "A setting is written `name: value`.",
    "expected <block end>": "Check the indentation: settings of one group start in the same column.",
    "expected ',' or": "A bracket or a brace is not closed.",
}


@dataclass(frozen=True)
class Place:
    """Where a value was written: "recipe.yaml:14", or "--set a.b=c" (which `names` the path itself)."""

    text: str
    order: int
    names: Loc | None = None


@dataclass
class Tree:
    """A recipe as plain values, the place of every path in it, and what was wrong with it so far."""

    value: Any = None
    places: dict[Loc, Place] = field(default_factory=dict)
    problems: list[tuple[Place, str]] = field(default_factory=list)
    blamed: set[Loc] = field(default_factory=set)
    nodes: int = 0

    def place(self, loc: Loc) -> Place:
        """The place of a path, or of the nearest group around it that was written down."""
        while loc and loc not in self.places:
            loc = loc[:-1]
        return self.places[loc]

    def complain(self, loc: Loc, message: str, kind: str | None = None) -> None:
        """Notes one problem of a path, the first: `file:line: path: message`. `kind` follows a stage or a probe."""
        if loc in self.blamed:
            return
        self.blamed.add(loc)
        place = self.place(loc)
        named = place.names == loc or not loc
        line = f"{place.text}: {message}" if named else f"{place.text}: {shown(loc, kind)}: {message}"
        self.problems.append((place, line))

    def kind_at(self, loc: Loc) -> str | None:
        """The kind of the stage or probe that a path leads through, if it leads through one."""
        if len(loc) < 3 or loc[0] not in ("stages", "evaluate"):
            return None
        kind = self.value[loc[0]][loc[1]].get("kind")
        return kind if isinstance(kind, str) else None

    def raise_problems(self) -> None:
        """Everything noted so far as one UserError, in the order of the file; overrides last."""
        if self.problems:
            ordered = sorted(self.problems, key=lambda problem: problem[0].order)
            raise UserError(list(dict.fromkeys(printable(line) for _, line in ordered)))


def printable(line: str) -> str:
    """A line that is one: line breaks and control characters, which YAML texts may hold, are written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def shown(loc: Loc, kind: str | None = None) -> str:
    """A path as a person writes it: ("stages", 1, "lr") of an sft stage is "stages[1].sft.lr"."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc]
    if kind is not None:
        parts.insert(2, f".{kind}")
    return "".join(parts).removeprefix(".")


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe and applies `a.b=c` overrides. Raises UserError with every problem, each with its line."""
    start = Place(str(path), 0, ())
    tree = parse(read_text(path), str(path), start)
    if not isinstance(tree.value, dict):
        what = "is empty" if tree.value is None else "is not a group of settings"
        tree.problems.append((start, f"{path}: {what}. A recipe holds name, base, data, stages and evaluate."))
        tree.raise_problems()
    expand_shorthands(tree.value)
    for index, text in enumerate(overrides):
        override(tree, text, Place(f"--set {text}", OVERRIDES + index))
    expand_shorthands(tree.value)
    # A value given twice, or not finite, was noted but kept: what pydantic finds beside it is worth telling too.
    recipe, found = invalid(tree.value)
    for loc, message in found:
        tree.complain(loc, message, tree.kind_at(loc))
    if recipe is not None:
        for loc, message in [*crosscheck(recipe), *check_raters(recipe, path)]:
            tree.complain(loc, message, tree.kind_at(loc))
    tree.raise_problems()
    assert recipe is not None
    return recipe


def pointed(path: Path, recipe: Recipe, index: int, field: Loc, message: str) -> str:
    """A message on a setting of a stage, with its line, as the recipe's own mistakes are told: for what shows only when
    the model is there. Without a line where the recipe's stages are not those of its file."""
    tree, stage = parse(read_text(path), str(path), Place(str(path), 0, ())), recipe.stages[index]
    written = tree.value.get("stages")
    own = written[index] if isinstance(written, list) and index < len(written) else {}
    if not isinstance(own, dict) or (own.get("kind"), own.get("name")) != (stage.kind, stage.name):
        return f"{'.'.join(map(str, field))}: {message}"
    loc: Loc = ("stages", index, *field)
    return printable(f"{tree.place(loc).text}: {shown(loc, stage.kind)}: {message}")


def read_text(path: Path) -> str:
    """A recipe file's text. Raises UserError when there is none."""
    try:
        if path.is_dir():
            inside = sorted(file.name for file in path.glob("*.y*ml"))
            raise UserError(f"{path}: is a folder. Name the recipe in it{': ' + ', '.join(inside) if inside else ''}.")
        if path.stat().st_size > LARGEST_BYTES:
            raise UserError(f"{path}: is too large for a recipe. Name a YAML file.")
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        near = [file.name for file in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise UserError(f"{path}: no such file.{did_you_mean(path.name, near)}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start}). Name a YAML file.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}.") from None


def parse(text: str, source: str, start: Place) -> Tree:
    """YAML text -> plain values with places. Lines are told where `source` is a file, `start` everywhere else.

    Raises UserError where the text is no YAML.
    """
    tree = Tree(places={(): start})
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"{source}:{mark.line + 1}" if mark and start.names == () else start.text
        problem = error.problem or error.context or "cannot be read"
        hint = next((hint for part, hint in YAML_HINTS.items() if part in problem), "")
        raise UserError(f"{line}: not valid YAML: {problem}. {hint}".strip()) from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise UserError(f"{start.text}: not valid YAML: {why}.") from None
    tree.value = plain(node, (), tree, source, start) if node is not None else None
    return tree


def plain(node: yaml.Node, loc: Loc, tree: Tree, source: str, start: Place) -> Any:
    """A node's value; notes the places of what is in it. Raises UserError where it has no end."""
    tree.nodes += 1
    if tree.nodes > LARGEST_NODES or len(loc) > DEEPEST:
        raise UserError(f"{tree.place(loc).text}: is nested too deeply, or refers to itself. Write it out.")

    def at(inner: yaml.Node) -> Place:
        line = inner.start_mark.line + 1
        return Place(f"{source}:{line}", line) if start.names == () else start

    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            tree.places[(*loc, index)] = at(item)
        return [plain(item, (*loc, index), tree, source, start) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode):
        return scalar(node, loc, tree)
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode) or not is_text(key_node.value):
            message = "a setting's name is plain text. Put braces that belong to a text in quotes."
            tree.problems.append((at(key_node), f"{at(key_node).text}: {message}"))
            continue
        key, place = key_node.value, at(key_node)
        if key in values:
            first = tree.places[(*loc, key)]
            where = f" on line {first.order}" if start.names == () else ""
            tree.places[(*loc, key)] = place
            tree.complain((*loc, key), f"is set twice, first{where}. Keep one.")
        tree.places[(*loc, key)] = place
        values[key] = plain(value_node, (*loc, key), tree, source, start)
    return values


def is_text(text: str) -> bool:
    """Whether a text can be written to a file: an escape such as \\ud800 alone is half a character."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def scalar(node: yaml.ScalarNode, loc: Loc, tree: Tree) -> Any:
    """A scalar by the YAML 1.2 core rules. Whole numbers written as 1e3 count as whole."""
    text = node.value
    if not node.tag.endswith("yaml.org,2002:str"):
        tree.complain(loc, f"{node.tag} is a YAML tag, which recipes do not use. Remove it.")
        return None
    if not is_text(text):
        tree.complain(loc, "holds half a character (a lone \\ud800..\\udfff).")
        return ""
    if node.style is not None:
        return text
    value: Any = text
    if text in WORDS:
        value = WORDS[text]
    elif INT.fullmatch(text):
        value = int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    elif FLOAT.fullmatch(text):
        value = float(text)
        value = int(value) if abs(value) < 2**53 and value.is_integer() else value
    if isinstance(value, float) and not math.isfinite(value):
        tree.complain(loc, f"{text} is not a finite number.")
        return 1
    return value


def expand_shorthands(value: dict[str, Any]) -> None:
    """`base: folder` is {model: folder}; an entry `docs: path` of data is {path: path}; an adapter without a kind is
    lora; `adapter: prefix` is {kind: prefix}, `quantize: nf4` is {kind: nf4}; `rewards: a` and [a] are {a: 1}."""
    if isinstance(value.get("base"), str):
        value["base"] = {"model": value["base"]}
    data = value.get("data")
    if isinstance(data, dict):
        data.update({name: {"path": source} for name, source in data.items() if isinstance(source, str)})
    stages = value.get("stages")
    for stage in stages if isinstance(stages, list) else ():
        if isinstance(stage, dict):
            expand_stage(stage)


def expand_stage(stage: dict[str, Any]) -> None:
    """The shorthands of one stage."""
    for name in ("adapter", "quantize"):
        if isinstance(stage.get(name), str):
            stage[name] = {"kind": stage[name]}
    if isinstance(stage.get("adapter"), dict):
        stage["adapter"].setdefault("kind", "lora")
    rewards = stage.get("rewards")
    if isinstance(rewards, str):
        rewards = [rewards]
    if isinstance(rewards, list) and all(isinstance(reward, str) for reward in rewards):
        stage["rewards"] = dict.fromkeys(rewards, 1)


def override(tree: Tree, text: str, place: Place) -> None:
    """Applies one `a.b=c`; notes what is wrong with it."""
    path, equals, right = text.partition("=")
    if not equals or not all(path.split(".")):
        tree.problems.append((place, f"{place.text}: write setting=value, for example seed=1 or stages.sft.steps=100."))
        return
    try:
        given = parse(right, "", place)
    except UserError as error:
        tree.problems += [(place, problem) for problem in error.problems]
        return
    tree.problems += given.problems
    keys = path.strip().split(".")
    holder: Any = tree.value
    loc: Loc = ()
    for position, name in enumerate(keys):
        key, why = key_in(holder, loc, name, last=position == len(keys) - 1)
        if why:
            tree.problems.append((place, f"{place.text}: {why}"))
            return
        loc = (*loc, key)
        if position < len(keys) - 1:
            if isinstance(holder, dict) and holder.get(str(key)) is None:
                holder[str(key)] = {}
                tree.places[loc] = place
            holder = holder[key]
    for known in [known for known in tree.places if known[: len(loc)] == loc]:
        del tree.places[known]
    other = INSTEAD.get(str(loc[-1]), "")
    if given.value is not None and isinstance(holder, dict) and tree.place((*loc[:-1], other)).order < OVERRIDES:
        holder.pop(other, None)
    holder[loc[-1]] = given.value
    tree.places[loc] = Place(place.text, place.order, names=loc)


def key_in(holder: Any, loc: Loc, name: str, last: bool) -> tuple[str | int, str]:
    """The key or index that `name` means in `holder`, and what is wrong with it (empty: nothing)."""
    here = shown(loc) or "the recipe"
    if isinstance(holder, dict):
        named = loc in (("data",), ("evaluate",))
        # A setting of an entry that is not there is a slip; a whole new entry, data.new=path, is not.
        if named and not last and name not in holder and holder:
            return name, f"there is no {name} under {here}.{did_you_mean(name, holder)} There are: {', '.join(holder)}."
        return name, ""
    if not isinstance(holder, list):
        return name, f"{here} is {holder!r}, which has no settings of its own."
    if name.isascii() and name.isdigit() and int(name[:9]) < len(holder):
        return int(name), ""
    entries = [item if isinstance(item, dict) else {} for item in holder]
    for label in ("name", "kind"):
        found = [index for index, item in enumerate(entries) if item.get(label) == name]
        if len(found) == 1:
            return found[0], ""
        if found:
            return name, f"{len(found)} stages are called {name}. Say which: {', '.join(f'{here}.{i}' for i in found)}."
    names = [str(item.get("name") or item.get("kind")) for item in entries if item]
    if loc != ("stages",):
        return name, f"{here} has {len(holder)} entries, counted from 0."
    return name, f"there is no stage {name}.{did_you_mean(name, names)} The stages: {', '.join(names) or 'none'}."


def check_raters(recipe: Recipe, path: Path) -> Iterator[tuple[Loc, str]]:
    """Raters and rewards are used late in a run: that they can be found is known before it starts. Runs none of their
    code."""
    for index, stage in enumerate(recipe.stages):
        for spec in stage.rewards if isinstance(stage, Grpo | BestOf) else ():
            if ":" in spec and (why := function_problem(spec, path)):
                yield ("stages", index, "rewards", spec), why
        if isinstance(stage, Prefer) and stage.rater is not None and (why := function_problem(stage.rater, path)):
            yield ("stages", index, "rater"), why
    for name, probe in recipe.evaluate.items():
        if isinstance(probe, WinRateProbe):
            if probe.rater is not None and (why := function_problem(probe.rater, path)):
                yield ("evaluate", name, "rater"), why
            yield from ((("evaluate", name, setting), why) for setting, why in judge_files(probe, path))
