"""What may be done with a data set, and so with a model trained on it: row by row, then as one verdict in words.

Every row has a licence (an SPDX expression) and, where a machine wrote it, terms of its generator; both must allow a
use. No legal advice: what is not known counts as unknown, and a policy refuses that unless it is told otherwise.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from luthier.base.errors import did_you_mean
from luthier.base.licences import LicencePolicy
from luthier.base.made import Wrote, wrote
from luthier.base.nouns import Provenance
from luthier.data.curate.generators import Output, family_of, is_script, meant
from luthier.data.curate.licence_table import FREE, NOTHING, TABLE, UNKNOWN, Terms, id_of, key
from luthier.data.curate.licence_words import counted, duties_of, sentences_of

CLEARED = {"commercial": Terms(True, None), "share": Terms(True, True), "none": Terms(False, False, False)}
TOKEN = re.compile(r"\(|\)|(?<![^\s(])(?:AND|OR|WITH)(?![^\s)])", re.IGNORECASE)


class Licence(NamedTuple):
    """A licence as somebody wrote it, read."""

    written: str
    id: str | None
    """The SPDX expression that is meant; None: it could not be read."""
    names: tuple[str, ...]
    """The ids in it that one is bound by (of "A OR B" the better one)."""
    terms: Terms
    problem: str | None = None
    """What is not known or wrong about it, with a hint."""


class Line(NamedTuple):
    """Rows of one source under one licence, made in one way."""

    source: str
    licence: Licence | None
    """None: nobody said."""
    made: str | None
    generator: str | None
    output: Output | None
    """What the generator's makers say; None: no generator, or one that is not known here."""
    terms: Terms
    why: tuple[str, ...]
    """Why a use is not allowed or not known."""
    rows: int


class Verdict(NamedTuple):
    """What may be done with the rows together. None: not known, because of some."""

    rows: int
    lines: tuple[Line, ...]
    """By source in the order of the rows."""
    commercial: bool | None
    share: bool | None
    human: int
    """Rows known to be written by people."""
    machine: int
    """Rows known to be written by machines."""
    quoted: int
    """Rows of people's text that rules quote, below a question of a template: not written by a machine."""
    duties: tuple[str, ...]
    """What whoever passes rows or model on must do."""
    sentences: tuple[str, ...]
    """All of it in words, the answer first."""


def licence_of(written: str, cleared: Mapping[str, str] | None = None) -> Licence:
    """A licence read: an SPDX expression with AND, OR, WITH and brackets, or a common spelling of one licence.

    Of "A OR B" the one counts that allows more, for whoever takes the rows may choose; of "A AND B" both do; an
    exception (WITH) only ever allows more, and is not counted on.
    """
    cleared = cleared or {}
    text = written.strip()
    if text in cleared:
        return Licence(text, text, (text,), CLEARED[cleared[text]])
    if text.count("(") == text.count(")") and (whole := id_of(text)) is not None:
        terms = CLEARED[cleared[whole]] if whole in cleared else TABLE[whole]
        return Licence(text, whole, (whole,), terms)
    tokens = [token for token in _pieces(text) if token]
    if len(tokens) == 1 or not any(token in ("AND", "OR", "WITH") for token in tokens):
        return _unknown(text)
    try:
        found, rest = _either(tokens, cleared)
    except ValueError as error:
        return Licence(text, None, (), UNKNOWN, f'"{text}" is no licence expression: {error}')
    if rest:
        return Licence(text, None, (), UNKNOWN, f'"{text}" is no licence expression: "{rest[0]}" is one too many')
    return found._replace(written=text)


def _pieces(text: str) -> list[str]:
    """Names, operators and brackets."""
    parts, at = [], 0
    for match in TOKEN.finditer(text):
        parts += [text[at : match.start()].strip(), match[0].upper()]
        at = match.end()
    return [*parts, text[at:].strip()]


def _either(tokens: Sequence[str], cleared: Mapping[str, str]) -> tuple[Licence, Sequence[str]]:
    """One or several joined by OR: the one that allows most."""
    found, tokens = _both(tokens, cleared)
    while tokens and tokens[0] == "OR":
        other, tokens = _both(tokens[1:], cleared)
        best = max(found, other, key=lambda licence: _freedom(licence.terms))
        found = best._replace(
            id=f"{found.id} OR {other.id}" if found.id and other.id else found.id or other.id,
            problem=None if best.terms.commercial is not None else found.problem or other.problem,
        )
    return found, tokens


