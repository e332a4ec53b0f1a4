"""A source of the recipe -> Dataset: its examples, split once and for all by their content, and what was left out."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.base.errors import UserError
from luthier.base.files import hash_of, hash_path, write_jsonl
from luthier.base.nouns import Chat, Choice, Example, Labelled, Message, Pair, Rejected, Row, Text, last_user
from luthier.base.source import Source
from luthier.data.curate.private import Private, private_of
from luthier.data.formats import PROVENANCE, TEXT, TITLE, convert, detect, renamed
from luthier.data.messages import Reading
from luthier.data.opening import (
    check_columns,
    check_reading,
    check_roles,
    check_template,
    faq_note,
    find_source,
    format_said,
    wanted_of,
)
from luthier.data.sources import origin_of
from luthier.data.text import PLAIN, Read, Wanted, case_folded
from luthier.data.unfold import UNFOLD, unfolded

if TYPE_CHECKING:
    from luthier.data.survey import Survey

LOOKED_AT = 20
"""Rows that decide what `auto` is."""
SHOWN = 5
"""Reasons in an error."""

Kinds = dict[str, tuple[int, Rejected]]
"""Kind of a reason -> (rows that have it, the first of them)."""


@dataclass(frozen=True)
class Dataset:
    """The examples of one source, in file order."""

    name: str
    format: str
    """The format the rows were read as; never auto."""
    train: list[Example]
    heldout: list[Example]
    rejected: Sequence[Rejected]
    files: int
    """Files read; with `limit`, files found."""
    rows: int
    """Rows read: train + heldout + rejected."""
    hash: str
    """Of the files' bytes and of all that the recipe says about the source but its folder."""
    duplicates: int
    """Examples whose content an earlier one has (they are kept)."""
    notes: tuple[str, ...]
    """What a user should know: the format found, columns not used, files left out."""
    survey: Survey | None = None
    """Of a streamed source: its rows, of which none are in `train`, and some in `heldout`. None: they are all here."""


def read_dataset(
    name: str, source: Source, root: Path, hashed: bool = True, raw: list[Example | Rejected] | None = None
) -> Dataset:
    """Reads the source called `name` under `data`, relative to the folder `root`; without the hash where it is not
    wanted, for which all bytes must be read. `raw` gets every row as it was before private things were looked for.

    Raises UserError: path missing or of unknown kind, a file broken as a whole, no or several formats that fit, a
    column or role mapping that cannot hold, no usable row, more than `max_rejected` of the rows rejected.
    """
    return read_opened(open_source(name, source, root), hashed, raw)


def read_opened(opened: Opened, hashed: bool = True, raw: list[Example | Rejected] | None = None) -> Dataset:
    """`read_dataset` of a source whose first rows were looked at."""
    reading = opened.conversion
    name, source = reading.name, reading.source
    examples: list[Example] = []
    rejected: list[Rejected] = []
    for row in opened.rows:
        read = reading.raw(row)
        if raw is not None:
            raw.append(read)
        made = reading.handled(read)
        if isinstance(made, Rejected):
            rejected.append(made)
        else:
            examples.append(made)
        if len(examples) == source.limit:
            break
    check_rejected(name, source, len(examples), kinds_of(rejected))
    held = [reading.held_out(example) for example in examples]
    return Dataset(
        name=name,
        format=reading.format,
        train=[example for example, out in zip(examples, held, strict=True) if not out],
        heldout=[example for example, out in zip(examples, held, strict=True) if out],
        rejected=rejected,
        files=len(opened.files),
        rows=len(examples) + len(rejected),
        hash=source_hash(opened, [hash_path(file) for file in opened.files], examples) if hashed else "",
        duplicates=len(examples) - len({content(example) for example in examples}),
        notes=(*opened.notes, *(reading.private.notes(name) if reading.private else ())),
    )


