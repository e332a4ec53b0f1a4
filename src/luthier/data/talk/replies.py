"""How well a reply answers: its signals, by name, and the confidence they add up to.

Confidence is σ(z), z the sum of the signals in `WEIGHTS`; they were set by hand, on reading.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from luthier.data.talk.words import (
    ANNOUNCES,
    CODE,
    NO_ANSWER,
    URL,
    WANTS_NUMBER,
    YES_NO,
    chatter,
    content_words,
    is_closing,
    is_thanks,
    is_unsolved,
    prose,
    question_score,
    words_in,
)

LATER_S = 7200.0
"""An answer's own author goes on with it up to this long after, when nobody spoke in between."""

SOON_S = 600.0
"""Who speaks next within this time most likely speaks to what was said."""
NUMBER = re.compile(
    r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|twelve|noon|midnight|tomorrow|monday|friday|never)\b",
    re.I,
)

SOLVED = {"white_check_mark", "heavy_check_mark", "ballot_box_with_check", "100", "solved", "done", "tick", "resolved"}
LIKED = {"+1", "thumbsup", "tada", "heart", "pray", "raised_hands", "bow", "clap", "ok_hand", "star", "star2", "fire"}
LIKED |= {"thank_you", "thanks", "thankyou", "ty", "heavy_plus_sign", "rocket", "heart_eyes", "muscle", "raised_hand"}

WEIGHTS = {
    "start": -1.0,
    "in the thread": 1.2,
    "the next to speak": 1.0,
    "the next to speak, later": 0.6,
    "was asked": 0.8,
    "names the asker": 0.8,
    "within 5 minutes": 0.5,
    "within an hour": 0.2,
    "hours later": -0.4,
    "a day later": -0.8,
    "days later": -1.5,
    "marked as solved": 1.3,
    "liked": 0.7,
    "liked by the asker": 0.7,
    "the asker said thanks": 1.5,
    "a link or code": 0.4,
    "a whole sentence": 0.4,
    "several sentences": 0.3,
    "two words or fewer": -0.6,
    "yes or no to such a question": 0.5,
    "a word of the question": 0.3,
    "words of the question": 0.6,
    "the number that was asked for": 0.6,
    "asks back": -1.6,
    "knows no answer": -2.5,
    "small talk": -3.0,
    "announces something": -1.5,
    "it did not help": -1.6,
}
"""Signal -> what it adds to z."""


class Said(NamedTuple):
    """One message of a person."""

    person: str
    time_s: float
    """Since 1970."""
    text: str
    """As Markdown."""
    origin: str
    stamp: str
    """As the export writes the time: what it is found by."""
    names: tuple[str, ...] = ()
    """Whom it mentions."""
    addressed: tuple[str, ...] = ()
    """Whom it begins by naming."""
    reactions: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """(emoji, who reacted so)."""


@dataclass
class Turn:
    """What one person said in one go."""

    person: str
    said: list[Said]
    place: int
    """Of all turns of the channel, counted."""

    @property
    def text(self) -> str:
        return "\n".join(message.text for message in self.said if message.text.strip())

    @property
    def begin_s(self) -> float:
        return self.said[0].time_s

    @property
    def end_s(self) -> float:
        return self.said[-1].time_s

    @property
    def names(self) -> set[str]:
        return {name for message in self.said for name in message.names}


@dataclass
class Talk:
    """A question and what was said to it, as it goes on."""

    asker: str
    turns: list[Turn]
    thread: bool = False
    asked: set[str] = field(default_factory=set)
    """People whom the question names, or whose words it quotes."""


class Rated(NamedTuple):
    """The best reply to what the asker said."""

    turns: list[Turn]
    confidence: float
    signals: tuple[str, ...]
    back: bool
    """It asks the asker back, and he goes on."""


def best_of(talk: Talk, blocks: Sequence[tuple[list[Turn], list[Turn]]], at: int) -> Rated | None:
    """The reply with the highest confidence, with what its author went on to say."""
    asked, replies = blocks[at]
    found: list[Rated] = []
    later = blocks[at + 1][0] if at + 1 < len(blocks) else []
    greeted = bool(asked) and at > 0 and all(chatter(turn.text) or is_thanks(turn.text) for turn in asked)
    known = {reply.person for _, others in blocks[:at] for reply in others}
    if greeted:  # after thanks only those who answered before go on answering
        replies = [reply for reply in replies if reply.person in known or talk.asker in reply.names]
    heads = [reply for n, reply in enumerate(replies) if n == 0 or not goes_on(replies[n - 1], reply)]
    for head in heads:
        run = [head]
        for before, reply in pairwise(replies[replies.index(head) :]):
            if not goes_on(before, reply) or to_others(talk, reply):
                break
            if not chatter(reply.text) and not is_closing(reply.text):
                run.append(reply)
        run = [turn for turn in run if not empty(turn)] or run
        signals = signals_of(talk, asked, run, replies, later)
        z = WEIGHTS["start"] + sum(WEIGHTS[signal] for signal in signals)
        back = "asks back" in signals and bool(later) and head is replies[-1]
        found.append(Rated(run, 1 / (1 + math.exp(-z)), tuple(signals), back))
    return max(found, key=lambda rated: rated.confidence, default=None)


