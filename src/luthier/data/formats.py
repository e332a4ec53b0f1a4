"""Row -> Example: the shapes of data that people have, side by side in `FORMATS`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from luthier.base.errors import UserError, did_you_mean
from luthier.base.nouns import Chat, Choice, Example, Labelled, Message, Pair, Rejected, Row, Text
from luthier.base.templates import columns_of, pieces_of
from luthier.data.messages import (
    OPENAI_ROLES,
    SHAREGPT_ROLES,
    SPEAKER,
    Reading,
    Unusable,
    checked,
    from_json,
    hh_messages,
    is_turns,
    messages_of,
    part,
    shown,
    with_system,
)
from luthier.data.tools import with_tools
from luthier.data.unfold import UNFOLD
from luthier.data.verdicts import gold_index, label_of, strength_of, verdict

Fields = Mapping[str, Any]

TEXT = ("text", "content", "document", "body")
COMPLETION = ("completion", "response")
OUTPUT = ("output", "response")
INPUT = ("input", "context")
PROMPT = ("prompt", "instruction", "question", "query")
CONTEXT = ("query", "question", "ctx", "context")
OPTIONS = ("choices", "endings", "options")
GOLD = ("gold", "label", "answer", "answerkey")
PROVENANCE = ("licence", "license", "made", "generator", "terms", "date", "group", "steps")
"""Columns that say where a row came from, and which rows belong together. See nouns.Provenance."""
TITLE = "title"
"""What a document is called, which its text need not say."""
SHAPES = {"messages", "conversations", "chosen", "rejected", "instruction", "question"}
KNOWN = {*TEXT, *COMPLETION, *OUTPUT, *INPUT, *PROMPT, *CONTEXT, *OPTIONS, *GOLD, *SHAPES}
KNOWN |= {"system", "accept", "margin", "agreement", *PROVENANCE}


class Format(NamedTuple):
    """A shape of rows."""

    needs: str
    """The columns, in words."""
    detects: Callable[[Fields], bool]
    """Whether these columns are of this shape."""
    convert: Callable[[Row, Reading], Example]
    """Raises Unusable."""


def convert(row: Row, name: str, reading: Reading) -> Example | Rejected:
    """The row as an example of the format `name`, or the reason why not."""
    try:
        return FORMATS[name].convert(row, reading)
    except Unusable as reason:
        return Rejected(row.origin, str(reason))


def detect(rows: Sequence[Row], name: str) -> str:
    """The one format that all rows have, or else the one that most have. Rows that hold several examples are told by
    what no other rows have, and come first. Raises UserError when none or several do."""
    folded = [key for key, shape in UNFOLD.items() if 2 * sum(shape.detects(row.fields) for row in rows) > len(rows)]
    if len(folded) == 1:
        return folded[0]
    found = [{key for key, format in FORMATS.items() if format.detects(row.fields)} for row in rows]
    fit = [key for key in FORMATS if all(key in formats for formats in found)]
    fit = folded or fit or [key for key in FORMATS if 2 * sum(key in formats for formats in found) > len(rows)]
    if len(fit) == 1:
        return fit[0]
    columns = list(dict.fromkeys(str(key) for row in rows for key in row.fields))
    lines = [f"  {key}: {needs_of(key)}" for key in fit or (*FORMATS, *UNFOLD)]
    if fit:
        head = f"data.{name}.format: {rows[0].origin} can be read as {' or as '.join(fit)}. Say which."
    else:
        head = (
            f"data.{name}.format: {rows[0].origin}: no format fits its columns: {', '.join(columns) or 'none'}. "
            f"Rename them with data.{name}.columns: {{ours: theirs}} to fit one of these:"
        )
    raise UserError([head, *lines])


def needs_of(name: str) -> str:
    """The columns of a format, in words."""
    return FORMATS[name].needs if name in FORMATS else UNFOLD[name].needs


def renamed(row: Row, columns: Mapping[str, str]) -> Row:
    """The row with {ours: theirs} applied, and known columns in our spelling ("Question " is question)."""
    taken = set(columns.values())
    fields: dict[str, Any] = {}
    for key, value in row.fields.items():
        ours = key.strip().lower()
        if key not in taken:
            fields[ours if ours in KNOWN and ours not in row.fields else key] = value
    return Row({**fields, **{ours: row.fields[key] for ours, key in columns.items() if key in row.fields}}, row.origin)


def has(fields: Fields, names: Collection[str]) -> bool:
    return any(name in fields for name in names)


def value_of(fields: Fields, names: Sequence[str], reading: Reading) -> tuple[str, Any]:
    """(column, value) of the first of the columns that is there. Raises Unusable when none is."""
    for column in names:
        if column in fields:
            return column, fields[column]
    theirs = did_you_mean(names[0], map(str, fields)).removeprefix(" Did you mean ").removesuffix("?") or "..."
    raise Unusable(
        f'no column "{names[0]}" (there are: {", ".join(map(str, fields))}). '
        f"Map one: data.{reading.name}.columns: {{{names[0]}: {theirs}}}"
    )


def string(fields: Fields, names: Sequence[str], reading: Reading) -> str:
    """The text in the first of the columns that is there; numbers count as text. Raises Unusable."""
    column, value = value_of(fields, names, reading)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise Unusable(f"{column}: is empty. Fill it or take the row away")
    if not isinstance(value, str):
        raise Unusable(f"{column}: {shown(value)} is not text")
    return value


def chat(row: Row, messages: tuple[Message, ...], used: Collection[str], reading: Reading) -> Chat:
    """A Chat of the messages, with the row's system, `accept` and, in `meta`, the columns not used."""
    fields = row.fields
    accept = from_json(fields.get("accept"))
    accepted = [] if accept in (None, "") else accept if isinstance(accept, list) else [accept]
    accepted = [str(value) if type(value) in (int, float) else value for value in accepted]
    if not all(isinstance(value, str) and value.strip() for value in accepted):
        raise Unusable(f"accept: {shown(accept)} is not a string or a list of strings")
    messages = with_system(messages, system_of(fields), reading)
    return Chat(messages, row.origin, tuple(accepted), meta(fields, {*used, "system", "accept"}))


