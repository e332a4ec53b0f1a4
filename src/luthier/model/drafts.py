"""Drafts: tokens that a row may well write next, because they followed the same ones before.

The model is asked for what it would write after each of them in one step, and a draft counts as far as it is what the
model writes: the text is the one that it would have written token by token, in fewer steps. What a step costs whatever
it holds (weights and keys that are read, calls) is most of it while rows are few. Text repeats itself: numbers of the
question in its answer, a passage that is quoted, the samples of one prompt, a model that has begun to loop.

Looking a draft up in the text is Saxena's prompt lookup (2023, github.com/apoorvumang/prompt-lookup-decoding); longer
drafts where more of the text agrees, and drafts from other rows, are in SuffixDecoding (Oliaro et al. 2024, arXiv
2411.04975). How far each match is to be trusted is counted here, as rows are sampled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

PAIR = 2
"""Tokens that have to agree, the last one included."""
LONGEST = 8
"""Most tokens of a draft, and of a match that are counted."""
STEP = 64
"""About how many tokens take as long to compute as what a step costs whatever it holds."""
LEAST_WORTH = 0.1
"""A token that is less likely than this to come is never drafted."""
PRIOR = 4
"""Tokens that count as kept, and as missed, before any was drafted."""
MOST_KNOWN = 1 << 17
"""Pairs of tokens whose last places, in any row, are remembered."""
SEVERAL = 4
"""Last places of a pair that are looked at, in each of: the row's own text, its prompt, all rows' texts."""

Place = tuple[Sequence[int], int]
"""A text, and the index behind a pair in it."""


class Prompt:
    """Where pairs of tokens stand in a prompt: sorted numbers, because a prompt may be long and there are many."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = tuple(ids)
        array = np.asarray(self.ids, dtype=np.int64)
        pairs = (array[:-1] << 32) | array[1:]
        # Of equal pairs the last one stands last; the prompt's last pair is followed by nothing that is known here.
        self.order = np.argsort(pairs[:-1], kind="stable").astype(np.int32)
        self.sorted = pairs[self.order]

    def after(self, first: int, second: int) -> list[Place]:
        """The places after the last such pairs that have a token behind them."""
        pair = (first << 32) | second
        start, stop = (int(np.searchsorted(self.sorted, pair, side=side)) for side in ("left", "right"))
        return [(self.ids, int(at) + PAIR) for at in self.order[max(start, stop - SEVERAL) : stop]]


class Row:
    """A row's text, prompt included, and where its own pairs stand."""

    def __init__(self, prompt: Prompt) -> None:
        self.prompt, self.ids = prompt, list(prompt.ids)
        self.own: dict[tuple[int, int], list[Place]] = {}

    def pair(self) -> tuple[int, int]:
        return self.ids[-2], self.ids[-1]


class Drafts:
    """Drafts for rows, named by a number of the caller's."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.known: dict[tuple[int, int], list[Place]] = {}
        """Pair -> the places after it where rows wrote it last."""
        self.kept, self.missed = [PRIOR] * (LONGEST + 1), [PRIOR] * (LONGEST + 1)
        """By the length of the match: drafted tokens that came, and drafts in which one did not."""
        self.open: dict[int, tuple[int, int]] = {}
        """Of rows with a draft that is being looked at: the match's length, and the draft's."""

    def begin(self, row: int, prompt: Prompt) -> None:
        """A row that has written nothing."""
        self.rows[row] = Row(prompt)

    def end(self, row: int) -> None:
        """A row that writes no more; what it wrote stays known."""
        del self.rows[row]

    def add(self, row: int, tokens: Sequence[int]) -> None:
        """What a row has written; where a draft had been made for it, the draft is judged by it."""
        one = self.rows[row]
        for token in tokens:
            # A pair is known once something stands behind it.
            if len(one.ids) >= PAIR:
                if len(self.known) >= MOST_KNOWN:
                    self.known.clear()
                pair, place = one.pair(), (one.ids, len(one.ids))
                for places in (one.own.setdefault(pair, []), self.known.setdefault(pair, [])):
                    places.append(place)
                    del places[:-SEVERAL]
            one.ids.append(token)
        if row in self.open:
            match, drafted = self.open.pop(row)
            self.kept[match] += min(len(tokens) - 1, drafted)
            self.missed[match] += len(tokens) - 1 < drafted

    def of(self, row: int, room: int, rows: int) -> list[int]:
        """At most `room` tokens that a row may go on with, beside so many rows; none, if they are not worth it."""
        one, most = self.rows[row], min(room, LONGEST, STEP // rows)
        if most <= 0 or len(one.ids) < PAIR or not (places := self._places(one)):
            return []
        # The longest match; of equal ones the last, in the row's own text before its prompt and those of others.
        match, _, (ids, at) = max((agreeing(one.ids, place), -far, place) for far, place in enumerate(reversed(places)))
        # Of k tokens the last one comes with probability pᵏ.
        p = self.kept[match] / (self.kept[match] + self.missed[match])
        worth = max(LEAST_WORTH, rows / (rows + STEP))
        count = min(most, int(math.log(worth) / math.log(p)))
        draft: list[int] = []
        while len(draft) < count and (at < len(ids) or ids is one.ids):
            # A row's own text goes on into what is drafted: a loop.
            draft.append(ids[at] if at < len(ids) else draft[at - len(ids)])
            at += 1
        if draft:
            self.open[row] = match, len(draft)
        return draft

    def _places(self, one: Row) -> list[Place]:
        """Where the row's last pair stood before, what counts most at the end."""
        pair = one.pair()
        return [*self.known.get(pair, ()), *one.prompt.after(*pair), *one.own.get(pair, ())]


def agreeing(ids: Sequence[int], place: Place) -> int:
    """How many of the last tokens of `ids` stand before a place too, `LONGEST` at most."""
    text, at = place
    most, match = min(LONGEST, at, len(ids)), PAIR
    while match < most and text[at - 1 - match] == ids[-1 - match]:
        match += 1
    return match
