"""A heading -> the question that what stands under it answers; None where no good one can be made by rule."""

from __future__ import annotations

import re

from luthier.data.synthesis.wording import (
    ALSO_NOUNS,
    COMPOUND,
    VERBS,
    Corpus,
    as_asked,
    base_form,
    cased,
    content_words,
)

LONGEST_WORDS = 14
ASKS = re.compile(r"(?:how|what|when|where|who|whom|whose|which|why|can|do|does|is|are|should|may|will|did|am)\b", re.I)
SAYS_NOTHING = re.compile(
    r"(?:overview|introduction|intro|contents?|table of contents|resources?|"
    r"(?:more |additional |other |useful |quick |helpful |related |further |key )*"
    r"(?:resources?|links?|reading|information|info|references?|details|documents?|materials?|pages?|topics?|questions?|notes?)|"
    r"see also|notes?|other|misc\w*|general|general information|faqs?|frequently asked questions.*|q ?& ?a|examples?.*|"
    r"sample.*|"
    r"templates?.*|.*\btemplate|appendix.*|background|summary|conclusion|still have questions|questions|next steps?|"
    r"contents|version history|change ?log|history|about|read more|learn more.*|welcome.*|tl;?dr|details|"
    r"step \w+|part \w+|section \w+|phase \w+|day \w+|week \w+|monday|tuesday|wednesday|thursday|friday|"
    r"before|after|during|first|second|third|then|finally|do|don['’]?ts?|dos and don['’]?ts|yes|no|tips?|.*\bchecklist|"
    r"acknowledge?ments?|disclaimer|footnotes?|legend|key|status|decision|context|consequences|contact|contacts?)",
    re.IGNORECASE,
)
"""Headings that name no topic of their own."""
POINTS = re.compile(
    r"\b(?:this|that|these|those|it|its|they|them|their|he|she|his|her|above|below|here|following)\b", re.I
)
NUMBERED = re.compile(
    r"^(?:(?:step|part|section|phase|chapter)\s+\d+\s*[:.–—-]\s*|\d+(?:\.\d+)*[.):]?\s+|[ivx]+\.\s+|[A-Z][.)]\s+)", re.I
)
SUFFIXES: tuple[tuple[str, str, str], ...] = (
    (r"(?:the )?(.+?) requirements", "What are the {x} requirements{of}?", "What are the requirements for {t}?"),
    (
        r"(?:the )?(.+?) responsibilities",
        "What are the {x} responsibilities{of}?",
        "What are the responsibilities in {t}?",
    ),
    (r"(?:the )?(.+?) process", "How does the {x} process work{of}?", "How does {t} work?"),
    (r"(?:the )?(.+?) procedures?", "What is the {x} procedure{of}?", "What is the procedure for {t}?"),
    (r"(?:the )?(.+?) polic(?:y|ies)", "What is the {x} policy{of}?", "What is the policy on {t}?"),
    (r"benefits of (.+)", "What are the benefits of {x}?", ""),
    (r"types of (.+)", "What types of {x} are there?", ""),
    (r"(?:the )?purpose of (.+)", "What is the purpose of {x}?", ""),
    (r"(?:the )?definition of (.+)", "What is the definition of {x}?", ""),
    (r"(?:the )?roles? of (.+)", "What is the role of {x}?", ""),
    (r"examples? of (.+)", "What are examples of {x}?", ""),
)
"""(heading, question, question where the heading says no more than its last word)."""
ALONE = {
    "eligibility": "Who is eligible for {t}?",
    "who is eligible": "Who is eligible for {t}?",
    "requirements": "What are the requirements for {t}?",
    "purpose": "What is the purpose of {t}?",
    "goals": "What are the goals of {t}?",
    "goal": "What is the goal of {t}?",
    "benefits": "What are the benefits of {t}?",
    "responsibilities": "What are the responsibilities in {t}?",
    "roles and responsibilities": "What are the roles and responsibilities in {t}?",
    "process": "How does {t} work?",
    "how it works": "How does {t} work?",
    "scope": "What is the scope of {t}?",
    "definitions": "What do the terms in {t} mean?",
}
"""Headings that mean something only with what the page is about."""


def question_of(heading: str, title: str, corpus: Corpus, instructs: bool) -> tuple[str, str] | None:
    """(question, what kind of heading it was). `instructs`: what stands below tells someone what to do."""
    words = " ".join(NUMBERED.sub("", heading).replace("&", "and").split()).strip(" :.–—-*")
    words = words.capitalize() if words.isupper() and len(words.split()) > 1 else words
    if words.endswith("?") and words.casefold().startswith(("how to ", "what to ", "when to ", "where to ")):
        words = words.rstrip(" ?")
    if words.endswith("?"):
        asked = as_asked(words) if re.search(r"\b(?:my|I|me)\b", words) is None else words
        asked = asked[0].upper() + asked[1:]
        ok = len(asked.split()) > 2 and not SAYS_NOTHING.fullmatch(words[:-1]) and ASKS.match(asked)
        return (asked, "a heading that asks") if ok and not POINTS.search(asked) else None
    key = words.casefold()
    if key in ALONE and title:
        return ALONE[key].format(t=the_title(title, corpus)), "a heading"
    if not words or len(words.split()) > LONGEST_WORDS or SAYS_NOTHING.fullmatch(words) or POINTS.search(words):
        return None
    if re.search(r"[;|<>\"“”#@/]|https?:|\d{4}|\.$|: |!$", words) or "(" in words.replace(")", "(")[:1]:
        return None
    return clause(words, corpus) or deed(words, corpus, instructs) or by_suffix(words, corpus)


def the_title(title: str, corpus: Corpus) -> str:
    """A page's title within a sentence."""
    return cased(title, corpus)


