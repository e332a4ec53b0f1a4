"""Settings that would have no effect where they stand. Whoever wrote one expects something of it: none is ignored."""

from __future__ import annotations

from collections.abc import Iterator

from luthier.base import alignment as a
from luthier.base import recipe as r
from luthier.base.settings import Loc
from luthier.base.tuning import Lora, PrefixTuning, PromptTuning, PTuning, Training

OUTSIDE = ("revision", "allow_pickle", "trust_remote_code", "chat_template")
"""Settings of `base` that are about a model from outside."""
SAMPLED = ("init", "samples", "pairs_per_prompt", "min_gap", "noise", "temperature", "max_new_tokens", "heldout")
"""Settings of a prefer stage that are about answers it draws."""


def check_unused(recipe: r.Recipe) -> Iterator[tuple[Loc, str]]:
    """Every setting that the others leave nothing to do."""
    if recipe.base.fresh is not None and recipe.base.model is None:
        for name in OUTSIDE:
            if name in recipe.base.model_fields_set:
                yield ("base", name), "is for a model that exists, and this one is fresh. Remove it."
    for index, stage in enumerate(recipe.stages):
        at: Loc = ("stages", index)
        if isinstance(stage, Training):
            yield from check_rates(at, stage)
        if isinstance(stage, r.Pretrain | r.Sft) and stage.replay is not None:
            named = [stage.data] if isinstance(stage.data, str) else list(stage.data)
            if stage.replay.data in named:
                said = f"{stage.replay.data} is what the stage trains on already. Name another source, or remove replay"
                yield (*at, "replay", "data"), f"{said}."
        if isinstance(stage, a.Prefer) and stage.pairs is not None:
            for name in SAMPLED:
                if name in stage.model_fields_set:
                    said = f"is about answers that are drawn, and pairs are read from {stage.pairs}"
                    yield (*at, name), f"{said}. Remove it."
        if isinstance(stage, a.Grpo) and stage.kl_corrected and not stage.kl:
            yield (*at, "kl_corrected"), "changes the KL's gradient, and kl is 0. Give kl a weight, or remove it."
        if isinstance(stage, a.Ppo) and stage.kl_target is None and "kl_horizon" in stage.model_fields_set:
            yield (*at, "kl_horizon"), "is how fast kl adapts, and it is fixed. Give kl_target, or remove it."


def check_rates(at: Loc, stage: Training) -> Iterator[tuple[Loc, str]]:
    """Shares of the learning rate belong to something that is trained, and moments to an optimizer that has them."""
    virtual = isinstance(stage.adapter, PromptTuning | PrefixTuning | PTuning)
    if stage.layer_decay != 1 and stage.adapter is not None and virtual:
        yield (*at, "layer_decay"), f"is for blocks, and {stage.adapter.kind} trains none. Remove it."
    if stage.embedding_lr_frac != 1 and stage.adapter is not None and not isinstance(stage.adapter, Lora):
        yield (*at, "embedding_lr_frac"), f"is for embeddings, and {stage.adapter.kind} trains none. Remove it."
    if stage.optimizer == "adafactor" and "betas" in stage.model_fields_set:
        yield (*at, "betas"), "is for AdamW and Lion; adafactor sets its own. Remove it."
    if stage.schedule == "constant" and stage.final_lr_frac:
        yield (*at, "final_lr_frac"), "is where a schedule ends that goes down, and this one is constant. Remove it."
