"""Every stage that learns from preferences or rewards, whole and on a base in few bits: interrupted in its middle and
run again, the run is the uninterrupted one."""

from __future__ import annotations

import pytest

from luthier.base.events import read_events
from run.rewarded import interrupt, rewarded_world, run_stages, with_base
from run.small import results, stage_folders, write_rows

PAIRS = "  pairs: {path: pairs.jsonl, format: pairs}\n"
PREFERRED = "pairs: pairs, init: sft, batch_pairs: 6, learning_rate: 5.0e-3, checkpoint_every_steps: 1"
ROLLED = (
    "prompts: questions, init: sft, iterations: 3, rollout_prompts: 4, samples: 2, minibatches: 2, epochs: 1, "
    "max_new_tokens: 6, learning_rate: 5.0e-3, checkpoint_every_steps: 1, kl_target: 1"
)
NF4 = "adapter: {rank: 4, dropout: 0.1}, quantize: nf4"
STAGES = {
    "reward": f"{{kind: reward, {PREFERRED}}}",
    "ppo": f"{{kind: ppo, reward: reward, {ROLLED}}}",
    "orpo": f"{{kind: orpo, {PREFERRED}, gradient_checkpointing: true}}",
    "simpo4": f"{{kind: simpo, name: simpo4, {PREFERRED}, {NF4}, gradient_checkpointing: true}}",
    "dpo4": f"{{kind: dpo, name: dpo4, {PREFERRED}, {NF4}}}",
    "reward4": f"{{kind: reward, name: reward4, {PREFERRED}, {NF4}}}",
    "ppo4": f"{{kind: ppo, name: ppo4, reward: reward4, {ROLLED}, {NF4}}}",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A base to start from, and pairs."""
    folder = rewarded_world(tmp_path_factory.mktemp("world"))
    asked = [f"Which colour has the cup {n}?" for n in range(24)]
    write_rows(
        folder / "pairs.jsonl",
        [{"prompt": q, "chosen": "It is red.", "rejected": f"I do not know {n}."} for n, q in enumerate(asked)],
    )
    return folder


def test_interrupted_and_resumed_is_uninterrupted(world, tmp_path):
    stages = "".join(f"  - {stage}\n" for stage in STAGES.values())
    whole = run_stages(world, with_base(world, tmp_path / "whole"), stages, data=PAIRS)
    again = with_base(world, tmp_path / "again")
    for name in STAGES:
        step = 3 if name.startswith("ppo") else 2  # in the middle of a rollout of two steps
        with pytest.raises(KeyboardInterrupt):
            run_stages(world, again, stages, (interrupt(name, step),), PAIRS)
    resumed = run_stages(world, again, stages, data=PAIRS)
    assert results(resumed) == results(whole)
    for name in STAGES:
        told = [list(read_events(stage_folders(run)[name] / "events.jsonl")) for run in (whole, resumed)]
        steps = [[(e["step"], e["loss"], e["grad_norm"]) for e in side if e["kind"] == "step"] for side in told]
        assert steps[0] == steps[1] and len({norm for _, _, norm in steps[0]}) == len(steps[0]) > 2, name
        went_on = [e["step"] for e in told[1] if e["kind"] == "resume"]
        assert went_on == [2 if name.startswith("ppo") else 1], name
