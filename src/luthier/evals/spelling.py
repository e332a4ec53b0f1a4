"""Misspelt words, by a dictionary. Never by what a model was trained on: sloppy data would hide its own mistakes."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.resources import files
from typing import NamedTuple

from spellchecker import SpellChecker

from luthier.base.errors import UserError, did_you_mean

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_NO_PROSE = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]+`|https?://\S+|www\.\S+|\S+@\S+|\$[^$\n]{1,200}\$|<[^<>\s][^<>]*>"
    r"|\S*[\\/_@#=(){}\[\]|~^*+]\S*[\w]\S*|\S*\w[\\/_=(){}\[\]|~^+]\S*"  # paths, identifiers, formulas, markup
    r"|\S*\w\.\w{2,}\S*",  # file.ext, module.name, domain.tld
    re.DOTALL,
)
"""What is written by other rules than a dictionary's."""
_SENTENCE_END = re.compile(r"[.!?:;…\n\"“”‘(*•\-–—]\s*\Z|\A\s*\Z")
_FREQUENT = {3: 200_000, 4: 100_000, 5: 3_000}
"""Occurrences (of some 2·10⁹ words) that a word must have for an unknown one of so many letters to be taken for it
misspelt. Short unknown words are mostly units, names and abbreviations, each a letter off something rare."""
_LEAST = 300
"""The same for words of six letters or more."""
_NAMELIKE = 20_000
"""The same for a word that begins a sentence with a capital, and may be a name."""
_MOST_UNKNOWN_FRAC = 0.3
"""A text or a quotation of which more words are unknown (and three at least) is in another language, or in none: no
word of it counts as misspelt."""
_LEAST_SLIP = 5
"""Letters of a slip: a shorter word that no dictionary has is jargon as often as it is misspelt (ops, org, der)."""
_QUOTED = re.compile(r"[\"“«„]([^\"“”«»„]+)[\"”»]")

_TO_AMERICAN = (
    (r"our(?=$|s$|ed$|ing$|er|ful|less|ite|able|hood)", "or"), (r"is(?=e$|es$|ed$|ing$|er$|ers$|ation|able$)", "iz"),
    (r"ys(?=e$|es$|ed$|ing$|er$)", "yz"), (r"ll(?=ed$|ing$|er$|ers$|ery$|or$|ors$|ous$)", "l"),
    (r"ence(?=s?$)", "ense"),
    (r"ogue(?=s?$)", "og"), (r"ae|oe", "e"), (r"grey", "gray"), (r"pp(?=ed$|ing$)", "p"), (r"gement", "gment"),
    (r"mme(?=s?$)", "m"), (r"^(.*)wards$", r"\1ward"), (r"lful", "llful"), (r"lment", "llment"), (r"^tyre", "tire"),
    (r"jewellery", "jewelry"), (r"aluminium", "aluminum"), (r"^sceptic", "skeptic"), (r"storey", "story"),
    (r"(cent|met|lit|theat|fib|spect|somb|meag|calib|lust|sab|och)re(?=s?$|d$)", r"\1er"), (r"plough", "plow"),
)  # fmt: skip
"""British spellings -> those of the dictionary, which is American; both are right."""
_COMMON = {
    "wich": "which", "alot": "a lot", "teh": "the", "hte": "the", "adn": "and", "taht": "that", "becuase": "because",
    "thier": "their", "untill": "until", "definately": "definitely", "definatly": "definitely", "wierd": "weird",
    "beleive": "believe", "tommorow": "tomorrow", "tommorrow": "tomorrow", "enviroment": "environment",
    "occured": "occurred", "goverment": "government", "infact": "in fact", "aswell": "as well", "noone": "no one",
    "eachother": "each other", "arguement": "argument", "calender": "calendar",
}  # fmt: skip
"""Misspellings so common that the likeliest word by frequency would be the wrong one, or is more than one edit away."""
_BEFORE = ("un", "re", "non", "pre", "mis", "over", "under", "co", "sub", "multi", "anti", "inter", "auto", "micro")
_AFTER = (
    ("s", ""), ("es", ""), ("ies", "y"), ("ed", ""), ("ed", "e"), ("d", ""), ("ing", ""), ("ing", "e"), ("er", ""),
    ("ly", ""), ("ness", ""), ("able", ""), ("able", "e"), ("less", ""), ("like", ""), ("est", ""), ("est", "e"),
)  # fmt: skip


class Misspelt(NamedTuple):
    """A word that no dictionary has, and where it stands in its text."""

    word: str
    start: int
    end: int


@cache
def _checker(language: str) -> SpellChecker:
    known = list(SpellChecker.languages())
    if language not in known:
        said = did_you_mean(language, known) or f" There are: {', '.join(known)}."
        raise UserError(f'dictionary: there is no spelling dictionary "{language}".{said}')
    return SpellChecker(language=language, distance=1)


