"""Plain text and Markdown -> Row."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import IO

from luthier.base.nouns import Rejected, Row
from luthier.data.readers.sections import document_rows
from luthier.data.text import Read, Wanted, document_text, no_text, text_blocks, with_line_feeds


def txt_rows(handle: IO[bytes], origin: str, wanted: Wanted) -> Iterator[Read]:
    """The whole file as one document, or one a piece between separators (pieces of white space do not count). Parted,
    it is read twice and never held: once to see whether it is text."""
    if wanted.separator:
        if wrong := no_text(handle, wanted):
            yield Rejected(origin, wrong)
        else:
            yield from parted_rows(with_line_feeds(text_blocks(handle, wanted)), origin, wanted.separator)
        return
    try:
        text = document_text(handle, wanted)
    except ValueError as error:
        yield Rejected(origin, str(error))
        return
    if text.strip():
        yield Row({"text": text.strip("\n")}, origin)


def parted_rows(blocks: Iterable[str], origin: str, separator: str) -> Iterator[Row]:
    """The documents between separators, each at the line where it begins."""
    line = 1
    for piece in pieces(blocks, separator):
        if document := piece.strip():
            blank = piece[: piece.index(document)].count("\n")
            yield Row({"text": document}, f"{origin}:{line + blank}")
        line += piece.count("\n") + separator.count("\n")


def pieces(blocks: Iterable[str], separator: str) -> Iterator[str]:
    """What `str.split` makes of the whole text."""
    rest, searched = "", 0
    for block in blocks:
        rest += block
        start, at = 0, rest.find(separator, searched)
        while at >= 0:
            yield rest[start:at]
            start = at + len(separator)
            at = rest.find(separator, start)
        rest = rest[start:]
        searched = max(0, len(rest) - len(separator) + 1)
    yield rest


# Raw blocks and fenced code are what the page shows to its reader, tags and all; comments are what it does not.
TAGS = re.compile(
    r"(?P<fence>^[ \t]*(?P<ticks>```+|~~~+)[^\n]*\n.*?^[ \t]*(?P=ticks)[^\n]*$)"
    r"|\{%-?\s*raw\s*-?%\}(?P<raw>.*?)\{%-?\s*endraw\s*-?%\}"
    r"|\{%-?\s*comment\b.*?\{%-?\s*endcomment\s*-?%\}"
    r"|\{%(?:(?!\{%).)*?%\}",
    re.S | re.M,
)
YAML_KEY = re.compile(r"#|[\w\"'][^\n]*?:(?:\s|$)", re.M)
FRONT_VALUE = re.compile(
    r"""(?P<key>\w+):[ \t]+(?:(?P<quote>["'])(?P<quoted>.*)(?P=quote)|(?P<plain>[^\s"'\[{|>&*!%@`#].*?))"""
    r"""(?:[ \t]+#.*)?[ \t]*"""
)
ABOUT = ("title", "licence", "license", "date", "made", "generator", "terms")
RAW_MARKS = re.compile(r"\{%-?\s*(?:end)?raw\s*-?%\}")
EMPTY_LINK = re.compile(r"(?<!!)\[([^\]\[]*)\]\(\s*\)")


def markdown_rows(handle: IO[bytes], origin: str, wanted: Wanted) -> Iterator[Read]:
    """One document a file (or what `parts` asks for), without its YAML front matter and without Liquid or Jinja tags.
    What the front matter says of title, licence, date and author's kind stays, as columns."""
    try:
        text = document_text(handle, wanted)
    except ValueError as error:
        yield Rejected(origin, str(error))
        return
    if body := markdown_body(text):
        yield from document_rows(body, origin, wanted, front_matter(text))
    elif text.strip():
        yield Rejected(origin, "nothing is left without the front matter and the template's tags")


def markdown_body(text: str) -> str:
    """The text a reader of the page would see as written; a link whose target was a tag becomes its words."""

    def shown(match: re.Match[str]) -> str:
        return RAW_MARKS.sub("", match["fence"]) if match["fence"] else match["raw"] or ""

    return EMPTY_LINK.sub(r"\1", TAGS.sub(shown, without_front_matter(text))).strip()


def without_front_matter(text: str) -> str:
    """Cuts a leading block between --- lines if its first line is a YAML key or comment (else it is a rule)."""
    block = front_lines(text)
    return text if block is None else "\n".join(text.split("\n")[len(block) + 2 :])


def front_lines(text: str) -> list[str] | None:
    """What stands between the --- lines of the front matter; None: there is none."""
    lines = text.split("\n")
    if lines[0].rstrip() != "---":
        return None
    end = next((i for i, line in enumerate(lines) if i and line.rstrip() in ("---", "...")), None)
    block = "\n".join(lines[1:end]).strip()
    return None if end is None or not (block == "" or YAML_KEY.match(block)) else lines[1:end]


def front_matter(text: str) -> dict[str, str]:
    """The plain values that the front matter has for `ABOUT`'s keys."""
    found = {}
    for line in front_lines(text) or ():
        if (said := FRONT_VALUE.fullmatch(line)) and said["key"].lower() in ABOUT:
            value = said["quoted"] if said["quote"] else said["plain"].strip()
            if value:
                found[said["key"].lower()] = value
    return found
