"""What every training stage does alike around its own loss and data: the job, and the guards that try it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from luthier.base.events import EventLog
from luthier.base.nouns import Tokens
from luthier.base.tuning import Training
from luthier.model.adapt import trainable
from luthier.run.budget import most_bytes, pace_for
from luthier.run.context import Context
from luthier.run.learner import Learner
from luthier.run.memo import StageFolder
from luthier.train import guards as g
from luthier.train.average import Average
from luthier.train.checkpoint import Checkpoints, Stateful
from luthier.train.job import Job, Loss
from luthier.train.noise import Noise
from luthier.train.optim import optimizers
from luthier.train.sources import BatchSource, Micro
from luthier.train.trial import disk_for, try_largest
from luthier.train.watchdog import Watch

MICROBATCH_TOKENS = {"cpu": 1024, "cuda": 16384}
"""By device. On a CPU about what its caches hold: a Llama of 16 M parameters trained 1.1-1.2 times as many tokens a
second in pieces of 1,024 as in one of 8,192 (2 cores, float32 and bfloat16), in a tenth of the memory."""


def job_for(
    context: Context,
    folder: StageFolder,
    stage: Training,
    learner: Learner,
    source: BatchSource,
    loss: Callable[[Micro], Loss],
    evaluate: Callable[[int], float | None],
    log: EventLog,
    heads: Mapping[str, nn.Linear] | None = None,
    states: Mapping[str, Stateful] | None = None,
) -> Job:
    """The job of a stage: what of the learner trains, and `heads` beside it; `states` are kept in its checkpoints."""
    heads, seed = heads or {}, context.seed(folder)
    parameters = trainable(learner.lm.module) | {name: head.weight for name, head in heads.items()}
    steppers = optimizers(parameters, stage)
    average = Average(stage.ema) if stage.ema is not None else None
    watch = Watch(stage.watchdog) if stage.watchdog is not None else None
    kept: dict[str, Stateful] = {**steppers, **heads, **(states or {})}
    kept |= {name: own for name, own in (("average", average), ("watch", watch)) if own is not None}
    return Job(
        module=learner.lm.module,
        parameters=list(parameters.values()),
        optimizers=steppers,
        source=source,
        loss=loss,
        evaluate=evaluate,
        how=stage,
        checkpoints=Checkpoints(folder.path / "checkpoints", learner.weights, kept, parameters, folder.hash),
        log=log,
        seed=seed,
        device=learner.lm.device,
        dtype=learner.lm.dtype,
        average=average,
        noise=Noise(learner.lm, stage.neftune, seed) if stage.neftune is not None else None,
        watch=watch,
        most_bytes=most_bytes(context),
        pace=pace_for(context, folder, stage, learner, source),
    )


def tried(job: Job, learner: Learner, rows: Sequence[Tokens], largest: int) -> list[dict[str, Any]]:
    """The guards that use the model: packing changes nothing, the largest step fits, and so do the checkpoints."""
    return g.enforce(
        [g.packed_is_unpacked(learner.lm, rows), try_largest(job, largest), disk_for(job)],
        job.log,
    )


def microbatch_tokens(context: Context, stage: Training) -> int:
    """Most tokens in one forward."""
    return stage.microbatch_tokens or MICROBATCH_TOKENS[context.device]
