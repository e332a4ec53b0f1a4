"""Examples -> Tokens, with nothing lost unsaid: what was dropped, cut or split is counted, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from luthier.base.errors import UserError
from luthier.base.nouns import Chat, Choice, Example, Labelled, Message, Pair, Text, Tokens
from luthier.tokens.render import Renderer

Overlong = Literal["error", "drop", "truncate", "split"]
TrainOn = Literal["last", "answers", "all"]


KINDS = {Pair: "pair", Labelled: "labelled answer (format: labelled)", Choice: "choice"}
"""What rows are called that are neither documents nor conversations."""


@dataclass
class Prepared:
    """Token sequences ready to pack, and what became of the rows that did not fit."""

    sequences: list[Tokens] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    """Origins of rows left out because they were too long."""
    truncated: list[str] = field(default_factory=list)
    split: int = 0
    """Rows that became several sequences."""
    lost_tokens: int = 0
    """Supervised tokens cut off."""

    def words(self) -> str:
        """One clause for people; empty when every row went in whole."""
        said = [
            f"{len(self.dropped)} rows too long, dropped" * bool(self.dropped),
            f"{len(self.truncated)} rows cut ({self.lost_tokens} supervised tokens lost)" * bool(self.truncated),
            f"{self.split} documents split" * bool(self.split),
        ]
        return ", ".join(s for s in said if s)


def prepare(
    examples: Sequence[Example], renderer: Renderer, max_length: int, overlong: Overlong, train_on: TrainOn = "answers"
) -> Prepared:
    """Renders documents and conversations, and applies the rule for rows longer than `max_length` tokens.

    Raises UserError naming every row that is too long when the rule is `error`, and when conversations are to be split.
    """
    made, problems = Prepared(), []
    for example in examples:
        if isinstance(example, Text):
            tokens = renderer.text(example)
        elif isinstance(example, Chat):
            tokens = renderer.chat(example, train_on)
        else:
            raise UserError(
                f"{example.origin}: a {KINDS.get(type(example), 'row')} cannot be trained on here; "
                "give documents or conversations."
            )
        if len(tokens.ids) <= max_length:
            made.sequences.append(tokens)
        elif overlong == "error":
            problems.append(
                f"{example.origin}: {len(tokens.ids)} tokens, longer than max_length {max_length}. "
                "Shorten it, raise max_length, or say overlong: drop, truncate or split."
            )
        elif overlong == "drop":
            made.dropped.append(example.origin)
        elif overlong == "split":
            if not isinstance(example, Text):
                raise UserError(
                    f"{example.origin}: overlong: split is for documents; a conversation loses its "
                    "beginning. Use drop or truncate."
                )
            made.sequences += split_document(tokens, max_length)
            made.split += 1
        else:
            made.truncated.append(example.origin)
            made.lost_tokens += sum(w > 0 for w in tokens.weights[max_length:])
            made.sequences.append(replace(tokens, ids=tokens.ids[:max_length], weights=tokens.weights[:max_length]))
    refuse(problems, "rows")
    return made


def refuse(problems: list[str], what: str) -> None:
    """Raises UserError with the first twenty problems and the number of the others, if there are any."""
    if problems:
        rest = len(problems) - 20
        raise UserError(problems[:20] + ([f"... and {rest} {what} more."] if rest > 0 else []))


def split_document(tokens: Tokens, max_length: int) -> list[Tokens]:
    """Pieces that overlap by one token, so that every token but the document's first is predicted exactly once."""
    pieces = []
    for start in range(0, len(tokens.ids) - 1, max_length - 1):
        stop = start + max_length
        pieces.append(Tokens(tokens.ids[start:stop], tokens.weights[start:stop], tokens.origin))
    return pieces


def to_its_end(tokens: Tokens) -> Tokens:
    """Without what the template writes after the last supervised token: where sampling stops, scoring stops."""
    last = max(i for i, weight in enumerate(tokens.weights) if weight > 0)
    return replace(tokens, ids=tokens.ids[: last + 1], weights=tokens.weights[: last + 1])


def answer_tokens(renderer: Renderer, prompt: Sequence[Message], answer: str, origin: str) -> Tokens:
    """Prompt and answer up to the answer's end token; the answer and its end carry weight."""
    chat = Chat((*prompt, Message("assistant", answer)), origin)
    return to_its_end(renderer.chat(chat, "last"))


def prepare_pairs(
    pairs: Sequence[Pair], renderer: Renderer, max_length: int, overlong: Literal["error", "drop"]
) -> tuple[list[tuple[Tokens, Tokens]], list[Pair], Prepared]:
    """(chosen, rejected) sequences of the pairs that fit, those pairs, and what was dropped."""
    kept: list[tuple[Tokens, Tokens]] = []
    fitting: list[Pair] = []
    made, problems = Prepared(), []
    for pair in pairs:
        both = tuple(
            answer_tokens(renderer, pair.prompt, answer, pair.origin) for answer in (pair.chosen, pair.rejected)
        )
        longest = max(len(t.ids) for t in both)
        if longest <= max_length:
            kept.append((both[0], both[1]))
            fitting.append(pair)
            made.sequences += both
        elif overlong == "drop":
            made.dropped.append(pair.origin)
        else:
            problems.append(
                f"{pair.origin}: {longest} tokens, longer than max_length {max_length}. "
                "Shorten it, or say overlong: drop."
            )
    refuse(problems, "pairs")
    return kept, fitting, made


def prepare_labelled(
    rows: Sequence[Labelled], renderer: Renderer, max_length: int, overlong: Literal["error", "drop"]
) -> tuple[list[Labelled], Prepared]:
    """The labelled answers that fit, with their sequences in `Prepared`, in the same order, and what was dropped."""
    fitting: list[Labelled] = []
    made, problems = Prepared(), []
    for row in rows:
        tokens = answer_tokens(renderer, row.prompt, row.answer, row.origin)
        if len(tokens.ids) <= max_length:
            made.sequences.append(tokens)
            fitting.append(row)
        elif overlong == "drop":
            made.dropped.append(row.origin)
        else:
            problems.append(
                f"{row.origin}: {len(tokens.ids)} tokens, longer than max_length {max_length}. "
                "Shorten it, or say overlong: drop."
            )
    refuse(problems, "answers")
    return fitting, made
