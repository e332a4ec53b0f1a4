"""What is particular to runs about masked language models: what a stage hides, what is watched, measured and shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from luthier.base.errors import UserError
from luthier.base.events import EventLog
from luthier.base.files import write_jsonl
from luthier.base.nouns import Tokens
from luthier.base.probes import FillMaskProbe, LossProbe, Probe, PseudoPerplexityProbe
from luthier.base.recipe import Pretrain, Sft
from luthier.base.seeds import seed_for
from luthier.base.tuning import Masking
from luthier.evals.intervals import bootstrap_ratio, wilson
from luthier.evals.masked import TOP, blanks, fill, masked_losses, places, pseudo_losses, right_fillings
from luthier.model.load import Loaded
from luthier.run.context import Context, measured_rows, texts
from luthier.run.learner import Learner
from luthier.run.memo import StageFolder
from luthier.tokens.masking import Hidden, Hiding, hide, hiding, prepare_documents, vocabulary
from luthier.train import guards as g
from luthier.train.loop import stop_if_broken

Measured = dict[str, Any]

SHOWN_TOKENS = 48
"""Length to which documents are cut where people see them."""
HELDOUT_ROWS = 256
"""Held-out rows looked at during training. More than of a causal model's, for few tokens of each row are predicted."""


def hides(stage: Pretrain | Sft) -> bool:
    """Whether a stage's objective is a masked one."""
    return isinstance(stage, Pretrain) and stage.objective == "masked"


def hiding_for(context: Context, folder: StageFolder, stage: Pretrain | Sft, learner: Learner) -> Hiding | None:
    """What the stage hides of each row at each step; None where its objective is not masked. Raises UserError for a
    tokenizer without a mask token."""
    if not isinstance(stage, Pretrain) or not hides(stage):
        return None
    words = vocabulary(learner.loaded.tokenizer, stage.masking.whole_words)
    return hiding(stage.masking, words, context.seed(folder))


def as_trained(rows: Sequence[Tokens], hide_row: Hiding | None) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    """Rows as the model is shown them at the first step, and which of their tokens are trained on."""
    if hide_row is None:
        return [(row.ids, row.weights) for row in rows]
    shown = [hide_row(row, 0, number) for number, row in enumerate(rows)]
    return [(row.ids, tuple(float(i in row.at) for i in range(len(row.ids)))) for row in shown]


def masking_guard(rows: Sequence[Tokens], hide_row: Hiding) -> g.Guard:
    """What is hidden of some rows, counted: only what may be, and the rest is as it was."""
    looked = g.spread(rows, 64)
    shown = [hide_row(tokens, 0, number) for number, tokens in enumerate(looked)]
    total = sum(np.count_nonzero(tokens.weights) for tokens in looked)
    for tokens, row in zip(looked, shown, strict=True):
        seen = {i for i, (was, now) in enumerate(zip(tokens.ids, row.ids, strict=True)) if was != now}
        if not seen <= set(row.at) or not all(tokens.weights[i] for i in row.at):
            return g.Guard("masking", False, f"{tokens.origin}: a special token is hidden. Please report this defect.")
    count = sum(len(row.at) for row in shown)
    share = f"{count} of {total} tokens ({count / total:.1%})" if total else "nothing"
    return g.Guard("masking", True, f"{share} hidden in {len(looked)} rows, no special token among them")


def fixed(rows: Sequence[Tokens], how: Masking, tokenizer: Any, seed: int) -> list[Hidden]:
    """Held-out rows with the same places hidden whenever and whichever model is measured."""
    words = vocabulary(tokenizer, how.whole_words)
    return [hide(tokens, how, words, seed_for(seed, "held out"), 0, number) for number, tokens in enumerate(rows)]


def watcher(
    context: Context, learner: Learner, how: Masking, heldout: Sequence[Tokens], log: EventLog
) -> Callable[[int], float | None]:
    """Measures held-out masked loss and shows a filled text, at step 0 and at every evaluation."""
    tokenizer, seed = learner.loaded.tokenizer, context.recipe.seed
    rows = fixed(g.spread(heldout, HELDOUT_ROWS), how, tokenizer, seed)
    shown = shown_rows(context, learner.loaded)[:1]

    def watch(step: int) -> float | None:
        for blank in blanks(learner.lm, tokenizer, shown, seed):
            log.emit("sample", step=step, prompt=blank.text, answer=blank.filled)
        if not rows:
            return None
        nats, counts = masked_losses(learner.lm, rows)
        stop_if_broken(step, nats)
        figure = bootstrap_ratio(nats, counts, seed, resamples=200)
        log.emit("eval", step=step, name="heldout_loss", **figure.as_dict())
        return figure.value

    return watch


