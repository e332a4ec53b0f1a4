"""What an adapter's kind asks of the stage that trains it: contradictions, told with the others of `crosscheck.py`."""

from __future__ import annotations

from collections.abc import Iterator

from luthier.base import recipe as r
from luthier.base.alignment import Grpo, Ppo
from luthier.base.settings import Loc
from luthier.base.tuning import Bottleneck, PrefixTuning, PromptTuning, PTuning, Training

VirtualTokens = PromptTuning | PrefixTuning | PTuning
"""Kinds that put learned tokens before every sequence."""


def check_adapters(recipe: r.Recipe) -> Iterator[tuple[Loc, str]]:
    """Virtual tokens and bottlenecks get an optimizer, and a stage, that suits them."""
    for index, stage in enumerate(recipe.stages):
        if not isinstance(stage, Training):
            continue
        at: Loc = ("stages", index)
        virtual = isinstance(stage.adapter, VirtualTokens)
        if stage.optimizer == "muon" and virtual:
            said = "orthogonalises matrices; virtual tokens are a list of rows, each with a size of its own to learn."
            yield (*at, "optimizer"), f"muon {said} Use adamw."
        elif stage.optimizer == "muon" and isinstance(stage.adapter, Bottleneck):
            yield (*at, "optimizer"), "muon is for a model's own matrices, not for an adapter's. Use adamw."
        if virtual and isinstance(stage, Ppo | Grpo):
            assert stage.adapter is not None
            said = f"moves the model before the first step, and {stage.kind} starts from the reference"
            yield (*at, "adapter"), f"{stage.adapter.kind} {said} itself. Use kind: lora or bottleneck."