def _both(tokens: Sequence[str], cleared: Mapping[str, str]) -> tuple[Licence, Sequence[str]]:
    """One or several joined by AND: what all of them allow."""
    found, tokens = _one(tokens, cleared)
    while tokens and tokens[0] == "AND":
        other, tokens = _one(tokens[1:], cleared)
        id_ = f"{found.id} AND {other.id}" if found.id and other.id else None
        names = (*found.names, *other.names)
        terms = both(found.terms, other.terms)
        found = Licence("", id_, names, terms, found.problem or other.problem)
    return found, tokens


def _one(tokens: Sequence[str], cleared: Mapping[str, str]) -> tuple[Licence, Sequence[str]]:
    """A licence, with an exception or without, or brackets."""
    if not tokens or tokens[0] in ("AND", "OR", "WITH", ")"):
        raise ValueError(f"a licence is missing {f'before {tokens[0]}' if tokens else 'at the end'}")
    if tokens[0] == "(":
        found, rest = _either(tokens[1:], cleared)
        if not rest or rest[0] != ")":
            raise ValueError("a bracket is not closed")
        bracketed = f"({found.id})" if found.id and " " in found.id else found.id
        return found._replace(id=bracketed), rest[1:]
    found, rest = licence_of(tokens[0], cleared), tokens[1:]
    if rest and rest[0] == "WITH":
        if len(rest) < 2 or rest[1] in ("AND", "OR", "WITH", "(", ")"):
            raise ValueError("an exception is missing after WITH")
        return found._replace(id=f"{found.id} WITH {rest[1]}" if found.id else None), rest[2:]
    return found, rest


def _unknown(text: str) -> Licence:
    """A licence that is not in the table."""
    if key(text) in NOTHING:
        return Licence(text, None, (), UNKNOWN, "no licence is given")
    if text.startswith("LicenseRef-"):
        return Licence(text, text, (text,), UNKNOWN, f"{text} is a licence of somebody's own, not read here")
    hint = did_you_mean(text, TABLE) or did_you_mean(text.upper(), TABLE)
    return Licence(text, None, (), UNKNOWN, f'"{text}" is no licence that is known here.{hint}')


def _freedom(terms: Terms) -> tuple[int, ...]:
    """For max(): what allows more, and asks for less."""
    rank = {True: 2, None: 1, False: 0}
    return (
        rank[terms.commercial],
        rank[terms.share],
        rank[terms.derivatives],
        not terms.share_alike,
        not terms.attribution,
        terms.field is None,
    )


def both(a: Terms, b: Terms) -> Terms:
    """What two terms allow together."""
    return Terms(
        all_of([a.commercial, b.commercial]),
        all_of([a.share, b.share]),
        all_of([a.derivatives, b.derivatives]),
        a.share_alike or b.share_alike,
        a.attribution or b.attribution,
        "; ".join(dict.fromkeys(field for field in (a.field, b.field) if field)) or None,
    )


def all_of(answers: Iterable[bool | None]) -> bool | None:
    """True if all are, False if any is, else unknown."""
    found = set(answers)
    return False if False in found else None if None in found else True


def line_of(row: Provenance, rows: int, cleared: Mapping[str, str] | None = None) -> Line:
    """What may be done with rows of one provenance, and why not more."""
    cleared = cleared or {}
    if row.source in cleared:
        terms = CLEARED[cleared[row.source]]
        licence = licence_of(row.licence, cleared) if row.licence else None
        ruled = () if terms.commercial else (f'the recipe says that "{row.source}" is not to be used',)
        return Line(row.source, licence, row.made, row.generator, None, terms, ruled, rows)
    why: list[str] = []
    licence = None if row.licence is None else licence_of(row.licence, cleared)
    if licence is None:
        terms = UNKNOWN
        why.append("nobody said under which licence")
    else:
        terms = licence.terms
        if licence.problem:
            why.append(licence.problem)
        elif not terms.commercial or not terms.share:
            why.append(f"{licence.id} is {terms.field}" if terms.field else f"{licence.id} {_limits(terms)}")
    output, own, said = _generated(row, cleared)
    why += said
    return Line(row.source, licence, row.made, row.generator, output, both(terms, own), tuple(why), rows)


def _limits(terms: Terms) -> str:
    """What terms forbid, in words, where their own words do not say."""
    if terms.commercial is False:
        return "does not allow commercial use"
    return "does not allow changed rows to be passed on" if terms.share is False else "does not say"


