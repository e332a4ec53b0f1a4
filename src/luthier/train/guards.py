"""Guards that refuse. Each looks at what is about to be trained and says what it found; all must hold."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from luthier.base.errors import RunError
from luthier.base.events import EventLog
from luthier.base.nouns import Chat, Tokens
from luthier.model.score import LanguageModel, score
from luthier.model.verify import comparable
from luthier.tokens.facts import Facts, Marks, facts_of, found
from luthier.tokens.prepare import Prepared
from luthier.tokens.render import Renderer

Row = TypeVar("Row", Chat, Tokens)


@dataclass(frozen=True)
class Guard:
    """One thing that was checked. `detail` says what was found and, when it does not hold, what to do."""

    name: str
    ok: bool
    detail: str


def enforce(guards: Sequence[Guard], log: EventLog) -> list[dict[str, Any]]:
    """Tells all guards; raises RunError naming every one that does not hold."""
    for guard in guards:
        log.emit("guard", **asdict(guard))
    failed = [g for g in guards if not g.ok]
    if failed:
        raise RunError("\n".join(f"guard: {g.name}: {g.detail}" for g in failed))
    return [asdict(g) for g in guards]


def some(origins: Sequence[str]) -> str:
    """The first few of many origins."""
    return ", ".join(origins[:3]) + (f" and {len(origins) - 3} more" if len(origins) > 3 else "")


def spread(rows: Sequence[Row], count: int) -> list[Row]:
    """At most `count` rows, evenly spread over all of them."""
    return list(rows[:: max(1, -(-len(rows) // count))])


def supervised(sequences: Sequence[Tokens]) -> Guard:
    """Some supervised tokens in every row."""
    return supervised_in(facts_of(Prepared(list(sequences)), Marks(None, None, frozenset())))


def supervised_in(facts: Facts) -> Guard:
    """`supervised`, of rows that were counted."""
    name, bare = "supervised tokens", facts.bare
    if not facts.sequences:
        left = f": {facts.dropped.rows} were too long and left out. Raise max_length" if facts.dropped.rows else ""
        return Guard(name, False, f"there are no rows to train on{left or '. Look at rejected.jsonl and `data`'}.")
    if bare.rows:
        return Guard(
            name,
            False,
            f"{bare.rows} rows have nothing to learn from ({bare.words()}). "
            "Are the answers empty, or the roles mapped wrongly? `luthier check` shows the rows.",
        )
    share = f"{facts.trained_tokens} of {facts.tokens} tokens ({facts.trained_tokens / facts.tokens:.0%})"
    return Guard(name, True, f"{share} in {facts.sequences} rows")


def answers_end(sequences: Sequence[Tokens], end_ids: frozenset[int]) -> Guard:
    """Every answer ends in a supervised end token, so that the model learns to stop."""
    return answers_end_in(facts_of(Prepared(list(sequences)), Marks(None, None, end_ids)))


def answers_end_in(facts: Facts) -> Guard:
    """`answers_end`, of rows that were counted."""
    if facts.endless.rows:
        return Guard(
            "answers end",
            False,
            f"{facts.endless.rows} rows do not end in a trained end token ({facts.endless.words()}). "
            "Fix the chat template (base.chat_template) or do not truncate answers.",
        )
    return Guard("answers end", True, f"all {facts.sequences} rows end in a trained end token")


def nothing_lost(lost_tokens: int, rows: Sequence[str], allowed: bool) -> Guard:
    """No supervised token is lost to truncation unless the recipe says so."""
    return nothing_lost_in(Facts(truncated=found(rows), lost_tokens=lost_tokens), allowed)


def nothing_lost_in(facts: Facts, allowed: bool) -> Guard:
    """`nothing_lost`, of rows that were counted."""
    lost, cut = facts.lost_tokens, facts.truncated
    if lost and not allowed:
        return Guard(
            "nothing cut",
            False,
            f"{lost} supervised tokens would be cut off ({cut.words()}). Raise max_length, or say overlong: truncate.",
        )
    said = f"{lost} supervised tokens cut in {cut.rows} rows, as the recipe asks"
    return Guard("nothing cut", True, said if lost else "no row cut")


def single_bos(sequences: Sequence[Tokens], bos: int | None) -> Guard:
    """No doubled beginning-of-sequence token."""
    return single_bos_in(facts_of(Prepared(list(sequences)), Marks(bos, None, frozenset())))


def single_bos_in(facts: Facts) -> Guard:
    """`single_bos`, of rows that were counted."""
    if facts.doubled.rows:
        return Guard(
            "single BOS",
            False,
            f"{facts.doubled.rows} rows begin with two BOS tokens ({facts.doubled.words()}). "
            "The chat template writes one that the tokenizer adds again: remove it from the template.",
        )
    return Guard("single BOS", True, "no row begins with two")


def pad_unsupervised(sequences: Sequence[Tokens], pad: int | None, end_ids: frozenset[int]) -> Guard:
    """Padding never carries loss. A pad token that is also an end token may: it is there as an end."""
    marks = Marks(None, pad, end_ids)
    return pad_unsupervised_in(facts_of(Prepared(list(sequences)), marks), marks)


def pad_unsupervised_in(facts: Facts, marks: Marks) -> Guard:
    """`pad_unsupervised`, of rows that were counted."""
    if marks.pad is None or marks.pad in marks.end_ids:
        return Guard("pad unsupervised", True, "forest batches hold no padding")
    if facts.padded.rows:
        return Guard(
            "pad unsupervised",
            False,
            f"{facts.padded.rows} rows train on the pad token ({facts.padded.words()}). Remove it from the text.",
        )
    return Guard("pad unsupervised", True, "no pad token in any row")


def round_trip(chats: Sequence[Chat], renderer: Renderer, sample: int = 64) -> Guard:
    """Training ids equal serving ids for the same messages, on an even sample of the rows."""
    looked = spread(chats, sample)
    for chat in looked:
        if (difference := renderer.serving_matches(chat)) is not None:
            return Guard(
                "template round trip",
                False,
                f"{difference} The model would be trained on other tokens than it is served.",
            )
    return Guard("template round trip", True, f"training ids = serving ids on {len(looked)} rows")


@torch.no_grad()
def packed_is_unpacked(lm: LanguageModel, sequences: Sequence[Tokens], sample: int = 6) -> Guard:
    """Log-probs of rows packed together equal those of each alone."""
    looked = spread(sequences, sample)
    was_training = lm.module.training
    lm.module.eval()
    together_M = score(lm, comparable(lm, looked))
    apart_M = torch.cat([score(lm, comparable(lm, [s])) for s in looked])
    lm.module.train(was_training)
    gap = float((together_M - apart_M).abs().max())
    tolerance = 1e-3 if lm.dtype == torch.float32 else 0.1
    if not gap <= tolerance:
        return Guard(
            "packed = unpacked",
            False,
            f"log-probs differ by {gap:.2g} nats on {len(looked)} rows: sequences "
            "of a batch see each other. This is a defect of luthier or of the model's code: please report it.",
        )
    return Guard("packed = unpacked", True, f"largest difference {gap:.1g} nats on {len(looked)} rows")


def disk(folder: Path, parameters: int, trained: int, result: int = 0, keeps: int = 3) -> Guard:
    """Enough room for the checkpoints (the weights in them, and two moments of what trains) and for the result, whose
    numbers are given, in float32."""
    need = 4 * (keeps * (parameters + 2 * trained) + result)
    free = shutil.disk_usage(folder).free
    if not os.access(folder, os.W_OK):
        return Guard("disk", False, f"{folder} cannot be written to. Choose another `out`.")
    if need > free:
        return Guard(
            "disk",
            False,
            f"checkpoints and result need about {need / 2**30:.2g} GiB, {free / 2**30:.2g} GiB are free under "
            f"{folder}. Free some, or choose another `out`.",
        )
    return Guard("disk", True, f"{need / 2**20:.0f} MiB needed, {free / 2**30:.1f} GiB free")


def no_leak(leaked: Sequence[str]) -> Guard:
    """No evaluation row stands in the training data."""
    rows = list(dict.fromkeys(leaked))  # two probes may measure one row
    if rows:
        return Guard(
            "no leak",
            False,
            f"{len(rows)} evaluation rows are also trained on ({some(rows)}). Remove them from one of the two.",
        )
    return Guard("no leak", True, "no evaluation row in the training data")
