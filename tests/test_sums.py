"""The sums that recipes are about, and the rewards beside them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from luthier.base.config import load_function
from luthier.base.nouns import Chat, Message

RECIPES = Path(__file__).parents[1] / "recipes"
ASKED = (Message("user", "What is 3 + 4?"),)


def test_the_files_are_what_the_script_writes(tmp_path):
    load_function("data/make_sums.py:main", RECIPES)(tmp_path)
    written = sorted(file.name for file in tmp_path.iterdir())
    assert written == ["sums.jsonl", "sums_ask.jsonl", "sums_qa.jsonl"]
    assert all((tmp_path / name).read_bytes() == (RECIPES / "data" / name).read_bytes() for name in written)


def test_no_sum_that_is_measured_is_taught():
    def sums(name):
        text = (RECIPES / "data" / name).read_text()
        return {tuple(map(int, pair)) for pair in re.findall(r"(\d+) \+ (\d+)", text)}

    asked, taught = sums("sums_ask.jsonl"), sums("sums.jsonl") | sums("sums_qa.jsonl")
    assert len(asked) == 32 and len(taught) == 13 * 13 - 32 and not asked & taught
    for row in map(json.loads, (RECIPES / "data" / "sums_qa.jsonl").read_text().splitlines()):
        a, b = map(int, re.findall(r"\d+", row["question"]))
        assert row["accept"] == [str(a + b)] == re.findall(r"\d+", row["answer"])


@pytest.mark.parametrize(
    ("answer", "right", "rated"),
    [("#### 7", 1.0, 2 + 1 - 0.06), ("It makes 7.", 1.0, 2 - 0.11), ("#### 8", 0.0, 1 - 0.06), ("", 0.0, 0.0)],
)
def test_the_rewards_beside_the_recipes(answer, right, rated):
    row = Chat((*ASKED, Message("assistant", "7")), "sums:1", ("7",))
    assert load_function("rewards.py:right", RECIPES)(ASKED, answer, row) == right
    assert load_function("rewards.py:brief", RECIPES)(ASKED, answer, row) == -len(answer) / 100
    assert load_function("rewards.py:rate", RECIPES)(ASKED, answer) == pytest.approx(rated)