def system_of(fields: Fields) -> str | None:
    system = fields.get("system")
    return system if isinstance(system, str) and system.strip() else None


def meta(fields: Fields, used: Collection[str]) -> dict[str, Any] | None:
    return {key: value for key, value in fields.items() if key not in used and value is not None} or None


def first_of(fields: Fields, names: Sequence[str]) -> str:
    """The first of the names that is a column, or the first name."""
    return next((name for name in names if name in fields), names[0])


def instruction_of(fields: Fields, reading: Reading) -> str:
    """Alpaca's instruction with its input, if any, a blank line below."""
    instruction = string(fields, ["instruction"], reading)
    given = fields.get(first_of(fields, INPUT))
    return f"{instruction}\n\n{given}" if isinstance(given, str) and given.strip() else instruction


def to_text(row: Row, reading: Reading) -> Text:
    kept = {key: row.fields[key] for key in (*PROVENANCE, TITLE) if row.fields.get(key) is not None}
    return Text(string(row.fields, TEXT, reading), row.origin, kept or None)


def to_messages(row: Row, reading: Reading) -> Chat:
    column, turns = value_of(row.fields, ["messages"], reading)
    messages = checked(messages_of(turns, column, reading, OPENAI_ROLES), column)
    made = chat(row, messages, {column}, reading)
    return replace(made, messages=with_tools(made.messages, row.fields))


def to_sharegpt(row: Row, reading: Reading) -> Chat:
    column, turns = value_of(row.fields, ["conversations"], reading)
    return chat(row, checked(messages_of(turns, column, reading, SHAREGPT_ROLES), column), {column}, reading)


def to_alpaca(row: Row, reading: Reading) -> Chat:
    fields = row.fields
    user, answer = Message("user", instruction_of(fields, reading)), string(fields, OUTPUT, reading)
    used = {"instruction", first_of(fields, INPUT), first_of(fields, OUTPUT)}
    return chat(row, (user, Message("assistant", answer)), used, reading)


def to_prompt_completion(row: Row, reading: Reading) -> Chat:
    """A row without a completion is a prompt alone. Either may be a list of messages."""
    fields, column = row.fields, first_of(row.fields, COMPLETION)
    alone = column not in fields
    messages = prompt_of(fields, ["prompt"], reading) if alone else completed(fields, column, reading)
    return chat(row, checked(messages, "prompt"), {"prompt", column}, reading)


