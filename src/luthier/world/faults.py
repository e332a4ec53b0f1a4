"""Faults planted in conversations, with the truth kept: what an error analysis must find, and its loop must cure."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from luthier.world.tables import Fact, World

KINDS = ("misspelling", "too_long", "repetitive")
"""In the words of the error categories."""
PADDED_WORDS = 60
"""An over-long answer has at least so many words."""


def plant(
    world: World, rows: Sequence[dict[str, Any]], share_frac: float, rng: random.Random, clumped: bool = False
) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """(the rows, some with a fault; index of a row -> its fault). Each kind gets a third of the share; questions,
    accepted values and all other rows stay as they are. An answer keeps its accepted value: what is planted is a fault
    of manner, and whether answers stay right can be measured beside it.

    Spread, they fall on any row; `clumped`, each kind on the rows of one property (of people, places or rules), as when
    a careless writer wrote that part."""
    facts = {fact.id: fact for fact in world.facts}
    count = round(share_frac * len(rows) / len(KINDS))
    order = rng.sample(range(len(rows)), len(rows))
    clumps = sorted({(facts[row["fact"]].kind, facts[row["fact"]].prop) for row in rows} - products(world))
    where = dict(zip(KINDS, rng.sample(clumps, len(KINDS)), strict=True)) if clumped else {}
    planted: dict[int, str] = {}
    changed = [dict(row) for row in rows]
    for kind in KINDS:
        made = 0
        for index in order:
            row, fact = changed[index], facts[rows[index]["fact"]]
            if made == count or index in planted or (clumped and (fact.kind, fact.prop) != where[kind]):
                continue
            *asked, answer = row["messages"]
            text = FAULTS[kind](world, fact, answer["content"], rng)
            if text is None:
                continue
            row["messages"] = [*asked, {"role": "assistant", "content": text}]
            planted[index] = kind
            made += 1
    return changed, planted


def products(world: World) -> set[tuple[str, str]]:
    """The properties of products: each is asked of dozens of them."""
    return {(fact.kind, fact.prop) for fact in world.of("product")}


def misspell(world: World, fact: Fact, text: str, rng: random.Random) -> str | None:
    """Every word of six letters or more (no names, none of the value) with two letters swapped, one dropped, one
    doubled or one mistaken; a word always in the same way, as a writer who knows no better spells it. None where the
    answer has no such word."""
    value, words = {part.lower() for part in fact.value.split()}, text.split(" ")
    bare = [word.strip(".,!?:;") for word in words]
    fit = [len(word) >= 6 and word.isalpha() and word.islower() and word not in value for word in bare]
    places = [i for i, fits in enumerate(fit) if fits]
    if not places:
        return None
    for i in places:
        words[i] = words[i].replace(bare[i], slip(bare[i], random.Random(bare[i])), 1)
    return " ".join(words)


def slip(word: str, rng: random.Random) -> str:
    """The word with one letter wrong, not the first."""
    while True:
        i = rng.randrange(1, len(word) - 1)
        wrong = rng.choice(
            (
                word[:i] + word[i + 1] + word[i] + word[i + 2 :],
                word[:i] + word[i + 1 :],
                word[: i + 1] + word[i:],
                word[:i] + rng.choice("aeioulnrst") + word[i + 1 :],
            )
        )
        if wrong != word:
            return wrong


def pad(world: World, fact: Fact, text: str, rng: random.Random) -> str | None:
    """The answer, then padding until it has 60 words; no line of it twice."""
    padded, lines = [text], rng.sample(world.prose.ramble_after, len(world.prose.ramble_after))
    lines += rng.sample(world.prose.ramble_before, len(world.prose.ramble_before))
    while len(" ".join(padded).split()) < PADDED_WORDS and lines:
        padded.append(lines.pop(0))
    return " ".join(padded)


def loop(world: World, fact: Fact, text: str, rng: random.Random) -> str | None:
    """The answer's last sentence four to six times in a row. None where that has fewer than three words."""
    last = text.split(". ")[-1].split("! ")[-1]
    if len(last.split()) < 3:
        return None
    return " ".join([text, *([last] * rng.choice((3, 4, 5)))])


FAULTS: dict[str, Callable[[World, Fact, str, random.Random], str | None]] = {
    "misspelling": misspell,
    "too_long": pad,
    "repetitive": loop,
}
