"""Who asked, and which reply answered: messages of a channel or a thread -> conversations worth learning from.

Where people used threads, the thread is the conversation. Where they did not, messages are joined to turns, and a turn
that asks opens a window: what others say next is held against every open question, and goes to the one it fits best.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from luthier.data.talk.replies import LATER_S, Said, Talk, Turn, best_of
from luthier.data.talk.words import (
    ANNOUNCES,
    chatter,
    content_words,
    is_thanks,
    is_unsolved,
    prose,
    question_score,
    words_in,
)

JOIN_S = 300.0
"""Messages of one person that follow each other within this time are one turn."""
WINDOW_S = 86400.0
"""After this long without a turn of its own, a question outside a thread is closed."""
TURNS = 8
"""As many turns of other conversations may stand between a question and its reply."""
LONGEST = 60
"""Turns of a conversation; after so many it is another one."""
ASKS = 2.0
"""`question_score` from which a turn opens a conversation."""
ACCEPTED = 0.5
"""Confidence from which a reply counts as the answer."""


class Answered(NamedTuple):
    """A conversation that ends with its answer."""

    turns: tuple[tuple[str, str], ...]
    """(user | assistant, text), begun by the user and ended by the assistant."""
    people: tuple[str, ...]
    """Who spoke, the asker first."""
    question: Said
    answer: Said
    confidence: float
    signals: tuple[str, ...]


class Left(NamedTuple):
    """A message that is part of no conversation, and why."""

    said: Said
    reason: str


Outcome = Answered | Left


def turns_of(messages: Sequence[Said]) -> list[Turn]:
    """Messages in order of time, those of one person in one go joined. Who begins by naming someone begins anew."""
    turns: list[Turn] = []
    for message in messages:
        last = turns[-1] if turns else None
        anew = message.addressed and last is not None and message.addressed != last.said[0].addressed
        if last is None or last.person != message.person or message.time_s - last.end_s > JOIN_S or anew:
            turns.append(Turn(message.person, [message], len(turns)))
        else:
            last.said.append(message)
    return turns


def in_thread(messages: Sequence[Said]) -> Iterator[Outcome]:
    """What a thread comes to; its first message is what it is about."""
    turns = turns_of(messages)
    if len({turn.person for turn in turns}) < 2:
        yield from (Left(said, "nobody answered in the thread") for turn in turns for said in turn.said)
    elif question_score(turns[0].text) < ASKS and not turns[0].text.strip():
        yield from (Left(said, "the thread begins with no text") for turn in turns for said in turn.said)
    elif question_score(turns[0].text) < ASKS:
        yield from (Left(said, "the thread asks nothing") for turn in turns for said in turn.said)
    else:
        yield from resolved(Talk(turns[0].person, turns, True, set(turns[0].names)))


def in_channel(messages: Sequence[Said]) -> Iterator[Outcome]:
    """What a channel without threads comes to: every question with the window of replies after it."""
    talks: list[Talk] = []
    near: list[Talk] = []
    turns = turns_of(messages)
    for turn in turns:
        near = [talk for talk in near if is_open(talk, turn)]
        home = joined(turn, near)
        if home is not None:
            home.turns.append(turn)
        elif question_score(turn.text) >= ASKS:
            near.append(Talk(turn.person, [turn], False, turn.names | quoted_people(turn, turns)))
            talks.append(near[-1])
        else:
            reason = chatter(turn.text) or "no question before it"
            yield from (Left(said, reason) for said in turn.said)
    for talk in talks:
        yield from resolved(talk)


def is_open(talk: Talk, turn: Turn) -> bool:
    """Whether a turn may still belong to a conversation."""
    last = talk.turns[-1]
    soon = turn.begin_s - last.end_s <= WINDOW_S and turn.place - last.place <= TURNS
    return soon and len(talk.turns) < LONGEST


def joined(turn: Turn, talks: Sequence[Talk]) -> Talk | None:
    """The open conversation that a turn belongs to; None: to none of them."""
    asks = question_score(turn.text) >= ASKS
    fits: list[tuple[float, Talk]] = []
    for talk in talks:
        last, between = talk.turns[-1], turn.place - talk.turns[-1].place - 1
        answered = any(t.person != talk.asker for t in talk.turns)
        if turn.person == talk.asker:
            fit = of_asker(turn, talk, between, answered, asks)
        else:
            fit = affinity(turn, talk, between)
            if asks and not (talk.asker in turn.names or asks_back(turn, talk)):
                fit -= 2.0  # more likely a question of its own
            if turn.names - {t.person for t in talk.turns} and talk.asker not in turn.names:
                fit -= 1.2  # it speaks to someone else
            if last.person == turn.person and between == 0 and turn.begin_s - last.end_s <= LATER_S and not asks:
                fit += 1.0
        fits.append((fit, talk))
    best = max(fits, key=lambda pair: pair[0], default=None)
    return best[1] if best is not None and best[0] > 0 else None


def of_asker(turn: Turn, talk: Talk, between: int, answered: bool, asks: bool) -> float:
    """How well a later turn of the asker's fits the conversation."""
    own = {t.person for t in talk.turns if t.person != talk.asker}
    if turn.names & own:
        return 2.0
    if turn.names - own:
        return -1.0
    soon = turn.begin_s - talk.turns[-1].end_s
    if not answered:  # the question, said more precisely
        return 1.0 if between == 0 and soon <= 2 * JOIN_S else -1.0
    if is_thanks(turn.text) or is_unsolved(turn.text):
        return 1.5 - 0.3 * between
    shared = len(content_words(turn.text) & content_words(" ".join(t.text for t in talk.turns[-6:])))
    limit = JOIN_S * (6 if asks else 3)
    return (0.5 if between == 0 and soon <= limit else -0.5) + min(0.6, 0.3 * shared) - 0.3 * between


