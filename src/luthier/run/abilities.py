"""The probes of `base/abilities.py`, measured: alignment, cloze, consistency, hallucination."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from luthier.base.abilities import (
    Ability,
    AlignmentProbe,
    ClozeProbe,
    ConsistencyProbe,
    HallucinationProbe,
    is_endpoint,
)
from luthier.base.errors import UserError
from luthier.base.events import EventLog
from luthier.base.files import hash_of, read_json, write_json
from luthier.base.functions import resolve_path
from luthier.base.nouns import Ask, Chat, Message, Reply, Text
from luthier.base.seeds import seed_for
from luthier.data.dataset import Dataset
from luthier.evals.answers import Answer, answer_all
from luthier.evals.cloze import cloze
from luthier.evals.consistency import Agreement, agreement, paraphrase
from luthier.evals.formats import regex_check, schema_check
from luthier.evals.intervals import bounded_mean, mean_normal, wilson
from luthier.evals.manners import Follows, manners
from luthier.model.draw import Sampling
from luthier.model.load import Loaded
from luthier.run.context import Context, ModelRef, asked_prompts, measured_rows, probe_prompts, renderer_of
from luthier.run.subjects import Asking, open_subject

Measured = dict[str, Any]
MANNERS = ("stops", "answers", "no_loop", "not_empty", "format")


def answers_of(context: Context, probe: Any, loaded: Loaded, chats: Sequence[Chat]) -> list[Answer]:
    """The model's answers, drawn as the probe says."""
    how = Sampling(probe.max_new_tokens, probe.temperature, seed=context.recipe.seed)
    return answer_all(loaded.lm, renderer_of(loaded), chats, how)


def measure_alignment(context: Context, probe: AlignmentProbe, loaded: Loaded, ref: ModelRef) -> Measured:
    """How each answer behaves."""
    follows = format_of(context, probe)
    answers = answers_of(context, probe, loaded, probe_prompts(context, probe))
    behaved = [manners(a.prompt[-1].content, a.text, a.ended, follows) for a in answers]
    held = [m._asdict() for m in behaved]
    parts = {name: [int(one[name]) for one in held] for name in MANNERS if follows or name != "format"}
    return {
        "right": [int(m.passed) for m in behaved],
        **parts,
        "origins": [a.origin for a in answers],
        "texts": [a.text for a in answers],
    }


def format_of(context: Context, probe: AlignmentProbe) -> Follows | None:
    """The check of the format that the probe states; None where it states none. Raises UserError for a schema that
    cannot be read."""
    checks = [regex_check(probe.regex)] if probe.regex is not None else []
    if probe.json_schema is not None:
        checks.append(schema_check(resolve_path(context.recipe_path, probe.json_schema)))
    return (lambda text: all(check(text) is None for check in checks)) if checks else None


def measure_cloze(context: Context, probe: ClozeProbe, loaded: Loaded, ref: ModelRef) -> Measured:
    """Whether each statement is completed rightly, and how likely the right value was."""
    asked = probe_prompts(context, probe)
    filled = cloze(loaded.lm, renderer_of(loaded), asked, probe.max_new_tokens)
    if not filled:
        raise UserError(
            f"evaluate: data.{probe.data}: every statement is longer than the model's context of {loaded.context} "
            "tokens. Take a model with a longer context, or other rows."
        )
    return {
        "right": [int(f.right) for f in filled],
        "logps": [f.logp for f in filled],
        "origins": [f.origin for f in filled],
        "texts": [f.text for f in filled],
        "left_out": len(asked) - len(filled),
    }


