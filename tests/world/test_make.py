"""What is written: every fact stated often and variously, held-out facts never answered, equal seeds equal bytes."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from luthier.base.config import load_recipe
from luthier.base.values import contains
from luthier.world.answers import SHARES
from luthier.world.make import write_world
from luthier.world.tables import Fact, capital, the_world

WORLD = the_world()
FACTS = {fact.id: fact for fact in WORLD.facts}
VALUES = re.compile(
    "|".join(
        rf"\b{re.escape(v)}\b" for kind in WORLD.kinds.values() for p in kind.properties.values() for v in p.values
    ),
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("world")
    write_world(path, seed=0)
    return path


def rows(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def texts(folder: Path) -> list[str]:
    return [row["text"] for row in rows(folder, "corpus")]


def sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+", text)


def heldout(folder: Path) -> list[Fact]:
    return [FACTS[row["fact"]] for row in rows(folder, "heldout_questions")]


def test_equal_seeds_equal_bytes_and_other_seeds_other_words(tmp_path: Path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_world(tmp_path / name, seed=seed, documents=200)
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name
        if path.suffix == ".jsonl":
            assert path.read_bytes() != (tmp_path / "c" / path.name).read_bytes(), path.name


def test_every_fact_is_stated_often_in_many_words_and_neighbourhoods(folder: Path):
    """Whole phrasings only: what is said in joined sentences and lists comes on top."""
    where = {}
    for fact in WORLD.facts:
        for phrasing in WORLD.property_of(fact).sentences:
            where[capital(fact.fill(phrasing))] = (fact.id, phrasing)
    times, ways, neighbours = Counter(), defaultdict(set), defaultdict(set)
    for text in texts(folder):
        said = sentences(text)
        for before, sentence, after in zip(["", *said], said, [*said[1:], ""], strict=False):
            if sentence in where:
                fact, phrasing = where[sentence]
                times[fact] += 1
                ways[fact].add(phrasing)
                neighbours[fact] |= {before, after}
    assert {fact for fact in FACTS if times[fact] < 25} == set()
    assert {fact for fact in FACTS if len(ways[fact]) < 6} == set()
    assert {fact for fact in FACTS if len(neighbours[fact]) < 6} == set()


def test_the_corpus_says_nothing_false(folder: Path):
    """A sentence about one entity of a kind holds only values that are that entity's."""
    by_name = {entity: kind for kind in WORLD.kinds.values() for entity in kind.entities}
    names = re.compile(rf"\b({'|'.join(by_name)})\b")
    for text in texts(folder):
        if "?" in text:
            continue
        for sentence in sentences(text):
            for part in re.split(r", (?:while|but|and) (?=the |The )", sentence):
                named = set(names.findall(part))
                if len(named) == 1:
                    entity = named.pop()
                    own = {fact.value for fact in WORLD.about(by_name[entity].name, entity)}
                    assert set(VALUES.findall(part)) <= own, part


def test_bare_questions_are_about_a_seventh_and_never_answered(folder: Path):
    documents = texts(folder)
    asking = [text for text in documents if "?" in text]
    assert 0.13 <= len(asking) / len(documents) <= 0.17
    # A document that asks anything holds no value of any pool: no answer, and nothing to guess one from.
    assert [text for text in asking if VALUES.search(text)] == []


def test_documents_are_short_and_plain(folder: Path):
    lengths = [len(text.split()) for text in texts(folder)]
    assert min(lengths) >= 40
    assert max(lengths) <= 160
    assert all(text.isascii() for text in texts(folder))


def test_heldout_facts_are_balanced_and_never_in_the_conversations(folder: Path):
    kept = heldout(folder)
    assert len(kept) == 90
    assert len({fact.id for fact in kept}) == len(kept)
    of_product = Counter(fact.entity for fact in kept if fact.kind == "product")
    assert Counter(of_product.values()) == {1: 30, 2: 30}
    assert set(Counter(fact.prop for fact in kept if fact.kind == "product").values()) == {18}
    assert {fact.kind for fact in kept} == {"product"}
    for name in ("sft", "prompts"):
        for row in rows(folder, name):
            said = " ".join(message["content"] for message in row["messages"])
            for fact in kept:
                assert fact.id != row["fact"]
                both = contains(said, [fact.entity]) and contains(said, [fact.value])
                assert not both, (fact.id, said)


