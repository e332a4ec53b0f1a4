"""Messages to ids and weights: the one renderer of training, sampling, evaluation and chat.

The tokenizer's chat template decides every character; nothing here knows a format. Ids of a conversation equal
`tokenizer.apply_chat_template(messages)` token for token. What is trained is found by asking the template what
serving asks it: the prompt of an answer is the conversation so far with the generation prompt, and the answer is
what the whole conversation has from there to its end-of-turn token, that token included. A line end that the
template puts behind it is not the model's to write, and carries no weight.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from luthier.base.errors import UserError
from luthier.base.nouns import Chat, Message, Text, Tokens
from luthier.tokens.tokenizer import adds_bos

TrainOn = Literal["last", "answers", "all"]

OTHER_TEMPLATE = "Give the model another template with base.chat_template."
PROBE = (Message("user", "Is there an end?"), Message("assistant", "Look behind this answer."))


@dataclass(frozen=True)
class Renderer:
    """Renders with one tokenizer, which it never changes: give that its chat template first.

    `extra_end_ids`: further ids at which generation stops, those that the model's generation config names.
    """

    tokenizer: Any
    extra_end_ids: frozenset[int] = frozenset()

    @property
    def has_template(self) -> bool:
        return self.tokenizer.chat_template is not None

    def chat(self, chat: Chat, train_on: TrainOn) -> Tokens:
        """A conversation to train on: ids as `apply_chat_template` gives them, weight 1 on what is supervised.
        `last`: the final answer; `answers`: every assistant turn; each with its end-of-turn token. `all`:
        everything but the first token, which nothing predicts.

        Raises UserError, with the chat's origin, where the template refuses the conversation or does not end its
        answers in a token; where it shows an earlier answer otherwise than when it was given (templates that drop
        old thoughts, under `answers`); and where a message contains a control token, which would forge turns.
        """
        messages, origin = chat.messages, chat.origin
        turns = [index for index, message in enumerate(messages) if message.role == "assistant"]
        if not turns or (train_on != "answers" and turns[-1] != len(messages) - 1):
            raise UserError(f"{origin}: messages: no answer at the end to train on. Add an assistant message.")
        self._refuse_control_tokens(messages, origin)
        text = self._render(messages, False, origin)
        ids = self._encode(text, origin)
        weights = [1.0 if train_on == "all" else 0.0] * len(ids)
        for turn in turns if train_on == "answers" else turns[-1:]:
            start, end = self._answer_span(messages, turn, text, ids, origin)
            weights[start:end] = [1.0] * (end - start)
        weights[0] = 0.0
        return Tokens(tuple(ids), tuple(weights), origin)

    def completion(self, prompt: Sequence[Message], answer: str, origin: str) -> Tokens:
        """A prompt and one answer to it, the answer and its end weighted: one side of a pair."""
        return self.chat(Chat((*prompt, Message("assistant", answer)), origin), "last")

    def prompt(self, messages: Sequence[Message], origin: str = "prompt") -> list[int]:
        """Ids that ask the model for the next assistant turn. A tokenizer without a chat template is a base
        model's, which is shown what it knows: a document that begins with the last user message and a line end.
        Raises UserError as `chat` does."""
        if not self.has_template:
            asked = [message.content for message in messages if message.role == "user"]
            if not asked:
                raise UserError(f"{origin}: messages: no user message to answer. Add one.")
            return [*self._start_ids, *self._encode(asked[-1] + "\n", origin, plain=True)]
        self._refuse_control_tokens(messages, origin)
        return self._encode(self._render(messages, True, origin), origin)

    def serving_matches(self, chat: Chat) -> str | None:
        """None when the training ids up to the last answer are, token for token, the prompt that serving sends;
        else a sentence that shows where they part. They part where one token straddles the border: an answer that
        begins with a line end, say, under a template that does not trim it. No answer: None."""
        if chat.answer is None:
            return None
        served = self.prompt(chat.prompt, chat.origin)
        trained = self._encode(self._render(chat.messages, False, chat.origin), chat.origin)
        at = _common(served, trained)
        if at == len(served):
            return None
        training, serving = (" ".join(map(repr, self.pieces(ids[at : at + 4]))) for ids in (trained, served))
        return (
            f"{chat.origin}: token {at}: training has {training} where serving has {serving}: the template lets the "
            f"answer's first characters merge with the prompt's last. Strip the answers. Or: {OTHER_TEMPLATE}"
        )

    def text(self, text: Text) -> Tokens:
        """A document: bos where the model's documents begin with one, the text, eos; all but the first token
        weighted. The name of a control token stays text here ("<s>" in a page of HTML begins nothing)."""
        eos = self.tokenizer.eos_token_id
        ids = [*self._start_ids, *self._encode(text.text, text.origin, plain=True), *([] if eos is None else [eos])]
        return Tokens(tuple(ids), (0.0, *[1.0] * (len(ids) - 1))[: len(ids)], text.origin)

    def plain(self, context: str, continuation: str, origin: str) -> Tokens:
        """A text whose continuation is weighted, for multiple choice. Both are cut into tokens together, and spaces
        that end the context go to the continuation, as in lm-eval, since vocabularies hold " word". It begins as a
        document does, and has no eos. An empty context begins with eos where the model has no bos: nothing would
        predict the first token else. Raises UserError where the continuation has no token to score."""
        before = self._encode(context.rstrip(), origin, plain=True)
        both = self._encode(context + continuation, origin, plain=True)
        first = self._start_ids
        if not first and not before and self.tokenizer.eos_token_id is not None:
            first = (self.tokenizer.eos_token_id,)
        start = max(1, len(first) + _common(before, both))
        scored = len(first) + len(both) - start
        if scored < 1:
            raise UserError(f"{origin}: options: an option without a token to score. Give every option some text.")
        return Tokens((*first, *both), (0.0,) * start + (1.0,) * scored, origin)

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Every id at which generation stops: the end of a document, the end of a turn, and the extra ones."""
        eos, turn = self.tokenizer.eos_token_id, self._turn_end
        return self.extra_end_ids | ({eos} if eos is not None else set()) | ({turn[1]} if turn is not None else set())

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids without control tokens: an answer as a person sees it."""
        return self.tokenizer.decode([id for id in ids if id not in self._control_ids])

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """What each token adds to the text, control tokens included; joined, they are the text. Where several
        tokens make one character, the last has it and the others have ""; bytes that make none show as �."""
        pieces: list[str] = []
        before = start = 0  # ids[start:] are not shown yet; ids[before:start] were, and stand in front of them,
        for end in range(1, len(ids) + 1):  # because some tokenizers strip a space from the first token they decode
            shown = self.tokenizer.decode(list(ids[before:start]))
            text = self.tokenizer.decode(list(ids[before:end]))
            if text.endswith("�") and end < len(ids):
                pieces.append("")
            else:
                pieces.append(text[len(shown) :])
                before, start = start, end
        return pieces

    @cached_property
    def _start_ids(self) -> tuple[int, ...]:
        """What a document begins with: bos, if the tokenizer adds it, or if it is also the eos and so stood between
        the documents of pretraining (GPT-2)."""
        bos = self.tokenizer.bos_token_id
        return (bos,) if adds_bos(self.tokenizer) or (bos is not None and bos == self.tokenizer.eos_token_id) else ()

    @cached_property
    def _turn_end(self) -> tuple[str, int] | None:
        """The token, and its id, that the template puts behind an answer; None where it puts none."""
        if not self.has_template:
            return None
        text = self._render(PROBE, False, "chat template")
        behind = text[text.rfind(PROBE[-1].content) + len(PROBE[-1].content) :].lstrip()
        ends = [(token.content, id) for id, token in self.tokenizer.added_tokens_decoder.items()]
        return max((end for end in ends if behind.startswith(end[0])), key=lambda end: len(end[0]), default=None)

    @cached_property
    def _control(self) -> dict[str, int]:
        """Token -> id of those that structure a text. Added tokens that are not special ("<think>") are content."""
        special = {token.content: id for id, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return special | (dict([self._turn_end]) if self._turn_end is not None else {})

    @cached_property
    def _control_ids(self) -> frozenset[int]:
        return frozenset(self._control.values())

    @cached_property
    def _control_pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self._control)) or r"(?!)")

    def _refuse_control_tokens(self, messages: Sequence[Message], origin: str) -> None:
        problems = [
            f"{origin}: messages[{index}].content: contains the control token {found[0]}, with which text could "
            "pretend to be a turn. Escape it or leave the row out."
            for index, message in enumerate(messages)
            if (found := self._control_pattern.search(message.content))
        ]
        if problems:
            raise UserError(problems)

    def _answer_span(
        self, messages: Sequence[Message], turn: int, text: str, ids: list[int], origin: str
    ) -> tuple[int, int]:
        """Where in `ids`, the tokens of `text`, the answer `messages[turn]` begins, and one past its end token."""
        if self._turn_end is None:
            raise UserError(
                f"{origin}: chat template: puts no end token behind an answer, so the model could not learn to stop. "
                + OTHER_TEMPLATE
            )
        if turn == 0:
            raise UserError(f"{origin}: messages[0]: an answer to nothing. Begin with a user or a system message.")
        token, id = self._turn_end
        prompt = self._render(messages[:turn], True, origin)
        given = text if turn == len(messages) - 1 else self._render(messages[: turn + 1], False, origin)
        end = given.find(token, len(prompt))
        header = self._control_pattern.findall(given[len(prompt) : max(end, 0)])
        if not given.startswith(prompt) or end < 0 or any(mark in prompt for mark in header):
            raise UserError(
                f"{origin}: chat template: an answer does not begin where the generation prompt ends (ignored "
                f"add_generation_prompt?), so the model would be asked otherwise than taught. {OTHER_TEMPLATE}"
            )
        if not text.startswith(given[: end + len(token)]):
            raise UserError(
                f"{origin}: messages[{turn}]: the chat template rewrites earlier answers when the conversation goes "
                "on, so this is not what the model would write. Set train_on: last."
            )
        # From the first token that serving's prompt does not hold: exact also where a token straddles the border.
        start = _common(self._encode(prompt, origin), ids)
        return start, ids.index(id, start) + 1

    def _render(self, messages: Sequence[Message], generation_prompt: bool, origin: str) -> str:
        if not self.has_template:
            raise UserError(f"{origin}: the tokenizer has no chat template. {OTHER_TEMPLATE}")
        try:
            return self.tokenizer.apply_chat_template(
                [{"role": message.role, "content": message.content} for message in messages],
                add_generation_prompt=generation_prompt,
                tokenize=False,
            )
        except Exception as error:  # a template is a user's program: it may raise anything
            raise UserError(
                f"{origin}: the model's chat template refuses this conversation: {error}. "
                f"Change the messages. Or: {OTHER_TEMPLATE}"
            ) from error

    def _encode(self, text: str, origin: str, plain: bool = False) -> list[int]:
        """Ids without anything added; `plain` reads the names of control tokens as ordinary text."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"{origin}: half a surrogate pair at character {error.start}, which is no text. Repair or drop it."
            ) from error
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=plain, verbose=False)["input_ids"]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    return next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
