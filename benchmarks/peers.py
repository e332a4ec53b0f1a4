"""luthier beside its peers, in one run: the same model, tokens and arithmetic, A B A B, ratios of medians.

    python benchmarks/peers.py            the whole table, about an hour on 2 cores
    python benchmarks/peers.py sft        some of its work: sft, lora, preferences, sampling, flops
    python benchmarks/peers.py --shape 16M --rounds 3

The peers (TRL with PEFT, transformers' `generate`) get an environment of their own, made beside this file at the first
run. Each trainer is measured once at its default of 8 rows at a time, and, in turn with luthier, at the fastest of its
settings, each of which is tried first. TRL's padding-free batches and packing are left out: on a CPU their rows see
each other (log-probs of a row differ by whole nats from those of the row alone).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
PEERS = ("trl==1.16.0", *(f"{name}=={version(name).split('+')[0]}" for name in ("torch", "transformers", "peft")))
UNITS = {"sft": "tokens", "dpo": "pairs", "reward": "pairs", "rollouts": "tokens", "grpo": "steps"}


def environment(folder: Path) -> Path:
    """The peers' Python; made once, with the versions luthier itself runs with."""
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"making {folder} with {', '.join(PEERS)}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PEERS], check=True)
        (folder / "ready").touch()
    return python


