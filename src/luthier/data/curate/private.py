"""Private things in texts: found by rules, replaced the same way everywhere, counted, a sample kept for review.

Nothing leaves the machine for it. What is replaced, and what is not, is in docs/data-talk.md with measured rates.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, Literal

from luthier.base.nouns import Chat, Choice, Example, Labelled, Message, Pair, Rejected, Text
from luthier.base.source import Source
from luthier.data.curate import hints
from luthier.data.curate.patterns import URL, Finding, cards, emails, ibans, ips, keys, ssns
from luthier.data.talk.people import People

Style = Literal["replace", "invent", "keep", "refuse"]
SAMPLES = 5
"""Found things kept for review, of each kind."""
WORDS = {
    "email": "e-mail addresses", "phone": "phone numbers", "card": "payment cards", "iban": "bank accounts (IBAN)",
    "ssn": "social security numbers", "ip": "internet addresses", "key": "keys, tokens and passwords", "name": "names",
}  # fmt: skip
KEPT = ("licence", "license", "made", "generator", "terms", "date", "steps", "signals", "answer_ts")
"""Columns of a row's meta in which nothing is replaced."""

STRONG = re.compile(
    r"(?<![A-Za-z0-9.+$€£/=#-])(?:\+?1[ .-]?)?\([2-9]\d\d\)[ .-]?\d{3}[ .-]\d{4}(?![A-Za-z0-9-]|\.\d)"
    r"|(?<![A-Za-z0-9.+$€£/=#-])(?:\+?1[ .-])?[2-9]\d\d([.-])[2-9]\d\d\1\d{4}(?![A-Za-z0-9-]|\.\d)"
)
"""Written as people in North America write one."""
WORLDWIDE = re.compile(r"(?<![\w+@/=.-])\+[1-9](?:[ ()./-]{0,2}\d){6,14}(?![\w-]|\.\d)")
LED = re.compile(
    r"\b(?:phone|tel|telephone|mobile|cell|fax|whatsapp|sms|hotline|call(?: me| us)?(?: at| on)?|text me(?: at| on)?|"
    r"dial|ring(?: me| us)?(?: at| on)?|handy|telefon|reach (?:me|us) (?:at|on))"
    r"(?: (?:number|no\.?|is|at|on))*\s{0,3}[:.#]{0,2}\s{0,3}"
    r"(?P<number>\+?\(?\d(?:[ ()/-]{0,2}\d){6,14})(?![\w-]|[.,]\d)",
    re.I,
)
"""Any digits after a word that says what they are."""
FICTION = re.compile(r"555-?01\d\d$")
"""Numbers that North America keeps for novels and films."""


def phones(text: str) -> Iterator[Finding]:
    """Phone numbers: with a country's prefix, as North America writes them, or after a word that says so. Where
    `phonenumbers` is installed, it decides on those with a prefix; links keep their digits."""
    if not hints.phone(text):
        return
    links = [found.span() for found in URL.finditer(text)] if "://" in text else []
    ways = ((STRONG, 0), (LED, "number"))
    for pattern, group in ((WORLDWIDE, 0), *ways) if "+" in text else ways:
        for found in pattern.finditer(text):
            start, end = found.span(group)
            said = text[start:end]
            digits = re.sub(r"\D", "", said)
            if FICTION.search(digits) or len(set(digits)) < 3 or any(a <= start < b for a, b in links) or is_date(said):
                continue
            if said.startswith("+") and not (8 <= len(digits) <= 15 and possible(said)):
                continue
            yield Finding("phone", start, end, digits.removeprefix("1") if len(digits) == 11 else digits)


def is_date(said: str) -> bool:
    """Whether digits are a date or a range of years: 2019-01-02, 1999-2003."""
    return bool(re.match(r"(?:19|20)\d\d[-/. ](?:(?:19|20)\d\d|[01]?\d[-/. ][0-3]?\d)\b", said))


def possible(said: str) -> bool:
    """Whether a number with a country's prefix can be one; True where nobody can tell."""
    if find_spec("phonenumbers") is None:
        return True
    import phonenumbers

    try:
        return phonenumbers.is_possible_number(phonenumbers.parse(said, None))
    except phonenumbers.NumberParseException:
        return False


