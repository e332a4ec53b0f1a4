"""Text that goes round in circles: where it begins to, and what is left without the circles."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from luthier.base.sentences import pieces

LONGEST_PHRASE = 80
"""Words of a phrase whose return is looked for."""
GRAM = 5
"""Words in a row that two passages do not share by chance."""
LEAST_WORDS = 12
"""Shorter texts have no room to repeat themselves, but in a loop."""
SHORT_UNIT = 2
"""Words of a phrase that a table or a laugh repeats as well: it must come twice more than a longer one."""

_TOKEN = re.compile(r"\w+(?:['’]\w+)*")
_NO_PROSE = re.compile(r"```.*?(?:```|\Z)|^\s*\|.*\|\s*$", re.DOTALL | re.MULTILINE)  # code and tables repeat by right
_RUN = re.compile(r"([^\s\d]{1,3}?)\1{9,}|([^\s\d]{4,40}?)\2{2,}")
"""Letters without a blank: "nonononono…", or a phrase of a script without blanks, said three times."""


class Repeat(NamedTuple):
    """A passage that was said before: characters `start` to `end` of the text, and why it counts."""

    start: int
    end: int
    unit: str
    """What is said again."""
    times: int


class _Word(NamedTuple):
    low: str
    start: int
    end: int


@lru_cache(maxsize=8)  # loop, said_again and repeated_frac are asked of one text, one after the other
def _words(text: str) -> tuple[_Word, ...]:
    plain = _NO_PROSE.sub(lambda found: " " * len(found[0]), text)
    return tuple([_Word(w[0].lower(), *w.span()) for w in _TOKEN.finditer(plain)])


def loop(text: str, times: int = 3, least_words: int = 6) -> Repeat | None:
    """The first phrase that is said at least `times` times in a row, over at least `least_words` words; what counts as
    repeated begins where it is said again. Numbers alone make no loop, nor do code and tables."""
    words = _words(text)
    lows = [word.low for word in words]
    found: list[tuple[int, int, int]] = []  # (first word, period, words covered)
    for period in _periods(lows):
        run = 0
        needed = times + 2 * (period <= SHORT_UNIT)
        for i in range(len(lows) - period + 1):
            if i + period < len(lows) and lows[i] == lows[i + period]:
                run += 1
                continue
            covered, first = run + period, i - run
            enough = run and covered >= max(least_words, needed * period)
            if enough and any(not low.isdigit() for low in lows[first : first + period]):
                found.append((first, period, covered))
            run = 0
    if found:
        first, period, covered = min(found)
        again = words[first + period]
        unit = text[words[first].start : words[first + period - 1].end]
        return Repeat(again.start, words[first + covered - 1].end, unit, covered // period)
    if (run_of := _RUN.search(_NO_PROSE.sub(lambda f: " " * len(f[0]), text))) and len(run_of[0]) >= 12:
        unit = run_of[1] or run_of[2]
        if any(map(str.isalpha, unit)):
            return Repeat(run_of.start() + len(unit), run_of.end(), unit, len(run_of[0]) // len(unit))
    return None


def _periods(lows: Sequence[str]) -> list[int]:
    """The distances at which two words in a row come again: no other can be a loop's. Most texts have none or a few."""
    most = min(LONGEST_PHRASE, len(lows) // 2)
    places: dict[tuple[str, str], list[int]] = {}
    periods: set[int] = set()
    for i, pair in enumerate(pairwise(lows)):
        before = places.setdefault(pair, [])
        for place in reversed(before):
            if i - place > most:
                break
            periods.add(i - place)
        before.append(i)
    return sorted(periods)


def said_again(text: str, least_frac: float = 0.4, times: int = 3) -> Repeat | None:
    """A text of which at least `least_frac` of the words stand in 5-grams that were said before, or a sentence of four
    words or more that is said `times` times. Rae et al. 2021 (Gopher), appendix A, filter pages by such shares."""
    words = _words(text)
    if len(words) < LEAST_WORDS:
        return None
    covered = _covered([w.low for w in words])
    if sum(covered) >= least_frac * len(words):
        first = covered.index(True)
        last = len(covered) - covered[::-1].index(True) - 1
        unit = text[words[first].start : words[min(first + GRAM, last)].end]
        return Repeat(words[first].start, words[last].end, unit, 2)
    seen: dict[str, int] = {}
    place = 0
    for sentence in pieces(_NO_PROSE.sub(lambda f: " " * len(f[0]), text)):
        key = " ".join(_TOKEN.findall(sentence.lower()))
        if key.count(" ") >= 3:
            seen[key] = seen.get(key, 0) + 1
            if seen[key] >= times:
                start = place + len(sentence) - len(sentence.lstrip())
                return Repeat(start, place + len(sentence.rstrip()), sentence.strip(), seen[key])
        place += len(sentence)
    return None


def repeated_frac(text: str) -> float:
    """Share of the words that stand in 5-grams that were said before, 0 to 1; 0 of a short text."""
    words = [word.low for word in _words(text)]
    return sum(_covered(words)) / len(words) if len(words) >= LEAST_WORDS else 0.0


def repeat(text: str) -> Repeat | None:
    """Where a text runs in circles, a `loop` or something `said_again`; None where it does not."""
    return loop(text) or said_again(text)


def _covered(words: Sequence[str]) -> list[bool]:
    """Of each word, whether it stands in a 5-gram that was said before."""
    seen: set[tuple[str, ...]] = set()
    covered = [False] * len(words)
    for i in range(len(words) - GRAM + 1):
        gram = tuple(words[i : i + GRAM])
        if gram in seen and any(not word.isdigit() for word in gram):
            covered[i : i + GRAM] = [True] * GRAM
        seen.add(gram)
    return covered


def without_repeats(text: str, times: int = 3, least_words: int = 6, least_frac: float = 0.4) -> str:
    """The text without its loops and the sentences that only say again what was said; unchanged where it has neither.
    What a loop leaves is ended by the full stop that the phrase had, or would have had."""
    for _ in range(20):
        found = loop(text, times, least_words)
        if found is None:
            break
        rest = text[found.end :]
        head = text[: found.start].rstrip().rstrip(",;:–—-")
        head = head if rest.strip(" .!?\n") else re.sub(r"[\s,;]+(?:and|or|but|so|that|which)\Z", "", head)
        if rest[:1] in (".", "!", "?") and head[-1:] in (".", "!", "?"):
            rest = rest[1:]
        text = f"{head}{'' if not rest or rest[0] in '.,;:!?' else ' '}{rest.lstrip() if rest[:1].isspace() else rest}"
        text = text if text.rstrip()[-1:] in '.!?…"”)。！？' else f"{text.rstrip()}."
    if said_again(text, least_frac, times) is None:
        return text.strip()
    kept, before = [], list[str]()
    for sentence in pieces(text):
        own = _TOKEN.findall(sentence.lower())
        fresh = _covered([*before, *own])[len(before) :]
        if len(own) < GRAM or sum(fresh) < 0.6 * len(own):
            kept.append(sentence)
            before += own
    return "".join(kept).strip()
