"""luthier beside its peers, in one run: the same model, tokens and arithmetic, A B A B, ratios of medians.

    python benchmarks/peers.py            the whole table, about 40 minutes on 2 cores
    python benchmarks/peers.py sft        some of its work: sft, lora, preferences, sampling, flops
    python benchmarks/peers.py --shape 16M --rounds 3

The peers (TRL with PEFT, transformers' `generate`) get an environment of their own, made beside this file at the first
run. Each peer first tries its settings once and keeps the fastest that is right. TRL's padding-free batches are left
out: on a CPU their rows see each other (log-probs of a row differ by whole nats from those of the row alone).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path
from typing import Any

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


def compare(python: Path, job: dict[str, Any], variants: list[dict[str, Any]], rounds: int) -> dict[str, Any]:
    """A B A B: medians of both, their ratio, and the memory of each above weights, gradients and optimizer state."""
    chosen = best(python, job, variants) if len(variants) > 1 else variants[0]
    sides = [Side(sys.executable, "peer_ours.py", job), Side(python, "peer_theirs.py", job | chosen)]
    found: list[list[dict[str, Any]]] = [[], []]
    for _ in range(rounds):
        for side, kept in zip(sides, found, strict=True):
            kept.append(side.go())
    for side in sides:
        side.close()
    ours, theirs = (statistics.median(rate(x, job["task"]) for x in kept) for kept in found)
    above = [kept[0].get("above") for kept in found]
    return {"job": job, "peer": chosen, "ours": ours, "theirs": theirs, "ratio": ours / theirs, "above": above,
            "flops": statistics.median(x.get("flops", 0.0) / x["seconds"] for x in found[0])}  # fmt: skip


def jobs(wanted: set[str], shapes: list[str]) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Every row of the table with the peer's settings to try."""
    cut = [{"accumulate": n} for n in (4, 8, 16, 32)]
    rows: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    for shape in shapes:
        for adapter in ("none", "lora"):
            if ("sft" if adapter == "none" else "lora") in wanted:
                for dtype in ("fp32", "bf16"):
                    steps = {"rows": 32, "steps": 2}
                    rows.append(({"task": "sft", "shape": shape, "dtype": dtype, "adapter": adapter, **steps}, cut))
    plain = {"shape": "16M", "dtype": "fp32", "adapter": "none"}
    halves = [{"accumulate": n} for n in (1, 2, 4, 8)]
    if "preferences" in wanted:
        rows += [({"task": task, **plain, "rows": 16, "steps": 2}, halves) for task in ("dpo", "reward")]
    if "sampling" in wanted:
        batches = [{"batch": n} for n in (2, 4, 8, 16)]
        rows.append(({"task": "rollouts", **plain, "prompts": 16, "longest": 128}, batches))
        grpo = {"task": "grpo", **plain, "rows": 8, "steps": 2, "longest": 128}
        rows.append((grpo, [{"accumulate": n} for n in (1, 4, 8)]))
    return rows


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
    print(f"{' '.join(PEERS)}; {asked.threads} threads; A B x {asked.rounds}, medians\n")
    print("| work | luthier | peer | ratio | memory above state | peer's best setting |\n|---|---|---|---|---|---|")
    told = []
    for job, variants in jobs(set(asked.work), shapes):
        row = compare(python, {**job, "threads": asked.threads}, variants, asked.rounds)
        told.append(row)
        print(line(row), flush=True)
    if "flops" in asked.work:
        for dtype in ("fp32", "bf16"):
            print(flops(told, dtype, asked.threads, asked.rounds), flush=True)
    print("\n" + json.dumps(told))


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    job, unit = row["job"], UNITS[row["job"]["task"]]
    name = " ".join(x for x in (job["task"], job["shape"], job["dtype"], job["adapter"]) if x != "none")
    memory = ""
    if all(row["above"]):
        ours, theirs = (x / 2**20 for x in row["above"])
        memory = f"{ours:.0f} / {theirs:.0f} MiB = {ours / theirs:.2f}"
    setting = ", ".join(f"{key} {value}" for key, value in row["peer"].items())
    return (
        f"| {name} | {row['ours']:.4g} {unit}/s | {row['theirs']:.4g} {unit}/s | {row['ratio']:.2f} "
        f"| {memory} | {setting} |"
    )


def flops(told: list[dict[str, Any]], dtype: str, threads: int, rounds: int) -> str:
    """Training FLOP/s at 100M (of the row measured above, or now) as a share of the machine's own product's."""
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
    return f"| {name} | {ours / 1e9:.0f} GFLOP/s | {said} | {ours / machine:.2f} | | |"


if __name__ == "__main__":
    main()
