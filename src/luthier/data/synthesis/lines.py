"""Questions from what stands below a heading: FAQ lines, "To ..." and "If you ..." sentences, definitions, tables and
glossaries."""

from __future__ import annotations

import re
from collections.abc import Iterator

from luthier.data.synthesis.headings import POINTS
from luthier.data.synthesis.pages import LEAST_WORDS, Candidate, Page, quoted, sentences_of
from luthier.data.synthesis.sections import Block, Section
from luthier.data.synthesis.wording import VERBS, Corpus, as_asked, cased, content_words


def asked_in(page: Page, section: Section, answer_words: int) -> Iterator[Candidate]:
    """FAQ lines: a paragraph that asks, in bold or behind a "Q:", and the blocks down to the next one that does."""
    asks = [faq_question(block) for block in section.blocks]
    for at, question in enumerate(asks):
        if not question:
            continue
        end = next((i for i in range(at + 1, len(asks)) if asks[i]), len(asks))
        found = list(section.blocks[at + 1 : end])
        if found and found[0].kind == "paragraph":
            first = found[0]
            found[0] = Block("paragraph", re.sub(r"^(?:A|Answer)\s*[:.]\s*", "", first.text), linked=first.linked)
        if answer := quoted(found, answer_words):
            yield Candidate(as_asked(question), answer, "question of an FAQ", page, section.heading)


def faq_question(block: Block) -> str:
    """The question that a paragraph is; "" where it is none."""
    if block.kind != "paragraph" or not block.text.endswith("?") or len(sentences_of(block.text)) > 1:
        return ""
    bold = re.fullmatch(r"\s*(\*\*|__).+\1\s*", block.raw, re.DOTALL)
    marked = re.match(r"(?:Q|Question)\s*\d*\s*[:.)]\s*(.+)", block.text)
    return marked[1] if marked else block.text if bold else ""


TO_DO = re.compile(
    r"(?:In order to|To) ([a-z][a-z-]+) ([^,;:.?!]{3,90}?), (?=(?:please |first |simply |just |you |[a-z]+ ))(.+)"
)
NOT_ASKED = frozenset(
    re.findall(
        r"\w+",
        "be learn find read see ensure help make avoid continue summarize keep note understand know do start support",
    )
)
IF_YOU = re.compile(r"If (you(?:['’](?:re|ve|d))?|your)\b ([^,;:?!]{8,110}?), (?:then )?(.+)", re.DOTALL)
NO_CONDITION = re.compile(
    r"^(?:(?:you )?(?:still |ever )?(?:have|has|had) "
    r"(?:any |more |other |further |additional |a |ideas? or )*(?:questions?|concerns?|feedback|suggestions?)|"
    r"you (?:would|['’]d) like|you(?:['’]re| are) (?:interested|not sure|unsure|curious|looking|"
    r"wondering|reading|new)|you (?:need|want) (?:help|more|to (?:learn|know))|"
    r"you (?:want|wish|prefer|like|think|feel|find|see|notice)\b)",
    re.IGNORECASE,
)


SUBJECTS = frozenset(
    re.findall(
        r"\w+",
        """you your it the a an we they there this that our any all no he she i he his her its their each every once
        only both do don unless unfortunately""",
    )
)
"""How a main clause begins that tells what happens."""


