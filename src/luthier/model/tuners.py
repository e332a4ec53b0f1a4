"""PEFT's tuners: LoRA and its variants, and (IA)³. Their settings, the layers they go on, their folders, merging."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    load_peft_weights,
    set_peft_model_state_dict,
)
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from luthier.base.errors import UserError, did_you_mean
from luthier.base.tuning import Ia3, Lora
from luthier.model.quantise import STATE_SPACE, broken_blocks, dequantise, is_quantised

KEYS_AND_VALUES = (
    ("k_proj", "v_proj"),
    ("key", "value"),
    ("k_lin", "v_lin"),
    ("query_key_value",),
    ("c_attn",),
    ("Wqkv",),
    ("qkv_proj",),
)
"""What a block's projections to keys and values are called, together or apart; the first that it has."""
MLP_OUT = ("down_proj", "fc2", "dense_4h_to_h", "mlp.c_proj", "fc_out", "w2", "mlp.Wo", "lin2", "output.dense")
"""What the last projection of a block's MLP is called; the first that it has."""

READ_PAST = ("out_proj", "conv1d", "x_proj", "dt_proj")
"""What layers are called whose weights such a model reads without calling them: what is trained beside those weights
would act once it is merged, and not before."""


ROUTERS = ("Llama4Router", "PhimoeTopKRouter")
"""Linear layers by their class, which choose experts and say so with several tensors: PEFT takes one."""


def is_router(layer: nn.Module) -> bool:
    """Whether a layer chooses experts, and no tuner can go on it."""
    return type(layer).__name__ in ROUTERS


def linear_layers(core: Any) -> dict[str, nn.Module]:
    """Every layer that a tuner can go on, by name, the output head included."""
    kinds = (nn.Linear, Conv1D, nn.Embedding)
    found = {
        name: layer
        for name, layer in core.named_modules()
        if isinstance(layer, kinds) and "lora_" not in name and not is_router(layer)
    }
    return {name.removesuffix(".base_layer"): layer for name, layer in found.items()}


def read_past(core: Any) -> tuple[str, ...]:
    """The ends of names of layers that no tuner can go on."""
    return READ_PAST if core.config.model_type in STATE_SPACE else ()


def named(names: Iterable[str], suffix: str) -> list[str]:
    """Those that a target means: the whole name, or its end."""
    return [name for name in names if name == suffix or name.endswith(f".{suffix}")]


def expand(names: Iterable[str], targets: Iterable[str]) -> list[str]:
    """The whole names that some targets mean."""
    known = list(names)
    return [name for target in targets for name in named(known, target)]


def check_targets(core: Any, targets: Iterable[str], setting: str) -> None:
    """Raises UserError where a target means no layer, or a head that shares its weights with the embedding."""
    found = linear_layers(core)
    wrong = [target for target in targets if not named(found, target)]
    if wrong:
        raise UserError(
            f"{setting}: no layer of {type(core).__name__} is called {', '.join(wrong)}."
            f"{did_you_mean(wrong[0], endings(found).split(', '))} There are: {endings(found)}."
        )
    if past := [target for target in targets if target.rpartition(".")[2] in read_past(core)]:
        raise UserError(
            f"{setting}: {type(core).__name__} reads the weights of {', '.join(past)} without calling the layer: an "
            "adapter there would act once it is merged, and not before. Leave it out."
        )
    embedding, head = core.get_input_embeddings(), core.get_output_embeddings()
    tied = [name for name, m in found.items() if m in (embedding, head) and head.weight is embedding.weight]
    for target in targets:
        if named(tied, target):
            raise UserError(f"{setting}: {target} shares its weights with the other end of the model. Leave it out.")


def ia3_targets(core: Any, how: Ia3) -> tuple[list[str], list[str]]:
    """(all that are scaled, those of them that are scaled at their input). Raises UserError."""
    found = linear_layers(core)
    last = next((names for ending in MLP_OUT if (names := mlp_out(found, ending))), [])
    if how.targets == "auto":
        usual = next((names for names in KEYS_AND_VALUES if all(named(found, name) for name in names)), ())
        targets = [*usual, *(last if how.feedforward == "auto" else how.feedforward)]
        if not usual or not targets[len(usual) :]:
            what = "last projection of the MLP" if usual else "projections to keys and values"
            raise UserError(
                f"adapter.targets: the {what} of {type(core).__name__} has no known name, or is no linear layer. Give "
                f"targets, and those of them that are the MLP's as feedforward. There are: {endings(found)}."
            )
    else:
        targets = how.targets
    if how.feedforward == "auto":
        meant = {name for ending in last for name in named(found, ending)}
        return targets, [target for target in targets if meant & set(named(found, target))]
    return targets, how.feedforward


