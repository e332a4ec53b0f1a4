"""A small language model and a job that trains it, put together as stages put theirs."""

from __future__ import annotations

import torch

from architectures import tiny
from luthier.base.events import EventLog, read_events
from luthier.base.recipe import Pretrain
from luthier.model.adapt import trainable
from luthier.model.score import score
from luthier.model.verify import choose_layout
from luthier.objectives import nll
from luthier.train.average import Average
from luthier.train.checkpoint import Checkpoints, Weights
from luthier.train.job import Job, Loss
from luthier.train.noise import Noise
from luthier.train.optim import optimizers
from luthier.train.sources import Packed, Pool
from luthier.train.watchdog import Watch
from train.rows import draw

SEED = 7


def small(kind="llama", layers_weights=0.3):
    """A small model of one architecture. Weights of ordinary size: a step of 1e-3 must not throw it about."""
    torch.manual_seed(0)
    module = tiny(kind)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.mul_(layers_weights)
    return choose_layout(module)[0]


def whole(lm) -> Weights:
    """All weights, by torch."""
    return Weights(
        lambda path: torch.save(lm.module.state_dict(), path / "weights.pt"),
        lambda path: lm.module.load_state_dict(torch.load(path / "weights.pt", weights_only=True)) and None,
    )


def lm_loss(lm):
    """The loss of pretraining and sft."""
    return lambda micro: Loss(nll(score(lm, micro.batch), micro.batch.weight_M), {})


def job(folder, lm, steps=8, microbatch_tokens=100_000, loss=None, evaluate=lambda step: None, rows=None, **settings):
    """A job of language modelling in `folder`; about 8 sequences a step."""
    folder.mkdir(exist_ok=True)
    how = Pretrain(kind="pretrain", data="x", **{"learning_rate": 1e-3, "batch_tokens": 160, **settings})
    parameters = trainable(lm.module)
    steppers = optimizers(parameters, how)
    average = Average(how.ema) if how.ema is not None else None
    watch = Watch(how.watchdog) if how.watchdog is not None else None
    states = {**steppers, **{n: s for n, s in (("average", average), ("watch", watch)) if s is not None}}
    return Job(
        module=lm.module,
        parameters=list(parameters.values()),
        optimizers=steppers,
        source=Packed([Pool(rows or draw(60), how.batch_tokens, "x")], 3, microbatch_tokens, None, steps),
        loss=loss or lm_loss(lm),
        evaluate=evaluate,
        how=how,
        checkpoints=Checkpoints(folder / "checkpoints", whole(lm), states, parameters),
        log=EventLog(folder / "events.jsonl"),
        seed=SEED,
        device=torch.device("cpu"),
        average=average,
        noise=Noise(lm, how.neftune, SEED) if how.neftune is not None else None,
        watch=watch,
    )


def told(folder, kind):
    """The events of a kind that a job has told."""
    return [e for e in read_events(folder / "events.jsonl") if e["kind"] == kind]


def weights(lm):
    """A copy of all weights."""
    return {name: value.clone() for name, value in lm.module.state_dict().items()}


def equal(one, other):
    """Whether two copies are the same, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
