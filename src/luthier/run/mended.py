"""What follows a worklist: the accepted corrections applied to the data, and, after retraining, each category before
and after."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any, NamedTuple

from luthier.base.errors import UserError
from luthier.base.files import write_jsonl
from luthier.base.nouns import Chat
from luthier.base.recipe import Recipe
from luthier.data.text import case_folded, parse_json
from luthier.evals.intervals import Figure, paired_bootstrap, wilson
from luthier.evals.mistakes import DETECTORS
from luthier.run.fix import Finished, conversations, open_finished
from luthier.run.mistakes import ANY, share_of, trained_on

REMOVE = "remove"
Entry = dict[str, Any]


@dataclass(frozen=True)
class Applied:
    """A corrected data set."""

    files: dict[str, Path]
    """By source: the file beside the original, which stays as it was."""
    changed: int
    removed: int
    added: int
    left: int
    """Entries that nobody accepted."""
    drafts_unread: int
    """Of `changed`, drafts that were accepted without a person's word (`accept_drafts`)."""
    next: list[str]
    """What to run now, a command a line."""


def apply_worklist(run: Path, worklist: Path, out: Path | None = None, accept_drafts: bool = False) -> Applied:
    """Writes the corrected data set of each source that the worklist changes to `out` (default: the worklist's folder):
    every row of the source with its origin, the changed ones with a note `fixed`. The originals are not touched.

    An entry is taken where `accept` is true, where a person has edited `new`, or, with `accept_drafts`, where there is
    a draft that was not declined. Raises UserError with every entry that cannot be: no such row, a row that has changed
    since, nothing to put in its place, an added row that is a test question.
    """
    finished = open_finished(run)
    entries = read_worklist(worklist)
    problems: list[str] = []
    taken = [(line, e) for line, e in entries if decided(line, e, accept_drafts, worklist, problems)]
    edits = {(e["source"], e["origin"], e["turn"]): (line, e) for line, e in taken if e["action"] == "correct"}
    adds = [(line, e) for line, e in taken if e["action"] == "add"]
    problems += of_added(finished, adds, worklist)
    names = {name for name, _, _ in edits} | ({trained_on(finished.recipe)[0]} if adds else set())
    folder, files, removed = out or worklist.parent, dict[str, Path](), 0
    made: dict[str, list[Entry]] = {}
    for name in trained_on(finished.recipe):
        if name in names:
            made[name], gone = corrected_rows(finished, name, edits, worklist, problems)
            removed += gone
    problems += [
        f"{worklist}:{line}: data.{name} has no answer {origin} (turn {turn}). Leave origin and turn as they were."
        for (name, origin, turn), (line, _) in edits.items()
    ]
    if problems:
        raise UserError(problems)
    if adds:
        made[trained_on(finished.recipe)[0]] += [added_row(line, e, worklist) for line, e in adds]
    for name, rows in made.items():
        files[name] = folder / f"{name}.fixed.jsonl"
        write_jsonl(files[name], rows)
    unread = sum(e["accept"] is None and e["new"] == e["draft"] for _, e in taken if e["action"] == "correct")
    changed = sum(e["action"] == "correct" and e["accept"] != REMOVE for _, e in taken)
    left = len(entries) - len(taken)
    return Applied(files, changed, removed, len(adds), left, unread, commands(finished, files))


def read_worklist(file: Path) -> list[tuple[int, Entry]]:
    """(line, entry) of each entry. Raises UserError with every line that is none."""
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read: {error}. Make one: luthier eval RUN --fix.") from None
    entries, problems = [], []
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            entry = parse_json(text)
        except ValueError as error:
            problems.append(f"{file}:{number}: is not JSON: {error}. Mend the line, or take it away.")
            continue
        needs = {"correct": ("source", "origin", "turn", "old"), "add": ("asked",)}
        action = entry.get("action") if isinstance(entry, dict) else None
        if action not in needs:
            problems.append(f"{file}:{number}: action: is not correct or add. Leave it as it was written.")
        elif lacking := [key for key in (*needs[action], "accept", "new", "draft") if key not in entry]:
            problems.append(f"{file}:{number}: {lacking[0]}: is missing. Leave it as it was written.")
        else:
            entries.append((number, entry))
    if problems:
        raise UserError(problems)
    return entries


