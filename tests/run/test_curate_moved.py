"""A row that ties two groups together moves one of them to the other's side: told, in both directions."""

from __future__ import annotations

import json
import re

import pytest

from luthier.base.config import load_recipe
from luthier.base.files import read_json
from luthier.data.curate.groups import held_out
from luthier.data.records import read_records
from luthier.run.stages import run_recipe
from run.small import stage_folders, write_rows

RECIPE = """\
name: moving
data:
  faq: {path: faq.jsonl, format: qa, group: thread}
stages:
  - {kind: curate, name: bot, data: faq, heldout: 0.5, near: null, flaws: false, conflicts: false}
"""
FREE = [f"t{n}" for n in range(40)]
KEPT, HELD = ([t for t in FREE if held_out(f"faq/{t}", 0.5) == side] for side in (False, True))


def rows_of(*threads):
    return [
        {"question": f"What is the colour of stone {n}?", "answer": f"Stone {n} is as grey as rain.", "thread": thread}
        for n, thread in enumerate(threads)
    ]


def curated(folder, rows):
    write_rows(folder / "faq.jsonl", rows)
    path = folder / "recipe.yaml"
    path.write_text(RECIPE)
    made = run_recipe(load_recipe(path, [f"out={json.dumps(str(folder / 'out'))}"]), path)
    stage = stage_folders(made)["bot"]
    sides = {side: {r.example.origin for r in read_records(stage / f"{side}.jsonl")} for side in ("kept", "heldout")}
    return sides, read_json(stage / "curation.json").get("moved"), (made / "report.html").read_text()


@pytest.mark.parametrize("first", [KEPT, HELD])
def test_two_groups_that_come_together(tmp_path, first):
    """The name that is first in the alphabet stays. Where that one was kept, a row that was held out is trained on
    (told with its origin); where it was held out, one that was trained on is held out."""
    other = HELD if first is KEPT else KEPT
    low, high = next((a, b) for a in first for b in other if a < b)
    rest = [t for t in FREE if t not in (low, high)][:10]
    rows = rows_of(low, high, *rest)
    sides, moved, _ = curated(tmp_path, rows)
    assert moved is None  # the first time there is nothing to compare with
    tie = {"question": rows[0]["question"], "answer": rows[0]["answer"], "thread": high}  # a copy, in the other thread
    after, moved, page = curated(tmp_path, [*rows, tie])
    assert {"faq.jsonl:1", "faq.jsonl:2"} <= (after["kept"] if first is KEPT else after["heldout"])
    if first is KEPT:
        assert (moved["tested"], moved["trained"]) == (1, 0) and "faq.jsonl:2" in sides["heldout"] & after["kept"]
        said = r"trained on now, and held out by 1-bot-\w+: 1 row \(faq.jsonl:2\). Compare models .*"
    else:
        assert (moved["tested"], moved["trained"]) == (0, 1) and "faq.jsonl:2" in sides["kept"] & after["heldout"]
        said = r"held out now, and trained on by 1-bot-\w+: 1 row"
    assert re.fullmatch(said, moved["words"])
    assert moved["words"] in page
    same = {origin for side in ("kept", "heldout") for origin in sides[side] & after[side]}
    assert len(same) == len(rows) - 1  # nothing else moved


def test_rows_that_tie_nothing_move_nothing(tmp_path):
    curated(tmp_path, rows_of(*FREE[:10]))
    _, moved, page = curated(tmp_path, rows_of(*FREE[:20]))
    assert moved is not None and (moved["tested"], moved["trained"], moved["words"]) == (0, 0, "")
    assert "Rows that changed sides" not in page
