"""What may be done with a source that is streamed: its rows pass by once, and none of them is at hand afterwards."""

from __future__ import annotations

from collections.abc import Iterator

from luthier.base import recipe as r
from luthier.base.probes import FillMaskProbe, LossProbe, PseudoPerplexityProbe
from luthier.base.settings import Loc

FIELDS = ("prompts", "pairs", "data")
"""Settings of a stage that name a source."""


def check_streams(recipe: r.Recipe) -> Iterator[tuple[Loc, str]]:
    """Streamed sources are trained on, and their held-out rows measured; nothing else."""
    streamed = {name for name, source in recipe.data.items() if source.stream}
    for index, stage in enumerate(recipe.stages):
        if isinstance(stage, r.Pretrain | r.Sft):
            continue
        for field, value in stage.model_dump(include=set(FIELDS)).items():
            if not isinstance(value, list) and value in streamed:
                message = f"{value} is streamed, and {stage.kind} needs its rows in memory."
                yield ("stages", index, field), f"{message} Remove stream: true from data.{value}."
    for name, probe in recipe.evaluate.items():
        held = isinstance(probe, LossProbe | FillMaskProbe | PseudoPerplexityProbe) and probe.heldout_only
        if probe.data in streamed and not held:
            message = f"{probe.data} is streamed: only its held-out rows can be measured, by kind: loss."
            yield ("evaluate", name, "data"), f"{message} Name another source."
    if streamed and recipe.shards == recipe.name:
        yield ("shards",), f"{recipe.shards} is the run's own folder. Name another."
