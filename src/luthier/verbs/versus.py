"""`luthier compare A B [C…]` and `luthier compare arena VOTES`: which model is better, and is that so?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from luthier.base.errors import UserError
from luthier.quiet import quiet
from luthier.verbs.common import Offline, screen

if TYPE_CHECKING:
    from rich.console import Console

    from luthier.evals.formats import Check
    from luthier.run.against.arena import Voted
    from luthier.run.against.versus import Versus


def compare_answers(
    models: Annotated[
        list[str],
        typer.Argument(metavar="A B [C]...", help="Runs (demo, demo:sft, demo:base), folders, org/name, URL#model."),
    ],
    data: Annotated[Path | None, typer.Option(help="Questions; default: the first run's own.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask only the first so many.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, help="0 always says the likeliest.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of draws and of intervals.")] = 0,
    judge: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Says which is better: a model, or file.py:function.")
    ] = None,
    rubric: Annotated[str | None, typer.Option(help="What it looks for: a YAML file, or a sentence.")] = None,
    votes: Annotated[Path | None, typer.Option(help="People's votes, to examine the judge with.")] = None,
    format_regex: Annotated[str | None, typer.Option(metavar="REGEX", help="The form of a right answer.")] = None,
    schema: Annotated[Path | None, typer.Option(metavar="FILE", help="The same, as a JSON schema.")] = None,
    key_env: Annotated[
        list[str] | None,
        typer.Option(metavar="[HOST=]NAME", help="Environment variable of an endpoint's key; repeat it."),
    ] = None,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Seconds an endpoint may take for one try.")] = 60.0,
    retries: Annotated[int, typer.Option(min=0, help="Further tries at an endpoint.")] = 5,
    concurrency: Annotated[int, typer.Option(min=1, help="Questions at an endpoint at a time.")] = 8,
    out: Annotated[Path | None, typer.Option(help="Folder; default: runs/compare-A-B.")] = None,
    offline: Offline = False,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """The same questions to two models and more: answers side by side, measured, with intervals."""
    quiet(downloads=any("/" in model and not Path(model).exists() for model in models), offline=offline)
    form = form_of(format_regex, schema)
    from luthier.base.rubric import Rubric, is_rubric_file
    from luthier.base.rubric_file import load_rubric
    from luthier.run.against.versus import Asked, compare_answers
    from luthier.run.against.versus_page import write_page
    from luthier.run.subjects import Asking

    keys = tuple((host, name) for host, _, name in ((k if "=" in k else f"={k}").partition("=") for k in key_env or ()))
    how = Asking(max_new_tokens, temperature, seed, keys, timeout_s, retries, concurrency)
    told = Rubric()
    if rubric is not None:
        is_file = is_rubric_file(rubric) or Path(rubric).is_file()
        told = load_rubric(Path(rubric)) if is_file else Rubric(criteria=rubric)
    asked = Asked(data, limit, how, form, judge, told, votes, seed)
    console = screen()
    with console.status("loading libraries …") as status:
        found = compare_answers(
            models, asked, out, lambda who, done, of: status.update(f"{who}: {done} of {of} answers")
        )
    page = write_page(found)
    show_comparison(found, console)
    for file in (page, found.folder / "compare.json"):
        console.print(str(file), style="dim", markup=False, soft_wrap=True)
    if show:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())


def form_of(regex: str | None, schema: Path | None) -> Check | None:
    """The form that answers are to have. Raises UserError for two of them, or a broken one."""
    from luthier.evals.formats import regex_check, schema_check

    if regex is not None and schema is not None:
        raise UserError("--format-regex, --schema: give one of them.")
    if regex is not None:
        return regex_check(regex)
    return None if schema is None else schema_check(schema)


def show_comparison(found: Versus, console: Console) -> None:
    """The table, then what it means in words; of a judge first how far it can be believed."""
    from rich.table import Table
    from rich.text import Text

    from luthier.run.against.versus_words import arena_lines, arena_table, correction, said, table
    from luthier.run.judged_words import bout_lines, judge_lines

    headings, rows = table(found)
    shown = Table(title=f"{len(found.chats):,} questions of {found.questions}", title_justify="left")
    for heading in headings:
        shown.add_column(heading, justify="left" if heading == "measure" else "right", overflow="fold")
    for number, row in enumerate(rows):
        shown.add_row(*map(Text, row), style="bold" if number == 0 else "")
    console.print(shown)
    first, others = said(found)
    for line in first:
        console.print(Text(line, style="bold"), soft_wrap=not console.is_terminal)
    for line in others:
        console.print(Text(line), soft_wrap=not console.is_terminal)
    console.print(Text(correction(found), style="dim"), soft_wrap=not console.is_terminal)
    for note in found.notes:
        console.print(Text(note, style="yellow"), soft_wrap=not console.is_terminal)
    if found.judging is not None:
        console.print()
        good = found.judging.reliable
        for number, line in enumerate(judge_lines(found.judging)):
            style = ("" if good else "bold yellow") if number == 0 else "dim"
            console.print(Text(line, style=style), soft_wrap=not console.is_terminal)
        for line in bout_lines(found.judging):
            console.print(Text(line, style="bold" if good else "yellow"), soft_wrap=not console.is_terminal)
        if found.judging.table is not None:
            print_table("By the judge's verdicts", *arena_table(found.judging.table), console)
            for line in arena_lines(found.judging.table):
                console.print(Text(line), soft_wrap=not console.is_terminal)
    console.print()


def print_table(title: str, headings: list[str], rows: list[list[str]], console: Console) -> None:
    """A table of cells, numbers to the right."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=title, title_justify="left")
    for heading in headings:
        shown.add_column(heading, justify="left" if heading == "model" else "right")
    for row in rows:
        shown.add_row(*map(Text, row))
    console.print(shown)


def compare_arena(
    votes: Annotated[Path, typer.Argument(metavar="VOTES", help="Rows of a, b and winner (a, b, tie, both_bad).")],
    by: Annotated[str | None, typer.Option(metavar="vote|prompt|voter", help="What intervals are drawn over.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the intervals.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for arena.json and arena.svg; default: the votes'.")] = None,
) -> None:
    """Votes between models as strengths on the Elo scale, with intervals; length held apart; by category."""
    if by not in (None, "vote", "prompt", "voter"):
        raise UserError(f"--by {by}: is not vote, prompt or voter.")
    quiet(downloads=False)
    console = screen()
    from luthier.run.against.arena import count_votes

    found = count_votes(votes, by, seed, out)
    show_arena(found, console)
    for file in ("arena.json", "arena.svg"):
        console.print(str(found.folder / file), style="dim", markup=False, soft_wrap=True)


def show_arena(found: Voted, console: Console) -> None:
    """The tables and what they mean."""
    from rich.text import Text

    from luthier.run.against.versus_words import arena_lines, arena_table, category_table

    drawn = {"vote": "votes", "prompt": "prompts", "voter": "voters"}[found.whole.resampled]
    print_table(f"{found.whole.votes:,} votes; intervals over {drawn}", *arena_table(found.whole), console)
    for line in arena_lines(found.whole):
        console.print(Text(line, style="bold"), soft_wrap=not console.is_terminal)
    if found.fair is not None:
        print_table(f"Length held apart ({found.fair.votes:,} votes)", *arena_table(found.fair), console)
        for line in arena_lines(found.fair):
            console.print(Text(line), soft_wrap=not console.is_terminal)
    if found.categories:
        print_table("By category: Elo [95 %], votes behind the name", *category_table(found.categories), console)
    for note in found.notes:
        console.print(Text(note, style="yellow"), soft_wrap=not console.is_terminal)
