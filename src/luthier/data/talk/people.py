"""People of a source under other names: the same person is the same "Person 3" in every channel and every text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

Style = Literal["replace", "invent", "keep"]

COMMON = frozenset(
    """
    admin agent all anyone art august bill bot brook bug chase chat client coach customer dad dan data dawn dev
    drew everyone faith general grace grant guest help home hope iris ivy jack jay joy june justice king lane
    law lead lily mark mason max may me mr mrs ms news nick no none office ops page pat penny person price queen
    ray red rich rob robin rose sales sky smith spring star sue summer support system team temp test tester the
    trip unknown user victor violet will win wood young
    """.split()  # noqa: SIM905
)
"""Names that are words as well: they give a person away only as part of the full name or after an @."""
FIRST = ("Alex", "Sam", "Robin", "Jamie", "Casey", "Taylor", "Jordan", "Morgan", "Riley", "Avery", "Quinn", "Skyler")
LAST = ("Reed", "Carter", "Hayes", "Brooks", "Ellis", "Lawson", "Blake", "Cole", "Parker", "Marsh", "Emery", "Hart")
"""A hundred and forty-four people who do not exist."""
LINK = r"(?:https?|ftp)://\S+|(?<!\w)(?:~|\.{0,2})/[\w./~-]+|\b\w[\w.-]*/[\w.-]+/[\w./~-]+"
"""Links and paths keep the names in them: they would lead nowhere."""


class People:
    """Who stands behind the ids of a source, and what they are called in its examples.

    `known` gives a person's names (real, display, user name, e-mail); unknown ids get a name when they first appear.
    `style` says what they are called: replace ("Person 3"), invent (a made-up name), keep (their own).
    """

    def __init__(self, style: Style = "replace") -> None:
        self.style = style
        self.replaced = 0
        """Names replaced so far."""
        self.numbers: dict[str, int] = {}
        self.names: dict[str, str] = {}
        """id -> the name the person uses."""
        self.surfaces: dict[str, str] = {}
        """A name as texts write it, in lower case -> the person's id."""
        self.handles: set[str] = set()
        """Names of one word that people gave themselves: known in lower case, too."""
        self.pattern: re.Pattern[str] | None = None

    def known(self, person: str, names: Iterable[str | None]) -> None:
        """Says what a person is called; the first name is the one used where names are kept."""
        said = [" ".join(name.split()) for name in names if name and name.strip()]
        self.number(person)
        if said:
            self.names.setdefault(person, said[0])
        for name in said:
            if " " not in name and (len(name) > 4 or not name.isalpha()):
                self.handles.add(name.lower())
            for surface in surfaces(name):
                self.surfaces.setdefault(surface, person)
        self.pattern = None

    def number(self, person: str) -> int:
        """Counts from 1, in order of appearance."""
        return self.numbers.setdefault(person, len(self.numbers) + 1)

    def called(self, person: str) -> str:
        """What a person is called in texts."""
        if self.style == "keep":
            return self.names.get(person, person)
        number = self.number(person)
        if self.style == "invent" and number <= len(FIRST) * len(LAST):
            return f"{FIRST[(number - 1) % len(FIRST)]} {LAST[(number - 1 + (number - 1) // len(FIRST)) % len(LAST)]}"
        return f"Person {number}"

    def clean(self, text: str) -> str:
        """The text with every name of a known person replaced, but in links."""
        if self.style == "keep" or not self.surfaces:
            return text
        if self.pattern is None:
            longest = sorted(self.surfaces, key=lambda surface: (-len(surface), surface))
            either = "|".join(re.escape(surface).replace(r"\ ", r"\s+") for surface in longest)
            self.pattern = re.compile(rf"(?P<link>{LINK})|(?<![\w@.-])@?(?P<name>{either})(?![\w@]|[.-]\w)", re.I)
        return self.pattern.sub(self._replaced, text)

    def _replaced(self, found: re.Match[str]) -> str:
        name = found["name"]
        if name is None:
            return found[0]
        at = "@" if found[0].startswith("@") else ""
        surface = " ".join(name.lower().split())
        if not at and " " not in surface and (surface in COMMON or (name.islower() and surface not in self.handles)):
            return found[0]  # "will", "mark" and "frank" are words unless they are written as names
        self.replaced += 1
        return at + self.called(self.surfaces[surface])


def surfaces(name: str) -> list[str]:
    """The ways in which a text may write a name: whole, and its parts of three letters and more."""
    whole = name.lower()
    parts = [part for part in re.split(r"[^\w'-]+", whole) if len(part) > 2 and not part.isdigit()]
    ways = [whole] if len(whole) > 2 and "@" not in whole else []
    if " " in whole and len(whole.split()) <= 4:
        ways += [part for part in parts if part not in COMMON]
    return list(dict.fromkeys(ways))
