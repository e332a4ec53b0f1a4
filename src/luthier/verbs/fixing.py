"""`luthier eval RUN --fix`: the worklist of the rows to correct or add, the corrected data, and before and after."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from luthier.base.errors import UserError
from luthier.verbs.common import find_run, screen

if TYPE_CHECKING:
    from rich.console import Console

    from luthier.run.fix import Worklist
    from luthier.run.mended import Applied, Change


def fix(
    run: str,
    out: Path | None = None,
    apply: Path | None = None,
    accept_drafts: bool = False,
    before: str | None = None,
    console: Console | None = None,
) -> None:
    """Writes the worklist of a run; with `apply`, the data set that its accepted entries make; with `before` (an older
    run), each category then and now."""
    console = console or screen()
    if before is not None and (apply is not None or out is not None or accept_drafts):
        raise UserError("--before compares two runs and writes nothing: leave --apply, --out and --accept-drafts away.")
    if accept_drafts and apply is None:
        raise UserError("--accept-drafts is for --apply: luthier eval RUN --fix --apply FILE --accept-drafts.")
    folder = find_run(run)
    if before is not None:
        from luthier.run.mended import before_after

        return show_changes(before_after(find_run(before), folder), console)
    if apply is not None:
        from luthier.run.mended import apply_worklist

        return show_applied(apply_worklist(folder, apply, out, accept_drafts), accept_drafts, console)
    from luthier.run.fix import write_worklist

    show_worklist(write_worklist(folder, out), run, console)


def show_worklist(made: Worklist, run: str, console: Console) -> None:
    """What was found in the training rows, and what to do with it."""
    from rich.table import Table

    from luthier.base.mistakes import CATEGORY_WORDS

    table = Table(box=None, pad_edge=False)
    for name, justify in (("category", "left"), ("rows", "right"), ("drafted", "right"), ("the first", "left")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for category, count in made.to_correct().items():
        own = [e for e in made.entries if e["action"] == "correct" and category in e["categories"]]
        first = next(e for e in own[0]["evidence"] if e["category"] == category)
        drafted = sum(e["draft"] is not None for e in own)
        table.add_row(CATEGORY_WORDS[category], str(count), str(drafted), f"{own[0]['origin']}: {first['why']}")
    corrections = sum(e["action"] == "correct" for e in made.entries)
    console.print(f"{corrections} of {made.scanned:,} trained answers look wrong.", markup=False)
    if corrections:
        console.print(table, markup=False)
    if made.to_add():
        console.print(f"{made.to_add()} questions are answered wrongly and rows seem to be missing.", markup=False)
    for note in made.notes:
        console.print(f"note: {note}", markup=False)
    console.print(f"\nRead {made.folder / 'worklist.md'}, edit {made.file}, then:", markup=False, soft_wrap=True)
    console.print(f"  luthier eval {run} --fix --apply {made.file}", markup=False, soft_wrap=True)
    if made.drafted():
        console.print(f"(--accept-drafts takes all {made.drafted()} drafts unread)", markup=False)


def show_applied(made: Applied, accept_drafts: bool, console: Console) -> None:
    """What became of the worklist, and what to run next."""
    if not made.files:
        console.print("Nothing was accepted: no data was written. Set `accept` to true in the worklist.", markup=False)
        return
    said = f"{made.changed} answers corrected, {made.removed} rows left out, {made.added} added"
    console.print(f"{said}; {made.left} entries left as they are.", markup=False)
    if accept_drafts:
        console.print(f"{made.drafts_unread} of them are drafts that nobody has read (--accept-drafts).", markup=False)
    for name, file in made.files.items():
        console.print(f"data.{name} → {file} (the original is as it was)", markup=False, soft_wrap=True)
    console.print("\nNext:", markup=False)
    for command in made.next:
        console.print(f"  {command}", markup=False, soft_wrap=True)


def show_changes(changes: list[Change], console: Console) -> None:
    """Each category before and after."""
    from rich.table import Table

    from luthier.base.mistakes import CATEGORY_WORDS

    table = Table(box=None, pad_edge=False)
    for name in ("", "before", "after", "gone", "difference, in points"):
        table.add_column(name, justify="left" if not name else "right")
    for change in changes:
        fall = change.fall_frac
        gone = "" if fall is None or change.category == "right" else f"{100 * fall:.0f} %"
        d = change.difference
        apart = "other prompts" if d is None else f"{100 * d.value:+.1f} [{100 * d.low:+.1f}, {100 * d.high:+.1f}]"
        p = "" if change.p is None else f" p={change.p:.2g}"
        cells = [_share(figure) for figure in (change.before, change.after)]
        table.add_row(CATEGORY_WORDS.get(change.category, change.category), *cells, gone, apart + p)
    console.print(table, markup=False)
    for change in changes:
        console.print(change.words, markup=False, soft_wrap=True)


def _share(figure: object) -> str:
    """4.1 % [3.0, 5.6] n=240"""
    from luthier.evals.intervals import Figure

    assert isinstance(figure, Figure)
    return f"{100 * figure.value:.1f} % [{100 * figure.low:.1f}, {100 * figure.high:.1f}] n={figure.n}"
