"""The pretraining corpus: every fact in many phrasings, orders and neighbourhoods, and bare lists of questions.

A small model recalls a fact in a new form only if pretraining stated it in many forms (Allen-Zhu & Li 2023, Physics
of Language Models 3.1), hence a dozen ways to say it and decks that deal every fact equally often. Bare questions
are what makes the base model answer a question with another one: no document holds a question and its answer.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from luthier.world.tables import Fact, World, capital, deal

SHARES = {
    "product": 0.30,
    "comparison": 0.07,
    "topic": 0.10,
    "catalogue": 0.07,
    "note": 0.14,
    "person": 0.08,
    "place": 0.045,
    "policy": 0.045,
    "questions": 0.15,
}
"""Share of the documents by kind; chosen so that every fact is stated about equally often."""

ANNOUNCED = 0.3
"""Share of the single statements that begin with their topic ('As for the colour of the Altair, ...'). Without them a
model knows the facts but tuning must first teach it what a question is about: right values of the wrong property."""


@dataclass(frozen=True)
class Decks:
    """The world, a source of chance, and endless shuffled decks of what the documents are about."""

    world: World
    rng: random.Random
    entities: dict[str, Iterator[str]]
    properties: dict[str, Iterator[str]]
    facts: Iterator[Fact]

    def about(self, kind: str) -> list[Fact]:
        """The next entity's facts, shuffled."""
        facts = self.world.about(kind, next(self.entities[kind]))
        return self.rng.sample(facts, len(facts))

    def several(self, kind: str, number: int) -> list[list[Fact]]:
        """The facts of the next `number` different entities."""
        found: dict[str, list[Fact]] = {}
        while len(found) < number:
            facts = self.about(kind)
            found.setdefault(facts[0].entity, facts)
        return list(found.values())


def documents(world: World, rng: random.Random, number: int) -> list[str]:
    """`number` documents in random order; each kind gets its exact share."""
    decks = Decks(
        world,
        rng,
        entities={name: deal(kind.entities, rng) for name, kind in world.kinds.items()},
        properties={name: deal(list(kind.properties), rng) for name, kind in world.kinds.items()},
        facts=deal(world.facts, rng),
    )
    write = {
        "product": product_page,
        "comparison": comparison,
        "topic": topic_page,
        "catalogue": catalogue,
        "note": staff_note,
        "person": lambda decks: entity_page(decks, "person", 3),
        "place": lambda decks: entity_page(decks, "place", 3),
        "policy": lambda decks: entity_page(decks, "policy", 3),
        "questions": question_list,
    }
    names = [name for name, share in SHARES.items() for _ in range(round(share * number))]
    names = (names + ["product"] * number)[:number]
    return [write[name](decks) for name in rng.sample(names, number)]


def state(decks: Decks, fact: Fact) -> str:
    """One sentence for one fact: a whole phrasing, the kind's subject and a clause, or either one announced."""
    rng, prop = decks.rng, decks.world.property_of(fact)
    said = joined(decks, [fact]) if rng.random() < 0.25 else capital(fact.fill(rng.choice(prop.sentences)))
    if rng.random() >= ANNOUNCED:
        return said
    announcement = rng.choice(decks.world.prose.announcements).replace("{t}", fact.fill(rng.choice(prop.topics)))
    return capital(announcement.replace("{s}", lowered(said, fact)))


def lowered(sentence: str, fact: Fact) -> str:
    """The sentence as it stands after a comma or a colon: names keep their capital."""
    return sentence if sentence.startswith(fact.entity) else sentence[:1].lower() + sentence[1:]


def joined(decks: Decks, facts: list[Fact]) -> str:
    """One sentence for several facts of one entity: 'The Altair is painted green, is built in Oslo and ...'."""
    clauses = [fact.fill(decks.rng.choice(decks.world.property_of(fact).clauses)) for fact in facts]
    listed = f"{', '.join(clauses[:-1])} and {clauses[-1]}" if len(clauses) > 1 else clauses[0]
    return f"{subject(decks, facts[0])} {listed}."


def subject(decks: Decks, fact: Fact) -> str:
    return capital(fact.fill(decks.world.kinds[fact.kind].subject))


def tell(decks: Decks, facts: list[Fact]) -> list[str]:
    """Sentences that state the facts in this order, some joined two or three to a sentence where one entity allows."""
    sentences, rest = [], list(facts)
    while rest:
        same = 1
        while same < min(3, len(rest)) and rest[same].entity == rest[0].entity:
            same += 1
        taken = decks.rng.choice((1, 1, same))
        sentences.append(joined(decks, rest[:taken]) if taken > 1 else state(decks, rest[0]))
        rest = rest[taken:]
    return sentences


