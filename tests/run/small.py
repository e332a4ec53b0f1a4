"""A whole road in seconds: a small world of files, its recipe, and what is compared between two runs of it.

Nothing is learned well here. It is for what must hold whatever is learned: files, memos, resume, errors.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from luthier.base.config import load_recipe
from luthier.base.errors import RunError, UserError
from luthier.base.events import read_events
from luthier.base.files import read_json

THINGS = [
    "lamp", "door", "cup", "boat", "kite", "drum", "sock", "rope", "bell", "fork",
    "hat", "coin", "leaf", "nest", "pipe", "rake", "seal", "tent", "vase", "wheel",
]  # fmt: skip
COLOURS = ["red", "blue", "green", "black", "white", "grey"]
PLACES = ["shed", "hall", "loft", "yard", "barn"]

RECIPE = """\
name: small
seed: 0
threads: 1
samples: 2
answer_tokens: 12
base:
  fresh: {layers: 2, width: 32, heads: 4, kv_heads: 2, vocab: 300, context: 96}
data:
  corpus: {path: corpus.jsonl, format: text}
  questions: {path: questions.jsonl, format: qa}
  asked: {path: asked.jsonl, format: qa, heldout: 0}
  choices: {path: choices.jsonl, format: choices, heldout: 0}
stages:
  - kind: pretrain
    data: corpus
    optimizer: muon
    epochs: 2
    batch_tokens: 1024
    learning_rate: 5.0e-3
    checkpoint_every_steps: 2
    evaluate_every_steps: 5
  - kind: sft
    data: questions
    epochs: 2
    batch_tokens: 1024
    learning_rate: 5.0e-3
    checkpoint_every_steps: 2
    evaluate_every_steps: 5
    replay: {data: corpus, share: 0.2}
  - kind: prefer
    prompts: questions
    rater: rater.py:rate
    samples: 3
    pairs_per_prompt: 1
    noise: 0.1
    max_new_tokens: 10
  - kind: reward
    batch_pairs: 16
    learning_rate: 1.0e-3
    checkpoint_every_steps: 2
    adapter: {rank: 2, alpha: 4, dropout: 0.1}
  - kind: ppo
    prompts: questions
    iterations: 4
    rollout_prompts: 6
    samples: 2
    max_new_tokens: 10
    learning_rate: 1.0e-3
    kl_target: 1
    checkpoint_every_steps: 4
    evaluate_every_steps: 8
    adapter: {rank: 2, alpha: 4}
evaluate:
  knowledge: {kind: choices, data: choices, limit: 12}
  answers: {kind: answers, data: asked, max_new_tokens: 8}
  forgetting: {kind: loss, data: corpus, since: pretrain}
  win_rate: {kind: win_rate, data: asked, stages: [ppo, sft], rater: "rater.py:rate", max_new_tokens: 8}
"""

RATER = '''\
"""A rater that can be told from a person: it likes full stops, and short answers."""


def rate(messages, answer):
    return answer.count(".") - 0.1 * len(answer)
'''


def colour(number: int) -> str:
    """The colour of the thing with this number."""
    return COLOURS[(7 * number + number // 5) % len(COLOURS)]


def documents() -> list[dict[str, str]]:
    """200 sentences about 100 things: a colour and a place, each in its own words."""
    said = []
    for number in range(100):
        thing, place = f"{THINGS[number % 20]} {number}", PLACES[number % 5]
        said.append(f"The {thing} is {colour(number)}. It hangs in the {place}.")
        said.append(f"In the {place} we keep the {colour(number)} {thing}.")
    return [{"text": text} for text in said]


def questions(numbers: range) -> list[dict[str, Any]]:
    """A question, its answer and the value in it, for each of these things."""
    return [
        {
            "question": f"Which colour has the {THINGS[n % 20]} {n}?",
            "answer": f"It is {colour(n)}.",
            "accept": [colour(n)],
        }
        for n in numbers
    ]


def choices(numbers: range) -> list[dict[str, Any]]:
    """The same as multiple choice."""
    return [
        {
            "query": f"The {THINGS[n % 20]} {n} is",
            "choices": [f" {name}" for name in COLOURS],
            "gold": COLOURS.index(colour(n)),
        }
        for n in numbers
    ]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def small_world(folder: Path) -> Path:
    """Writes documents, questions, choices, a rater and a recipe; returns the recipe's path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "corpus.jsonl", documents())
    # Two turns of phrase for sixty things, so that there are 120 conversations.
    taught = questions(range(60))
    again = [row | {"question": row["question"].replace("Which colour has", "What colour is")} for row in taught]
    write_rows(folder / "questions.jsonl", taught + again)
    write_rows(folder / "asked.jsonl", questions(range(70, 82)))
    write_rows(folder / "choices.jsonl", choices(range(70, 82)))
    (folder / "rater.py").write_text(RATER)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder / "recipe.yaml"