def decided(line: int, entry: Entry, accept_drafts: bool, file: Path, problems: list[str]) -> bool:
    """Whether an entry is to be applied. Notes what keeps an accepted one from it."""
    accept, new = entry["accept"], entry["new"]
    if accept not in (None, True, False, REMOVE) or (isinstance(accept, int) and not isinstance(accept, bool)):
        problems.append(f'{file}:{line}: accept: {accept!r} is not true, false, "remove" or null.')
        return False
    if accept is False or (accept == REMOVE and entry["action"] == "add"):
        return False
    if accept == REMOVE:
        return True
    edited = new != entry["draft"]
    if not (accept or edited or (accept_drafts and entry["draft"] is not None)):
        return False
    if not isinstance(new, str) or not new.strip():
        problems.append(f'{file}:{line}: new: is empty. Write the right answer, or set accept to false or "remove".')
        return False
    return True


def of_added(finished: Finished, adds: Sequence[tuple[int, Entry]], file: Path) -> list[str]:
    """What is wrong with the rows to add: no question, or one that the test asks."""
    asked = {case_folded(row["prompt"]) for row in finished.rows}
    problems = []
    for line, entry in adds:
        question = entry.get("question")
        if not isinstance(question, str) or not question.strip():
            problems.append(f"{file}:{line}: question: is empty. Write the question that `new` answers.")
        elif case_folded(question) in asked:
            problems.append(f"{file}:{line}: question: is a test question. Ask in other words, or about a like thing.")
    if adds and not trained_on(finished.recipe):
        problems.append(f"{file}: there is no source of conversations to add rows to.")
    return problems


def corrected_rows(
    finished: Finished,
    name: str,
    edits: dict[tuple[str, str, int], tuple[int, Entry]],
    file: Path,
    problems: list[str],
) -> tuple[list[Entry], int]:
    """(the rows of a source with their corrections, rows left out). Takes out of `edits` those that were found."""
    rows, removed = [], 0
    for chat in conversations(finished, name):
        contents = [m.content for m in chat.messages]
        notes, gone = [], False
        for turn, message in enumerate(chat.messages):
            found = edits.pop((name, chat.origin, turn), None)
            if found is None:
                continue
            line, entry = found
            if entry["old"] != message.content:
                problems.append(f"{file}:{line}: {chat.origin} has changed since. Make the worklist anew.")
            gone = gone or entry["accept"] == REMOVE
            contents[turn] = entry["new"] if entry["accept"] != REMOVE else message.content
            by = "draft" if entry["accept"] is None and entry["new"] == entry["draft"] else "person"
            notes.append({"turn": turn, "categories": entry.get("categories", []), "accepted_by": by})
        if gone:
            removed += 1
        else:
            rows.append(row_of(chat, contents, notes))
    return rows, removed


def row_of(chat: Chat, contents: Sequence[str], notes: list[Entry]) -> Entry:
    """A conversation as a line of `messages`, with its first origin and what was done to it, now and in earlier
    rounds."""
    meta = dict(chat.meta or {})
    earlier = meta.pop("fixed", None)
    fixed = [*(earlier if isinstance(earlier, list) else []), *notes]
    messages = [{"role": m.role, "content": text} for m, text in zip(chat.messages, contents, strict=True)]
    row = {**meta, "messages": messages, "origin": meta.get("origin", chat.origin)}
    return row | ({"accept": list(chat.accept)} if chat.accept else {}) | ({"fixed": fixed} if fixed else {})


def added_row(line: int, entry: Entry, file: Path) -> Entry:
    """A new row, with where it comes from."""
    messages = [{"role": "user", "content": entry["question"]}, {"role": "assistant", "content": entry["new"]}]
    fixed = [{"categories": entry.get("categories", []), "added": True}]
    return {"messages": messages, "origin": f"{file.name}:{line}", "fixed": fixed}


