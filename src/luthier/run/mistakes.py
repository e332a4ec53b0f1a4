"""The probe `mistakes`: what is wrong with the answers after each stage, category by category, worst first, each with
the training rows that are nearest to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from luthier.base.errors import UserError
from luthier.base.events import EventLog
from luthier.base.files import write_jsonl
from luthier.base.made import behind, made_by, no_such_source
from luthier.base.mistakes import Judging, MistakesProbe
from luthier.base.nouns import Chat, Example, Text
from luthier.base.recipe import Recipe, Sft
from luthier.data.dataset import open_source
from luthier.evals.answers import answer_all
from luthier.evals.intervals import wilson
from luthier.evals.mistakes import Facts, How, judge, prepare
from luthier.evals.retrieval import Index
from luthier.model.draw import Sampling
from luthier.model.load import Loaded
from luthier.run.context import Context, ModelRef, probe_prompts, renderer_of

NEAREST = 3
"""Training rows shown beside a mistake."""
SHOWN_CHARACTERS = 2000
ANY = "any"
"""The group of answers with at least one mistake."""

Measured = dict[str, Any]


def judging_of(judging: Judging, recipe: Recipe, root: Path) -> How:
    """The thresholds with what they name loaded: the word lists, the schema, the documents of `names_from`."""
    made = made_by(recipe.stages)
    unknown = [name for name in judging.names_from if name not in recipe.data and name not in made]
    if unknown:
        raise UserError([f"names_from: {no_such_source(name, recipe.data, made)}" for name in unknown])
    names = documents_behind(recipe, judging)
    return prepare(judging, root, (text for name in names for text in documents(recipe, name, root)))


def documents_behind(recipe: Recipe, judging: Judging) -> list[str]:
    """The sources that `names_from` means: those it names, and those behind the data that stages make."""
    named = [source for name in judging.names_from for source in behind(recipe.stages, name)]
    return [name for name in dict.fromkeys(named) if name in recipe.data]


def documents(recipe: Recipe, name: str, root: Path) -> Iterator[str]:
    """The texts of a source of documents."""
    return (e.text for e in examples(recipe, name, root) if isinstance(e, Text))


def examples(recipe: Recipe, name: str, root: Path) -> Iterator[Example]:
    """Every usable row of a source in file order, held out or not; streamed sources too. No more than its `limit`."""
    source = recipe.data[name]
    opened = open_source(name, source, root)
    made = (opened.conversion.example(row) for row in opened.rows)
    usable = (e for e in made if isinstance(e, Example))
    return (e for i, e in zip(range(source.limit), usable, strict=False)) if source.limit else usable


def facts_of(chat: Chat, answer: str, ended: bool | None, column: str) -> Facts:
    """What is known of an answer to a conversation's prompt. `column` holds the document to keep to."""
    source = (chat.meta or {}).get(column)
    prompt = "\n".join(m.content for m in chat.prompt if m.role != "assistant")
    reference = chat.answer if ended is not None else None  # of a training row, the reference is the answer itself
    return Facts(prompt, answer, chat.accept, reference, source if isinstance(source, str) else None, ended)


def measure_mistakes(context: Context, probe: MistakesProbe, loaded: Loaded, ref: ModelRef) -> Measured:
    """Every answer with its findings."""
    asked = probe_prompts(context, probe)
    how = judging_of(probe.judging, context.recipe, context.root)
    rows = []
    for draw in range(probe.samples):
        sampling = Sampling(probe.max_new_tokens, probe.temperature, seed=context.recipe.seed + draw)
        answers = answer_all(loaded.lm, renderer_of(loaded), asked, sampling)
        for item, (chat, answer) in enumerate(zip(asked, answers, strict=True)):
            found = judge(facts_of(chat, answer.text, answer.ended, probe.judging.source), how)
            rows.append(
                {
                    "item": item,
                    "origin": chat.origin,
                    "prompt": "\n".join(m.content for m in chat.prompt if m.role != "assistant"),
                    "accept": list(chat.accept),
                    "reference": chat.answer,
                    "answer": answer.text,
                    "ended": answer.ended,
                    "right": answer.right,
                    "findings": [f._asdict() for f in found],
                }
            )
    origins = [row["origin"] for row in rows]
    return {"how": {"judged": list(how.categories), "left_out": list(how.left_out)}, "origins": origins, "rows": rows}


class Share(NamedTuple):
    """In how many of the answers something is so: `hits_N` of each prompt is the share of its answers."""

    hits_N: list[float]

    def figure(self) -> dict[str, float]:
        """The share with its Wilson interval over prompts. Answers to one prompt are not independent: each prompt
        counts once, by its share, which makes the interval too wide rather than too narrow."""
        return wilson(sum(self.hits_N), len(self.hits_N)).as_dict()


