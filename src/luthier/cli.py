"""The verbs. Everything heavy is imported inside the verb that needs it: `luthier --help` is quick and torch-free.

Exit codes: 0 done; 1 the run failed, a guard refused, or the doctor found something broken; 2 what was asked cannot
be done as asked; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from luthier import __version__
from luthier.base.errors import RunError, UserError, did_you_mean
from luthier.base.nouns import Message
from luthier.quiet import quiet
from luthier.verbs.common import Changes, Offline, RecipeFile, RunFolder, SetChanges, find_run, read, screen
from luthier.verbs.compare import comparing
from luthier.verbs.curve import curve
from luthier.verbs.data import data
from luthier.verbs.data_report import report as report_data
from luthier.verbs.evaluate import evaluate

if TYPE_CHECKING:
    from luthier.base.recipe import Recipe

DEMO = """luthier demo: a small language model of a fictional telescope maker, from nothing to an aligned, measured one.

  1  pretrain     a new model learns the maker's documents
  2  curate, sft  of questions and answers about some facts those that hold, and tuning on them
  3  preferences  its own answers in pairs, compared by a simulated rater (a script, not people)
  4  reward       a reward model learns those preferences
  5  ppo          the model is tuned against the reward, held near where it was
  6  evaluation   facts whose answers it was never tuned on, rewards, forgetting; then the report

