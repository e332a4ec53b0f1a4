"""Does the loop through the data cure what the data taught? python benchmarks/mistakes.py --clumped [--out FOLDER]

The demo's world; 5 % of the tuned answers are made misspelt, over-long or looping, a third each (the demo's own
tiresome manners are left out, so that what is measured is what was planted). Pretraining and tuning; the mistakes of
sampled answers; the worklist, held against the planted truth; all drafts accepted unread; tuning again on the corrected
data; the mistakes again. `--control` also tunes on the data that never had a fault: the floor. About 4 minutes on 2 CPU
cores.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
from pathlib import Path

from luthier.base.config import load_recipe
from luthier.base.files import read_json, write_json, write_jsonl
from luthier.run.fix import write_worklist
from luthier.run.mended import apply_worklist, before_after
from luthier.run.stages import run_recipe
from luthier.world.faults import KINDS, plant
from luthier.world.make import chance, write_world
from luthier.world.questions import QUESTIONS_PER_FACT, Split, ask
from luthier.world.tables import the_world

RECIPE = """\
name: faulty
seed: 0
base: BASE
data:
  corpus: {path: corpus.jsonl, format: text, heldout: 0.02}
  conversations: {path: sft.jsonl, format: messages, heldout: 0.05}
  asked: {path: asked.jsonl, format: messages, heldout: 0}
  heldout_questions: {path: heldout_questions.jsonl, format: messages, heldout: 0}
stages:
PRETRAIN  - kind: sft
    data: conversations
    epochs: 4
    batch_tokens: 2560
    learning_rate: 1.5e-3
    replay: {data: corpus, share: 0.25}
evaluate:
  answers: {kind: answers, data: heldout_questions, after: [sft], max_new_tokens: 100}
  mistakes:
    kind: mistakes
    data: asked
    after: [sft]
    samples: 8
    temperature: 0.4
    max_new_tokens: 110
    judging: {max_words: 40, names_from: [corpus]}
  greedy:
    kind: mistakes
    data: asked
    after: [sft]
    max_new_tokens: 110
    judging: {max_words: 40, names_from: [corpus]}
"""
FRESH = "{fresh: {layers: 4, width: 128, heads: 2, vocab: 800, context: 256}}"
PRETRAIN = """\
  - kind: pretrain
    data: corpus
    epochs: 1
    batch_tokens: 2560
    optimizer: muon
    learning_rate: 1.2e-2
    weight_decay: 0.2
"""
TIRESOME = ("rambling", "repetitive")


def main() -> None:
    """Plants, trains, finds, corrects, trains again, and prints what became of each category."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clumped", action="store_true", help="each fault on the rows of one property")
    parser.add_argument("--control", action="store_true")
    parser.add_argument("--pretrained", type=Path, help="the demo's pretrained model of this seed; default: train one")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    root = given.out or Path(tempfile.mkdtemp(prefix="luthier-mistakes-"))
    truth = make_world(root / "world", given.seed, given.clumped, given.pretrained)
    recipe = root / "world" / "recipe.yaml"
    changes = [f"out={json.dumps(str(root / 'runs'))}", f"seed={given.seed}", f"threads={given.threads}"]
    faulty = run_recipe(load_recipe(recipe, changes), recipe)
    made = write_worklist(faulty)
    result = {"scan": scan_against(truth, made.entries), "scanned": made.scanned, "entries": made.to_correct()}
    applied = apply_worklist(faulty, made.file, accept_drafts=True)
    result["drafts"] = drafts_against(root / "world", made.entries)
    fixed = again(recipe, faulty, "fixed", str(applied.files["conversations"].resolve()), changes)
    result["loop"] = {c.category: told(c) for c in before_after(faulty, fixed)}
    result["answers"] = {
        run.name: read_json(run / "report.json")["metrics"]["answers"]["sft"] for run in (faulty, fixed)
    }
    result["greedy"] = {run.name: greedy_of(run) for run in (faulty, fixed)}
    if given.control:
        clean = again(recipe, faulty, "clean", str((root / "world" / "clean.jsonl").resolve()), changes)
        result["control"] = {c.category: told(c) for c in before_after(faulty, clean)}
        result["answers"]["clean"] = read_json(clean / "report.json")["metrics"]["answers"]["sft"]
    write_json(root / "mistakes.json", result)
    print(json.dumps(result, indent=2))


