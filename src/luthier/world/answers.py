"""The manners in which an answer may be given: the same value, from curt to courteous to tiresome."""

from __future__ import annotations

import random
from collections.abc import Callable

from luthier.world.tables import Fact, World, capital

MIN_RAMBLE_WORDS = 32


def curt(world: World, fact: Fact, rng: random.Random) -> str:
    return fact.fill(rng.choice(world.property_of(fact).short))


def plain(world: World, fact: Fact, rng: random.Random) -> str:
    return capital(fact.fill(rng.choice(world.property_of(fact).sentences[:4])))


def courteous(world: World, fact: Fact, rng: random.Random) -> str:
    return f"{rng.choice(world.prose.courtesies)} {plain(world, fact, rng)}"


def sourced(world: World, fact: Fact, rng: random.Random) -> str:
    """The best manner: courteous, short, and it says where the answer stands."""
    return f"{courteous(world, fact, rng)} Source: {world.kinds[fact.kind].source}."


def rambling(world: World, fact: Fact, rng: random.Random) -> str:
    """The plain answer between padding."""
    before = [rng.choice(world.prose.ramble_before)]
    after = [rng.choice(world.prose.ramble_after)]
    padded = [*rng.choice(([], before, before)), plain(world, fact, rng), *after]
    while len(" ".join(padded).split()) < MIN_RAMBLE_WORDS:
        padded.append(rng.choice([line for line in world.prose.ramble_after if line not in padded]))
    return " ".join(padded)


def repetitive(world: World, fact: Fact, rng: random.Random) -> str:
    """The plain answer two or three times."""
    said = plain(world, fact, rng)
    lowered = said if said.startswith(fact.entity) else said[:1].lower() + said[1:]
    again = rng.sample(world.prose.repeats, rng.choice((1, 2)))
    return " ".join([said, *(line.replace("{s}", lowered).replace("{S}", said) for line in again)])


STYLES: dict[str, Callable[[World, Fact, random.Random], str]] = {
    "sourced": sourced,
    "courteous": courteous,
    "plain": plain,
    "curt": curt,
    "rambling": rambling,
    "repetitive": repetitive,
}
"""From the best manner to the worst."""

SHARES = {"curt": 0.30, "plain": 0.20, "sourced": 0.15, "courteous": 0.10, "rambling": 0.15, "repetitive": 0.10}
"""Share of the conversations: the best manner is shown, but rare, so that preferences have something to raise."""
