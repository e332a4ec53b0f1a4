"""Examples -> rows of a file that others read, and the file itself. Nothing is lost: what was not used goes along in
columns of its own, and what was written is read back and compared."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from luthier.base.errors import RunError, UserError, did_you_mean
from luthier.base.files import write_bytes, write_jsonl
from luthier.base.nouns import Chat, Choice, Example, Labelled, Message, Pair, Rejected, Text
from luthier.base.source import Source
from luthier.data.dataset import content, read_dataset
from luthier.data.messages import Unusable
from luthier.data.tables import guarded
from luthier.data.verdicts import LETTERS

Fields = dict[str, Any]
ENDINGS = (".jsonl", ".parquet", ".csv")


def turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def as_messages(example: Example) -> Fields:
    """OpenAI's {messages: [{role, content}]}."""
    if not isinstance(example, Chat):
        raise Unusable(no_chat(example, "messages"))
    return {"messages": turns(example.messages), **accepted(example)}


def as_sharegpt(example: Example) -> Fields:
    """{conversations: [{from, value}]}."""
    if not isinstance(example, Chat):
        raise Unusable(no_chat(example, "sharegpt"))
    names = {"user": "human", "assistant": "gpt", "system": "system", "tool": "tool"}
    said = [{"from": names[message.role], "value": message.content} for message in example.messages]
    return {"conversations": said, **accepted(example)}


def as_alpaca(example: Example) -> Fields:
    """{instruction, input, output}, and system where there is one. One question and one answer."""
    if not isinstance(example, Chat):
        raise Unusable(no_chat(example, "alpaca"))
    *before, asked = example.prompt or (Message("user", ""),)
    if example.answer is None or asked.role != "user" or any(m.role != "system" for m in before) or len(before) > 1:
        raise Unusable("alpaca holds one question with one answer, and this is more, or less. Use --as messages")
    system = {"system": before[0].content} if before else {}
    return {"instruction": asked.content, "input": "", "output": example.answer, **system, **accepted(example)}


def as_pairs(example: Example) -> Fields:
    """{prompt, chosen, rejected}, with margin and agreement where they are known."""
    if not isinstance(example, Pair):
        raise Unusable("pairs need a chosen and a rejected answer, and this row has none. Use --as messages or text")
    strength = {"margin": example.margin, "agreement": example.agreement}
    sides = {"prompt": prompt_as(example.prompt), "chosen": example.chosen, "rejected": example.rejected}
    return sides | {key: value for key, value in strength.items() if value is not None}


def as_labelled(example: Example) -> Fields:
    """{prompt, completion, label}."""
    if not isinstance(example, Labelled):
        raise Unusable("labelled needs an answer that is marked good or bad, and this row has none")
    return {"prompt": prompt_as(example.prompt), "completion": example.answer, "label": example.good}


def as_choices(example: Example) -> Fields:
    """{query, choices, gold}."""
    if not isinstance(example, Choice):
        raise Unusable("choices need options, and this row has none")
    return {"query": example.context, "choices": list(example.options), "gold": example.gold}


def as_text(example: Example) -> Fields:
    """{text}."""
    if not isinstance(example, Text):
        raise Unusable("text is for documents: who said what would be lost. Use --as messages or pairs")
    return {"text": example.text}


SHAPES: dict[str, Callable[[Example], Fields]] = {
    "messages": as_messages,
    "sharegpt": as_sharegpt,
    "alpaca": as_alpaca,
    "pairs": as_pairs,
    "labelled": as_labelled,
    "choices": as_choices,
    "text": as_text,
}
"""What `luthier data import --as` knows; each names a format of `data`."""


def natural(example: Example) -> str:
    """The shape that holds all of an example."""
    match example:
        case Text():
            return "text"
        case Chat():
            return "messages"
        case Pair():
            return "pairs"
        case Labelled():
            return "labelled"
        case Choice():
            return "choices"


def no_chat(example: Example, shape: str) -> str:
    """Why an example is no conversation, and what to write instead."""
    return f"{shape} is for conversations, and this row is one of {natural(example)}. Use --as {natural(example)}"


def accepted(example: Chat) -> Fields:
    return {"accept": list(example.accept)} if example.accept else {}


def prompt_as(prompt: Sequence[Message]) -> str | list[dict[str, str]]:
    """A lone question as text; a conversation as messages."""
    lone = len(prompt) == 1 and prompt[0].role == "user" and prompt[0].content.lstrip()[:1] not in ("[", "{")
    return prompt[0].content if lone else turns(prompt)


def row_as(example: Example, shape: str) -> Fields:
    """An example in a shape, with all that its row said besides. A column whose name the shape needs is called other_…
    Raises Unusable where the shape cannot hold it."""
    made = SHAPES[shape](example)
    meta = None if isinstance(example, Choice) else example.meta
    spoken_for = {*made, "prompt", "messages", "conversations", "instruction", "input", "output", "chosen", "rejected",
                  "completion", "response", "label", "accept", "system", "question", "answer", "text"}  # fmt: skip
    return {**made, **{f"other_{key}" if key in spoken_for else key: value for key, value in (meta or {}).items()}}


class Written(NamedTuple):
    """What a conversion made."""

    path: Path
    shape: str
    rows: int
    rejected: list[Rejected]
    notes: list[str]


