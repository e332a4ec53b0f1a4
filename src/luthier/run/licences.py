"""What may be done with the rows that a run trains on: of its sources, and of what its stages made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from luthier.base.errors import RunError, UserError
from luthier.base.files import read_json
from luthier.base.licences import LicencePolicy
from luthier.base.made import made_by
from luthier.base.nouns import Provenance
from luthier.base.reads import names_read
from luthier.base.recipe import Recipe
from luthier.base.source import Source
from luthier.data.curate.licences import Verdict, refusals, verdict
from luthier.data.dataset import Dataset, at_hand, read_dataset
from luthier.data.look import provenances
from luthier.data.records import read_records
from luthier.run.kept import SIDES

if TYPE_CHECKING:
    from luthier.run.context import Context


class Licensed(NamedTuple):
    """What is known of a run's rows."""

    name: str
    verdict: Verdict
    policy: LicencePolicy | None
    """The recipe's own."""
    refused: list[str]
    """What the policy has against the rows."""
    notes: list[str]


def trained_names(recipe: Recipe) -> list[str]:
    """Sources, and data that stages make, that the recipe trains on, each once; where it trains on none, what its
    stages make of the sources, or else the sources."""
    made = made_by(recipe.stages)
    asked: list[str] = []
    read: set[str] = set()
    for stage in recipe.stages:
        named = names_read(stage)
        read.update(named)
        if (stage.name or stage.kind) not in made:
            asked += named
    asked = asked or [name for name in made if name not in read] or list(recipe.data)
    return [name for name in dict.fromkeys(asked) if name in recipe.data or name in made]


def run_provenances(recipe: Recipe, root: Path, run: Path | None, notes: list[str]) -> Iterator[Provenance]:
    """Where each row comes from that a recipe trains on; with the folder of its run, what its stages made too."""
    for name in trained_names(recipe):
        if name in recipe.data:
            source = recipe.data[name]
            yield from source_provenances(name, source, read_dataset(name, source, root, hashed=False), notes)
        elif (folder := made_folder(run, name)) is None:
            notes.append(f"{name} is not made yet: its sources stand for it")
            yield from sources_behind(recipe, name, root, notes)
        else:
            yield from made_provenances(folder, name)


def source_provenances(name: str, source: Source, data: Dataset, notes: list[str]) -> list[Provenance]:
    """Of a source's training rows; of a streamed one, of those at hand."""
    if data.survey is not None:
        notes.append(f"{name} is streamed: a sample of its rows was looked at")
    return provenances(name, source, at_hand(data))


def sources_behind(recipe: Recipe, made: str, root: Path, notes: list[str]) -> Iterator[Provenance]:
    """Of the sources that a stage reads which has made nothing yet."""
    stage = next(stage for stage in recipe.stages if (stage.name or stage.kind) == made)
    for name in names_read(stage):
        if name in recipe.data:
            data = read_dataset(name, recipe.data[name], root, hashed=False)
            yield from source_provenances(name, recipe.data[name], data, notes)


def made_folder(run: Path | None, name: str) -> Path | None:
    """The folder of the stage that made the data `name` in a run."""
    if run is None or not (run / "current.json").exists():
        return None
    for folder in reversed(read_json(run / "current.json")["stages"]):
        record = run / folder / "stage.json"
        if record.exists() and read_json(record).get("name") == name and (run / folder / "kept.jsonl").exists():
            return run / folder
    return None


def made_provenances(folder: Path, name: str) -> Iterator[Provenance]:
    """Of the rows that a stage made to train on. Answers that a model of the run wrote are under nobody's terms but
    those of the rows it was trained on."""
    path = folder / f"{SIDES[0]}.jsonl"
    with open(path, encoding="utf-8") as file:
        first = file.readline()
    if '"provenance"' in first:
        yield from (record.provenance for record in read_records(path))
    else:
        with open(path, encoding="utf-8") as file:
            yield from (Provenance(name, "LicenseRef-own", "machine", "luthier: a model of this run") for _ in file)


def licensed(name: str, rows: Sequence[Provenance], policy: LicencePolicy | None, notes: list[str]) -> Licensed:
    """The verdict on rows, and what a policy has against them."""
    found = verdict(rows, policy.cleared if policy else None)
    return Licensed(name, found, policy, refusals(found, policy) if policy else [], notes)


def licensed_run(run: Path) -> Licensed:
    """What may be done with what a run was trained on. Raises UserError where a source is gone."""
    recipe = Recipe.model_validate(read_json(run / "resolved.json"))
    current = run / "current.json"
    root = Path(read_json(current)["root"]) if current.exists() else origin_of_run(run)
    notes: list[str] = []
    rows = list(run_provenances(recipe, root, run, notes))
    return licensed(recipe.name, rows, recipe.licences, notes)


def licensed_recipe(recipe: Recipe, path: Path) -> Licensed:
    """The same of a recipe that has not run."""
    notes: list[str] = []
    return licensed(recipe.name, list(run_provenances(recipe, path.parent, None, notes)), recipe.licences, notes)


def origin_of_run(run: Path) -> Path:
    """The folder that the paths of a run's recipe start from, of one that has finished no stage yet."""
    origin = run / "origin.json"
    if not origin.exists():
        raise UserError(f"{run}: not a run's folder. Give the folder that `luthier run` printed, or a recipe.")
    return (run / read_json(origin)["recipe"]).resolve().parent


def licence_problems(context: Context) -> list[str]:
    """What the recipe's policy has against the sources that it trains on."""
    policy, recipe = context.recipe.licences, context.recipe
    if policy is None:
        return []
    rows: list[Provenance] = []
    for name in trained_names(recipe):
        if name in recipe.data:
            rows += source_provenances(name, recipe.data[name], context.dataset(name), [])
    return [f"licences: {said}" for said in refusals(verdict(rows, policy.cleared), policy)]


def require_made(policy: LicencePolicy | None, made: Mapping[str, Path]) -> None:
    """Raises RunError where a policy does not allow rows that earlier stages made (name -> the stage's folder). The
    sources were looked at before anything began."""
    if policy is None:
        return
    folders = {name: folder for name, folder in made.items() if (folder / "kept.jsonl").exists()}
    rows = [row for name, folder in folders.items() for row in made_provenances(folder, name)]
    if told := refusals(verdict(rows, policy.cleared), policy):
        raise RunError("\n".join(f"licences: {said}" for said in told))
