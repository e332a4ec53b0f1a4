"""A pretrained base of six steps, and runs that go on from it with one stage or another: what the tests of ways to tune
share."""

from __future__ import annotations

import json
from pathlib import Path

from luthier.base.config import load_recipe
from luthier.run.stages import run_recipe
from run.small import small_world, write_rows

BASE = """\
name: small
threads: 1
samples: 1
answer_tokens: 6
base:
  fresh: {layers: 2, heads: 4, kv_heads: 2, vocab: 300, context: 96, %s}
data:
  corpus: {path: corpus.jsonl, format: text}
  questions: {path: questions.jsonl, format: qa}
  pairs: {path: pairs.jsonl, format: pairs}
stages:
  - {kind: pretrain, data: corpus, steps: 6, batch_tokens: 1024, learning_rate: 5.0e-3, evaluate_every_steps: 6}
"""


def pretrained(folder: Path, recipe: str) -> Path:
    """The folder with data in it, and the recipe's run in `out`."""
    small_world(folder)
    pairs = [
        {"prompt": f"Which colour has the cup {n}?", "chosen": "It is red.", "rejected": f"I do not know {n}."}
        for n in range(24)
    ]
    write_rows(folder / "pairs.jsonl", pairs)
    run_with(folder, folder / "out", recipe)
    return folder


def run_with(world: Path, out: Path, recipe: str, watchers=()) -> Path:
    """A recipe on that data, in `out`."""
    path = world / "recipe.yaml"
    path.write_text(recipe)
    return run_recipe(load_recipe(path, [f"out={json.dumps(str(out))}"]), path, watchers)


def interrupt(stage: str, step: int):
    """A watcher that ends the process' work as Ctrl-C does, once a stage has told of a step."""
    at = {"stage": None}

    def watch(event):
        at["stage"] = event.get("stage", at["stage"])
        if event["kind"] == "step" and event["step"] == step and at["stage"] == stage:
            raise KeyboardInterrupt

    return watch
