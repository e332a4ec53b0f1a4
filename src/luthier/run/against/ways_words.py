"""What came of the ways, weighed: quality with intervals and paired differences, time, money, and what to choose."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from luthier.evals.intervals import bootstrap_mean, paired_bootstrap, wilson

SIMPLE = ("zero-shot", "few-shot", "rag")
TUNED = ("tuned", "tuned+rag")
HOUR_S = 3600.0
LEAST = 0.25
"""Where even the upper end of the best way's interval is below this, none is recommended."""


def weigh(
    found: Mapping[str, Mapping[str, Any]], tuning_s: float, price_per_hour_usd: float, volume: int | None, seed: int
) -> dict[str, Any]:
    """Every way's figures and the recommendation, as ways.json holds them. A dollar here is an hour's price times
    hours measured."""
    by_value = all(right is not None for one in found.values() for right in one["right"])
    scores = {way: np.array(one["right"] if by_value else one["f1"], dtype=float) for way, one in found.items()}
    rows = {way: costs(one, price_per_hour_usd) for way, one in found.items()}
    for way, one in found.items():
        score_N = scores[way]
        whole = wilson(score_N.sum(), len(score_N)) if by_value else bootstrap_mean(score_N, seed)
        rows[way]["quality"] = whole.as_dict()
        if by_value and all(f1 is not None for f1 in one["f1"]):
            rows[way]["f1"] = bootstrap_mean(one["f1"], seed).as_dict()
        rows[way]["fixed_usd"] = one["prepared_s"] / HOUR_S * price_per_hour_usd
        if way in TUNED:
            rows[way]["fixed_usd"] += tuning_s / HOUR_S * price_per_hour_usd
    simple = [way for way in SIMPLE if way in found]
    best_simple = max(simple, key=lambda way: scores[way].mean()) if simple else None
    for way in found:
        if best_simple is not None and way != best_simple:
            rows[way]["over_best_simple"] = paired_bootstrap(scores[way], scores[best_simple], seed).as_dict()
        rows[way]["breaks_even_at"] = break_even(rows[way], rows[best_simple]) if best_simple and way in TUNED else None
    chosen, said = recommend(rows, scores, best_simple, volume, tuning_s, price_per_hour_usd, seed)
    return {
        "measure": "contains the right value" if by_value else "token F1 against the reference",
        "items": len(next(iter(scores.values()))),
        "price_per_hour_usd": price_per_hour_usd,
        "tuning_s": round(tuning_s, 2),
        "tuning_usd": tuning_s / HOUR_S * price_per_hour_usd,
        "volume": volume,
        "best_simple": best_simple,
        "rows": rows,
        "chosen": chosen,
        "said": said,
    }


def costs(one: Mapping[str, Any], price_per_hour_usd: float) -> dict[str, Any]:
    """Time, tokens and money of one way, an answer."""
    asked = len(one["answers"])
    answer_s = one["together_s"] / asked
    return {
        "median_s": float(np.median(one["waited_s"])),
        "p90_s": float(np.quantile(one["waited_s"], 0.9)),
        "tokens_in": float(np.mean(one["tokens_in"])),
        "tokens_out": float(np.mean(one["tokens_out"])),
        "answer_s": answer_s,
        "usd_1000": answer_s * 1000 / HOUR_S * price_per_hour_usd,
        "shown": float(np.mean(one["shown"])),
        "dropped": int(np.sum(one["dropped"])),
        "held": wilson(sum(one["held"]), asked).as_dict() if one["held"] and None not in one["held"] else None,
        "cut_off": asked - int(np.sum(one["ended"])),
    }


def break_even(tuned: Mapping[str, Any], simple: Mapping[str, Any]) -> int | None:
    """Answers from which on a tuned model has cost less than the simple way; None where an answer of it costs no
    less."""
    saved_usd = (simple["usd_1000"] - tuned["usd_1000"]) / 1000
    fixed_usd = tuned["fixed_usd"] - simple["fixed_usd"]
    if saved_usd <= 0:
        return None
    return max(0, math.ceil(fixed_usd / saved_usd))


def total_usd(row: Mapping[str, Any], volume: int) -> float:
    """What so many answers cost, with all that comes before the first."""
    return row["fixed_usd"] + row["usd_1000"] * volume / 1000


