"""A model's blocks: the numbered list of equal layers that most of it is, whatever the architecture calls it."""

from __future__ import annotations

from typing import Any

from torch import nn


def blocks(core: Any) -> dict[str, nn.Module]:
    """The blocks by name, in order: the first list of as many modules as the model has layers; empty where there is
    none."""
    for name, module in core.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == core.config.num_hidden_layers:
            return {f"{name}.{i}": block for i, block in enumerate(module)}
    return {}
