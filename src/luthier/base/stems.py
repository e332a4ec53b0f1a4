"""Words that mean something, by their stem: what two texts that speak of one thing share. Plain rules for English."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache

STARTERS = frozenset(
    re.findall(
        r"\w+",
        """a about above according after again all also although an and another any anyone as at because before below
    besides between both but by can certainly could currently dear did do does during each either even every everyone
    finally first for from further generally great hello here hi how however i if in indeed instead is it its just last
    later let like many may maybe more moreover most much my neither next no none nor not note nothing now of often on
    once one only or other our out over overall people perhaps please rather second several she should similarly since
    so some sometimes soon still such sure thank thanks that the their them then there therefore these they third this
    those though through thus to today together tomorrow under unfortunately unless unlike until up usually was we well
    were what when where whether which while who whose why will with within without would yes yesterday yet you your he
    his her""",
    )
)
"""Words that begin a sentence in capitals and are no names."""
POSSESSIVE = re.compile(r"['’]s\b")
STOP = STARTERS | frozenset(
    re.findall(
        r"\w+",
        """am are been being be had has have having did doing done being go goes going got get gets getting make makes
    made own than too very s t d ll re ve m per via off over under into onto upon away back there me him us them
    his our could might must shall should would just even ever also much such same own""",
    )
)
"""Words that mean nothing by themselves."""


@lru_cache(maxsize=50_000)
def stem(word: str) -> str:
    """A word without its commonest endings: "grinds", "grinding" and "ground" are two stems, not three."""
    for ending, put in (
        ("ies", "y"),
        ("ing", ""),
        ("edly", ""),
        ("ed", ""),
        ("es", ""),
        ("s", ""),
        ("ly", ""),
        ("e", ""),
    ):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not (ending == "s" and word.endswith("ss")):
            return word[: len(word) - len(ending)] + put
    return word


def content_words(text: str, without: Collection[str] = ()) -> dict[str, str]:
    """Words that mean something by their stem, as they are written; of several with one stem the last. Those of
    `without` (without case) are left out."""
    words = re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)*", POSSESSIVE.sub("", text))
    low = [word.casefold() for word in words]
    return {
        stem(plain): word
        for word, plain in zip(words, low, strict=True)
        if plain not in STOP and plain not in without and len(word) > 1
    }