def share_of(rows: Sequence[Mapping[str, Any]], category: str) -> Share:
    """The answers that have a category; `any`: one at least; `right`: an accepted value."""

    def hit(row: Mapping[str, Any]) -> bool:
        if category == "right":
            return bool(row["right"])
        return any(category in (ANY, f["category"]) for f in row["findings"])

    by_item: dict[int, list[bool]] = {}
    for row in rows:
        by_item.setdefault(row["item"], []).append(hit(row))
    return Share([sum(hits) / len(hits) for hits in by_item.values()])


def shares_wrong(
    context: Context, name: str, probe: MistakesProbe, measured: dict[str, Measured], log: EventLog
) -> Any:
    """Each category after each stage, and the worst examples with their nearest training rows; all answers that
    count go to mistakes/<probe>.jsonl in the run's folder. Categories that nobody has are left out of the figures."""
    found: dict[str, Any] = {}
    how = next(iter(measured.values()))["how"]
    judged = how["judged"]
    for said in how["left_out"]:
        log.emit("note", text=f"{name}: {said}")
    for category in (ANY, *judged):
        shares = {after: share_of(one["rows"], category).figure() for after, one in measured.items()}
        if category == ANY or any(figure["value"] for figure in shares.values()):
            found[category] = shares
    for after, figure in found[ANY].items():
        log.emit("eval", step=0, name=f"{name}.{ANY}.{after}", **figure)
    rows = [{"after": after, **row} for after, one in measured.items() for row in one["rows"]]
    write_jsonl(context.folder / "mistakes" / f"{name}.jsonl", rows)
    worst = worst_of(rows, probe.worst)
    nearest = nearest_rows(context.recipe, context.root, [f"{row['prompt']} {row['answer']}" for row in worst])
    shown = [shortened(row) | {"nearest": near} for row, near in zip(worst, nearest, strict=True)]
    return found | {"worst": shown, "clean": [name for name in judged if name not in found]}


def worst_of(rows: Sequence[Mapping[str, Any]], most: int) -> list[dict[str, Any]]:
    """The answers with the gravest mistakes, after the last stage first. The categories take turns, so that a common
    one does not hide the rare ones; of equal answers to one prompt one is shown."""
    last = {after: i for i, after in enumerate(dict.fromkeys(row["after"] for row in rows))}
    graded = sorted(rows, key=lambda r: (-last[r["after"]], -sum(f["severity"] for f in r["findings"]), r["item"]))
    queues: dict[tuple[int, str], list[dict[str, Any]]] = {}
    seen = set()
    for row in graded:
        key = (row["after"], row["prompt"], row["answer"])
        if row["findings"] and key not in seen:
            seen.add(key)
            queues.setdefault((-last[row["after"]], row["findings"][0]["category"]), []).append(dict(row))
    found: list[dict[str, Any]] = []
    for stage in sorted({stage for stage, _ in queues}):
        waiting = [queue for (after, _), queue in queues.items() if after == stage]
        while any(waiting) and len(found) < most:
            for queue in waiting:
                if queue and len(found) < most:
                    found.append(queue.pop(0))
    return found


def shortened(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as the report keeps it: no text longer than 2,000 characters."""
    short = {key: value[:SHOWN_CHARACTERS] if isinstance(value, str) else value for key, value in row.items()}
    return short | {"findings": [f for f in row["findings"] if f["start"] <= SHOWN_CHARACTERS]}


def trained_on(recipe: Recipe) -> list[str]:
    """The sources of conversations that the run's stages train on."""
    names: dict[str, None] = {}
    for stage in recipe.stages:
        if isinstance(stage, Sft):
            for name in [stage.data] if isinstance(stage.data, str) else stage.data:
                names |= {source: None for source in behind(recipe.stages, name) if source in recipe.data}
    return list(names)


def nearest_rows(recipe: Recipe, root: Path, queries: Sequence[str], k: int = NEAREST) -> list[list[dict[str, Any]]]:
    """For each query the training conversations that share its rare words, best first (BM25)."""
    if not queries:
        return []
    rows = [e for name in trained_on(recipe) for e in examples(recipe, name, root) if isinstance(e, Chat) and e.answer]
    index = Index.build([f"{row.prompt[-1].content if row.prompt else ''} {row.answer}" for row in rows])
    found = index.search(queries, k)
    return [
        [
            {
                "origin": rows[i].origin,
                "prompt": rows[i].prompt[-1].content[:SHOWN_CHARACTERS] if rows[i].prompt else "",
                "answer": (rows[i].answer or "")[:SHOWN_CHARACTERS],
                "score": round(float(score), 3),
            }
            for i, score in zip(indices, scores, strict=True)
            if i >= 0
        ]
        for indices, scores in zip(found.index_QK, found.score_QK, strict=True)
    ]