def clause(words: str, corpus: Corpus) -> tuple[str, str] | None:
    """ "How to request leave", "When to travel", "How we work", "What is PTO"."""
    first, _, rest = words.partition(" ")
    wh, rest = first.casefold(), cased(rest, corpus)
    if wh in ("how", "when", "where", "what", "whom", "who", "why") and (to := re.match(r"to (\S+) ?(.*)", rest)):
        if (
            to[1].casefold() not in VERBS
            and to[1].casefold() not in corpus.verbs
            and to[1] not in ("be", "do", "expect")
        ):
            return None
        modal = "do I" if wh == "how" else "should I"
        if to[1].casefold() == "expect":
            modal = "can I"
        asks = "Whom" if wh == "who" else first.capitalize()
        return f"{asks} {modal} {as_asked(rest.removeprefix('to '))}?", "a heading that says how"
    if wh in ("how", "why", "what", "when", "where") and (we := re.match(r"we ([a-z]+)\b(.*)", rest)):
        if we[1] in VERBS or we[1] in ("do", "believe", "value"):
            return f"{first.capitalize()} do we {rest[3:]}?", "a heading that says how"
        return None
    if wh in ("what", "who", "how", "when", "where", "why") and re.match(r"(?:is|are|does|do|can|should) ", rest):
        return f"{first.capitalize()} {as_asked(rest)}?", "a heading that asks"
    return None


def deed(words: str, corpus: Corpus, instructs: bool) -> tuple[str, str] | None:
    """ "Requesting leave", "Request leave", "To request leave"."""
    parts = [part for part in words.split() if part]
    if parts[0].casefold() == "to" and len(parts) > 2:
        parts = parts[1:]
    elif len(parts) < 2 or not (instructs or parts[1].casefold() in ("a", "an", "the", "your")):
        return None
    first, second = parts[0].casefold(), parts[1].casefold()
    bound = any(
        part.casefold() in ("a", "an", "the", "your", "for", "to", "in", "with", "on", "of", "from")
        for part in parts[1:-1]
    )
    if (parts[-1].casefold() in COMPOUND and not bound) or first == second:
        return None
    verb = base_form(parts[0], corpus)
    if verb is None and first in VERBS and (first not in ALSO_NOUNS or bound_object(second)):
        verb = first
    if verb in (None, "be") or second in ("and", "or", ",") or "," in parts[0]:
        return None
    rest = cased(" ".join(parts[1:]), corpus)
    rest = re.sub(r"\b(and|or) (\w+ing)\b", lambda m: f"{m[1]} {base_form(m[2], corpus) or m[2]}", rest)
    if not content_words(rest):
        return None
    return f"How do I {verb} {as_asked(rest)}?", "a heading that says how"


def bound_object(word: str) -> bool:
    """Whether a word begins an object, so that the one before it is a verb."""
    return word in (
        "a",
        "an",
        "the",
        "your",
        "our",
        "my",
        "all",
        "any",
        "for",
        "with",
        "from",
        "to",
        "up",
        "in",
        "on",
        "out",
    )


def by_suffix(words: str, corpus: Corpus) -> tuple[str, str] | None:
    """ "Password requirements", "Leave policy", "Types of leave"."""
    said = cased(words, corpus)
    for pattern, question, _ in SUFFIXES:
        if (found := re.fullmatch(pattern, said, re.IGNORECASE)) and len(found[1].split()) <= 5:
            inner = found[1]
            if ASKS.match(inner) or " and " in f" {inner} " or not content_words(inner):
                return None
            if re.search(r"\b(?:of|with|for|to|in|on|by|introduction|overview)\b", inner) and "(.+?) " in pattern:
                return None
            if inner.split()[0].casefold() in VERBS - ALSO_NOUNS:
                return None
            return question.format(x=inner, of=""), "a heading"
    return None


OPENERS = frozenset(
    re.findall(
        r"[\w']+",
        """if when while be you we i not no for in on at as to after before during under with without from by via per
        other more most all any some each every my your our their new old first second third last next final getting
        being using about action brief quick short examples example checklist overview introduction intro tips note
        notes step steps part current""",
    )
)
"""How a heading begins that names no thing."""


ADJECTIVES = ("able", "ible", "ful", "less", "ly", "ed")


def topic_question(words: str, corpus: Corpus, answer: str) -> str | None:
    """A question about what a heading names, when nothing better can be made of it: a thing of two to five words of
    which the answer speaks."""
    words = words.capitalize() if words.isupper() and len(words.split()) > 1 else words
    said = cased(" ".join(NUMBERED.sub("", words).replace("&", "and").split()).strip(" :.–—-*"), corpus)
    parts = said.split()
    if not 2 <= len(parts) <= 5 or SAYS_NOTHING.fullmatch(said) or POINTS.search(said) or ASKS.match(said):
        return None
    if re.search(r"[^\w\s'’-]|\d|\b(?:you|your|we|our|us|is|are|and|vs|how|what|when)\b", said, re.IGNORECASE):
        return None
    first = parts[0].casefold()
    if first in OPENERS or first in VERBS - ALSO_NOUNS or base_form(parts[0], corpus):
        return None
    if first in VERBS and (len(parts) > 2 or bound_object(parts[1].casefold()) or not parts[1].islower()):
        return None
    if parts[-1].casefold().endswith((*ADJECTIVES, "example", "examples", "list", "template", "overview")):
        return None
    named = set(content_words(said))
    if len(named & set(content_words(answer))) < (len(named) + 1) // 2:
        return None
    for article in ("the", "an", "a"):
        if re.search(rf"\b{article} {re.escape(said)}\b", answer, re.IGNORECASE):
            return f"What should I know about {article} {said}?"
    return f"What should I know about {said}?"
