"""How `luthier data` looks on the screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text as Styled

from luthier.base.nouns import Chat, Choice, Example, Labelled, Message, Pair, Text
from luthier.data.dataset import put_aside
from luthier.data.look import kinds_in

if TYPE_CHECKING:
    from rich.console import Console

    from luthier.data.look import Look
    from luthier.run.licences import Licensed

ROLES = {"system": "yellow", "user": "cyan", "assistant": "green", "tool": "magenta"}
SIGNS: dict[bool | None, tuple[str, str]] = {True: ("yes", "green"), False: ("no", "bold red"), None: ("?", "yellow")}
CUT = 420
"""Characters of one part of a row that are shown."""
REASONS = 6


def show_look(look: Look, rows: int, whole: bool, console: Console) -> None:
    """A source: what it was read as, its columns, counts, lengths, licence, and its first rows."""
    data = look.data
    console.print(
        Styled.assemble((look.source.path, "bold"), "  read as ", (data.format, "bold cyan"), f": {look.needs}")
    )
    for note in data.notes:
        console.print(f"  {note}", style="dim", markup=False)
    kinds = ", ".join(f"{count:,} {kind}{'s' if count != 1 else ''}" for kind, count in kinds_in(look.examples).items())
    files = f"{data.files:,} file{'s' if data.files != 1 else ''}, " if data.files else ""
    line = Styled(f"\n{files}{data.rows:,} rows → {kinds or 'nothing'}")
    aside = put_aside(data)
    if len(data.rejected) > aside:
        line.append(f", {len(data.rejected) - aside:,} rejected", "red")
    if aside:
        line.append(f", {aside:,} put aside", "dim")
    if data.duplicates:
        line.append(f", {data.duplicates:,} the same as an earlier one", "yellow")
    console.print(line)
    for kind, count, first in look.rejected[:REASONS]:
        said = f"  {count:,} × {kind.rstrip('.')}"
        console.print(Styled.assemble((said, "dim" if first.aside else "red"), (f"  first: {first.origin}", "dim")))
    console.print()
    if look.columns:
        console.print(columns_table(look))
    if look.lengths:
        console.print(lengths_table(look))
    show_terms(look, console)
    for example in look.examples[:rows]:
        console.print()
        console.rule(Styled(example.origin), style="dim", align="left")
        show_example(example, whole, console)


def show_terms(look: Look, console: Console) -> None:
    """What may be done with the rows, shortly."""
    found = look.verdict
    if all(line.licence is None and line.generator is None for line in found.lines):
        said = "nobody said. Give --licence here, or licence: in the recipe, with what its source says."
        console.print(Styled.assemble(("licence  ", "bold"), (said, "yellow")))
        return
    grid = Table.grid(padding=(0, 2))
    for use, answer, sentence in zip(
        ("commercial use", "pass on"), (found.commercial, found.share), found.sentences, strict=False
    ):
        word, style = SIGNS[answer]
        grid.add_row(Styled(use, "bold"), Styled(word, style), Styled(sentence, "" if answer else style))
    console.print(grid)
    for duty in found.duties[:3]:
        console.print(f"  {duty}", style="dim", markup=False)


def columns_table(look: Look) -> Table:
    """What the first rows hold."""
    table = Table(box=None, pad_edge=False, title_justify="left", title_style="dim")
    table.add_column("column", style="bold")
    table.add_column("holds")
    table.add_column("filled", justify="right")
    table.add_column("such as", style="dim", overflow="ellipsis", no_wrap=True)
    for column in look.columns:
        share = f"{column.filled}/{look.looked_at}"
        table.add_row(escape(column.name), column.kind, share, escape(" ".join(column.example.split())))
    return table


def lengths_table(look: Look) -> Padding:
    """Words in each part of the examples."""
    table = Table(box=None, pad_edge=False)
    table.add_column("words in", style="bold")
    for heading in ("least", "half have up to", "95 % up to", "most"):
        table.add_column(heading, justify="right")
    for part in look.lengths:
        table.add_row(part.part, f"{part.least:,}", f"{part.middle:,.0f}", f"{part.high:,}", f"{part.most:,}")
    return Padding(table, (1, 0))


def show_example(example: Example, whole: bool, console: Console) -> None:
    """A row, each part in the colour of who says it."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(justify="right", min_width=9, no_wrap=True)
    grid.add_column(overflow="fold")

    def say(who: str, text: str, style: str) -> None:
        said = (
            text
            if whole or len(text) <= 1.2 * CUT
            else f"{text[:CUT].rstrip()} … ({len(text) - CUT:,} more characters)"
        )
        grid.add_row(Styled(who, f"bold {style}"), Styled(said, style))

    def prompt(messages: tuple[Message, ...]) -> None:
        for message in messages:
            say(message.role, message.content, ROLES[message.role])

    match example:
        case Text(text):
            say("text", text, "white")
        case Chat(messages):
            prompt(messages)
        case Pair():
            prompt(example.prompt)
            margin = "" if example.margin is None else f" (+{example.margin:g})"
            say(f"chosen{margin}", example.chosen, "green")
            say("rejected", example.rejected, "red")
        case Labelled():
            prompt(example.prompt)
            say("good" if example.good else "bad", example.answer, "green" if example.good else "red")
        case Choice():
            say("context", example.context, "cyan")
            for index, option in enumerate(example.options):
                say("right" if index == example.gold else "wrong", option, "green" if index == example.gold else "red")
    accept = example.accept if isinstance(example, Chat) else ()
    meta = {} if isinstance(example, Choice) else dict(example.meta or {})
    besides = [*([f"accept: {' | '.join(accept)}"] if accept else []), *(f"{k}: {v}" for k, v in meta.items())]
    for line in besides if whole else [each if len(each) <= 96 else f"{each[:95]}…" for each in besides[:6]]:
        grid.add_row("", Styled(" ".join(line.split()), "dim"))
    console.print(grid)