@dataclass(frozen=True)
class Conversion:
    """How the rows of a source become examples, and which of them are held out."""

    name: str
    source: Source
    format: str
    """Never auto, nor faq: its rows are qa."""
    wanted: Wanted = PLAIN
    """How the files are read."""
    private: Private | None = None
    """What is done with private things; None: nothing."""

    @property
    def reading(self) -> Reading:
        """What the recipe says about how to read."""
        said = self.source
        return Reading(self.name, said.roles, said.system, said.prompt, said.answer, said.unanswerable)

    def rows(self, read: Iterable[Read]) -> Iterator[Read]:
        """The rows of the files with columns as the recipe names them; where a row holds several, each by itself."""
        named = (self.named(row) if isinstance(row, Row) else row for row in read)
        return unfolded(named, self.format, self.reading)

    def named(self, row: Row) -> Row:
        """A row with the recipe's `columns`, and its `group` under that name."""
        row, group = renamed(row, self.source.columns), self.source.group
        if group is None or row.fields.get(group) is None:
            return row
        return Row({**row.fields, "group": row.fields[group]}, row.origin)

    def example(self, row: Read) -> Example | Rejected:
        """What one of `rows` is."""
        return self.handled(self.raw(row))

    def raw(self, row: Read) -> Example | Rejected:
        """The same, with all that is private in it."""
        if isinstance(row, Rejected):
            return row
        format = UNFOLD[self.format].format if self.format in UNFOLD else self.format
        return convert(row, format, self.reading)

    def handled(self, made: Example | Rejected) -> Example | Rejected:
        """A row with what the source says of private things done."""
        return self.private.handle(made) if self.private and not isinstance(made, Rejected) else made

    def held_out(self, example: Example) -> bool:
        """An example's side depends on nothing but itself: rows that are added move no other."""
        group = None if isinstance(example, Choice) else (example.meta or {}).get("group")
        if self.source.split_by == "group" and group is not None:
            return fraction(f"{self.name}/{group}") < self.source.heldout  # as records.Record.group has it
        key = file_of(example.origin) if self.source.split_by == "origin" else split_key(example)
        return fraction(key) < self.source.heldout


@dataclass(frozen=True)
class Opened:
    """A source about to be read."""

    path: Path
    files: list[Path]
    conversion: Conversion
    rows: Iterator[Read]
    """All of them, from the beginning."""
    notes: tuple[str, ...]
    program: bool = False
    """Whether a function of the user's makes the rows."""
    first: tuple[Read, ...] = ()
    """The first of them, as the file has them: these decided what `auto` is."""


def open_source(name: str, source: Source, root: Path) -> Opened:
    """Finds a source's files, and looks at its first rows. Raises UserError: path missing or of unknown kind, no or
    several formats that fit, a column or role mapping that cannot hold."""
    found = find_source(name, source, root)
    if not found.program:
        check_reading(name, source, found.files)
    check_roles(name, source)
    notes, wanted = list(found.notes), wanted_of(source)
    read = found.rows(wanted)
    first = take(read, LOOKED_AT)
    if source.format == "auto" and source.prompt is None and (note := faq_note(rows_of(first), source)):
        wanted, notes = wanted._replace(faq=True), [note, *notes]
        read = found.rows(wanted)
        first = take(read, LOOKED_AT)
    if not found.talk:
        check_columns(name, source, rows_of(first))
    sample = [renamed(row, source.columns) for row in rows_of(first)]
    format = format_said(source, found, wanted)
    if format == "auto" and sample:
        format = detect(sample, name)
        notes = [f"format {format}, found from the columns{unused(format, sample)}", *notes]
    check_template(name, source, sample)
    check_used(name, source, format)
    conversion = Conversion(name, source, format, wanted, private_of(source, found.talk))
    rows = conversion.rows(chain(first, read))
    return Opened(found.path, found.files, conversion, rows, tuple(notes), found.program, tuple(first))


