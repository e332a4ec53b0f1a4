"""The demo's bars, seed by seed: python benchmarks/demo.py [--quick] [--json] [--seeds 0 1 2]

Runs `luthier demo` for each seed in a folder of its own and holds report.json against the bars. `--quick`: one seed.
Takes about 4 minutes a seed on 2 CPU cores. Costs nothing but time; the folders are removed unless --keep is given.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BARS = {  # figure: (least, most)
    "knowledge.pretrain": (0.95, None),
    "knowledge.sft": (0.93, None),
    "knowledge.ppo": (0.93, None),
    "answers.base": (None, 0.05),
    "answers.sft": (0.95, None),
    "answers.ppo_minus_sft": (-0.02, None),
    "reward.accuracy": (0.85, None),
    "reward.accuracy_above_length_baseline": (0.0, None),
    "win_rate.ppo_vs_sft": (0.75, None),
    "win_rate.ppo_vs_sft.low": (0.6, None),
    "seconds": (None, 240),
    "peak_gb": (None, 2.0),
}


def figures_of(report: dict) -> dict[str, float]:
    """The figures that have bars."""
    m = report["metrics"]
    flat = {
        f"{g}.{k}": m[g][k]["value"]
        for g, k in (
            ("knowledge", "pretrain"),
            ("knowledge", "sft"),
            ("knowledge", "ppo"),
            ("answers", "base"),
            ("answers", "sft"),
            ("reward", "accuracy"),
            ("win_rate", "ppo_vs_sft"),
        )
    }
    return flat | {
        "answers.ppo_minus_sft": m["answers"]["ppo"]["value"] - m["answers"]["sft"]["value"],
        "reward.accuracy_above_length_baseline": m["reward"]["accuracy"]["value"]
        - m["reward"]["length_baseline"]["high"],
        "win_rate.ppo_vs_sft.low": m["win_rate"]["ppo_vs_sft"]["low"],
        "forgetting.sft": m["forgetting"]["sft"]["value"],
        "forgetting.ppo": m["forgetting"]["ppo"]["value"],
        "seconds": report["seconds"],
        "peak_gb": report["peak_bytes"] / 1e9,
    }


def missed(figures: dict[str, float]) -> list[str]:
    """Bars that do not hold. Differences of shares are compared to a rounding error."""
    low = [n for n, (least, _) in BARS.items() if least is not None and figures[n] < least - 1e-9]
    high = [n for n, (_, most) in BARS.items() if most is not None and figures[n] > most + 1e-9]
    return low + high


def main() -> None:
    """Runs the seeds, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    seeds = options.seeds[:1] if options.quick else options.seeds
    root = options.keep or Path(tempfile.mkdtemp())
    found: dict[int, dict[str, float]] = {}
    for seed in seeds:
        command = [sys.executable, "-m", "luthier", "demo", "--seed", str(seed), "--out", str(root / f"seed{seed}")]
        subprocess.run(command, check=True, stdout=sys.stderr)
        found[seed] = figures_of(json.loads((root / f"seed{seed}" / "demo" / "report.json").read_text()))
    if options.keep is None:
        shutil.rmtree(root)
    print("figure".ljust(42), *(f"seed {s}".rjust(9) for s in seeds), "bar")
    for name in found[seeds[0]]:
        least, most = BARS.get(name, (None, None))
        bar = f"≥ {least}" if least is not None else f"≤ {most}" if most is not None else ""
        print(name.ljust(42), *(f"{found[s][name]:9.3f}" for s in seeds), bar)
    misses = {s: missed(found[s]) for s in seeds}
    for seed, names in misses.items():
        if names:
            print(f"seed {seed} misses: {', '.join(names)}")
    if options.json:
        holds = not any(misses.values())
        print(json.dumps({"name": "demo", "figures": {str(s): found[s] for s in seeds}, "bars": BARS, "holds": holds}))


if __name__ == "__main__":
    main()