About 3 to 4 minutes on 2 CPU cores, and 2 GB of memory. No network, no GPU. Ctrl-C is safe: the same command goes on.
Everything is written to {folder}.
"""

app = typer.Typer(
    name="luthier",
    help="Builds and tunes language models: raw documents to an aligned, evaluated model, on your own machine.",
    epilog="First steps: luthier demo. Your own data: luthier check RECIPE, then luthier run RECIPE.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The command line's entry point: errors become lines on stderr and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal without ✓ still gets its line
    try:
        app()
    except UserError as error:
        stop(2, *error.problems)
    except RunError as error:
        stop(1, str(error))
    except KeyboardInterrupt:
        stop(130, "stopped; the same command goes on from the last checkpoint")
    except SystemExit as end:
        if end.code == 130:  # what typer makes of Ctrl-C
            stop(130, "stopped; the same command goes on from the last checkpoint")
        raise


def stop(code: int, *lines: str) -> None:
    """Prints lines on stderr and ends with an exit code."""
    print(*lines, sep="\n", file=sys.stderr)
    raise SystemExit(code)


def version(wanted: bool) -> None:
    """Prints the version and ends."""
    if wanted:
        print(f"luthier {__version__}")
        raise typer.Exit


@app.callback()
def common(
    show: Annotated[bool, typer.Option("--version", callback=version, is_eager=True, help="The version.")] = False,
) -> None:
    """Options before a verb."""


@app.command()
def run(
    recipe: RecipeFile,
    changes: Changes = None,
    sets: SetChanges = None,
    offline: Offline = False,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="Print the line that runs it as so many processes (GPUs) a machine.")
    ] = None,
    nodes: Annotated[int | None, typer.Option(min=1, help="The same, on so many machines.")] = None,
    slurm: Annotated[bool, typer.Option("--slurm", help="Print a Slurm batch script for that.")] = False,
    sky: Annotated[
        str | None, typer.Option(metavar="GPU", help="Print a SkyPilot task for that, with GPUs such as H100.")
    ] = None,
) -> None:
    """Does what a recipe says, or goes on with it; finished stages are kept."""
    from luthier.run.launch import Launch, arguments, launched, start_of

    wanted = [*(changes or ()), *(sets or ())]
    if gpus is None and nodes is None and not slurm and sky is None:
        with group() if launched(os.environ) else nullcontext(True) as speaks:
            do(read(recipe, wanted, offline), recipe, speaks)
        return
    from luthier.base.config import load_recipe

    launch = Launch(load_recipe(recipe, wanted).name, nodes or 1, gpus or 1, arguments(str(recipe), wanted, offline))
    print(start_of(launch, slurm, sky).rstrip())


@contextmanager
def group() -> Iterator[bool]:
    """Inside this block the process is one of several that a launcher started; yields whether it is the one that
    speaks. The others say nothing on stdout."""
    from luthier.train.ranks import joined

    with joined() as ranks, open(os.devnull, "w") as nowhere, redirect_stdout(sys.stdout if ranks.is_main else nowhere):
        yield ranks.is_main


def do(recipe: Recipe, path: Path, speaks: bool = True) -> None:
    """Runs a recipe on the screen, and says what came of it."""
    from luthier.base.files import read_json
    from luthier.console import RunDisplay, closing

    console = screen()
    print(f"{recipe.name}: loading libraries and data …", flush=True)
    from luthier.run.stages import run_recipe

    with RunDisplay(console) as display:
        folder = run_recipe(recipe, path, (display,))
    if not speaks:
        return
    report = read_json(folder / "report.json")
    closing(report, console)
    print(f"\nreport   {folder / 'report.html'}")
    if recipe.base.model is not None or recipe.base.fresh is not None:
        print(f"talk     luthier chat {folder}")


app.add_typer(comparing, name="compare")
app.add_typer(data, name="data")
data.command("report")(report_data)
app.command("eval")(evaluate)
app.command()(curve)


@app.command()
def check(recipe: RecipeFile, changes: Changes = None, sets: SetChanges = None, offline: Offline = False) -> None:
    """Reads a recipe and its data, runs the guards, shows the first rows as tokens. Trains nothing."""
    from luthier.console import guard_lines, legend, show_tokens

    loaded, console = read(recipe, [*(changes or ()), *(sets or ())], offline), screen()
    from luthier.run.stages import check_recipe

    checks = check_recipe(loaded, recipe)
    for stage in checks:
        console.print(f"\n{stage.stage}", style="bold cyan", markup=False)
        if stage.note:
            console.print(f"   {stage.note}", style="dim", markup=False)
        for line, style in guard_lines(stage.guards):
            console.print(line, style=style, markup=False, soft_wrap=True)
        for number, row in enumerate(stage.rows):
            console.rule(f"row {number + 1}", style="dim", align="left")
            show_tokens(row, console)
    console.print()
    if any(stage.rows for stage in checks):
        legend(console)
    if not all(guard["ok"] for stage in checks for guard in stage.guards):
        raise RunError(f"{recipe}: a guard refuses (see ✗ above), and a run would stop there.")
    print(f"{recipe}: ready. Next: luthier run {recipe}")


@app.command()
def chat(
    run: RunFolder,
    stage: Annotated[str | None, typer.Option(help="Whose model answers; default: the last one made.")] = None,
    temperature: Annotated[float, typer.Option(min=0, help="0 always says the likeliest.")] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
    once: Annotated[str | None, typer.Option(metavar="QUESTION", help="Answer one question and end.")] = None,
) -> None:
    """Talks to the model of a run."""
    folder = find_run(run)
    quiet(downloads=False, offline=True)
    from luthier.console import converse
    from luthier.run.stages import open_chat

    label, answer = open_chat(folder, stage, max_new_tokens, temperature)
    console = screen()
    if once is not None:
        print(f"[{label}]", file=sys.stderr)
        print(answer([Message("user", once)]))
        return
    console.rule(f"{label} answers", style="bold cyan", align="left")
    console.print("/reset starts anew, /exit or Ctrl-D ends.", style="dim")
    converse(answer, console)


@app.command()
def export(
    run: RunFolder,
    to: Annotated[str, typer.Option(metavar="hf|gguf", help="A folder for transformers, a file for llama.cpp.")] = "hf",
    bits: Annotated[str, typer.Option(metavar="f32|f16|q8_0|q4_0", help="How a GGUF file holds the weights.")] = "f16",
    stage: Annotated[str | None, typer.Option(help="Whose model; default: the last one made.")] = None,
    out: Annotated[Path | None, typer.Option(help="An empty folder; default: export/ in the run's.")] = None,
) -> None:
    """Writes a run's model for others, reads it back, and proves that it is what was trained."""
    folder = find_run(run)
    for name, value, known in (("--to", to, ("hf", "gguf")), ("--bits", bits, ("f32", "f16", "q8_0", "q4_0"))):
        if value not in known:
            raise UserError(f"{name}: {value} is not one of {', '.join(known)}.{did_you_mean(value, known)}")
    quiet(downloads=False, offline=True)
    from luthier.run.export import export_model

    where, lines = export_model(folder, stage, to, bits, out)  # type: ignore[arg-type]  # checked above
    for line in lines:
        print(f"✓ {line.name:<10} {line.detail}")
    print(f"\n{where}")