KINDS: dict[str, Callable[[str], Iterator[Finding]]] = {
    "key": keys,
    "email": emails,
    "iban": ibans,
    "card": cards,
    "ssn": ssns,
    "ip": ips,
    "phone": phones,
}
"""Kind -> what finds it, in the order in which they are asked: of two findings that overlap, the first one counts."""
WRITTEN = re.compile(rf"\[({'|'.join(KINDS)}) (\d{{1,9}})\]")
"""A placeholder."""


def invented(kind: str, number: int) -> str | None:
    """A made-up thing that belongs to nobody, by the ranges kept for examples (RFC 2606, RFC 5737, 555-01xx); None:
    there are none left, or none of the kind."""
    if kind == "email":
        return f"person{number}@example.com"
    if kind == "phone" and number <= 100:
        return f"(212) 555-{number + 99:04d}"
    if kind == "ip" and number <= 250:
        return f"192.0.2.{number}"
    return None


class Private:
    """Finds and replaces private things; the same thing becomes the same placeholder for as long as it lives.

    `names` are people to look for, each by itself, or {name: who it is} where several names are one person's. `style`
    is what `handle` does: replace ([email 1]), invent (a made-up one where there is one), keep (count), refuse.
    `by_row` begins anew with every example, for rows that are read in no fixed order.
    """

    def __init__(
        self,
        kinds: Iterable[str] = tuple(KINDS),
        names: Mapping[str, str] | Sequence[str] = (),
        style: Style = "replace",
        by_row: bool = False,
    ) -> None:
        wanted = set(kinds)
        self.kinds = tuple(kind for kind in KINDS if kind in wanted)
        self.style = style
        self.by_row = by_row
        self.numbers: dict[tuple[str, str], int] = {}
        self.last: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        """Kind -> how many times it was found."""
        self.rows: Counter[str] = Counter()
        """Kind -> examples that hold it."""
        self.samples: dict[str, list[str]] = {}
        """Kind -> some of what was found, in its context, for review."""
        self.people = People("invent" if style == "invent" else "replace")
        for name in names:
            self.people.known(names[name] if isinstance(names, Mapping) else name, [name])

    def handle(self, example: Example) -> Example | Rejected:
        """What the style says: the example clean, as it is (counted), or Rejected for what it holds."""
        if self.style in ("replace", "invent"):
            return self.clean_example(example)
        held = self.look(example)
        if held and self.style == "refuse":
            return Rejected(example.origin, f"holds private things: {said(held)}", aside=True)
        return example

    def holds(self, example: Example) -> bool:
        """Whether anything is to be found in an example, or in what its row said beside. Changes nothing."""
        return any(map(self.find, texts_of(example, meta=True)))

    def held(self, example: Example) -> list[str]:
        """The kinds that an example holds, not counted."""
        return list(dict.fromkeys(finding.kind for text in texts_of(example) for finding in self.find(text)))

    def reserve(self, texts: Iterable[str]) -> None:
        """Numbers that stand in some texts already are not given again: who wrote them meant something else."""
        for text in texts:
            for kind, number in WRITTEN.findall(text) if "[" in text else ():
                self.last[kind] = max(self.last[kind], int(number))

    def silent(self) -> Private:
        """Another one with the same placeholders, and counts of its own: for what rows are compared with."""
        twin = Private(self.kinds, style=self.style)
        twin.numbers, twin.last = self.numbers, self.last
        return twin

    def find(self, text: str) -> list[Finding]:
        """What is private in a text, by place, without overlaps."""
        taken: list[Finding] = []
        for kind in self.kinds:
            for finding in KINDS[kind](text):
                if all(finding.end <= other.start or other.end <= finding.start for other in taken):
                    taken.append(finding)
        return sorted(taken, key=lambda finding: finding.start)

    def clean(self, text: str) -> str:
        """The text with all that is found replaced. What comes to light only then is replaced, too: nothing that would
        be found is left."""
        while found := self.find(text):
            parts, end = [], 0
            for finding in found:
                parts += [text[end : finding.start], self.placeholder(finding.kind, finding.value)]
                end = finding.end
                self.count(finding, text, found)
            text = "".join([*parts, text[end:]])
        cleaned = self.people.clean(text)
        if cleaned != text:
            self.counts["name"] = self.people.replaced
        return cleaned

    def count(self, finding: Finding, text: str, among: Sequence[Finding]) -> None:
        """Counts a finding, and keeps some for review: what stood there, and beside it, only as its shape."""
        self.counts[finding.kind] += 1
        kept = self.samples.setdefault(finding.kind, [])
        if len(kept) < SAMPLES:
            for one in among:
                text = text[: one.start] + shape(text[one.start : one.end]) + text[one.end :]
            kept.append(" ".join(text[max(0, finding.start - 30) : finding.end + 30].split()))

    def placeholder(self, kind: str, value: str) -> str:
        """What is written in the place of a thing: the same for the same thing."""
        if (kind, value) not in self.numbers:
            self.last[kind] += 1
            self.numbers[kind, value] = self.last[kind]
        number = self.numbers[kind, value]
        return (invented(kind, number) if self.style == "invent" else None) or f"[{kind} {number}]"

    def look(self, example: Example) -> list[str]:
        """The kinds that an example holds, counted as `clean_example` would."""
        held: dict[str, None] = {}
        for text in texts_of(example):
            found = self.find(text)
            for finding in found:
                held[finding.kind] = None
                self.count(finding, text, found)
        self.rows.update(held.keys())
        return list(held)

    def clean_example(self, example: Example) -> Example:
        """The example with every text of it clean, and what its row said beside (meta)."""
        if self.by_row:
            self.numbers, self.last = {}, Counter()
        before = self.counts.copy()
        cleaned = mapped(example, self.clean)
        self.rows.update((self.counts - before).keys())
        return cleaned

    def notes(self, name: str) -> list[str]:
        """What was found in the source of this name, in words."""
        if not self.counts:
            return []
        found = ", ".join(f"{count:,} {WORDS[kind]}" for kind, count in self.counts.most_common())
        done = {"replace": "replaced", "invent": "replaced by made-up ones", "refuse": "in rows that were left out"}
        kept = f"left as they are; data.{name}.private: replace would replace them"
        return [f"private things: {found}, {done.get(self.style, kept)}"]


