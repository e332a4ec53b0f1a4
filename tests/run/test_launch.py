"""What starts a run in many processes: the line, the Slurm script and the SkyPilot task, read as their readers do."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from luthier.base.errors import UserError
from luthier.run.launch import Launch, arguments, launch_line, launched, sky_task, slurm_script, start_of
from run.small import small_world

MANY = Launch("news", 2, 8, arguments("my recipe.yaml", ["seed=1", 'out="a b"'], offline=True))
WORDS = ["-m", "luthier", "run", "my recipe.yaml", "seed=1", 'out="a b"', "--offline"]


def words_of(line: str) -> list[str]:
    """A command line as a shell reads it, continuations joined."""
    return shlex.split(line.replace("\\\n", " "))


def options(words: list[str]) -> dict[str, str]:
    """torchrun's options up to -m."""
    before = words[words.index("torchrun") + 1 : words.index("-m")]
    return dict(zip(before[0::2], before[1::2], strict=True))


def bash_reads(script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_one_machine_needs_no_meeting_place():
    line = launch_line(Launch("news", 1, 4, MANY.arguments))
    assert words_of(line) == ["torchrun", "--standalone", "--nproc-per-node", "4", *WORDS]


def test_several_machines_meet_at_the_first():
    words = words_of(launch_line(MANY))
    assert words[-len(WORDS) :] == WORDS
    assert options(words) == {
        "--nnodes": "2",
        "--nproc-per-node": "8",
        "--rdzv-backend": "c10d",
        "--rdzv-endpoint": "$HEAD:29500",
        "--rdzv-id": "news",
    }


def test_torchrun_takes_the_options():
    """torch's own parser reads the line."""
    from torch.distributed.run import get_args_parser

    for launch in (MANY, Launch("news", 1, 4, MANY.arguments)):
        read = get_args_parser().parse_args(words_of(launch_line(launch))[1:])
        assert read.module and read.training_script == "luthier"
        assert read.training_script_args == WORDS[2:]
        assert read.nproc_per_node == str(launch.gpus)
    assert read.standalone


def test_the_slurm_script_is_one_that_bash_reads():
    script = slurm_script(MANY)
    bash_reads(script)
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=(.+)$", script, re.M))
    assert asked == {
        "job-name": "news", "nodes": "2", "ntasks-per-node": "1", "gpus-per-node": "8", "output": "news-%j.log",
        "open-mode": "append",
    }  # fmt: skip
    assert script.splitlines()[0] == "#!/bin/bash"
    # Slurm reads its options only above the first command.
    assert max(m.start() for m in re.finditer("#SBATCH", script)) < script.index("set -euo")
    words = words_of(script[script.index("srun ") :])
    assert words[0] == "srun" and words[-len(WORDS) :] == WORDS
    assert options(words)["--nproc-per-node"] == "8" and options(words)["--rdzv-endpoint"] == "$HEAD:29500"


def test_the_slurm_script_runs_as_written(tmp_path):
    """With stand-ins for Slurm's commands: each machine's torchrun gets the whole command line, expanded."""
    for name, body in {
        "scontrol": "echo alpha; echo beta",
        "srun": 'shift; "$@"',
        "torchrun": f'{sys.executable} -c "import sys; print(sys.argv[1:])" "$@"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    there = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_NODELIST": "x", "SLURM_JOB_NUM_NODES": "2"}
    done = subprocess.run(
        ["bash", "-s"], input=slurm_script(MANY), env={**there, "SLURM_JOB_ID": "17"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    got = eval(done.stdout)
    assert got[-len(WORDS) :] == WORDS
    assert got[: -len(WORDS)] == [
        "--nnodes", "2", "--nproc-per-node", "8", "--rdzv-backend", "c10d", "--rdzv-endpoint", "alpha:29500",
        "--rdzv-id", "17",
    ]  # fmt: skip


def test_the_sky_task_is_yaml_with_a_script_that_bash_reads():
    task = yaml.safe_load(sky_task(MANY, "H100"))
    assert {key: task[key] for key in ("name", "num_nodes", "workdir", "resources")} == {
        "name": "news", "num_nodes": 2, "workdir": ".", "resources": {"accelerators": "H100:8"},
    }  # fmt: skip
    for part in ("setup", "run"):
        bash_reads(task[part])
    words = words_of(task["run"])
    assert words[-len(WORDS) :] == WORDS
    assert options(words)["--nproc-per-node"] == "$SKYPILOT_NUM_GPUS_PER_NODE"


@given(st.lists(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1), max_size=4))
def test_any_change_survives_every_form(changes):
    launch = Launch("run", 1, 2, arguments("r.yaml", changes, offline=False))
    for text in (
        launch_line(launch),
        slurm_script(launch).split("srun ")[1],
        yaml.safe_load(sky_task(launch, "L4"))["run"],
    ):
        assert words_of(text)[-len(changes) - 2 :] == ["run", "r.yaml", *changes]


def test_who_was_launched():
    two = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    assert launched(two)
    assert not launched({}) and not launched(two | {"WORLD_SIZE": "1"})
    assert not launched({"WORLD_SIZE": "4"})  # some other program's word


def test_one_file_at_a_time():
    with pytest.raises(UserError, match="one at a time"):
        start_of(MANY, True, "H100")


def test_the_verb_prints_and_runs_nothing(tmp_path):
    recipe = small_world(tmp_path / "world")
    run = lambda *more: subprocess.run(  # noqa: E731
        [sys.executable, "-m", "luthier", "run", str(recipe), "seed=3", *more],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    line = run("--gpus", "2")
    assert line.returncode == 0, line.stderr
    assert words_of(line.stdout)[:4] == ["torchrun", "--standalone", "--nproc-per-node", "2"]
    assert words_of(line.stdout)[-4:] == ["luthier", "run", str(recipe), "seed=3"]
    bash_reads(run("--nodes", "2", "--slurm").stdout)
    assert yaml.safe_load(run("--gpus", "4", "--sky", "H100").stdout)["resources"] == {"accelerators": "H100:4"}
    wrong = run("--gpus", "2", "seeds=1")
    assert wrong.returncode == 2 and "Did you mean" in wrong.stderr and not wrong.stdout
    assert not (tmp_path / "runs").exists()
