"""Prompt, retrieve or tune: the same held-out questions, really answered in each way, with what each costs.

Everything stands in `ways/` of the run's own folder, each way a memo. The tuned model is the run's; the other ways ask
the model that its tuning began with.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from luthier.base.crosscheck import WRITES_TEXT, stage_name
from luthier.base.errors import RunError, UserError, did_you_mean
from luthier.base.events import EventLog
from luthier.base.files import hash_of, read_json, write_json, write_text
from luthier.base.nouns import Chat, Text, last_user
from luthier.base.probes import AnswersProbe
from luthier.base.reads import names_read
from luthier.base.recipe import Recipe, Sft
from luthier.base.seeds import seed_for
from luthier.base.source import Source
from luthier.base.values import contains
from luthier.data.dataset import content, read_dataset
from luthier.evals.answers import answer_all
from luthier.evals.passages import Passage, passages
from luthier.evals.retrieval import Index
from luthier.evals.wording import token_f1
from luthier.model.draw import Sampling
from luthier.model.embed import load_embedder
from luthier.model.load import Loaded
from luthier.run.against.ways_prompts import Prompted, bare, fits_in, framed, with_examples, with_passages
from luthier.run.context import Context, ModelRef, asked_prompts, chats, measured_rows, renderer_of, texts
from luthier.run.memo import code_hash, versions

WAYS = ("zero-shot", "few-shot", "rag", "tuned", "tuned+rag")
"""From the simplest to the most work."""
TUNED = ("tuned", "tuned+rag")
RETRIEVING = ("rag", "tuned+rag")
LATENCIES = 24
"""Questions asked one at a time, for how long a person waits; all of them together say what an answer costs."""
LEAST_PASSAGE_TOKENS, MOST_PASSAGE_TOKENS = 16, 200
"""Of a passage: what is left of the context beside nine of ten questions, shared among the passages."""

Search = Callable[[Sequence[str], int], np.ndarray]
"""Queries, k -> [Q, K] indices of the best, −1 where there are fewer."""


@dataclass(frozen=True)
class Plan:
    """What is asked, of which models, how."""

    ways: tuple[str, ...]
    index: int
    """Of the stage whose model is the tuned one."""
    test: str | None
    """The `answers` probe whose questions are asked; None: held-out rows of `examples`."""
    examples: str
    """The source whose training rows are worked examples."""
    documents: Source | None
    """None: no way retrieves."""
    shots: int
    nearest: bool
    """Examples are those nearest to the question by BM25; else the same for all, drawn by the seed."""
    passages: int
    embeddings: Path | None
    limit: int | None
    price_per_hour_usd: float
    volume: int | None
    left_out: Mapping[str, str] = field(default_factory=dict)


def plan_ways(
    recipe: Recipe,
    ways: Sequence[str] = WAYS,
    stage: str | None = None,
    test: str | None = None,
    documents: str | None = None,
    shots: int = 4,
    nearest: bool = True,
    passages: int = 3,
    embeddings: Path | None = None,
    limit: int | None = None,
    price_per_hour_usd: float = 1.0,
    volume: int | None = None,
) -> Plan:
    """Raises UserError, with all that is wrong, for ways that there are not, and for what the recipe lacks."""
    wrong = [
        f"--ways {w}: no such way.{did_you_mean(w, WAYS)} There are: {', '.join(WAYS)}." for w in ways if w not in WAYS
    ]
    if not ways:
        wrong.append(f"--ways: names none. There are: {', '.join(WAYS)}.")
    models = {stage_name(s): i for i, s in enumerate(recipe.stages) if s.kind in WRITES_TEXT}
    tuned = {name: i for name, i in models.items() if recipe.base.fresh is None or recipe.stages[i].kind != "pretrain"}
    if not tuned:
        wrong.append("stages: none tunes a model. Add one of kind sft, for example.")
    elif stage is not None and stage not in tuned:
        wrong.append(f"--stage {stage}: tunes no model.{did_you_mean(stage, tuned)} There are: {', '.join(tuned)}.")
    probes = [name for name, probe in recipe.evaluate.items() if isinstance(probe, AnswersProbe)]
    if test is not None and test not in probes:
        said = f"--test {test}: no answers probe under evaluate.{did_you_mean(test, probes)}"
        wrong.append(f"{said} There are: {', '.join(probes) or 'none'}.")
    index = tuned[stage] if stage in tuned else max(tuned.values(), default=0)
    examples = examples_of(recipe, index)
    if recipe.stages and not examples:
        wrong.append("stages: none reads conversations, of which examples could be shown. Add one of kind sft.")
    source, why = documents_of(recipe, documents)
    asked = documents is not None or (any(way in RETRIEVING for way in ways) and ways != WAYS)
    if why and asked:
        wrong.append(why)
    if wrong:
        raise UserError(wrong)
    kept = [w for w in WAYS if w in ways and (source is not None or w not in RETRIEVING)]
    left_out = {w: why for w in RETRIEVING if w in ways and source is None}
    chosen = test or (probes[0] if probes else None)
    return Plan(
        tuple(kept), index, chosen, examples, source, shots, nearest, passages, embeddings, limit,
        price_per_hour_usd, volume, left_out,
    )  # fmt: skip


def examples_of(recipe: Recipe, index: int) -> str:
    """The source that taught the tuned model to answer: of the last sft stage, else what a stage on pairs reads."""
    for stage in reversed(recipe.stages[: index + 1]):
        if isinstance(stage, Sft):
            return stage.data if isinstance(stage.data, str) else next(iter(stage.data))
    return next((name for name in sorted(names_read(recipe.stages[index])) if name in recipe.data), "")


def documents_of(recipe: Recipe, wanted: str | None) -> tuple[Source | None, str]:
    """(the source of documents, why there is none): by its name under data, else by its path; else the recipe's first
    source that a pretraining reads, or whose format is text."""
    if wanted is not None and wanted in recipe.data:
        return recipe.data[wanted], ""
    if wanted is not None:
        return Source(path=str(Path(wanted).resolve()), format="text", heldout=0), "" if Path(wanted).exists() else (
            f"--documents {wanted}: no source under data, and no path.{did_you_mean(wanted, recipe.data)}"
        )
    read = [name for s in recipe.stages if s.kind == "pretrain" for name in sorted(names_read(s))]
    read += [name for name, source in recipe.data.items() if source.format == "text"]
    if read and read[0] in recipe.data:
        return recipe.data[read[0]], ""
    return None, "no documents to look things up in: give --documents, a source of the recipe or a path"


@dataclass(frozen=True)
class Bench:
    """What the ways share: the questions, the examples, the passages."""

    asked: Sequence[Chat]
    how: Sampling
    examples: Sequence[Chat]
    documents: Sequence[Text]
    hash: str


def bench_for(context: Context, plan: Plan) -> Bench:
    """Reads questions, examples and documents. Raises UserError where the questions cannot be judged."""
    recipe = context.recipe
    if plan.test is not None:
        probe = recipe.evaluate[plan.test]
        assert isinstance(probe, AnswersProbe)
        data = context.dataset(probe.data)
        asked = asked_prompts(measured_rows(context, probe))[: probe.limit]
        how = Sampling(probe.max_new_tokens, probe.temperature, seed=recipe.seed)
    else:
        data = context.dataset(plan.examples)
        asked, how = chats(data.heldout), Sampling(recipe.answer_tokens, temperature=0)
    asked = asked[: plan.limit]
    if not asked:
        raise UserError(f"data.{data.name} holds no held-out question. Raise its `heldout`, or add an answers probe.")
    unknown = [chat.origin for chat in asked if not chat.accept and chat.answer is None]
    if unknown:
        raise UserError(
            f"{unknown[0]}: neither `accept` nor an answer: it cannot be judged (and {len(unknown) - 1} more)."
        )
    questions = {content(bare(chat)) for chat in asked}
    rows = [c for c in chats(context.dataset(plan.examples).train) if c.answer is not None]
    examples = [chat for chat in rows if content(bare(chat)) not in questions]
    documents: list[Text] = []
    hashes = [data.hash, context.dataset(plan.examples).hash]
    if plan.documents is not None and set(plan.ways) & set(RETRIEVING):
        read = read_dataset("documents", plan.documents, context.root)
        documents = texts(read.train + read.heldout)
        hashes.append(read.hash)
        if not documents:
            raise UserError("--documents: holds no documents, only other rows. Name a source of texts.")
    return Bench(asked, how, examples, documents, hash_of(hashes))


def start_of(context: Context, plan: Plan) -> ModelRef:
    """The model that tuning began with: the outside base, or what pretraining made of a fresh one."""
    return context.models["base"]


def tuning_s(context: Context, plan: Plan) -> float:
    """Seconds of all stages from that model to the tuned one."""
    fresh = context.recipe.base.fresh is not None
    first = next((i for i, s in enumerate(context.recipe.stages) if not (fresh and s.kind == "pretrain")), 0)
    return sum(folder.record["seconds"] for folder in context.stages[first : plan.index + 1])


def answer_ways(context: Context, plan: Plan, bench: Bench, log: EventLog) -> tuple[dict[str, Any], dict[str, str]]:
    """(what came of each way, those that failed and why). One model is loaded at a time; a way that is on disk is not
    asked again. Raises RunError where none came through."""
    found: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for refs in ([w for w in plan.ways if w not in TUNED], [w for w in plan.ways if w in TUNED]):
        held: list[Loaded] = []
        for way in refs:
            ref = (
                context.models[stage_name(context.recipe.stages[plan.index])]
                if way in TUNED
                else start_of(context, plan)
            )
            path = context.folder / "ways" / f"{way}-{way_hash(context, plan, bench, way, ref)[:8]}.json"
            if path.exists():
                found[way] = read_json(path)
                continue
            log.emit("note", text=f"{way}: {len(bench.asked)} questions to {ref.name}")
            try:
                held = held or [context.load(ref)]
                found[way] = answer_way(context, plan, bench, way, held[0])
                write_json(path, found[way])
            except (UserError, RunError, RuntimeError, MemoryError) as error:
                failed[way] = f"{error}"
                write_text(context.folder / "ways" / f"failed-{way}.txt", traceback.format_exc())
                log.emit("note", text=f"{way} failed: {error}")
    if not found:
        raise RunError("\n".join(["no way came through:", *(f"  {way}: {why}" for way, why in failed.items())]))
    return {way: found[way] for way in plan.ways if way in found}, failed


def way_hash(context: Context, plan: Plan, bench: Bench, way: str, ref: ModelRef) -> str:
    """Of what decides a way's answers."""
    how: dict[str, Any] = {"shots": plan.shots, "nearest": plan.nearest} if way == "few-shot" else {}
    if way in RETRIEVING:
        how = {"passages": plan.passages, "embeddings": str(plan.embeddings)}
    sampling = [bench.how.max_new_tokens, bench.how.temperature, bench.how.seed, len(bench.asked)]
    return hash_of([way, how, sampling, bench.hash, ref.hash, context.recipe.seed, versions(), code_hash()])