def completed(fields: Fields, column: str, reading: Reading) -> tuple[Message, ...]:
    """The prompt and what follows it: a string, or a list of messages."""
    messages = prompt_of(fields, ["prompt"], reading)
    if isinstance(fields.get(column), list):
        return messages + messages_of(fields[column], column, reading)
    return (*messages, Message("assistant", string(fields, [column], reading)))


def prompt_of(fields: Fields, names: Sequence[str], reading: Reading) -> tuple[Message, ...]:
    """The prompt: a list of messages, or a string that becomes the user's. Alpaca's comes with its input."""
    column, value = value_of(fields, names, reading)
    if isinstance(value, str) and is_turns(turns := from_json(value)):
        value = turns
    if isinstance(value, list):
        return messages_of(value, column, reading)
    text = instruction_of(fields, reading) if column == "instruction" else string(fields, [column], reading)
    return (Message("user", text),)


def to_qa(row: Row, reading: Reading) -> Chat:
    question = string(row.fields, ["question"], reading)
    answer = string(row.fields, ["answer"], reading)
    return chat(row, (Message("user", question), Message("assistant", answer)), {"question", "answer"}, reading)


def to_template(row: Row, reading: Reading) -> Chat:
    """The recipe's own prompt (and answer), with the row's columns where it names them; without an answer a prompt
    alone."""
    assert reading.prompt is not None  # told with the recipe's other mistakes
    messages = [Message("user", filled(reading.prompt, row.fields, reading))]
    used = columns_of(reading.prompt)
    if reading.answer is not None:
        messages.append(Message("assistant", filled(reading.answer, row.fields, reading)))
        used += columns_of(reading.answer)
    return chat(row, tuple(messages), {*used, *(column.strip().lower() for column in used)}, reading)


def filled(template: str, fields: Fields, reading: Reading) -> str:
    """A template with the row's columns in it. Raises Unusable where one is missing or empty."""
    written = []
    for words, column in pieces_of(template):
        known = "" if column is None or column in fields else column.strip().lower()  # as `renamed` spells it
        written += [words, "" if column is None else string(fields, [known or column], reading)]
    return "".join(written)


def to_pair(row: Row, reading: Reading) -> Pair:
    """Two answers as strings, or as messages (the answer alone, or the whole conversation each)."""
    fields = row.fields
    sides = [from_json(value_of(fields, [column], reading)[1]) for column in ("chosen", "rejected")]
    asked = first_of(fields, PROMPT)
    used = {"chosen", "rejected", "system", "margin", "agreement", asked}
    if asked == "instruction":
        used.add(first_of(fields, INPUT))
    if all(isinstance(side, list | dict) for side in sides):
        chosen, rejected = messages_of(sides[0], "chosen", reading), messages_of(sides[1], "rejected", reading)
        if chosen[0].role == rejected[0].role == "assistant":
            prompt = prompt_of(fields, PROMPT, reading)
            chosen, rejected = prompt + chosen, prompt + rejected
    else:
        prompt = prompt_of(fields, PROMPT, reading)
        chosen, rejected = (
            (*prompt, Message("assistant", string(fields, [column], reading))) for column in ("chosen", "rejected")
        )
    prompt, good, bad = part(chosen, rejected)
    prompt = with_system(prompt, system_of(fields), reading)
    return Pair(prompt, good, bad, row.origin, meta(fields, used), *strength_of(fields))


def to_labelled(row: Row, reading: Reading) -> Labelled:
    """One answer, as a string or as messages, and whether it is good."""
    fields, column = row.fields, first_of(row.fields, COMPLETION)
    messages = completed(fields, column, reading)
    if checked(messages, "prompt")[-1].role != "assistant":
        raise Unusable(f"{column}: ends with a {messages[-1].role} turn. The answer that is labelled must come last")
    good = label_of(value_of(fields, ["label"], reading)[1])
    prompt = with_system(messages[:-1], system_of(fields), reading)
    return Labelled(prompt, messages[-1].content, good, row.origin, meta(fields, {"prompt", column, "label", "system"}))