def commands(finished: Finished, files: Mapping[str, Path]) -> list[str]:
    """How to train on the corrected data and compare. The run's folder is copied first: stages that the data does not
    change are found there and not run again."""
    if not files:
        return []
    recipe, new = finished.recipe, f"{finished.folder.name}-fixed"
    given = finished.folder / "recipe.yaml"
    text = given.read_text() if given.exists() else ""
    same = [p for p in sorted(finished.root.glob("*.y*ml")) if text and p.read_text(errors="replace") == text]
    target = finished.folder.parent / new
    changes = [f"name={new}"]
    for name, file in files.items():
        changes += [f"data.{name}.{change}" for change in source_changes(recipe, name, file, finished.root)]
    told = " ".join(shlex.quote(change) for change in changes)
    return [
        f"cp -r {shlex.quote(str(finished.folder))} {shlex.quote(str(target))}",
        f"luthier run {shlex.quote(os.path.relpath(same[0])) if same else 'RECIPE'} {told}",
        f"luthier eval {shlex.quote(str(target))} --fix --before {shlex.quote(str(finished.folder))}",
    ]


def source_changes(recipe: Recipe, name: str, file: Path, root: Path) -> list[str]:
    """The settings of a source that a corrected file needs other than they were."""
    source = recipe.data[name]
    changes = [f"path={os.path.relpath(file.resolve(), root.resolve())}", "format=messages"]
    changes += [f"{key}={{}}" for key, value in (("columns", source.columns), ("roles", source.roles)) if value]
    texts = (("prompt", source.prompt), ("answer", source.answer), ("system", source.system))
    changes += [f"{key}=null" for key, value in texts if value is not None]
    return changes + (["limit=null"] if source.limit else [])


class Change(NamedTuple):
    """One category in two runs."""

    category: str
    """A category; `any`: answers with one at least; `right`: answers with an accepted value."""
    before: Figure
    after: Figure
    difference: Figure | None
    """after − before over the same prompts, paired; None where the prompts differ."""
    p: float | None
    """McNemar's exact test on prompts that differ; None unless each prompt has one answer."""

    @property
    def fall_frac(self) -> float | None:
        """The share of the mistakes that is gone; None where there were none."""
        return 1 - self.after.value / self.before.value if self.before.value else None

    @property
    def words(self) -> str:
        """What a person would say."""
        name = {"any": "any mistake", "right": "accepted value"}.get(self.category, self.category.replace("_", " "))
        first = f"{name}: {100 * self.before.value:.1f} % → {100 * self.after.value:.1f} %"
        d = self.difference
        if d is None:
            apart = self.after.high < self.before.low or self.before.high < self.after.low
            return f"{first}; other prompts: the intervals {'do not overlap' if apart else 'overlap'}"
        if not d.value:
            return f"{first}; no difference"
        real = "the difference is real" if d.low > 0 or d.high < 0 else "the difference may be chance"
        return f"{first}; {100 * d.value:+.1f} points [{100 * d.low:+.1f}, {100 * d.high:+.1f}]: {real}"


def before_after(old_run: Path, new_run: Path) -> list[Change]:
    """Each category after the last measured stage of two runs, worst first, then whether the answers are right. Raises
    UserError where either has measured no mistakes."""
    old, new = open_finished(old_run), open_finished(new_run)
    before, after = old.last_rows(), new.last_rows()
    if not before or not after:
        raise UserError(f"{old_run if not before else new_run}: has no answers to compare. Run its recipe again.")
    paired = [r["prompt"] for r in before] == [r["prompt"] for r in after]
    alone = len({r["item"] for r in before}) == len(before)
    judged = set(old.how.categories) & set(new.how.categories)
    asked = [ANY, *(name for name in DETECTORS if name in judged)]
    asked += ["right"] if all(r["right"] is not None for r in [*before, *after]) else []
    found = []
    for category in asked:
        was, now = share_of(before, category).hits_N, share_of(after, category).hits_N
        if not (any(was) or any(now)):
            continue
        difference = paired_bootstrap(now, was, seed=0) if paired else None
        moved = list(zip(was, now, strict=True)) if paired and alone else []
        p = mcnemar(sum(a > b for a, b in moved), sum(a < b for a, b in moved)) if moved else None
        found.append(Change(category, wilson(sum(was), len(was)), wilson(sum(now), len(now)), difference, p))
    return found


def mcnemar(fell: int, rose: int) -> float:
    """How likely so lopsided a split of the items that changed is, were both ways equally likely: the exact two-sided
    binomial test on them. McNemar 1947. 1.0 where none changed."""
    n, least = fell + rose, min(fell, rose)
    return min(1.0, 2 * sum(comb(n, k) for k in range(least + 1)) / 2**n) if n else 1.0
