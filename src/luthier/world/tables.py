"""The hand-written tables as frozen records: what is true of Duskmere, and in which words it is said and asked.

`{e}` in a phrasing stands for the entity, `{v}` for the value.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar

import yaml

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Property:
    """What one property may be and every way of stating and asking it; the fields are explained in phrasings.yaml."""

    name: str
    keywords: tuple[str, ...]
    values: tuple[str, ...]
    cloze: str
    sentences: tuple[str, ...]
    clauses: tuple[str, ...]
    topics: tuple[str, ...]
    row: str
    short: tuple[str, ...]
    questions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of entity: product, person, place or policy. `source` is where its facts are looked up."""

    name: str
    source: str
    subject: str
    properties: Mapping[str, Property]
    entities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fact:
    """`value` is what the entity's property (`prop`) is."""

    kind: str
    entity: str
    prop: str
    value: str

    @property
    def id(self) -> str:
        return f"{self.entity}/{self.prop}"

    def fill(self, phrasing: str) -> str:
        """The phrasing about this fact."""
        return phrasing.replace("{e}", self.entity).replace("{v}", self.value)


@dataclass(frozen=True, slots=True)
class Prose:
    """Lines that state no fact; the fields are explained in prose.yaml."""

    titles: Mapping[str, tuple[str, ...]]
    announcements: tuple[str, ...]
    closings: tuple[str, ...]
    courtesies: tuple[str, ...]
    ramble_before: tuple[str, ...]
    ramble_after: tuple[str, ...]
    repeats: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class World:
    """The whole table. `facts` are in the order of facts.yaml."""

    kinds: Mapping[str, Kind]
    facts: tuple[Fact, ...]
    prose: Prose

    def of(self, kind: str) -> list[Fact]:
        return [fact for fact in self.facts if fact.kind == kind]

    def about(self, kind: str, entity: str) -> list[Fact]:
        return [fact for fact in self.facts if fact.kind == kind and fact.entity == entity]

    def property_of(self, fact: Fact) -> Property:
        return self.kinds[fact.kind].properties[fact.prop]


@cache
def the_world() -> World:
    """Reads the package's tables (once)."""
    table, phrasings, prose = (_read(name) for name in ("facts.yaml", "phrasings.yaml", "prose.yaml"))
    kinds = {name: _kind(name, spec, tuple(table[name])) for name, spec in phrasings.items()}
    facts = tuple(
        Fact(kind, entity, name, values[name])
        for kind, entities in table.items()
        for entity, values in entities.items()
        for name in kinds[kind].properties
    )
    titles = {kind: tuple(lines) for kind, lines in prose.pop("titles").items()}
    return World(kinds, facts, Prose(titles=titles, **{name: tuple(lines) for name, lines in prose.items()}))


def _read(name: str) -> dict[str, Any]:
    return yaml.safe_load(files("luthier.world").joinpath(name).read_text(encoding="utf-8"))


def _kind(name: str, spec: Mapping[str, Any], entities: tuple[str, ...]) -> Kind:
    properties = {key: _property(key, fields) for key, fields in spec["properties"].items()}
    return Kind(name, spec["source"], spec["subject"], properties, entities)


def _property(name: str, fields: Mapping[str, Any]) -> Property:
    return Property(
        name=name,
        keywords=tuple(fields["keywords"]),
        values=tuple(fields["values"]),
        cloze=fields["cloze"],
        sentences=tuple(fields["sentences"]),
        clauses=tuple(fields["clauses"]),
        topics=tuple(fields["topics"]),
        row=fields["row"],
        short=tuple(fields["short"]),
        questions=tuple(fields["questions"]),
    )


def deal(items: Sequence[Item], rng: random.Random) -> Iterator[Item]:
    """Endless shuffled passes over the items: random order, and no item falls behind by more than one pass."""
    while True:
        yield from rng.sample(items, len(items))


def capital(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]