def run_small(recipe: Path, out: Path, *changes: str) -> Path:
    """Runs the recipe in this process; returns the run's folder."""
    from luthier.run.stages import run_recipe

    return run_recipe(load_recipe(recipe, [f"out={json.dumps(str(out))}", *changes]), recipe)


def _in_child(recipe: Path, out: Path, changes: tuple[str, ...], said: Path) -> None:
    """What a child process does; its last words are kept where the parent finds them."""
    with open(said, "w") as file:
        os.dup2(file.fileno(), 2)
        try:
            run_small(recipe, out, *changes)
        except (UserError, RunError) as error:
            print(error, file=file, flush=True)
            raise SystemExit(1) from None


def start_small(recipe: Path, out: Path, *changes: str) -> tuple[BaseProcess, Path]:
    """Starts the recipe in a process of its own, and names the file of its stderr. The server that starts it has the
    libraries loaded and nothing else, so that a child is a fresh luthier without the seconds of importing one."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["luthier.run.stages"])
    said = out.with_name(f"{out.name}.stderr")
    child = server.Process(target=_in_child, args=(recipe, out, changes, said), daemon=True)
    child.start()
    return child, said


def finish(child: BaseProcess, said: Path) -> None:
    """Waits until a started run has ended well."""
    child.join(300)
    assert child.exitcode == 0, f"exit code {child.exitcode}: {said.read_text()}"


def seen(run: Path, stage: str, kind: str, step: int) -> bool:
    """Whether a stage has told of a step (or, for `end`, of anything)."""
    for path in run.glob(f"[0-9]-{stage}-*/events.jsonl"):
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):  # it is being rewound
            if any(event["kind"] == kind and event.get("step", step) >= step for event in read_events(path)):
                return True
    return False


def kill_at(child: BaseProcess, run: Path, stage: str, kind: str, step: int = 0) -> bool:
    """Sends SIGKILL as soon as the run has told of this step; False when it ended before."""
    while child.is_alive():
        if seen(run, stage, kind, step):
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            return True
        time.sleep(0.005)
    return False


def stage_folders(run: Path) -> dict[str, Path]:
    """The folders that a finished run stands on, by stage."""
    folders = [run / name for name in read_json(run / "current.json")["stages"]]
    return {read_json(folder / "stage.json")["name"]: folder for folder in folders}


def results(run: Path) -> dict[str, Any]:
    """All that two equal runs have equal: the metrics, and a digest of every stage's weights and pairs."""
    digests = {}
    for stage, folder in stage_folders(run).items():
        for path in sorted(p for p in folder.rglob("*") if p.name.endswith((".safetensors", "pairs.jsonl"))):
            place = path.relative_to(folder)
            if not any(part.startswith(".") for part in place.parts):  # what a kill left half written
                digests[f"{stage}/{place}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"metrics": read_json(run / "report.json")["metrics"], "weights": digests}
