"""Is what an answer claims in its source? Sentence by sentence: values, names, and the words around them.

A sentence is looked for where the source speaks of the same names. Its numbers, dates and quotes must stand there; of
its other words, enough must. This reads words, not meaning: a paraphrase in all other words is called unsupported, and
a claim that turns the source's words round may pass. A judge (`judge_claims`) reads meaning, and is asked where given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from itertools import pairwise
from typing import NamedTuple

from luthier.base.nouns import Ask, Message
from luthier.base.sentences import sentences
from luthier.base.stems import POSSESSIVE, STARTERS, content_words
from luthier.data.text import words_only
from luthier.evals.refusals import declines
from luthier.evals.values import TITLES, Value, mentions, same, values

LEAST_SHARE = 0.6
"""Share of a claim's content words that one place of the source must hold."""
LEAST_BESIDE_VALUES = 0.2
"""The same where a value was found there: then the words around it may be others."""


class Claim(NamedTuple):
    """A sentence of an answer that its sources do not support."""

    text: str
    why: str
    """In words: "114 mm is not in the source"."""
    missing: tuple[str, ...]
    """The values, names or words that were not found, as the answer writes them."""
    share: float
    """Share of its content words that the best place of the source holds."""
    absent: bool = False
    """A number, a date, a quote or a word of a name that stands nowhere in the source: the surest finding. Otherwise
    the source has it of something else, or has not the words."""
    start: int = 0
    """Where the sentence begins in the answer."""

    def spans(self) -> list[tuple[int, int]]:
        """Where what is missing stands in the answer; the whole sentence where nothing can be pointed at."""
        found, at = [], 0
        for piece in self.missing:
            place = self.text.find(piece, at)
            place = self.text.find(piece) if place < 0 else place
            if place >= 0:
                found.append((self.start + place, self.start + place + len(piece)))
                at = place + len(piece)
        return sorted(set(found)) or [(self.start, self.start + len(self.text))]


NO_CLAIM = re.compile(
    r"^(?:thank|thanks|please|sure\b|of course|certainly|absolutely|hello|hi\b|dear|welcome|"
    r"great question|good question|"
    r"i hope|i'm happy|i am happy|i'm glad|i am glad|glad|happy to|you're welcome|let me know|feel free|if you have|"
    r"do not hesitate|don't hesitate|sources?:|i looked|i have looked|here is|here are|best regards|kind regards|"
    r"in summary:?$|have a|good luck|is there anything|anything else)",
    re.IGNORECASE,
)
NEGATION = re.compile(r"\b(?:not|no|never|none|neither|nor|without|cannot|n['’]t|\w+n['’]t)\b", re.IGNORECASE)


def claims(answer: str) -> list[str]:
    """The sentences that state something: no questions, no courtesies, nothing without content."""
    return [
        sentence
        for sentence in sentences(answer)
        if not sentence.rstrip("\"”')").endswith("?")
        and not NO_CLAIM.match(sentence)
        and declines(sentence) is None
        and (stems(sentence) or values(sentence))
    ]


def stems(text: str, without: Sequence[Value] = ()) -> dict[str, str]:
    """Content words by their stem, as they are written; values' own words are left out."""
    return content_words(text, {word for value in without for word in words_only(value.text).split()})


class Place(NamedTuple):
    """One sentence of a source with what it is about."""

    text: str
    about: frozenset[str]
    values: tuple[Value, ...]
    stems: frozenset[str]


ASIDE = re.compile(
    r"(?:with|in|at|for|on|by|from|under|after|before|since|to|near|it|its|he|she|his|her|they|their|we|our|this)\b",
    re.IGNORECASE,
)
"""How a sentence begins whose first name is not what it is about."""


class Topic(NamedTuple):
    """What a sentence is about: the names it speaks of, its own and those that the ones before it left standing."""

    about: frozenset[str]
    left: frozenset[str]