def goes_on(before: Turn, after: Turn) -> bool:
    """Whether an author goes on with what he said, nobody having spoken to it in between."""
    return before.person == after.person and after.begin_s - before.end_s <= LATER_S


def empty(turn: Turn) -> bool:
    """Whether a turn answers nothing: chatter, "let me check", "no idea"."""
    spoken = prose(turn.text).strip()
    no = bool(NO_ANSWER.match(spoken)) and len(words_in(spoken)) <= 15 and not URL.search(turn.text)
    return (bool(chatter(turn.text)) and not YES_NO.match(spoken)) or no


def to_others(talk: Talk, turn: Turn) -> bool:
    """Whether a turn begins by naming someone, but not the asker."""
    return bool(turn.said[0].addressed) and talk.asker not in turn.names


def signals_of(
    talk: Talk, asked: Sequence[Turn], run: Sequence[Turn], replies: Sequence[Turn], later: Sequence[Turn]
) -> list[str]:
    """What speaks for a reply, and what against it, by the names in `WEIGHTS`."""
    head, text = run[0], "\n".join(turn.text for turn in run)
    question = "\n".join(turn.text for turn in asked)
    first = head is next((reply for reply in replies if not empty(reply)), replies[0])
    soon = talk.thread or not asked or head.begin_s - asked[-1].end_s <= SOON_S
    signals = ["in the thread"] if talk.thread else []
    signals += ["the next to speak" if soon else "the next to speak, later"] if first else []
    signals += ["was asked"] if head.person in talk.asked else []
    signals += ["names the asker"] if any(talk.asker in turn.names for turn in run) else []
    if asked:
        quiet = first and head.place - asked[-1].place <= 1 + replies.index(replies[0])
        signals += waited(head.begin_s - asked[-1].end_s, talk.thread or quiet)
    signals += reacted(run, talk.asker)
    if later and replies[-1].person == head.person:
        signals += ["the asker said thanks"] if is_thanks(later[0].text) else []
        signals += ["it did not help"] if is_unsolved(later[0].text) else []
    elif later and is_thanks(later[0].text) and head.person in later[0].names:
        signals.append("the asker said thanks")
    return signals + of_words(question, text)


def waited(gap_s: float, patient: bool) -> list[str]:
    """How long the reply took; where nothing else was said meanwhile, nobody was in a hurry."""
    if gap_s <= 300:
        return ["within 5 minutes"]
    if gap_s <= 3600:
        return ["within an hour"]
    if gap_s <= (12 * 3600 if patient else 6 * 3600):
        return [] if patient else ["hours later"]
    if gap_s <= 86400:
        return ["hours later" if patient else "a day later"]
    return ["a day later" if patient else "days later"]


def reacted(run: Sequence[Turn], asker: str) -> list[str]:
    """What others thought of it, by their emoji; an author's own do not count."""
    author = run[0].person
    marks = [(name, who) for turn in run for said in turn.said for name, who in said.reactions if {*who} - {author}]
    solved = any(name in SOLVED for name, _ in marks)
    liked = [who for name, who in marks if name.split("::")[0] in LIKED or name in SOLVED]
    signals = ["marked as solved"] if solved else ["liked"] if liked else []
    return signals + (["liked by the asker"] if any(asker in who for who in liked) else [])


def of_words(question: str, text: str) -> list[str]:
    """What a reply's own words say."""
    spoken = prose(text)
    count = len(words_in(spoken))
    signals = ["a link or code"] if URL.search(text) or CODE.search(text) else []
    rich = bool(signals)
    signals += ["a whole sentence"] if count >= 7 else []
    signals += ["several sentences"] if count >= 20 else []
    if count <= 2 and not rich:
        signals.append("two words or fewer")
    plain = question_score(question) >= 3 and not any(w in words_in(question) for w in ("how", "why", "where", "which"))
    if plain and YES_NO.match(spoken.strip()):
        signals.append("yes or no to such a question")
    elif chatter(text):
        signals.append("small talk")
    shared = len(content_words(question) & content_words(text))
    signals += ["words of the question" if shared > 1 else "a word of the question"] if shared else []
    signals += ["the number that was asked for"] if WANTS_NUMBER.search(question) and NUMBER.search(spoken) else []
    signals += ["announces something"] if ANNOUNCES.search(spoken) else []
    statements = [part for part in spoken.replace("?", "?\n").splitlines() if len(words_in(part)) > 3]
    asking = bool(statements) and all(part.rstrip().endswith("?") for part in statements)
    if asking or (not statements and "?" in spoken and not rich):
        signals.append("asks back")
    signals += ["knows no answer"] if NO_ANSWER.match(spoken) and count <= 15 and not rich else []
    return signals
