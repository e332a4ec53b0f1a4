"""The synthesise stage: rows made from a source, by rules or by asking a model. kept.jsonl and heldout.jsonl hold what
was made of the source's training rows and of its held-out ones; rejected.jsonl what came to nothing, and why."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from luthier.base.errors import RunError, UserError
from luthier.base.events import EventLog
from luthier.base.files import hash_of
from luthier.base.made import RULES
from luthier.base.nouns import Chat, Example, Provenance, Record, Rejected, Text, last_user
from luthier.base.source import Source
from luthier.base.spaced import spaced
from luthier.base.synthesis import METHODS, Synthesise, asking
from luthier.data.dataset import Dataset, file_of, fraction, split_key, write_rejected
from luthier.data.records import record_of, write_records
from luthier.data.synthesis.estimate import estimate
from luthier.data.synthesis.made import Dropped, Made
from luthier.data.synthesis.means import Means
from luthier.data.synthesis.rules import questions_by_rules
from luthier.data.synthesis.ways import MIXING, WAYS
from luthier.evals.consistency import is_paraphrase
from luthier.evals.refusals import declines
from luthier.evals.support import unsupported
from luthier.run.context import Context
from luthier.run.kept import SIDES
from luthier.run.made_facts import Result, facts_of, preflight, reasons_of, told
from luthier.run.memo import StageFolder
from luthier.run.paying import CAPPED, Meter
from luthier.run.writers import Writer, draws, writer_of

GRADE_TOKENS = 200
"""Longest reply of one who grades."""


class Sides(NamedTuple):
    """Rows that a method reads, of the source's training side and of its held-out side."""

    train: list[Any]
    heldout: list[Any]


def synthesise(context: Context, index: int, stage: Synthesise) -> None:
    """Makes kept.jsonl and heldout.jsonl, or skips the stage. Raises RunError where nothing was made, or too many
    questions got no answer; what was answered stays on disk and is not asked again."""
    data = context.dataset(stage.data)
    meter = meter_of(stage)
    progress = Progress()
    writers = writers_of(context, stage, meter, progress)
    inputs = {f"data.{stage.data}": data.hash, **{what: writer.hash for what, writer in writers.items()}}
    folder = context.stage(index, stage.name or stage.kind, stage, inputs)
    if folder.done:
        return
    log = folder.open()
    log.emit("begin", stage=folder.name, stage_kind=folder.kind)
    sides = rows_for(stage, data)
    if asking(stage):
        guess = estimate(stage, sides.train, sides.heldout)
        log.emit("note", text=preflight(stage, writers, guess))
        progress.begin(log, guess.requests)
    means = means_of(context, stage, writers)
    made = {name: one_method(name, stage, sides, means) for name in stage.methods}
    finish(context, folder, stage, sides, made, meter, writers)


class Progress:
    """Tells how many questions are answered, in the threads that ask them."""

    def __init__(self) -> None:
        self.log: EventLog | None = None
        self.requests = self.done = 0
        self.lock = threading.Lock()

    def begin(self, log: EventLog, requests: int) -> None:
        """From now on there is a log to tell it to; about so many are to come."""
        self.log, self.requests = log, requests

    def __call__(self, more: int) -> None:
        with self.lock:
            self.done += more
            if self.log is not None and more:
                self.log.emit("step", step=self.done, steps=max(self.requests, self.done))


def meter_of(stage: Synthesise) -> Meter:
    """The limits and the cap of a stage."""
    return Meter(stage.price, stage.spend_cap_usd, stage.requests_per_min, stage.tokens_per_min, stage.max_new_tokens)


def writers_of(context: Context, stage: Synthesise, meter: Meter, progress: Callable[[int], None]) -> dict[str, Writer]:
    """Who writes, and who grades. Raises UserError where a model is not there."""
    if not asking(stage):
        return {}
    assert stage.model is not None
    found = {"model": writer_of(context, stage, stage.model, meter, progress)}
    if stage.judge is not None and stage.judge != stage.model:
        found["judge"] = writer_of(context, stage, stage.judge, meter, progress)
    return found


