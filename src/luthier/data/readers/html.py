"""Web pages -> Row: the text without menus, footers and scripts, in Markdown; FAQ pages as questions and answers."""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import IO, Any

from luthier.base.nouns import Rejected, Row
from luthier.data.readers.extra import library
from luthier.data.readers.headings import numbered, slug_of
from luthier.data.readers.sections import document_rows
from luthier.data.text import OR_SAY, Read, Wanted, encoding_of, not_text, whole

LONGEST_PAGE = 1 << 24
"""Bytes: the tree of a page takes some twenty for one of them."""
CHARSET = re.compile(rb"<meta[^>]+charset\s*=\s*[\"']?\s*([\w:.-]+)|<\?xml[^>]+encoding\s*=\s*[\"']([\w:.-]+)", re.I)
LATIN = {"iso8859-1", "ascii"}
"""What browsers read as cp1252."""
COMMONS = re.compile(r"creativecommons\.org/(?:licenses/(by[a-z-]*)/(\d\.\d)|publicdomain/(zero)/1\.0)")
LINE_START = re.compile(r"^\\(?=[#>+-])", re.M)
ESCAPED = re.compile(r"\\([\[\]*_`~()!#+.<>|{}-])")
CODE = re.compile(r"(^```.*?^```[^\n]*$|`[^`\n]+`)", re.M | re.S)
BLANK_LINES = re.compile(r"\n{3,}")
LINE_END = re.compile(r"[ \t]+$", re.M)
BLANKS = re.compile(r"[ \t\n\r\f]+")
PERMALINK = re.compile(r"\s*[#¶§🔗]\s*$")
NOTHING = "no text is left without menus, scripts and styles. Save the page as a browser shows it, or take it away"
Asked = list[tuple[str, str]]
"""Questions with their answers."""


def html_rows(handle: IO[bytes], origin: str, wanted: Wanted) -> Iterator[Read]:
    """One document a page (or what `parts` asks for). Of a page that calls itself a FAQ in schema.org's words, the
    questions where a FAQ is wanted."""
    try:
        html = html_text(handle, wanted)
        if not html.strip():
            return
        with library("a web page"):
            about, asked = said_of(html)
            text = "" if wanted.faq and asked else markdown_of(html)
    except ValueError as error:
        yield Rejected(origin, str(error))
        return
    if wanted.faq and asked:
        seen: Counter[str] = Counter()
        for question, answer in asked:
            place = numbered(slug_of(question), seen)
            yield Row({"question": question, "answer": answer, **about}, f"{origin}#{place}")
    elif text:
        yield from document_rows(text, origin, wanted, {**about, **({"schema": "FAQPage"} if asked else {})})
    else:
        yield Rejected(origin, NOTHING)


def html_text(handle: IO[bytes], wanted: Wanted) -> str:
    """A page's bytes as its first ones, the recipe, or the page itself say that they are written. Raises ValueError."""
    data = whole(handle, LONGEST_PAGE)
    encoding = encoding_of(data[:4], wanted)
    if encoding == "utf-8" and wanted.encoding is None and (said := CHARSET.search(data[:4096])):
        encoding = named_encoding((said[1] or said[2]).decode())
    text = data.decode(encoding, "luthier.lone").removeprefix("\ufeff").replace("\r\n", "\n")
    if wrong := not_text(text, OR_SAY):
        raise ValueError(wrong)
    return text


def named_encoding(name: str) -> str:
    """Python's name for a page's charset. Raises ValueError on one that nobody knows."""
    try:
        known = codecs.lookup(name)
        b"".decode(known.name)
    except LookupError:  # "none", and Python's codecs that are no encodings of text
        raise ValueError(f'its charset "{name}" is not known. Save the page as UTF-8') from None
    # Browsers take Latin-1 for cp1252; a page that could say "UTF-16" in ASCII letters is not UTF-16.
    return "cp1252" if known.name in LATIN else "utf-8" if known.name.startswith(("utf-16", "utf-32")) else known.name


def markdown_of(html: str) -> str:
    """A page's main text: headings, lists, tables and code are kept, menus, footers, forms and scripts are not. Empty
    where there is none."""
    page = tree_of(html)
    tidy(page)
    if not page.text_content().strip():
        return ""
    there = len(page.xpath("//*[self::h1 or self::h2 or self::h3 or self::h4][normalize-space()][not(ancestor::nav)]"))
    found = extracted(page)
    if 2 * sum(line.startswith("#") for line in found.split("\n")) < there:
        # No main part was recognised, and of the rest trafilatura takes paragraphs only: so all of it is the main part.
        main, body = page.makeelement("article"), page.find("body")
        main.extend(list(body))
        main.text, body.text = body.text, None
        body.append(main)
        found = max(found, extracted(page), key=len)
    parts = CODE.split(found)
    shown = [part if i % 2 else LINE_START.sub("\0", part) for i, part in enumerate(parts)]
    shown = [part if i % 2 else ESCAPED.sub(r"\1", part).replace("\0", "\\") for i, part in enumerate(shown)]
    return BLANK_LINES.sub("\n\n", LINE_END.sub("", "".join(shown))).strip()