def shown_rows(context: Context, loaded: Loaded) -> list[Tokens]:
    """The beginnings of held-out documents whose hidden words the report shows, of the first source that has some."""
    for name in context.recipe.data:
        found = texts(context.dataset(name).heldout)[: context.recipe.samples]
        if found:
            length = min(SHOWN_TOKENS, loaded.context)
            return prepare_documents(found, loaded.tokenizer, length, "truncate").sequences
    return []


def write_blanks(context: Context, folder: Path, loaded: Loaded) -> None:
    """samples.jsonl of an encoder: a text with a hidden word, what stood there, and the likeliest fillings."""
    found = blanks(loaded.lm, loaded.tokenizer, shown_rows(context, loaded), context.recipe.seed)
    write_jsonl(
        folder / "samples.jsonl",
        [
            {
                "origin": blank.origin,
                "prompt": blank.text,
                "reference": blank.truth,
                "accept": [blank.truth],
                "answer": blank.filled,
                "right": blank.right,
                "ended": True,
            }
            for blank in found
        ],
    )


def measured_documents(
    context: Context, probe: FillMaskProbe | PseudoPerplexityProbe | LossProbe, loaded: Loaded
) -> list[Tokens]:
    """The rows that a probe measures an encoder on. Raises UserError where there are none."""
    rows = texts(measured_rows(context, probe))[: probe.limit]
    length = min(probe.max_length or loaded.context, loaded.context)
    found = prepare_documents(rows, loaded.tokenizer, length, "truncate" if probe.max_length else "split").sequences
    if not found:
        raise UserError(f"evaluate: data.{probe.data} has no held-out documents to measure. Raise its `heldout`.")
    return found


def measure_masked_loss(context: Context, probe: LossProbe, loaded: Loaded) -> Measured:
    """Nats and hidden tokens, row by row, under a fixed mask of the usual shares."""
    rows = measured_documents(context, probe, loaded)
    nats, counts = masked_losses(loaded.lm, fixed(rows, Masking(), loaded.tokenizer, context.recipe.seed))
    return {"nats": nats.tolist(), "tokens": counts.tolist(), "origins": [row.origin for row in rows]}


def measure_fill_mask(context: Context, probe: FillMaskProbe, loaded: Loaded, ref: Any) -> Measured:
    """Right or wrong, place by place."""
    words = vocabulary(loaded.tokenizer, whole_words=probe.hide == "word")
    rows = measured_documents(context, probe, loaded)
    shown = places(rows, probe.places, context.recipe.seed, words.mask, words.goes_on)
    first, among = right_fillings(loaded.lm, shown)
    return {"right": first, "among": among, "origins": [row.origin for row in shown]}


def measure_pseudo_perplexity(context: Context, probe: PseudoPerplexityProbe, loaded: Loaded, ref: Any) -> Measured:
    """Nats and tokens, row by row, every token hidden once."""
    rows = measured_documents(context, probe, loaded)
    nats, counts = pseudo_losses(loaded.lm, rows, vocabulary(loaded.tokenizer).mask)
    return {"nats": nats.tolist(), "tokens": counts.tolist(), "origins": [row.origin for row in rows]}


def shares_filled(context: Context, name: str, probe: Probe, rows: dict[str, Measured], log: EventLog) -> Any:
    """How often the truth is the likeliest filling, and among the likeliest few, after each stage."""
    found: dict[str, dict[str, Any]] = {"top_1": {}, f"top_{TOP}": {}}
    for after, row in rows.items():
        for key, right in zip(found, (row["right"], row["among"]), strict=True):
            found[key][after] = wilson(sum(right), len(right)).as_dict()
            log.emit("eval", step=0, name=f"{name}.{key}.{after}", **found[key][after])
    return found


def pseudo_perplexities(context: Context, name: str, probe: Probe, rows: dict[str, Measured], log: EventLog) -> Any:
    """exp of the nats a token, with the interval's ends, after each stage."""
    found = {}
    for after, row in rows.items():
        figure = bootstrap_ratio(row["nats"], row["tokens"], context.recipe.seed).as_dict()
        found[after] = figure | {key: math.exp(figure[key]) for key in ("value", "low", "high")}
        log.emit("eval", step=0, name=f"{name}.{after}", **found[after])
    return found


def filler(loaded: Loaded) -> Callable[[str], str]:
    """For `luthier chat`: a text with masks to their likeliest fillings, a line for each."""
    return lambda text: "\n".join(fill(loaded.lm, loaded.tokenizer, text, loaded.context))
