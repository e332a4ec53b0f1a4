"""The probe `hallucination`, measured: what answers claim that their source does not hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from luthier.base.abilities import HallucinationProbe, is_endpoint
from luthier.base.errors import RunError
from luthier.base.events import EventLog
from luthier.base.functions import load_function
from luthier.base.nouns import Chat
from luthier.evals.answers import Answer
from luthier.evals.intervals import bootstrap_ratio, wilson
from luthier.evals.refusals import declines
from luthier.evals.retrieval import Index
from luthier.evals.support import Claim, claims, judge_claims, passages, unsupported
from luthier.model.load import Loaded
from luthier.run.abilities import answers_of, own_source, told
from luthier.run.context import Context, ModelRef, probe_prompts, texts
from luthier.run.subjects import Asking, open_subject

Measured = dict[str, Any]
SHOWN = 6
"""Unsupported claims that the report is given of each model."""


def measure_hallucination(context: Context, probe: HallucinationProbe, loaded: Loaded, ref: ModelRef) -> Measured:
    """The claims of each answer that its source does not hold."""
    asked = probe_prompts(context, probe)
    answers = answers_of(context, probe, loaded, asked)
    sources = sources_for(context, probe, asked, answers)
    found = [held_against(a, source, probe) for a, source in zip(answers, sources, strict=True)]
    if probe.judge is not None:
        found = judged(context, probe.judge, answers, sources, found)
    open_ = [bool((chat.meta or {}).get("unanswerable")) for chat in asked]
    refused = [declines(a.text) is not None for a in answers]
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


def held_against(answer: Answer, source: Sequence[str], probe: HallucinationProbe) -> tuple[int, list[Claim]]:
    """(number of claims, those whose words the source does not hold)."""
    lost = unsupported(answer.text, source, answer.prompt[-1].content, probe.least_share)
    return len(claims(answer.text)), lost


def judged(
    context: Context,
    judge: str,
    answers: Sequence[Answer],
    sources: Sequence[Sequence[str]],
    by_words: Sequence[tuple[int, list[Claim]]],
) -> list[tuple[int, list[Claim]]]:
    """The same in the eyes of a judge: a program, or a model at an endpoint. Of a claim on which it gives no verdict,
    the words decide."""
    wholes = ["\n\n".join(source) for source in sources]
    pairs = [(claim, whole) for a, whole in zip(answers, wholes, strict=True) for claim in claims(a.text)]
    if is_endpoint(judge):
        said = judge_claims(open_subject(judge, Asking(8)).ask, pairs)
    else:
        verdict = load_judge(judge, context)
        said = [verdict(*pair) >= 0.5 for pair in pairs]
    found, left = [], iter(said)
    for answer, (count, lost) in zip(answers, by_words, strict=True):
        old = {claim.text: claim for claim in lost}
        kept = []
        for claim, held in [(claim, next(left)) for claim in claims(answer.text)]:
            if held is False:
                kept.append(Claim(claim, f"{judge} says so", (), 0.0))
            elif held is None and claim in old:
                kept.append(old[claim])
        found.append((count, kept))
    return found


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
