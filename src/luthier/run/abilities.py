"""The probes of `base/abilities.py`, measured: alignment, cloze, consistency, hallucination."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from luthier.base.abilities import Ability, AlignmentProbe, ClozeProbe, ConsistencyProbe, HallucinationProbe
from luthier.base.errors import RunError, UserError
from luthier.base.events import EventLog
from luthier.base.files import hash_of, read_json, write_json
from luthier.base.functions import load_function, resolve_path
from luthier.base.nouns import Ask, Chat, Message, Reply, Text
from luthier.base.seeds import seed_for
from luthier.data.dataset import Dataset
from luthier.evals.answers import Answer, answer_all
from luthier.evals.cloze import cloze
from luthier.evals.consistency import Agreement, agreement, paraphrase
from luthier.evals.formats import fits_schema
from luthier.evals.intervals import bootstrap_ratio, bounded_mean, mean_normal, wilson
from luthier.evals.manners import Follows, manners, matches
from luthier.evals.retrieval import Index
from luthier.evals.support import Claim, claims, passages, refuses, unsupported
from luthier.generate import Sampling
from luthier.model.load import Loaded
from luthier.run.context import Context, ModelRef, asked_prompts, renderer_of, texts

Measured = dict[str, Any]
MANNERS = ("stops", "answers", "no_loop", "not_empty", "format")
SHOWN = 6
"""Unsupported claims that the report shows of each model."""


def asked_of(context: Context, probe: Ability) -> list[Chat]:
    """The prompts of a probe. UserError where there is none."""
    data = context.dataset(probe.data)
    asked = asked_prompts(data.train + data.heldout)[: probe.limit]
    if not asked:
        raise UserError(f"evaluate: data.{probe.data} holds no conversations.")
    return asked


def answers_of(context: Context, probe: Any, loaded: Loaded, chats: Sequence[Chat]) -> list[Answer]:
    """The model's answers, drawn as the probe says."""
    how = Sampling(probe.max_new_tokens, probe.temperature, seed=context.recipe.seed)
    return answer_all(loaded.lm, renderer_of(loaded), chats, how)


def measure_alignment(context: Context, probe: AlignmentProbe, loaded: Loaded, ref: ModelRef) -> Measured:
    """How each answer behaves."""
    follows = format_of(context, probe)
    answers = answers_of(context, probe, loaded, asked_of(context, probe))
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
    """The check of the format that the probe states; None where it states none."""
    checks: list[Follows] = []
    if probe.regex is not None:
        checks.append(matches(probe.regex))
    if probe.json_schema is not None:
        checks.append(fits_schema(read_json(resolve_path(context.recipe_path, probe.json_schema))))
    return (lambda text: all(check(text) for check in checks)) if checks else None


def measure_cloze(context: Context, probe: ClozeProbe, loaded: Loaded, ref: ModelRef) -> Measured:
    """Whether each statement is completed rightly, and how likely the right value was."""
    asked = asked_of(context, probe)
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
    asked = asked_of(context, probe)
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
        made = context.models[probe.paraphraser]
        key = hash_of({"model": made.hash, "questions": questions, "count": probe.paraphrases})
        path = context.folder / "measures" / "paraphrases" / f"{key[:8]}.json"
        if not path.exists():
            write_json(
                path, paraphrase(asker(context.load(made), 64 * probe.paraphrases), questions, probe.paraphrases)
            )
        for i, several in zip(bare, read_json(path), strict=True):
            given[i] = several
    return [[chat.prompt[-1].content, *several] for chat, several in zip(asked, given, strict=True)]


def asker(loaded: Loaded, max_new_tokens: int) -> Ask:
    """A model here as one that answers prompts, greedily."""

    def ask(prompts: Sequence[Sequence[Message]]) -> list[Reply]:
        chats = [Chat(tuple(prompt), "asked") for prompt in prompts]
        answers = answer_all(loaded.lm, renderer_of(loaded), chats, Sampling(max_new_tokens, temperature=0))
        return [Reply(answer.text, answer.ended) for answer in answers]

    return ask


def measure_hallucination(context: Context, probe: HallucinationProbe, loaded: Loaded, ref: ModelRef) -> Measured:
    """The claims of each answer that its source does not hold."""
    asked = asked_of(context, probe)
    answers = answers_of(context, probe, loaded, asked)
    sources = sources_for(context, probe, asked, answers)
    judge = None if probe.judge is None else load_judge(probe.judge, context)
    found = [held_against(a, source, probe, judge) for a, source in zip(answers, sources, strict=True)]
    open_ = [bool((chat.meta or {}).get("unanswerable")) for chat in asked]
    refused = [refuses(a.text) for a in answers]
    return {
        "faithful": [int(r if o else not lost) for o, r, (_, lost) in zip(open_, refused, found, strict=True)],
        "claims": [count for count, _ in found],
        "lost": [len(lost) for _, lost in found],
        "unanswerable": [int(o) for o in open_],
        "refused": [int(r) for r in refused],
        "origins": [a.origin for a in answers],
        "texts": [a.text for a in answers],
        "questions": [a.prompt[-1].content for a in answers],
        "unsupported": [[[claim.text, claim.why] for claim in lost] for _, lost in found],
    }


