"""A judge's part of a comparison: it is examined on people's votes first, then it says which answers are better."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from luthier.base.errors import UserError, did_you_mean
from luthier.base.files import write_jsonl
from luthier.base.nouns import Chat, Message, Row, last_user
from luthier.base.rubric import Rubric
from luthier.data.dataset import rows_of
from luthier.data.sources import kind_of, read_rows
from luthier.evals.arena import Arena, Vote, arena, votes_of
from luthier.evals.intervals import Figure, wilson
from luthier.evals.judge import Bias, Duel, Examined, Judged, Side, bias_of, examine

UNVERIFIED = (
    "nobody has checked this judge: give people's votes (--votes, in a recipe votes:) to see how far it agrees "
    "with them"
)
SILENT = "nobody has checked this judge: it has no verdict on any pair that people voted on"


class Bout(NamedTuple):
    """Two subjects before the judge."""

    a: str
    b: str
    share_b: Figure | None
    """How often b's answer is the better one, ties half; None without a verdict."""
    wins: int
    """Of b."""
    ties: int
    losses: int
    skipped: int
    """Duels without a verdict."""
    words: str


@dataclass(frozen=True)
class Judging:
    """What a judge said, and how far it can be believed."""

    judge: str
    rubric: Rubric | None
    """None: the judge is a program."""
    examined: Examined | None
    """None: there are no votes of people that it has verdicts on."""
    bias: Bias | None
    bouts: list[Bout]
    reasons: dict[str, int]
    """Why duels were skipped, and how many."""
    table: Arena | None
    """With three subjects and more."""
    voted: bool = False
    """Whether there were people's votes to examine it with."""

    @property
    def trust(self) -> str:
        """How far it can be believed, in words."""
        if self.examined is None:
            return SILENT if self.voted else UNVERIFIED
        return self.examined.in_words()

    @property
    def reliable(self) -> bool:
        """Whether its verdict may be used."""
        return self.examined is not None and self.examined.reliable

    def as_dict(self) -> dict[str, Any]:
        """As it stands in compare.json."""
        examined = None if self.examined is None else plain(self.examined) | {"reliable": self.examined.reliable}
        return {
            "judge": self.judge,
            "rubric": None if self.rubric is None else self.rubric.model_dump(),
            "trust": self.trust,
            "reliable": self.reliable,
            "people": examined,
            "bias": None if self.bias is None else plain(self.bias),
            "bouts": [plain(bout) for bout in self.bouts],
            "skipped": self.reasons,
        }


def plain(record: Any) -> dict[str, Any]:
    """A NamedTuple as JSON values."""
    return {k: asdict(v) if isinstance(v, Figure) else v for k, v in record._asdict().items()}


Decide = Callable[[Sequence[Duel]], list[Judged]]
"""Duels -> a verdict on each: a model that is asked, or a program."""


def judge_answers(
    decide: Decide,
    name: str,
    rubric: Rubric | None,
    chats: Sequence[Chat],
    answers: Mapping[str, Sequence[str]],
    votes: Sequence[Vote] | None,
    folder: Path,
    seed: int,
) -> Judging:
    """Examines the judge on people's votes, where there are any, then lets it compare every two subjects; writes its
    verdicts as votes.jsonl, which `luthier compare arena` reads."""
    examined = None
    if votes is not None:
        duels, people = duels_of(votes, chats, answers)
        examined = examine(decide(duels), duels, people, seed)
    bouts, all_judged, all_duels, made = [], [], [], []
    for a, b in combinations(answers, 2):
        duels = [Duel(c.prompt, x, y, c.answer) for c, x, y in zip(chats, answers[a], answers[b], strict=True)]
        judged = decide(duels)
        bouts.append(bout_of(a, b, judged))
        made += votes_by(name, a, b, chats, duels, judged)
        all_judged += judged
        all_duels += duels
    write_votes(folder / "votes.jsonl", made)
    table = arena(made, seed) if len(answers) > 2 and made else None
    bias = bias_of(all_judged, all_duels)
    return Judging(name, rubric, examined, bias, bouts, reasons_of(all_judged), table, votes is not None)


def write_votes(file: Path, made: Sequence[Vote]) -> None:
    """Verdicts as rows of votes, which `luthier compare arena` reads."""
    write_jsonl(file, ({k: v for k, v in asdict(vote).items() if v is not None and k != "origin"} for vote in made))


