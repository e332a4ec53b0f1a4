"""What models reply -> what was asked for: objects and lists in JSON, in fences, in numbered lines, among chatter.

Nothing here raises because of a text, whatever it holds; what cannot be read is simply not found.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

LONGEST = 200_000
"""Characters of a reply that are looked at."""
TRIED, MENDED = 200, 20
"""Brackets at which JSON is looked for, and of these at which JSON is that must be mended first."""
FENCED = re.compile(r"```[\w-]*[ \t]*\n?(.*?)(?:```|\Z)", re.DOTALL)
MARK = re.compile(r"^\s*(?:[-*•–]|\(?\d{1,3}[.):]\)?|#{1,6}\s*\d{1,3}[.):]?)\s+")
CHATTER = re.compile(
    r"(?:sure|certainly|of course|okay|ok|great|absolutely|here(?:['’]s| is| are)|i hope|let me know|note|"
    r"these are|below|the following)\b.*[:.!]?$",
    re.IGNORECASE,
)


def objects(text: str, keys: Sequence[str]) -> list[dict[str, str]]:
    """Every object in a reply that has a text under the first of `keys`: {key: text}, keys in small letters. JSON
    first (whole, in a fence, one a line, cut off at the end), else labelled lines ("Question: ...", "A: ...")."""
    text = text[:LONGEST]
    found = [row for value in values_in(text) for row in rows_of(value)]
    made = [kept for row in found if (kept := chosen(row, keys))]
    return made or labelled(text, keys)


def values_in(text: str) -> Iterator[Any]:
    """The JSON values in a text, outermost first; a list that was cut off gives the objects that are whole."""
    places = [*FENCED.findall(text), text]
    for place in places:
        found = list(whole_values(place))
        if found:
            yield from found
            return


def whole_values(text: str) -> Iterator[Any]:
    """Objects and lists that begin somewhere in a text and can be read from there."""
    decoder = json.JSONDecoder(strict=False)
    at, tries = 0, 0
    while (start := re.compile(r"[\[{]").search(text, at)) is not None and tries < TRIED:
        tries += 1
        try:
            value, end = decoder.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            value, end = mended(text, start.start()) if tries < MENDED else (None, start.start() + 1)
        if isinstance(value, dict | list) and value:
            yield value
        at = end


def mended(text: str, start: int) -> tuple[Any, int]:
    """(value, where it ends) of JSON as people and models write it: with a comma too many, or in single quotes."""
    end = matching(text, start)
    if end is None:
        return None, start + 1
    piece = text[start:end]
    for read in (
        lambda: json.loads(re.sub(r",\s*([\]}])", r"\1", piece), strict=False),
        lambda: ast.literal_eval(piece),
    ):
        try:
            return read(), end
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
    return None, start + 1


def matching(text: str, start: int) -> int | None:
    """Where the bracket that opens at `start` is closed; None where it is not, within 20,000 characters."""
    depth, quote, at = 0, "", start
    while at < min(len(text), start + 20_000):
        letter = text[at]
        if quote:
            if letter == "\\":
                at += 1
            elif letter == quote:
                quote = ""
        elif letter == '"':
            quote = letter
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1
    return None


def rows_of(value: Any, depth: int = 0) -> Iterator[Mapping[Any, Any]]:
    """The objects in a value: itself, or those in its lists."""
    if isinstance(value, Mapping):
        inner = [v for v in value.values() if isinstance(v, list | dict)]
        if inner and not any(isinstance(v, str) for v in value.values()) and depth < 4:
            for one in inner:
                yield from rows_of(one, depth + 1)
        else:
            yield value
    elif isinstance(value, list) and depth < 4:
        for one in value:
            yield from rows_of(one, depth + 1)


def chosen(row: Mapping[Any, Any], keys: Sequence[str]) -> dict[str, str]:
    """The row's texts under these keys; empty without the first."""
    said = {str(key).strip().lower(): value for key, value in row.items()}
    kept = {}
    for key in keys:
        value = said.get(key, said.get(key[0]) if len(key) > 1 else None)
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)
        if isinstance(value, str) and value.strip():
            kept[key] = value.strip()
    return kept if keys[0] in kept else {}


