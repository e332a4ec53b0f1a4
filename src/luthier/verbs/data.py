"""`luthier data`: looks at data, converts it, and says what may be done with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier.base.errors import RunError, UserError, did_you_mean
from luthier.quiet import quiet
from luthier.verbs.common import find_run, screen

if TYPE_CHECKING:
    from luthier.base.source import Source
    from luthier.run.licences import Licensed

data = typer.Typer(help="Looks at data, converts it, says what may be done with it.", no_args_is_help=True)

Target = Annotated[
    str, typer.Argument(metavar="WHAT", help="A file, a folder, hub:org/name, or a recipe's source: recipe.yaml:faq.")
]
Format = Annotated[str | None, typer.Option("--format", help="Read as this; default: what the columns say.")]
Columns = Annotated[
    list[str] | None, typer.Option("--columns", metavar="OURS=THEIRS", help="Rename a column; may be repeated.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Read only the first rows.")]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]
Said = Annotated[str | None, typer.Option("--licence", help="Licence of rows that do not say it: CC-BY-4.0, own, ….")]


@data.command("show")
def show(
    what: Target,
    format: Format = None,
    columns: Columns = None,
    rows: Annotated[int, typer.Option(min=0, help="How many of the first rows are shown.")] = 3,
    limit: Limit = None,
    licence: Said = None,
    whole: Annotated[bool, typer.Option("--whole", help="Rows in full, however long.")] = False,
    as_json: Json = False,
) -> None:
    """Shows what a file holds: its format and why, columns, counts, licence, the first rows."""
    name, source, root = source_of(what, format, columns, limit, licence)
    quiet(downloads=False)
    from luthier.data import look

    found = look.look_at(name, source, root)
    if as_json:
        print(json.dumps(look.as_json(found, rows), indent=2, ensure_ascii=False, default=str))
        return
    from luthier.verbs.data_words import show_look

    show_look(found, rows, whole, screen())


@data.command("import")
def import_data(
    what: Target,
    to: Annotated[Path, typer.Option(metavar="FILE", help="What to write: .jsonl, .parquet or .csv.")],
    shape: Annotated[
        str | None,
        typer.Option("--as", metavar="SHAPE", help="messages, sharegpt, alpaca, pairs, labelled, choices or text."),
    ] = None,
    format: Format = None,
    columns: Columns = None,
    limit: Limit = None,
    licence: Said = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Converts data to a file; rows that cannot be used stand in FILE's .rejected.jsonl, with reasons."""
    name, source, root = source_of(what, format, columns, limit, licence)
    if to.exists() and not force:
        raise UserError(f"--to: {to} is there already. Give another name, or --force.")
    quiet(downloads=False)
    from luthier.data.convert import convert_file
    from luthier.data.look import look_at

    found = look_at(name, source, root)
    made = convert_file(found.examples, found.data.rejected, to, shape, source)
    console = screen()
    for note in [*found.data.notes, *made.notes]:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    said = f"{made.rows:,} rows as {made.shape} → {made.path} (read back, and the same)"
    console.print(said, style="green", markup=False, soft_wrap=True)
    if made.rejected:
        beside = made.path.with_name(f"{made.path.stem}.rejected.jsonl")
        console.print(f"{len(made.rejected):,} rejected → {beside}", style="yellow", markup=False, soft_wrap=True)


