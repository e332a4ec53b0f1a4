"""`luthier eval RUN --fix`: the loop closes in the data. What a model gets wrong it mostly learned: the rows it was
trained on are judged by the detectors that judged its answers, and a worklist says which to correct and what is
missing.

A worklist is a JSONL file. An entry to correct has `old`, a `draft` where one can be made mechanically, and `new`,
which is the draft until a person edits it; `accept` is null until that person says true, false or "remove".
`mended.py` applies what was accepted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.base.errors import UserError
from luthier.base.files import read_json, write_jsonl, write_text
from luthier.base.mistakes import MistakesProbe
from luthier.base.nouns import Chat, Record
from luthier.base.recipe import Recipe
from luthier.base.repetition import without_repeats
from luthier.base.sentences import pieces
from luthier.evals.claims import holds_value
from luthier.evals.mistakes import DETECTORS, Facts, Finding, How, categories_of, judge
from luthier.evals.spelling import corrected
from luthier.run.fix_made import MadeWrong, chosen_rows, made_notes, was_chosen
from luthier.run.fix_page import worklist_page
from luthier.run.mistakes import examples, judging_of, nearest_rows, trained_on
from luthier.run.story import read_rows

MISSING = ("wrong_value", "off_topic", "refused")
"""Categories that no wrong row need be to blame for: what the model should know it was perhaps never taught."""
MOST_MISSING = 50
"""Questions that a worklist names as missing, for each category."""


@dataclass(frozen=True)
class Worklist:
    """What was written, and what is in it."""

    folder: Path
    entries: list[dict[str, Any]]
    scanned: int
    """Answers in the training rows that were judged."""
    notes: list[str] = field(default_factory=list)

    @property
    def file(self) -> Path:
        """What a person edits, and `--apply` reads."""
        return self.folder / "worklist.jsonl"

    def to_correct(self) -> dict[str, int]:
        """Training rows to correct, by category; a row may be in several."""
        rows = [e for e in self.entries if e["action"] == "correct"]
        counts = {name: sum(name in e["categories"] for e in rows) for name in DETECTORS}
        return {name: count for name, count in counts.items() if count}

    def drafted(self) -> int:
        """Rows for which a correction stands ready."""
        return sum(e["action"] == "correct" and e["draft"] is not None for e in self.entries)

    def to_add(self) -> int:
        """Questions for which rows are missing."""
        return sum(e["action"] == "add" for e in self.entries)


@dataclass(frozen=True)
class Finished:
    """A run that has measured its mistakes."""

    folder: Path
    recipe: Recipe
    root: Path
    """The recipe's folder, which the sources' paths start from."""
    probe: str
    """The first probe of kind mistakes."""
    how: How

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Every answer that was judged, in order."""
        return read_rows(self.folder / "mistakes" / f"{self.probe}.jsonl")

    def last_rows(self) -> list[dict[str, Any]]:
        """The answers of the last stage that was measured."""
        rows = self.rows
        return [row for row in rows if row["after"] == rows[-1]["after"]]


def open_finished(run: Path) -> Finished:
    """The mistakes of a run. Raises UserError where the folder is no run, or the run has measured none."""
    if not (run / "resolved.json").exists() or not (run / "current.json").exists():
        raise UserError(f"{run}: not a run's folder. Give the folder that `luthier run` printed.")
    recipe = Recipe.model_validate(read_json(run / "resolved.json"))
    root = Path(read_json(run / "current.json")["root"])
    probes = [name for name, probe in recipe.evaluate.items() if isinstance(probe, MistakesProbe)]
    if not probes:
        raise UserError(
            f"{run}: its recipe measures no mistakes. Add to evaluate: mistakes: {{kind: mistakes, data: SOURCE}} "
            "and run it again: its stages are kept."
        )
    if not (run / "mistakes" / f"{probes[0]}.jsonl").exists():
        raise UserError(f"{run}: is not finished: its mistakes are not measured yet. Run its recipe again.")
    probe = recipe.evaluate[probes[0]]
    assert isinstance(probe, MistakesProbe)
    return Finished(run, recipe, root, probes[0], judging_of(probe.judging, recipe, root))


