"""Questions without any model: from headings, "To ..." and "If you ..." sentences, definitions, tables and FAQ lines.
Each answer is quoted from the document; a question that cannot stand alone names what it is about, or is not made."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from luthier.base.nouns import Text
from luthier.data.synthesis.headings import POINTS, SAYS_NOTHING, question_of, topic_question
from luthier.data.synthesis.lines import asked_in, of_glossary, of_paragraph, of_table
from luthier.data.synthesis.made import Dropped, Made, answered
from luthier.data.synthesis.pages import LEAST_WORDS, Candidate, Page, page_of, quoted
from luthier.data.synthesis.sections import Section
from luthier.data.synthesis.wording import VERBS, Corpus, cased, content_words, corpus_of
from luthier.data.text import case_folded

DEICTIC = re.compile(
    r"\b(?:see|listed|described|outlined|mentioned|shown|noted|discussed|linked|defined|given|detailed|found|steps?|table|"
    r"section|instructions?|links?|form|list|chart|diagram|image|screenshot|information|template) (?:above|below)\b|"
    r"\b(?:the|these|those) (?:above|below)\b|\bbelow[.:,]|\bclick here\b|"
    r"\bthis (?:page|section|guide|document|handbook|article|list|table|form|link)\b|"
    r"\b(?:previous|next|following) (?:page|section|chapter)\b|\bsee here\b|\bhere:|\bscreenshot\b|"
    r"^below\b|^- (?:is|are|has|for|and) |\w [.,;](?:\s|$)",
    re.IGNORECASE | re.MULTILINE,
)
"""What points outside of the answer, or shows that something was cut out of it."""
PROMISES = re.compile(
    r"\b(?:two|three|four|five|six|several|a few|some|many|different|these|following) (?:\w+ ){0,3}"
    r"(?:ways|options|methods|steps|types|things|paths|scenarios|examples|kinds|reasons|rules)\b[^.]*\.?$",
    re.IGNORECASE,
)
"""How an answer ends whose list is missing."""
POINTS_AWAY = re.compile(
    r"(?:please )?(?:see|visit|read|refer to|check out|learn more|find out|go to|"
    r"follow (?:these|the|this)|use (?:these|this)|"
    r"more information|details|view|consult|the following|listed|"
    r"we have an? (?:guide|page|document|list)|here (?:is|are)|feel free|"
    r"there (?:is|are) (?:a|several|many|some))\b"
    r"|.*\b(?:available|found|listed|located|posted) (?:here|on|in|at)\b[^.]*\.?$|.*\bhere\.?$"
    r"|.*\bfollow (?:the|these|this) (?:\w+ )?(?:instructions|steps|guide|guidance|process)\.?$",
    re.IGNORECASE | re.DOTALL,
)
"""What a short answer begins with, or is, when the true one is elsewhere."""
SHORT_WORDS = 22
LEAST_TOPIC_WORDS = 15
LONGEST_TITLE_WORDS = 7
LEAST_CONTENT = 3
"""Words with a meaning in a question that stands without its page's title, when neither a name nor a word of the title
is among them."""
STARTS_LATE = re.compile(
    r"(?:however|also|additionally|therefore|then|otherwise|instead|but|and|or|so|furthermore|for example|next|finally|"
    r"in addition|similarly|likewise|once again|alternatively|e\.g\.|that said|as such|thus|he|she|they|these|those|"
    r"both|"
    r"(?:this|that|it)(?! (?:is|means|can|will|includes|applies|was|page))|in (?:this|that|these|those|such) )\b",
    re.IGNORECASE,
)
"""How a passage begins that goes on from one before it."""


def questions_by_rules(documents: Sequence[Text], answer_words: int = 150) -> list[Made | Dropped]:
    """All questions that the rules find in some documents, in their order, and those that were dropped, with why."""
    pages = [page_of(number, text) for number, text in enumerate(documents)]
    corpus = corpus_of(text.text for text in documents)
    often = Counter(case_folded(h) for page in pages for h in {section.heading for section in page.sections})
    found: list[Made | Dropped] = []
    seen: dict[str, str] = {}
    asked: set[tuple[int, str]] = set()
    for page in pages:
        several = list(candidates(page, corpus, often, answer_words))
        for candidate in sorted(several, key=lambda one: one.vague):  # what says more comes first
            question, why = weighed(candidate, corpus)
            if why is None and case_folded(question) in seen:
                why = f"the same question is made of {seen[case_folded(question)]}"
            if why is None and (page.number, case_folded(candidate.answer)) in asked:
                why = "another question has the same answer"
            if why is not None:
                found.append(Dropped(page.origin, f'"{question}": {why}'))
                continue
            seen[case_folded(question)] = page.origin
            asked.add((page.number, case_folded(candidate.answer)))
            found.append(Made(answered(question, candidate.answer, page.origin), page.number, candidate.step))
    return found


def candidates(page: Page, corpus: Corpus, often: Counter[str], answer_words: int) -> Iterator[Candidate]:
    """Every question that a page may hold."""
    for section in page.sections:
        yield from asked_in(page, section, answer_words)
        yield from under_heading(page, section, corpus, often, answer_words)
        for block, after in zip(section.blocks, [*section.blocks[1:], None], strict=True):
            if block.kind == "paragraph":
                yield from of_paragraph(page, section, block, after, corpus, answer_words)
            elif block.kind == "table":
                yield from of_table(page, section, block, corpus)
        if re.search(
            r"glossar|acronym|definition|terminolog|terms\b|jargon|abbreviation",
            f"{page.title} {section.heading}",
            re.I,
        ):
            yield from of_glossary(page, section, corpus)


def under_heading(
    page: Page, section: Section, corpus: Corpus, often: Counter[str], answer_words: int
) -> Iterator[Candidate]:
    """What a heading asks, answered by what stands under it."""
    if not section.heading or not (answer := quoted(section.blocks, answer_words)):
        return
    made = question_of(section.heading, page.title, corpus, instructs(section))
    if made is not None:
        question, step = made
    elif (topic := topic_question(section.heading, corpus, answer)) is not None:
        question, step = topic, "a heading that names a topic"
    else:
        return
    common, vague = often[case_folded(section.heading)] > 1, step == "a heading that names a topic"
    yield Candidate(question, answer, f"question from {step}", page, section.heading, common, vague=vague)


def instructs(section: Section) -> bool:
    """Whether a section tells its reader what to do: steps, or sentences that begin with a verb, or with "you"."""
    if any(block.kind == "steps" for block in section.blocks):
        return True
    for block in section.blocks:
        for part in block.items or (block.text,):
            first = re.match(r"[\"“(]?(?:please |first, |then, )?([A-Za-z'’-]+)", part, re.IGNORECASE)
            if (first and first[1].casefold() in VERBS) or re.search(
                r"\byou (?:can|must|should|need|may|will|are|have)\b", part, re.I
            ):
                return True
    return False


def weighed(candidate: Candidate, corpus: Corpus) -> tuple[str, str | None]:
    """(the question, with the page's title where it needs one; why it is not used, or None)."""
    question, answer, page = candidate.question, candidate.answer, candidate.page
    question = " ".join(question.replace(" ,", ",").split())
    if len(answer.split()) < LEAST_WORDS:
        return question, f"its answer has fewer than {LEAST_WORDS} words"
    if DEICTIC.search(answer):
        return question, "its answer points to something outside of it"
    if STARTS_LATE.match(answer):
        return question, "its answer goes on from what stands before it"
    if answer.rstrip().endswith(("?", ":", ",")) or PROMISES.search(answer):
        return question, "its answer does not end"
    if len(answer.split()) < SHORT_WORDS and POINTS_AWAY.match(answer):
        return question, "its answer only says where to look"
    if candidate.vague and len(answer.split()) < LEAST_TOPIC_WORDS:
        return question, "its answer says too little of what it is about"
    asked = re.sub(r"^(?:What should I do|What happens) if ", "", question)
    if POINTS.search(asked):
        return question, "it points to something that it does not name"
    if question.count("(") != question.count(")") or question.count('"') % 2:
        return question, "it was cut in the middle"
    if len(question.split()) > 30:
        return question, "it is long-winded"
    if candidate.explained or alone(question, page.title, candidate.topic):
        return question, None
    title = cased(page.title, corpus)
    if not title or title.casefold() in question.casefold():
        return question, None if title else "it does not say what it is about, and its page has no title"
    if SAYS_NOTHING.fullmatch(title) or len(title.split()) > LONGEST_TITLE_WORDS:
        enough = len(content_words(question)) > 1 and not candidate.topic
        return question, None if enough else "it does not say what it is about, nor does its page's title in short"
    return f"Regarding {title}: {question[0].lower() if not question.startswith('I ') else 'I'}{question[1:]}", None


def alone(question: str, title: str, topic: bool) -> bool:
    """Whether a question says what it is about without its page's title."""
    words = content_words(question)
    names = re.findall(r"(?<!^)\b(?:[A-Z][A-Za-z]*[A-Z]\w*|[A-Z]{2,}\w*)\b", question)
    names += [word for word in re.findall(r"(?<=\w )[A-Z][a-z]\w+", question)]
    shared = set(words) & set(content_words(title))
    if topic:
        return bool(shared) and len(words) > 2
    return bool(names or shared) or len(words) >= LEAST_CONTENT
