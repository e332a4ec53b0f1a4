"""A Markdown document as sections: what stands under which headings, in blocks, as a reader sees it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

Kind = Literal["paragraph", "list", "steps", "table", "code"]

HEADING = re.compile(r"(#{1,6})\s+(.*?)\s*#*\s*$")
ITEM = re.compile(r"(?P<indent>\s*)(?P<mark>[-*+•]|\d{1,3}[.)])\s+(?P<text>.*)")
FENCE = re.compile(r"\s*(```+|~~~+)")
RULE = re.compile(r"\s*(?:-\s*){3,}$|\s*(?:\*\s*){3,}$|\s*(?:_\s*){3,}$")
TABLE_RULE = re.compile(r"\s*\|?\s*:?-{2,}:?\s*(?:\|\s*:?-{2,}:?\s*)*\|?\s*$")
LINK = re.compile(
    r"(?<!!)\[((?:[^\[\]]|\[[^\[\]]*\])*)\](?:\([^()\s]*(?:\([^()]*\)[^()\s]*)*(?:\s+\"[^\"]*\")?\)|\[[^\]]*\])"
)
BARE_LINK = re.compile(r"<?https?://\S+>?")


@dataclass(frozen=True, slots=True)
class Block:
    """A paragraph, a list, a table or code. `text` has neither emphasis nor links' targets; lists keep their marks."""

    kind: Kind
    text: str
    items: tuple[str, ...] = ()
    """Of a list: each item by itself, without its mark; what stands indented below it comes with it."""
    rows: tuple[tuple[str, ...], ...] = ()
    """Of a table, its head first."""
    linked: float = 0.0
    """Share of its letters that are a link's."""
    raw: str = ""
    """As the document has it."""


@dataclass(frozen=True, slots=True)
class Section:
    """What stands under one heading, down to the next one of any level."""

    path: tuple[str, ...]
    """Its heading, last, and those above it; empty before the first."""
    blocks: tuple[Block, ...]

    @property
    def heading(self) -> str:
        """Its own heading; empty before the first."""
        return self.path[-1] if self.path else ""

    @property
    def text(self) -> str:
        """All blocks, a blank line between them."""
        return "\n\n".join(block.text for block in self.blocks)


def sections(text: str) -> list[Section]:
    """A document's sections, in order; those without a heading or a block are left out."""
    found, path, lines = list[Section](), list[tuple[int, str]](), list[str]()

    def close() -> None:
        made = tuple(blocks(lines))
        if made:
            found.append(Section(tuple(words for _, words in path), made))
        lines.clear()

    fence = ""
    for line in as_atx(text.splitlines()):
        if mark := FENCE.match(line):
            fence = "" if fence and mark[1].startswith(fence) else fence or mark[1]
        heading = HEADING.match(line) if not fence else None
        if heading is None:
            lines.append(line)
            continue
        close()
        level, words = len(heading[1]), plain(heading[2])
        path[:] = [(above, said) for above, said in path if above < level]
        if words:
            path.append((level, words))
    close()
    return found


def as_atx(lines: Sequence[str]) -> Iterator[str]:
    """Headings that are underlined, as ones with a mark before them."""
    skip = False
    for line, below in zip_longest(lines, lines[1:], fillvalue=""):
        if skip:
            skip = False
            continue
        under = (
            re.fullmatch(r"(=+|-+)\s*", below) if line.strip() and not ITEM.match(line) and "|" not in line else None
        )
        if under and len(under[1]) >= 3 and not HEADING.match(line) and not line.startswith((" ", ">")):
            yield f"{'#' if under[1][0] == '=' else '##'} {line.strip()}"
            skip = True
        else:
            yield line


def blocks(lines: Sequence[str]) -> Iterator[Block]:
    """The blocks of some lines without headings."""
    at = 0
    while at < len(lines):
        line = lines[at]
        if not line.strip() or RULE.match(line):
            at += 1
        elif fence := FENCE.match(line):
            end = next((i for i in range(at + 1, len(lines)) if lines[i].strip().startswith(fence[1])), len(lines))
            yield Block("code", "\n".join(lines[at + 1 : end]).strip("\n"), raw="\n".join(lines[at : end + 1]))
            at = end + 1
        elif "|" in line and at + 1 < len(lines) and TABLE_RULE.match(lines[at + 1]) and "|" in lines[at + 1]:
            end = next((i for i in range(at + 2, len(lines)) if "|" not in lines[i]), len(lines))
            yield table([line, *lines[at + 2 : end]])
            at = end
        elif ITEM.match(line):
            end = end_of_list(lines, at)
            yield listed(lines[at:end])
            at = end
        else:
            end = next((i for i in range(at + 1, len(lines)) if ends_paragraph(lines, i)), len(lines))
            whole = re.sub(r"</?[A-Za-z][^<>]*>", "", "\n".join(lines[at:end]))
            raw = "\n".join(re.sub(r"^\s*>\s?", "", one) for one in whole.split("\n"))
            if words := plain(" ".join(raw.split())):
                yield Block("paragraph", words, linked=linked_share(raw), raw=raw)
            at = end


