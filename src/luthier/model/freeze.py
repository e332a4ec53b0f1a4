"""Layers that stay as they are while the rest is trained; under an adapter, the layers whose adapter stays."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from luthier.base.errors import UserError
from luthier.base.tuning import Freeze
from luthier.model.blocks import blocks
from luthier.model.score import LanguageModel


def freeze(lm: LanguageModel, how: Freeze) -> None:
    """Takes out of training what `how` names. Raises UserError where it names what the model does not have, or leaves
    nothing to train."""
    names = list(blocks(lm.core)) if how.first or how.last else []
    count = len(names)
    if (how.first or how.last) and not names:
        raise UserError(f"freeze: {type(lm.core).__name__} has no numbered blocks. Name its layers by a pattern.")
    if names and how.first + how.last >= count:
        raise UserError(
            f"freeze: first {how.first} and last {how.last} leave none of the {count} blocks to train. Freeze fewer; "
            "to train only what is outside the blocks, name them by a pattern."
        )
    frozen = [*names[: how.first], *names[count - how.last :]]
    held = {id(p) for p in embeddings(lm.core)} if how.embeddings else set()
    held |= {id(p) for p in own_head(lm.core)} if how.head else set()
    patterns = [re.compile(pattern) for pattern in how.pattern]
    parameters = dict(lm.module.named_parameters())
    for pattern in patterns:
        if not any(pattern.search(name) for name in parameters):
            some = ", ".join(list(parameters)[:3])
            raise UserError(f'freeze.pattern: "{pattern.pattern}" is in no parameter\'s name. They are: {some}, ...')
    for name, parameter in parameters.items():
        in_block = any(f".{block}." in f".{name}" for block in frozen)
        if in_block or id(parameter) in held or any(pattern.search(name) for pattern in patterns):
            parameter.requires_grad_(False)
    if not any(p.requires_grad for p in parameters.values()):
        raise UserError("freeze: leaves nothing to train. Freeze less.")


def embeddings(core: Any) -> list[nn.Parameter]:
    """What turns the input into vectors: the tables of tokens, positions and types, outside the blocks."""
    tables = [core.get_input_embeddings()]
    tables += [m for name, m in core.named_modules() if type(m) is nn.Embedding and not re.search(r"\.\d+\.", name)]
    return [parameter for table in tables for parameter in table.parameters()]


def own_head(core: Any) -> list[nn.Parameter]:
    """The output head's weights. Raises UserError where they are the embedding's."""
    head = core.get_output_embeddings()
    if head.weight is core.get_input_embeddings().weight:
        raise UserError("freeze.head: the head shares its weights with the embedding. Use freeze.embeddings: true.")
    return list(head.parameters())