def extracted(page: Any) -> str:
    """What trafilatura makes of a tree."""
    import trafilatura
    from lxml import html as pages

    found = trafilatura.extract(
        pages.tostring(page, encoding="unicode"),
        output_format="markdown",
        include_comments=False,
        include_formatting=True,
        include_tables=True,
        favor_recall=True,
    )
    return found or ""


def tidy(page: Any) -> None:
    """Makes a tree say in plain elements what trafilatura would stumble over: headings with line breaks or permalinks
    inside, questions that unfold, the source's own line breaks."""
    for element in page.iter("summary", "dt"):  # what is unfolded below it is its answer
        if element.text_content().strip().endswith("?"):
            element.tag = "h5"
    for element in page.iter("details", "dl", "dd"):
        element.tag = "div"
    for line_break in page.iter("br"):
        line_break.tail = f" {line_break.tail or ''}"
    for heading in list(page.iter("h1", "h2", "h3", "h4", "h5", "h6")):
        words = PERMALINK.sub("", " ".join(heading.text_content().split()))
        for child in list(heading):
            heading.remove(child)
        heading.text = words
    kept = {inner for block in page.iter("pre", "textarea") for inner in block.iter()}
    for element in page.iter():
        if element not in kept:
            element.text = BLANKS.sub(" ", element.text) if element.text else element.text
        if element.tail and element.getparent() not in kept:
            element.tail = BLANKS.sub(" ", element.tail)


def tree_of(html: str) -> Any:
    """The page as lxml's tree; an XML declaration would make it refuse a string."""
    from lxml import html as pages

    return pages.document_fromstring(re.sub(r"^\s*<\?xml[^>]*>", "", html), ensure_head_body=True)


def said_of(html: str) -> tuple[dict[str, str], Asked]:
    """A page's title and licence, as columns, and the questions that it marks as such: schema.org's FAQPage, in JSON-LD
    or in the page's own elements."""
    page = tree_of(html)
    about = {}
    if title := " ".join(page.findtext(".//title", "").split()):
        about["title"] = title
    for link in page.xpath("//*[contains(concat(' ', @rel, ' '), ' license ')]/@href"):
        if said := COMMONS.search(link):
            about["licence"] = "CC0-1.0" if said[3] else f"CC-{said[1].upper()}-{said[2]}"
    asked: Asked = []
    for script in page.xpath("//script[@type='application/ld+json']/text()"):
        try:
            asked += list(in_json(json.loads(script)))
        except (ValueError, RecursionError):  # pages are full of broken ones; the text is read all the same
            continue
    return about, asked or in_elements(page)


def in_json(value: Any) -> Iterator[tuple[str, str]]:
    """The questions of a JSON-LD value, at any depth."""
    waiting = [value]
    while waiting:
        part = waiting.pop(0)
        if isinstance(part, list):
            waiting = part + waiting
        elif isinstance(part, dict):
            answer = part.get("acceptedAnswer")
            answer = answer[0] if isinstance(answer, list) and answer else answer
            name, text = part.get("name"), answer.get("text") if isinstance(answer, dict) else None
            if "Question" in str(part.get("@type")) and isinstance(name, str) and isinstance(text, str):
                if both := answered(name, text):
                    yield both
            else:
                waiting = [inner for inner in part.values() if isinstance(inner, list | dict)] + waiting


def in_elements(page: Any) -> Asked:
    """The questions of a page's microdata."""
    found = []
    for question in page.xpath("//*[contains(@itemtype, 'schema.org/Question')]"):
        name = question.xpath("(.//*[@itemprop='name'])[1]")
        text = question.xpath("(.//*[@itemprop='acceptedAnswer']//*[@itemprop='text'])[1]")
        if name and text and (both := answered(outer(name[0]), outer(text[0]))):
            found.append(both)
    return found


def outer(element: Any) -> str:
    from lxml import html as pages

    return str(element.get("content") or pages.tostring(element, encoding="unicode", with_tail=False))


def answered(question: str, answer: str) -> tuple[str, str] | None:
    """A question in one line and its answer in Markdown, from text that may hold tags."""
    asked, said = " ".join(words_of(question).split()), words_of(answer)
    return (asked, said) if asked and said else None


def words_of(html: str) -> str:
    """Text that may hold tags, as a reader sees it; its paragraphs and items on lines of their own."""
    from lxml import html as pages

    if not html.strip():
        return ""
    part = pages.fragment_fromstring(html, create_parent="div")
    for element in part.iter():
        if element.tag == "li":
            element.text = f"- {element.text or ''}"
        if element.tag in ("p", "div", "li", "br", "ul", "ol", "tr", "h1", "h2", "h3", "h4"):
            element.tail = f"\n{'' if element.tag in ('br', 'li', 'tr') else chr(10)}{element.tail or ''}"
    lines = [" ".join(line.split()) for line in part.text_content().split("\n")]
    return BLANK_LINES.sub("\n\n", "\n".join(lines)).strip()