def answer_way(context: Context, plan: Plan, bench: Bench, way: str, loaded: Loaded) -> dict[str, Any]:
    """Every question answered in one way: together, and some of them one at a time, with what that took."""
    renderer = renderer_of(loaded)
    room = loaded.context - min(bench.how.max_new_tokens, loaded.context // 2)
    began = time.monotonic()
    prompting = prompter(context, plan, bench, way, loaded, room)
    prepared_s = time.monotonic() - began
    answer_all(loaded.lm, renderer, [one.chat for one in prompting(bench.asked[:1])], bench.how)  # warm, not counted
    began = time.monotonic()
    prompts = prompting(bench.asked)
    answers = answer_all(loaded.lm, renderer, [one.chat for one in prompts], bench.how)
    together_s = time.monotonic() - began
    waited_s = []
    for chat in bench.asked[:LATENCIES]:
        began = time.monotonic()
        answer_all(loaded.lm, renderer, [prompting([chat])[0].chat], bench.how)
        waited_s.append(time.monotonic() - began)
    plain = not renderer.has_template
    said = [ended_at_gap(a.text) if plain and way == "few-shot" else a.text for a in answers]
    return {
        "way": way,
        "origins": [chat.origin for chat in bench.asked],
        "questions": [last_user(chat.prompt) for chat in bench.asked],
        "references": [chat.answer or ", ".join(chat.accept) for chat in bench.asked],
        "answers": said,
        "ended": [a.ended for a in answers],
        "right": [right(chat, text) for chat, text in zip(bench.asked, said, strict=True)],
        "f1": [nearness(chat, text) for chat, text in zip(bench.asked, said, strict=True)],
        "held": [right(c, one.chat.messages[-1].content) for c, one in zip(bench.asked, prompts, strict=True)]
        if way in RETRIEVING
        else [],
        "shown": [one.shown for one in prompts],
        "dropped": [one.dropped for one in prompts],
        "tokens_in": [len(renderer.prompt(one.chat.prompt, one.chat.origin)) for one in prompts],
        "tokens_out": [len(loaded.tokenizer(a.text, add_special_tokens=False)["input_ids"]) + a.ended for a in answers],
        "prepared_s": round(prepared_s, 4),
        "together_s": round(together_s, 4),
        "waited_s": [round(s, 4) for s in waited_s],
    }


def prompter(
    context: Context, plan: Plan, bench: Bench, way: str, loaded: Loaded, room: int
) -> Callable[[Sequence[Chat]], list[Prompted]]:
    """A function from questions to a way's prompts. What is looked up is looked up each time: it is part of what an
    answer takes."""
    renderer = renderer_of(loaded)
    fits, template = fits_in(renderer, room), renderer.has_template
    if way == "few-shot":
        choose = chooser(context, plan, bench)
        return lambda asked: [
            with_examples(chat, chosen, template, fits) for chat, chosen in zip(asked, choose(asked), strict=True)
        ]
    if way in RETRIEVING:
        count = lambda text: len(loaded.tokenizer(text, add_special_tokens=False)["input_ids"])  # noqa: E731
        frames = [len(renderer.prompt(framed(chat, template).prompt, chat.origin)) for chat in bench.asked]
        left = room - int(np.quantile(frames, 0.9))
        most = min(MOST_PASSAGE_TOKENS, max(LEAST_PASSAGE_TOKENS, left // plan.passages))
        found = passages(bench.documents, most, count)
        search = searcher(context, plan, [one.text for one in found])
        return lambda asked: [
            with_passages(chat, said, template, fits)
            for chat, said in zip(asked, looked_up(asked, found, search, plan.passages), strict=True)
        ]
    return lambda asked: [Prompted(bare(chat), 0, 0) for chat in asked]


def looked_up(asked: Sequence[Chat], found: Sequence[Passage], search: Search, k: int) -> list[list[str]]:
    """The best passages for each question."""
    best_QK = search([last_user(chat.prompt) for chat in asked], k)
    return [[found[i].text for i in row if i >= 0] for row in best_QK.tolist()]


def searcher(context: Context, plan: Plan, said: Sequence[str]) -> Search:
    """BM25 over some texts; or by meaning, where an embedder is given."""
    if plan.embeddings is None:
        index = Index.build(said)
        return lambda queries, k: index.search(queries, k).index_QK
    embed = load_embedder(context.root / plan.embeddings, context.device)
    texts_ND = embed(said)
    return lambda queries, k: np.argsort(-(embed(queries) @ texts_ND.T), axis=1, kind="stable")[:, :k]


def chooser(context: Context, plan: Plan, bench: Bench) -> Callable[[Sequence[Chat]], list[list[Chat]]]:
    """The worked examples of each question, the best first."""
    if not bench.examples:
        raise UserError(f"few-shot: data.{plan.examples} has no answered training row to show.")
    if not plan.nearest:
        random = np.random.default_rng(seed_for(context.recipe.seed, "few-shot examples"))
        drawn = random.permutation(len(bench.examples))[: plan.shots].tolist()
        return lambda asked: [[bench.examples[i] for i in drawn] for _ in asked]
    index = Index.build([last_user(chat.prompt) for chat in bench.examples])

    def nearest(asked: Sequence[Chat]) -> list[list[Chat]]:
        best_QK = index.search([last_user(chat.prompt) for chat in asked], plan.shots).index_QK
        return [[bench.examples[i] for i in row if i >= 0] for row in best_QK.tolist()]

    return nearest


def ended_at_gap(text: str) -> str:
    """What a model without a template says before the empty line at which the next example would begin."""
    return text.partition("\n\n")[0].strip()


def right(chat: Chat, text: str) -> int | None:
    """Whether a text contains an accepted value; None where the row names none."""
    return int(contains(text, chat.accept)) if chat.accept else None


def nearness(chat: Chat, text: str) -> float | None:
    """Token F1 of an answer against the row's own; None where the row has none."""
    return token_f1(text, [chat.answer]) if chat.answer is not None else None
