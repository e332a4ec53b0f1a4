"""Preference pairs as a run keeps them, and where a stage's pairs come from. pairs.jsonl: one pair a line."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path

from luthier.base.alignment import Dpo, Kto, Orpo, Prefer, Preference, Reward, Simpo
from luthier.base.errors import UserError
from luthier.base.files import write_jsonl
from luthier.base.nouns import Chat, Example, Labelled, Message, Pair, Tokens
from luthier.data.dataset import Dataset, leaked, write_rejected
from luthier.run.context import Context, measured_rows
from luthier.run.learner import Learner
from luthier.run.memo import StageFolder
from luthier.tokens.render import Renderer
from luthier.train import guards as g


def write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    """{prompt: [{role, content}], chosen, rejected, origin, meta, margin, agreement}; the data room reads it as format
    `pairs` too."""
    write_jsonl(
        path,
        (
            {
                "prompt": [{"role": m.role, "content": m.content} for m in pair.prompt],
                "chosen": pair.chosen,
                "rejected": pair.rejected,
                "origin": pair.origin,
                "meta": dict(pair.meta or {}),
                "margin": pair.margin,
                "agreement": pair.agreement,
            }
            for pair in pairs
        ),
    )


def read_pairs(path: Path) -> list[Pair]:
    """What `write_pairs` wrote."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        Pair(
            tuple(Message(**m) for m in row["prompt"]),
            row["chosen"],
            row["rejected"],
            row["origin"],
            row["meta"],
            row["margin"],
            row["agreement"],
        )
        for row in rows
    ]


def pairs_for(context: Context, kind: str, named: str | None) -> tuple[list[Pair], list[Pair], str]:
    """Training pairs, held-out pairs and their hash: of the source or the prefer stage called `named`, or of the last
    prefer stage. Raises UserError where there are none."""
    if named is not None and context.there(named):
        data = context.dataset(named)
        return pairs_in(data, data.train), pairs_in(data, data.heldout), data.hash
    made = [f for f in context.stages if f.kind == "prefer" and named in (None, f.name)]
    if not made:
        raise UserError(
            f"{kind}: there are no preferences. Put a `prefer` stage before it, or name a source in `pairs`."
        )
    path = made[-1].path
    return read_pairs(path / "pairs.jsonl"), read_pairs(path / "heldout.jsonl"), made[-1].hash


def pairs_in(data: Dataset, side: Sequence[Example]) -> list[Pair]:
    """One side of a source of pairs. Raises UserError where its rows are something else."""
    if other := next((e for e in side if not isinstance(e, Pair)), None):
        raise UserError(
            f"data.{data.name}: {other.origin}: was read as {data.format}, and is no pair. Give rows with prompt, "
            "chosen and rejected, or say format: pairs."
        )
    return [e for e in side if isinstance(e, Pair)]


def answers_for(context: Context, named: str | None) -> tuple[list[Labelled], list[Labelled], str]:
    """Training answers, held-out answers and their hash: of the source or the prefer stage called `named`, or of the
    last prefer stage; a pair is a good answer and a bad one. Raises UserError where there are no answers to learn
    from, or none that are bad, or none that are good."""
    if named is not None and context.there(named) and context.dataset(named).format == "labelled":
        data = context.dataset(named)
        sides = [[e for e in side if isinstance(e, Labelled)] for side in (data.train, data.heldout)]
        digest = data.hash
    else:
        *pairs, digest = pairs_for(context, "kto", named)
        sides = [marked(side) for side in pairs]
    good = sum(row.good for row in sides[0])
    if sides[0] and good in (0, len(sides[0])):
        are, fix = ("good", "bad (label: false)") if good else ("bad", "good (label: true)")
        raise UserError(
            f"kto: all {len(sides[0])} answers to train on are {are}. KTO learns from good and bad ones together: mark "
            f"some as {fix}{', or tune on these with sft' * bool(good)}."
        )
    return sides[0], sides[1], digest


def marked(pairs: Sequence[Pair]) -> list[Labelled]:
    """Each pair as a good answer and a bad one."""
    return [
        Labelled(p.prompt, answer, good, p.origin)
        for p in pairs
        for answer, good in ((p.chosen, True), (p.rejected, False))
    ]


def named_source(stage: Reward | Preference | Kto) -> str | None:
    """Where a stage's preferences come from, as the recipe names it."""
    return stage.data if isinstance(stage, Kto) else stage.pairs


def check_preferences(context: Context, among: Collection[str]) -> None:
    """Every one of these data sets that a stage learns preferences from holds what the stage needs. Raises UserError:
    before the stage's turn, not after hours of others."""
    for stage in context.recipe.stages:
        if isinstance(stage, Kto) and stage.data in among:
            answers_for(context, stage.data)
        elif isinstance(stage, Reward | Dpo | Orpo | Simpo | Prefer) and stage.pairs in among:
            pairs_for(context, stage.kind, stage.pairs)


def write_source_rejects(context: Context, folder: StageFolder, named: str | None) -> None:
    """rejected.jsonl of a stage that reads a source itself; what a stage made has its own."""
    if named is not None and named in context.recipe.data:
        write_rejected(folder.path / "rejected.jsonl", context.dataset(named).rejected)


def pair_guards(
    context: Context, learner: Learner, rows: list[Tokens], training: Sequence[Pair], heldout: Sequence[Pair]
) -> list[g.Guard]:
    """The guards that look at the rows of a stage that learns to write from pairs."""
    chosen = [Chat((*p.prompt, Message("assistant", p.chosen)), p.origin) for p in training]
    return [*answer_guards(learner.renderer, rows, chosen), pair_leak(context, training, heldout)]


def answer_guards(renderer: Renderer, rows: list[Tokens], answered: Sequence[Chat]) -> list[g.Guard]:
    """Of sequences that end in an answer: they teach something, they end, and they are what is served."""
    tokenizer = renderer.tokenizer
    return [
        g.supervised(rows),
        g.answers_end(rows, renderer.end_ids),
        g.single_bos(rows, tokenizer.bos_token_id),
        g.pad_unsupervised(rows, tokenizer.pad_token_id, renderer.end_ids),
        g.round_trip(answered, renderer),
    ]


def pair_leak(context: Context, training: Sequence[Pair], heldout: Sequence[Pair]) -> g.Guard:
    """No pair is held out and trained on, and none teaches an answer that a probe measures."""
    return g.no_leak([*shared_prompts(training, heldout), *leaked(training, every_measured_row(context))])


def answers_leak(context: Context, training: Sequence[Labelled], heldout: Sequence[Labelled]) -> g.Guard:
    """No answer is held out and trained on, and none that is good is one that a probe measures."""
    seen = {(row.prompt, row.answer) for row in training}
    shared = [row.origin for row in heldout if (row.prompt, row.answer) in seen]
    return g.no_leak([*shared, *leaked(training, every_measured_row(context))])


def every_measured_row(context: Context) -> list[Example]:
    """The rows of all probes."""
    return [e for probe in context.recipe.evaluate.values() for e in measured_rows(context, probe)]


def shared_prompts(training: Sequence[Pair], heldout: Sequence[Pair]) -> list[str]:
    """Origins of held-out pairs whose prompt is also trained on with the same two answers."""
    seen = {(p.prompt, frozenset((p.chosen, p.rejected))) for p in training}
    return [p.origin for p in heldout if (p.prompt, frozenset((p.chosen, p.rejected))) in seen]
