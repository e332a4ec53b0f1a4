"""Adapters of every kind: add, save, load, merge, and switch between several on one base.

PEFT's kinds are PEFT's own models and folders: those that change layers (`tuners.py`), and virtual tokens, which get
their place in the forest (`virtual.py`). Bottlenecks are ours (`bottleneck.py`), with the same manners.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from luthier.base.errors import UserError
from luthier.base.files import disk_errors, read_json
from luthier.base.seeds import seed_for
from luthier.base.tuning import Adapter, Bottleneck, Ia3, Lora, PrefixTuning, PromptTuning, PTuning
from luthier.model.bottleneck import (
    CONFIG,
    KIND,
    WEIGHTS,
    Bottlenecks,
    add_bottleneck,
    drop,
    fill,
    load_bottleneck,
    on_linear_layers,
    write_folder,
)
from luthier.model.carried import VIRTUAL, carry
from luthier.model.quantise import dequantise
from luthier.model.score import LanguageModel
from luthier.model.tuners import NEW_TOKENS, add_tuner, load_tuner, merge_tuner, restore_tuner, save_tuner
from luthier.model.verify import TOLERANCE, context_of, difference, own_forward, probe_sequences
from luthier.model.virtual import (
    add_virtual,
    is_virtual,
    load_virtual,
    restore_encoder,
    rows_refused,
    save_encoder,
    virtual_of,
)
from luthier.tokens.pack import forest


def add_adapter(
    lm: LanguageModel,
    how: Adapter,
    name: str,
    seed: int,
    new_tokens: tuple[int, ...] = (),
    start_ids: Sequence[int] = (),
) -> LanguageModel:
    """The model with a new adapter, active and the only thing that trains. Its initial weights depend on `seed` only;
    before the first step it changes nothing (Hu et al. 2021: B = 0), unless it is virtual tokens. `start_ids` are the
    tokens that prompt tuning starts from. Raises UserError where the model cannot take it."""
    if new_tokens and not isinstance(how, Lora):
        raise UserError(NEW_TOKENS.format(kind=how.kind))
    with torch.random.fork_rng():
        torch.manual_seed(seed_for(seed, f"adapter {name}"))
        match how:
            case Bottleneck():
                module: Any = add_bottleneck(lm.module, how, name)
            case PromptTuning() | PrefixTuning() | PTuning():
                module = checked_virtual(lm, how, name, start_ids)
            case Lora() | Ia3():
                if on_linear_layers(lm.core):
                    raise UserError(f"adapter.kind: {how.kind}: {BESIDE.format(kind=lm.core.config.model_type)}")
                module = add_tuner(lm.module, lm.core, how, name, new_tokens)
    module.train(lm.core.training)  # PEFT's wrapper and its dropout begin in training mode, whatever the model is in
    return replace(lm, module=module)


BESIDE = (
    "the model carries bottlenecks, which sit on linear layers in a {kind}; what is trained beside them there could "
    "not be merged. Use kind: bottleneck, train all weights, or start (init) from an earlier stage."
)


def takes(lm: LanguageModel, folder: Path) -> bool:
    """Whether the adapter of a folder can stand beside those that the model has: one kind at a time."""
    kind = read_json(folder / CONFIG)["peft_type"]
    if isinstance(lm.module, Bottlenecks):
        return kind == KIND
    return lm.module is lm.core or kind == lm.module.peft_type


def checked_virtual(
    lm: LanguageModel, how: PromptTuning | PrefixTuning | PTuning, name: str, start_ids: Sequence[int]
) -> Any:
    """The model with new virtual tokens, after a look at whether they act in the forest as in PEFT's own forward.
    Raises UserError where they do not, or the architecture runs on padded rows."""
    if lm.layout == "rows":
        raise UserError(f"adapter.kind: {how.kind}: it puts virtual tokens before a sequence. {rows_refused(lm.core)}")
    alone = virtual_of(lm.module, lm.core).size == 0  # PEFT's forward does not know what a model carries
    room = context_of(lm.core.config.to_dict()) - virtual_of(lm.module, lm.core).size
    if how.tokens >= room:
        raise UserError(f"adapter.tokens: {how.tokens} virtual tokens fill the model's context of {room}. Take fewer.")
    was_training = lm.core.training
    try:
        module = add_virtual(lm.module, how, name, start_ids)
        module.eval()
        rows = probe_sequences(lm.core.config.vocab_size, min(room - how.tokens, 48))
        made, plain = replace(lm, module=module), replace(lm, module=module, dtype=torch.float32)
        gap = difference(plain, forest(rows, min_shared=2).to(lm.device), own_forward(made, rows)) if alone else 0.0
    except (RuntimeError, ValueError, TypeError) as error:  # a foreign forward, and PEFT's, fail in any of these ways
        raise UserError(f"{cannot(lm, how)} ({str(error)[:160]}). Use kind: lora or bottleneck.") from error
    if gap > TOLERANCE[next(lm.core.parameters()).dtype]:
        raise UserError(f"{cannot(lm, how)}: log-probs differ by {gap:.2g} nats. Use kind: lora or bottleneck.")
    return module.train(was_training)


def cannot(lm: LanguageModel, how: Adapter) -> str:
    """The beginning of a refusal."""
    kind = f"{type(lm.core).__name__} ({lm.core.config.model_type})"
    return f"adapter.kind: {how.kind}: {kind} does not take it as PEFT's own forward does"


def save_adapter(lm: LanguageModel, name: str, folder: Path) -> None:
    """A PEFT folder: adapter_config.json and adapter_model.safetensors, directly in `folder`."""
    with disk_errors(folder):
        if isinstance(lm.module, Bottlenecks):
            write_folder(lm.core, name, lm.module.settings[name], folder)
            return
        save_tuner(lm.module, name, folder)


def checkpoint_adapter(lm: LanguageModel, name: str, folder: Path) -> None:
    """`save_adapter`, and what training needs besides: the encoder that virtual tokens are made by."""
    save_adapter(lm, name, folder)
    if is_virtual(lm.module):
        with disk_errors(folder):
            save_encoder(lm.module, name, folder)


def restore_adapter(lm: LanguageModel, name: str, folder: Path) -> None:
    """Puts what `checkpoint_adapter` wrote into an adapter that exists already (resume)."""
    if isinstance(lm.module, Bottlenecks):
        fill(lm.core, name, load_file(folder / WEIGHTS), folder)
        return
    if is_virtual(lm.module):
        restore_encoder(lm.module, name, folder)
        return
    restore_tuner(lm.module, name, folder, lm.device)


def load_adapter(lm: LanguageModel, name: str, folder: Path, trainable: bool = False) -> LanguageModel:
    """The model with an adapter from a PEFT folder, active."""
    was_training = lm.core.training  # PEFT switches to evaluation here
    kind = read_json(folder / CONFIG)["peft_type"]
    if kind == KIND:
        module: Any = load_bottleneck(lm.module, name, folder, trainable)
    elif kind in VIRTUAL:
        module = load_virtual(lm.module, name, folder, trainable)
    else:
        module = load_tuner(lm.module, lm.core, name, folder, trainable)
    module.train(was_training)
    return replace(lm, module=module)


def merged(lm: LanguageModel) -> LanguageModel:
    """A copy in full precision with the active adapter made part of the model: folded into the weights, or carried
    beside them where it cannot be (`carried.py`)."""
    if isinstance(lm.module, Bottlenecks) or is_virtual(lm.module):
        core = copy.deepcopy(lm.core)
        with TemporaryDirectory() as folder:
            save_adapter(lm, lm.module.active_adapter, Path(folder))
            drop(core, lm.module.settings if isinstance(lm.module, Bottlenecks) else ())
            dequantise(core)
            carry(core, Path(folder))
        return replace(lm, module=core)
    return replace(lm, module=merge_tuner(lm.module))


@contextmanager
def only(lm: LanguageModel, name: str | None) -> Iterator[LanguageModel]:
    """Inside this block the model runs with one adapter (None: the bare base), and nothing is trained."""
    module: Any = lm.module
    with unchanged(lm):
        if name is None:
            with module.disable_adapter():
                yield lm
        else:
            module.set_adapter(name)
            yield lm


@contextmanager
def unchanged(lm: LanguageModel) -> Iterator[None]:
    """Whatever adapters are switched or loaded inside this block, afterwards the same one acts and the same weights
    train."""
    module: Any = lm.module
    before = module.active_adapter
    training = {n for n, p in module.named_parameters() if p.requires_grad}
    try:
        yield
    finally:
        module.set_adapter(before)
        # PEFT turns gradients on for the active adapter and off for others: put back what was.
        for parameter_name, parameter in module.named_parameters():
            parameter.requires_grad_(parameter_name in training)


def trainable(module: torch.nn.Module) -> dict[str, Tensor]:
    """Parameters that a step changes, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}