def of_paragraph(
    page: Page, section: Section, block: Block, after: Block | None, corpus: Corpus, answer_words: int
) -> Iterator[Candidate]:
    """ "To request leave, ..." and "If you lose your card, ..." and "Concur is a ..."."""
    said = sentences_of(block.text)
    for at, sentence in enumerate(said):
        rest = [block_of(" ".join(said[at:]), block)] + ([after] if after and block.text.endswith(":") else [])
        if len(said) - at > 3 and not block.text.endswith(":"):
            rest = [block_of(" ".join(said[at : at + 3]), block)]
        answer = quoted(rest, answer_words)
        if not answer:
            continue
        if (to := TO_DO.match(sentence)) and to[1] in VERBS and to[1] not in NOT_ASKED:
            yield Candidate(
                f"How do I {to[1]} {as_asked(to[2])}?",
                answer,
                "question from a sentence that says how",
                page,
                section.heading,
            )
        elif (of := IF_YOU.match(sentence)) and not NO_CONDITION.match(f"{of[1]} {of[2]}"):
            tells = re.match(
                r"(?:please |also |first |you(?:['’]ll| will)? (?:must|should|need|have to|can|may)\b|make sure)",
                of[3],
                re.I,
            )
            first = re.match(r"[A-Za-z'’-]+", of[3])
            does = tells or (first and first[0].casefold() in VERBS)
            if not does and (first is None or first[0].casefold() not in SUBJECTS):
                continue  # "If you need pens, paper and ink, ...": the condition goes on
            what = "What should I do" if does else "What happens"
            yield Candidate(
                f"{what} if {as_asked(f'{of[1]} {of[2]}')}?", answer, "question from a condition", page, section.heading
            )
        elif at == 0 and (asks := defined(sentence, corpus, f"{page.title} {section.heading}")) is not None:
            yield Candidate(asks, answer, "question from a definition", page, section.heading)


def block_of(text: str, like: Block) -> Block:
    """A part of a paragraph as a block."""
    return Block("paragraph", text, linked=like.linked)


DEFINES = re.compile(
    r"(?P<the>(?:The|A|An) )?(?P<term>[A-Z0-9][\w'’&/-]*(?: (?!is\b|are\b)[\w'’&/-]+){0,6}"
    r"(?: \([A-Z][\w &-]{1,30}\))?) "
    r"(?P<is>is|are) "
    r"(?P<what>(?:a|an|the|one of|our|any|used to|designed to|defined as) .{12,})"
)
NO_TERM = re.compile(
    r"(?:this|that|these|those|it|there|here|what|which|who|where|when|how|why|if|each|all|some|any|our|your|my|we|one|first|most|both|"
    r"following|another|such|every|you|they|he|she|in|on|for|as|at|by|also|everyone|anyone|nothing|now|note|below|above|"
    r"not|only|part|while|although|because|since|once|during|after|before|please|having|being|many|several|two|three)\b|"
    r".*\b(?:goal|purpose|reason|answer|question|idea|example|exception|thing|point|result|best|rest|person|people|first|second|last|"
    r"way|step|that|which|who|to|will|can|was|were|has|have|we|you|your|our|and|or|do|does|should|may|their|its|page|section|guide|document)$|"
    r".*\b(?:that|which|who|will|can|was|were|has|have|you|we|if|when|our|your|this|these)\b",
    re.IGNORECASE,
)


def defined(sentence: str, corpus: Corpus, about: str) -> str | None:
    """ "What is telework?" of a sentence that says so; None where it defines nothing, or something in passing that
    neither has a name nor is what the page or the heading is `about`."""
    found = DEFINES.match(sentence)
    if found is None:
        return None
    term, article = found["term"], (found["the"] or "").strip()
    if NO_TERM.match(term):
        return None
    bare = re.sub(r" \(.*\)$", "", term)
    named = any(re.search(r"[A-Z]", word[1:]) or (i and word[0].isupper()) for i, word in enumerate(bare.split()))
    word = term if named else cased(term, corpus)
    named = named or word[0].isupper()
    if not named and not set(content_words(bare)) & set(content_words(about)):
        return None
    if article == "The" and not named:
        return None
    if not article and not named and found["is"] == "is" and not base_like(bare):
        return None
    return f"What {found['is']} {article.lower()} {word}?" if article else f"What {found['is']} {word}?"


def base_like(term: str) -> bool:
    """Whether a term can stand without an article: "telework", "overtime", "sick leave"."""
    return len(term.split()) <= 3 and not term.casefold().endswith("s")