def affinity(turn: Turn, talk: Talk, between: int) -> float:
    """How well what someone else says fits an open question, before anyone knows what came of it."""
    waited = turn.begin_s - talk.turns[-1].end_s
    fit = 0.2 if between == 0 else -0.15 * between
    fit += 1.5 if talk.asker in turn.names else 0.0
    fit += 0.8 if turn.person in talk.asked else (-0.5 if talk.asked and len(talk.turns) == 1 else 0.0)
    fit += 0.6 if any(t.person == turn.person for t in talk.turns) else 0.0
    fit += min(1.0, 0.5 * len(content_words(turn.text) & content_words(talk.turns[0].text)))
    fit += 0.6 if waited <= JOIN_S else 0.3 if waited <= 3600 else 0.0
    fit -= 1.0 if ANNOUNCES.search(turn.text) else 0.0
    fit -= 0.4 if any(t.person not in (talk.asker, turn.person) for t in talk.turns) else 0.0
    return fit


def asks_back(turn: Turn, talk: Talk) -> bool:
    """Whether a question is meant for the one who asked: short, at once, and about "you" or the same things."""
    at_once = turn.begin_s - talk.turns[-1].end_s <= 2 * JOIN_S
    spoken = words_in(prose(turn.text))
    to_you = bool({"you", "your", "you're"} & set(spoken)) and len(spoken) <= 25
    which = bool(spoken) and spoken[0] in ("which", "what", "what's")
    same = which and len(spoken) <= 15 and bool(content_words(turn.text) & content_words(talk.turns[0].text))
    short = (
        len(spoken) <= 6
        and not {"i", "we", "my"} & set(spoken)
        and bool({"which", "what", "where", "when", "that", "it"} & set(spoken))
    )
    return at_once and (to_you or same or short) and not prose(turn.text).lower().startswith("any")


def quoted_people(turn: Turn, turns: Sequence[Turn]) -> set[str]:
    """Whose words a turn quotes, among the hundred turns before it."""
    quotes = [line.lstrip("> \"'").rstrip("\"' ") for line in turn.text.splitlines() if line.startswith(">")]
    before = turns[max(0, turn.place - 100) : turn.place]
    return {t.person for t in before for quote in quotes if len(quote) > 15 and quote[:200] in t.text}


def resolved(talk: Talk) -> Iterator[Outcome]:
    """The conversation up to its last accepted answer, and what of it was left out and why."""
    blocks: list[tuple[list[Turn], list[Turn]]] = [([], [])]
    """(what the asker said, what the others said to it), again and again."""
    for turn in talk.turns:
        if turn.person == talk.asker:
            if blocks[-1][1]:
                blocks.append(([], []))
            blocks[-1][0].append(turn)
        else:
            blocks[-1][1].append(turn)
    rated = [best_of(talk, blocks, at) for at in range(len(blocks))]
    accepted = [at for at, best in enumerate(rated) if best is not None and best.confidence >= ACCEPTED]
    if not accepted:
        why = "no reply answers the question" if any(rated) else "nobody answered the question"
        yield from (Left(said, why) for turn in talk.turns for said in turn.said)
        return
    last = accepted[-1]
    turns: list[tuple[str, str]] = []
    used: list[Turn] = []
    for (asked, _), best in zip(blocks[: last + 1], rated[: last + 1], strict=True):
        asked = [turn for turn in asked if not (turns and chatter(turn.text))]
        add(turns, "user", asked)
        used += asked
        if best is not None and (best.confidence >= ACCEPTED or best.back):
            add(turns, "assistant", best.turns)
            used += best.turns
    final = rated[last]
    assert final is not None
    people = tuple(dict.fromkeys(turn.person for turn in used))
    first, answer = talk.turns[0].said[0], final.turns[0].said[0]
    yield Answered(tuple(turns), people, first, answer, final.confidence, final.signals)
    for turn in talk.turns:
        if not any(turn is other for other in used):
            reason = chatter(turn.text) or "another reply answers the question"
            yield from (Left(said, reason) for said in turn.said)


def add(turns: list[tuple[str, str]], role: str, said: Sequence[Turn]) -> None:
    """Puts what was said at the end, joined to the turn before when that has the same role."""
    text = "\n".join(turn.text for turn in said)
    if text and turns and turns[-1][0] == role:
        turns[-1] = (role, f"{turns[-1][1]}\n{text}")
    elif text:
        turns.append((role, text))