def source_hash(opened: Opened, hashes: Sequence[str], examples: Sequence[Example] = ()) -> str:
    """Of the files' bytes and of all that the recipe says about the source but its folder; of a function's rows too,
    which may change while its file does not."""
    named = [[origin_of(file, opened.path), digest] for file, digest in zip(opened.files, hashes, strict=True)]
    made = [hash_of([content(example) for example in examples])] if opened.program else []
    return hash_of([named, opened.conversion.source.model_dump(exclude={"path"}), *made])


def part(data: Dataset, share: float) -> Dataset:
    """Part of a source's training rows, chosen by a hash of their content: a smaller part lies within a larger one, and
    rows that are added move no other. What is held out stays whole."""
    rows = [example for example in data.train if fraction(f"part {content(example)}") < share]
    return replace(data, train=rows, hash=hash_of([data.hash, "part", share]))


def at_hand(data: Dataset) -> Iterator[Example]:
    """The training rows; of a streamed source some of them."""
    return iter(data.train) if data.survey is None else data.survey.sample()


def put_aside(data: Dataset) -> int:
    """Rows that were left out by design: nothing is wrong with them, and they are no part of what is `rejected`."""
    kinds = kinds_of(data.rejected) if data.survey is None else data.survey.kinds()
    return sum(count for count, first in kinds.values() if first.aside)


def write_rejected(path: Path, rejected: Iterable[Rejected]) -> None:
    """One {origin, reason} a line, in file order; aside: true where a row was left out by design."""
    own = ((row, {"aside": True} if row.aside else {}) for row in rejected)
    write_jsonl(path, ({"origin": row.origin, "reason": row.reason, **aside} for row, aside in own))


def take(read: Iterator[Read], count: int) -> list[Read]:
    """The beginning of `read` that holds `count` rows, or all of it; what was rejected between them comes along."""
    first: list[Read] = []
    found = 0
    while found < count and (item := next(read, None)) is not None:
        first.append(item)
        found += isinstance(item, Row)
    return first


def rows_of(items: Sequence[Read]) -> list[Row]:
    return [item for item in items if isinstance(item, Row)]


def unused(format: str, sample: Sequence[Row]) -> str:
    """A text row keeps one column only: the words that say so."""
    columns = dict.fromkeys(key for row in sample for key in row.fields)
    text = next((column for column in TEXT if column in columns), None)
    left = [column for column in columns if column != text and column not in (*PROVENANCE, TITLE)]
    return f"; not used: {', '.join(left)}" if format == "text" and left else ""


def check_used(name: str, source: Source, format: str) -> None:
    """Raises UserError for settings that rows of this format have no use for."""
    wrong = []
    if source.system is not None and format in ("text", "choices"):
        wrong.append(f"data.{name}.system: its rows are {format}, and no conversations. Remove it.")
    if source.roles and format in ("text", "choices", "qa", "alpaca", "hh", "template"):
        wrong.append(f"data.{name}.roles: its rows are {format}, which name no roles. Remove it.")
    if source.split_by == "group" and format == "choices":
        wrong.append(f"data.{name}.split_by: its rows are choices, which have no group. Give row or origin.")
    if wrong:
        raise UserError(wrong)


def check_rejected(name: str, source: Source, examples: int, kinds: Kinds) -> None:
    """Raises UserError when nothing or too little is left, with the commonest reasons. What is left out by design
    counts only where nothing else is there."""
    kinds = {kind: found for kind, found in kinds.items() if not (examples and found[1].aside)}
    rejected = sum(count for count, _ in kinds.values())
    rows = examples + rejected
    if examples and rejected <= source.max_rejected * rows:
        return
    why = [
        f"  {first.origin}: {first.reason}" + (f" (and {count - 1} like it)" if count > 1 else "")
        for count, first in sorted(kinds.values(), key=lambda kind: -kind[0])[:SHOWN]
    ]
    if not examples:
        raise UserError([f"data.{name}: {source.path}: not one usable row.", *why])
    share = f"{rejected / rows:.1%}, at most {source.max_rejected:.1%} may be"
    head = f"data.{name}: {source.path}: {rejected} of {rows} rows cannot be used: {share}."
    raise UserError([head, *why, f"  Mend them, or raise data.{name}.max_rejected to go on without them."])


