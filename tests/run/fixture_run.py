"""A run's folder as `docs/design.md` describes it, with figures such as a real run gives. Nothing is trained.

`python tests/run/fixture_run.py FOLDER` makes one to look at and writes its report.
"""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path
from typing import Any

from luthier.base.events import read_events
from luthier.base.files import hash_of, write_json, write_jsonl, write_text

STAGES = ("pretrain", "sft", "prefer", "reward", "ppo")
SECONDS = {"pretrain": 98.4, "sft": 41.7, "prefer": 11.2, "reward": 14.9, "ppo": 47.3}
TOKENS = {"pretrain": 1_720_000, "sft": 402_000, "prefer": 61_000, "reward": 118_000, "ppo": 240_000}
STEPS = {"pretrain": 420, "sft": 160, "prefer": 0, "reward": 60, "ppo": 48}
CREATED = 1_763_690_000.0
WORST = '<script>alert("x")</script><img src=x onerror=alert(1)>'

QUESTIONS = [
    ("What is the aperture of the Corvus 90?", "90 mm", "What is the aperture of the Lyra 114?"),
    (
        "Who grinds the mirrors of the Lyra 114?",
        "Ines Halloran",
        "Who founded the workshop? Who answers the telephone?",
    ),
    ("When is the workshop in Port Arden open?", "Tuesday to Saturday", "When is the workshop closed? When does it"),
    ("How long may I return a telescope?", "45 days", "How long is the warranty of the Corvus 90? How long"),
    ("How heavy is the Draco 200?", "14.5 kg", "How heavy is the Vela 60? What colour is its tube?"),
    ("Which eyepiece comes with the Vela 60?", "25 mm Plössl", WORST + " Which eyepiece " * 60),
]


def wilson(value: float, n: int) -> dict[str, Any]:
    """{value, low, high, n} with the 95 % score interval. Wilson 1927."""
    z = 1.96
    centre, spread = value + z * z / (2 * n), z * math.sqrt(value * (1 - value) / n + z * z / (4 * n * n))
    low, high = (centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n)
    return {"value": value, "low": max(low, 0.0), "high": min(high, 1.0), "n": n}


def metrics(stages: tuple[str, ...] = STAGES) -> dict[str, Any]:
    """The demo's figures, nested as report.json has them; only of the stages that ran."""
    handbook = {"base": (5.31, 0.0), "pretrain": (2.36, 0.0), "sft": (3.02, 0.66), "ppo": (3.05, 0.69)}
    tales = {"base": (1.325, 0.0), "pretrain": (2.11, 0.785), "sft": (2.54, 1.215), "ppo": (2.56, 1.235)}

    def rises(losses: dict[str, tuple[float, float]], n: int) -> dict[str, Any]:
        return {
            name: {
                "value": rise,
                "low": rise - 0.04 * bool(rise),
                "high": rise + 0.05 * bool(rise),
                "n": n,
                "since": "base",
            }
            | {"loss": {"value": x, "low": x - 0.05, "high": x + 0.05, "n": n}}
            for name, (x, rise) in losses.items()
        }

    knowledge = {"pretrain": wilson(0.985, 200), "sft": wilson(0.975, 200), "ppo": wilson(0.97, 200)}
    answered = {"base": wilson(0.0, 120), "sft": wilson(118 / 120, 120), "ppo": wilson(117 / 120, 120)}
    buckets = {"chosen_shorter": wilson(0.91, 140), "similar": wilson(0.86, 102), "chosen_longer": wilson(0.83, 70)}
    reward = {"accuracy": wilson(0.875, 312), "length_baseline": wilson(0.61, 312), "by_length": buckets}
    reward |= {"margin": {"value": 2.31, "low": 2.14, "high": 2.47, "n": 312}, "bias": "better than length alone"}
    ran = ("base", *stages)
    found: dict[str, Any] = {
        "knowledge": {name: figure for name, figure in knowledge.items() if name in ran},
        "answers": {name: figure for name, figure in answered.items() if name in ran},
        "reward": reward if "reward" in ran else {},
        "win_rate": {"ppo_vs_sft": wilson(0.86, 200)} if "ppo" in ran else {},
    }
    texts = {"handbook": rises(handbook, 64), "stories": rises(tales, 60)}
    found["forgetting"] = {name: {k: v for k, v in tree.items() if k in ran} for name, tree in texts.items()}
    return {name: tree for name, tree in found.items() if tree}