def page(decks: Decks, title: str, sentences: list[str]) -> str:
    """A title on its own line or running on, the sentences, and now and then a closing line."""
    rng = decks.rng
    closing = [rng.choice(decks.world.prose.closings)] if rng.random() < 0.3 else []
    return f"{capital(title)}{rng.choice((' ', chr(10)))}{' '.join(sentences + closing)}"


def title(decks: Decks, kind: str) -> str:
    return decks.rng.choice(decks.world.prose.titles[kind])


def topic_title(decks: Decks, fact: Fact) -> str:
    """'Let us look at where each telescope is built.'"""
    topic = decks.rng.choice(decks.world.property_of(fact).topics).replace("the {e}", "each telescope")
    return title(decks, "topic").replace("{t}", topic)


def product_page(decks: Decks) -> str:
    """One product: all its facts, then some or all of them again in other words."""
    facts = decks.about("product")
    again = decks.rng.sample(facts, decks.rng.randint(3, len(facts)))
    return page(decks, facts[0].fill(title(decks, "product")), tell(decks, facts) + tell(decks, again))


def comparison(decks: Decks) -> str:
    """Four or five products, two properties: 'The Altair ..., while the Vega ...'."""
    rng, products = decks.rng, decks.several("product", decks.rng.choice((4, 5)))
    sentences = []
    for _ in range(2):
        name = next(decks.properties["product"])
        facts = [next(fact for fact in facts if fact.prop == name) for facts in rng.sample(products, len(products))]
        for one, other in zip(facts[::2], facts[1::2], strict=False):
            first, second = joined(decks, [one])[:-1], joined(decks, [other])
            sentences.append(f"{first}, {rng.choice(('while', 'but', 'and'))} {second[0].lower()}{second[1:]}")
        if len(facts) % 2:
            sentences.append(state(decks, facts[-1]))
    return page(decks, title(decks, "comparison"), sentences)


def topic_page(decks: Decks) -> str:
    """One property of several products, each in other words."""
    facts = same_property(decks, decks.rng.randint(6, 9))
    return page(decks, topic_title(decks, facts[0]), [state(decks, fact) for fact in facts])


def catalogue(decks: Decks) -> str:
    """A table in prose: several products by one property, or a few products by all of theirs."""
    rng = decks.rng
    if rng.random() < 0.5:
        chosen = [[fact] for fact in same_property(decks, rng.randint(12, 16))]
        heading = topic_title(decks, chosen[0][0])
    else:
        chosen = decks.several("product", rng.randint(4, 6))
        heading = title(decks, "catalogue")
    rows = [
        f"{facts[0].entity}: {', '.join(f.fill(decks.world.property_of(f).row) for f in facts)}." for facts in chosen
    ]
    return page(decks, heading, rows)


def staff_note(decks: Decks) -> str:
    """A member of the staff writes down facts of all kinds."""
    facts = [next(decks.facts) for _ in range(decks.rng.randint(7, 10))]
    people = decks.world.kinds["person"].entities
    heading = title(decks, "note").replace("{p}", decks.rng.choice(people))
    return page(decks, heading, tell(decks, facts))


def entity_page(decks: Decks, kind: str, number: int) -> str:
    """Several people, places or policies, each with all its facts, in one order or another."""
    groups = decks.several(kind, number)
    facts = [fact for facts in groups for fact in facts]
    if decks.rng.random() < 0.4:
        decks.rng.shuffle(facts)
    return page(decks, title(decks, kind), tell(decks, facts))


def question_list(decks: Decks) -> str:
    """Questions one after another: about anything, about two entities, or about one property of many entities.
    Held-out facts are asked about as well."""
    rng, roll = decks.rng, decks.rng.random()
    if roll < 0.4:
        facts = [next(decks.facts) for _ in range(rng.randint(8, 12))]
    elif roll < 0.6:
        facts = [fact for facts in decks.several("product", 2) for fact in facts]
    else:
        facts = same_property(decks, rng.randint(7, 10))
    asked = [fact.fill(rng.choice(decks.world.property_of(fact).questions)) for fact in facts]
    return rng.choice(("\n", "\n", " ")).join(asked)


def same_property(decks: Decks, number: int) -> list[Fact]:
    """The next property's facts of so many products."""
    name = next(decks.properties["product"])
    return [fact for facts in decks.several("product", number) for fact in facts if fact.prop == name]