def reasons_of(judged: Sequence[Judged]) -> dict[str, int]:
    """Why duels have no verdict, and how many each."""
    return dict(Counter(one.why or "no verdict" for one in judged if one.winner is None))


def bout_of(a: str, b: str, judged: Sequence[Judged]) -> Bout:
    """The judge's count of two subjects."""
    said = [j.winner for j in judged if j.winner is not None]
    skipped = len(judged) - len(said)
    if not said:
        return Bout(a, b, None, 0, 0, 0, skipped, f"no verdict on {b} against {a}")
    won, tied, lost = said.count("b"), said.count("tie"), said.count("a")
    share = wilson(won + tied / 2, len(said))
    ends = f"{share.value * 100:.0f} % [{share.low * 100:.0f}, {share.high * 100:.0f}]"
    said_of = f"{b} beats {a} in {ends} of {len(said)} (ties half: {won} won, {tied} tied, {lost} lost)"
    real = "more than chance" if share.low > 0.5 or share.high < 0.5 else "that may be chance"
    return Bout(a, b, share, won, tied, lost, skipped, f"{said_of}: {real}")


def votes_by(
    name: str, a: str, b: str, chats: Sequence[Chat], duels: Sequence[Duel], judged: Sequence[Judged]
) -> list[Vote]:
    """A judge's verdicts as an arena's votes."""
    found = []
    for chat, duel, one in zip(chats, duels, judged, strict=True):
        if one.winner is not None:
            category = (chat.meta or {}).get("category")
            category = category if isinstance(category, str) else None
            found.append(Vote(a, b, one.winner, "", category, last_user(chat.prompt), duel.a, duel.b, name))
    return found


def read_votes(path: Path) -> list[Vote]:
    """Votes from a file of rows {a, b, winner, …}. Raises UserError: no such file, none in it, or with every line that
    is no vote."""
    if not path.is_file() or kind_of(path) is None:
        near = did_you_mean(path.name, [file.name for file in path.parent.glob("*.jsonl")])
        raise UserError(f"{path}: no such file of votes.{near} It is a .jsonl, .csv or .json file.")
    read = list(read_rows([path], path, None))
    wrong = [f"{item.origin}: {item.reason}" for item in read if not isinstance(item, Row)]
    rows = rows_of(read)
    try:
        votes = votes_of(rows)
    except UserError as error:
        raise UserError([*wrong, *error.problems]) from None
    if wrong:
        raise UserError(wrong)
    if not votes:
        raise UserError(f'{path}: holds no vote. Rows such as {{"a": "base", "b": "tuned", "winner": "b"}} are wanted.')
    return votes


def duels_of(
    votes: Sequence[Vote], chats: Sequence[Chat], answers: Mapping[str, Sequence[str]]
) -> tuple[list[Duel], list[list[Side]]]:
    """(what people voted on, their votes), votes on the same two answers together, in whichever order they stood. A
    vote that carries no answers is one on this comparison's: its a and b are subjects, its prompt the question, or
    where the question stands ("faq.jsonl:3"). Raises UserError where votes belong to nothing."""
    places = {key: k for k, chat in enumerate(chats) for key in (last_user(chat.prompt), chat.origin)}
    found: dict[tuple[str, str, str], list[Side]] = {}
    duels: dict[tuple[str, str, str], Duel] = {}
    wrong = []
    for vote in votes:
        at = places.get(vote.prompt or "")
        texts = (vote.answer_a, vote.answer_b)
        if None in texts and at is not None and vote.a in answers and vote.b in answers:
            texts = (answers[vote.a][at], answers[vote.b][at])
        a, b = texts
        if a is None or b is None or vote.prompt is None:
            wrong.append(f"{vote.origin}: it has no prompt and answers of its own, and none of this comparison's.")
            continue
        turned = (vote.prompt, b, a) in duels
        key = (vote.prompt, b, a) if turned else (vote.prompt, a, b)
        prompt = chats[at].prompt if at is not None else (Message("user", vote.prompt),)
        duels.setdefault(key, Duel(prompt, key[1], key[2], chats[at].answer if at is not None else None))
        said: Side = "a" if vote.winner == "a" else "b" if vote.winner == "b" else "tie"
        flipped: dict[Side, Side] = {"a": "b", "b": "a", "tie": "tie"}
        found.setdefault(key, []).append(flipped[said] if turned else said)
    if wrong:
        raise UserError(wrong)
    return list(duels.values()), list(found.values())
