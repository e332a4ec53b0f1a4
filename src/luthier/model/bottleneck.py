"""Bottleneck adapters: two small layers on the output of a block's parts, before it joins the residual stream.

No trainer carries them for today's architectures, so these are ours. An adapter lives in a `Site`, a child of the
module whose output it changes: the base's parameters keep their names, and the adapter moves, copies and shards with
its block.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from luthier.base.errors import UserError
from luthier.base.tuning import Bottleneck as Settings
from luthier.model.blocks import blocks
from luthier.model.products import linear

KIND = "BOTTLENECK"
"""`peft_type` in the folder's adapter_config.json. PEFT has no such type, and says so when it is given the folder."""
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SITE = "bottlenecks"
"""Name of a Site in the module whose output it changes."""

ATTENTION = ("attention.output.dense", "self_attn", "attn", "attention", "self_attention", "linear_attn")
MLP = ("mlp", "feed_forward", "block_sparse_moe", "ffn", "output.dense", "fc2")
"""What a block's attention and its MLP are called; the first that a block has. Where the module itself adds the
residual (BERT), its last linear layer stands for it."""
ADDS_RESIDUAL = {
    "bloom": ("self_attention.dense", "mlp.dense_4h_to_h"),
    "mpt": ("attn", "ffn.down_proj"),
}
"""Architectures whose module of a usual name adds the residual inside."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}


class Bottleneck(nn.Module):
    """x + up(f(down(dropout(x)))). Houlsby et al. 2019, figure 2. `up` starts at zero, so it starts as the identity.

    Its weights are bare parameters: what replaces linear layers by name or type (PEFT, bitsandbytes) lets them be.
    """

    def __init__(self, width: int, how: Settings) -> None:
        super().__init__()
        self.activation, self.dropout = ACTIVATIONS[how.activation], how.dropout
        self.down = nn.Parameter(torch.randn(how.size, width) * width**-0.5)
        self.down_bias = nn.Parameter(torch.zeros(how.size))
        self.up = nn.Parameter(torch.zeros(width, how.size))
        self.up_bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D], of the same type."""
        inner = F.dropout(x.to(self.down.dtype), self.dropout, self.training)
        inner = self.activation(linear(inner, self.down, self.down_bias))
        return x + linear(inner, self.up, self.up_bias).to(x.dtype)


class Site(nn.Module):
    """The adapters on one module's output. `fixed` ones are part of the model; `active` is the one that may be off."""

    def __init__(self) -> None:
        super().__init__()
        self.adapters = nn.ModuleDict()
        self.fixed: tuple[str, ...] = ()
        self.active: str | None = None

    def forward(self, x: Tensor) -> Tensor:
        """The fixed adapters in their order, then the active one."""
        for name in self.fixed:
            x = self.adapters[name](x)
        return self.adapters[self.active](x) if self.active is not None and self.active in self.adapters else x


def at_site(module: nn.Module, _: Any, output: Any) -> Any:
    """The forward hook: a module's output (or the first of its outputs) goes through its Site."""
    site = module.get_submodule(SITE)
    return site(output) if isinstance(output, Tensor) else (site(output[0]), *output[1:])


def sites(core: nn.Module) -> dict[str, Site]:
    """Every Site by the name of the module it is on."""
    return {n.removesuffix(f".{SITE}"): m for n, m in core.named_modules() if isinstance(m, Site)}


def site_on(module: nn.Module) -> Site:
    """The module's Site, made where there is none."""
    children = dict(module.named_children())
    if SITE not in children:
        module.add_module(SITE, Site())
        module.register_forward_hook(at_site)
    site = module.get_submodule(SITE)
    assert isinstance(site, Site)
    return site


INSTEAD = "Use kind: lora, which goes by linear layers."


def architecture(core: Any) -> str:
    """Class and type of a model, as a message names it."""
    return f"{type(core).__name__} ({core.config.model_type})"


def places(core: Any, placement: str) -> dict[str, nn.Module]:
    """The modules whose outputs get an adapter, by name. houlsby: each block's attention and MLP (Houlsby et al. 2019);
    pfeiffer: its MLP only (Pfeiffer et al. 2020). Raises UserError where a block has no such part."""
    known = ADDS_RESIDUAL.get(core.config.model_type)
    wanted = {"attention": (known[0],) if known else ATTENTION, "MLP": (known[1],) if known else MLP}
    if placement == "pfeiffer":
        del wanted["attention"]
    found: dict[str, nn.Module] = {}
    if not blocks(core):
        raise UserError(f"adapter.kind: bottleneck: {architecture(core)} has no numbered list of blocks. {INSTEAD}")
    for block_name, block in blocks(core).items():
        parts = dict(block.named_modules())
        for what, names in wanted.items():
            name = next((name for name in names if name in parts), None)
            if name is None:
                has = ", ".join(part for part, _ in block.named_children())
                raise UserError(
                    f"adapter.kind: bottleneck: the blocks of {architecture(core)} have no {what} under a known name "
                    f"(they have {has}). {INSTEAD}"
                )
            found[f"{block_name}.{name}"] = parts[name]
    return found


