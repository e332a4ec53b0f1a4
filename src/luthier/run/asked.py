"""What was asked once is not asked again: replies on disk, a line each, as they come in. A killed command goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from luthier.base.files import hash_of
from luthier.base.lines import add_lines, read_lines
from luthier.base.nouns import Ask, Message, Reply

Progress = Callable[[int, int], None]
"""(how many are there, of how many)."""


def remembering(ask: Ask, file: Path, at_once: int, progress: Progress = lambda done, of: None) -> Ask:
    """`ask` with a memory: the file holds the replies of one subject, asked in one way, and prompts that it has a reply
    to are not asked again. So many prompts are asked `at_once`, then their replies are written. A prompt that got no
    answer is not remembered: the next command asks again."""

    def remembered(prompts: Sequence[Sequence[Message]]) -> list[Reply]:
        known = {key: Reply(**row) for key, row in read_lines(file).items()}
        keys = [hash_of([[m.role, m.content] for m in prompt]) for prompt in prompts]
        failed: dict[str, Reply] = {}
        progress(sum(key in known for key in keys), len(keys))
        for start in range(0, len(prompts), at_once):
            fresh = {
                key: prompt
                for key, prompt in zip(keys[start : start + at_once], prompts[start : start + at_once], strict=True)
                if key not in known and key not in failed
            }
            if not fresh:
                continue
            rows = {}
            for key, reply in zip(fresh, ask(list(fresh.values())), strict=True):
                (failed if reply.error is not None else known)[key] = reply
                if reply.error is None:
                    said = {"text": reply.text, "ended": reply.ended, "tokens": reply.tokens, "seconds": reply.seconds}
                    rows[key] = said
            add_lines(file, rows)
            progress(sum(key in known or key in failed for key in keys), len(keys))
        return [known.get(key) or failed[key] for key in keys]

    return remembered
