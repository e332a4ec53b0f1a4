"""The verbs as a person meets them: another process, its exit code, what it prints."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from luthier.cli import app
from luthier.doctor import BROKEN, FINE, examine, numbers, satisfies

ROOT = Path(__file__).parents[1]


def luthier(*arguments, cwd, **given):
    """Runs the command line; its output has no colours and an 80-column page."""
    environment = {**os.environ, "COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-m", "luthier", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        **given,
    )


def one_line(text):
    """Typer's boxes taken away."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


def test_the_surface_is_small_and_known():
    """Verbs are a promise: one more or one less is a decision, and there are never more than 14."""
    assert [command.callback.__name__ for command in app.registered_commands] == [
        "run",
        "evaluate",
        "curve",
        "check",
        "chat",
        "export",
        "report",
        "track",
        "demo",
        "doctor",
        "settings",
    ]
    groups = {group.name: group.typer_instance.registered_commands for group in app.registered_groups}
    assert {name: [command.name for command in commands] for name, commands in groups.items()} == {
        "compare": ["answers", "arena", "methods", "ways"],
        "data": ["show", "import", "licences", "report"],
    }


def test_help_names_every_verb_and_imports_nothing_heavy(tmp_path):
    code = (
        "import sys; from luthier.cli import main\n"
        "heavy = {'torch', 'transformers', 'pydantic', 'yaml'}\n"
        "try: main()\nfinally: print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr.strip() == "[]"
    for verb in ("run", "check", "chat", "report", "demo", "doctor", "settings"):
        assert re.search(rf"\b{verb}\b", done.stdout)


@pytest.mark.parametrize("verb", ["run", "curve", "check", "settings", "doctor"])
def test_help_of_a_verb_needs_no_torch(verb, tmp_path):
    code = "import sys; from luthier.cli import main\ntry: main()\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code, verb, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_version(tmp_path):
    assert re.fullmatch(r"luthier \d+\.\d+\.\d+\n", luthier("--version", cwd=tmp_path).stdout)


def test_an_unknown_verb_gets_a_suggestion(tmp_path):
    done = luthier("chekc", "x.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "No such command 'chekc'. Did you mean 'check'?" in one_line(done.stderr)


@pytest.mark.parametrize("verb", ["run", "check"])
def test_a_wrong_recipe_is_told_whole_without_a_traceback(verb, tmp_path):
    (tmp_path / "r.yaml").write_text("name: x\nbase: m\nstages:\n  - kind: sft\n    data: d\n    learnin_rate: 1\n")
    done = luthier(verb, "r.yaml", "seed=x", "--set", "out=1", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "r.yaml:6: stages[0].sft.learnin_rate: no such setting. Did you mean learning_rate?",
        '--set seed=x: "x" is not a whole number.',
        '--set out=1: 1 is not text. Put it in quotes: "1".',
    ]
    assert not (tmp_path / "runs").exists()


def test_a_recipe_that_is_not_there(tmp_path):
    (tmp_path / "recipe.yaml").write_text("")
    done = luthier("run", "recipe.yml", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "recipe.yml: no such file. Did you mean recipe.yaml?\n")


@pytest.mark.parametrize("verb", ["chat", "report"])
def test_a_run_that_is_not_there(verb, tmp_path):
    done = luthier(verb, "runs/demo", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "runs/demo: no run here. Make one: luthier run RECIPE, or luthier demo.\n",
    )
    (tmp_path / "runs" / "support").mkdir(parents=True)
    (tmp_path / "runs" / "support" / "resolved.json").write_text("{}")
    told = luthier(verb, "suport", cwd=tmp_path).stderr
    assert told == "suport: no run here. Did you mean support? The runs here: runs/support.\n"


def test_settings_are_the_reference(tmp_path):
    done = luthier("settings", "--markdown", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout == (ROOT / "docs" / "settings.md").read_text(), "luthier settings --markdown > docs/settings.md"


def test_settings_of_one_kind(tmp_path):
    done = luthier("settings", "ppo", cwd=tmp_path)
    assert done.returncode == 0 and "kl_target" in done.stdout and "columns" not in done.stdout
    wrong = luthier("settings", "pp", cwd=tmp_path)
    assert wrong.returncode == 2 and wrong.stderr.startswith("pp: no such group of settings. Did you mean ppo?")


def test_the_doctor_finds_this_machine_fit(tmp_path):
    done = luthier("doctor", "--json", cwd=tmp_path)
    found = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == 0
    assert {"python", "torch", "transformers", "peft", "processor", "memory", "disk", "hub", "output"} <= set(found)
    assert found["torch"]["grade"] == FINE and found["torch"]["found"].startswith("2.")
    assert found["processor"]["found"].find(f"{len(os.sched_getaffinity(0))} core") > 0
    assert not (tmp_path / "runs").exists()
    plain = luthier("doctor", cwd=tmp_path)
    assert plain.returncode == 0 and re.search(r"^✓ torch ", plain.stdout, re.MULTILINE)


def test_the_doctor_tells_a_folder_that_cannot_be_written(tmp_path):
    if os.geteuid() == 0:
        found = examine(Path("/proc/sys/kernel"))  # root may write anywhere but here
    else:
        tmp_path.chmod(0o500)
        found = examine(tmp_path)
    assert [finding.grade for finding in found if finding.name == "output"] == [BROKEN]


@pytest.mark.parametrize(
    ("version", "bounds", "fits"),
    [
        ("2.13.0+cpu", ">=2.10", True),
        ("2.9.1", ">=2.10", False),
        ("5.23.0", ">=5.20,<6", True),
        ("6.0.0", "<6,>=5.20", False),
        ("0.21.2.dev0", ">=0.21", True),
        ("1.0", "", True),
    ],
)
def test_versions_are_compared_by_number(version, bounds, fits):
    assert satisfies(version, bounds) is fits
    assert numbers("2.13.0+cpu") == (2, 13, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_says_that_the_same_command_goes_on(tmp_path):
    """SIGINT while the command is reading (a named pipe keeps it there): exit code 130, one line, no traceback."""
    os.mkfifo(tmp_path / "slow.yaml")
    # Whoever started the tests in the background of a script has them, and all that they start, ignore Ctrl-C.
    process = subprocess.Popen(
        [sys.executable, "-m", "luthier", "run", "slow.yaml"], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    writer = os.open(tmp_path / "slow.yaml", os.O_WRONLY)  # returns when the command has opened the other end
    told = None
    for _ in range(3):  # a signal that comes just before the read begins is heard when the read ends
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            _, told = process.communicate(timeout=20)
            break
    os.close(writer)
    assert process.returncode == 130
    assert told == "stopped; the same command goes on from the last checkpoint\n"


def test_compare_takes_models_where_it_has_no_such_command(tmp_path):
    """`luthier compare A B` asks models; a command's name is a command; what is neither is told, with what is near."""
    done = luthier("compare", "methds", "recipe.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].startswith("methds: no model of that name. Did you mean methods?")
    assert done.stderr.splitlines()[1].startswith("recipe.yaml: no model of that name.")
    assert "name at least two models" in luthier("compare", "demo:sft", "--limit", "3", cwd=tmp_path).stderr
    group, own = (one_line(luthier("compare", *words, cwd=tmp_path).stdout) for words in (["--help"], ["a", "b", "-h"]))
    assert "luthier compare A B [C]..." in group and "arena" in group and "methods" in group
    assert "--data" in own and "--judge" in own


def test_an_arena_at_the_command_line(tmp_path):
    rows = [{"a": "new", "b": "old", "winner": winner} for winner in ("a", "a", "a", "b")]
    (tmp_path / "votes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = luthier("compare", "arena", "votes.jsonl", cwd=tmp_path)
    assert done.returncode == 0 and "new stands 191 Elo" in done.stdout and "75 wins in 100" in done.stdout
    assert json.loads((tmp_path / "arena.json").read_text())["all"]["standings"][0]["model"] == "new"
    assert "Did you mean votes.jsonl?" in luthier("compare", "arena", "vote.jsonl", cwd=tmp_path).stderr
    assert (
        "--by prompts: is not vote" in luthier("compare", "arena", "votes.jsonl", "--by=prompts", cwd=tmp_path).stderr
    )
