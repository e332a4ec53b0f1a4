"""Writes the sums that some recipes are about: python recipes/data/make_sums.py. The same files every time.

sums.jsonl     documents to pretrain on: one sum each
sums_qa.jsonl  questions with answers in three manners; a third ends in "#### number", as GSM8K's do
sums_ask.jsonl questions that stand in neither of the two, to measure on
"""

from __future__ import annotations

import json
import random
from pathlib import Path

LARGEST = 12
HELD_OUT = 32
FORMS = ("{a} + {b} = {c}", "What is {a} + {b}? It makes {c}.", "What is {a} + {b}? That is {c}.")
MANNERS = ("That is {c}.", "It makes {c}.", "#### {c}")


def write(file: Path, rows: list[dict]) -> None:
    """One JSON object a line."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def main(folder: Path) -> None:
    """All pairs of numbers up to LARGEST, shuffled once."""
    rng = random.Random(0)
    pairs = [(a, b) for a in range(LARGEST + 1) for b in range(LARGEST + 1)]
    rng.shuffle(pairs)
    held, taught = pairs[:HELD_OUT], pairs[HELD_OUT:]
    documents = [form.format(a=a, b=b, c=a + b) for a, b in taught for form in FORMS]
    rng.shuffle(documents)
    write(folder / "sums.jsonl", [{"text": document} for document in documents])
    asked = [(a, b, manner) for a, b in taught for manner in MANNERS]
    rng.shuffle(asked)
    write(
        folder / "sums_qa.jsonl",
        [
            {"question": f"What is {a} + {b}?", "answer": manner.format(a=a, b=b, c=a + b), "accept": [str(a + b)]}
            for a, b, manner in asked
        ],
    )
    write(
        folder / "sums_ask.jsonl",
        [{"question": f"What is {a} + {b}?", "answer": str(a + b), "accept": [str(a + b)]} for a, b in held],
    )


if __name__ == "__main__":
    main(Path(__file__).parent)
