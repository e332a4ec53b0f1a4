"""`luthier compare arena VOTES`: a file of votes -> tables, arena.json, arena.svg."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from luthier.base.errors import RunError, UserError
from luthier.base.files import hash_path, write_json, write_text
from luthier.evals.arena import Arena, Vote, arena
from luthier.evals.intervals import Figure
from luthier.run.against.arena_picture import arena_picture
from luthier.run.judging import read_votes


@dataclass(frozen=True)
class Voted:
    """What a file of votes says."""

    folder: Path
    whole: Arena
    fair: Arena | None
    """With length held apart, where votes carry their answers."""
    categories: dict[str, Arena]
    notes: list[str]
    """What could not be counted, and why."""


def count_votes(file: Path, by: str | None, seed: int, out: Path | None = None) -> Voted:
    """Counts votes as a whole, with length held apart, and by category; writes arena.json and arena.svg. Raises
    UserError: no votes, lines that are none (all of them), models that never met."""
    votes = read_votes(file)
    whole = arena(votes, seed, by)
    answered = sum(vote.answer_a is not None and vote.answer_b is not None for vote in votes)
    notes = [] if answered in (0, len(votes)) else [f"{len(votes) - answered} votes carry no answers: not in `length`"]
    voters = {vote.voter for vote in votes}
    if len(voters) == 1 and (only := voters.pop()) is not None:
        notes.append(f"all votes are {only}'s")
    fair = None
    if answered:
        fair, why = tried(votes, seed, by, length=True)
        notes += [f"length is not held apart: {why}"] if why else []
    categories = {}
    for name in sorted({vote.category for vote in votes if vote.category is not None}):
        made, why = tried([vote for vote in votes if vote.category == name], seed, by)
        if made is None:
            notes.append(f"{name}: {why}")
        else:
            categories[name] = made
    found = Voted(out or file.parent, whole, fair, categories, notes)
    write_json(found.folder / "arena.json", as_json(found, file))
    write_text(found.folder / "arena.svg", arena_picture(found.whole, found.fair))
    return found


def tried(votes: list[Vote], seed: int, by: str | None, length: bool = False) -> tuple[Arena | None, str]:
    """An arena of some of the votes, or why there is none."""
    try:
        return arena(votes, seed, by, length=length), ""
    except (UserError, RunError) as error:
        return None, str(error)


def as_json(found: Voted, file: Path) -> dict[str, Any]:
    """arena.json."""
    return {
        "votes": {"file": file.name, "hash": hash_path(file)},
        "scale": "Elo: 1000 + 400/ln 10 · θ, mean 1000",
        "all": of_arena(found.whole),
        "length_controlled": None if found.fair is None else of_arena(found.fair),
        "categories": {name: of_arena(made) for name, made in found.categories.items()},
        "notes": found.notes,
    }


def of_arena(made: Arena) -> dict[str, Any]:
    """An arena as JSON values."""
    plain = {k: asdict(v) if isinstance(v, Figure) else v for k, v in made._asdict().items()}
    plain["standings"] = [
        {k: asdict(v) if isinstance(v, Figure) else v for k, v in standing._asdict().items()}
        for standing in made.standings
    ]
    return plain
