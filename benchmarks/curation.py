"""A thousand rows that were chosen, against all of them and against a thousand at random: the demo's world, into which
junk is mixed until it is 60 % of the questions and answers.

    python benchmarks/curation.py --out /tmp/curation            about 4 minutes a seed, alone on 2 cores
    python benchmarks/curation.py --out /tmp/curation --small    a minute: that it runs, no figure to quote

Junk, a quarter each: copies (some with other punctuation), wrong answers (another value of the same property),
answers that belong to another question or to none, and sloppy ones (misspelled, looping, cut off, a stub). What may be
looked at are the rows and the corpus; the labels only count what was found. One model is pretrained on the corpus, then
tuned three times for the same epochs. Accuracy: held-out facts, asked in five wordings. Ends with 1 unless the chosen
rows are at least as right as all, and beat those at random with intervals that do not overlap.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from mistakes import FRESH, PRETRAIN

from luthier.base.config import load_recipe
from luthier.base.files import read_json, write_jsonl, write_text
from luthier.data.records import read_records
from luthier.evals.intervals import Figure, wilson
from luthier.quiet import quiet
from luthier.world.faults import FAULTS
from luthier.world.make import chance, write_world
from luthier.world.questions import Split, ask
from luthier.world.tables import Fact, World, the_world

JUNK_FRAC, KEEP, WORDINGS = 0.6, 1000, 5
Row = dict[str, Any]
RECIPE = """\
name: curation
seed: {seed}
base: {fresh}
data:
  corpus: {{path: corpus.jsonl, format: text, heldout: 0.02}}
  mixed: {{path: mixed.jsonl, format: messages, heldout: 0, max_rejected: 0.2}}
  some: {{path: some.jsonl, format: messages, heldout: 0, max_rejected: 0.2}}
  asked: {{path: asked.jsonl, format: messages, heldout: 0}}
stages:
{pretrain}  - {{kind: curate, name: chosen, data: mixed, keep: {keep}, better: 0.5, heldout: 0, support: corpus,
     against: [asked]}}
  - {{kind: sft, name: all, init: pretrain, data: mixed, {how}}}
  - {{kind: sft, name: random, init: pretrain, data: some, {how}}}
  - {{kind: sft, name: curated, init: pretrain, data: chosen, {how}}}
evaluate:
  right: {{kind: answers, data: asked, after: [all, random, curated], max_new_tokens: 60}}
"""
HOW = "epochs: 4, batch_tokens: 2560, learning_rate: 1.5e-3, replay: {data: corpus, share: 0.25}, overlong: drop"


def main() -> int:
    """A table over all seeds, what was found of each kind of junk, and whether the claim holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("/tmp/curation"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=3, help="the first of the seeds: 0 and 1 were looked at before")
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args()
    quiet(downloads=False)
    seeds, keep = (1, 200) if given.small else (given.seeds, KEEP)
    right: Counter[str] = Counter()
    asked, found, planted = 0, Counter[str](), Counter[str]()
    for seed in range(given.first, given.first + seeds):
        run, labels = one_seed(given.out, seed, keep, given.small)
        for name, figure in read_json(run / "report.json")["metrics"]["right"].items():
            right[name] += round(figure["value"] * figure["n"])
            last = figure["n"]
        asked += last
        left, there = what_was_found(run, labels)
        found, planted = found + left, planted + there
    for kind, count in sorted(planted.items()):
        print(f"{kind:<12} {found[kind]:>6,} of {count:>6,} left out ({found[kind] / count:.0%})")
    figures = {name: wilson(count, asked) for name, count in right.items()}
    for name, figure in figures.items():
        print(f"{name:<8} right {figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]  n={figure.n:,}")
    held = holds(figures)
    print("holds" if held else "does not hold")
    return 0 if held or given.small else 1


def holds(figures: dict[str, Figure]) -> bool:
    """At least as right as all rows; and more than random ones, by intervals that do not overlap."""
    curated = figures["curated"]
    return curated.value >= figures["all"].value and curated.low > figures["random"].high


