"""The whole road on real input: the recipe of recipes/real-stories260k.yaml, and the bars its figures must meet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.threads
@pytest.mark.xdist_group("real")
def test_the_real_recipe_meets_its_figures(shared_data: Path, tmp_path: Path):
    command = [sys.executable, "-m", "luthier", "run", str(ROOT / "recipes/real-stories260k.yaml"), "--offline"]
    done = subprocess.run(
        [*command, f"out={tmp_path}"],
        capture_output=True,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    metrics = json.loads((tmp_path / "real-stories260k/report.json").read_text())["metrics"]

    def loss(probe: str, after: str) -> float:
        return metrics[probe][after]["loss"]["value"]

    base, learnt = loss("handbook", "base"), loss("handbook", "handbook")
    assert learnt <= 0.5 * base
    assert loss("questions", "sft") <= 0.4 * loss("questions", "base")
    assert loss("questions", "sft_replay") <= 0.4 * loss("questions", "base")
    # Tuning without replay makes the model forget the handbook; replay keeps at least half of that.
    forgotten, with_replay = loss("handbook", "sft") - learnt, loss("handbook", "sft_replay") - learnt
    assert forgotten > 0
    assert with_replay <= 0.5 * forgotten
    accuracy = metrics["reward"]["accuracy"]
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"] and accuracy["n"] > 50
    assert loss("forgetting", "base") < loss("forgetting", "sft")
    arc = metrics["arc_easy"]["base"]
    assert arc["n"] + arc["left_out"] == 800 and arc["left_out"] == 1  # one item is longer than the context of 512
