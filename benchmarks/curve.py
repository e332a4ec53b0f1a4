"""Learning curves, held to what happens: half of the demo's questions and answers are held back, the law through what
is left predicts the figures that all of them bring, and then all of them are trained on.

    python benchmarks/curve.py --out /tmp/curve      about 4 minutes alone on 2 cores

The pretraining is that of the demo with half of its steps. Ends with 1 where a prediction misses its interval.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from luthier.base.config import load_recipe
from luthier.base.events import EventLog
from luthier.evals.forecast import figure, shown
from luthier.evals.powerlaw import expected, exponent, fit_curve, forecast
from luthier.quiet import quiet
from luthier.run.curve import folder_of, grow, is_share, plan_curve, points_of
from luthier.run.upto import reached
from luthier.world.make import write_world

SIZES, SEEDS = ["1/16..1"], 2
CHANGES = ["threads=1", "samples=0", "stages.pretrain.epochs=0.5"]
PROBES = {
    "answers": {"kind": "answers", "data": "heldout_questions", "max_new_tokens": 60},
    "loss": {"kind": "loss", "data": "conversations"},
}


def main() -> int:
    """The table, and whether each prediction held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("/tmp/curve"))
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    quiet(downloads=False)
    world = asked.out / "world"
    if not (world / "recipe.yaml").exists():
        world.mkdir(parents=True, exist_ok=True)
        write_world(world, asked.seed)
    changes = [*CHANGES, f"out={json.dumps(str(asked.out / 'runs'))}", f"seed={asked.seed}"]
    changes += [f"evaluate={json.dumps(PROBES)}"]
    path = world / "recipe.yaml"
    recipe = load_recipe(path, changes)
    recipe = recipe.model_copy(update={"stages": recipe.stages[:2], "learning_curve": None})
    plan = plan_curve(recipe, SIZES, SEEDS)
    with reached(recipe, path, plan.index + 1) as context:
        log = EventLog(folder_of(context, plan) / "events.jsonl")
        found, failed = grow(context, plan, log)
        log.close()
    if failed:
        print(failed)
        return 1
    half, whole = [t for t in found if t.share <= 0.5], [t for t in found if t.share == 1]
    held = True
    for name, probe in plan.probes.items():
        share = is_share(probe)
        curve = fit_curve(points_of(half, name), share, asked.seed)
        n = whole[0].n
        for point in points_of(found, name):
            runs = [1 - e if share else e for e in point.errors_S.tolist()]
            print(f"{name:8} {point.n:5} examples: {'  '.join(f'{run:.3f}' for run in runs)}")
        said = forecast(curve, n, asked.seed, runs=len(whole))
        truth = float(points_of(whole, name)[0].errors_S.mean())
        inside = said.low <= truth <= said.high
        held &= inside
        b, mean = exponent(curve), shown(expected(curve, n), share)
        print(f"{name:8} exponent {b.value:.2f} [{b.low:.2f}, {b.high:.2f}], expected {figure(mean, share)}")
        print(
            f"{name:8} predicted from {curve.n} of {n} examples: {figure(shown(said, share), share)}; "
            f"measured {1 - truth if share else truth:.3f}: {'inside' if inside else 'OUTSIDE'}"
        )
    print(f"{sum(t.seconds for t in found):.0f} s of training")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
