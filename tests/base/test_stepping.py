"""What schedules and budgets may not be asked, told with the line of the recipe."""
# ruff: noqa: E501  # a person reads these lines whole, so they stand here whole

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.base.config import load_recipe
from luthier.base.errors import UserError

RECIPE = """\
name: support
base: small
data: {faq: faq.jsonl}
%s
stages:
  - {kind: sft, data: faq%s}
  - {kind: grpo, prompts: faq, rewards: "r.py:good"%s}
"""


def problems(tmp_path, monkeypatch, budget="", first="", second=""):
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPE % (budget, first, second))
    Path("r.py").write_text("def good(messages, answer, row):\n    return 0.0\n")
    with pytest.raises(UserError) as refused:
        load_recipe(Path("r.yaml"), [])
    return refused.value.problems


@pytest.mark.parametrize(
    ("where", "setting", "said"),
    [
        ("first", ", decay_frac: 0.5", "r.yaml:6: stages[0].sft.decay_frac: is for schedule: wsd, not for cosine. Remove it, or change schedule."),
        ("first", ", schedule: wsd, warmup_frac: 0.3, decay_frac: 0.8", "r.yaml:6: stages[0].sft.decay_frac: warmup_frac 0.3 and decay_frac 0.8 are more than all steps. Lower one of them."),
        ("budget", "budget: {}", "r.yaml:4: budget: names no limit. Give hours or memory_gib, or remove it."),
    ],
)  # fmt: skip
def test_contradictions_are_told(where, setting, said, tmp_path, monkeypatch):
    assert problems(tmp_path, monkeypatch, **{where: setting}) == [said]


def test_what_fits_together_loads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("r.py").write_text("def good(messages, answer, row):\n    return 0.0\n")
    first = ", schedule: wsd, decay_frac: 0.5, watchdog: {}, neftune: 5, ema: 0.99, optimizer: lion"
    Path("r.yaml").write_text(RECIPE % ("budget: {hours: 1}", first, ", ema: 0.9"))
    assert load_recipe(Path("r.yaml"), []).budget.hours == 1