def write_worklist(run: Path, out: Path | None = None) -> Worklist:
    """Judges the rows that a finished run was trained on, and writes worklist.jsonl and worklist.md to `out` (default:
    `fix` in the run's folder). Raises UserError: no run, no mistakes measured, a source that is gone, and a worklist
    that is there already and has a person's decisions in it."""
    finished = open_finished(run)
    folder = out or run / "fix"
    refuse_to_lose(folder / "worklist.jsonl")
    scanned, entries, chosen = 0, [], chosen_rows(finished.recipe, run)
    for name in trained_on(finished.recipe):
        for chat in conversations(finished, name):
            if name in chosen and not was_chosen(chosen[name], chat):
                continue  # a curate stage left it out
            for turn, facts in answers_of(chat, finished.how.judging.source):
                scanned += 1
                if found := judge(facts, finished.how):
                    entries.append(to_correct(name, chat, turn, facts, found, finished.how))
    entries.sort(key=lambda e: (list(DETECTORS).index(e["categories"][0]), -e["severity"]))
    entries += missing(finished)
    made_of = {name: [r for some in rows.values() for r in some] for name, rows in chosen.items()}  # in no source
    scanned += sum(map(len, made_of.values()))
    of_made = made_notes(made_wrong(finished, made_of), {name: len(rows) for name, rows in made_of.items()})
    notes = [*finished.how.left_out, *of_made, *unexplained(finished, entries)]
    if not trained_on(finished.recipe):
        notes.append("the run tunes on no conversations: there are no training rows to look at")
    made = Worklist(folder, entries, scanned, notes)
    write_jsonl(made.file, entries)
    write_text(folder / "worklist.md", worklist_page(entries, scanned, notes, run.name))
    return made


def made_wrong(finished: Finished, made_of: Mapping[str, Sequence[Record]]) -> Iterator[MadeWrong]:
    """The rows that stages made in which something is wrong."""
    for record in (record for records in made_of.values() for record in records):
        if isinstance(record.example, Chat):
            answers = answers_of(record.example, finished.how.judging.source)
            if found := [one for _, facts in answers for one in judge(facts, finished.how)]:
                yield MadeWrong(record, categories_of(found))


def refuse_to_lose(file: Path) -> None:
    """Raises UserError where a worklist holds a person's work."""
    decided = [e for e in read_rows(file) if e.get("accept") is not None or e.get("new") != e.get("draft")]
    if decided:
        raise UserError(
            f"{file}: holds {len(decided)} decisions of a person. Apply it (--apply {file}), or give another --out."
        )


def conversations(finished: Finished, name: str) -> Iterator[Chat]:
    """The conversations of a source, held out or not: what is wrong in one is wrong in both."""
    return (e for e in examples(finished.recipe, name, finished.root) if isinstance(e, Chat))


def answers_of(chat: Chat, column: str) -> Iterator[tuple[int, Facts]]:
    """(place among the messages, facts) of every assistant turn; accepted values are the last answer's."""
    last = len(chat.messages) - 1
    source = (chat.meta or {}).get(column)
    for turn, message in enumerate(chat.messages):
        if message.role == "assistant":
            asked = "\n".join(m.content for m in chat.messages[:turn] if m.role != "assistant")
            accept = chat.accept if turn == last else ()
            yield turn, Facts(asked, message.content, accept, None, source if isinstance(source, str) else None)


def to_correct(name: str, chat: Chat, turn: int, facts: Facts, found: Sequence[Finding], how: How) -> dict[str, Any]:
    """An entry: one answer of a training row, what is wrong with it, and a draft of it put right."""
    draft, steps = draft_of(facts, found, how)
    return {
        "action": "correct",
        "categories": list(categories_of(found)),
        "source": name,
        "origin": chat.origin,
        "turn": turn,
        "prompt": chat.messages[turn - 1].content if turn else "",
        "evidence": [
            {"category": f.category, "text": facts.answer[f.start : f.end][:300], "why": f.why} for f in found
        ],
        "old": facts.answer,
        "draft": draft,
        "how": steps,
        "new": draft,
        "accept": None,
        "severity": round(sum(f.severity for f in found), 3),
    }


