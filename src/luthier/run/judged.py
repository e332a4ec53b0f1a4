"""The judge of a `win_rate` probe: it is examined on people's votes, then it says whose answers are better.

Its replies are kept in `measures/judges/`, so that a run that was killed, or measures anew, asks nothing twice; its
verdicts in `measures/verdicts/`, as votes that `luthier compare arena` reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from luthier.base.abilities import is_endpoint
from luthier.base.errors import UserError
from luthier.base.events import EventLog
from luthier.base.files import hash_of
from luthier.base.functions import resolve_path
from luthier.base.nouns import Ask, Chat
from luthier.base.probes import Probe, WinRateProbe
from luthier.base.rubric_file import rubric_of
from luthier.evals.endpoint import Endpoint, endpoint_of, key_for
from luthier.evals.intervals import bootstrap_mean
from luthier.evals.judge import Duel, Examined, Judged, bias_of, examine, judge
from luthier.model.draw import Sampling
from luthier.run.asked import remembering
from luthier.run.context import Context, asked_prompts, measured_rows
from luthier.run.judged_words import judge_lines
from luthier.run.judging import Judging, duels_of, read_votes, reasons_of, votes_by, write_votes
from luthier.run.memo import code_hash, versions
from luthier.run.subjects import Asking, Local, open_subject, slug

Measured = dict[str, Any]
WON = {"b": 1.0, "tie": 0.5, "a": 0.0}
"""What a verdict is worth to the new model, which stands as b."""
AT_ONCE, AT_ENDPOINT = 64, 16
"""Questions between two writes of the replies, of a model here and of one elsewhere."""


class Judge(NamedTuple):
    """A model that judges."""

    ask: Ask
    hash: str
    """Of all that decides its replies but the questions."""
    at_once: int
    close: Callable[[], None]


def open_judge(context: Context, probe: WinRateProbe) -> Judge:
    """The probe's judge; nothing is loaded or sent before it is asked. Greedy. Raises UserError for an address that is
    none."""
    assert probe.judge is not None
    seed = context.recipe.seed
    if is_endpoint(probe.judge):
        keys = () if probe.key_env is None else (("", probe.key_env),)
        subject = open_subject(probe.judge, Asking(probe.judge_tokens, seed=seed, keys=keys))
        return Judge(subject.ask, subject.hash, AT_ENDPOINT, subject.close)
    ref = context.models[probe.judge]
    local = Local(lambda: context.load(ref), Sampling(probe.judge_tokens, 0.0, seed=seed))
    made = {"model": ref.hash, "asked": [probe.judge_tokens, seed], "device": context.device}
    return Judge(local.ask, hash_of(made | {"versions": versions(), "code": code_hash()}), AT_ONCE, local.close)


def with_verdicts(
    context: Context, name: str, probe: Probe, rows: dict[str, Measured], log: EventLog
) -> dict[str, Measured]:
    """The answers of a probe with a judge, and beside those of the new model its verdict on each pair; other probes'
    as they are. Raises UserError where asking is in vain: a wrong key, an unknown model."""
    if not isinstance(probe, WinRateProbe) or probe.judge is None:
        return rows
    new, old = probe.stages
    chats = asked_of(context, probe)
    rubric = rubric_of(probe.rubric, context.recipe_path)
    opened = open_judge(context, probe)
    file = context.folder / "measures" / "judges" / f"{slug(probe.judge)}-{opened.hash[:8]}.jsonl"
    ask = remembering(opened.ask, file, opened.at_once)
    duels = duels_in(rows[new], rows[old], chats)
    examined: Examined | None = None
    try:
        if probe.votes is not None:  # before its verdict is used
            votes = read_votes(resolve_path(context.recipe_path, probe.votes))
            shown, people = duels_of(votes, chats, {stage: texts(rows[stage]) for stage in (old, new)})
            log.emit("note", text=f"{name}: {probe.judge} is examined on {len(shown)} pairs that people voted on")
            examined = examine(judge(ask, shown, rubric), shown, people, context.recipe.seed)
        log.emit("note", text=f"{name}: {probe.judge} judges {len(duels)} pairs, each in both orders")
        judged = judge(ask, duels, rubric)
    finally:
        opened.close()
    write_votes(
        context.folder / "measures" / "verdicts" / f"{name}.jsonl",
        votes_by(probe.judge, old, new, chats, duels, judged),
    )
    return rows | {new: rows[new] | {"verdicts": [list(one) for one in judged], "examined": examined}}


def judged_wins(context: Context, name: str, probe: WinRateProbe, rows: Mapping[str, Measured], log: EventLog) -> Any:
    """How often the judge prefers the new model's answer, ties half, and how far it can be believed. Pairs without a
    verdict are left out and counted; with none at all there is no figure."""
    assert probe.judge is not None
    new, old = probe.stages
    judged = [Judged(winner, (first, second), why) for winner, (first, second), why in rows[new]["verdicts"]]
    duels = duels_in(rows[new], rows[old], None)
    rubric = rubric_of(probe.rubric, context.recipe_path)
    reasons = reasons_of(judged)
    made = Judging(
        probe.judge, rubric, rows[new]["examined"], bias_of(judged, duels), [], reasons, None, probe.votes is not None
    )
    standing = "unverified" if made.examined is None else "reliable" if made.reliable else "unreliable"
    facts = {key: value for key, value in made.as_dict().items() if key != "bouts"} | {"standing": standing}
    lines = judge_lines(made)
    if probe.judge in probe.stages:
        lines.append("it judges its own answers, which models prefer to others' (Zheng et al. 2023)")
    won = [WON[one.winner] for one in judged if one.winner is not None]
    key = f"{new}_vs_{old}"
    for why, count in reasons.items():
        log.emit("note", text=f"{name}: {count} of {len(judged)} pairs have no verdict: {why}")
    if not made.reliable:
        log.emit("note", text=f"{name}: judge {probe.judge}: {made.trust}")
    if not won:  # figures of its examination are no figures of the run
        return {key: {"ties": 0, "judge": facts | {"people": None, "asked": len(judged), "lines": lines}}}
    figure = bootstrap_mean(won, context.recipe.seed).as_dict()
    log.emit("eval", step=0, name=f"{name}.{key}", **figure)
    return {key: {**figure, "ties": won.count(0.5), "judge": facts | {"asked": len(judged), "lines": lines}}}


def asked_of(context: Context, probe: WinRateProbe) -> list[Chat]:
    """The probe's prompts, in the order in which they are answered."""
    return asked_prompts(measured_rows(context, probe))[: probe.limit]


