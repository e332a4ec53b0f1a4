"""How a run in many processes is started: the launch line, a Slurm script and a SkyPilot task, from one record.

All three start `torchrun`, once on each machine, which starts `luthier run` once for each GPU; that finds in its
environment which of the processes it is. Nothing here is run. No torch.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from luthier.base.errors import UserError

PORT = 29500
"""Where the machines meet, on the first of them."""


@dataclass(frozen=True)
class Launch:
    """What is to be started where."""

    name: str
    """The run's."""
    nodes: int
    """Machines."""
    gpus: int
    """Processes on each: as many as it has GPUs, or, without any, as one wants."""
    arguments: tuple[str, ...]
    """What follows `luthier`: run, the recipe, its changes."""

    @property
    def command(self) -> str:
        """What each process is."""
        return f"-m luthier {shlex.join(self.arguments)}"


def launched(environment: Mapping[str, str]) -> bool:
    """Whether a launcher has started this process as one of several."""
    return int(environment.get("WORLD_SIZE", "1")) > 1 and {"RANK", "LOCAL_RANK", "MASTER_ADDR"} <= environment.keys()


def arguments(recipe: str, changes: Sequence[str], offline: bool) -> tuple[str, ...]:
    """What follows `luthier` on each process's command line."""
    return ("run", recipe, *changes, *(["--offline"] if offline else []))


def meeting(nodes: str, processes: str, job: str) -> str:
    """torchrun's options for machines that meet at the first, $HEAD."""
    return (
        f"torchrun --nnodes {nodes} --nproc-per-node {processes} "
        f'--rdzv-backend c10d --rdzv-endpoint "$HEAD:{PORT}" --rdzv-id {job}'
    )


def launch_line(launch: Launch) -> str:
    """The line to type: on the one machine, or, with HEAD set to the first one's address, on each of several."""
    if launch.nodes == 1:
        return f"torchrun --standalone --nproc-per-node {launch.gpus} {launch.command}"
    options = meeting(str(launch.nodes), str(launch.gpus), shlex.quote(launch.name))
    return f"{options} {launch.command}"


def start_of(launch: Launch, slurm: bool, sky: str | None) -> str:
    """The file that is asked for, or the launch line. Raises UserError where two are."""
    if slurm and sky is not None:
        raise UserError("--slurm and --sky are two files: ask for one at a time.")
    return slurm_script(launch) if slurm else launch_line(launch) if sky is None else sky_task(launch, sky)


def slurm_script(launch: Launch) -> str:
    """A batch script for `sbatch`. The environment that it is submitted from must find `torchrun` and `luthier`, and
    all machines must see the same folder."""
    return f"""\
#!/bin/bash
#SBATCH --job-name={launch.name}
#SBATCH --nodes={launch.nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={launch.gpus}
#SBATCH --output={launch.name}-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
# Started again, after a time limit or a lost machine, it goes on from the last checkpoint.
set -euo pipefail
HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
export HEAD
srun --kill-on-bad-exit=1 {meeting('"$SLURM_JOB_NUM_NODES"', str(launch.gpus), '"$SLURM_JOB_ID"')} \\
    {launch.command}
"""


def sky_task(launch: Launch, gpu: str) -> str:
    """A SkyPilot task for `sky launch`: as many machines with as many GPUs of a kind. The folder that it is launched
    from goes along, and the run's folder should be on a disk that stays."""
    options = meeting('"$SKYPILOT_NUM_NODES"', '"$SKYPILOT_NUM_GPUS_PER_NODE"', '"$SKYPILOT_TASK_ID"')
    return f"""\
name: {json.dumps(launch.name)}
num_nodes: {launch.nodes}
workdir: .
resources:
  accelerators: {json.dumps(f"{gpu}:{launch.gpus}")}
setup: |
  pip install luthier
# Started again, it goes on from the last checkpoint, where the run's folder has stayed.
run: |
  set -euo pipefail
  export HEAD=$(echo "$SKYPILOT_NODE_IPS" | sed -n 1p)
  {options} \\
    {launch.command}
"""