def ends_paragraph(lines: Sequence[str], at: int) -> bool:
    """Whether a paragraph ends before this line."""
    line = lines[at]
    starts_table = "|" in line and at + 1 < len(lines) and TABLE_RULE.match(lines[at + 1]) and "|" in lines[at + 1]
    return not line.strip() or bool(ITEM.match(line) or FENCE.match(line) or RULE.match(line) or starts_table)


def end_of_list(lines: Sequence[str], at: int) -> int:
    """The first line that no longer belongs to the list that begins here."""
    end = at + 1
    while end < len(lines):
        line = lines[end]
        if not line.strip():
            after = next((other for other in lines[end:] if other.strip()), "")
            if not (ITEM.match(after) or after.startswith(("  ", "\t"))) or HEADING.match(after):
                break
        elif RULE.match(line):
            break
        end += 1
    return end


def listed(lines: Sequence[str]) -> Block:
    """A list, with its nested lists as lines of the items that they stand in."""
    first = ITEM.match(lines[0])
    assert first is not None
    outer = len(first["indent"].expandtabs(4))
    items: list[list[str]] = []
    shown: list[str] = []
    number = 0
    for line in lines:
        item = ITEM.match(line)
        if item is None:
            if words := plain(line.strip()):
                shown[-1] += f" {words}"
                items[-1][-1] += f" {words}"
            continue
        words = plain(item["text"])
        depth = len(item["indent"].expandtabs(4)) - outer
        if depth < 2:
            number += 1
            shown.append(f"{number}. {words}" if first["mark"][0].isdigit() else f"- {words}")
            items.append([words])
        else:
            shown.append(f"   - {words}")
            items[-1].append(f"- {words}")
    kind: Kind = "steps" if first["mark"][0].isdigit() else "list"
    raw = "\n".join(lines)
    return Block(kind, "\n".join(shown), tuple("\n".join(item) for item in items), linked=linked_share(raw), raw=raw)


def table(lines: Sequence[str]) -> Block:
    """A table of pipes; rows shorter than the head are filled up."""
    rows = [
        [plain(cell) for cell in re.split(r"(?<!\\)\|", line.strip().removeprefix("|").removesuffix("|"))]
        for line in lines
    ]
    width = len(rows[0])
    cut = tuple(tuple((row + [""] * width)[:width]) for row in rows)
    raw = "\n".join(lines)
    text = "\n".join(" | ".join(row) for row in cut)
    return Block("table", text, rows=cut, linked=linked_share(raw), raw=raw)


def plain(text: str) -> str:
    """Markdown within a line as its reader sees it: words of links, no emphasis, no images, no tags."""
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)(?:\{[^}]*\})?", "", text)
    text = LINK.sub(r"\1", text)
    text = re.sub(r"\{[:#.][^{}]*\}|\[\^[^\]]+\]", "", text)
    text = re.sub(r"<(https?://[^\s>]+|[^\s<>@]+@[^\s<>]+)>", r"\1", text)
    text = re.sub(r"</?[A-Za-z][^<>]*>", "", text)
    codes: list[str] = []

    def aside(match: re.Match[str]) -> str:
        codes.append(match[2])
        return f"\0{len(codes) - 1}\0"

    text = re.sub(r"(`+)(.+?)\1", aside, text)
    text = re.sub(r"(\*\*\*|\*\*|__)(?=\S)(.+?)(?<=\S)\1", r"\2", text)
    text = re.sub(r"(?<![\w*])\*(?=\S)([^*]+?)(?<=\S)\*(?![\w*])|(?<!\w)_(?=\S)([^_]+?)(?<=\S)_(?!\w)", r"\1\2", text)
    text = re.sub(r"\\([\\`*_{}\[\]()#+.!|-])", r"\1", text)
    text = re.sub("\0(\\d+)\0", lambda match: codes[int(match[1])], text)
    text = text.replace("&nbsp;", " ").replace("&amp;", "&").replace("&gt;", ">").replace("&lt;", "<")
    return " ".join(text.split())


def linked_share(raw: str) -> float:
    """Share of a text's letters that stand in links: a list of links has nearly all."""
    linked = [match[1] for match in LINK.finditer(raw)] + BARE_LINK.findall(LINK.sub(" ", raw))
    letters = len(re.sub(r"\W", "", plain(raw)))
    return min(1.0, sum(len(re.sub(r"\W", "", plain(words))) for words in linked) / letters) if letters else 1.0