def to_hh(row: Row, reading: Reading) -> Pair:
    """Two whole conversations as text, equal but for the last answer."""
    chosen, rejected = (hh_messages(string(row.fields, [column], reading), column) for column in ("chosen", "rejected"))
    prompt, good, bad = part(chosen, rejected)
    prompt = with_system(prompt, system_of(row.fields), reading)
    rest = meta(row.fields, {"chosen", "rejected", "system", "margin", "agreement"})
    return Pair(prompt, good, bad, row.origin, rest, *strength_of(row.fields))


def to_choice(row: Row, reading: Reading) -> Choice:
    """The options as a list, or as ARC's {"text": [...], "label": [...]}."""
    fields = row.fields
    column, given = value_of(fields, OPTIONS, reading)
    gold_column, gold = value_of(fields, [name for name in GOLD if fields.get(name) is not None] or GOLD, reading)
    listed = from_json(given)
    options, labels = (listed.get("text"), listed.get("label")) if isinstance(listed, dict) else (listed, None)
    if not isinstance(options, list) or not all(isinstance(option, str | int | float) for option in options):
        raise Unusable(f"{column}: {shown(given)} is not a list of strings")
    options = [str(option) for option in options]
    if len(options) < 2 or not all(option.strip() for option in options):
        raise Unusable(f"{column}: {shown(options)} is not two or more options with text")
    index = gold_index(gold, options, labels if isinstance(labels, list) else [], gold_column)
    return Choice(string(fields, CONTEXT, reading), tuple(options), index, row.origin)


def is_pair(fields: Fields) -> bool:
    return "chosen" in fields and "rejected" in fields


def is_prompt(fields: Fields) -> bool:
    return isinstance(fields.get("prompt"), str | list)


def is_labelled(fields: Fields) -> bool:
    return is_prompt(fields) and has(fields, COMPLETION) and verdict(fields.get("label")) is not None


def is_hh(fields: Fields) -> bool:
    sides = [fields.get("chosen"), fields.get("rejected")]
    return all(isinstance(side, str) and SPEAKER.match("\n\n" + side.lstrip()) for side in sides)


def is_choice(fields: Fields) -> bool:
    return has(fields, CONTEXT) and has(fields, OPTIONS) and has(fields, GOLD) and not is_pair(fields)


FORMATS: dict[str, Format] = {
    "messages": Format(
        "messages (a list of {role, content})", lambda f: "messages" in f and not is_pair(f), to_messages
    ),
    "sharegpt": Format(
        "conversations (a list of {from, value})", lambda f: "conversations" in f and not is_pair(f), to_sharegpt
    ),
    "alpaca": Format(
        "instruction, output (or response); input may be there",
        lambda f: "instruction" in f and has(f, OUTPUT) and not is_pair(f),
        to_alpaca,
    ),
    "prompt_completion": Format(
        "prompt, completion (or response); prompt alone for prompts",
        lambda f: (
            is_prompt(f)
            and not is_pair(f)
            and not is_labelled(f)
            and (has(f, COMPLETION) or not has(f, {*SHAPES, *TEXT}))
        ),
        to_prompt_completion,
    ),
    "qa": Format(
        "question, answer", lambda f: "question" in f and "answer" in f and not is_pair(f) and not is_choice(f), to_qa
    ),
    "pairs": Format(
        "chosen, rejected, and prompt (or instruction, question) unless they are lists of messages; margin and "
        "agreement may be there",
        lambda f: is_pair(f) and not is_hh(f),
        to_pair,
    ),
    "hh": Format('chosen, rejected, as "\\n\\nHuman: ...\\n\\nAssistant: ..." text', is_hh, to_hh),
    "labelled": Format(
        "prompt, completion (or response), label (true or false)",
        lambda f: is_labelled(f) and not is_pair(f),
        to_labelled,
    ),
    "template": Format("any columns, with prompt (and answer) in the recipe", lambda f: False, to_template),
    "choices": Format(
        "query (or question, ctx, context), choices (or endings, options), gold (or label, answer)",
        is_choice,
        to_choice,
    ),
    "text": Format(
        "text (or content, document, body)",
        lambda f: has(f, TEXT) and not any(FORMATS[key].detects(f) for key in FORMATS if key != "text"),
        to_text,
    ),
}
