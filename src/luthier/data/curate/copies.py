"""Which row stands for which, among rows that are nearly the same: the best; and what speaks of other things stands
for itself.

Rows of one template are alike and say different things ("the Altair is 80 mm wide", "the Deneb is 90 mm wide"), and
there may be any number of them: each row is compared with the few that can stand for it, not with all.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from luthier.data.curate.questions import marked, words_in


def standing_for(
    order: Sequence[int], texts: Sequence[str], exact: Sequence[int], alike: Callable[[int, int], bool]
) -> dict[int, int]:
    """Of some rows, the best first, those that are copies, and the row that stands for each: the first that is the same
    (`exact`), or that is `alike` and speaks of no other thing: one of the two has no name and no number
    (`questions.marked`) that the other lacks. `alike` is asked of no pair that speaks of other things."""
    marks = {i: marked(texts[i]) for i in order}
    words = {i: words_in(texts[i]) for i in order}
    often = Counter(mark for i in order for mark in marks[i])
    leaders: list[int] = []
    same: dict[int, int] = {}
    """Exact cluster -> place of its first leader."""
    saying: dict[str, list[int]] = defaultdict(list)
    """A name or number of any row -> places of the leaders in whose words it stands."""
    marked_by: dict[str, list[int]] = defaultdict(list)
    """The rarest name or number of a leader -> its place."""
    unmarked: list[int] = []
    found: dict[int, int] = {}

    def candidates(i: int) -> Sequence[int]:
        """Places of the leaders that speak of no other thing than row i, in order."""
        if not marks[i]:
            return range(len(leaders))
        rarest = min(marks[i], key=lambda mark: len(saying[mark]))
        within = {place for place in saying[rarest] if marks[i] <= words[leaders[place]]}
        around = {
            place
            for word in words[i] & marked_by.keys()
            for place in marked_by[word]
            if marks[leaders[place]] <= words[i]
        }
        return sorted(within | around | set(unmarked))

    for i in order:
        first = same.get(exact[i], len(leaders))
        places = (place for place in candidates(i) if place < first and alike(i, leaders[place]))
        if (place := next(places, first)) < len(leaders):
            found[i] = leaders[place]
            continue
        same.setdefault(exact[i], len(leaders))
        for word in words[i] & often.keys():
            saying[word].append(len(leaders))
        if marks[i]:
            marked_by[min(marks[i], key=lambda mark: (often[mark], mark))].append(len(leaders))
        else:
            unmarked.append(len(leaders))
        leaders.append(i)
    return found