def all_linear(core: Any) -> str | list[str]:
    """PEFT's "all-linear", every linear layer but the head, by the ends of their names where those mean no other. PEFT
    writes the whole names into the folder, which would then fit a model of more layers, too."""
    head = core.get_output_embeddings()
    found = linear_layers(core)
    past = read_past(core)
    taken = {name for name, layer in found.items() if layer is not head and not isinstance(layer, nn.Embedding)}
    wanted = {name for name in taken if name.rpartition(".")[2] not in past}
    last = sorted({name.rpartition(".")[2] for name in wanted})
    if set(expand(found, last)) == wanted:
        return last
    return sorted(wanted) if past or any(map(is_router, core.modules())) else "all-linear"


def mlp_out(names: Iterable[str], ending: str) -> list[str]:
    """How to name the MLPs' last projections, where they end like this: by that ending, or by their whole names, where
    the attention's last projection (BERT's) ends like it too."""
    every = named(names, ending)
    own = [name for name in every if not name.endswith(f"attention.{ending}")]
    return [ending] if own and own == every else own


def endings(names: Iterable[str]) -> str:
    """The last parts of layers' names, for a message."""
    return ", ".join(sorted({name.rpartition(".")[2] for name in names}))


def rows_of_tokens(core: Any, new_tokens: tuple[int, ...]) -> dict[str, list[int]] | None:
    """The rows of tokens new to the model, by module: in the embedding, and in a head with weights of its own (a tied
    head follows by itself; PEFT cannot wrap one with a bias)."""
    if not new_tokens:
        return None
    embedding, head = core.get_input_embeddings(), core.get_output_embeddings()
    own_head = head.weight is not embedding.weight and head.bias is None
    wanted = [embedding, head] if own_head else [embedding]
    return {name: list(new_tokens) for name, m in core.named_modules() if m in wanted}


def config_of(core: Any, how: Lora | Ia3, new_tokens: tuple[int, ...]) -> PeftConfig:
    """PEFT's settings for ours. Rows of tokens new to the model are trained too, or they would stay as they began.
    Raises UserError where the model has no such layers."""
    task = "CAUSAL_LM" if core.can_generate() else None
    if isinstance(how, Ia3):
        scaled, feedforward = ia3_targets(core, how)
        check_targets(core, scaled, "adapter.targets")
        check_targets(core, feedforward, "adapter.feedforward")
        return IA3Config(target_modules=scaled, feedforward_modules=feedforward, task_type=task)
    targets = all_linear(core) if how.targets == "all-linear" else list(how.targets)
    if how.targets != "all-linear":
        check_targets(core, targets, "adapter.targets")
    return LoraConfig(
        r=how.rank,
        lora_alpha=how.alpha,  # type: ignore[arg-type]  # PEFT only divides it
        lora_dropout=how.dropout,
        target_modules=targets,
        use_rslora=how.rslora,
        use_dora=how.dora,
        task_type=task,
        trainable_token_indices=rows_of_tokens(core, new_tokens),
    )


def add_tuner(module: Any, core: Any, how: Lora | Ia3, name: str, new_tokens: tuple[int, ...]) -> PeftModel:
    """PEFT's model with a new adapter, active; random numbers come from torch's generator. Raises UserError."""
    if new_tokens and isinstance(how, Ia3):
        raise UserError(NEW_TOKENS.format(kind=how.kind))
    config = config_of(core, how, new_tokens)
    if isinstance(how, Lora) and how.dora and (odd := broken_blocks(core)):
        raise UserError(
            f"adapter.dora: the rows of {odd[0]} are no multiple of 64 numbers; bitsandbytes, which DoRA asks for the "
            "weights, mixes up the blocks of such rows on a CPU. Use quantize: int8, or plain lora."
        )
    try:
        if isinstance(module, PeftModel):
            module.add_adapter(name, config)
        else:
            module = get_peft_model(module, config, adapter_name=name)
    except ValueError as error:  # PEFT knows layers that it cannot be on
        said = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"adapter.targets: {said[:240]}. Give other targets.") from error
    module.set_adapter(name)
    return module