def measure_consistency(context: Context, probe: ConsistencyProbe, loaded: Loaded, ref: ModelRef) -> Measured:
    """How far the answers to each question agree, over its wordings and over repeated draws."""
    asked = probe_prompts(context, probe)
    wordings = wordings_of(context, probe, asked)
    every = [worded(chat, words) for chat, several in zip(asked, wordings, strict=True) for words in several]
    draws = [
        answer_all(loaded.lm, renderer_of(loaded), every, drawing(context, probe, number))
        for number in range(probe.samples)
    ]
    found: list[Agreement] = []
    said: list[list[str]] = []
    at = 0
    for chat, several in zip(asked, wordings, strict=True):
        said.append([draw[i].text for i in range(at, at + len(several)) for draw in draws])
        at += len(several)
        candidates = strings((chat.meta or {}).get("candidates"))
        found.append(agreement(said[-1], chat.accept, candidates, probe.threshold))
    return {
        "agree": [one.agree for one in found],
        "right": [one.right for one in found],
        "always_right": [one.always_right for one in found],
        "always_wrong": [one.always_wrong for one in found],
        "origins": [chat.origin for chat in asked],
        "wordings": wordings,
        "texts": said,
    }


def drawing(context: Context, probe: ConsistencyProbe, number: int) -> Sampling:
    """How the answers are drawn, the first time and again."""
    seed = context.recipe.seed if number == 0 else seed_for(context.recipe.seed, f"consistency draw {number}")
    return Sampling(probe.max_new_tokens, probe.temperature, seed=seed)


def worded(chat: Chat, words: str) -> Chat:
    """The same conversation with its last question in other words."""
    return replace(chat, messages=(*chat.prompt[:-1], replace(chat.prompt[-1], content=words)))


def strings(value: Any) -> list[str]:
    """A column that may hold a text, several, or nothing."""
    if isinstance(value, str):
        return [value] if value.strip() else []
    return [str(one) for one in value if str(one).strip()] if isinstance(value, list) else []


def wordings_of(context: Context, probe: ConsistencyProbe, asked: Sequence[Chat]) -> list[list[str]]:
    """Each question in all its wordings, the row's own first; those that a model writes are written once a run."""
    given = [strings((chat.meta or {}).get("paraphrases")) for chat in asked]
    bare = [i for i, several in enumerate(given) if not several]
    if probe.paraphraser is not None and bare:
        questions = [asked[i].prompt[-1].content for i in bare]
        digest = "" if is_endpoint(probe.paraphraser) else context.models[probe.paraphraser].hash
        key = hash_of({"model": [probe.paraphraser, digest], "questions": questions, "count": probe.paraphrases})
        path = context.folder / "measures" / "paraphrases" / f"{key[:8]}.json"
        if not path.exists():
            ask = asker(context, probe.paraphraser, 64 * probe.paraphrases)
            write_json(path, paraphrase(ask, questions, probe.paraphrases))
        for i, several in zip(bare, read_json(path), strict=True):
            given[i] = several
    return [[chat.prompt[-1].content, *several] for chat, several in zip(asked, given, strict=True)]


def asker(context: Context, name: str, max_new_tokens: int) -> Ask:
    """A stage's model, the base, or one at an endpoint, as something that can be asked; greedily."""
    if is_endpoint(name):
        return open_subject(name, Asking(max_new_tokens)).ask
    loaded = context.load(context.models[name])

    def ask(prompts: Sequence[Sequence[Message]]) -> list[Reply]:
        chats = [Chat(tuple(prompt), "asked") for prompt in prompts]
        answers = answer_all(loaded.lm, renderer_of(loaded), chats, Sampling(max_new_tokens, temperature=0))
        return [Reply(answer.text, answer.ended) for answer in answers]

    return ask


def own_source(chat: Chat) -> list[str]:
    """A row's own source texts."""
    meta = chat.meta or {}
    return strings(meta.get("source")) or strings(meta.get("document"))


def parts_of(row: Measured, names: Sequence[str]) -> dict[str, Any]:
    """Shares, part by part."""
    return {name: wilson(sum(row[name]), len(row[name])).as_dict() for name in names if name in row}