@app.command()
def report(
    run: RunFolder,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Makes a run's report.html again, from the run's own files."""
    folder = find_run(run)
    from luthier.run.report import write_report

    page = write_report(folder)
    print(page)
    if show:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())


@app.command()
def track(
    run: RunFolder,
    to: Annotated[list[str], typer.Option(metavar="TRACKER", help="tensorboard, wandb, trackio, mlflow; repeat it.")],
) -> None:
    """Gives a finished run's figures to a tracker; what it had before is not given twice."""
    folder = find_run(run)
    from luthier.run.trackers import replay

    print(*replay(folder, to), sep="\n")


@app.command()
def demo(
    seed: Annotated[int, typer.Option(min=0, help="Another seed is another world and another model.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the run.")] = Path("runs"),
) -> None:
    """Builds, aligns and measures a small model of a fictional world: 4 to 6 minutes, no GPU, no network."""
    folder = out / "demo"
    print(DEMO.format(folder=folder))
    from luthier.base.files import new_folder, write_json
    from luthier.world.make import write_world

    world, mark = folder / "world", {"seed": seed}
    kept = world / "world.json"
    if not kept.exists() or json.loads(kept.read_text()) != mark:
        with new_folder(world) as fresh:
            write_world(fresh, seed)
            write_json(fresh / kept.name, mark)
    recipe = world / "recipe.yaml"
    do(read(recipe, [f"seed={seed}", "name=demo", f"out={json.dumps(str(out))}"], offline=True), recipe)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """What is installed, what this machine can do, what to fix."""
    quiet(downloads=False)
    from luthier.doctor import examine

    findings = examine()
    if as_json:
        print(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        console = screen()
        for sign, finding in ((("✗", "!", "✓")[finding.grade], finding) for finding in findings):
            style = ("bold red", "yellow", "green")[finding.grade]
            fix = f" {finding.fix}" if finding.fix else ""
            line = f"{sign} {finding.name:<14} {finding.found}{fix}"
            console.print(line, style=style if finding.grade < 2 else "", markup=False, soft_wrap=True)
    if any(finding.grade == 0 for finding in findings):
        raise typer.Exit(1)


@app.command()
def settings(
    kind: Annotated[str | None, typer.Argument(metavar="[KIND]", help="recipe, source, sft, ppo, choices, …")] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="The whole of it as docs/settings.md.")] = False,
) -> None:
    """What a recipe may say: every setting, its default, what it means."""
    from luthier.base.settings import SECTIONS, describe, markdown, summary

    if as_markdown:
        print(markdown(), end="")
        return
    if kind is not None and kind not in SECTIONS:
        raise UserError(
            f"{kind}: no such group of settings.{did_you_mean(kind, SECTIONS)} There are: {', '.join(SECTIONS)}."
        )
    from rich.table import Table
    from rich.text import Text

    console = screen()
    for name in [kind] if kind else SECTIONS:
        where, model = SECTIONS[name]
        table = Table(title=f"{name}: {where.replace('`', '')}\n{summary(model)}", title_justify="left")
        for heading in ("setting", "what to write", "default", "meaning"):
            table.add_column(heading, no_wrap=heading == "setting", overflow="fold")
        for row in describe(model):
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