NEW_TOKENS = (
    "adapter.kind: {kind}: the base has no chat template, and this kind cannot train the tokens that one adds. "
    "Use kind: lora, or give base.chat_template, a template whose tokens the model knows."
)


def save_tuner(module: PeftModel, name: str, folder: Path) -> None:
    """adapter_config.json and adapter_model.safetensors, directly in `folder`: the adapter's own weights only. Rows of
    new tokens are among them, so a resized embedding need not be."""
    # Not by PEFT's save_pretrained, which puts a named adapter into a folder of that name, and writes a model card.
    tensors = get_peft_model_state_dict(module, adapter_name=name, save_embedding_layers=False)
    folder.mkdir(parents=True, exist_ok=True)
    plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    save_file(plain, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = copy.copy(module.peft_config[name])
    config.inference_mode = True
    config.save_pretrained(str(folder))


def load_tuner(module: Any, core: Any, name: str, folder: Path, trainable: bool) -> PeftModel:
    """The model with a folder's adapter, active. Raises UserError where it is another model's."""
    config = PeftConfig.from_pretrained(str(folder))
    tensors = load_peft_weights(str(folder), device=str(core.device))
    rows = max((max(r) for r in token_rows(config).values()), default=-1)
    if rows >= (size := len(core.get_input_embeddings().weight)):
        raise UserError(
            f"{folder}: this adapter has rows for {rows + 1} tokens, and the model's embedding has {size}. Resize the "
            "embedding to the adapter's tokenizer, or give the adapter's own base."
        )
    config.inference_mode = not trainable
    try:
        if isinstance(module, PeftModel):
            module.add_adapter(name, config)
        else:
            module = PeftModel(module, config, adapter_name=name)
    except ValueError as error:  # PEFT finds none of the layers
        raise UserError(f"{another(folder)} ({' '.join(str(error).split())[:160]}).") from error
    fill_tuner(module, name, tensors, folder)
    module.set_adapter(name, inference_mode=not trainable)
    return module


def token_rows(config: PeftConfig) -> Mapping[str, list[int]]:
    """The token rows that an adapter has, by module."""
    return (config.trainable_token_indices or {}) if isinstance(config, LoraConfig) else {}  # type: ignore[return-value]


def another(folder: Path) -> str:
    """The beginning of a refusal."""
    return f"{folder}: this adapter belongs to another model. Give the adapter's own base"


def restore_tuner(module: PeftModel, name: str, folder: Path, device: torch.device) -> None:
    """Puts saved weights into an adapter that exists already. Raises UserError where they are not its own."""
    fill_tuner(module, name, load_peft_weights(str(folder), device=str(device)), folder)


def fill_tuner(module: PeftModel, name: str, tensors: dict[str, Tensor], folder: Path) -> None:
    """Copies weights into an adapter, after a look at whether they are its own: PEFT leaves out what does not fit.
    Raises UserError."""
    own = get_peft_model_state_dict(module, adapter_name=name, save_embedding_layers=False)
    shapes = [{key: tuple(tensor.shape) for key, tensor in side.items()} for side in (tensors, own)]
    differ = sorted(key for key in shapes[0].keys() | shapes[1].keys() if shapes[0].get(key) != shapes[1].get(key))
    if differ:
        there, here = (side.get(differ[0], "absent") for side in shapes)
        raise UserError(f"{another(folder)} ({len(differ)} tensors differ: {differ[0]} is {there} there, {here} here).")
    set_peft_model_state_dict(module, tensors, adapter_name=name)


def merge_tuner(module: PeftModel) -> Any:
    """A copy of the model in full precision with the active adapter folded into its weights: W + s·BA, W·diag(l).

    The weights that are held in few bits are those that the adapter was trained on: they are dequantised, not replaced
    by the ones they were made of."""
    if not is_quantised(module):
        return copy.deepcopy(module).merge_and_unload()
    name = module.active_adapter
    whole: Any = copy.deepcopy(module)
    dequantise(whole.get_base_model())
    plain = whole.unload()
    with TemporaryDirectory() as folder:
        save_tuner(module, name, Path(folder))
        return load_tuner(plain, plain, name, Path(folder), trainable=False).merge_and_unload()