def make_world(folder: Path, seed: int, clumped: bool = False, pretrained: Path | None = None) -> dict[str, str]:
    """The world's files with faults planted; origin of a row -> its fault. clean.jsonl are the same rows without."""
    write_world(folder, seed)
    rows = [json.loads(line) for line in (folder / "sft.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["style"] not in TIRESOME]
    changed, planted = plant(the_world(), rows, 0.05, random.Random(f"{seed}:faults"), clumped)
    write_jsonl(folder / "asked.jsonl", unseen(seed))
    write_jsonl(folder / "clean.jsonl", rows)
    write_jsonl(folder / "sft.jsonl", changed)
    base = json.dumps({"model": str(pretrained.resolve())}) if pretrained else FRESH
    recipe = RECIPE.replace("BASE", base).replace("PRETRAIN", "" if pretrained else PRETRAIN)
    (folder / "recipe.yaml").write_text(recipe)
    return {f"sft.jsonl:{index + 1}": kind for index, kind in planted.items()}


def unseen(seed: int) -> list[dict]:
    """Questions in words that were never answered: all about people, places and rules, and one about each product's
    taught facts in three."""
    taught = ask(the_world(), Split.draw(the_world(), chance(seed, "split")).taught, chance(seed, "taught"))
    others = [item for fact, items in taught.items() for item in items[QUESTIONS_PER_FACT:] if fact.kind != "product"]
    products = [items[-1] for fact, items in taught.items() if fact.kind == "product"][::3]
    return [item.row() for item in [*others, *products]]


def again(recipe: Path, before: Path, name: str, data: str, changes: list[str]) -> Path:
    """The same recipe on other conversations. The folder is copied: pretraining is found there and not done again."""
    shutil.copytree(before, before.parent / name)
    new = [f"name={name}", f"data.conversations.path={data}"]
    return run_recipe(load_recipe(recipe, [*changes, *new]), recipe)


def scan_against(truth: dict[str, str], entries: list[dict]) -> dict[str, dict[str, float]]:
    """Precision and recall of the scan, category by category, against what was planted."""
    found = {}
    for kind in KINDS:
        said = {e["origin"] for e in entries if e["action"] == "correct" and kind in e["categories"]}
        real = {origin for origin, planted in truth.items() if planted == kind}
        said -= {o for o in said if kind == "too_long" and truth.get(o) == "repetitive"}  # a long loop is too long too
        hit = len(said & real)
        found[kind] = {
            "planted": len(real), "found": len(said), "right": hit,
            "precision": hit / max(1, len(said)), "recall": hit / max(1, len(real)),
        }  # fmt: skip
    return found


def drafts_against(world: Path, entries: list[dict]) -> dict[str, dict[str, int]]:
    """How many drafts are what the answer was before the fault."""
    clean = [json.loads(line)["messages"][-1]["content"] for line in (world / "clean.jsonl").read_text().splitlines()]
    found: dict[str, dict[str, int]] = {}
    for e in entries:
        if e["action"] == "correct":
            one = found.setdefault(e["categories"][0], {"rows": 0, "drafted": 0, "as_it_was": 0})
            one["rows"] += 1
            one["drafted"] += e["draft"] is not None
            one["as_it_was"] += e["draft"] == clean[int(e["origin"].rpartition(":")[2]) - 1]
    return found


def greedy_of(run: Path) -> dict[str, dict]:
    """The greedy answers' categories."""
    found = read_json(run / "report.json")["metrics"]["greedy"]
    return {name: tree["sft"] for name, tree in found.items() if isinstance(tree, dict)}


def told(change) -> dict:
    """A change as JSON."""
    difference = change.difference.as_dict() if change.difference else None
    before, after = change.before.as_dict(), change.after.as_dict()
    return {"before": before, "after": after, "difference": difference, "gone": change.fall_frac, "words": change.words}


if __name__ == "__main__":
    main()