def _generated(row: Provenance, cleared: Mapping[str, str]) -> tuple[Output | None, Terms, list[str]]:
    """(the makers' terms, what they allow, why not more) of what a machine wrote."""
    name = row.generator
    if name is not None and name in cleared:
        return None, CLEARED[cleared[name]], [] if cleared[name] != "none" else [f"the recipe rules {name} out"]
    if row.terms is not None:
        if row.terms in cleared:
            return None, CLEARED[cleared[row.terms]], []
        named = id_of(row.terms)
        terms = TABLE[named] if named else meant(row.terms)
        if terms is None:
            return None, UNKNOWN, [f'what the terms "{row.terms}" allow is not known here']
        of = f"written by {name}, " if name else ""
        return None, terms, [] if terms.commercial else [f'{of}whose output is under the terms "{row.terms}"']
    if name is None:
        why = [] if row.made != "machine" else ["written by a machine, and nobody said by which"]
        return None, (FREE if not why else UNKNOWN), why
    if is_script(name):
        return None, FREE, []
    output = family_of(name)
    if output is None:
        return None, UNKNOWN, [f"written by {name}, whose terms are not known here"]
    terms = Terms(output.commercial, output.share, field=None if output.commercial is True else output.says)
    return output, terms, [] if output.commercial else [f"written by {name}: {output.says} ({output.text})"]


def verdict(provenances: Iterable[Provenance], cleared: Mapping[str, str] | None = None) -> Verdict:
    """What may be done with rows of these provenances, one a row. `cleared`: LicencePolicy's."""
    counts: Counter[tuple[str, str | None, str | None, str | None, str | None]] = Counter(
        (row.source, row.licence, row.made, row.generator, row.terms) for row in provenances
    )
    lines = tuple(
        line_of(Provenance(source, licence, made, generator, terms), rows, cleared)  # type: ignore[arg-type]
        for (source, licence, made, generator, terms), rows in counts.items()
    )
    commercial = all_of(line.terms.commercial for line in lines)
    share = all_of(line.terms.share for line in lines)
    by = Counter[Wrote]()
    for (source, licence, made, generator, terms), rows in counts.items():
        by[wrote(Provenance(source, licence, made, generator, terms))] += rows  # type: ignore[arg-type]
    duties = duties_of(lines)
    found = Verdict(counts.total(), lines, commercial, share, by["human"], by["machine"], by["quoted"], duties, ())
    return found._replace(sentences=sentences_of(found))


def refusals(found: Verdict, policy: LicencePolicy) -> list[str]:
    """Why a recipe's policy does not allow the rows, worst first, each naming the source; empty: it does.
    The verdict is made with the policy's `cleared`."""
    wrong = [(line.rows, f"data.{line.source}: {said}.") for line in found.lines for said in _refused(line, policy)]
    share = found.machine / found.rows if found.rows else 0.0
    if policy.machine_frac is not None and share > policy.machine_frac:
        at_most = f"at most {policy.machine_frac:.1%} may be"
        wrong.append((found.machine, f"{share:.1%} of the rows are written by machines, and {at_most}."))
    return [said for _, said in sorted(wrong, key=lambda each: -each[0])]


USES: dict[str, dict[str, str]] = {
    "any": {},
    "commercial": {"commercial": "used commercially"},
    "share": {"commercial": "used commercially", "share": "passed on"},
}


def _refused(line: Line, policy: LicencePolicy) -> list[str]:
    """What a policy has against rows of one kind."""
    said, count = [], counted(line.rows)
    answers = {"commercial": line.terms.commercial, "share": line.terms.share}
    why = "; ".join(line.why) or "the terms do not allow it"
    uses = USES[policy.allow]
    if forbidden := [words for use, words in uses.items() if answers[use] is False]:
        said.append(f"{count} may not be {forbidden[0]}: {why}")
    elif policy.unclear == "refuse" and (unclear := [words for use, words in uses.items() if answers[use] is None]):
        said.append(f"whether {count} may be {unclear[0]} is not known: {why}")
    if line.licence is None:
        return said
    under = f"{count} under {line.licence.id or line.licence.written}"
    for pattern in policy.refuse:
        if any(fnmatchcase(name, pattern) or name == id_of(pattern) for name in line.licence.names):
            said.append(f"{under}, which the recipe refuses ({pattern})")
    if line.terms.share_alike and not policy.share_alike:
        said.append(f"{under}, which must be passed on with them (share_alike: false)")
    return said


def allowed(found: Verdict, policy: LicencePolicy) -> bool:
    """Whether a recipe's policy allows the rows."""
    return not refusals(found, policy)
