"""Preference pairs as a run keeps them: pairs.jsonl, one pair a line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from luthier.base.files import write_jsonl
from luthier.base.nouns import Message, Pair


def write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    """{prompt: [{role, content}], chosen, rejected, origin, meta}; the data room reads it as format `pairs` too."""
    write_jsonl(
        path,
        (
            {
                "prompt": [{"role": m.role, "content": m.content} for m in pair.prompt],
                "chosen": pair.chosen,
                "rejected": pair.rejected,
                "origin": pair.origin,
                "meta": dict(pair.meta or {}),
            }
            for pair in pairs
        ),
    )


def read_pairs(path: Path) -> list[Pair]:
    """What `write_pairs` wrote."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        Pair(tuple(Message(**m) for m in row["prompt"]), row["chosen"], row["rejected"], row["origin"], row["meta"])
        for row in rows
    ]
