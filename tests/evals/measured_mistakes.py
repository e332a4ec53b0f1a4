"""Precision and recall of each detector on the labelled answers.

`PYTHONPATH=src:tests python -m evals.measured_mistakes` prints the table of docs/mistakes.md, and every item that a
detector gets wrong."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from evals.labelled_mistakes import LINES
from luthier.base.mistakes import Judging
from luthier.evals.intervals import wilson
from luthier.evals.mistakes import DETECTORS, Facts, categories_of, judge, prepare

OF_FACTS = ("accept", "reference", "source", "ended", "off")


class Score(NamedTuple):
    """How a detector did on the labelled answers."""

    category: str
    hits: int
    false: int
    missed: int

    @property
    def precision(self) -> float:
        """Share of what it found that is there."""
        return self.hits / (self.hits + self.false) if self.hits + self.false else 1.0

    @property
    def recall(self) -> float:
        """Share of what is there that it found."""
        return self.hits / (self.hits + self.missed) if self.hits + self.missed else 1.0


def judged() -> list[tuple[set[str], set[str], str]]:
    """(labels, found, answer) of every item. `off` names a category that people may differ on for that item: it is
    neither asked for nor held against anyone."""
    found = []
    for labels, prompt, answer, more in LINES:
        judging = Judging(**{key: value for key, value in more.items() if key not in OF_FACTS})
        facts = Facts(
            prompt, answer, tuple(more.get("accept", ())), more.get("reference"), more.get("source"),
            more.get("ended", True),
        )  # fmt: skip
        said = set(categories_of(judge(facts, prepare(judging, Path())))) - {more.get("off")}
        found.append((set(labels.split()) - {more.get("off")}, said, answer))
    return found


def scores() -> list[Score]:
    """Every detector, over all items: an item of another category is a negative."""
    items = judged()
    return [
        Score(
            name,
            sum(name in labels and name in said for labels, said, _ in items),
            sum(name not in labels and name in said for labels, said, _ in items),
            sum(name in labels and name not in said for labels, said, _ in items),
        )
        for name in DETECTORS
    ]


if __name__ == "__main__":
    print("| category | labelled | found | precision | recall |\n|---|---|---|---|---|")
    for s in scores():
        p = wilson(s.hits, s.hits + s.false) if s.hits + s.false else None
        r = wilson(s.hits, s.hits + s.missed)
        shown = f"{s.precision:.2f} [{p.low:.2f}, {p.high:.2f}]" if p else ""
        found = s.hits + s.false
        print(
            f"| {s.category} | {s.hits + s.missed} | {found} | {shown} | {s.recall:.2f} [{r.low:.2f}, {r.high:.2f}] |"
        )
    print(len(LINES))
    for labels, said, answer in judged():
        if labels != said:
            print(f"  missed {labels - said or ''} wrongly {said - labels or ''}: {answer[:110]}")
