"""`luthier compare A B [C…]`: the same prompts to every model, the answers measured side by side.

Answers are kept as they come in (`answers/`), each model's under the hash of all that decides them: a command that was
killed goes on, and nothing is asked twice.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from luthier.base.config import load_rater
from luthier.base.errors import RunError, UserError
from luthier.base.files import disk_errors, hash_of, read_json, write_json
from luthier.base.lines import add_lines, read_lines
from luthier.base.nouns import Chat, Reply
from luthier.base.rubric import Rubric
from luthier.base.source import Source
from luthier.data.dataset import read_dataset
from luthier.evals.endpoint import skipped
from luthier.evals.formats import Check
from luthier.evals.intervals import Figure
from luthier.evals.judge import Duel, Judged, rated
from luthier.evals.judge import judge as judge_duels
from luthier.run.against.measures import Difference, Measure, differences_of, figures_of, measures_of
from luthier.run.asked import Progress, remembering
from luthier.run.context import asked_prompts, chats
from luthier.run.judging import Decide, Judging, judge_answers, read_votes
from luthier.run.memo import code_hash
from luthier.run.subjects import Asking, Nats, Subject, open_subject, open_subjects, run_folder, slug

AT_ONCE = 64
"""Prompts between two writes of a local model's answers."""

Watch = Callable[[str, int, int], None]
"""(who is asked, how many are there, of how many)."""


@dataclass(frozen=True)
class Asked:
    """What a comparison is to do."""

    data: Path | None = None
    """Questions; None: those of the first run's `answers` probe, or its held-out conversations."""
    limit: int | None = None
    how: Asking = field(default_factory=Asking)
    form: Check | None = None
    judge: str | None = None
    """A subject that judges, or a program: file.py:name, a function of messages and an answer that returns a score."""
    rubric: Rubric = field(default_factory=Rubric)
    votes: Path | None = None
    """People's votes, which the judge is examined with."""
    seed: int = 0


@dataclass(frozen=True)
class Versus:
    """A finished comparison."""

    folder: Path
    subjects: list[Subject]
    questions: str
    """Where they came from."""
    questions_hash: str
    chats: list[Chat]
    """Those that every subject answered."""
    answers: dict[str, list[Reply]]
    left_out: dict[str, dict[str, int]]
    """Prompts without an answer, by subject and reason."""
    asked: int
    measures: list[Measure]
    figures: dict[str, dict[str, Figure]]
    """By measure and subject."""
    differences: list[Difference]
    notes: list[str]
    judging: Judging | None = None

    @property
    def labels(self) -> list[str]:
        """The subjects as they were named."""
        return [subject.label for subject in self.subjects]


