"""Virtual tokens inside the forest: prompt tuning, P-tuning and prefix tuning, with PEFT's encoders and folders.

Virtual tokens stand before every sequence, so they are one root above the whole forest: their keys are computed once a
batch, whatever its number of sequences. Learned embeddings are tokens whose subtree is everything, and the rule
`k <= q < end_T[k]` stays as it is; learned keys and values are keys that every query sees.

Dropout in the base is drawn once for the virtual tokens of a batch, where separate sequences would each draw their own.
NEFTune's noise is on the embeddings of real tokens only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftConfig, PeftModel, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from luthier.base.tuning import PrefixTuning, PromptTuning, PTuning
from luthier.model.carried import carrier, read_virtual
from luthier.tokens.pack import Batch

ENCODER = "encoder.safetensors"
"""What makes the virtual tokens, in a checkpoint: PEFT's folder holds only what it makes."""


class Virtual(NamedTuple):
    """What stands before every sequence. In positions: the prefix first, then the embeddings, then the real tokens."""

    prefix: tuple[tuple[Tensor, Tensor], ...] = ()
    """Keys and values [1, Hkv, K, d] of every layer; not rotated."""
    embeds_KD: Tensor | None = None
    """Learned embeddings."""

    @property
    def embedded(self) -> int:
        """How many tokens a batch gets in front of it."""
        return 0 if self.embeds_KD is None else len(self.embeds_KD)

    @property
    def size(self) -> int:
        """By how many positions the real tokens are moved."""
        return self.embedded + (self.prefix[0][0].shape[2] if self.prefix else 0)

    def above(self, batch: Batch) -> Batch:
        """The batch below its virtual tokens. An embedded one's subtree is everything; its id means nothing."""
        if self.size == 0:
            return batch
        k, first = self.embedded, self.size - self.embedded
        ids = batch.ids_T
        return replace(
            batch,
            ids_T=torch.cat([ids.new_zeros(k), ids]),
            pos_T=torch.cat([first + torch.arange(k, device=ids.device), batch.pos_T + self.size]),
            end_T=torch.cat([batch.end_T.new_full((k,), k + batch.tokens), batch.end_T + k]),
            from_M=batch.from_M + k,
            last_N=batch.last_N + k,
        )

    def inputs(self, core: Any, ids_T: Tensor) -> dict[str, Tensor]:
        """The backbone's input for the ids of a batch that is below these tokens."""
        if self.embeds_KD is None:
            return {"input_ids": ids_T[None]}
        embeds_TD = core.get_input_embeddings()(ids_T[None, self.embedded :])[0]
        return {"inputs_embeds": torch.cat([self.embeds_KD.to(embeds_TD.dtype), embeds_TD])[None]}


NOTHING = Virtual()


def virtual_of(module: Any, core: nn.Module) -> Virtual:
    """The virtual tokens of a model as it stands: those that its core carries, then those of the adapter that acts."""
    held = carrier(core)
    parts = []
    if held is not None:
        parts += [as_virtual(held.configs[int(index)], made_KX) for index, made_KX in held.prompts.items()]
    if is_virtual(module) and module.has_active_enabled_adapter:
        config, encoder = module.active_peft_config, module.prompt_encoder[module.active_adapter]
        parts.append(as_virtual(vars(config), made_by(config, encoder)))
    return together(parts) if parts else NOTHING


def is_virtual(module: Any) -> bool:
    """Whether it is PEFT's model with adapters of these kinds."""
    return isinstance(module, PeftModel) and module.active_peft_config.is_prompt_learning


def made_by(config: PeftConfig, encoder: Any) -> Tensor:
    """What the encoder makes for each virtual token [K, ...]; a loaded one holds it as it is."""
    weight = encoder.embedding.weight
    return weight if config.inference_mode else encoder(torch.arange(len(weight), device=weight.device)[None])[0]


def as_virtual(config: Mapping[str, Any], made_KX: Tensor) -> Virtual:
    """What PEFT makes of an encoder's output: embeddings, or each layer's keys and values."""
    if config["peft_type"] != "PREFIX_TUNING":
        return Virtual(embeds_KD=made_KX)
    layers, heads = config["num_layers"], config["num_attention_heads"]
    split = made_KX.view(len(made_KX), layers, 2, heads, -1).permute(1, 2, 3, 0, 4)  # [layer, 2, Hkv, K, d]
    return Virtual(tuple((layer[0][None], layer[1][None]) for layer in split))