@cache
def technical() -> frozenset[str]:
    """Terms that the general dictionary lacks."""
    lines = files("luthier.evals").joinpath("words.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(word for line in lines if not line.startswith("#") for word in line.split())


@dataclass(frozen=True)
class Lexicon:
    """A language's dictionary and the words that are right besides."""

    language: str = "en"
    words: frozenset[str] = frozenset()
    """In lower case."""
    counts: Counter[str] = field(default_factory=Counter)
    """How often words stand in the user's own documents: corrections prefer those."""

    @classmethod
    def of(cls, language: str, words: Iterable[str] = (), counts: Counter[str] | None = None) -> Lexicon:
        """The dictionary of a language and more words. Raises UserError where there is none of that language."""
        _checker(language)
        more = {part.lower().replace("’", "'") for word in words for part in _WORD.findall(word)}
        return cls(language, frozenset(more), counts or Counter())

    def knows(self, word: str) -> bool:
        """Whether the word is spelt right, as far as anyone knows: in the dictionary, among the added words, a British
        spelling, or formed from a known word by a common prefix or ending."""
        word = word.lower().replace("’", "'")
        return self._listed(word) or self._formed(word)

    def _listed(self, word: str) -> bool:
        known = _checker(self.language).word_frequency.dictionary
        if word in known:  # as nearly all are
            return True
        word = _accentless(word) if _accentless(word) in known else word
        own = word[:-2] if word.endswith("'s") else word.rstrip("'")
        for form in (word, own):
            if form in self.words or form in known or (self.language == "en" and form in technical()):
                return True
        return self.language == "en" and _is_british(own)

    def _formed(self, word: str) -> bool:
        if self.language != "en":
            return False
        for prefix in _BEFORE:
            if word.startswith(prefix) and len(word) - len(prefix) >= 5 and self._listed(word[len(prefix) :]):
                return True
        for ending, instead in _AFTER:
            stem = word[: -len(ending)]
            if word.endswith(ending) and len(stem) >= 4 and self._common(stem + instead):
                return not (ending in ("ed", "ing") and not instead and stem.endswith("e"))  # "writeing"
        return False

    def _common(self, word: str) -> bool:
        return word in self.words or word in technical() or _checker(self.language).word_frequency.dictionary[word] > 50

    def correction(self, word: str) -> str | None:
        """The likeliest right spelling one edit away (Damerau: a letter more, less, other, or two swapped), its case
        kept; None where there is none. Words of the user's own documents come first, then swapped and doubled letters,
        which are how fingers err, then frequency."""
        checker, low = _checker(self.language), word.lower().replace("’", "'")
        if self.language == "en" and low in _COMMON:
            return _cased(word, _COMMON[low])
        frequency = checker.word_frequency.dictionary
        near = list(_near(self.language, low))
        if self.words or self.counts:
            near += [word for word in checker.edit_distance_1(low) if word in self.words or word in self.counts]
        if not near:
            return None
        same = sorted(set(near), key=lambda w: (-self._weight(low, w, frequency.get(w, 0)), w))
        return _cased(word, same[0])

    def _weight(self, wrong: str, right: str, frequency: int) -> float:
        own = self.counts[right] + (1 if right in self.words else 0)
        slip = sorted(wrong) == sorted(right) or _undoubled(wrong) == _undoubled(right)
        return (1 + frequency) * (20 if slip else 1) * (1 + 1_000 * own) * (5 if wrong[:1] == right[:1] else 1)


@lru_cache(maxsize=2**16)
def _is_british(word: str) -> bool:
    """Whether the dictionary has the word in its American spelling."""
    known = _checker("en").word_frequency.dictionary
    return any((american := re.sub(a, b, word)) != word and american in known for a, b in _TO_AMERICAN)


@lru_cache(maxsize=2**16)
def _near(language: str, low: str) -> tuple[str, ...]:
    """The words of a dictionary that are one edit away, and so frequent that the unknown one may be meant for them. The
    same unknown words come again and again: an organisation's own."""
    checker, least = _checker(language), _FREQUENT.get(len(low), _LEAST)
    frequency = checker.word_frequency.dictionary
    return tuple(word for word in checker.edit_distance_1(low) if frequency.get(word, 0) >= least)


@lru_cache(maxsize=2**16)
def _accentless(word: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", word) if not unicodedata.combining(c))


def _undoubled(word: str) -> str:
    return re.sub(r"(.)\1+", r"\1", word)


def _cased(like: str, word: str) -> str:
    if like.isupper() and len(like) > 1:
        return word.upper()
    return word[:1].upper() + word[1:] if like[:1].isupper() else word


def misspelt(
    text: str,
    lexicon: Lexicon,
    also: Iterable[str] = (),
    strict: bool = False,
    most_unknown_frac: float = _MOST_UNKNOWN_FRAC,
) -> list[Misspelt]:
    """The misspelt words of a text: those that no dictionary has and that are a letter off a word it has; `strict`:
    all that it has not, of which most are new or rare words, for language outgrows every dictionary.

    Not looked at: code, addresses, identifiers, words with digits, in capitals or in another script; words of the texts
    in `also` (the question, the source); and names: what has a capital within a sentence, or begins one and is not a
    slip of a common word."""
    right = {word.lower() for other in also for word in _WORD.findall(other)}
    plain = _NO_PROSE.sub(lambda found: " " * len(found[0]), text)
    words = list(_WORD.finditer(plain))
    unknown = [found for found in words if not _right(found[0], lexicon, right) and _looked_at(plain, found)]
    quoted = [span.span() for span in _QUOTED.finditer(plain)]
    for start, end in [(0, len(plain)), *quoted]:
        inside = [found for found in unknown if start <= found.start() < end]
        most = max(2, most_unknown_frac * sum(start <= found.start() < end for found in words))
        if len(inside) > most:
            unknown = [found for found in unknown if found not in inside]
    names = {w[0] for w in words if w[0][:1].isupper() and not _begins(plain, w.start())}
    return [
        Misspelt(found[0], found.start(), found.end())
        for found in unknown
        if (found[0].islower() and (strict or lexicon.correction(found[0]) is not None))
        or (found[0] not in names and _begins(plain, found.start()) and _slip_of_common(found[0], lexicon))
    ]


def slips(text: str, lexicon: Lexicon, also: Iterable[str] = (), surely: bool = False) -> list[Misspelt]:
    """Of the misspelt words those that hardly can be jargon: a common word with a letter missing, doubled, or swapped
    with its neighbour, in five letters at least. Fewer than `misspelt` finds, and nine in ten of them are rightly
    found in texts whose own words nobody has listed. `surely`: the text is known to be in the lexicon's language,
    however many of its words are not."""
    found = misspelt(text, lexicon, also, most_unknown_frac=1.0 if surely else _MOST_UNKNOWN_FRAC)
    return [one for one in found if len(one.word) >= _LEAST_SLIP and _slip_of_common(one.word, lexicon)]


def corrected(
    text: str, lexicon: Lexicon, also: Iterable[str] = (), strict: bool = False
) -> tuple[str, list[tuple[str, str]]]:
    """The text with its misspelt words put right where that can be done, and what became what."""
    changed: list[tuple[str, str]] = []
    for found in reversed(misspelt(text, lexicon, also, strict)):
        if (instead := lexicon.correction(found.word)) is not None:
            text = text[: found.start] + instead + text[found.end :]
            changed.append((found.word, instead))
    return text, changed[::-1]


def names_of(texts: Iterable[str]) -> set[str]:
    """Words that stand with a capital within a sentence, at least twice in all: names."""
    seen: Counter[str] = Counter()
    for text in texts:
        seen.update(w[0] for w in _WORD.finditer(text) if w[0][:1].isupper() and not _begins(text, w.start()))
    return {word for word, count in seen.items() if count > 1}


def words_in(text: str) -> Iterator[str]:
    """The words of a text, in lower case."""
    return (word.lower() for word in _WORD.findall(text))


def _right(word: str, lexicon: Lexicon, right: set[str]) -> bool:
    low = word.lower()
    return low in right or lexicon.knows(low) or low.removesuffix("'s").removesuffix("’s") in right


def _looked_at(text: str, found: re.Match[str]) -> bool:
    """Three letters or more of the Latin script, not part of "3rd", "x86" or "e-mail-ID", not CAPITALS or camelCase."""
    word = found[0]
    before, after = text[found.start() - 1 : found.start()], text[found.end() : found.end() + 1]
    if len(word) < 3 or word[1:] != word[1:].lower() or before.isdigit() or after.isdigit():
        return False
    return all(ord(letter) < 0x250 or letter in "'’" for letter in word)


def _begins(text: str, start: int) -> bool:
    """Whether a sentence, a line or a list's item begins here."""
    return bool(_SENTENCE_END.search(text[max(0, start - 12) : start]))


def _slip_of_common(word: str, lexicon: Lexicon) -> bool:
    """Whether a word with a capital is a common one with a letter missing, doubled, or swapped with its neighbour.
    Another letter, or one too many, is more often a name: Steph, Anya, Beren."""
    low = word.lower()
    if lexicon.language == "en" and low in _COMMON:
        return True
    instead = (lexicon.correction(word) or "").lower() if len(word) >= 4 else ""
    slip = len(instead) > len(low) or sorted(low) == sorted(instead) or _undoubled(low) == _undoubled(instead)
    return slip and _checker(lexicon.language).word_frequency.dictionary[instead] >= _NAMELIKE