def topic_of(sentence: str, known: Sequence[str], before: frozenset[str]) -> Topic:
    """A sentence that begins with a name changes the topic; one that begins otherwise ("It", "With Henrik she") keeps
    it, and is about the names in it as well."""
    named = frozenset(name for name in known if mentions(sentence, name))
    first = " ".join(sentence.split()[:4])
    leading = frozenset(name for name in named if mentions(first, name))
    if leading and not ASIDE.match(sentence):
        return Topic(named, leading)
    return Topic(named | before, before or leading)


def places(sources: Sequence[str], known: Sequence[str]) -> list[Place]:
    """The sentences of the sources, each with what it is about."""
    found: list[Place] = []
    for source in sources:
        left: frozenset[str] = frozenset()
        for sentence in sentences(source):
            about, left = topic_of(sentence, known, left)
            found.append(Place(sentence, about, tuple(values(sentence)), frozenset(stems(sentence))))
    return found


def unsupported(
    answer: str, sources: Sequence[str], question: str = "", least_share: float = LEAST_SHARE
) -> list[Claim]:
    """The claims of an answer that its sources do not hold, in the answer's order. Names that the question gives are
    given, its numbers are not. Without any source every claim is unsupported."""
    asked = names_of(question)
    known = list(dict.fromkeys([*asked, *names_of(answer), *(name for text in sources for name in names_of(text))]))
    known += subjects(answer, sources)
    there = places(sources, known)
    found: list[Claim] = []
    left = frozenset(name for name in known if mentions(question, name))
    at = 0
    for sentence in claims(answer):
        _, left = topic_of(sentence, known, left)
        at = answer.index(sentence, at)
        if (problem := judged(sentence, left, asked, there, least_share)) is not None:
            found.append(problem._replace(start=at))
        at += len(sentence)
    return found


def names_of(text: str) -> list[str]:
    """The names in a text."""
    return [value.text for value in values(text) if value.kind == "name"]


def subjects(answer: str, sources: Sequence[str]) -> list[str]:
    """First words of an answer's sentences that the sources write in capitals elsewhere: names after all."""
    first = {match[0] for sentence in sentences(answer) if (match := re.match(r"[A-ZÀ-Þ]\w+", sentence))}
    return [
        word
        for word in sorted(first)
        if word.casefold() not in STARTERS and any(re.search(rf"[a-z,] {word}\b", source) for source in sources)
    ]


def judged(
    sentence: str, topic: frozenset[str], asked: Sequence[str], there: Sequence[Place], least_share: float
) -> Claim | None:
    """What is wrong with one claim about these names; None where a source supports it."""
    said = values(sentence)
    names = [value for value in said if value.kind == "name"]
    hard = [value for value in said if value.kind != "name"]
    words = stems(sentence, said)
    whole = not names and len(words) > 1
    near = [p for p in there if p.about & topic or (whole and held(words, p) >= least_share)] or list(there)
    best = max([0.0, *(held(words, *some) for some in together(near, there))])
    of = listed(sorted(topic & frozenset().union(*(place.about for place in near)))) if near else ""
    others = [n for n in names if n.text not in topic]

    def lost(missing: Sequence[str], why: str, absent: bool = False) -> Claim:
        return Claim(sentence, why, tuple(missing), best, absent)

    nowhere = [value for value in said if not any(same_in(value, place) for place in there)]
    if missing := [value.text for value in nowhere if value.kind != "name" or value.text not in asked]:
        told = frozenset(words_only(" ".join([*asked, *(place.text for place in there)])).split())
        sure = any(value.kind != "name" or strange(value.text, told) for value in nowhere if value.text in missing)
        return lost(missing, f"{listed(missing)} {is_are(missing)} not in the source", absent=sure)
    if missing := [v.text for v in [*hard, *others] if not any(same_in(v, p) for p in near) and v.text not in asked]:
        return lost(missing, f"the source does not say {listed(missing)}{f' of {of}' if of else ''}")
    if len(words) > 2 and (missing := [v.text for v in hard if beside(v, words, near, there) < LEAST_BESIDE_VALUES]):
        return lost(missing, f"the source says {listed(missing)} of something else")
    parts = [part for clause in re.split(r",? and |; |, but ", sentence) if len(part := stems(clause, said)) > 1]
    parts = [part for part in parts if max([0.0, *(held(part, *some) for some in together(near, there))]) < 0.5]
    if (not hard and words and best < least_share) or (parts and len(words) > 2 and not hard):
        new = [word for key, word in words.items() if not any(key in place.stems for place in near)]
        where = " together" if not new else f" of {of}" if of else ""
        return lost(
            new or list(words.values()), f"the source does not say {listed(new or list(words.values()))}{where}"
        )
    turned = [place for place in near if held(words, place) >= 0.8 and len(words) >= 2]
    if turned and all(negated(place.text) != negated(sentence) for place in turned):
        return lost((), "the source says the opposite")
    return None


