"""A model cut into shards, one a rank (FSDP2), and put together again.

Each block of the numbered list is a group of its own, gathered when its forward begins and forgotten when it ends;
what is left (embeddings, the last norm, the head, tied or not) is the root's group, which is gathered once for a whole
loss. A loss calls the backbone and then the head, not the model, so it runs inside the root's forward as a method of
it (`within`). Whatever only looks at the model (evaluation, sampling, references) runs while it is `gathered`: then
every rank holds it whole, and the ranks need not keep step. `mended` afterwards, it is a plain model again.

What FSDP does not take stays whole on every rank, and its gradients are summed by hand (train/together.py): modules
outside the transformers model (virtual tokens, value heads), in mixed precision the vectors (gains, biases), and models
of quantised weights altogether.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel


def core_of(module: Any) -> Any:
    """The transformers model inside any adapters."""
    return module if isinstance(module, PreTrainedModel) else module.get_base_model()


def blocks_of(core: nn.Module) -> list[nn.Module]:
    """The blocks: members of the numbered lists that stand in no other (layers in Llama, h in GPT-2, blocks in MPT)."""
    lists = [(name, m) for name, m in core.named_modules() if isinstance(m, nn.ModuleList)]
    outer = [m for name, m in lists if not any(name.startswith(f"{other}.") for other, _ in lists)]
    return [block for found in outer for block in found if any(True for _ in block.parameters())]


def is_cut(module: nn.Module) -> bool:
    """Whether the module's weights lie in shards at this moment."""
    return any(isinstance(p, DTensor) for p in module.parameters())


def can_cut(module: nn.Module) -> bool:
    """Quantised weights are no numbers that could be cut: every rank keeps them whole."""
    return all(p.is_floating_point() for p in module.parameters())


class Shards:
    """A module cut into shards, in place. Owns FSDP's groups, and the outline from which it is mended."""

    def __init__(self, module: Any, world: int, dtype: torch.dtype) -> None:
        """Cuts `module` over `world` ranks; every rank must hold the same weights. The blocks' matrices are gathered in
        `dtype`, as autocast would round them for its products; vectors, which it does not round, are not cut then.
        Gradients are summed in float32."""
        self.module, self.outline = module, outline(module)
        core, device = core_of(module), next(module.parameters()).device
        mesh = init_device_mesh(device.type, (world,))
        policy, whole = MixedPrecisionPolicy(cast_forward_inputs=False), set()
        if dtype != torch.float32:
            # A gain of 1.001 is 1 in bfloat16: what a step moved it by would be lost to every forward.
            whole = {p for p in core.parameters() if p.numel() == max(p.shape, default=1)}
            policy = MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False)
        for block in blocks_of(core):
            # Ranks may route to different experts: what one does not use has a gradient of zero there.
            cut = fully_shard(block, mesh=mesh, mp_policy=policy, ignored_params=whole)
            cut.set_reduce_scatter_unused_params(True, recurse=False)
        self.root: Any = fully_shard(core, mesh=mesh, ignored_params=whole)
        self.parts: list[Any] = [m for m in core.modules() if isinstance(m, FSDPModule)]
        for part in self.parts:
            # The loss is divided by the total of all ranks already: gradients are summed, not averaged.
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
        self.root.within = lambda body: body()
        register_fsdp_forward_method(self.root, "within")
        with torch.no_grad():
            self.within(lambda: None)  # FSDP takes the first module that runs for the root
        self.root.reshard()

    def within(self, body: Callable[[], Any]) -> Any:
        """Calls `body`, whose result a backward may start from, as the root's forward: its group is gathered."""
        return self.root.within(body)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Inside this block, which takes no gradients, every rank holds the whole model (the blocks in the dtype they
        are computed in) and calls no other. Every rank must enter and leave."""
        for part in self.parts:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
        try:
            yield
        finally:
            for part in self.parts:
                part.reshard()
                part.set_reshard_after_forward(part is not self.root, recurse=False)

    def mend(self) -> None:
        """Makes the module plain again, in place, with whole weights on every rank: the object that others hold takes
        over the inside of the outline. Every rank must call it."""
        with torch.no_grad():
            fill(self.outline, self.module)
        self.module.__class__ = type(self.outline)
        self.module.__dict__ = self.outline.__dict__


def outline(module: nn.Module) -> nn.Module:
    """A copy without weights: its parameters are on the meta device, tied where they were, and its buffers are real."""
    bare = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in module.parameters()}
    return copy.deepcopy(module, bare)


def fill(bare: nn.Module, module: nn.Module) -> None:
    """Gives the outline the weights of the module that it was made of, gathered from all ranks."""
    names = dict(bare.named_parameters())
    whole = {
        id(names[name]): nn.Parameter(full(p.detach()).clone(), p.requires_grad)
        for name, p in module.named_parameters()
    }
    for part in bare.modules():
        for name, p in part.named_parameters(recurse=False, remove_duplicate=False):
            setattr(part, name, whole[id(p)])
    for own, theirs in zip(bare.buffers(), module.buffers(), strict=True):
        own.copy_(theirs)


def full(tensor: Tensor) -> Tensor:
    """The whole tensor, gathered where it lies in shards."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own(tensor: Tensor) -> Tensor:
    """This rank's shard, or the tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
