"""What a text states that can be looked up: numbers with their units, times, dates, names, quoted words.

Two ways to write one value are one value: "1,200 g" and "1.2 kg", "seven years" and "7 years", "21 November 2025" and
"2025-11-21". Plain rules for English text; what they miss is measured in the tests.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from luthier.base.sentences import ABBREVIATED
from luthier.base.stems import POSSESSIVE, STARTERS
from luthier.data.text import words_only

Kind = Literal["number", "date", "name", "quote"]


class Value(NamedTuple):
    """One value as it stands in a text, and what it is compared by."""

    kind: Kind
    text: str
    start: int
    amount: float = math.nan
    """Of a number, in the base unit of its dimension (metres, grams, seconds, minutes since midnight …)."""
    dimension: str = ""
    """"m", "g", "s", "%", "clock" …; "count" where a number counts things; "" for one that stands alone."""
    day: tuple[int | None, int | None, int | None] = (None, None, None)
    """Of a date: year, month, day; None where it does not say."""
    size: float = math.nan
    """Of a number, as it is written, whatever its unit."""
    about: bool = False
    """"about 3,000": near is enough."""


_SCALES: dict[str, dict[str, float]] = {
    "m": {"mm": 1e-3, "millimetre": 1e-3, "millimeter": 1e-3, "cm": 1e-2, "centimetre": 1e-2, "centimeter": 1e-2,
          "m": 1, "metre": 1, "meter": 1, "km": 1e3, "kilometre": 1e3, "kilometer": 1e3, "inch": 0.0254,
          "inches": 0.0254, "ft": 0.3048, "foot": 0.3048, "feet": 0.3048, "mile": 1609.344, "yard": 0.9144},
    "g": {"mg": 1e-3, "milligram": 1e-3, "g": 1, "gram": 1, "kg": 1e3, "kilogram": 1e3, "kilo": 1e3,
          "tonne": 1e6, "ton": 1e6, "lb": 453.59237, "pound": 453.59237, "ounce": 28.349523, "oz": 28.349523},
    "s": {"ms": 1e-3, "millisecond": 1e-3, "s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600,
          "hr": 3600, "hour": 3600, "day": 86400, "week": 604800},
    "month": {"month": 1, "year": 12, "decade": 120, "century": 1200, "centuries": 1200},
    "l": {"ml": 1e-3, "millilitre": 1e-3, "milliliter": 1e-3, "l": 1, "litre": 1, "liter": 1},
    "b": {"byte": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "megabyte": 1e6, "gigabyte": 1e9, "terabyte": 1e12},
    "w": {"w": 1, "watt": 1, "kw": 1e3, "kilowatt": 1e3, "mw": 1e6, "megawatt": 1e6},
    "v": {"v": 1, "volt": 1},
    "°": {"°": 1, "°c": 1, "degree": 1, "degrees celsius": 1},
    "%": {"%": 1, "percent": 1, "per cent": 1},
    "$": {"$": 1, "usd": 1, "dollar": 1, "us$": 1},
    "€": {"€": 1, "eur": 1, "euro": 1},
    "£": {"£": 1, "gbp": 1},
}  # fmt: skip
UNITS = {unit: (dimension, scale) for dimension, units in _SCALES.items() for unit, scale in units.items()}
MONTHS = ["january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
          "december"]  # fmt: skip
_SMALL = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
          "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_WORDS = {word: n for n, word in enumerate(_SMALL)} | {word: 10 * (n + 2) for n, word in enumerate(_TENS)}
_POWERS = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_NUMBER_WORD = "|".join(sorted([*_WORDS, *_POWERS], key=len, reverse=True))
NUMBER = re.compile(
    rf"""(?P<about>\b(?:about|around|roughly|nearly|almost|approximately|some|over|more\ than|~)\s*)?
    (?P<money>[$€£]\s?)?
    (?:(?<![\w.,:])(?P<clock>(?:[01]?\d|2[0-3]):[0-5]\d)(?![\d:])
      |(?<![\w.])(?P<digits>[-−]?(?:\d{{1,3}}(?:,\d{{3}})+(?!\d)|\d+)(?:\.\d+)?)
      |\b(?P<words>(?:{_NUMBER_WORD})(?:(?:[\s-]|\s+and\s+)(?:{_NUMBER_WORD}))*)\b)
    (?:\s*(?P<power>hundred|thousand|million|billion)\b)?
    (?P<after>\s?(?:%|°[cC]?|[ap]\.?m\b\.?|o'clock)|[\s-]?(?:per\s?cent|degrees\s+celsius|[A-Za-z$€£]+))?""",
    re.VERBOSE | re.IGNORECASE,
)
_MONTH = rf"(?P<month>{'|'.join(MONTHS)}|{'|'.join(m[:3] for m in MONTHS)})\.?"
DATES = [
    re.compile(r"(?<!\d)(?P<year>\d{4})-(?P<m>\d\d)-(?P<day>\d\d)(?!\d)"),
    re.compile(r"(?<!\d)(?P<day>\d{1,2})\.\s?(?P<m>\d{1,2})\.\s?(?P<year>\d{4})(?!\d)"),
    re.compile(rf"(?<!\d)(?P<day>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTH}(?:,?\s+(?P<year>\d{{4}}))?\b", re.I),
    re.compile(rf"\b{_MONTH}\s+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?\b(?:,?\s+(?P<year>\d{{4}})\b)?", re.IGNORECASE),
    re.compile(rf"\b{_MONTH},?\s+(?P<year>\d{{4}})\b", re.IGNORECASE),
    re.compile(rf"\b(?:in|since|until|during|of|by)\s+{_MONTH}(?!\w)", re.IGNORECASE),
]
QUOTE = re.compile(r"[\"“]([^\"“”\n]{2,200})[\"”]")
FILE = re.compile(
    r"(?<![\w.])(?:https?://\S+[\w/]|[\w.+-]+@[\w-]+(?:\.[\w-]+)+|[\w-]+(?:/[\w-]+)*\.[a-z]{2,5}(?:\.[a-z]{2,5})?)\b"
)
"""A file, an address: letters that are looked up whole."""
_UNIT = "|".join(f"{re.escape(unit)}s?" for unit in sorted(UNITS, key=len, reverse=True))
_CAPITAL = r"[A-ZÀ-ÖØ-Þ][\w'’&-]*"
NAME = re.compile(
    rf"{_CAPITAL}(?:\s+(?:(?:of|de|van|von|der|du|la|le)\s+(?:the\s+)?)?(?:{_CAPITAL}|\d+\b(?![.,:]\d|\s?(?:{_UNIT})\b)))*"
)
"""Capitalised words, and numbers behind them that have no unit: "Corvus 90", but "Ask 14 days ahead"."""
TITLES = frozenset({"mr", "mrs", "ms", "miss", "dr", "prof", "professor", "sir", "lady", "st", "the", "a", "an"})


def values(text: str) -> list[Value]:
    """Every value of a text, in order of where it stands."""
    found: list[Value] = []
    taken: list[tuple[int, int]] = []
    for pattern in DATES:
        for match in pattern.finditer(text):
            if free(match.span(), taken) and (date := date_of(match)) is not None:
                found.append(date)
                taken.append(match.span())
    for match in QUOTE.finditer(text):
        found.append(Value("quote", match[1].strip(" .,;:!?"), match.start()))
    for match in FILE.finditer(text):
        found.append(Value("quote", match[0], match.start()))
        taken.append(match.span())
    for match in NUMBER.finditer(text):
        if free(match.span(), taken) and not enumerates(text, match) and (number := number_of(match)) is not None:
            found.append(number)
    found += [name for name in names(text) if free((name.start, name.start + len(name.text)), taken)]
    return sorted(found, key=lambda value: value.start)


def free(span: tuple[int, int], taken: Iterable[tuple[int, int]]) -> bool:
    """Whether a span overlaps none that is taken."""
    return all(span[1] <= start or span[0] >= end for start, end in taken)


def enumerates(text: str, match: re.Match[str]) -> bool:
    """Whether a number only counts a list's lines: "2." or "2)" at the beginning of one."""
    start = match.start("digits")
    line = text[text.rfind("\n", 0, max(start, 0)) + 1 : max(start, 0)]
    return match["digits"] is not None and not line.strip() and text[match.end("digits") :][:1] in (".", ")") and (
        text[match.end("digits") + 1 :][:1] in (" ", "\t")
    )  # fmt: skip


def date_of(match: re.Match[str]) -> Value | None:
    """The date of a match; None where there is no such day."""
    said = match.groupdict()
    month = MONTHS.index(next(m for m in MONTHS if m.startswith(said["month"].lower()))) + 1 if said.get("month") else 0
    month = month or int(said["m"])
    day = int(said["day"]) if said.get("day") else None
    year = int(said["year"]) if said.get("year") else None
    if not 1 <= month <= 12 or (day is not None and not 1 <= day <= 31):
        return None
    return Value("date", match[0].strip(), match.start(), day=(year, month, day))


def number_of(match: re.Match[str]) -> Value | None:
    """The number of a match with its unit; None for "one", which is mostly a pronoun, without a unit."""
    after = (match["after"] or "").strip(" -").lower().rstrip(".")
    half = {"am": 0, "a.m": 0, "pm": 12, "p.m": 12, "o'clock": 0}
    at = match.start() if match["about"] is None else match.end("about")
    if match["clock"] is not None or (match["digits"] is not None and after in half):
        hours, _, minutes = (match["clock"] or match["digits"]).partition(":")
        amount = (int(hours) % 12 + half[after] if after in half and after != "o'clock" else int(hours)) * 60
        end = match.end() if after in half else match.end("clock")
        return Value("number", match.string[at:end].strip(), at, amount + int(minutes or 0), "clock", size=float(hours))
    size = float(match["digits"].replace(",", "").replace("−", "-")) if match["digits"] else in_words(match["words"])
    size *= _POWERS.get((match["power"] or "").lower(), 1)
    unit = UNITS.get(after) or UNITS.get(after.removesuffix("s")) or UNITS.get((match["money"] or "").strip())
    if unit is None and match["words"] is not None and match["words"].lower() in ("one", "zero"):
        return None
    end = match.end() if unit and after else match.start("after") if match["after"] else match.end()
    text = match.string[at:end].strip()
    dimension, scale = unit or ("count" if after and after not in STARTERS else "", 1.0)
    return Value("number", text, at, size * scale, dimension, size=size, about=match["about"] is not None)


def in_words(words: str) -> float:
    """ "three hundred and five" -> 305"""
    total = current = 0
    for word in re.findall(r"[a-z]+", words.lower()):
        if word in _WORDS:
            current += _WORDS[word]
        elif word == "hundred":
            current = max(current, 1) * 100
        elif word in _POWERS:
            total, current = total + max(current, 1) * _POWERS[word], 0
    return float(total + current)


def names(text: str) -> list[Value]:
    """Capitalised words that belong together. One word at the beginning of a sentence is capitalised whatever it is:
    it is a name where it has a capital or a digit further in, or stands capitalised elsewhere in the text too."""
    found: list[Value] = []
    for match in NAME.finditer(text):
        words, start = match[0].split(), match.start()
        before = text[:start].rstrip()
        begins = not before or before[-1] in "!?:•*" or "\n" in text[len(before) : start]
        begins = begins or (before.endswith(".") and not ABBREVIATED.search(before))
        while words and words[0].lower().rstrip("'’") in STARTERS:
            start, words = start + len(words[0]) + 1, words[1:]
            begins = False
        words = [re.sub(r"['’]s?$", "", word) for word in words]
        name = " ".join(words)
        if (
            not name
            or name.lower() in TITLES
            or name.lower() in MONTHS
            or name in ("I", "OK")
            or re.match(r"I['’]", name)
        ):
            continue
        inside = any(c.isupper() or c.isdigit() for c in name[1:])
        if begins and not inside and not re.search(rf"(?<![.!?:\n•*])[ ,(]{re.escape(name)}\b", text):
            continue
        found.append(Value("name", name, start))
    return found


def same(said: Value, given: Value) -> bool:
    """Whether what is said is what is given. Less precise is still the same: "in November 2025" of 21 November 2025;
    "about 3,000" of 2,987; a number alone of one with a unit."""
    if said.kind == "date" and given.kind == "date":
        return all(a is None or a == b for a, b in zip(said.day, given.day, strict=True))
    if said.kind == "number" and given.kind == "date":  # a year
        return said.dimension in ("", "count") and said.size == given.day[0]
    if said.kind == "number" and given.kind == "number":
        alone = "" in (said.dimension, given.dimension)
        ours, theirs = (said.size, given.size) if alone else (said.amount, given.amount)
        near = 0.05 * abs(theirs) if said.about else 1e-9 * max(1.0, abs(theirs))
        return (alone or said.dimension == given.dimension) and abs(ours - theirs) <= near
    return said.kind == given.kind and words_only(said.text) == words_only(given.text)


def written(value: Value) -> str:
    """A number or a date in the one way that all its ways have in common: "114 mm" is "0.114 m"."""
    if value.kind == "date":
        return "y{}m{}d{}".format(*(part or 0 for part in value.day))
    if value.dimension == "clock":
        hours, minutes = divmod(round(value.amount), 60)
        return f"{hours}:{minutes:02}"
    if value.dimension in ("", "count"):
        return f"{value.size:.12g}"
    return f"{value.amount:.12g} {value.dimension}"


def mentions(text: str, name: str) -> bool:
    """Whether a text holds a name's words in their order, whatever its capitals; titles such as Dr do not matter."""
    words = [word for word in words_only(name).split() if word not in TITLES]
    return not words or f" {' '.join(words)} " in f" {words_only(POSSESSIVE.sub('', text))} "