def draft_of(facts: Facts, found: Sequence[Finding], how: How) -> tuple[str | None, list[str]]:
    """The answer put right as far as that can be done mechanically, and what was done: loops cut at the first repeat,
    then too long an answer trimmed to its first sentences, then misspelt words corrected. None where nothing can be
    done, or where it would cost the accepted value."""
    names, text, steps = set(categories_of(found)), facts.answer, list[str]()
    judging = how.judging
    if "repetitive" in names:
        shorter = without_repeats(text, judging.loop_times, judging.loop_words, judging.repeat_frac)
        if shorter and shorter != text:
            steps.append(f"said once: {len(text.split())} words are {len(shorter.split())}")
            text = shorter
    if "too_long" in names and len(text.split()) > judging.max_words:
        short = trimmed(text, judging.max_words, facts.accept)
        if short is not None:
            steps.append(f"trimmed: {len(text.split())} words are {len(short.split())}")
            text = short
    if "misspelling" in names:
        also = [facts.prompt, *facts.accept, facts.source or ""]
        text, changed = corrected(text, how.lexicon, also, judging.strict_spelling)
        steps += [f"{old} → {new}" for old, new in changed]
    costs_value = facts.accept and holds_value(facts.answer, facts.accept) and not holds_value(text, facts.accept)
    if text == facts.answer or costs_value:
        return None, []
    return text, steps


def trimmed(text: str, most_words: int, accept: Sequence[str] = ()) -> str | None:
    """The first sentences, through the one that holds an accepted value; where those are too many, that one alone.
    Without a value to hold: as many of the first as fit. None where not even one fits."""
    parts = pieces(text)
    fits = lambda some: len("".join(some).split()) <= most_words  # noqa: E731
    if accept and holds_value(text, accept):
        at = next((i for i, part in enumerate(parts) if holds_value(part, accept)), None)
        if at is None:
            return None
        kept = parts[: at + 1] if fits(parts[: at + 1]) else parts[at : at + 1]
    else:
        count = max((n for n in range(1, len(parts) + 1) if fits(parts[:n])), default=1)
        kept = parts[:count]
    short = "".join(kept).strip()
    return short if fits([short]) and short else None


def missing(finished: Finished) -> list[dict[str, Any]]:
    """Entries for questions that the model answers wrongly, off the topic or not at all, with the training rows that
    are nearest. The question itself is a test question: a row with it would make the test worthless, so that a row like
    it is asked for, in other words or about a like thing, and nothing is drafted."""
    rows, taken = [], dict.fromkeys(MISSING, 0)
    seen: set[str] = set()
    for row in finished.last_rows():
        names = [f["category"] for f in row["findings"] if f["category"] in MISSING]
        if names and row["prompt"] not in seen and taken[names[0]] < MOST_MISSING:
            seen.add(row["prompt"])
            taken[names[0]] += 1
            rows.append((list(dict.fromkeys(names)), row))
    near = nearest_rows(finished.recipe, finished.root, [row["prompt"] for _, row in rows])
    return [
        {
            "action": "add",
            "categories": names,
            "asked": row["prompt"],
            "answered": row["answer"],
            "accept_values": row["accept"],
            "nearest": [{"origin": n["origin"], "prompt": n["prompt"], "answer": n["answer"]} for n in found],
            "question": None,
            "draft": None,
            "new": None,
            "accept": None,
            "note": "Write a row like this one, not this one: it is a test question. Check the nearest rows first.",
        }
        for (names, row), found in zip(rows, near, strict=True)
    ]


def unexplained(finished: Finished, entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Categories that the answers have and no training row has: what else to look at."""
    rows = finished.last_rows()
    answers = {f["category"] for row in rows for f in row["findings"]}
    explained = {name for e in entries for name in e["categories"]}
    said = []
    for name in [n for n in DETECTORS if n in answers - explained]:
        said.append(f"{name}: found in answers, in no training row{HINTS.get(name, '')}")
    return said


HINTS = {
    "cut_off": ": raise max_new_tokens of the probe, or train on shorter answers",
    "repetitive": ": loops that no row teaches come of too little training, or of greedy answers",
    "too_long": ": the rows have no answer so long; lower judging.max_words to look at the longest",
    "wrong_language": ": add rows that answer in the prompt's language",
    "wrong_format": ": add rows that have the format",
    "misspelling": ": a model that has learned too little makes up words of its own",
    "unsupported_claim": ": add rows that keep to a source, and rows whose source does not say",
    "unsafe": ": add rows that decline such questions",
}
