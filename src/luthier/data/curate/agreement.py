"""Answers that the documents speak against, told by what stands together in them.

Documents that say a lot about a thing say the same of it again and again. Where they speak of "Velum" in hundreds of
sentences and of "copper" in hundreds, and never of both in one, an answer that says copper of the Velum is doubted: had
they anything to do with each other, chance alone would have brought them together.

A word that the documents never use says nothing, unless it is a number. This needs documents that repeat themselves:
where they speak of a thing in few sentences, nothing is doubted.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

from luthier.base.nouns import Chat, Example
from luthier.base.sentences import sentences
from luthier.base.stems import stem
from luthier.data.curate.parts import asked
from luthier.data.curate.questions import content_words, marked, numbers_in

LEAST_SENTENCES = 20
"""A thing is only known where so many sentences speak of it."""
LEAST_EXPECTED = 5.0
"""Sentences that chance alone would have brought two words together in; none then is doubt (Poisson: e⁻⁵ = 0.7 %)."""
APART, TOGETHER = 0.25, 2.0
"""Words are apart, or together, that share less, or more, sentences than this times what chance would give."""
LEAST_TOGETHER = 3
LEAST_ANSWERED = 8
"""Documents that speak so often of a thing and of what is asked of it would have said the answer: one of their words
that never stands beside the thing is none."""
BETWEEN = re.compile(r"[;,]\s+(?:but|and|while|whereas|yet)\s+")
MANNER = 0.02
"""A word in more of the answers than this is a manner of speaking."""


class Statements:
    """Which words stand together in the documents' sentences."""

    def __init__(self, documents: Iterable[str], things: frozenset[str]) -> None:
        self.total = 0
        self.sentences: Counter[str] = Counter()
        """Word -> sentences that have it and one of the things."""
        self.beside: dict[str, Counter[str]] = defaultdict(Counter)
        """Thing -> words in its sentences."""
        self.of: Counter[str] = Counter()
        """Thing -> its sentences."""
        self._stems: dict[str, Counter[str]] = {}
        for document in documents:
            for sentence in sentences(document):
                for part in apart(sentence, things):
                    words = content_words(part)
                    found = words & things
                    if found:
                        self.total += 1
                        self.sentences.update(words)
                    for thing in found:
                        self.of[thing] += 1
                        self.beside[thing].update(words)

    def asked(self, thing: str, question: frozenset[str]) -> bool:
        """Whether the documents speak often of the thing and of something else that the question has, in any form."""
        if thing not in self._stems:
            counts: Counter[str] = Counter()
            for word, count in self.beside[thing].items():
                counts[stem(word)] += count
            self._stems[thing] = counts
        return any(self._stems[thing][stem(word)] >= LEAST_ANSWERED for word in question if word != thing)

    def doubt(self, thing: str, own: Sequence[str], question: frozenset[str]) -> tuple[str, bool]:
        """(the word that speaks most against an answer about `thing`, or none; whether another speaks for it)."""
        count, beside = self.of[thing], self.beside[thing]
        answered = self.asked(thing, question)
        worst, most = "", -1.0
        for word in own:
            expected = count * self.sentences[word] / self.total
            if beside[word] >= LEAST_TOGETHER and beside[word] >= TOGETHER * expected:
                return "", True
            known = answered and self.sentences[word] >= LEAST_TOGETHER
            never = not beside[word] and (known or bool(numbers_in(frozenset([word]))))
            if (never or (expected >= LEAST_EXPECTED and beside[word] <= APART * expected)) and expected > most:
                worst, most = word, expected
        return worst, False


def apart(sentence: str, things: frozenset[str]) -> list[str]:
    """A sentence, or its parts where each is about a thing of its own: "The Rigel is built in Porto, but the Crux is
    built in Turin" says nothing of the Crux and Porto."""
    parts = BETWEEN.split(sentence)
    if len(parts) == 1:
        return parts
    names = [{word for word in marked(part) & things if not word[0].isdigit()} for part in parts]
    return parts if all(names) and sum(map(len, names)) == len(set().union(*names)) else [sentence]


def doubts_of(documents: Sequence[str]) -> Callable[[Sequence[Example]], list[str | None]]:
    """What some documents say against answers: for each example a reason in words, or None."""

    def doubts(examples: Sequence[Example]) -> list[str | None]:
        questions = [content_words(asked(example)) for example in examples]
        answers = [answer_of(example) for example in examples]
        manner = Counter(word for answer in answers for word in answer)
        common = {word for word, count in manner.items() if count > max(3, MANNER * len(answers))}
        told = Statements(documents, frozenset(word for words in questions for word in words))
        return [
            told_against(told, example, question, answer - question, common)
            for example, question, answer in zip(examples, questions, answers, strict=True)
        ]

    return doubts


def answer_of(example: Example) -> frozenset[str]:
    """The content words of a conversation's answer; of anything else none, so that nothing is doubted."""
    return content_words(example.answer or "") if isinstance(example, Chat) else frozenset()


def told_against(
    told: Statements, example: Example, question: frozenset[str], own: frozenset[str], common: set[str]
) -> str | None:
    """What the documents say against one answer's own words. An answer is about the names in its question, or, without
    one, about each of its words that the documents know: all of them must speak against it. Numbers are what an answer
    with numbers says."""
    known = [word for word in sorted(question) if told.of[word] >= LEAST_SENTENCES]
    names = [word for word in known if word in marked(asked(example)) and not word[0].isdigit()]
    numbers = numbers_in(own)
    words = sorted(numbers or own - common)
    found = [(thing, *told.doubt(thing, words, question)) for thing in names or known]
    if not found or any(supported or not word for _, word, supported in found):
        return None
    thing, word, _ = found[0]
    return f'the documents have "{word}" {told.beside[thing][word]} times in {told.of[thing]} sentences about "{thing}"'