ATTRIBUTES = frozenset(
    re.findall(
        r"[\w-]+",
        """rate rates limit limits cost costs price prices fee fees amount amounts deadline date dates due time
        times hours address phone number email e-mail contact contacts approver approvers owner owners manager
        lead notice location description definition meaning purpose length duration frequency size maximum
        minimum requirement salary requirements responsibility responsibilities role roles grade level
        percentage percent target targets budget allowance quota period term age weight height capital currency
        language licence license version format type category priority schedule timeline benefit benefits
        audience goal goals task tasks penalty steps system""",
    )
)
"""What a column is called whose cells are facts about their rows."""


def of_table(page: Page, section: Section, block: Block, corpus: Corpus) -> Iterator[Candidate]:
    """A cell, by its row's and its column's name; of columns that name what a thing can have."""
    head, *rows = block.rows
    if len(head) < 2 or len(rows) < 2 or not all(0 < len(cell.split()) <= 8 for cell in head[1:]):
        return
    names = [row[0] for row in rows]
    if len(set(names)) < len(names) or any(not 0 < len(name.split()) <= 9 for name in names):
        return
    for row in rows:
        if re.search(r"[\"“”?!]|\.{3}|…|^\W|\W$|\btotals?\b", row[0], re.IGNORECASE) or not re.search(
            r"[^\W\d_]", row[0]
        ):
            continue
        for column, cell in zip(head[1:], row[1:], strict=True):
            bare = re.sub(r"\s*\(.*?\)|[*:]", "", column).strip()
            if not bare or bare.split()[-1].casefold() not in ATTRIBUTES or not re.search(r"\w", cell):
                continue
            if re.match(r"(?:n/?a|tbd|none|-|–|—|x|✓|https?:.*)\W*$", cell, re.IGNORECASE):
                continue
            name, words = cased(row[0], corpus), cased(bare, corpus, unknown_small=True)
            many = words.casefold().endswith("s") and not words.casefold().endswith("ss")
            short = len(cell.split()) < LEAST_WORDS
            answer = f"The {words} for {name} {'are' if many else 'is'} {cell.rstrip('.')}." if short else cell
            question = f"What {'are' if many else 'is'} the {words} for {name}?"
            yield Candidate(question, answer, "question from a table", page, section.heading, topic=True)


TERM = re.compile(r"(?P<term>[A-Z0-9][\w&/.'’ ()-]{0,50}?)\s*(?::|\s[-–—]|–|—)\s+(?P<what>\S.{10,})", re.DOTALL)


def of_glossary(page: Page, section: Section, corpus: Corpus) -> Iterator[Candidate]:
    """Terms with what they mean, in lists, paragraphs and two-column tables of pages that explain terms."""
    lines = [
        part for block in section.blocks if block.kind in ("list", "paragraph") for part in block.items or (block.text,)
    ]
    pairs = [(m["term"].strip(), m["what"]) for line in lines if (m := TERM.fullmatch(line.strip()))]
    pairs += [
        (row[0], row[1])
        for block in section.blocks
        if block.kind == "table" and len(block.rows[0]) == 2
        for row in block.rows[1:]
    ]
    for term, what in pairs:
        if not 0 < len(term.split()) <= 5 or len(what.split()) < 2 or POINTS.search(term):
            continue
        acronym = re.fullmatch(r"[A-Z][A-Za-z]*[A-Z]s?|[A-Z]{2,}[\w-]*", term) is not None and is_spelt_out(term, what)
        name = re.search(r"[A-Z0-9]", cased(term, corpus)) is not None
        what_is = f"What is {term}?" if name else f'What does "{cased(term, corpus)}" mean?'
        question = f"What does {term} stand for?" if acronym else what_is
        answer = f"{term} stands for {what}" if acronym and len(what.split()) < 8 else f"{term}: {what}"
        yield Candidate(question, answer, "question from a glossary", page, section.heading, explained=True)


def is_spelt_out(acronym: str, what: str) -> bool:
    """Whether a text begins with the words that an acronym stands for."""
    letters = [letter.casefold() for letter in acronym if letter.isupper()]
    initials = [word[0].casefold() for word in re.findall(r"[^\W_][\w'’]*", what)]
    at = 0
    for initial in initials[: len(letters) + 3]:
        at += at < len(letters) and initial == letters[at]
    return at == len(letters)
