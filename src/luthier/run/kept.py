"""Data that a stage made, read back as a data set: the answers that best_of kept, or the records of a stage that
curates or synthesises."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from luthier.base.files import write_jsonl
from luthier.base.nouns import Chat, Choice, Example, Labelled, Message, Pair, Text
from luthier.data.dataset import Dataset
from luthier.data.records import from_json

SIDES = ("kept", "heldout")
"""Files of the rows to train on, and of those that are held out."""


def write_kept(path: Path, chats: Sequence[Chat], scores: Sequence[float]) -> None:
    """{messages, accept, origin, score} a line; the data room reads it as format `messages` too."""
    write_jsonl(
        path,
        (
            {
                "messages": [{"role": m.role, "content": m.content} for m in chat.messages],
                "accept": list(chat.accept),
                "origin": chat.origin,
                "score": score,
            }
            for chat, score in zip(chats, scores, strict=True)
        ),
    )


def read_kept(path: Path) -> list[Example]:
    """What `write_kept` wrote, with the score in `meta`; or the examples of what `write_records` wrote."""
    return [example_of(line) for line in lines_of(path)]


def lines_of(path: Path) -> Iterator[str]:
    with open(path, encoding="utf-8") as file:
        yield from file


def example_of(line: str) -> Example:
    """One row of a stage's kept.jsonl or heldout.jsonl."""
    row = json.loads(line)
    if "provenance" in row:
        return from_json(row).example
    messages = tuple(Message(**message) for message in row["messages"])
    return Chat(messages, row["origin"], tuple(row["accept"]), {"score": row["score"]})


def kept_dataset(name: str, folder: Path, digest: str) -> Dataset:
    """What a finished stage made, whose hash is `digest`, as a source of that name."""
    train, heldout = (read_kept(folder / f"{side}.jsonl") for side in SIDES)
    return Dataset(
        name=name,
        format=format_of([*train, *heldout]),
        train=train,
        heldout=heldout,
        rejected=[],
        files=len(SIDES),
        rows=len(train) + len(heldout),
        hash=digest,
        duplicates=0,
        notes=(),
    )


FORMATS: dict[type[Example], str] = {
    Text: "text",
    Chat: "messages",
    Pair: "pairs",
    Labelled: "labelled",
    Choice: "choices",
}


def format_of(rows: Sequence[Example]) -> str:
    """What a source of such rows would have been read as."""
    kinds = {type(row) for row in rows}
    return FORMATS[kinds.pop()] if len(kinds) == 1 else "messages"
