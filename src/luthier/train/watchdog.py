"""The loss watchdog: it notices a loss that runs away, and says which checkpoint was still good."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from luthier.base.tuning import Watchdog

LEAST_USUAL = 0.2
"""Nats. A usual loss below this counts as this much: twice next to nothing is nothing to go back for."""


class Watch:
    """What the watchdog has seen; part of every checkpoint (see Stateful)."""

    def __init__(self, how: Watchdog) -> None:
        self.how = how
        self.losses: list[float] = []
        """Of the last `window` steps and of the recent ones after them."""
        self.rollbacks = 0

    @property
    def recent(self) -> int:
        """Steps whose mean loss is compared with the usual: a fifth of the window."""
        return self.how.window // 5

    @property
    def slowed(self) -> float:
        """What all learning rates are multiplied with."""
        return self.how.slower**self.rollbacks

    def usual(self) -> float | None:
        """Median loss of the window before the recent steps; None until it holds as many steps as those."""
        before = self.losses[: -self.recent]
        return median(before) if len(before) >= self.recent else None

    def see(self, loss: float) -> str | None:
        """Takes in the loss of a step; what is wrong, if the loss runs away."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        self.losses = [*self.losses, loss][-(self.how.window + self.recent) :]
        usual = self.usual()
        if usual is None or self.excess() <= 1:
            return None
        return (
            f"the mean loss of {self.recent} steps is {fmean(self.losses[-self.recent :]):.4g}, more than "
            f"{self.how.factor:g} times the usual {max(usual, LEAST_USUAL):.4g}"
        )

    def excess(self) -> float:
        """The recent mean as a share of what counts as a runaway."""
        usual = self.usual()
        if usual is None:
            return 0.0
        return fmean(self.losses[-self.recent :]) / (self.how.factor * max(usual, LEAST_USUAL))

    @property
    def sane(self) -> bool:
        """Whether the loss is nearer to the usual than to a runaway: then a checkpoint made now may be a good one."""
        return self.excess() <= (1 + 1 / self.how.factor) / 2

    def good(self, saved: Mapping[int, Mapping[str, Any]], step: int) -> int | None:
        """The last of the checkpoints (their facts, by step) that was made before the recent steps began, while the
        loss was sane."""
        return max((s for s, facts in saved.items() if s <= step - self.recent and facts.get("sane")), default=None)

    def wanted(self, saved: Mapping[int, Mapping[str, Any]], step: int) -> list[int]:
        """The checkpoints that may be gone back to from here on: the good one, and the first of those that will be one
        when they are old enough."""
        young = [s for s, facts in saved.items() if s > step - self.recent and facts.get("sane")]
        good = self.good(saved, step)
        return [s for s in (good, min(young, default=None)) if s is not None]

    def state_dict(self) -> dict[str, Any]:
        """See Stateful."""
        return {"losses": list(self.losses), "rollbacks": self.rollbacks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See Stateful."""
        self.losses, self.rollbacks = list(state["losses"]), state["rollbacks"]


def gone_too_often(watch: Watch, folder: str, why: str, saved: Sequence[int]) -> str:
    """The sentence with which a stage stops."""
    return (
        f"{folder}: {why}, also after going back {watch.rollbacks} times. The checkpoints of steps "
        f"{', '.join(map(str, saved))} are kept. Lower learning_rate or raise warmup_frac, or look at the rows of the "
        "last steps; watchdog.rollbacks allows more attempts."
    )