def together(parts: Sequence[Virtual]) -> Virtual:
    """Several kinds' tokens, each kind in its order."""
    prefixes = [part.prefix for part in parts if part.prefix]
    embeds = [part.embeds_KD for part in parts if part.embeds_KD is not None]
    prefix = tuple(
        (torch.cat([k for k, _ in layer], dim=2), torch.cat([v for _, v in layer], dim=2))
        for layer in zip(*prefixes, strict=True)
    )
    return Virtual(prefix, torch.cat(embeds) if embeds else None)


def rows_refused(core: Any) -> str:
    """Why an architecture that runs on padded rows takes no virtual tokens, and what to do."""
    return (
        f"They stand above a forest, and {type(core).__name__} ({core.config.model_type}) runs on padded rows. "
        "Use kind: lora or bottleneck."
    )


def config_of(how: PromptTuning | PrefixTuning | PTuning) -> PeftConfig:
    """PEFT's settings for ours."""
    match how:
        case PromptTuning():
            init = "RANDOM" if how.start is not None else "SAMPLE_VOCAB"  # a start text's embeddings are put in after
            return PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=how.tokens, prompt_tuning_init=init)
        case PrefixTuning():
            return PrefixTuningConfig(
                task_type="CAUSAL_LM",
                num_virtual_tokens=how.tokens,
                prefix_projection=how.projection is not None,
                encoder_hidden_size=how.projection,  # type: ignore[arg-type]
            )
        case PTuning():
            return PromptEncoderConfig(
                task_type="CAUSAL_LM",
                num_virtual_tokens=how.tokens,
                encoder_reparameterization_type=how.encoder.upper(),
                encoder_hidden_size=how.width,
            )


@contextmanager
def without_checkpointing(core: nn.Module) -> Iterator[None]:
    """PEFT refuses to make a prefix beside gradient checkpointing, which drops the cache that its forward needs. Ours
    needs none."""
    on = [module for module in core.modules() if vars(module).get("gradient_checkpointing")]
    for module in on:
        module.gradient_checkpointing = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in on:
            module.gradient_checkpointing = True  # type: ignore[assignment]


def add_virtual(
    module: Any, how: PromptTuning | PrefixTuning | PTuning, name: str, start_ids: Sequence[int] = ()
) -> PeftModel:
    """The model with new virtual tokens, which act and train alone; random numbers come from torch's generator.
    `start_ids`: tokens whose embeddings prompt tuning starts from, repeated or cut to its length."""
    core: Any = module.get_base_model() if isinstance(module, PeftModel) else module
    with without_checkpointing(core):
        if isinstance(module, PeftModel):
            module.add_adapter(name, config_of(how))
        else:
            module = get_peft_model(module, config_of(how), adapter_name=name)
    encoder: Any = module.prompt_encoder[name]
    encoder.to(core.get_input_embeddings().weight.device)
    if start_ids:
        ids_K = [start_ids[i % len(start_ids)] for i in range(how.tokens)]
        with torch.no_grad():
            weight = encoder.embedding.weight
            weight.copy_(core.get_input_embeddings()(torch.tensor(ids_K, device=weight.device)))
    module.set_adapter(name)
    for other, one in module.prompt_encoder.items():  # PEFT leaves the gradients of the others on
        one.requires_grad_(other == name)
    return module


def load_virtual(module: Any, name: str, folder: Path, trainable: bool) -> PeftModel:
    """The model with a folder's virtual tokens, which act. A folder holds what an encoder made, not the encoder: tokens
    that are trained on are trained directly."""
    core = module.get_base_model() if isinstance(module, PeftModel) else module
    read_virtual(core, folder)  # says whose they are, if not this model's
    with without_checkpointing(core):
        if isinstance(module, PeftModel):
            module.load_adapter(str(folder), adapter_name=name)
        else:
            module = PeftModel.from_pretrained(module, str(folder), adapter_name=name)
    module.set_adapter(name)
    module.prompt_encoder[name].requires_grad_(trainable)
    return module


def save_encoder(module: Any, name: str, folder: Path) -> None:
    """What makes an adapter's virtual tokens, beside its PEFT folder: enough to go on training."""
    state = module.prompt_encoder[name].state_dict()
    save_file({key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}, folder / ENCODER)


def restore_encoder(module: Any, name: str, folder: Path) -> None:
    """Puts back what `save_encoder` wrote."""
    module.prompt_encoder[name].load_state_dict(load_file(folder / ENCODER))
