"""Every way of making rows that asks a model, by its name in a recipe. What each reads and makes is in
`base.synthesis.METHODS`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from luthier.data.synthesis.conversations import evolve, paraphrase, self_instruct
from luthier.data.synthesis.documents import back_translation, questions, unanswerable
from luthier.data.synthesis.means import Found, Means
from luthier.data.synthesis.preference import preference

WAYS: dict[str, Callable[[Sequence[Any], Means], Found]] = {
    "questions": questions,
    "unanswerable": unanswerable,
    "back_translation": back_translation,
    "paraphrase": paraphrase,
    "self_instruct": self_instruct,
    "evolve": evolve,
    "preference": preference,
}
MIXING = ("self_instruct",)
"""Ways whose rows come of several at once: they are asked of the training rows alone."""
