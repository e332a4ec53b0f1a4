"""Adapters that a model carries because they cannot be merged into its weights: bottlenecks are not linear, and
virtual tokens are no weights. They are frozen, always on, and travel in the model's folder: the first in `adapter/`,
the next in `adapter-2/`.

A carried adapter is part of the model to everything above: it trains on, takes LoRA, is copied and saved with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from luthier.base.errors import UserError
from luthier.base.files import write_json
from luthier.model import bottleneck

CARRIER = "carried_adapters"
"""Name of the Carrier in its model."""
VIRTUAL = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")
"""PEFT's names of the kinds that put virtual tokens before a sequence."""
EMBEDDINGS = "prompt_embeddings"
"""The one tensor in the folder of such a kind."""


class Carrier(nn.Module):
    """What a model carries, in order: each adapter's config, and the tensors of those with virtual tokens by index (a
    bottleneck's are in its Sites)."""

    def __init__(self) -> None:
        super().__init__()
        self.configs: list[dict[str, Any]] = []
        self.prompts = nn.ParameterDict()


def carrier(core: nn.Module) -> Carrier | None:
    """What the model carries; None: nothing."""
    return next((child for child in core.children() if isinstance(child, Carrier)), None)


def kinds(core: nn.Module) -> list[str]:
    """PEFT's names of the kinds that the model carries, in order."""
    found = carrier(core)
    return [config["peft_type"] for config in found.configs] if found else []


def carry(core: Any, folder: Path) -> None:
    """Makes the adapter of a folder part of the model. Raises UserError where it is of another kind or model."""
    config = json.loads((folder / bottleneck.CONFIG).read_text())
    found = carrier(core)
    if found is None:
        found = Carrier()
        core.add_module(CARRIER, found)
    index = str(len(found.configs))
    if config["peft_type"] == bottleneck.KIND:
        bottleneck.put_saved(core, f"carried{index}", folder)
        bottleneck.fix(core, f"carried{index}")
    elif config["peft_type"] in VIRTUAL:
        found.prompts[index] = nn.Parameter(read_virtual(core, folder), requires_grad=False)
    else:
        raise UserError(f"{folder}: a {config['peft_type']} adapter is merged into the weights, not carried. Merge it.")
    found.configs.append(config)


def read_virtual(core: Any, folder: Path) -> Tensor:
    """A folder's virtual tokens [K, ...], on the model's device. Raises UserError where they are another model's."""
    config = json.loads((folder / bottleneck.CONFIG).read_text())
    made_KX = load_file(folder / bottleneck.WEIGHTS)[EMBEDDINGS]
    prefix = config["peft_type"] == "PREFIX_TUNING"
    has = core.config.num_hidden_layers if prefix else core.get_input_embeddings().weight.shape[1]
    given, what = (config["num_layers"], "layers") if prefix else (made_KX.shape[1], "wide embeddings")
    if given == has and prefix and (numbers := keys_of(core)) is not None:
        given, has, what = made_KX.shape[1] // (2 * given), numbers, "numbers of a layer's keys"
    if given != has:
        raise UserError(
            f"{folder}: this adapter belongs to another model: it is for {given} {what}, and "
            f"{bottleneck.architecture(core)} has {has}. Give the adapter's own base."
        )
    return made_KX.to(next(core.parameters()).device)


def keys_of(core: Any) -> int | None:
    """Numbers that a token's keys have in each layer; None where layers differ in that."""
    own = core.config.to_dict()
    if own.get("global_head_dim") or own.get("per_layer_config"):
        return None
    heads = core.config.num_attention_heads
    head_numbers = own.get("head_dim") or core.config.hidden_size // heads
    return int(own.get("num_key_value_heads") or heads) * int(head_numbers)


def folders(folder: Path) -> list[Path]:
    """The adapters in a model's folder, in order."""
    found = [folder / "adapter", *(folder / f"adapter-{n}" for n in range(2, 100))]
    return [path for path in found if (path / bottleneck.CONFIG).is_file()]


def load_carried(core: Any, folder: Path) -> None:
    """Puts on what a model's folder carries besides its weights."""
    for path in folders(folder):
        carry(core, path)


def save_carried(core: Any, folder: Path) -> None:
    """Writes what the model carries into its folder; PEFT's kinds in PEFT's format."""
    found = carrier(core)
    for index, config in enumerate(found.configs if found else []):
        assert found is not None
        path = folder / ("adapter" if index == 0 else f"adapter-{index + 1}")
        path.mkdir(parents=True)
        write_json(path / bottleneck.CONFIG, config)
        tensors = (
            {EMBEDDINGS: found.prompts[str(index)]}
            if str(index) in found.prompts
            else bottleneck.adapter_weights(core, f"carried{index}")
        )
        plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        save_file(plain, path / bottleneck.WEIGHTS, metadata={"format": "pt"})


@contextmanager
def bare(core: nn.Module) -> Iterator[None]:
    """Inside this block the model holds its own weights only, by their own names: for saving and comparing them. It
    must not run there."""
    taken = [
        (parent, name, child)
        for parent in list(core.modules())
        for name, child in parent.named_children()
        if isinstance(child, Carrier | bottleneck.Site)
    ]
    for parent, name, _ in taken:
        parent.add_module(name, None)
    try:
        yield
    finally:
        for parent, name, child in taken:
            parent.add_module(name, child)
