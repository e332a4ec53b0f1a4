"""What `freeze` and `quantize` ask of the stage they stand in: contradictions, told with those of `crosscheck.py`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from luthier.base import recipe as r
from luthier.base.settings import Loc
from luthier.base.tuning import Freeze, Ia3, Lora, PrefixTuning, PromptTuning, PTuning, Quantize, Training


def check_trained(recipe: r.Recipe) -> Iterator[tuple[Loc, str]]:
    """Something is left to train, and only what stays is held in few bits."""
    for index, stage in enumerate(recipe.stages):
        if not isinstance(stage, Training):
            continue
        at: Loc = ("stages", index)
        if stage.quantize is not None:
            yield from check_quantize((*at, "quantize"), stage, index == 0 and recipe.base.fresh is not None)
        if stage.freeze is not None:
            yield from check_freeze((*at, "freeze"), stage, recipe.base.fresh)
        if isinstance(stage.adapter, Lora | Ia3) and stage.adapter.targets == []:
            yield (*at, "adapter", "targets"), "is empty. Name layers, or remove it for the usual ones."
        if stage.optimizer == "muon" and isinstance(stage.adapter, Lora | Ia3):
            yield (*at, "optimizer"), "muon is for a model's own matrices, not for an adapter's. Use adamw."


def check_quantize(at: Loc, stage: Training, fresh: bool) -> Iterator[tuple[Loc, str]]:
    """An adapter trains on weights that exist."""
    assert stage.quantize is not None
    if stage.adapter is None:
        yield at, "holds the base in few bits, which cannot be trained. Add adapter: lora, or remove quantize."
    elif fresh:
        yield at, "holds random weights in few bits: the base is fresh. Remove it here; a later stage can have it."
    if stage.quantize.kind == "int8" and stage.quantize.double != Quantize().double:
        yield (*at, "double"), "is for nf4, whose scales are many; int8 has one a row. Remove it."


def check_freeze(at: Loc, stage: Training, fresh: r.Fresh | None) -> Iterator[tuple[Loc, str]]:
    """It names something, and leaves something."""
    how = stage.freeze
    assert how is not None
    if how == Freeze():
        yield at, "names nothing to freeze. Give first, last, embeddings, head or pattern, or remove it."
    if isinstance(stage.adapter, PromptTuning | PrefixTuning | PTuning):
        yield at, f"has no layers to choose from: {stage.adapter.kind} trains virtual tokens. Remove one of the two."
    if fresh is not None and (how.first or how.last) and how.first + how.last >= fresh.layers:
        said = f"first {how.first} and last {how.last} leave none of the {fresh.layers} blocks to train"
        yield at, f"{said}. Freeze fewer; to train only what is outside the blocks, name them by a pattern."
    for index, pattern in enumerate(how.pattern):
        try:
            re.compile(pattern)
        except re.error as error:
            yield (*at, "pattern", index), f'"{pattern}" is no regular expression: {error}. Escape its special signs.'