@data.command("licences")
def licences(
    what: Annotated[
        str, typer.Argument(metavar="RUN", help="A run's folder or name, a recipe, a file, a folder or hub:org/name.")
    ],
    allow: Annotated[
        str | None, typer.Option(metavar="commercial|share", help="End with exit code 1 unless this is allowed.")
    ] = None,
    licence: Said = None,
    as_json: Json = False,
) -> None:
    """Says what may be done with the rows of a run, a recipe or a file, and what that asks for."""
    from luthier.base.licences import LicencePolicy

    if allow is not None and allow not in ("commercial", "share"):
        raise UserError(f"--allow: {allow} is not commercial or share.{did_you_mean(allow, ('commercial', 'share'))}")
    quiet(downloads=False)
    found = licensed_of(what, licence)
    if allow is not None:
        from luthier.data.curate.licences import refusals

        policy = (found.policy or LicencePolicy()).model_copy(update={"allow": allow})
        found = found._replace(policy=policy, refused=refusals(found.verdict, policy))
    if as_json:
        print(json.dumps(licences_as_json(found), indent=2, ensure_ascii=False))
    else:
        from luthier.verbs.data_words import show_licences

        show_licences(found, screen())
    if found.refused:
        raise RunError(f"{what}: the licences do not allow it (see above).")


def licensed_of(what: str, licence: str | None) -> Licensed:
    """The verdict on a run, a recipe, or a source."""
    from luthier.run.licences import licensed, licensed_recipe, licensed_run

    path = Path(what)
    if path.suffix.lower() in (".yaml", ".yml") and path.is_file():
        from luthier.base.config import load_recipe

        return licensed_recipe(load_recipe(path), path)
    run = next((folder for folder in (path, Path("runs") / what) if (folder / "resolved.json").exists()), None)
    if run is None and not path.exists() and "://" not in what and ":" not in what:
        find_run(what)  # tells what runs there are
    if run is not None:
        return licensed_run(run)
    from luthier.data.look import look_at, provenances

    name, source, root = source_of(what, None, None, None, licence)
    look = look_at(name, source, root)
    return licensed(what, provenances(name, source, look.examples), None, [])


def licences_as_json(found: Licensed) -> dict[str, Any]:
    """The verdict for programs."""
    lines = [
        {
            "source": line.source,
            "rows": line.rows,
            "licence": line.licence.id if line.licence else None,
            "written": line.licence.written if line.licence else None,
            "made": line.made,
            "generator": line.generator,
            "commercial": line.terms.commercial,
            "share": line.terms.share,
            "why": list(line.why),
        }
        for line in found.verdict.lines
    ]
    verdict = found.verdict
    return {
        "name": found.name,
        "rows": verdict.rows,
        "commercial": verdict.commercial,
        "share": verdict.share,
        "human": verdict.human,
        "machine": verdict.machine,
        "quoted": verdict.quoted,
        "lines": lines,
        "sentences": list(verdict.sentences),
        "duties": list(verdict.duties),
        "refused": found.refused,
        "notes": found.notes,
    }


def source_of(
    what: str, format: str | None, columns: list[str] | None, limit: int | None, licence: str | None
) -> tuple[str, Source, Path]:
    """(name, source, the folder its path starts from) of a file, or of `recipe.yaml:name`, with what the command line
    changes. Raises UserError."""
    from luthier.base.config import load_recipe
    from luthier.base.source import source_from
    from luthier.data.convert import name_from

    changes: dict[str, Any] = {"format": format, "limit": limit, "licence": licence}
    changes = {key: value for key, value in changes.items() if value is not None}
    if columns:
        pairs = [pair.partition("=") for pair in columns]
        if wrong := [pair for pair, (ours, sign, theirs) in zip(columns, pairs, strict=True) if not (ours and theirs)]:
            raise UserError(f"--columns: {wrong[0]} is no OURS=THEIRS, such as answer=body.")
        changes["columns"] = {ours: theirs for ours, _, theirs in pairs}
    file, colon, name = what.rpartition(":")
    given: dict[str, Any] = {"path": what}
    root = Path()
    if colon and file.endswith((".yaml", ".yml")) and Path(file).is_file():
        recipe = load_recipe(Path(file))
        if name not in recipe.data:
            there = ", ".join(recipe.data) or "none"
            hint = did_you_mean(name, recipe.data)
            raise UserError(f'{what}: the recipe has no source "{name}".{hint} There are: {there}.')
        given, root = recipe.data[name].model_dump(), Path(file).parent
    else:
        name = name_from(what)
    return name, source_from({**given, **changes}), root
