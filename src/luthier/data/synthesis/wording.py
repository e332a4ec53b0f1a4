"""English as far as questions need it: verbs in their base form, "your" as the asker says it, words that are names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from luthier.data.synthesis.sections import plain

VERBS = frozenset(
    re.findall(
        r"[\w-]+",
        """accept access account accrue acquire activate add adjust administer adopt advocate agree allow amend
        analyze announce answer appeal apply appoint approve arrange ask assess assign assist attach attend
        audit authorize avoid back be become begin block book borrow bring browse build buy calculate call
        cancel capture carry celebrate certify challenge change charge check choose claim clean clear close
        coach collect combine come commit communicate complete comply conduct configure confirm connect consider
        contact contribute convert coordinate copy correct cover create deactivate deal debug decide decline
        define delegate delete deliver deploy describe design determine develop disable disclose discuss display
        dispose distribute document donate download draft drive earn edit elect email embed enable encrypt
        encourage end engage enroll ensure enter escalate establish estimate evaluate exchange export extend
        facilitate file fill find finish fix follow form format forward gather generate get give go grant group
        grow handle have help hire hold identify implement import improve include increase inform initiate
        install integrate interview introduce investigate invite involve issue join keep know launch lead learn
        leave let link list locate log login look lose maintain make manage map mark measure meet mentor merge
        migrate minimize mitigate modify monitor move name navigate negotiate nominate notify obtain offer
        onboard open operate opt order organize pack participate pay perform pick plan post practice prepare
        present prevent print prioritize process procure produce promote propose protect provide publish
        purchase push put raise reach read rebook recall receive recognize recommend record recover recruit
        redact redeem reduce refer register reimburse reinstall reject release relocate rely remain remember
        remind remove rename renew rent reopen repair repeat replace reply report request require reschedule
        research reserve reset resign resolve respond restart restore retain retire retrieve return review
        revise rotate run save scan schedule search secure see select send separate serve set setup share ship
        show sign simplify solicit solve sort speak specify spend split staff start state stay stop store
        structure study submit subscribe substitute succeed suggest supervise support suspend switch sync take
        talk teach telework test thank think track train transfer transition translate travel treat troubleshoot
        try turn type understand unenroll un-enroll uninstall unlock unsubscribe update upgrade upload use
        validate verify view visit volunteer vote wait walk watch wear welcome withdraw work write""",
    )
)
"""Verbs that instructions begin with, in their base form."""
ALSO_NOUNS = frozenset(
    re.findall(
        r"[\w-]+",
        """access account back benefit block book call challenge change charge check claim copy cover deal
        design display document drive email end exchange export file fill form format forward grant group help
        hire import interview issue launch lead leave link list log login look map mark measure name offer order
        pack plan post practice present print process purchase push record release repair reply report request
        research reserve return review run save scan schedule search set setup share ship show sign sort split
        staff start state stay stop store structure study support switch sync test thank track transfer
        transition travel type update upgrade use view visit volunteer vote wait walk watch work access support
        contact travel work form group answer staff process""",
    )
)
"""Verbs that a heading may mean as nouns: "Travel policies"."""
NOUN_GERUNDS = frozenset(
    re.findall(
        r"[\w-]+",
        """training meeting meetings billing building staffing funding engineering marketing shipping parking
        lodging housing existing following remaining pending ongoing upcoming recurring outstanding accounting
        banking catering clothing consulting content during evening morning feeling heading king listing nothing
        opening programming pricing rating ring rulings setting settings something spring string thing things
        wedding wellbeing accompanying corresponding""",
    )
)
COMPOUND = frozenset(
    re.findall(
        r"[\w-]+",
        """process policy policies guide guides guideline guidelines groups group hours materials material notes
        requirements requirement program programs team teams tool tools plan plans checklist checklists schedule
        schedules option options resource resources procedure procedures standard standards principle principles
        practice practices agreement agreements list lists form forms template templates tip tips period periods
        status costs cost fees fee rate rates channel channels model models session sessions strategy page pages
        agenda rules rule basics environment environments calendar card account officer manager group""",
    )
)
"""Nouns that make a noun of a gerund before them: "Billing policy"."""
MINE = {"your": "my", "yours": "mine", "yourself": "myself", "you": "I"}
OBJECT_BEFORE = frozenset(
    re.findall(
        r"[\w-]+",
        """to for with by of from about at on in after before without give gives tell tells help helps allow
        allows let lets ask asks send sends contact contacts require requires notify notifies pay pays reimburse
        reimburses and or than between among like into enable enables provide provides inform informs assist
        assists remind reminds make makes show shows bring brings charge charges email emails call calls support
        supports reach reaches cause causes""",
    )
)
"""Words after which "you" is "me"."""


@dataclass
class Corpus:
    """What the documents show of their own words."""

    spelt: dict[str, Counter[str]] = field(default_factory=dict)
    """How a word is written within sentences, by its small letters: {"slack": {"Slack": 41, "slack": 3}}."""
    verbs: set[str] = field(default_factory=set)
    """Words that follow "to", "must", "can" and the like."""

    def usual(self, word: str) -> str | None:
        """How a word is mostly written within sentences; None where it stands in none."""
        known = self.spelt.get(word.casefold())
        return known.most_common(1)[0][0] if known else None


def corpus_of(texts: Iterable[str]) -> Corpus:
    """Reads the words of some documents: what a reader sees of them, without headings and addresses."""
    found = Corpus()
    for text in texts:
        lines = (plain(line) for line in text.splitlines() if not line.lstrip().startswith(("#", "|")))
        for sentence in (part for line in lines for part in re.split(r"(?<=[.!?:])\s+", line)):
            for word in re.findall(r"(?<![\w/@.#-])[A-Za-z][\w'’-]*(?![\w/@-]|\.\w)", sentence)[1:]:
                found.spelt.setdefault(word.casefold(), Counter())[word] += 1
        found.verbs.update(
            verb.casefold() for verb in re.findall(r"\b(?:must|can|should|will|may|please|need to) ([a-z]{3,})\b", text)
        )
    return found


def base_form(gerund: str, corpus: Corpus) -> str | None:
    """The verb of a gerund ("taking" is "take", "planning" "plan"); None where it is not known as one."""
    word = gerund.casefold()
    if not re.fullmatch(r"(?:(?:un|re|pre|co|de)-)?[a-z]{2,}ing", word) or word in NOUN_GERUNDS:
        return None
    prefix, _, main = word.rpartition("-")
    stem = main[:-3]
    candidates = [stem, f"{stem}e"]
    if len(stem) > 2 and stem[-1] == stem[-2]:
        candidates.insert(0, stem[:-1])
    if stem.endswith("y"):
        candidates.append(f"{stem[:-1]}ie")
    known = [c for c in candidates if c in VERBS] or [c for c in candidates if c in corpus.verbs]
    return f"{prefix}-{known[0]}" if known and prefix else known[0] if known else None


def cased(words: str, corpus: Corpus, unknown_small: bool = False) -> str:
    """A heading within a sentence: words are written as the documents mostly write them within sentences; names stay,
    and so do unknown words, but for verbs (and for all, where `unknown_small`)."""
    title_case = sum(word[0].isupper() for word in words.split()) > 1
    pieces = re.split(r"((?<![\w.@/-])[A-Za-z][\w'’-]*(?![\w@/]|\.\w))", words)
    spelt = list(pieces)
    for at in range(1, len(pieces), 2):
        first = at == 1 and not pieces[0] and not title_case and len(pieces) > 3
        spelt[at] = by_itself(pieces[at], corpus, first or unknown_small)
    kept = [at % 2 and word == pieces[at] and re.fullmatch(r"[A-Z][a-z]+", word) for at, word in enumerate(spelt)]
    for at in range(1, len(pieces), 2):  # "New York City", of which "York" alone is never written small
        beside = any(0 < k < len(pieces) and kept[k] and pieces[(k + at) // 2] == " " for k in (at - 2, at + 2))
        if title_case and beside and not unknown_small and pieces[at].casefold() not in VERBS | SMALL:
            spelt[at] = pieces[at]
    return "".join(spelt)


def by_itself(word: str, corpus: Corpus, unknown_small: bool) -> str:
    """One word of a heading as it is written within a sentence."""
    key, usual = word.casefold(), corpus.usual(word)
    if key in SMALL:
        return key
    if re.search(r"[A-Z]", word[1:]) or (len(word) == 1 and word != "A"):
        return word  # an acronym, or a product's own spelling
    if word[0].islower():
        return usual if usual is not None and corpus.spelt[key][word] * 3 < corpus.spelt[key][usual] else word
    if usual is not None:
        return usual if usual[0].islower() or usual[1:] == word[1:] else word
    return key if key in VERBS or unknown_small else word


SMALL = frozenset(
    re.findall(r"\w+", "a an and at by for from in into of on or the to with your our my is are as it its")
)


def as_asked(words: str) -> str:
    """What a document says to "you", as the asker says it: "your form" is "my form", "if you are" "if I am"."""
    pairs = {"you are": "I am", "you're": "I'm", "you’re": "I’m", "you were": "I was", "aren't you": "am I not"}
    text = re.sub(r"\b(you are|you're|you’re|you were)\b", lambda m: pairs[m[0].casefold()], words, flags=re.IGNORECASE)

    def mine(match: re.Match[str]) -> str:
        before, word = match[1] or "", match[2]
        if word.casefold() == "you":
            ended = re.match(r"\s*(?:$|[,.;?!)]|(?:and|or|to|for|with|by|in|on|at|from|of)\b)", text[match.end() :])
            previous = before.strip().casefold()
            if not before:
                return "I"
            return before + (
                "me"
                if previous in OBJECT_BEFORE - {"and", "or", "than", "after", "before"}
                or (
                    ended and previous not in {"if", "when", "that", "what", "where", "which", "while", "once", "until"}
                )
                else "I"
            )
        return before + MINE[word.casefold()]

    return re.sub(r"(\b[\w'’-]+\s+)?\b(yourself|yours|your|you)\b", mine, text, flags=re.IGNORECASE)


CONTENT_STOP = frozenset(
    re.findall(
        r"[\w-]+",
        """a an and any are as at be been but by can did do does for from had has have how i if in into is it
        its just may me more must my need no not of on or other our out should so some such than that the their
        them then there these they this those to up use using was we were what when where which while who whom
        whose why will with would you your yours happens know about get getting regarding happen""",
    )
)


def content_words(text: str) -> list[str]:
    """The words of a text that carry meaning, in small letters, without the plural's s."""
    found = [word.casefold() for word in re.findall(r"[^\W_][\w'’-]*", text)]
    return [word.removesuffix("s") if len(word) > 3 else word for word in found if word not in CONTENT_STOP]
