"""How many steps a stage takes: as many as it asks for, or as many as a time budget leaves it.

Planned before step 0 from the measured speed, so that the schedule is that of the steps that are taken. Where the
machine turns slower than it was, the plan turns: fewer steps, and the rest of the schedule passed faster; more again,
up to those planned, when it recovers. The plan is a file of the stage's folder; a resumed stage goes by it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from luthier.base.files import read_json, write_json
from luthier.train.schedule import Plan, turns_of

MARGIN_FRAC = 0.1
"""Of the time that is left to a stage's training, this much is not planned with."""
LOOKS = 10
"""Evaluations in a stage, where it asks for no other number and there is time."""
LOOKS_FRAC = 0.25
"""Most of the time that those may take."""
STEADY_STEPS = 32
STEADY_FRAC = 0.05
"""Fewest steps, and share of the stage, whose mean says how fast the machine is now: a moment's work of another program
in a long stage is none of its speed."""
RECOVERED = 1.25
"""A plan that was cut gets steps back when this many times as many fit."""


class Allowed(NamedTuple):
    """What a budget leaves to a stage's training from a moment on, and what it keeps back for what comes after."""

    seconds: float
    reserve_s: dict[str, float]


class Speed(NamedTuple):
    """What was measured before step 0."""

    step_s: float
    tokens_per_s: float
    evaluate_s: float
    save_s: float


@dataclass(frozen=True)
class Written:
    """plan.json: what was planned before step 0, and the turns since."""

    asked_steps: int
    planned_steps: int
    evaluate_every: int
    fit_s: float
    """When the training is to be over, in seconds of training time."""
    step_s: float
    tokens_per_s: float
    evaluate_s: float
    save_s: float
    reserve_s: dict[str, float]
    turns: list[list[int]]


class Pace:
    """A stage's plan, and the time that it may take. `allowed` (seconds of an evaluation and of a checkpoint -> what
    the budget leaves from now on) is None where time does not matter; `file` then is not written."""

    def __init__(
        self,
        asked: int,
        period: int = 1,
        every: int | None = None,
        file: Path | None = None,
        allowed: Callable[[float, float], Allowed] | None = None,
    ) -> None:
        self.asked, self.period, self.file, self.allowed = asked, period, file, allowed
        self.plan = Plan(asked)
        self.every = every
        self.evaluate_every = every or max(1, asked // LOOKS)
        self.written: Written | None = None
        self.look_s = 0.0
        """Seconds of the last evaluation with its checkpoint."""
        self.steps_s: deque[float] = deque(maxlen=self.whole(STEADY_STEPS))
        """Of the last steps, in whole rollouts where there are any."""
        if file is not None and file.exists():
            self.go_by(Written(**read_json(file)))

    @property
    def steps(self) -> int:
        """Steps as planned now."""
        return self.plan.steps

    @property
    def to_be_planned(self) -> bool:
        """Whether there is a budget and no plan yet."""
        return self.allowed is not None and self.written is None

    def go_by(self, written: Written) -> None:
        """Takes over a plan."""
        self.written, self.evaluate_every = written, written.evaluate_every
        self.plan = Plan(written.planned_steps, turns_of(written.turns))
        self.look_s = written.evaluate_s + written.save_s
        window = max(STEADY_STEPS, int(STEADY_FRAC * written.planned_steps))
        self.steps_s = deque(self.steps_s, maxlen=self.whole(window))

    def write(self, written: Written) -> None:
        """Takes over a plan, and puts it on disk."""
        self.go_by(written)
        assert self.file is not None
        write_json(self.file, asdict(written))

    def planned(self, speed: Speed, spent_s: float) -> Written:
        """The plan at a measured speed, when the training has taken `spent_s` seconds already."""
        assert self.allowed is not None
        left, reserve = self.allowed(speed.evaluate_s, speed.save_s)
        usable, look_s = left * (1 - MARGIN_FRAC), speed.evaluate_s + speed.save_s
        if self.every is not None:
            steps, every = int(usable / (speed.step_s + look_s / self.every)), self.every
        else:
            looks = max(1, min(LOOKS, int(usable * LOOKS_FRAC / max(look_s, 1e-9))))
            steps = int((usable - looks * look_s) / speed.step_s)
            every = max(1, min(steps, self.asked) // looks)
        steps = min(self.asked, self.whole(steps))
        return Written(self.asked, steps, every, spent_s + left, *speed, reserve, [])

    def whole(self, steps: int) -> int:
        """A number of steps at which the stage may end."""
        return max(self.period, steps // self.period * self.period)

    def resumed(self, spent_s: float) -> Written | None:
        """The plan for the time that is left now, when the training has taken `spent_s` seconds: never more than was
        left before. None where there is no plan."""
        if self.allowed is None or self.written is None:
            return None
        left = self.allowed(self.written.evaluate_s, self.written.save_s).seconds
        return replace(self.written, fit_s=min(self.written.fit_s, spent_s + left))

    def passed(self, done: int, step_s: float, spent_s: float, look_s: float | None) -> Written | None:
        """Takes in a step, and the evaluation after it if there was one. The plan, if it must turn: the machine is too
        slow for it now, or not any more."""
        self.steps_s.append(step_s)
        if look_s is not None:
            self.look_s = look_s
        enough = min(STEADY_STEPS, max(3, self.plan.first // 10), self.steps_s.maxlen or 1)
        if self.written is None or self.allowed is None or done % self.period or done >= self.steps:
            return None
        if len(self.steps_s) < max(enough, self.period):
            return None
        a_step, left = fmean(self.steps_s), self.written.fit_s - spent_s
        a_step += self.look_s / self.evaluate_every
        planned, fit = self.steps - done, self.whole(int((left * (1 - MARGIN_FRAC) - self.look_s) / a_step))
        too_slow = planned * a_step + self.look_s > left and fit < planned
        recovered = self.steps < self.plan.first and fit > RECOVERED * planned
        if not (too_slow or recovered):
            return None
        turned = self.plan.turned(done, min(self.plan.first, done + fit))
        return replace(self.written, turns=[[turn.at, turn.steps] for turn in turned.turns])

    def facts(self) -> dict[str, Any]:
        """As stage.json has it; nothing where time does not matter."""
        if self.written is None:
            return {}
        facts = asdict(self.written)
        facts["reserve_s"] = {name: round(value, 3) for name, value in self.written.reserve_s.items()}
        return {"plan": {name: round(v, 5) if isinstance(v, float) else v for name, v in facts.items()}}