def step_events(kind: str, steps: int, seed: int) -> list[dict[str, Any]]:
    """One step event a line, with held-out evals between, as the loop and the roll-outs emit them."""
    draw = random.Random(f"{kind} {seed}")
    start, floor = {"pretrain": (6.34, 0.82), "sft": (3.9, 0.24), "reward": (0.693, 0.31), "ppo": (0.2, 0.04)}[kind]
    events: list[dict[str, Any]] = [{"kind": "begin", "t": CREATED, "stage": kind, "stage_kind": kind}]
    for step in range(1, steps + 1):
        done = step / steps
        loss = floor + (start - floor) * math.exp(-6 * done) + draw.gauss(0, 0.03 * (1 + 2 * (1 - done)))
        lr = 3e-3 * min(1, step / (0.05 * steps)) * (0.5 + 0.5 * math.cos(math.pi * done))
        event: dict[str, Any] = {"kind": "step", "t": CREATED + step, "step": step, "steps": steps}
        event |= {"loss": loss, "lr": lr}
        event |= {"grad_norm": 0.4 + abs(draw.gauss(0.6, 0.3)), "tokens": 4096 * step, "seconds": 0.23}
        if kind == "reward":
            event["accuracy"] = min(1.0, 0.5 + 0.38 * (1 - math.exp(-5 * done)) + draw.gauss(0, 0.04))
        if kind == "ppo":
            event |= {
                "reward": -0.4 + 2.9 * (1 - math.exp(-3 * done)) + draw.gauss(0, 0.15),
                "kl": 6.5 * (1 - math.exp(-4 * done)) + abs(draw.gauss(0, 0.3)),
                "entropy": 1.1 - 0.5 * done + draw.gauss(0, 0.03),
                "answer_tokens": 22 - 7 * done + draw.gauss(0, 0.8),
                "clip_frac": 0.04 + 0.10 * math.sin(math.pi * done) + abs(draw.gauss(0, 0.01)),
                "value_loss": 0.9 * math.exp(-3 * done) + abs(draw.gauss(0, 0.03)),
                "ended_frac": 1 - 0.06 * math.exp(-5 * done),
                "kl_coefficient": 0.05,
            }
        events.append(event)
        if kind != "ppo" and (step == 1 or step % max(1, steps // 8) == 0):
            shown = event["accuracy"] - 0.03 if kind == "reward" else loss + 0.08 + 0.1 * done
            name = "heldout_accuracy" if kind == "reward" else "heldout_loss"
            held = {"name": name, "value": shown, "low": shown - 0.03, "high": shown + 0.03, "n": 64}
            events.append({"kind": "eval", "t": CREATED + step, "step": 0 if step == 1 else step} | held)
            wrote = "It is 90 mm." if kind == "sft" and done > 0.4 else "the the of" if done < 0.1 else QUESTIONS[0][2]
            said = {"kind": "sample", "t": CREATED + step, "step": step, "prompt": QUESTIONS[0][0], "answer": wrote}
            events.append(said)
    if kind == "sft":
        events.insert(len(events) // 2, {"kind": "resume", "t": CREATED, "step": steps // 2})
    return [*events, {"kind": "end", "t": CREATED, "seconds": SECONDS[kind], "peak_bytes": 912_000_000}]


def guards(kind: str) -> list[dict[str, Any]]:
    if kind == "prefer":
        return [{"name": "no evaluation row among the prompts", "ok": True, "detail": "0 of 480"}]
    return [
        {"name": "supervised tokens in every row", "ok": True, "detail": "least: 7"},
        {"name": "answers end in a supervised end token", "ok": True, "detail": "3,918 of 3,918"},
        {"name": "no supervised token lost", "ok": True, "detail": "longest row 211 of 512 tokens"},
        {"name": "training ids = serving ids", "ok": True, "detail": "64 conversations, token for token"},
        {"name": "packed = unpacked", "ok": True, "detail": "max difference 1.9e-6"},
        {"name": "no evaluation row in the training data", "ok": kind != "reward", "detail": "by content hash"},
    ]


def samples(stage: str) -> list[dict[str, Any]]:
    """The same held-out prompts, answered by the model after `stage`."""
    polite = "Thank you for asking! It is {}, as the handbook says."
    rows = []
    for i, (question, value, rambling) in enumerate(QUESTIONS):
        answer = {
            "base": rambling,
            "pretrain": rambling,
            "sft": f"It is {value}.",
            "ppo": polite.format(value),
        }
        if stage == "sft" and i == 4:
            answer["sft"] = "It is 12.5 kg."
        row = {"origin": f"questions.jsonl:{i + 1}", "prompt": question, "reference": f"It is {value}."}
        rows.append(row | {"answer": answer[stage], "accept": [value], "right": value in answer[stage], "ended": True})
    return rows


def data_table() -> list[dict[str, Any]]:
    reasons = {"messages: no assistant turn": 7, "not JSON": 2, "answer is empty": 3}
    return [
        {"name": "corpus", "format": "text", "rows": 1840, "train": 1748, "heldout": 92, "rejected": 0, "reasons": {}}
        | {"hash": hash_of("corpus")},
        {"name": "questions", "format": "messages", "rows": 1312, "train": 1040, "heldout": 260, "rejected": 12}
        | {"reasons": reasons, "hash": hash_of("questions")},
    ]


def resolved() -> dict[str, Any]:
    kinds = {"knowledge": "choices", "answers": "answers", "win_rate": "win_rate", "forgetting": "loss"}
    return {
        "name": "demo",
        "base": {"fresh": {"layers": 4, "width": 128, "heads": 4, "vocab": 568}},
        "data": {name: {"path": f"{name}.jsonl", "heldout": h, "split_by": "row"}
                 for name, h in [("corpus", 0.05), ("questions", 0.2)]},
        "stages": [{"kind": kind, "name": kind} | ({"noise": 0.1} if kind == "prefer" else {}) for kind in STAGES],
        "evaluate": {name: {"kind": kind, "data": "questions"} for name, kind in kinds.items()},
        "seed": 1,
    }  # fmt: skip


def write_stage(
    run: Path, index: int, kind: str, steps: int | None, done: bool, made: dict[str, str]
) -> dict[str, Any]:
    """Writes one stage's folder; returns its row of report.json."""
    digest = hash_of([kind, index])
    folder = run / f"{index}-{kind}-{digest[:8]}"
    start = {"prefer": "sft", "reward": "sft", "ppo": "sft"}.get(kind, "pretrain")
    inputs = {"data.questions": hash_of("questions"), "model": made.get(start, "fresh")}
    inputs |= {"reward": made["reward"]} if kind == "ppo" and "reward" in made else {}
    row = {"name": kind, "kind": kind, "hash": digest, "seconds": SECONDS[kind], "tokens": TOKENS[kind]}
    row |= {"tokens_per_s": TOKENS[kind] / SECONDS[kind], "peak_bytes": 700_000_000 + 60_000_000 * index}
    row |= {"guards": guards(kind)}
    record = row | {
        "done": done,
        "settings": {"kind": kind, "batch_tokens": 4096},
        "inputs": inputs,
        "versions": VERSIONS,
    }
    record |= {"hardware": HARDWARE, "metrics": {}, "parameters": 932_480, "trainable_parameters": 932_480}
    write_json(folder / "stage.json", record)
    if kind != "prefer":
        events = step_events(kind, steps or STEPS[kind], 0)
        write_jsonl(folder / "events.jsonl", events if done else events[: len(events) * 2 // 3])
    if kind in ("pretrain", "sft", "ppo") and done:
        write_jsonl(folder / "samples.jsonl", samples(kind))
    rejected = [{"origin": "questions.jsonl:17", "reason": f'messages[2].role: "bot" is not a role. {WORST}'},
                {"origin": "questions.jsonl:204", "reason": "answer is empty"}]  # fmt: skip
    write_jsonl(folder / "rejected.jsonl", rejected if kind == "sft" else [])
    return row


VERSIONS = {"luthier": "0.1.0", "python": "3.11.2", "torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.0"}
HARDWARE = {"cpu": "AMD EPYC, 2 cores", "memory_bytes": 8_326_000_000, "device": "cpu", "threads": 2}


def make_run(run: Path, stages: tuple[str, ...] = STAGES, finished: bool = True, steps: int | None = None) -> Path:
    """A run's folder. Not finished: the last of `stages` stopped on its way and there is no report.json."""
    write_text(run / "recipe.yaml", "name: demo  # the whole road\nbase: {fresh: {layers: 4}}\nseed: 1\n")
    write_json(run / "resolved.json", resolved())
    rows: list[dict[str, Any]] = []
    made: dict[str, str] = {}
    for index, kind in enumerate(stages, start=1):
        rows.append(write_stage(run, index, kind, steps, finished or kind != stages[-1], made))
        made[kind] = rows[-1]["hash"]
    write_jsonl(run / "base" / "samples.jsonl", samples("base"))
    if finished:
        report = {"name": "demo", "seed": 1, "created": "2025-11-21T02:13:20+00:00", "simulated": "prefer" in stages}
        report |= {"seconds": sum(r["seconds"] for r in rows) + 9.1, "peak_bytes": max(r["peak_bytes"] for r in rows)}
        report |= {"metrics": metrics(stages), "stages": rows, "data": data_table()}
        write_json(run / "report.json", report | {"versions": VERSIONS, "hardware": HARDWARE})
    return run


if __name__ == "__main__":
    from luthier.run.report import write_report

    example = make_run(Path(sys.argv[1]), tuple(sys.argv[2].split(",")) if len(sys.argv) > 2 else STAGES)
    print(write_report(example), json.dumps(sum(1 for f in example.rglob("events.jsonl") for _ in read_events(f))))
