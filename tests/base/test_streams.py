"""What a recipe may do with a streamed source."""

from __future__ import annotations

import pytest

from luthier.base.config import load_recipe
from luthier.base.errors import UserError

BASE = """\
name: x
base: some/model
data: {a: {path: a.jsonl, stream: true}, b: b.jsonl, c: {path: c.jsonl, stream: true}}
"""
GOOD = """\
stages: [{kind: sft, data: {a: 1, b: 2}, replay: {data: c}}, {kind: dpo, pairs: b}]
evaluate: {held: {kind: loss, data: a}, all: {kind: loss, data: b, heldout_only: false}}
"""


def load(folder, rest):
    path = folder / "x.yaml"
    path.write_text(BASE + rest)
    return load_recipe(path)


def test_streamed_sources_are_trained_on_and_their_held_out_rows_measured(tmp_path):
    assert load(tmp_path, GOOD).data["a"].stream


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("stages: [{kind: dpo, pairs: a}]", r"stages\[0\]\.\S*pairs: a is streamed, and dpo needs its rows in memory"),
        ("stages: [{kind: kto, data: a}]", r"data: a is streamed, and kto needs its rows in memory"),
        ("stages: [{kind: best_of, prompts: a, rewards: [r.py:f]}]", r"prompts: a is streamed, and best_of"),
        ("evaluate: {e: {kind: answers, data: a}}", r"only its held-out rows can be measured, by kind: loss"),
        ("evaluate: {e: {kind: loss, data: a, heldout_only: false}}", r"only its held-out rows can be measured"),
        ("shards: x", r"shards: x is the run's own folder. Name another"),
    ],
)
def test_nothing_else_is_done_with_them(tmp_path, rest, said):
    with pytest.raises(UserError, match=said):
        load(tmp_path, rest)