def compare_answers(
    names: Sequence[str], asked: Asked, out: Path | None = None, watch: Watch = lambda who, done, of: None
) -> Versus:
    """Asks, measures, judges; writes compare.json (the page is made of it by `versus_page`). Raises UserError for what
    is asked wrongly: unknown or equal subjects, no question; RunError where one subject answered nothing at all."""
    if len(names) < 2:
        raise UserError(f"{' '.join(names) or 'compare'}: name at least two models, such as demo:base demo:sft.")
    if asked.votes is not None and asked.judge is None:
        raise UserError("--votes: people's votes examine a judge, and there is none. Name one with --judge.")
    votes = None if asked.votes is None else read_votes(asked.votes)  # before anyone is asked
    subjects = open_subjects(names, asked.how)
    model = asked.judge is not None and not is_program(asked.judge)
    judge = open_subject(asked.judge or "", judge_asking(asked.how)) if model else None
    if asked.judge is not None and judge is None:
        load_rater(asked.judge, Path())  # before anyone is asked
    questions, asked_of, digest = questions_for(names, asked)
    folder = out or Path("runs") / f"compare-{'-'.join(slug(name) for name in names)}"[:120]
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    answers: dict[str, list[Reply]] = {}
    nats: dict[str, list[Nats | None]] = {}
    notes: list[str] = []
    for subject in subjects:
        answers[subject.label] = answers_of(subject, questions, folder, watch)
        if subject.nats is not None:
            nats[subject.label] = nats_of(subject, questions, folder)
        notes += [f"{subject.label}: {note}" for note in subject.notes()]
        subject.close()
    left_out = {label: why for label, replies in answers.items() if (why := skipped(replies))}
    kept = [k for k in range(len(questions)) if all(replies[k].error is None for replies in answers.values())]
    if not kept:
        told = [f"{label}: {count} × {why}" for label, found in left_out.items() for why, count in found.items()]
        raise RunError("\n".join(["no prompt was answered by all:", *told]))
    shown = [questions[k] for k in kept]
    answers = {label: [replies[k] for k in kept] for label, replies in answers.items()}
    nats = {label: [each[k] for k in kept] for label, each in nats.items()}
    measures, missing = measures_of(shown, answers, nats, asked.form)
    found = Versus(
        folder, subjects, asked_of, digest, shown, answers, left_out, len(questions), measures,
        {measure.key: figures_of(measure, asked.seed) for measure in measures},
        differences_of(measures, [s.label for s in subjects], asked.seed),
        [*left_out_in_words(left_out, len(questions)), *notes, *missing],
    )  # fmt: skip
    if asked.judge is not None:
        texts = {label: [reply.text for reply in replies] for label, replies in answers.items()}
        decide = decider(judge, asked, folder, watch)
        rubric = None if judge is None else asked.rubric
        made = judge_answers(decide, asked.judge, rubric, shown, texts, votes, folder, asked.seed)
        found = replace(found, judging=made)
    write_json(folder / "compare.json", as_json(found, asked))
    return found


def is_program(name: str) -> bool:
    """Whether a judge is a function, file.py:name or package.module:name, and no stage of a run."""
    module = name.rpartition(":")[0]
    return re.fullmatch(r"[\w./-]+\.py:\w+|\w+(\.\w+)+:\w+", name) is not None and run_folder(module) is None


def decider(judge: Subject | None, asked: Asked, folder: Path, watch: Watch) -> Decide:
    """How duels are decided: by a model, whose replies are kept, or by a program."""
    if judge is None:
        rate = load_rater(asked.judge or "", Path())
        return lambda duels: rated(rate, duels)
    ask = remembering(judge.ask, folder / "answers" / f"judge-{file_of(judge)}", AT_ONCE, told_as(judge, watch))

    def decide(duels: Sequence[Duel]) -> list[Judged]:
        try:
            return judge_duels(ask, duels, asked.rubric)
        finally:
            judge.close()

    return decide


def judge_asking(how: Asking) -> Asking:
    """How a judge is asked: greedily, with room for its reasons."""
    return Asking(
        max(512, how.max_new_tokens), 0.0, how.seed, how.keys, how.timeout_s, how.retries, how.concurrency, how.wait
    )


def answers_of(subject: Subject, questions: Sequence[Chat], folder: Path, watch: Watch) -> list[Reply]:
    """A subject's answers, from its file where they are."""
    at_once = AT_ONCE if subject.kind != "endpoint" else 16
    ask = remembering(subject.ask, folder / "answers" / file_of(subject), at_once, told_as(subject, watch))
    return ask([chat.prompt for chat in questions])


def file_of(subject: Subject) -> str:
    """A subject's file of answers."""
    return f"{slug(subject.named)}-{subject.hash[:8]}.jsonl"


def told_as(subject: Subject, watch: Watch) -> Progress:
    """Progress under a subject's name."""
    return lambda done, of: watch(subject.label, done, of)


def nats_of(subject: Subject, questions: Sequence[Chat], folder: Path) -> list[Nats | None]:
    """What a subject thinks of the reference answers, from its file where it is known."""
    assert subject.nats is not None
    file = folder / "answers" / f"nats-{file_of(subject)}"
    keys = [hash_of([[m.role, m.content] for m in chat.messages]) for chat in questions]
    known = read_lines(file)
    fresh = {key: chat for key, chat in zip(keys, questions, strict=True) if key not in known and chat.answer}
    if fresh:
        said = subject.nats(list(fresh.values()))
        rows = {key: {"of": None if n is None else list(n)} for key, n in zip(fresh, said, strict=True)}
        add_lines(file, rows)
        known |= rows
    return [Nats(*row["of"]) if (row := known.get(key)) and row["of"] else None for key in keys]