def private_of(source: Source, talk: bool) -> Private | None:
    """What a source's setting asks for; without one, talk between people is cleaned, all else only counted. A streamed
    source is counted by nobody: None."""
    style: Style = source.private or ("replace" if talk else "keep")
    return None if source.stream and style == "keep" else Private(style=style, by_row=source.stream)


def shape(text: str) -> str:
    """What a private thing looks like, and no more: its first character, and what is no letter or digit."""
    return text[:1] + re.sub(r"[^\W_]", "•", text[1:])


def said(kinds: Iterable[str]) -> str:
    """Kinds in words."""
    return " and ".join(WORDS[kind] for kind in kinds)


def texts_of(example: Example, meta: bool = False) -> list[str]:
    """Every text that a model is shown of an example; with what its row said beside, if wanted."""
    texts: list[str] = []

    def heard(text: str) -> str:
        texts.append(text)
        return text

    mapped(example, heard, meta)
    return texts


def mapped(example: Example, change: Callable[[str], str], meta: bool = True) -> Example:
    """The example with a change made to each of its texts."""

    def messages(turns: Sequence[Message]) -> tuple[Message, ...]:
        return tuple(Message(turn.role, change(turn.content)) for turn in turns)

    match example:
        case Text(text):
            example = replace(example, text=change(text))
        case Chat(turns, accept=accept):
            example = replace(example, messages=messages(turns), accept=tuple(map(change, accept)))
        case Pair(prompt, chosen, rejected):
            example = replace(example, prompt=messages(prompt), chosen=change(chosen), rejected=change(rejected))
        case Labelled(prompt, answer):
            example = replace(example, prompt=messages(prompt), answer=change(answer))
        case Choice(context, options):
            return replace(example, context=change(context), options=tuple(map(change, options)))
    if meta and example.meta is not None:
        return replace(example, meta={k: v if k in KEPT else inside(v, change) for k, v in example.meta.items()})
    return example


def inside(value: Any, change: Callable[[str], str]) -> Any:
    """A value in JSON's types with a change made to each text in it."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list | tuple):
        return [inside(item, change) for item in value]
    if isinstance(value, Mapping):
        return {key: inside(item, change) for key, item in value.items()}
    return value