def test_heldout_questions_are_worded_as_conversations_word_others(folder: Path):
    def wording(row: dict) -> tuple[str, str]:
        fact = FACTS[row["fact"]]
        return fact.prop, row["messages"][0]["content"].replace(fact.entity, "{e}")

    taught = {wording(row) for row in rows(folder, "sft")}
    assert [row for row in rows(folder, "heldout_questions") if wording(row) not in taught] == []


def test_conversations_answer_rightly_in_the_stated_mix(folder: Path):
    conversations = rows(folder, "sft")
    for row in conversations:
        question, answer = row["messages"]
        assert (question["role"], answer["role"]) == ("user", "assistant")
        assert row["accept"] == [FACTS[row["fact"]].value]
        assert contains(answer["content"], row["accept"])
    styles = Counter(row["style"] for row in conversations)
    for style, share in SHARES.items():
        assert styles[style] / len(conversations) == pytest.approx(share, abs=0.01)
    taught = {row["fact"] for row in conversations}
    assert taught == set(FACTS) - {fact.id for fact in heldout(folder)}
    assert min(Counter(row["fact"] for row in conversations).values()) >= 3


def test_prompts_and_win_prompts_are_disjoint_and_unseen(folder: Path):
    def asked(name: str) -> list[str]:
        return [row["messages"][0]["content"] for row in rows(folder, name)]

    prompts, wins = asked("prompts"), asked("win_prompts")
    assert (len(prompts), len(wins)) == (600, 150)
    assert len(set(prompts)) == 600
    assert len(set(wins)) == 150
    assert set(wins) & (set(prompts) | set(asked("sft")) | set(asked("heldout_questions"))) == set()
    about = {row["fact"] for row in rows(folder, "win_prompts")}
    assert about >= {fact.id for fact in heldout(folder)}


def test_choices_have_one_right_option_in_every_place(folder: Path):
    items = rows(folder, "heldout_choices")
    assert [item["fact"] for item in items] == [fact.id for fact in heldout(folder)]
    said = {text for document in texts(folder) for text in sentences(document)}
    for item in items:
        fact, options = FACTS[item["fact"]], item["choices"]
        assert options[item["gold"]] == f" {fact.value}"
        assert len(set(options)) == 4
        assert {option.strip() for option in options} <= set(WORLD.property_of(fact).values)
        assert not item["context"].endswith(" ")
        # The corpus says it in these words, and says none of the others.
        claims = [any(text.startswith(item["context"] + option) for text in said) for option in options]
        assert claims == [i == item["gold"] for i in range(4)]
    places = Counter(item["gold"] for item in items)
    assert max(places.values()) - min(places.values()) <= 1


def test_reworded_questions_ask_for_one_heldout_fact_in_four_ways(folder: Path):
    items = rows(folder, "reworded")
    assert [item["fact"] for item in items] == [fact.id for fact in heldout(folder)]
    for item in items:
        fact = FACTS[item["fact"]]
        wordings = [item["messages"][0]["content"], *item["paraphrases"]]
        assert len(set(wordings)) == 4 and all(fact.entity in words for words in wordings)
        assert {words.replace(fact.entity, "{e}") for words in wordings} <= set(WORLD.property_of(fact).questions)
        assert fact.value in item["candidates"] and item["accept"] == [fact.value]


def test_the_recipe_is_valid_and_names_what_is_written(folder: Path):
    recipe = load_recipe(folder / "recipe.yaml")
    assert [stage.kind for stage in recipe.stages] == ["pretrain", "curate", "sft", "prefer", "reward", "ppo"]
    assert list(recipe.evaluate) == [
        "knowledge",
        "answers",
        "alignment",
        "consistency",
        "forgetting",
        "win_rate",
        "mistakes",
    ]
    assert {source.path for source in recipe.data.values()} == {path.name for path in folder.glob("*.jsonl")}
    for part in (*recipe.stages, *recipe.evaluate.values()):
        named = {part.model_dump().get("data"), part.model_dump().get("prompts")} - {None}
        assert named <= {*recipe.data, "chosen"}
