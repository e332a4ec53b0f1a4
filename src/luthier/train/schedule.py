"""The learning rate of every step, as a function of the step and of how many there are.

How many steps a stage takes may change once it trains (a budget, on a machine that turned slow). Then the rest of the
schedule is passed faster: it stays continuous, and its end is reached on the last step, wherever that is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from luthier.base.tuning import Training


@dataclass(frozen=True)
class Turn:
    """From step `at` on, the stage is to end after `steps` steps."""

    at: int
    steps: int


@dataclass(frozen=True)
class Plan:
    """How many steps a stage takes, as planned before step 0, and how that has changed since."""

    first: int
    turns: tuple[Turn, ...] = ()

    @property
    def steps(self) -> int:
        """Steps as they stand now."""
        return self.turns[-1].steps if self.turns else self.first

    def turned(self, at: int, steps: int) -> Plan:
        """The plan that ends after `steps` steps, decided before step `at`."""
        return Plan(self.first, (*self.turns, Turn(at, max(steps, at + 1))))

    def place(self, step: int) -> float:
        """Where in the first plan's schedule, 0 .. first − 1, a step stands. Each turn spreads what was left of the
        schedule evenly over what is left of the steps."""
        start, place, last = 0, 0.0, self.first - 1
        for turn in self.turns:
            if step < turn.at:
                break
            place += (turn.at - start) * pace(self.first - 1 - place, last - start)
            start, last = turn.at, turn.steps - 1
        if step >= last:
            return float(self.first - 1)
        return place + (step - start) * pace(self.first - 1 - place, last - start)


def pace(left: float, steps: int) -> float:
    """How much of the schedule each of the steps passes; all of it where none are left."""
    return left / steps if steps > 0 else left


def lr_at(step: float, steps: int, how: Training) -> float:
    """Learning rate of optimizer step `step` (from 0) of `steps`: linear warm-up, then the schedule's shape from the
    peak down to `final_lr_frac` of it, reached on the last step. wsd stays at the peak until `decay_frac` of the steps
    are left, then falls in a line (Hägele et al. 2024, §3). A stage of one step takes it at the peak."""
    warmup = min(math.ceil(how.warmup_frac * steps), steps - 1)
    if step < warmup:
        return how.learning_rate * (step + 1) / (warmup + 1)
    moves = max(1, steps - 1 - warmup)
    done = (step - warmup) / moves
    down = min(moves, math.ceil(how.decay_frac * steps))
    shape = {
        "constant": 1.0,
        "linear": 1 - done,
        "cosine": (1 + math.cos(math.pi * done)) / 2,
        "wsd": min(1.0, (1 - done) * moves / down),
    }[how.schedule]
    if how.schedule != "constant":
        shape = how.final_lr_frac + (1 - how.final_lr_frac) * shape
    return how.learning_rate * shape


def rate(step: int, plan: Plan, how: Training) -> float:
    """Learning rate of a step of a plan."""
    return lr_at(plan.place(step), plan.first, how)


def turns_of(saved: Sequence[Sequence[int]]) -> tuple[Turn, ...]:
    """Turns as JSON has them: [[at, steps], ...]."""
    return tuple(Turn(at, steps) for at, steps in saved)
