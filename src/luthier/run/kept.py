"""Answers that a best_of stage kept, as a run has them: conversations, one a line, read back as a data set."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from luthier.base.files import write_jsonl
from luthier.base.nouns import Chat, Example, Message
from luthier.data.dataset import Dataset

SIDES = ("kept", "heldout")
"""Files of the answers to a source's training prompts, and to its held-out ones."""


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
    """What `write_kept` wrote; the score stands in `meta`."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        Chat(tuple(Message(**m) for m in row["messages"]), row["origin"], tuple(row["accept"]), {"score": row["score"]})
        for row in rows
    ]


def kept_dataset(name: str, folder: Path, digest: str) -> Dataset:
    """The answers of a finished best_of stage, whose hash is `digest`, as a source of that name."""
    train, heldout = (read_kept(folder / f"{side}.jsonl") for side in SIDES)
    return Dataset(
        name=name,
        format="messages",
        train=train,
        heldout=heldout,
        rejected=[],
        files=len(SIDES),
        rows=len(train) + len(heldout),
        hash=digest,
        duplicates=0,
        notes=(),
    )