def held_against(
    answer: Answer, source: Sequence[str], probe: HallucinationProbe, judge: Callable[[str, str], float] | None
) -> tuple[int, list[Claim]]:
    """(number of claims, those that the source does not support)."""
    stated = claims(answer.text)
    if judge is None:
        return len(stated), unsupported(answer.text, source, answer.prompt[-1].content, probe.least_share)
    whole = "\n\n".join(source)
    lost = [claim for claim in stated if judge(claim, whole) < 0.5]
    return len(stated), [Claim(claim, f"{probe.judge} says so", (), math.nan) for claim in lost]


def load_judge(spec: str, context: Context) -> Callable[[str, str], float]:
    """The function that decides about claims, whose verdicts are numbers or a RunError."""
    function = load_function(spec, context.root)

    def judge(claim: str, source: str) -> float:
        try:
            said = float(function(claim, source))
        except Exception as error:
            raise RunError(f"judge {spec} failed for the claim {claim[:80]!r}: {error}. Mend it.") from error
        if not math.isfinite(said):
            raise RunError(f"judge {spec} returned {said} for the claim {claim[:80]!r}. It must be between 0 and 1.")
        return said

    return judge


def own_source(chat: Chat) -> list[str]:
    """A row's own source texts."""
    meta = chat.meta or {}
    return strings(meta.get("source")) or strings(meta.get("document"))


def sources_for(
    context: Context, probe: HallucinationProbe, asked: Sequence[Chat], answers: Sequence[Answer]
) -> list[list[str]]:
    """What each answer is held against: its row's own source, else the passages nearest to question and answer."""
    own = [own_source(chat) for chat in asked]
    if probe.documents is None:
        return own
    data = context.dataset(probe.documents)
    pieces = passages([document.text for document in texts(data.train + data.heldout)])
    bare = [i for i, source in enumerate(own) if not source]
    queries = [f"{answers[i].prompt[-1].content} {answers[i].text}" for i in bare]
    nearest = Index.build(pieces).search(queries, probe.passages).index_QK
    for i, row in zip(bare, nearest, strict=True):
        own[i] = [pieces[at] for at in row if at >= 0]
    return own


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


def faithful(
    context: Context, name: str, probe: HallucinationProbe, rows: Mapping[str, Measured], log: EventLog
) -> Any:
    """The share of answers that keep to their source; claims by themselves; what was refused and what was not."""
    found = {}
    for after, row in rows.items():
        figure = told(log, f"{name}.{after}", wilson(sum(row["faithful"]), len(row["faithful"])).as_dict())
        parts: dict[str, Any] = {}
        if sum(row["claims"]):
            held = [count - lost for count, lost in zip(row["claims"], row["lost"], strict=True)]
            parts["claims_supported"] = bootstrap_ratio(held, row["claims"], context.recipe.seed).as_dict()
        both = list(zip(row["unanswerable"], row["refused"], strict=True))
        for key, wanted, counted in (("unanswerable_answered", 1, 0), ("answerable_refused", 0, 1)):
            mine = [refused for unanswerable, refused in both if unanswerable == wanted]
            if mine and (wanted or sum(mine)):
                parts[key] = wilson(mine.count(counted), len(mine)).as_dict()
        shown = [
            {"question": row["questions"][i], "claim": text, "why": why, "origin": row["origins"][i]}
            for i, lost in enumerate(row["unsupported"])
            for text, why in lost[:1]
        ]
        found[after] = figure | {"parts": parts, "examples": shown[:SHOWN]}
    return found


def told(log: EventLog, name: str, figure: dict[str, Any]) -> dict[str, Any]:
    """A figure, told as an event."""
    log.emit("eval", step=0, name=name, **figure)
    return figure


def of_ability(context: Context, probe: Ability, data: Dataset) -> Iterator[str]:
    """What is wrong with the source of such a probe, and with its files."""
    asked = asked_prompts([*data.train, *data.heldout])[: probe.limit]
    first = next(iter([*data.train[:1], *data.heldout[:1]]), None)
    where = f" ({first.origin})" if first is not None else ""
    if not asked:
        yield f"data.{data.name} was read as {data.format}{where}, and {probe.kind} asks questions. Give conversations."
        return
    match probe:
        case AlignmentProbe(json_schema=str() as path):
            yield from schema_problem(context, probe, path)
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
        case HallucinationProbe(documents=str() as name):
            documents = context.dataset(name)
            if not any(isinstance(row, Text) for row in [*documents.train, *documents.heldout]):
                yield f"documents: data.{name} was read as {documents.format}, and holds no documents. Give texts."


def schema_problem(context: Context, probe: AlignmentProbe, path: str) -> Iterator[str]:
    """What is wrong with a schema's file."""
    file = resolve_path(context.recipe_path, path)
    if not file.is_file():
        yield f"json_schema: {path}: no such file."
        return
    try:
        format_of(context, probe)
    except (UserError, ValueError) as error:
        yield f"{path}: {error}"


MEASURES: dict[str, Callable[..., Measured]] = {
    "alignment": measure_alignment,
    "cloze": measure_cloze,
    "consistency": measure_consistency,
    "hallucination": measure_hallucination,
}
SUMMARIES: dict[str, Callable[..., Any]] = {
    "alignment": aligned,
    "cloze": completed,
    "consistency": consistent,
    "hallucination": faithful,
}