class Bottlenecks(nn.Module):
    """A model with bottleneck adapters, of which one or none acts: what PEFT's model is for its kinds, in its words."""

    def __init__(self, base_model: nn.Module) -> None:
        super().__init__()
        self.base_model = base_model.requires_grad_(False)
        self.settings: dict[str, Settings] = {}
        self.active_adapter: str | None = None

    def forward(self, **inputs: Any) -> Any:
        """The model's own forward; the adapters act inside it."""
        return self.base_model(**inputs)

    def get_base_model(self) -> Any:
        """The model itself."""
        return self.base_model

    def weights(self, name: str) -> dict[str, nn.Parameter]:
        """An adapter's parameters, as its folder names them."""
        return adapter_weights(self.base_model, name)

    def set_adapter(self, name: str, inference_mode: bool = False) -> None:
        """Makes one adapter act and train (unless `inference_mode`); the others rest."""
        if name not in self.settings:
            raise ValueError(f"there is no adapter {name} here, only {', '.join(self.settings)}")
        self.active_adapter = name
        for site in sites(self.base_model).values():
            site.active = name
        for other in self.settings:
            for parameter in self.weights(other).values():
                parameter.requires_grad_(other == name and not inference_mode)

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Inside this block the bare base runs."""
        found = list(sites(self.base_model).values())
        before = [site.active for site in found]
        try:
            for site in found:
                site.active = None
            yield
        finally:
            for site, active in zip(found, before, strict=True):
                site.active = active


def add_bottleneck(module: Any, how: Settings, name: str) -> Bottlenecks:
    """The model with a new adapter, which acts and trains alone; random numbers come from torch's generator. Raises
    UserError where the architecture's blocks are not known."""
    core = module.get_base_model() if isinstance(module, Bottlenecks) else module
    found = list(places(core, how.placement))
    module = module if isinstance(module, Bottlenecks) else Bottlenecks(module)
    put(core, found, name, how, core.config.hidden_size)
    module.settings[name] = how
    module.set_adapter(name)
    return module


def load_bottleneck(module: Any, name: str, folder: Path, trainable: bool) -> Bottlenecks:
    """The model with a folder's adapter, which acts."""
    core = module.get_base_model() if isinstance(module, Bottlenecks) else module
    how = put_saved(core, name, folder)
    module = module if isinstance(module, Bottlenecks) else Bottlenecks(module)
    module.settings[name] = how
    module.set_adapter(name, inference_mode=not trainable)
    return module


def adapter_weights(core: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """An adapter's parameters: "model.layers.0.mlp.down", ..."""
    return {
        f"{place}.{key}": parameter
        for place, site in sites(core).items()
        if name in site.adapters
        for key, parameter in site.adapters[name].named_parameters()
    }


def put(core: nn.Module, places: Iterable[str], name: str, how: Settings, width: int) -> None:
    """A new adapter on the outputs of these modules of width D; random numbers come from torch's generator."""
    device = next(core.parameters()).device
    for place in places:
        site_on(core.get_submodule(place)).adapters[name] = Bottleneck(width, how).to(device).train(core.training)


def put_saved(core: Any, name: str, folder: Path) -> Settings:
    """The adapter of a folder, on the modules that its weights name. Raises UserError where it is another model's."""
    how = read_settings(folder)
    tensors = load_file(folder / WEIGHTS)
    found = dict.fromkeys(key.rpartition(".")[0] for key in tensors)
    known, another = dict(core.named_modules()), f"{folder}: this adapter belongs to another model"
    if strangers := [place for place in found if place not in known]:
        raise UserError(f"{another}: there is no {strangers[0]} in {architecture(core)}. Give the adapter's own base.")
    if missing := [place for place in places(core, how.placement) if place not in found]:
        raise UserError(f"{another}: it has nothing for {missing[0]}. Give the adapter's own base.")
    put(core, found, name, how, core.config.hidden_size)
    fill(core, name, tensors, folder)
    return how


def fill(core: nn.Module, name: str, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Copies saved weights into an adapter that exists. Raises UserError where they are not its own."""
    weights = adapter_weights(core, name)
    differ = [key for key in weights.keys() | tensors.keys() if shape(weights, key) != shape(tensors, key)]
    if differ:
        raise UserError(
            f"{folder}: {differ[0]} is {shape(tensors, differ[0])} there and {shape(weights, differ[0])} in the model. "
            "Give the adapter's own base and settings."
        )
    with torch.no_grad():
        for key, parameter in weights.items():
            parameter.copy_(tensors[key])


def shape(tensors: Mapping[str, Tensor], key: str) -> tuple[int, ...] | None:
    """The shape of a tensor, None where it is absent."""
    return tuple(tensors[key].shape) if key in tensors else None


def read_settings(folder: Path) -> Settings:
    """An adapter folder's settings."""
    config = json.loads((folder / CONFIG).read_text())
    return Settings(kind="bottleneck", **{key: config[key] for key in Settings.model_fields if key != "kind"})


def write_folder(core: Any, name: str, how: Settings, folder: Path) -> None:
    """adapter_config.json and adapter_model.safetensors, as PEFT's folders have them."""
    task = "CAUSAL_LM" if core.can_generate() else None
    base = {"base_model_name_or_path": core.config._name_or_path or None, "task_type": task}
    config = {"peft_type": KIND, **base, **how.model_dump(exclude={"kind"})}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    weights = {key: parameter.detach().cpu().contiguous() for key, parameter in adapter_weights(core, name).items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def fix(core: nn.Module, name: str) -> None:
    """Makes an adapter a part of the model: frozen, always on, and without dropout, as merged ones are."""
    for site in sites(core).values():
        if name in site.adapters:
            site.fixed = (*site.fixed, name)
            adapter: Any = site.adapters[name].requires_grad_(False)
            adapter.dropout = 0.0


def on_linear_layers(core: nn.Module) -> list[str]:
    """Where adapters sit on the output of one linear layer. What changes that layer's weights beside it (LoRA) would
    act after the adapter, and before it once merged."""
    return [place for place in sites(core) if isinstance(core.get_submodule(place), nn.Linear | Conv1D)]


def drop(core: nn.Module, names: Iterable[str]) -> None:
    """Takes adapters off."""
    for site in sites(core).values():
        for name in names:
            if name in site.adapters:
                del site.adapters[name]
        site.active = None