def show_licences(found: Licensed, console: Console) -> None:
    """Rows by source, licence and maker, then the verdict in words."""
    verdict = found.verdict
    table = Table(box=None, pad_edge=False)
    table.add_column("source", style="bold", overflow="fold")
    table.add_column("rows", justify="right")
    table.add_column("licence", overflow="fold")
    table.add_column("written by", overflow="fold")
    for heading in ("commercial use", "pass on"):
        table.add_column(heading, justify="center")
    for line in verdict.lines:
        licence = "nobody said" if line.licence is None else line.licence.id or f"{line.licence.written} (?)"
        who = line.generator or {"human": "people", "machine": "a machine", None: "?"}[line.made]
        signs = [Styled(*SIGNS[answer]) for answer in (line.terms.commercial, line.terms.share)]
        table.add_row(escape(line.source), f"{line.rows:,}", escape(licence), escape(who), *signs)
    console.print(Styled.assemble((found.name, "bold"), f": {verdict.rows:,} rows\n"))
    console.print(table)
    console.print()
    answers = (verdict.commercial, verdict.share, None)
    for sentence, answer in zip(verdict.sentences, answers, strict=False):
        style = SIGNS[answer][1] if sentence is not verdict.sentences[-1] else "default"
        console.print(sentence, style=style, markup=False)
    if verdict.duties:
        console.print("\nWhat it asks for", style="bold")
        for duty in verdict.duties:
            console.print(Padding(Styled(duty), (0, 0, 0, 2)))
    for note in found.notes:
        console.print(f"\nnote: {note}", style="dim", markup=False)
    if found.policy is not None:
        console.print("\nThe recipe's policy", style="bold")
        for said in found.refused or ["allows it."]:
            console.print(Padding(Styled(said, "red" if found.refused else "green"), (0, 0, 0, 2)))
    console.print("\nA reading aid and no legal advice; a base model's own licence comes on top.", style="dim")