def rows_for(stage: Synthesise, data: Dataset) -> Sides:
    """The rows that the stage's methods read. Raises UserError where there are none."""
    documents = METHODS[stage.methods[0]].reads == "documents"

    def side(examples: Sequence[Example]) -> list[Any]:
        if documents:
            return [e for e in examples if isinstance(e, Text)]
        return [e for e in examples if isinstance(e, Chat) and last_user(e.prompt)]

    train = side(data.train)[: stage.limit]
    share = len(train) / max(1, len(data.train))
    heldout = side(data.heldout)
    heldout = heldout if stage.limit is None else heldout[: round(share * len(heldout))]
    if not train:
        kind = "documents" if documents else "conversations"
        said = f"{stage.methods[0]} reads {kind}, and {stage.data} was read as {data.format}"
        raise UserError(f"{stage.name or stage.kind}: {said}. Name another source.")
    return Sides(train, heldout)


def means_of(context: Context, stage: Synthesise, writers: dict[str, Writer]) -> Means | None:
    """What the methods that ask work with; None where none does."""
    if not writers:
        return None
    writer = writers["model"]
    judge = writers.get("judge", writer)
    return Means(
        stage,
        draws(writer, stage),
        judge.draw(0.0, GRADE_TOKENS, 0),
        writer.name,
        lacking,
        is_paraphrase,
        lambda answer: declines(answer) is not None,
        context.recipe.seed,
    )


def lacking(question: str, answer: str, passage: str) -> str | None:
    """What a passage does not hold of an answer, in words."""
    claims = unsupported(answer, [passage], question)
    return claims[0].why if claims else None


def one_method(name: str, stage: Synthesise, sides: Sides, means: Means | None) -> Result:
    """Runs a method on both sides."""
    if name == "rules":
        whole = questions_by_rules([*sides.train, *sides.heldout], stage.answer_words)
        first = len(sides.train)
        kept = [one for one in whole if isinstance(one, Dropped) or (one.item or 0) < first]
        held = [
            one._replace(item=(one.item or 0) - first)
            for one in whole
            if isinstance(one, Made) and (one.item or 0) >= first
        ]
        return Result(kept, held)
    assert means is not None
    way = WAYS[name]
    return Result(way(sides.train, means), [] if name in MIXING or not sides.heldout else way(sides.heldout, means))


def finish(
    context: Context,
    folder: StageFolder,
    stage: Synthesise,
    sides: Sides,
    made: dict[str, Result],
    meter: Meter,
    writers: dict[str, Writer],
) -> None:
    """Writes what was made and closes the stage. Raises RunError where that is nothing, or too little was answered."""
    log = folder.log
    dropped = [one for result in made.values() for side in result for one in side if isinstance(one, Dropped)]
    write_rejected(folder.path / "rejected.jsonl", [Rejected(one.origin, one.reason) for one in dropped])
    failed = [one for one in dropped if "no answer: " in one.reason and CAPPED not in one.reason]
    rows = sum(isinstance(one, Made) for result in made.values() for side in result for one in side)
    if failed and len(failed) > stage.max_failed * (rows + len(dropped)):
        why = Counter(one.reason.partition("no answer: ")[2] for one in failed).most_common(1)[0][0]
        raise RunError(
            f"{folder.name}: {len(failed)} of {rows + len(dropped)} questions got no answer: {why}. The answers that "
            "came are kept: the same command asks only what is missing. Or raise max_failed to go on without them."
        )
    records = records_of(context, stage, sides, made, writers)
    for name, side in zip(SIDES, records, strict=True):
        write_records(folder.path / f"{name}.jsonl", side)
    if not rows:
        reasons = "; ".join(f"{count} × {reason}" for reason, count in reasons_of(dropped).most_common(3))
        raise RunError(f"{folder.name}: nothing was made. {reasons or 'Nothing was found to make rows of'}.")
    facts = facts_of(stage, made, dropped, meter)
    for text in told(facts, meter):
        log.emit("note", text=text)
    folder.close(guards=[], tokens=0, rows=rows, **facts)