def labelled(text: str, keys: Sequence[str]) -> list[dict[str, str]]:
    """Lines such as "Question 1: ..." and "**Answer:** ...", each label's text down to the next label."""
    names = "|".join(re.escape(key) for key in keys) + "|" + "|".join(key[0].upper() for key in keys)
    label = re.compile(rf"^\W*(?:\d+[.)]\s*)?\**({names})\b\s*\d*\s*\**\s*[:.)]\**\s*", re.MULTILINE | re.IGNORECASE)
    starts = list(label.finditer(text))
    found: list[dict[str, str]] = []
    for match, after in zip_longest(starts, starts[1:]):
        name = match[1].lower()
        key = next((key for key in keys if name in (key, key[0])), keys[0])
        said = text[match.end() : after.start() if after else len(text)].strip().strip("*").strip()
        if key == keys[0]:
            found.append({})
        if found and said:
            found[-1].setdefault(key, said)
    return [row for row in found if keys[0] in row]


def items(text: str) -> list[str]:
    """The texts of a list: JSON strings, or numbered or marked lines, or plain lines; chatter around them is left."""
    text = text[:LONGEST]
    for value in values_in(text):
        if isinstance(value, dict):
            value = next((inner for inner in value.values() if isinstance(inner, list)), None)
        if isinstance(value, list):
            texts = [one for one in value if isinstance(one, str) and one.strip()]
            if texts:
                return [unquoted(one) for one in texts]
    fenced = FENCED.search(text)
    lines = [line for line in (fenced[1] if fenced else text).splitlines() if line.strip()]
    marked = [MARK.sub("", line) for line in lines if MARK.match(line)]
    return [said for line in marked or lines if (said := unquoted(line)) and (marked or not CHATTER.match(said))]


def one_text(text: str) -> str:
    """A reply that is to be one text, without a fence, a label or quotes around it, and without chatter before it."""
    text = text[:LONGEST].strip()
    fenced = re.fullmatch(r"(?:[^\n]{0,120}:\s*)?```[\w-]*\n(.*?)\n?```\s*", text, re.DOTALL)
    text = fenced[1].strip() if fenced else text
    first, _, rest = text.partition("\n")
    if rest.strip() and first.rstrip().endswith(":") and CHATTER.match(first.strip()):
        text = rest.strip()
    text = re.sub(
        r"^\W{0,3}(?:#?\s*(?:rewritten|created|new)\s+prompt\s*#?|instruction|question|prompt|answer)\W{0,3}:\W{0,3}\s*",
        "",
        text,
        flags=re.I,
    )
    return unquoted(text)


def unquoted(text: str) -> str:
    """Without white space, bold marks and quotes around it."""
    text = text.strip()
    text = re.sub(r"^\*\*(.*)\*\*$", r"\1", text, flags=re.DOTALL).strip()
    for left, right in (('"', '"'), ("“", "”"), ("'", "'")):
        if len(text) > 1 and text.startswith(left) and text.endswith(right) and left not in text[1:-1]:
            return text[1:-1].strip()
    return text


def grade(text: str, low: float = 1, high: float = 5) -> float | None:
    """The grade in a reply: "Score: 4", "4/5", "**4**", or a number alone on its last line; None where there is none in
    the range."""
    lines = [line.strip() for line in text[:LONGEST].splitlines() if line.strip()]
    said = re.findall(r"(?:score|grade|rating)\W{0,6}(?:is\W{0,3})?(\d+(?:\.\d+)?)", text[:LONGEST], re.IGNORECASE)
    if not said and lines:
        last = re.fullmatch(r"\W*(\d+(?:\.\d+)?)\s*(?:/\s*\d+|out of \d+)?\W*", lines[-1]) or re.fullmatch(
            r"\W*(\d+(?:\.\d+)?)\s*(?:/\s*\d+|out of \d+)?\W*", lines[0]
        )
        said = [last[1]] if last else []
    number = float(said[-1]) if said else None
    return number if number is not None and low <= number <= high else None


def grades(text: str, names: Sequence[str]) -> dict[str, float]:
    """A grade for each name: from a JSON object, or from lines "name: 4"."""
    found: dict[str, float] = {}
    for value in values_in(text[:LONGEST]):
        for row in rows_of(value):
            for key, said in row.items():
                name = next((n for n in names if n.casefold() == str(key).strip().replace("_", " ").casefold()), None)
                number = said.get("score", said.get("rating")) if isinstance(said, dict) else said
                read = grade(f"Score: {number}") if isinstance(number, int | float | str) else None
                if name is not None and read is not None:
                    found.setdefault(name, read)
    for name in names:
        match = re.search(
            rf"{re.escape(name)}\W{{0,8}}(?:score\W{{0,4}})?(\d+(?:\.\d+)?)", text[:LONGEST], re.IGNORECASE
        )
        if name not in found and match and 1 <= float(match[1]) <= 5:
            found[name] = float(match[1])
    return found
