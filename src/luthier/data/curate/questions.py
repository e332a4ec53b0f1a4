"""What rows ask and say, for comparing rows: the same question in whatever wording, answers that disagree.

A wrong answer cannot be told by its looks. Where the same question stands in the data several times, it can be told by
its company: it says something else than most. This is about rows whose questions have the same content words; two
wordings that share no words ("How much is it?", "What is the price?") are two questions here.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from luthier.base.nouns import Chat, Example
from luthier.data.curate.parts import asked

LEAST_SAID = 3
"""An answer is only outvoted where the question stands there so often at least."""
COMMON = 0.05
"""A word in more of the answers than this is a manner of speaking, and no sign that two of them agree."""
WORD = re.compile(r"[^\W_]+(?:[.,:'’-][^\W_]+)*")
STOP = frozenset(
    re.findall(
        r"\w+",
        """a about all also am an and any are as at be been but by can could d did do does for from get give had has
    have hello here hey hi how i if in is it its just know let like ll looking m many may me might more most much my
    need no not of on one or our out please re s say shall should so some such sure t tell than thank thanks that the
    their them then there these they this those to too up us ve very want wants was we were what when where which while
    who whom whose why will with would yes you your asked asking ask question wondering wonder explain describe""",
    )
)
"""Words that a question can do without."""


def content_words(text: str) -> frozenset[str]:
    """The words that say what a text is about, in lower case, without a plural's s."""
    words = (word.casefold() for word in WORD.findall(text))
    return frozenset(w.removesuffix("'s").removesuffix("’s") for w in words if w not in STOP)


def same_question(examples: Sequence[Example]) -> list[int]:
    """Index of the first row that asks the same, for each: one user turn, with the same content words. Rows that are no
    such questions stand alone."""
    first: dict[frozenset[str], int] = {}
    found = []
    for index, example in enumerate(examples):
        single = isinstance(example, Chat) and [m.role for m in example.messages if m.role != "system"] == [
            "user",
            "assistant",
        ]
        words = content_words(asked(example)) if single else frozenset()
        found.append(first.setdefault(words, index) if words else index)
    return found


def outvoted(examples: Sequence[Example], at_hand: Sequence[int]) -> dict[int, str]:
    """Index of an answer -> what most say, for answers that disagree with most answers to the same question. Looks only
    at the rows `at_hand`. Answers that differ too much among each other outvote none."""
    rows = [examples[i] for i in at_hand]
    groups: dict[int, list[int]] = defaultdict(list)
    for position, question in enumerate(same_question(rows)):
        groups[question].append(position)
    voting = [members for members in groups.values() if len(members) >= LEAST_SAID]
    counts = Counter(word for row in rows if isinstance(row, Chat) for word in content_words(row.answer or ""))
    common = {word for word, count in counts.items() if count > max(LEAST_SAID, COMMON * len(rows))}
    found: dict[int, str] = {}
    for members in voting:
        own = [own_words(rows[m]) - common for m in members]
        friends = [sum(agree(a, b) for b in own) if a else 0 for a in own]  # itself is one
        leader = max(range(len(members)), key=lambda k: friends[k])
        if friends[leader] * 2 <= len(members) or friends[leader] < 2:
            continue
        for k, member in enumerate(members):
            if own[k] and not agree(own[k], own[leader]):
                leading = rows[members[leader]]
                assert isinstance(leading, Chat)
                found[at_hand[member]] = f"{leading.answer} ({leading.origin})"
    return found


def own_words(example: Example) -> frozenset[str]:
    """What an answer says beyond its question."""
    assert isinstance(example, Chat)
    return content_words(example.answer or "") - content_words(asked(example))


def agree(a: frozenset[str], b: frozenset[str]) -> bool:
    """Whether two answers say the same: a number of both, where both have numbers; else any word. An answer without a
    word of its own disagrees with none."""
    if not a or not b:
        return True
    numbers, others = numbers_in(a), numbers_in(b)
    return bool(numbers & others) if numbers and others else bool(a & b)


def numbers_in(words: frozenset[str]) -> set[str]:
    return {word for word in words if any(sign.isdigit() for sign in word)}


def marked(text: str) -> set[str]:
    """Numbers, and words in capitals that do not begin a sentence."""
    found = set()
    for match in WORD.finditer(text):
        word, before = match[0], text[max(0, match.start() - 32) : match.start()].rstrip(" \t\"'“‘(*_")
        inside = bool(before) and before[-1] not in ".!?:\n"
        if any(sign.isdigit() for sign in word) or (inside and word[0].isupper()):
            found.add(word.casefold())
    return found


def words_in(text: str) -> set[str]:
    return {word.casefold() for word in WORD.findall(text)}
