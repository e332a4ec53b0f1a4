"""What a run models: the next token (decoders, which write) or hidden ones (encoders, which fill masks). One run does
one of the two, for one model cannot do both."""

from __future__ import annotations

from collections.abc import Iterator

from luthier.base import recipe as r
from luthier.base.abilities import Ability
from luthier.base.made import ONLY_DATA
from luthier.base.probes import AnswersProbe, ChoicesProbe, FillMaskProbe, PseudoPerplexityProbe, WinRateProbe
from luthier.base.settings import Loc
from luthier.base.tuning import PrefixTuning, PromptTuning, PTuning, Training


def is_masked(recipe: r.Recipe) -> bool:
    """Whether the run is about a masked language model. Without a stage its probes say so."""
    stages = [stage for stage in recipe.stages if isinstance(stage, r.Pretrain)]
    asked = any(isinstance(probe, FillMaskProbe | PseudoPerplexityProbe) for probe in recipe.evaluate.values())
    fresh = recipe.base.fresh is not None and recipe.base.fresh.shape == "encoder"
    return fresh or any(stage.objective == "masked" for stage in stages) or (asked and not recipe.stages)


def check_objective(recipe: r.Recipe) -> Iterator[tuple[Loc, str]]:
    """Every stage and probe is of the kind that the model can do."""
    masked, fresh = is_masked(recipe), recipe.base.fresh
    if masked and fresh is not None and fresh.shape == "decoder":
        yield ("base", "fresh", "shape"), "a decoder cannot fill masks. Set shape: encoder, or train it causally."
    if fresh is not None and fresh.shape == "encoder" and fresh.kv_heads is not None:
        yield ("base", "fresh", "kv_heads"), "is not used by an encoder. Remove it."
    for index, stage in enumerate(recipe.stages):
        at: Loc = ("stages", index)
        if isinstance(stage, r.Pretrain):
            yield from check_masking(at, stage, masked)
        elif masked and stage.kind not in ONLY_DATA:
            yield at, f"{stage.kind} needs a model that writes, and this run's is an encoder, which fills masks."
        if masked and isinstance(stage, Training) and isinstance(stage.adapter, PromptTuning | PrefixTuning | PTuning):
            message = f"{stage.adapter.kind} puts tokens before what a model writes; an encoder writes nothing."
            yield (*at, "adapter"), f"{message} Use kind: lora."
    for name, probe in recipe.evaluate.items():
        if masked and isinstance(probe, ChoicesProbe | AnswersProbe | WinRateProbe | Ability):
            message = f"{probe.kind} asks a model that writes, and this run's is an encoder."
            yield ("evaluate", name), f"{message} Use fill_mask, pseudo_perplexity or loss."
        elif not masked and isinstance(probe, FillMaskProbe | PseudoPerplexityProbe):
            message = f"{probe.kind} asks an encoder, and this run's model sees one side only. Use loss."
            yield ("evaluate", name), message


def check_masking(at: Loc, stage: r.Pretrain, masked: bool) -> Iterator[tuple[Loc, str]]:
    """What is hidden is hidden for a reason, and in shares that add up."""
    if masked and stage.objective == "causal":
        message = "is causal, but this run's model is an encoder, which would see the answer. Set objective: masked."
        yield (*at, "objective"), message
    if stage.objective == "causal" and "masking" in stage.model_fields_set:
        yield (*at, "masking"), "is not used by a causal objective. Set objective: masked, or remove it."
    if (together := stage.masking.mask + stage.masking.random) > 1 + 1e-9:
        yield (*at, "masking", "random"), f"mask and random together are {together:g} of 1. Lower one."