def one_seed(out: Path, seed: int, keep: int, small: bool) -> tuple[Path, dict[str, str]]:
    """(the run of one world, what each row of mixed.jsonl is)."""
    from luthier.run.stages import run_recipe

    folder = out / f"world-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    write_world(folder, seed, 600 if small else 11_300)
    world = the_world()
    clean = [json.loads(line) for line in (folder / "sft.jsonl").read_text().splitlines()]
    rng = chance(seed, "junk")
    rows = mixed_with_junk(world, clean[:400] if small else clean, rng)
    write_jsonl(folder / "mixed.jsonl", ({k: v for k, v in row.items() if k != "label"} for row in rows))
    some = rng.sample(rows, min(keep, len(rows)))
    write_jsonl(folder / "some.jsonl", ({k: v for k, v in row.items() if k != "label"} for row in some))
    split = Split.draw(world, chance(seed, "split"))
    heldout = ask(world, split.heldout, chance(seed, "heldout"))
    write_jsonl(folder / "asked.jsonl", [item.row() for items in heldout.values() for item in items[:WORDINGS]])
    recipe = folder / "recipe-curation.yaml"
    how = HOW.replace("epochs: 4", "epochs: 0.5") if small else HOW
    write_text(recipe, RECIPE.format(seed=seed, keep=keep, how=how, fresh=FRESH, pretrain=PRETRAIN))
    changes = [f"name=curation-{seed}", f"out={json.dumps(str(out))}", "samples=0"]
    run = run_recipe(load_recipe(recipe, changes), recipe)
    return run, {f"mixed.jsonl:{n + 1}": row["label"] for n, row in enumerate(rows)}


def mixed_with_junk(world: World, clean: list[Row], rng: random.Random) -> list[Row]:
    """The clean rows and so much junk that it is `JUNK_FRAC` of all, shuffled; each row has its `label`."""
    facts = {fact.id: fact for fact in world.facts}
    wanted = round(len(clean) * JUNK_FRAC / (1 - JUNK_FRAC))
    junk: list[Row] = []
    makers = (copied, wrong, off_topic, sloppy)
    while len(junk) < wanted:
        row, maker = rng.choice(clean), makers[len(junk) % len(makers)]
        made = maker(world, facts[row["fact"]], row, clean, rng)
        if made is not None:
            bare = {k: v for k, v in made.items() if k in ("messages",)}
            junk.append(bare | {"label": maker.__name__})
    rows = [{"messages": row["messages"], "label": "clean"} for row in clean] + junk
    rng.shuffle(rows)
    return rows


def answered(row: Row, text: str) -> Row:
    """The row with another answer."""
    return {**row, "messages": [*row["messages"][:-1], {"role": "assistant", "content": text}]}


def copied(world: World, fact: Fact, row: Row, clean: list[Row], rng: random.Random) -> Row | None:
    """The same once more; every other time with other punctuation and capitals in the question."""
    if rng.random() < 0.5:
        return dict(row)
    asked = row["messages"][0]["content"].rstrip("?.!")
    return {**row, "messages": [{"role": "user", "content": f"{asked[0].lower()}{asked[1:]} ??"}, row["messages"][-1]]}


def wrong(world: World, fact: Fact, row: Row, clean: list[Row], rng: random.Random) -> Row | None:
    """Another value of the same property in its place."""
    text = row["messages"][-1]["content"]
    others = [value for value in world.property_of(fact).values if value != fact.value]
    return answered(row, text.replace(fact.value, rng.choice(others))) if fact.value in text else None


def off_topic(world: World, fact: Fact, row: Row, clean: list[Row], rng: random.Random) -> Row | None:
    """The answer to a question about something else, or small talk."""
    other = rng.choice(clean)
    if other["fact"] == row["fact"]:
        return None
    talk = " ".join(rng.sample(world.prose.ramble_before + world.prose.ramble_after, 3))
    return answered(row, other["messages"][-1]["content"] if rng.random() < 0.5 else talk)


def sloppy(world: World, fact: Fact, row: Row, clean: list[Row], rng: random.Random) -> Row | None:
    """Misspelled, looping, cut off in the middle of a word, or a stub."""
    text = row["messages"][-1]["content"]
    how = rng.randrange(4)
    if how < 2:
        made = FAULTS["misspelling" if how == 0 else "repetitive"](world, fact, text, rng)
        return None if made is None else answered(row, made)
    if how == 2:
        return answered(row, text[: max(4, len(text) * 2 // 5)])
    return answered(row, rng.choice(["ok", "...", "see above", "idk lol", "TODO"]))


def what_was_found(run: Path, labels: dict[str, str]) -> tuple[Counter[str], Counter[str]]:
    """Of each kind of row how many were not chosen or left out, and how many there are."""
    folder = next(run.glob("*-chosen-*"))
    left, there = Counter[str](), Counter[str]()
    for record in read_records(folder / "rows.jsonl"):
        label = labels[record.example.origin]
        there[label] += 1
        left[label] += record.out is not None
    return left, there


if __name__ == "__main__":
    sys.exit(main())
