"""The worklist as a page to read: worklist.md, category by category, the worst first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from luthier.base.mistakes import CATEGORY_WORDS
from luthier.run.story import stage_word

MOST_ROWS = 200
"""Rows of a category that the page shows; worklist.jsonl has all."""
MOST_CHARACTERS = 240


def worklist_page(entries: Sequence[Mapping[str, Any]], scanned: int, notes: Sequence[str], run: str) -> str:
    """The Markdown of a worklist."""
    rows = [e for e in entries if e["action"] == "correct"]
    ready = sum(e["draft"] is not None for e in rows)
    adds = [e for e in entries if e["action"] == "add"]
    said = [
        f"# Worklist of {stage_word(run)}",
        "",
        f"{len(rows)} of {scanned:,} trained answers look wrong; for {ready} of them a correction is drafted. "
        f"For {len(adds)} questions rows seem to be missing.",
        "",
        'Edit `worklist.jsonl`: set `accept` to true, false or "remove", or write your own `new`. Then:',
        "",
        f"    luthier eval {run} --fix --apply worklist.jsonl",
        "",
        *(f"- {note}" for note in notes),
    ]
    for category, title in CATEGORY_WORDS.items():
        own = [e for e in rows if e["categories"][0] == category]
        if own:
            said += ["", f"## {title}: {len(own)} rows to correct", "", "| row | what is wrong | as it is | draft |"]
            said += ["|---|---|---|---|", *(_line(e) for e in own[:MOST_ROWS])]
            if len(own) > MOST_ROWS:
                said += ["", f"{len(own) - MOST_ROWS} more stand in worklist.jsonl."]
    if adds:
        said += ["", f"## Rows to add: {len(adds)} questions", "", "| asked | answered | wanted | nearest rows |"]
        said += ["|---|---|---|---|"]
        for e in adds[:MOST_ROWS]:
            near = ", ".join(f"`{n['origin']}`" for n in e["nearest"])
            wanted = _cell(", ".join(e["accept_values"]))
            said.append(f"| {_cell(e['asked'])} | {_cell(e['answered'])} | {wanted} | {near} |")
    return "\n".join(said) + "\n"


def _line(entry: Mapping[str, Any]) -> str:
    why = "; ".join(dict.fromkeys(f"{CATEGORY_WORDS[e['category']].lower()}: {e['why']}" for e in entry["evidence"]))
    draft = _cell(entry["draft"]) if entry["draft"] is not None else "(yours)"
    return f"| `{entry['origin']}` | {_cell(why)} | {_cell(entry['old'])} | {draft} |"


def _cell(text: str) -> str:
    """A text within a table's cell: one line, no markup of its own, not longer than 240 characters."""
    line = " ".join(text.split())
    line = line if len(line) <= MOST_CHARACTERS else f"{line[: MOST_CHARACTERS - 1]}…"
    for sign in ("\\", "|", "<", ">", "`", "*", "_", "[", "]"):
        line = line.replace(sign, f"\\{sign}")
    return line