def questions_for(names: Sequence[str], asked: Asked) -> tuple[list[Chat], str, str]:
    """(conversations to ask, where they are from, their hash). Raises UserError where there is none."""
    if asked.data is not None:
        data = read_dataset(asked.data.stem, Source(path=str(asked.data), heldout=0), Path())
        found, where = asked_prompts(data.train), str(asked.data)
    else:
        found, where = questions_of_run(names)
    found = [chat for chat in found if chat.prompt][: asked.limit]
    if not found:
        raise UserError(f"{where}: holds no question to ask. Rows with a question, a prompt or messages are wanted.")
    rows = [[[[m.role, m.content] for m in chat.messages], list(chat.accept)] for chat in found]
    return found, where, hash_of(rows)


def questions_of_run(names: Sequence[str]) -> tuple[list[Chat], str]:
    """The questions of the first run among the subjects: its `answers` probe's, else its held-out conversations.
    Raises UserError where no subject is a run, or its data is not found."""
    runs = [run for name in names for place in (name, name.rpartition(":")[0]) if (run := run_folder(place))]
    if not runs:
        raise UserError(
            "--data: none of the models is a run, whose questions could be taken. Name a file of questions."
        )
    resolved = read_json(runs[0] / "resolved.json")
    probes = [probe for probe in resolved["evaluate"].values() if probe["kind"] == "answers"]
    for source, whole in [(probe["data"], True) for probe in probes] + [(name, False) for name in resolved["data"]]:
        if source not in resolved["data"]:
            continue
        given = Source.model_validate(resolved["data"][source])
        root = root_of(runs[0], given.path)
        if root is None:
            continue
        data = read_dataset(source, given.model_copy(update={"stream": False}), root)
        found = asked_prompts(data.train + data.heldout) if whole else chats(data.heldout)
        if found:
            return found, f"{runs[0]}: data.{source}" + ("" if whole else ", held out")
    raise UserError(f"--data: {runs[0]} has no questions that can be found from here. Name a file of questions.")


def root_of(run: Path, path: str) -> Path | None:
    """The folder that a run's relative paths start from: its recipe's, or what can be guessed where that has moved."""
    noted = run / "origin.json"
    recorded = [Path(os.path.normpath(run / read_json(noted)["recipe"])).parent] if noted.exists() else []
    places = [*recorded, Path(), run, run / "world", *run.resolve().parents[:3]]
    return next((place for place in places if (place / path).expanduser().exists()), None)


def left_out_in_words(left_out: dict[str, dict[str, int]], of: int) -> list[str]:
    """One line a subject and reason: what is not in the figures, of anyone."""
    return [
        f"{label}: {count} of {of} prompts got no answer ({why}); they are left out for all"
        for label, found in left_out.items()
        for why, count in found.items()
    ]


def as_json(found: Versus, asked: Asked) -> dict[str, Any]:
    """compare.json."""
    return {
        "subjects": [
            {key: vars(s)[key] for key in ("label", "named", "kind", "hash")}
            | {"left_out": found.left_out.get(s.label, {})}
            for s in found.subjects
        ],
        "questions": {"from": found.questions, "hash": found.questions_hash},
        "asked": found.asked,
        "measured": len(found.chats),
        "how": {key: asdict(asked.how)[key] for key in ("max_new_tokens", "temperature", "seed")},
        "code": code_hash(),
        "primary": found.measures[0].key,
        "figures": {
            m.key: {label: f.as_dict() for label, f in found.figures[m.key].items()} for m in found.measures
        },
        "measured_with": {m.key: m.note for m in found.measures if m.note},
        "differences": [asdict(d) | {"real": d.real} for d in found.differences],
        "judge": None if found.judging is None else found.judging.as_dict(),
        "notes": found.notes,
    }  # fmt: skip
