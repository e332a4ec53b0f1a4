"""What the ranks do together on one job: each takes its share of a step's microbatches, and the sums are everyone's.

While it steps, the model lies in shards; while it is looked at (evaluation, rollouts, references), every rank holds it
whole; when all steps are done, it is a plain model again. Alone, none of this does anything.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from luthier.base.errors import UserError
from luthier.model.shard import Shards, can_cut, full, own
from luthier.train.checkpoint import Checkpoints
from luthier.train.ranks import here
from luthier.train.sharded import like
from luthier.train.sources import Micro

T = TypeVar("T")

ELEMENTWISE = ("AdamW", "Adam", "SGD", "Lion")
"""Optimizers whose update of a number depends on that number's history alone: they step on shards as they are."""

WHOLE_BLOCKS = ("AdamW8bit",)
"""Optimizers that share scales between neighbouring numbers: they step neither shards nor what is gathered anew."""


class Together:
    """A job's model, parameters, optimizers and checkpoints, plain or in shards. Owns the shards."""

    def __init__(
        self,
        module: Any,
        parameters: list[Tensor],
        optimizers: Mapping[str, torch.optim.Optimizer],
        checkpoints: Checkpoints,
        dtype: torch.dtype,
    ) -> None:
        self.module, self.parameters, self.optimizers = module, parameters, optimizers
        self.checkpoints, self.dtype = checkpoints, dtype
        self.ranks = here()
        self.shards: Shards | None = None

    def cut(self) -> None:
        """Cuts the model over the ranks, with the optimizers' states. Raises RunError where the ranks do not hold the
        same weights, UserError where an optimizer cannot step shards."""
        if self.ranks.world == 1 or self.shards is not None:
            return
        self.ranks.agree("the model", fingerprint(self.module))
        if not can_cut(self.module):
            return
        if any(type(optimizer).__name__ in WHOLE_BLOCKS for optimizer in self.optimizers.values()):
            raise UserError(
                "optimizer: adamw8bit holds its state in blocks of whole weights, which lie in shards in a run of "
                "several processes. Take adamw (its state is in shards too), lion or adafactor."
            )
        plain = dict(self.module.named_parameters())
        self.shards = Shards(self.module, self.ranks.world, self.dtype)
        self.swap(plain, dict(self.module.named_parameters()))

    def mend(self) -> None:
        """Makes the model plain again. The optimizers' states are lost."""
        if self.shards is None:
            return
        cut = dict(self.module.named_parameters())
        self.shards.mend()
        self.shards = None
        for optimizer in self.optimizers.values():
            optimizer.state.clear()
        self.swap(cut, dict(self.module.named_parameters()))

    def swap(self, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
        """Parameters as the module has them now, wherever those that it had before are known."""
        new = {id(before[name]): parameter for name, parameter in after.items()}
        self.parameters[:] = [new.get(id(p), p) for p in self.parameters]
        self.checkpoints.trained = {name: new.get(id(p), p) for name, p in self.checkpoints.trained.items()}
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                kept = [(p, new.get(id(p), p)) for p in group["params"]]
                group["params"] = [p for _, p in kept]
                for old, p in kept:
                    if old is not p and old in optimizer.state:
                        optimizer.state[p] = {key: like_parameter(v, p) for key, v in optimizer.state.pop(old).items()}

    def restore(self, step: int | None = None) -> dict[str, Any] | None:
        """A checkpoint (default: the last) into the live objects, of whichever kind it is; leaves the model cut."""
        path = self.checkpoints.last() if step is None else self.checkpoints.folder / f"step-{step}"
        if path is not None and not self.checkpoints.in_shards(path):
            self.mend()  # it was written whole, and is read whole
            saved = self.checkpoints.restore(step)
            self.cut()
            return saved
        self.cut()
        return self.checkpoints.restore(step)

    def looking(self) -> AbstractContextManager[None]:
        """Inside this block every rank holds the whole model, and nothing is trained."""
        return nullcontext() if self.shards is None else self.shards.gathered()

    def within(self, body: Callable[[], T]) -> T:
        """Calls `body`, which computes a loss."""
        return body() if self.shards is None else self.shards.within(body)

    def sum_gradients(self) -> None:
        """Sums over the ranks the gradients that FSDP has not."""
        self.ranks.add_gradients([p for p in self.parameters if not isinstance(p, DTensor)])

    def clip(self, most: float) -> float:
        """Scales the gradients down to a norm of at most `most`; returns the norm that they had, over all ranks."""
        if self.ranks.world == 1:
            return float(torch.nn.utils.clip_grad_norm_(self.parameters, most))
        grads = [p.grad for p in self.parameters if p.grad is not None]
        cut = [own(grad) for grad in grads if isinstance(grad, DTensor)]
        whole = [grad for grad in grads if not isinstance(grad, DTensor)]
        (square,) = self.ranks.sums([squared_norm(cut)])
        norm = math.sqrt(square + squared_norm(whole))
        if norm > most:  # the factor is torch's
            for grad in cut + whole:
                grad.mul_(most / (norm + 1e-6))
        return norm

    def all_finite(self, tensors: Sequence[Tensor]) -> bool:
        """Whether all numbers in the tensors are finite, on every rank."""
        broken = sum(not bool(torch.isfinite(own(t)).all()) for t in tensors)
        return self.ranks.sums([broken]) == [0]

    def step(self) -> None:
        """One step of every optimizer."""
        for optimizer in self.optimizers.values():
            if self.shards is None:
                optimizer.step()
            elif type(optimizer).__name__ in ELEMENTWISE:
                step_as_they_lie(optimizer)
            else:
                step_whole(optimizer)


def like_parameter(value: Any, parameter: Tensor) -> Any:
    """An item of a parameter's optimizer state as that parameter lies."""
    return like(value, parameter) if isinstance(value, Tensor) else value


def fingerprint(module: nn.Module) -> str:
    """A number that modules of equal weights share, whatever computes it: integer sums of the weights' bits."""
    total = 0
    for p in module.parameters():
        bits = p.detach().view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[p.element_size()])
        total = total * 31 + int(bits.sum(dtype=torch.int64))
    return f"{total % (1 << 61):x}"