class Side:
    """A program that works when it is told to."""

    def __init__(self, python: Path | str, script: str, job: dict[str, Any]) -> None:
        quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
        self.errors = open(HERE / ".peers.log", "a")  # noqa: SIM115  # `close` closes it
        self.process = subprocess.Popen(
            [python, HERE / script, json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=os.environ | quiet | {"PYTHONWARNINGS": "ignore"},
        )
        self.read()

    def read(self) -> dict[str, Any]:
        """One answer."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a side ended; what it said is in {HERE / '.peers.log'}")
        return json.loads(line)

    def go(self) -> dict[str, Any]:
        """Works once."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.read()

    def close(self) -> None:
        """Ends it."""
        self.process.communicate()
        self.errors.close()


def rate(found: dict[str, Any], task: str) -> float:
    """Work a second."""
    return found[UNITS[task]] / found["seconds"]


def best(python: Path, job: dict[str, Any], variants: list[dict[str, Any]]) -> dict[str, Any]:
    """The peer's fastest setting for a job, each tried once on one step."""
    tried = []
    for variant in variants:
        side = Side(python, "peer_theirs.py", job | variant | {"steps": 1})
        tried.append((rate(side.go(), job["task"]), variant))
        side.close()
        print(f"   {job['task']} {variant}: {tried[-1][0]:.1f} {UNITS[job['task']]}/s", file=sys.stderr)
    return max(tried, key=lambda t: t[0])[1]


class Work(NamedTuple):
    """A row of the table."""

    job: dict[str, Any]
    settings: list[dict[str, Any]]
    """Of the peer, to be tried for the fastest."""
    default: dict[str, Any] | None = None
    """What the peer does where nobody says otherwise."""


def compare(python: Path, work: Work, threads: int, rounds: int) -> dict[str, Any]:
    """A B A B: medians of both, their ratio, and the memory of each above weights, gradients and optimizer state."""
    job = {**work.job, "threads": threads}
    chosen = best(python, job, work.settings) if len(work.settings) > 1 else work.settings[0]
    sides = [Side(sys.executable, "peer_ours.py", job), Side(python, "peer_theirs.py", job | chosen)]
    found: list[list[dict[str, Any]]] = [[], []]
    for _ in range(rounds):
        for side, kept in zip(sides, found, strict=True):
            kept.append(side.go())
    for side in sides:
        side.close()
    usual: dict[str, Any] = {}
    if work.default is not None:
        side = Side(python, "peer_theirs.py", job | work.default | {"steps": 1})
        usual = side.go()
        side.close()
    ours, theirs = (statistics.median(rate(x, job["task"]) for x in kept) for kept in found)
    above = [kept[0].get("above") for kept in found]
    return {"job": job, "peer": chosen, "ours": ours, "theirs": theirs, "ratio": ours / theirs, "above": above,
            "usual": rate(usual, job["task"]) if usual else None, "usual_above": usual.get("above")}  # fmt: skip


def jobs(wanted: set[str], shapes: list[str]) -> Iterator[Work]:
    """Every row of the table with the peer's settings to try."""
    for shape in shapes:
        # What is 8 rows of 32 at a time takes minutes a step at 100M; its ratio is that of 16M.
        default = {"accumulate": 4} if shape == "16M" else None
        cut = [{"accumulate": n} for n in ((8, 16, 32) if shape == "16M" else (16, 32))]
        for adapter in ("none", "lora"):
            if ("sft" if adapter == "none" else "lora") in wanted:
                for dtype in ("fp32", "bf16"):
                    job = {"task": "sft", "shape": shape, "dtype": dtype, "adapter": adapter, "rows": 32, "steps": 2}
                    yield Work(job, cut, default)
    for dtype in ("fp32", "bf16"):
        plain = {"shape": "16M", "dtype": dtype, "adapter": "none"}
        if "preferences" in wanted:
            for task in ("dpo", "reward"):
                cut = [{"accumulate": n} for n in (4, 8, 16)]
                yield Work({"task": task, **plain, "rows": 16, "steps": 2}, cut, {"accumulate": 2})
        if "sampling" in wanted and dtype == "fp32":
            yield Work(
                {"task": "rollouts", **plain, "prompts": 16, "longest": 128}, [{"batch": n} for n in (2, 4, 8, 16)]
            )
            grpo = {"task": "grpo", **plain, "rows": 8, "steps": 2, "longest": 128}
            yield Work(grpo, [{"accumulate": n} for n in (1, 8, 32)])


def main() -> None:
    """Runs what was asked for and prints the table, then the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", nargs="*", default=["sft", "lora", "preferences", "sampling", "flops"])
    parser.add_argument("--shape", choices=("16M", "100M"), action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--environment", type=Path, default=HERE / ".peers")
    asked = parser.parse_args()
    python = environment(asked.environment)
    shapes = asked.shape or ["16M", "100M"]
    print(f"{' '.join(PEERS)}; {asked.threads} threads; A B x {asked.rounds} (100M: at most 2), medians\n")
    print("| work | luthier | peer, 8 rows at a time | ratio | memory | peer at its best | ratio | memory |")
    print("|---|---|---|---|---|---|---|---|")
    told = []
    for work in jobs(set(asked.work), shapes):
        # A step at 100M takes ten times as long as one at 16M.
        row = compare(python, work, asked.threads, min(asked.rounds, 2 if work.job["shape"] == "100M" else 99))
        told.append(row)
        print(line(row), flush=True)
    if "flops" in asked.work:
        for dtype in ("fp32", "bf16"):
            print(flops(dtype, asked.threads, asked.rounds), flush=True)
    print("\n" + json.dumps(told))


def line(row: dict[str, Any]) -> str:
    """A row of the table. Memory is luthier's and the peer's above weights, gradients and optimizer state, in MiB."""
    job, unit = row["job"], UNITS[row["job"]["task"]]
    name = " ".join(x for x in (job["task"], job["shape"], job["dtype"], job["adapter"]) if x != "none")
    setting = ", ".join(f"{key} {value}" for key, value in row["peer"].items())
    mine = row["above"][0]
    cells = [name, f"{row['ours']:.3g} {unit}/s"]
    if row["usual"] is not None:
        cells += [f"{row['usual']:.3g}", f"{row['ours'] / row['usual']:.1f}", memory(mine, row["usual_above"])]
    else:
        cells += ["", "", ""]
    cells += [f"{row['theirs']:.3g} ({setting})", f"{row['ratio']:.2f}", memory(mine, row["above"][1])]
    return f"| {' | '.join(cells)} |"


def memory(ours: int | None, theirs: int | None) -> str:
    """Both, and their ratio."""
    if not ours or not theirs:
        return ""
    return f"{ours / 2**20:.0f} / {theirs / 2**20:.0f} = {ours / theirs:.2f}"


def flops(dtype: str, threads: int, rounds: int) -> str:
    """Training FLOP/s at 100M as a share of the machine's own product's."""
    job = {"task": "sft", "shape": "100M", "dtype": dtype, "adapter": "none", "rows": 32, "steps": 2,
           "threads": threads}  # fmt: skip
    sides = [Side(sys.executable, "peer_ours.py", job | {"task": task}) for task in ("sft", "matmul")]
    sides[1].go()
    rates: list[list[float]] = [[], []]
    for _ in range(rounds):
        for side, kept in zip(sides, rates, strict=True):
            found = side.go()
            kept.append(found["flops"] / found["seconds"])
    for side in sides:
        side.close()
    ours, machine = (statistics.median(kept) for kept in rates)
    name, said = f"training FLOP/s, 100M {dtype}", f"{machine / 1e9:.0f} (product alone)"
    return f"| {name} | {ours / 1e9:.0f} GFLOP/s | {said} | {ours / machine:.2f} | | | | |"


if __name__ == "__main__":
    main()
