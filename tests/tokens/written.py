"""Rows as a folder of shards, as the tokeniser writes them."""

from __future__ import annotations

from luthier.base.stored import Job, Made, stored
from luthier.tokens import shards as s


class Part:
    """Rows for one shard."""

    share = 1.0

    def __init__(self, number, rows):
        self.number, self.rows = number, rows


def made(dtype, part):
    shard = s.Shard(dtype)
    shard.add(part.rows)
    size = sum(len(row.ids) for row in part.rows)
    return Made(shard.content(), {"rows": len(part.rows), "sequences": len(part.rows), "tokens": size})


def write(folder, parts, dtype="uint32", tokenizer="t"):
    """These lists of rows as a folder of shards."""
    key = {"of": "tokens", "tokenizer": tokenizer}
    stored(folder, Job(key, lambda done: [Part(n, rows) for n, rows in enumerate(parts)], made, dtype, 1))
    return folder