def recommend(
    rows: Mapping[str, Mapping[str, Any]],
    scores: Mapping[str, np.ndarray],
    best_simple: str | None,
    volume: int | None,
    tuning_s: float,
    price_per_hour_usd: float,
    seed: int,
) -> tuple[str, list[str]]:
    """(the way to take, or "" where none is worth it; why, in sentences): among the ways that are not shown to be worse
    than the best, the cheapest at the volume; without a volume the simplest."""
    best = max(scores, key=lambda way: scores[way].mean())
    alike, worse = [best], list[str]()
    for way in scores:
        if way != best:
            gap = paired_bootstrap(scores[best], scores[way], seed)
            (worse if gap.low > 0 else alike).append(way)
    order = list(rows)
    alike.sort(key=order.index)
    chosen = alike[0] if volume is None else min(alike, key=lambda way: total_usd(rows[way], volume))
    if rows[best]["quality"]["high"] < LEAST:
        return "", [few_words(best, rows), *money_words(rows, best_simple, tuning_s, price_per_hour_usd)]
    said = [first_words(chosen, alike, rows, volume)]
    for way in worse:
        gap = paired_bootstrap(scores[chosen], scores[way], seed)
        said.append(
            f"{way}: {points(gap.value)} points less [{points(gap.low)}, {points(gap.high)}]; the difference is real."
        )
    for way in alike:
        if way != chosen:
            gap = paired_bootstrap(scores[way], scores[chosen], seed)
            ends = f"[{signed(gap.low)}, {signed(gap.high)}]"
            said.append(f"{way}: {signed(gap.value)} points {ends}; {gap.n} questions cannot tell the two apart.")
    said += money_words(rows, best_simple, tuning_s, price_per_hour_usd)
    return chosen, said


def few_words(best: str, rows: Mapping[str, Any]) -> str:
    """When nothing works there is nothing to choose."""
    quality = rows[best]["quality"]
    value = f"{best} has {points(quality['value'])} % [{points(quality['low'])}, {points(quality['high'])}]"
    return f"No way answers well ({value}, the most): a larger model or more data comes before this choice."


def first_words(chosen: str, alike: Sequence[str], rows: Mapping[str, Any], volume: int | None) -> str:
    """The recommendation."""
    quality = rows[chosen]["quality"]
    value = f"{points(quality['value'])} % [{points(quality['low'])}, {points(quality['high'])}]"
    if len(alike) == 1:
        return f"Take {chosen}: {value}, better than every other way."
    if volume is None:
        return f"Take {chosen}: {value}; it is the simplest of those that no other is shown to beat."
    money = dollars(total_usd(rows[chosen], volume))
    least = f"it costs least at {volume:,} answers ({money})"
    return f"Take {chosen}: {value}; of those that no other is shown to beat, {least}."


def money_words(
    rows: Mapping[str, Mapping[str, Any]], best_simple: str | None, tuning_s: float, price: float
) -> list[str]:
    """What tuning cost, and from how many answers on it has paid for itself."""
    tuned = next((way for way in TUNED if way in rows), None)
    if tuned is None:
        return []
    paid = f"Tuning took {tuning_s:,.0f} s, {dollars(tuning_s / HOUR_S * price)} at {dollars(price)} an hour"
    if best_simple is None:
        return [f"{paid}."]
    ours, theirs = (dollars(rows[way]["usd_1000"]) for way in (tuned, best_simple))
    volume = rows[tuned]["breaks_even_at"]
    if volume is None:
        return [
            f"{paid}; 1,000 answers of {tuned} cost {ours}, of {best_simple} {theirs}: it pays by quality, if at all."
        ]
    said = f"1,000 answers cost {ours} instead of {best_simple}'s {theirs}"
    return [f"{paid}; {said}: it has paid from {volume:,} answers on."]


def points(share: float) -> str:
    """'84.2' of 0.842."""
    return f"{share * 100:.1f}".replace("-", "−")


def signed(share: float) -> str:
    """'+2.1', '−0.4'"""
    return f"{share * 100:+.1f}".replace("-", "−")


def dollars(usd: float) -> str:
    """'$1.25', '$0.0042': two digits that say something."""
    if usd >= 1:
        return f"${usd:,.2f}"
    return f"${usd:.{max(2, 1 - math.floor(math.log10(usd)))}f}" if usd > 0 else "$0"