def squared_norm(tensors: Sequence[Tensor]) -> float:
    """Sum of squares."""
    return float(torch.nn.utils.get_total_norm(tensors)) ** 2 if tensors else 0.0


def step_as_they_lie(optimizer: torch.optim.Optimizer) -> None:
    """A step of an optimizer that may see shards: once for the parameters in shards and once for the whole ones, which
    torch cannot step in one call. What has no gradient is passed over."""
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    cut = [p for p in parameters if isinstance(p, DTensor)]
    whole = [p for p in parameters if not isinstance(p, DTensor)]
    for now, later in ((cut, whole), (whole, cut)):
        hidden = [p.grad for p in later]
        for p in later:
            p.grad = None
        if now:
            optimizer.step()
        for p, grad in zip(later, hidden, strict=True):
            p.grad = grad


def step_whole(optimizer: torch.optim.Optimizer) -> None:
    """A step of an optimizer that must see a matrix as a whole (Muon orthogonalises it, Adafactor takes means of its
    rows): one parameter after the other is gathered, stepped on every rank alike, and cut again."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is None:
                continue
            whole = nn.Parameter(full(p.detach()).clone())
            whole.grad = full(p.grad)
            one = copy.copy(optimizer)
            one.param_groups = [{**group, "params": [whole]}]
            state = {key: full(v) if isinstance(v, Tensor) else v for key, v in optimizer.state[p].items()}
            one.state = type(optimizer.state)(dict, {whole: state} if state else {})
            one.step()
            with torch.no_grad():
                p.copy_(like(whole.detach(), p))
            optimizer.state[p] = {key: like_parameter(v, p) for key, v in one.state[whole].items()}


def dealt(micros: Sequence[Micro]) -> list[tuple[int, Micro, float]]:
    """This rank's microbatches of a step: (which it is, the microbatch, its weight). All ranks get equally many, as
    their forwards go together: where there are too few, the smallest comes again and weighs nothing."""
    ranks = here()
    rounds = -(-len(micros) // ranks.world)
    mine = [(i, micros[i], 1.0) for i in range(ranks.rank, len(micros), ranks.world)]
    if len(mine) < rounds:
        least = min(range(len(micros)), key=lambda i: micros[i].batch.tokens)
        mine.append((least, micros[least], 0.0))
    return mine
