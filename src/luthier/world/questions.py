"""Conversations and questions about the facts: some facts are taught to answer, the held-out ones never are."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from luthier.world.answers import SHARES, STYLES
from luthier.world.tables import Fact, World

QUESTIONS_PER_FACT = 7
"""Phrasings drawn for each fact that is taught, of nine or so that each property has."""


@dataclass(frozen=True, slots=True)
class Split:
    """Which facts are taught (answered in conversations) and which are held out (in the corpus only)."""

    taught: tuple[Fact, ...]
    heldout: tuple[Fact, ...]

    @classmethod
    def draw(cls, world: World, rng: random.Random) -> Split:
        """Holds out one or two of a product's five properties, each property equally often. People, rules and opening
        hours are all taught: they are too few for a tuned model to learn from some what is asked about others."""
        kind = world.kinds["product"]
        names = rng.sample(list(kind.properties), len(kind.properties))
        ids: set[str] = set()
        for i, entity in enumerate(rng.sample(kind.entities, len(kind.entities))):
            ids.add(f"{entity}/{names[i % len(names)]}")
            if i < len(kind.entities) // 2:
                # An offset that is constant over each run of five keeps the properties balanced.
                offset = 1 + (i // len(names)) % (len(names) - 1)
                ids.add(f"{entity}/{names[(i + offset) % len(names)]}")
        heldout = tuple(fact for fact in world.facts if fact.id in ids)
        return cls(tuple(fact for fact in world.facts if fact.id not in ids), heldout)


@dataclass(frozen=True, slots=True)
class Asked:
    """A fact and the question that asks for it."""

    fact: Fact
    question: str

    def row(self, **more: Any) -> dict[str, Any]:
        """As a prompt for a data file."""
        messages = [{"role": "user", "content": self.question}]
        return {"messages": messages, "accept": [self.fact.value], "fact": self.fact.id, **more}


def ask(world: World, facts: tuple[Fact, ...], rng: random.Random) -> dict[Fact, list[Asked]]:
    """Every question about every fact, in random order."""
    asked = {}
    for fact in facts:
        questions = world.property_of(fact).questions
        asked[fact] = [Asked(fact, fact.fill(question)) for question in rng.sample(questions, len(questions))]
    return asked


def conversations(world: World, asked: dict[Fact, list[Asked]], rng: random.Random) -> list[dict[str, Any]]:
    """The first `QUESTIONS_PER_FACT` questions of each fact, answered in mixed manners; exact shares of each."""
    chosen = [item for items in asked.values() for item in items[:QUESTIONS_PER_FACT]]
    styles = [style for style, share in SHARES.items() for _ in range(round(share * len(chosen)))]
    styles = (styles + ["plain"] * len(chosen))[: len(chosen)]
    rng.shuffle(chosen)
    rows = []
    for item, style in zip(chosen, rng.sample(styles, len(styles)), strict=True):
        row = item.row(style=style)
        row["messages"].append({"role": "assistant", "content": STYLES[style](world, item.fact, rng)})
        rows.append(row)
    return rows


def prompts(asked: dict[Fact, list[Asked]], number: int, rng: random.Random) -> list[dict[str, Any]]:
    """Different questions about taught facts, spread evenly over the facts; each fact's last question is left out
    (it is kept for `win_prompts`)."""
    pools = {fact: rng.sample(items[:-1], len(items) - 1) for fact, items in asked.items()}
    rounds = [[pool[i] for pool in pools.values() if i < len(pool)] for i in range(max(map(len, pools.values())))]
    spread = [item for around in rounds for item in rng.sample(around, len(around))]
    return [item.row() for item in rng.sample(spread[:number], number)]


def win_prompts(
    taught: dict[Fact, list[Asked]], heldout: dict[Fact, list[Asked]], number: int, rng: random.Random
) -> list[dict[str, Any]]:
    """Questions that no training stage has seen: one for each held-out fact, then taught facts' last questions."""
    unseen = [items[-1] for items in heldout.values()]
    others = rng.sample([items[-1] for items in taught.values()], number - len(unseen))
    return [item.row() for item in rng.sample(unseen + others, number)]


def choices(world: World, facts: tuple[Fact, ...], rng: random.Random) -> list[dict[str, Any]]:
    """A statement up to its value, with three other values of the same pool; the right one's place is random, and
    each place is right equally often."""
    places = [i % 4 for i in range(len(facts))]
    rows = []
    for fact, gold in zip(facts, rng.sample(places, len(places)), strict=True):
        prop = world.property_of(fact)
        options = rng.sample([value for value in prop.values if value != fact.value], 3)
        options.insert(gold, fact.value)
        row = {"context": fact.fill(prop.cloze), "choices": [f" {value}" for value in options], "gold": gold}
        rows.append({**row, "fact": fact.id})
    return rows


WORDINGS = 4
"""Of each question whose answers are compared with each other."""


def reworded(world: World, asked: dict[Fact, list[Asked]]) -> list[dict[str, Any]]:
    """Each fact's question with other wordings of it, and with all values that its property can have."""
    rows = []
    for fact, items in asked.items():
        first, *others = items[1 : 1 + WORDINGS]
        paraphrases = [item.question for item in others]
        rows.append(first.row(paraphrases=paraphrases, candidates=list(world.property_of(fact).values)))
    return rows