def records_of(
    context: Context, stage: Synthesise, sides: Sides, made: dict[str, Result], writers: dict[str, Writer]
) -> tuple[list[Record], list[Record]]:
    """The rows with where they come from, to train on and held out."""
    source = context.recipe.data.get(stage.data, Source(path=""))
    today = time.strftime("%Y-%m-%d")
    found: tuple[list[Record], list[Record]] = ([], [])
    for method, result in made.items():
        by = RULES if method == "rules" else writers["model"].name
        for number, (side, rows) in enumerate(zip(result, sides, strict=True)):
            for one in side:
                if isinstance(one, Dropped):
                    continue
                of = None if one.item is None else record_of(rows[one.item], stage.data, source)
                record = record_for(one, of, stage, source, by, today)
                held = number == 1 or (of is None and fraction(split_key(one.example)) < source.heldout)
                found[held].append(record)
    return found


def record_for(one: Made, of: Record | None, stage: Synthesise, source: Source, by: str, today: str) -> Record:
    """A row that was made, with what it says of itself: made by a machine, which, under which terms, and how; of what
    it was made from it has the licence, the steps before, and the group."""
    terms = stage.terms if by != RULES else None
    if of is None:
        group = f"{stage.data}/{hash_of(split_key(one.example))[:12]}"
        origin = Provenance(stage.data, source.licence)
    else:
        group, origin = group_of(of, stage.data), of.provenance
    provenance = replace(
        origin, made="machine", generator=by, terms=terms or origin.terms, date=today, steps=(*origin.steps, one.step)
    )
    said = {key: value for key, value in asdict(provenance).items() if key != "source" and value}
    own = {"group": group, **said, "steps": list(provenance.steps)}
    example = replace(one.example, meta={**(one.example.meta or {}), **own})
    return Record(example, provenance, group, dict(one.scores))


def group_of(of: Record, name: str) -> str:
    """The group of what a row was made from: its own, or the file of a document."""
    if isinstance(of.example, Text) and "group" not in (of.example.meta or {}):
        return f"{name}/{file_of(of.example.origin)}"
    return of.group


def check_synthesise(context: Context, stage: Synthesise) -> str:
    """What `luthier check` says of the stage: what would be sent where, or what the rules find. Sends nothing."""
    if stage.data not in context.recipe.data:
        return f"reads what {stage.data} makes: known when that has run"
    sides = rows_for(stage, context.dataset(stage.data))
    said = []
    if asking(stage):
        writers = writers_of(context, stage, meter_of(stage), lambda more: None)
        said.append(preflight(stage, writers, estimate(stage, sides.train, sides.heldout)))
    if "rules" in stage.methods:
        rows = [one for one in questions_by_rules(sides.train, stage.answer_words) if isinstance(one, Made)]
        some = "".join(
            f'\n     "{last_user(one.example.prompt)}"' for one in spaced(rows, 5) if isinstance(one.example, Chat)
        )
        said.append(
            f"rules: {len(rows):,} questions of {len(sides.train):,} documents, such as{some}"
            if rows
            else f"rules: no question is found in {len(sides.train):,} documents"
        )
    return "\n   ".join(said)


def unfit(context: Context, stage: Synthesise) -> Iterator[str]:
    """What is wrong with a stage's source, or with who is to write: what can be told before the first stage runs."""
    made_here = [other.name or other.kind for other in context.recipe.stages]
    if context.there(stage.data):
        try:
            rows_for(stage, context.dataset(stage.data))
        except UserError as error:
            yield from error.problems
    for name in (stage.model, stage.judge):
        if asking(stage) and name is not None and name not in (*made_here, "base"):
            try:
                writer_of(context, stage, name, meter_of(stage), lambda more: None)
            except UserError as error:
                yield from error.problems
