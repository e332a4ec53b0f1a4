"""A base of a few steps for the tests of grpo and best_of to start from, with rewards in a file beside the recipe."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from luthier.base.config import load_recipe
from luthier.run.stages import run_recipe
from run.small import small_world

RECIPE = """\
name: small
threads: 1
samples: 1
answer_tokens: 6
base:
  fresh: {layers: 2, width: 32, heads: 4, kv_heads: 2, vocab: 300, context: 96}
data:
  corpus: {path: corpus.jsonl, format: text}
  questions: {path: questions.jsonl, format: qa, limit: 60}
stages:
  - {kind: pretrain, data: corpus, steps: 6, batch_tokens: 1024, learning_rate: 5.0e-3, evaluate_every_steps: 6}
  - {kind: sft, data: questions, steps: 12, batch_tokens: 1024, learning_rate: 1.0e-2, evaluate_every_steps: 12}
"""

REWARDS = '''\
"""What the tests like in an answer."""


def short(messages, answer, row):
    return -len(answer) / 10


def named(messages, answer, row):
    assert row.answer is not None and messages[-1].role == "user"
    return any(value in answer for value in row.accept)


def odd(messages, answer, row):
    return len(answer) % 2


def raises(messages, answer, row):
    return 1 / (len(answer) * 0)


def nothing(messages, answer, row):
    return None


def endless(messages, answer, row):
    return float("nan")


def leaves(messages, answer, row):
    raise SystemExit(3)


def two(messages, answer):
    return 1.0
'''


def rewarded_world(folder: Path) -> Path:
    """Writes the data and the rewards, and trains the base."""
    small_world(folder)
    (folder / "rewards.py").write_text(REWARDS)
    run_stages(folder, folder / "out", "")
    return folder


def run_stages(world: Path, out: Path, stages: str, watchers=(), data="") -> Path:
    """Runs the base with more stages behind it."""
    path = world / "recipe.yaml"
    path.write_text(RECIPE.replace("stages:\n", data + "stages:\n") + stages)
    return run_recipe(load_recipe(path, [f"out={json.dumps(str(out))}"]), path, watchers)


def with_base(world: Path, out: Path) -> Path:
    """A run's folder in which the base is finished."""
    shutil.copytree(world / "out", out)
    return out


def interrupt(stage: str, step: int):
    """A watcher that ends the work as Ctrl-C does, once a stage has told of a step."""
    at = {"stage": None}

    def watch(event):
        at["stage"] = event.get("stage", at["stage"])
        if event["kind"] == "step" and event["step"] == step and at["stage"] == stage:
            raise KeyboardInterrupt

    return watch