def fraction(text: str) -> float:
    """A number in [0, 1) that is uniform over texts: SHA-256 as a binary fraction."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()) / 2**256


def file_of(origin: str) -> str:
    """The file part of an origin: "faq.csv:17", "faq.json[3]", "leave.md#travel/per-diem", "book.pdf:p12",
    "day.json:1.02", "faq.xlsx#prices:7" and "trees.jsonl:3#2" (one of several that a row holds) without the place."""
    return re.sub(r"(?:(?::\d+|\[\d+\])#.*|(?:#[^#.]*?)?(?::p?\d+(?:\.\d+)?|\[\d+\])?)$", "", origin, count=1)


def split_key(example: Example) -> str:
    """What decides the side: the content, but of a pair or a labelled answer only the prompt. Pairs of one prompt share
    their answers, so a reward model measured on one while trained on another would look better than it is."""
    return dumped(turns(example.prompt)) if isinstance(example, Pair | Labelled) else content(example)


def content(example: Example) -> str:
    """All that a model is shown of an example, and nothing else (no origin, no meta), as one string."""
    match example:
        case Text(text):
            return text
        case Chat(messages):
            return dumped(turns(messages))
        case Pair(prompt, chosen, rejected):
            return dumped([turns(prompt), chosen, rejected])
        case Labelled(prompt, answer, good):
            return dumped([turns(prompt), answer, good])
        case Choice(context, options, gold):
            return dumped([context, list(options), gold])


def turns(messages: Sequence[Message]) -> list[list[str]]:
    return [[message.role, message.content] for message in messages]


def dumped(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def leaked(train: Sequence[Example], evaluation: Sequence[Example]) -> list[str]:
    """Origins of the evaluation rows that also stand in the training rows, case and white space aside.

    A text is its text; a conversation its last user prompt with the answer, and one without an answer its whole
    prompt; a pair its last user prompt with the chosen answer, and a good answer its own; a choice its context with
    the right option.
    """
    known = {print_ for example in train for print_ in prints(example, as_training=True)}
    return [row.origin for row in evaluation if known & prints(row, as_training=False)]


def prints(example: Example, as_training: bool) -> set[tuple[str, ...]]:
    """What an example is recognised by. A trained conversation also gives away its prompt."""
    match example:
        case Text(text):
            return {("text", case_folded(text))}
        case Chat(messages):
            whole = ("prompt", *(case_folded(m.content) for m in example.prompt if m.role != "system"))
            if example.answer is None:
                return {whole}
            answered = ("answer", case_folded(last_user(messages)), case_folded(example.answer))
            return {answered, whole} if as_training else {answered}
        case Pair(prompt, chosen):
            return {("answer", case_folded(last_user(prompt)), case_folded(chosen))}
        case Labelled(prompt, answer, good):
            return {("answer", case_folded(last_user(prompt)), case_folded(answer))} if good else set()
        case Choice(context, options, gold):
            return {("answer", case_folded(context), case_folded(options[gold]))}


def kinds_of(rejected: Iterable[Rejected]) -> Kinds:
    """How often each kind of reason came up, and the first row of each."""
    kinds: Kinds = {}
    for row in rejected:
        kind = kind_of_reason(row.reason)
        count, first = kinds.get(kind, (0, row))
        kinds[kind] = (count + 1, first)
    return kinds


def reasons(rejected: Iterable[Rejected]) -> Counter[str]:
    """How often each kind of reason came up."""
    return Counter({kind: count for kind, (count, _) in kinds_of(rejected).items()})


def kind_of_reason(reason: str) -> str:
    """A reason without what differs from row to row (values in quotes, numbers) and without the advice after it."""
    return re.sub(r"\d+", "#", re.sub(r'"[^"]*"', '"..."', reason)).split(". ")[0]
