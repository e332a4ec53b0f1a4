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
    bare = [s.origin for s in sequences if not any(s.weights[1:])]
    total, trained = sum(len(s.ids) for s in sequences), sum(sum(w > 0 for w in s.weights) for s in sequences)
    if not sequences:
        return Guard("supervised tokens", False, "there are no rows to train on. Look at rejected.jsonl and `data`.")
    if bare:
        return Guard(
            "supervised tokens",
            False,
            f"{len(bare)} rows have nothing to learn from ({some(bare)}). "
            "Are the answers empty, or the roles mapped wrongly? `luthier check` shows the rows.",
        )
    share = f"{trained} of {total} tokens ({trained / total:.0%})"
    return Guard("supervised tokens", True, f"{share} in {len(sequences)} rows")


def answers_end(sequences: Sequence[Tokens], end_ids: frozenset[int]) -> Guard:
    """Every answer ends in a supervised end token, so that the model learns to stop."""
    endless = []
    for s in sequences:
        weighted = [i for i, w in enumerate(s.weights) if w > 0]
        if weighted and s.ids[weighted[-1]] not in end_ids:
            endless.append(s.origin)
    if endless:
        return Guard(
            "answers end",
            False,
            f"{len(endless)} rows do not end in a trained end token ({some(endless)}). "
            "Fix the chat template (base.chat_template) or do not truncate answers.",
        )
    return Guard("answers end", True, f"all {len(sequences)} rows end in a trained end token")


def nothing_lost(lost_tokens: int, rows: Sequence[str], allowed: bool) -> Guard:
    """No supervised token is lost to truncation unless the recipe says so."""
    if lost_tokens and not allowed:
        return Guard(
            "nothing cut",
            False,
            f"{lost_tokens} supervised tokens would be cut off ({some(rows)}). "
            "Raise max_length, or say overlong: truncate.",
        )
    said = f"{lost_tokens} supervised tokens cut in {len(rows)} rows, as the recipe asks"
    return Guard("nothing cut", True, said if lost_tokens else "no row cut")


def single_bos(sequences: Sequence[Tokens], bos: int | None) -> Guard:
    """No doubled beginning-of-sequence token."""
    doubled = [s.origin for s in sequences if bos is not None and s.ids[:2] == (bos, bos)]
    if doubled:
        return Guard(
            "single BOS",
            False,
            f"{len(doubled)} rows begin with two BOS tokens ({some(doubled)}). "
            "The chat template writes one that the tokenizer adds again: remove it from the template.",
        )
    return Guard("single BOS", True, "no row begins with two")


def pad_unsupervised(sequences: Sequence[Tokens], pad: int | None, end_ids: frozenset[int]) -> Guard:
    """Padding never carries loss. A pad token that is also an end token may: it is there as an end."""
    if pad is None or pad in end_ids:
        return Guard("pad unsupervised", True, "forest batches hold no padding")
    padded = [s.origin for s in sequences if any(i == pad and w > 0 for i, w in zip(s.ids, s.weights, strict=True))]
    if padded:
        return Guard(
            "pad unsupervised",
            False,
            f"{len(padded)} rows train on the pad token ({some(padded)}). Remove it from the text.",
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
            f"checkpoints and result need about {need / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free under {folder}. "
            "Free some, or choose another `out`.",
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
