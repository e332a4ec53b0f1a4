"""A verdict on licences in sentences for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from luthier.data.curate.licences import Line, Verdict

SHOWN = 4
"""Sources that one sentence names."""


def sentences_of(found: Verdict) -> tuple[str, ...]:
    """The verdict, the answer first."""
    if not found.rows:
        return ("There are no rows.",)
    heads = ("Not for commercial use", "Not known to be fit for commercial use", "Fit for commercial use")
    said = [_use(found.lines, found.commercial, heads, lambda line: line.terms.commercial)]
    heads = ("Not to be passed on", "Not known to be free to pass on", "Free to pass on")
    said.append(_use(found.lines, found.share, heads, lambda line: line.terms.share))
    unknown = found.rows - found.human - found.machine - found.quoted
    parts = [
        f"{count:,} {words}"
        for count, words in (
            (found.human, "by people"),
            (found.machine, "by machines"),
            (found.quoted, "quoted from documents by rules"),
            (unknown, "by nobody knows whom"),
        )
        if count
    ]
    said.append(f"Of {counted(found.rows)}, {_listed(parts)} ({found.machine / found.rows:.1%} by machines).")
    return tuple(said)


def _use(
    lines: Sequence[Line], answer: bool | None, heads: tuple[str, str, str], of: Callable[[Line], bool | None]
) -> str:
    """ "Not for commercial use, because of 214 rows from X (CC-BY-NC-4.0 is ...)." `heads`: no, unknown, yes."""
    if answer is True:
        return f"{heads[2]}: every row's licence and terms allow it."
    head = heads[0] if answer is False else heads[1]
    guilty = sorted((line for line in lines if of(line) is answer), key=lambda line: -line.rows)
    named = [
        f"{counted(line.rows)} from {line.source}" + (f" ({'; '.join(line.why)})" if line.why else "")
        for line in guilty[:SHOWN]
    ]
    if left := guilty[SHOWN:]:
        named.append(f"{sum(line.rows for line in left):,} rows of {len(left)} more kinds")
    said = f"{head}, because of {_listed(named)}."
    if answer is False and (unclear := sum(line.rows for line in lines if of(line) is None)):
        said += f" Of {unclear:,} more it is not known."
    return said


def duties_of(lines: Sequence[Line]) -> tuple[str, ...]:
    """What the licences ask of whoever passes rows or model on, each with the sources it comes from."""
    said = []
    for alike in dict.fromkeys(line.licence.id for line in lines if line.licence and line.terms.share_alike):
        said.append(f"Share alike: rows from {_sources(lines, alike)} are passed on under {alike}, changed or not.")
    several = {name for line in lines if line.licence and line.terms.share_alike for name in line.licence.names}
    if len(several) > 1:
        names = _listed(sorted(several))
        said.append(f"{names} each ask for themselves: the rows cannot be published as one set under one licence.")
    named = [line for line in lines if line.licence and line.terms.attribution]
    for id_ in dict.fromkeys(line.licence.id for line in named if line.licence):
        said.append(f"Attribution: name the authors of {_sources(named, id_)}, and the licence ({id_}).")
    for line in lines:
        if line.licence and line.licence.terms.field and line.licence.terms.commercial:
            said.append(f"{line.licence.id} ({line.source}): {line.licence.terms.field}.")
        if line.output and line.output.commercial and "no conditions" not in line.output.says:
            said.append(f"{line.generator} wrote rows of {line.source}: {line.output.says} ({line.output.text}).")
    return tuple(dict.fromkeys(said))


def counted(rows: int) -> str:
    """ "1 row", "1,264 rows" """
    return f"{rows:,} row" + ("s" if rows != 1 else "")


def _sources(lines: Sequence[Line], id_: str | None) -> str:
    return _listed(list(dict.fromkeys(line.source for line in lines if line.licence and line.licence.id == id_)))


def _listed(words: Sequence[str]) -> str:
    """ "a, b and c" """
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