def strange(name: str, told: Collection[str]) -> bool:
    """Whether a name has a word that is not told anywhere; "Mayor of Paris" where Paris has a mayor has none."""
    words = [
        word for word in words_only(POSSESSIVE.sub("", name)).split() if word not in TITLES and word not in STARTERS
    ]
    return any(word not in told and word.removesuffix("s") not in told for word in words)


def beside(value: Value, words: dict[str, str], near: Sequence[Place], there: Sequence[Place]) -> float:
    """The largest share of a claim's words that stands where its value does."""
    return max(
        (held(words, *some) for some in together(near, there) if any(same_in(value, p) for p in some)), default=0
    )


def held(words: dict[str, str], *at: Place) -> float:
    """Share of the words that the places hold together; 1 where there is no word."""
    there = frozenset().union(*(place.stems for place in at))
    return sum(key in there for key in words) / len(words) if words else 1.0


def together(near: Sequence[Place], there: Sequence[Place]) -> list[tuple[Place, ...]]:
    """Each place, and any two that follow each other."""
    kept = set(map(id, near))
    pairs = [(a, b) for a, b in pairwise(there) if id(a) in kept and id(b) in kept]
    return [*((place,) for place in near), *pairs]


def same_in(value: Value, place: Place) -> bool:
    """Whether a place of the source holds a value."""
    if value.kind == "name":
        return mentions(place.text, value.text)
    if value.kind == "quote":
        return f" {words_only(value.text)} " in f" {words_only(place.text)} "
    return any(same(value, given) for given in place.values)


def negated(text: str) -> bool:
    """Whether a sentence denies; "No, it was removed" does not."""
    return NEGATION.search(re.sub(r"^(?:no|yes)\b\W+", "", text.strip(), flags=re.IGNORECASE)) is not None


def listed(words: Sequence[str]) -> str:
    """'a, b and c'"""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else list(words))


def is_are(words: Sequence[str]) -> str:
    return "are" if len(words) > 1 else "is"


JUDGE = """Source:
{source}

Claim: {claim}

Does the source support the claim? Answer with one word: yes or no."""


def judge_claims(ask: Ask, pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
    """Whether each (claim, source) holds, in the eyes of whoever `ask` reaches; None where it gave no verdict."""
    replies = ask([[Message("user", JUDGE.format(source=source, claim=claim))] for claim, source in pairs])
    found: list[bool | None] = []
    for reply in replies:
        said = re.match(r"\W*(yes|no)\b", reply.text, re.IGNORECASE) if reply.error is None else None
        found.append(None if said is None else said[1].lower() == "yes")
    return found


Verdict = Callable[[str, str], float]
"""(claim, source) -> how sure it is that the source supports the claim, 0 to 1: an NLI model, say."""


def passages(documents: Sequence[str], words: int = 120) -> list[str]:
    """Documents in pieces of whole sentences, of about so many words each."""
    found: list[str] = []
    for document in documents:
        piece: list[str] = []
        for sentence in sentences(document):
            if piece and sum(len(part.split()) for part in piece) + len(sentence.split()) > words:
                found.append(" ".join(piece))
                piece = []
            piece.append(sentence)
        found += [" ".join(piece)] if piece else []
    return found