def texts(row: Measured) -> list[str]:
    """The answers of one model."""
    return [text for _, _, text, _ in row["answers"]]


def duels_in(new: Measured, old: Measured, chats: Sequence[Chat] | None) -> list[Duel]:
    """The pairs that are judged: a is the old model's answer, b the new one's. Without `chats` the prompts and the
    reference answers are left out."""
    prompts = [(chat.prompt, chat.answer) for chat in chats] if chats is not None else [((), None)] * len(texts(new))
    return [Duel(p, a, b, r) for (p, r), a, b in zip(prompts, texts(old), texts(new), strict=True)]


def judge_problems(context: Context, probe: Probe) -> Iterator[str]:
    """What would stop a judge when the training is over: an address that is none, a key that is not set, a rubric or
    votes that cannot be used."""
    if not isinstance(probe, WinRateProbe) or probe.judge is None:
        return
    root: Path = context.recipe_path
    chats = asked_of(context, probe)
    nothing = {stage: [""] * len(chats) for stage in probe.stages}

    def elsewhere() -> None:
        if is_endpoint(probe.judge or ""):
            url, model = endpoint_of(probe.judge or "")
            key_for(Endpoint(url, model, probe.key_env))

    def examined() -> None:
        if probe.votes is not None:
            duels_of(read_votes(resolve_path(root, probe.votes)), chats, nothing)

    checks: dict[str, Callable[[], object]] = {
        "judge": elsewhere,
        "rubric": lambda: rubric_of(probe.rubric, root),
        "votes": examined,
    }
    for setting, check in checks.items():
        try:
            check()
        except UserError as error:
            yield from (f"{setting}: {problem}" for problem in error.problems)
