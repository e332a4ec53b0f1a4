"""What a stage that makes rows tells of itself: counts, examples, reasons, money; and the same in words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from luthier.base.nouns import Chat, last_user
from luthier.base.spaced import spaced
from luthier.base.synthesis import METHODS, Synthesise
from luthier.data.dataset import kind_of_reason
from luthier.data.synthesis.estimate import Estimate
from luthier.data.synthesis.made import Dropped, Made
from luthier.evals.intervals import wilson
from luthier.run.paying import Meter
from luthier.run.writers import Writer

SHOWN_ROWS, SHOWN_REASONS = 6, 8
"""In the stage's record, for the report."""


class Result(NamedTuple):
    """What one method made of each side."""

    train: Sequence[Made | Dropped]
    heldout: Sequence[Made | Dropped]


def preflight(stage: Synthesise, writers: dict[str, Writer], guess: Estimate) -> str:
    """What would be sent where, and what it would cost, in words."""
    what = "passages" if METHODS[stage.methods[0]].reads == "documents" else "prompts"
    rows = f"{guess.items:,} {what}, about {thousands(guess.source_tokens)} tokens of {stage.data},"
    places = list(dict.fromkeys(w.url for w in writers.values() if w.url is not None))
    named = " and ".join(dict.fromkeys(writer.name for writer in writers.values()))
    if not places:
        return f"{rows} are read by {named} here; nothing leaves this machine"
    away = any(writer.leaves for writer in writers.values())
    where = " and ".join(places) if away else f"{' and '.join(places)}, which is this machine"
    text = (
        f"{rows} go to {where} ({named}): {guess.requests:,} questions, about {thousands(guess.tokens_in)} tokens in "
    )
    text += f"and {thousands(guess.tokens_out)} out (at most {thousands(guess.most_out)})"
    if (usd := guess.usd(stage.price)) is not None:
        most = guess.usd(stage.price, most=True)
        text += f", about {dollars(usd)}, at most {dollars(most or 0)}"
    if stage.spend_cap_usd is not None:
        text += f"; the cap is {dollars(stage.spend_cap_usd)}"
    return text


def thousands(count: int) -> str:
    """950, 12 k, 1.2 M."""
    if count < 1000:
        return str(count)
    return f"{count / 1e3:.0f} k" if count < 999_500 else f"{count / 1e6:.1f} M"


def dollars(usd: float) -> str:
    """$0.07, $12.40, $0.0004."""
    return f"${usd:.2f}" if usd >= 0.01 or usd == 0 else f"${usd:.1g}" if usd >= 1e-4 else "less than $0.0001"


def facts_of(stage: Synthesise, made: dict[str, Result], dropped: Sequence[Dropped], meter: Meter) -> dict[str, Any]:
    """What the stage's record tells of itself."""
    counts = {}
    for name, result in made.items():
        kept = [one for side in result for one in side if isinstance(one, Made)]
        total = len(kept) + sum(isinstance(one, Dropped) for side in result for one in side)
        counts[name] = {
            "rows": len(kept),
            "share": wilson(len(kept), total).as_dict(),
            "steps": dict(Counter(one.step for one in kept).most_common()),
            "shown": [shown_row(one) for one in spaced(kept, SHOWN_ROWS)],
        }
    usage = meter.usage
    return {
        "methods": counts,
        "dropped": dict(reasons_of(dropped).most_common(SHOWN_REASONS)),
        "usage": {**asdict(usage), "usd": usage.usd(stage.price), "capped": meter.capped},
    }


def shown_row(one: Made) -> dict[str, Any]:
    """A row as the report shows it."""
    example = one.example
    shown = {"question": last_user(example.prompt), "origin": example.origin, "how": one.step}
    if isinstance(example, Chat):
        return {**shown, "answer": example.answer}
    return {**shown, "answer": example.chosen, "rejected": example.rejected, "margin": example.margin}


def reasons_of(dropped: Sequence[Dropped]) -> Counter[str]:
    """Why things were dropped, by kind of reason."""
    return Counter(re.sub(r'^"[^"]*": ', "", kind_of_reason(one.reason)).strip() for one in dropped)


def told(facts: dict[str, Any], meter: Meter) -> Iterator[str]:
    """What was made, in words."""
    for name, count in facts["methods"].items():
        share = count["share"]
        yield f"{name}: {count['rows']:,} rows made of {share['n']:,} that were tried"
    if facts["dropped"]:
        yield "dropped: " + "; ".join(f"{count:,} × {reason}" for reason, count in list(facts["dropped"].items())[:3])
    usage = facts["usage"]
    if usage["requests"]:
        cost = f", {dollars(usage['usd'])}" if usage["usd"] is not None else ""
        yield (
            f"{usage['requests']:,} answers paid for: {thousands(usage['tokens_in'])} tokens in, "
            f"{thousands(usage['tokens_out'])} out{cost}"
        )
    if meter.capped:
        yield (
            f"the spend cap of {dollars(meter.cap_usd or 0)} stopped {meter.capped:,} questions from being sent: what "
            "was made until then is kept. Raise spend_cap_usd to go on; nothing is asked twice"
        )
