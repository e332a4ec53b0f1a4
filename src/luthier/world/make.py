"""Writes the demo's world to disk: a corpus, conversations, questions, and the recipe that trains on them."""

from __future__ import annotations

import random
from importlib.resources import files
from pathlib import Path

from luthier.base.files import write_jsonl, write_text
from luthier.world import corpus, questions
from luthier.world.tables import the_world

DOCUMENTS = 11_300
"""About 1.45 million tokens with a vocabulary of 800, in which each fact is stated some 200 times."""

PROMPTS = 600
WIN_PROMPTS = 150


def write_world(folder: Path, seed: int = 0, documents: int = DOCUMENTS) -> None:
    """Fills `folder` with the world's files; equal arguments, equal bytes. What is true does not depend on the
    seed; which facts are held out, and all wording, does.

    corpus.jsonl             {text}                           documents that state every fact, and bare questions
    sft.jsonl                {messages, accept, fact, style}  answered questions about the taught facts
    heldout_questions.jsonl  {messages, accept, fact}         one question for each held-out fact
    heldout_choices.jsonl    {context, choices, gold, fact}   the same facts as multiple choice
    prompts.jsonl            {messages, accept, fact}         taught product facts, to gather preferences on
    win_prompts.jsonl        {messages, accept, fact}         questions no stage has seen, to compare models on
    reworded.jsonl           {messages, accept, paraphrases, candidates, fact}  held-out facts asked in four wordings
    recipe.yaml              the demo's recipe

    Raises RunError when the folder cannot be written.
    """
    world = the_world()
    split = questions.Split.draw(world, chance(seed, "split"))
    taught = questions.ask(world, split.taught, chance(seed, "taught"))
    heldout = questions.ask(world, split.heldout, chance(seed, "heldout"))
    of_products = {fact: asked for fact, asked in taught.items() if fact.kind == "product"}
    rows = {
        "corpus": [{"text": text} for text in corpus.documents(world, chance(seed, "corpus"), documents)],
        "sft": questions.conversations(world, taught, chance(seed, "sft")),
        "heldout_questions": [items[0].row() for items in heldout.values()],
        "heldout_choices": questions.choices(world, split.heldout, chance(seed, "choices")),
        "prompts": questions.prompts(of_products, PROMPTS, chance(seed, "prompts")),
        "win_prompts": questions.win_prompts(of_products, heldout, WIN_PROMPTS, chance(seed, "win")),
        "reworded": questions.reworded(world, heldout),
    }
    for name, lines in rows.items():
        write_jsonl(folder / f"{name}.jsonl", lines)
    recipe = files("luthier.world").joinpath("recipe.yaml").read_text(encoding="utf-8")
    write_text(folder / "recipe.yaml", recipe)


def chance(seed: int, purpose: str) -> random.Random:
    """Randomness as a function of seed and purpose: changing one file's making leaves the others as they were."""
    return random.Random(f"{seed}:{purpose}")