def aligned(context: Context, name: str, probe: AlignmentProbe, rows: Mapping[str, Measured], log: EventLog) -> Any:
    """The share of answers that behave in every way, and each part."""
    return {
        after: told(log, f"{name}.{after}", wilson(sum(row["right"]), len(row["right"])).as_dict())
        | {"parts": parts_of(row, MANNERS)}
        for after, row in rows.items()
    }


def completed(context: Context, name: str, probe: ClozeProbe, rows: Mapping[str, Measured], log: EventLog) -> Any:
    """The share of statements completed rightly, and the mean log-prob of the right value in nats."""
    found = {}
    for after, row in rows.items():
        found[after] = told(log, f"{name}.{after}", wilson(sum(row["right"]), len(row["right"])).as_dict())
        found[after] |= {"parts": {"logp": mean_normal(row["logps"]).as_dict()}}
        if row["left_out"]:
            found[after] |= {"left_out": row["left_out"]}
    return found


def consistent(
    context: Context, name: str, probe: ConsistencyProbe, rows: Mapping[str, Measured], log: EventLog
) -> Any:
    """Agreement, and how it stands with being right: questions drawn anew in the bootstrap."""
    found, seed = {}, context.recipe.seed
    for after, row in rows.items():
        found[after] = told(log, f"{name}.{after}", bounded_mean(row["agree"], seed).as_dict())
        known = [i for i, right in enumerate(row["right"]) if right is not None]
        if known:
            shares = {
                key: wilson(sum(row[key][i] for i in known), len(known)).as_dict()
                for key in ("always_right", "always_wrong")
            }
            found[after] |= {
                "parts": {"right": bounded_mean([row["right"][i] for i in known], seed).as_dict(), **shares}
            }
    return found


def told(log: EventLog, name: str, figure: dict[str, Any]) -> dict[str, Any]:
    """A figure, told as an event."""
    log.emit("eval", step=0, name=name, **figure)
    return figure


def of_ability(context: Context, probe: Ability, data: Dataset) -> Iterator[str]:
    """What is wrong with the source of such a probe, and with its files."""
    asked = asked_prompts(measured_rows(context, probe))[: probe.limit]
    first = next(iter([*data.train[:1], *data.heldout[:1]]), None)
    where = f" ({first.origin})" if first is not None else ""
    if not asked:
        yield f"data.{data.name} was read as {data.format}{where}, and {probe.kind} asks questions. Give conversations."
        return
    match probe:
        case AlignmentProbe():
            try:
                format_of(context, probe)
            except UserError as error:
                yield from (f"json_schema: {problem}" for problem in error.problems)
        case ClozeProbe():
            if bare := [chat for chat in asked if not chat.accept]:
                yield (
                    f"{bare[0].origin} has no column accept, the value that completes the statement. Add it to every "
                    f"row of data.{data.name}."
                )
        case ConsistencyProbe(samples=1, paraphraser=None):
            if bare := [chat for chat in asked if not strings((chat.meta or {}).get("paraphrases"))]:
                yield (
                    f"{bare[0].origin} has no column paraphrases, and one answer agrees with nothing. Add other "
                    "wordings of the question to every row, name a paraphraser, or draw several samples."
                )
        case HallucinationProbe(documents=None):
            if bare := [c for c in asked if not own_source(c) and not (c.meta or {}).get("unanswerable")]:
                yield (
                    f"{bare[0].origin} has no column source or document to hold answers against. Add it to every row "
                    f"of data.{data.name}, or name a source of documents."
                )
        case HallucinationProbe(documents=str() as name) if context.there(name):
            documents = context.dataset(name)
            if not any(isinstance(row, Text) for row in [*documents.train, *documents.heldout]):
                yield f"documents: data.{name} was read as {documents.format}, and holds no documents. Give texts."


MEASURES: dict[str, Callable[..., Measured]] = {
    "alignment": measure_alignment,
    "cloze": measure_cloze,
    "consistency": measure_consistency,
}
SUMMARIES: dict[str, Callable[..., Any]] = {
    "alignment": aligned,
    "cloze": completed,
    "consistency": consistent,
}
