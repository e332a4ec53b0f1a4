"""The table itself: large enough, unambiguous, and told in enough ways."""

from __future__ import annotations

import re
from collections import Counter
from itertools import chain, permutations

from luthier.world.tables import Property, the_world

WORLD = the_world()
PROPERTIES = [(kind, prop) for kind in WORLD.kinds.values() for prop in kind.properties.values()]
PROSE = [
    *chain.from_iterable(WORLD.prose.titles.values()),
    *WORLD.prose.announcements,
    *WORLD.prose.closings,
    *WORLD.prose.courtesies,
    *WORLD.prose.ramble_before,
    *WORLD.prose.ramble_after,
    *WORLD.prose.repeats,
]


def whole(words: str, text: str) -> bool:
    return re.search(rf"\b{re.escape(words)}\b", text, re.IGNORECASE) is not None


def phrasings(prop: Property) -> list[str]:
    return [prop.cloze, prop.row, *prop.sentences, *prop.clauses, *prop.topics, *prop.short, *prop.questions]


def test_the_world_is_large_enough():
    assert len(WORLD.facts) >= 250
    assert Counter(fact.kind for fact in WORLD.facts)["product"] == 60 * 5
    assert len({fact.id for fact in WORLD.facts}) == len(WORLD.facts)


def test_every_value_comes_from_its_pool():
    assert [fact for fact in WORLD.facts if fact.value not in WORLD.property_of(fact).values] == []


def test_values_and_entities_are_unambiguous_on_word_boundaries():
    values = [value for _, prop in PROPERTIES for value in prop.values]
    entities = [entity for kind in WORLD.kinds.values() for entity in kind.entities]
    assert [pair for pair in permutations(values + entities, 2) if whole(*pair)] == []


def test_no_wording_gives_a_value_away_or_names_an_entity():
    values = [value for _, prop in PROPERTIES for value in prop.values]
    wordings = PROSE + [text for _, prop in PROPERTIES for text in phrasings(prop)]
    assert [(value, text) for value in values for text in wordings if whole(value, text)] == []
    entities = [entity for kind in WORLD.kinds.values() for entity in kind.entities]
    questions = [text for _, prop in PROPERTIES for text in prop.questions]
    assert [(entity, text) for entity in entities for text in questions if whole(entity, text)] == []


def test_names_of_products_and_people_share_no_beginning():
    names = [*WORLD.kinds["product"].entities, *WORLD.kinds["person"].entities]
    assert all(re.fullmatch(r"[A-Z][a-z]+", name) for name in names)
    assert len({name[:3] for name in names}) == len(names)


def test_every_property_has_enough_wordings_and_values():
    for kind, prop in PROPERTIES:
        assert len(set(prop.sentences)) >= 8, prop.name
        assert len(set(prop.questions)) >= 8, prop.name
        assert len(set(prop.clauses)) >= 3, prop.name
        # Seven weekdays; the pools that wrong choices are drawn from are those of products and people.
        assert 7 <= len(set(prop.values)) <= 16, prop.name
        assert kind.name in ("place", "policy") or len(prop.values) >= 8, prop.name
        assert any(sentence.startswith(f"{prop.cloze} {{v}}") for sentence in prop.sentences), prop.cloze
        assert all("{e}" in text and text.endswith("?") and "{v}" not in text for text in prop.questions)
        assert len(set(prop.topics)) >= 3 and all(text.count("{e}") == 1 for text in prop.topics), prop.name
        assert all(text.count("{e}") == 1 == text.count("{v}") for text in prop.sentences)


def test_a_products_properties_do_not_tell_each_other():
    """Of 60 products, no two share more than three of five values, and no two values stand together often."""
    products = [tuple(f.value for f in WORLD.about("product", entity)) for entity in WORLD.kinds["product"].entities]
    assert max(sum(map(str.__eq__, one, other)) for one, other in permutations(products, 2)) <= 3
    pairs = Counter((a, b) for values in products for a, b in permutations(values, 2))
    assert max(pairs.values()) <= 3


def test_everything_is_plain_ascii():
    texts = PROSE + [text for _, prop in PROPERTIES for text in phrasings(prop)] + [fact.value for fact in WORLD.facts]
    assert [text for text in texts if not text.isascii()] == []
