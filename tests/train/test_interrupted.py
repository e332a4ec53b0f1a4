"""Interrupted and resumed = uninterrupted, bit for bit: every optimizer, plain and with all that may go with it."""

from __future__ import annotations

import random

import pytest

from luthier.train.loop import fit
from train.jobs import equal, job, small, told, weights

EXTRAS = {
    "plain": {},
    "all": {"ema": 0.8, "neftune": 2.0, "watchdog": {}, "layer_decay": 0.7, "embedding_lr_frac": 0.5,
            "schedule": "wsd", "weight_decay": 0.1},
}  # fmt: skip


@pytest.mark.parametrize("extras", EXTRAS)
@pytest.mark.parametrize("name", ["adamw", "adamw8bit", "adafactor", "lion", "muon"])
def test_interrupted_twice_is_uninterrupted(name, extras, tmp_path):
    if name == "adamw8bit":
        pytest.importorskip("bitsandbytes")
    settings = {"optimizer": name, "checkpoint_every_steps": 2, "evaluate_every_steps": 1, **EXTRAS[extras]}
    whole, last = small(), small()
    fit(job(tmp_path / "whole", whole, **settings))
    for stop in sorted(random.sample(range(1, 9), 2)):

        def kill(step, stop=stop):
            if step == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit(job(tmp_path / "killed", small(), evaluate=kill, **settings))
    fit(job(tmp_path / "killed", last, **settings))
    assert equal(weights(whole), weights(last))
    one, other = ([(e["step"], e["lr"], e["loss"]) for e in told(tmp_path / n, "step")] for n in ("whole", "killed"))
    assert one == other and len(one) == 8
