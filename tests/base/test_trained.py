"""What `freeze` and `quantize` may not be asked, told with the line of the recipe."""
# ruff: noqa: E501  # a person reads these lines whole, so they stand here whole

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.base.config import load_recipe
from luthier.base.errors import UserError

RECIPE = """\
name: support
base: %s
data: {docs: docs, faq: faq.jsonl}
stages:
  - {kind: pretrain, data: docs%s}
  - {kind: sft, data: faq%s}
"""
FRESH = "{fresh: {layers: 4}}"


@pytest.mark.parametrize(
    ("base", "first", "second", "said"),
    [
        ("small", "", ", quantize: nf4", "quantize: holds the base in few bits, which cannot be trained. Add adapter: lora, or remove quantize."),
        (FRESH, ", quantize: int8, adapter: lora", "", "quantize: holds random weights in few bits: the base is fresh. Remove it here; a later stage can have it."),
        ("small", "", ", adapter: lora, quantize: {kind: int8, double: false}", "quantize.double: is for nf4, whose scales are many; int8 has one a row. Remove it."),
        ("small", "", ", adapter: lora, optimizer: muon", "optimizer: muon is for a model's own matrices, not for an adapter's. Use adamw."),
        ("small", "", ", adapter: ia3, optimizer: muon", "optimizer: muon is for a model's own matrices, not for an adapter's. Use adamw."),
        ("small", "", ", adapter: {targets: []}", "adapter.targets: is empty. Name layers, or remove it for the usual ones."),
        ("small", "", ", freeze: {}", "freeze: names nothing to freeze. Give first, last, embeddings, head or pattern, or remove it."),
        ("small", "", ", freeze: {first: 1}, adapter: prefix", "freeze: has no layers to choose from: prefix trains virtual tokens. Remove one of the two."),
        (FRESH, "", ", freeze: {first: 2, last: 2}", "freeze: first 2 and last 2 leave none of the 4 blocks to train. Freeze fewer; to train only what is outside the blocks, name them by a pattern."),
        ("small", "", ', freeze: {pattern: ["layers", "q_(proj"]}', 'freeze.pattern[1]: "q_(proj" is no regular expression: missing ), unterminated subpattern at position 2. Escape its special signs.'),
    ],
)  # fmt: skip
def test_contradictions_are_told(base, first, second, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPE % (base, first, second))
    with pytest.raises(UserError) as refused:
        load_recipe(Path("r.yaml"), [])
    where = "r.yaml:5: stages[0].pretrain" if first else "r.yaml:6: stages[1].sft"
    assert refused.value.problems == [f"{where}.{said}"]


@pytest.mark.parametrize(
    "second",
    [
        ", adapter: lora, quantize: nf4",
        ", adapter: {rank: 4, dora: true}, quantize: {kind: nf4, double: false}",
        ", adapter: ia3, quantize: int8",
        ", adapter: bottleneck, freeze: {first: 1}",
        ", freeze: {first: 1, last: 2, embeddings: true}",
        ", optimizer: muon, freeze: {pattern: [norm]}",
    ],
)
def test_what_goes_together_loads(second, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPE % (FRESH, "", second))
    assert load_recipe(Path("r.yaml"), []).stages[1].kind == "sft"