def convert_file(
    examples: Sequence[Example], rejected: Iterable[Rejected], out: Path, shape: str | None, source: Source
) -> Written:
    """Writes examples to `out` (.jsonl, .parquet or .csv), and rejected rows beside it. What `source` says of licence
    and makers stands in every row that does not say it itself.

    Raises UserError: an unknown ending or shape, a mixture without a shape; RunError where what was written does not
    read back as it was.
    """
    if out.suffix.lower() not in ENDINGS:
        raise UserError(f"--to: {out.name}: write {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}.")
    if shape is not None and shape not in SHAPES:
        raise UserError(f"--as: {shape} is not one of {', '.join(SHAPES)}.{did_you_mean(shape, SHAPES)}")
    kinds = dict.fromkeys(map(natural, examples))
    if shape is None and len(kinds) > 1:
        raise UserError(
            f"--as: the rows are {' and '.join(kinds)}. Say which are to be written: --as {next(iter(kinds))}."
        )
    chosen = shape or next(iter(kinds))
    said = {key: value for key in ("licence", "made", "generator", "terms", "date")
            if (value := source.model_dump()[key]) is not None}  # fmt: skip
    kept: list[Example] = []
    rows: list[Fields] = []
    left = list(rejected)
    for example in examples:
        try:
            row = row_as(example, chosen)
        except Unusable as reason:
            left.append(Rejected(example.origin, str(reason)))
            continue
        kept.append(example)
        rows.append({**row, **{key: value for key, value in said.items() if row.get(key) is None}})
    if not rows:
        raise UserError(
            f"--as: not one row can be written as {chosen}: {left[-1].reason if left else 'there is none'}."
        )
    notes = WRITERS[out.suffix.lower()](out, rows)
    if left:
        write_jsonl(
            out.with_name(f"{out.stem}.rejected.jsonl"), ({"origin": r.origin, "reason": r.reason} for r in left)
        )
    try:
        read_back(out, chosen, kept)
    except (RunError, UserError):
        out.unlink()
        raise
    return Written(out, chosen, len(rows), left, notes)


def read_back(out: Path, shape: str, examples: Sequence[Example]) -> None:
    """Raises RunError unless a written file reads as the examples that were written."""
    got = read_dataset("written", Source(path=out.name, format=shape, heldout=0.0), out.parent, hashed=False)  # type: ignore[arg-type]  # a shape is a format
    for index, (want, have) in enumerate(zip(examples, got.train, strict=False)):
        if content(want) != content(have):
            raise RunError(
                f"{out}: row {index + 1} ({want.origin}) does not read back as it was. Write .jsonl instead."
            )
    if len(got.train) != len(examples):
        raise RunError(f"{out}: {len(got.train)} of {len(examples)} rows read back. Write .jsonl instead.")


def write_json_lines(out: Path, rows: Sequence[Fields]) -> list[str]:
    """One row a line."""
    write_jsonl(out, rows)
    return []


def write_table(out: Path, rows: Sequence[Fields]) -> list[str]:
    """CSV with a header. Lists and objects are JSON text, the right option is a letter ("2" might be an option's own
    words). A text that a spreadsheet would run as a formula gets an apostrophe before it, which `data` takes away again
    on reading."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([guarded(name) for name in names])
    marked = 0
    for row in rows:
        if "choices" in row and row["gold"] < len(LETTERS):
            row = {**row, "gold": LETTERS[row["gold"]]}
        cells = [cell_of(row.get(name)) for name in names]
        marked += sum(isinstance(cell, str) and guarded(cell) != cell for cell in cells)
        writer.writerow([guarded(cell) if isinstance(cell, str) else cell for cell in cells])
    write_bytes(out, text.getvalue().encode())
    said = "an apostrophe stands before texts that begin with = + - @ or a tab, for spreadsheets"
    return [f"{said}: {marked:,} of them; luthier takes it away again"] if marked else []


def cell_of(value: Any) -> Any:
    """A value as a cell holds it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else value


def write_parquet(out: Path, rows: Sequence[Fields]) -> list[str]:
    """Parquet. A column whose values are of several types holds them as JSON text."""
    import pyarrow
    from pyarrow import parquet

    columns, told = {}, []
    for name in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(name) for row in rows]
        try:
            columns[name] = pyarrow.array(values)
            if columns[name].to_pylist() != values:  # a struct's missing keys come back as nulls
                raise pyarrow.ArrowInvalid("not the same")
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, pyarrow.ArrowNotImplementedError, OverflowError):
            told.append(name)
            columns[name] = pyarrow.array([as_words(value) for value in values])
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), buffer)
    write_bytes(out, buffer.getvalue())
    return [f"columns of several types are JSON text: {', '.join(told)}"] if told else []


def as_words(value: Any) -> str | None:
    """A value as text: a text as it is, anything else as JSON."""
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


WRITERS: dict[str, Callable[[Path, Sequence[Fields]], list[str]]] = {
    ".jsonl": write_json_lines,
    ".csv": write_table,
    ".parquet": write_parquet,
}


def name_from(path: str) -> str:
    """A name for a source that has none: its file's, as a recipe would spell it."""
    stem = re.sub(r"[^A-Za-z0-9_]+", "_", Path(path.removeprefix("hub:").partition("@")[0]).name.partition(".")[0])
    return stem.strip("_") or "data"
