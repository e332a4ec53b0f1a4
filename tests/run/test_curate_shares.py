"""Shares of the chosen rows by source: with `keep` and without, of sources and of what an earlier stage made."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from luthier.base.config import load_recipe
from luthier.base.errors import UserError
from luthier.base.files import read_json
from luthier.data.records import read_records
from luthier.run.curation_page import headline
from luthier.run.stages import check_recipe, run_recipe
from run.small import questions, stage_folders, write_rows

RECIPE = """\
name: made
data:
  slack: {path: slack.jsonl, format: qa, licence: MIT, made: human}
  faq: {path: faq.jsonl, format: qa, licence: MIT, made: human}
stages:
  - {kind: curate, name: talk, data: slack, heldout: 0, near: null, flaws: false}
  - {kind: curate, name: bot, data: [talk, faq], heldout: 0, near: null, flaws: false}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """80 rows of talk, which an earlier stage passes on, and 21 of a FAQ."""
    rows = questions(range(101))
    write_rows(tmp_path / "slack.jsonl", rows[:80])
    write_rows(tmp_path / "faq.jsonl", rows[80:])
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def made(folder, *changes):
    """(the stage's folder, how many rows of each source were chosen, why the others were not)"""
    path = folder / "recipe.yaml"
    run = run_recipe(load_recipe(path, [f"out={json.dumps(str(folder / 'out'))}", *changes]), path)
    bot = stage_folders(run)["bot"]
    kept = Counter(row.provenance.source for row in read_records(bot / "kept.jsonl"))
    return bot, kept, Counter(row.out for row in read_records(bot / "rows.jsonl") if row.out)


def test_a_largest_share_holds_with_keep_and_without(folder):
    _, kept, _ = made(folder, "stages.1.keep=40", "stages.1.at_most={talk: 0.5}")
    assert kept == {"slack": 20, "faq": 20}
    bot, kept, why = made(folder, "stages.1.at_most={talk: 0.3}")  # 21 of the FAQ are 70 % of 30
    assert kept == {"slack": 9, "faq": 21} and why == {"not chosen: the recipe allows 30% of talk": 71}
    assert read_json(bot / "dropped.json")["not chosen"]["rows"] == 71
    said = headline(read_json(bot / "curation.json"))
    assert said.endswith(
        "30 of 101 rows are kept to train on, 0 held out; 71 are more of a source than the recipe allows."
    )
    _, kept, _ = made(folder, "stages.1.keep=60", "stages.1.at_most={talk: 0.3}")  # and of more there are no others
    assert kept == {"slack": 9, "faq": 21}


def test_a_least_share_is_chosen_and_told_where_it_is_not_there(folder):
    _, kept, _ = made(folder, "stages.1.keep=20", "stages.1.at_least={faq: 0.85}")
    assert kept["faq"] >= 17
    bot, kept, _ = made(folder, "stages.1.keep=50", "stages.1.at_least={faq: 0.5}")
    assert kept == {"faq": 21, "slack": 29}
    assert "at_least asks for 50% of faq, 25 rows of 50, and only 21 are fit" in (bot / "events.jsonl").read_text()


def test_check_says_the_shares(folder):
    path = folder / "recipe.yaml"
    changes = ["stages.1.keep=40", "stages.1.at_most={talk: 0.125}", "stages.1.at_least={faq: 0.5}"]
    note = check_recipe(load_recipe(path, changes), path)[1].note
    assert "at most 12.5% of what is kept from talk; at least 50% of it from faq" in note


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["at_most={fqa: 0.3}"], r"at_most.fqa: the stage does not read fqa. Did you mean faq\? It reads: talk"),
        (["at_most={slack: 0.3}"], r"the stage does not read slack"),
        (["keep=5", "at_least={faq: 0.3}", "at_most={faq: 0.2}"], r"0.3 is more than at_most allows, 0.2"),
        (["keep=5", "at_least={faq: 0.6, talk: 0.6}"], r"at_least.*: the shares are 1.2 together"),
        (["at_most={faq: 0.3, talk: 0.3}"], r"at_most.* allows 0.6 of what is chosen, in all, and nothing else"),
        (["at_least={faq: 0.3}"], r"at_least.* does nothing where all rows are kept. Give keep"),
        (["at_most={faq: 1.3}"], r"at_most.faq: must be at most 1, not 1.3"),
    ],
)  # fmt: skip
def test_shares_that_cannot_be_kept(folder, changes, said):
    with pytest.raises(UserError, match=said):
        made(folder, *(f"stages.1.{one}" for one in changes))
