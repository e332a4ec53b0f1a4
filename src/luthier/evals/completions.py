"""Text that a model writes after given tokens, for benchmarks that judge what is written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from luthier.base.nouns import Sample
from luthier.evals.engine import Answers, Watch, Work
from luthier.generate import sample
from luthier.model.draw import Sampling
from luthier.model.score import LanguageModel

MOST_ROWS = 64
"""Most rows that grow together."""
MOST_TOKENS = 32768
"""Most tokens, read and written, whose keys and values are in memory at once."""


class Completion(NamedTuple):
    """A request for text: the ids it goes on from, how to draw, and the strings before which it ends."""

    ids: tuple[int, ...]
    how: Sampling
    until: tuple[str, ...]

    @property
    def key(self) -> str:
        """What its answer is kept under."""
        how = json.dumps([asdict(self.how), self.until], sort_keys=True)
        ids = np.array(self.ids, dtype=np.int32).tobytes()
        return "text-" + hashlib.blake2b(ids + how.encode(), digest_size=12).hexdigest()


def complete(
    lm: LanguageModel,
    asked: Sequence[Completion],
    end_ids: Sequence[int],
    tokenizer: Any,
    answers: Answers | None = None,
    watch: Watch = Watch(),  # noqa: B008  # immutable
) -> list[str]:
    """What the model writes to each request, without the stop string; requests that are equal are answered once. What
    `watch` hears of before it begins is the most that may be written.
    Raises UserError as `sample` does."""
    answers = answers or Answers()
    keys = [one.key for one in asked]
    left = {key: one for key, one in zip(keys, asked, strict=True) if key not in answers.known}
    decode = lambda ids: tokenizer.decode(ids, skip_special_tokens=True)  # noqa: E731
    most = [(len(one.ids) + one.how.max_new_tokens, one.how.max_new_tokens) for one in left.values()]
    watch.plan(Work(len(left), sum(tokens for tokens, _ in most), sum(written for _, written in most)))
    for group in groups(left):
        first = group[0][1]
        # A stop string may be the text of a special token, which `decode` leaves out.
        specials = {text for text in first.until if text in tokenizer.get_vocab()}
        ends = sorted({*end_ids, *(tokenizer.convert_tokens_to_ids(text) for text in specials)})

        def finished(done: list[tuple[int, list[Sample]]], group: list[tuple[str, Completion]] = group) -> None:
            """Some of the requests are answered: kept before the next are."""
            answers.add({group[at][0]: before_stop(one.text, group[at][1].until) for at, (one,) in done})
            written = sum(len(one.ids) for _, (one,) in done)
            watch.done(Work(len(done), sum(len(group[at][1].ids) for at, _ in done) + written, written))

        sample(
            lm,
            [one.ids for _, one in group],
            first.how,
            ends,
            decode,
            max_rows=MOST_ROWS,
            max_tokens=MOST_TOKENS,
            stops=[text for text in first.until if text and text not in specials],
            finished=finished,
        )
    return [answers.known[key] for key in keys]


def before_stop(text: str, until: Sequence[str]) -> str:
    """A text up to the first of some strings."""
    for stop in until:
        if stop:
            text = text.split(stop)[0]
    return text


def groups(left: dict[str, Completion]) -> list[list[tuple[str, Completion]]]:
    """Requests that grow together: drawn alike; the longest first, so that what does not fit is met at once."""
    order = sorted(left.items(), key=lambda item: (str(item[1][1:]), -len(item[1].ids), item[0]))
    return [list(group) for _, group in groupby(order, key=lambda item: str(item[1][1:]))]
