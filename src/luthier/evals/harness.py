"""lm-evaluation-harness as the task library: its tasks build the requests and judge the answers, our engine answers.

Token for token what its own `hf` backend asks: contexts and continuations are encoded as there, what is too long is cut
on the left as there, and greedy text stops where it stops there.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from luthier.base.errors import UserError
from luthier.evals.completions import Completion, complete
from luthier.evals.engine import BATCH_TOKENS, Answers, Request, Watch, loglikelihoods
from luthier.model.draw import Sampling
from luthier.model.load import Loaded
from luthier.model.verify import room_of

os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import TemplateLM
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    raise UserError('benchmarks need lm-eval: pip install "luthier[eval]"') from error

for name in ("lm_eval", "lm-eval"):
    logging.getLogger(name).setLevel(logging.ERROR)

MAX_NEW_TOKENS = 256
"""lm-eval's own limit, where a task names none."""


class Harness(TemplateLM):
    """A model as lm-eval sees it. The one inheritance in this house: lm-eval asks for it."""

    backend = "causal"

    def __init__(
        self,
        loaded: Loaded,
        answers: Answers | None = None,
        watch: Watch = Watch(),  # noqa: B008  # immutable
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        super().__init__()
        self.loaded, self.tokenizer, self.lm = loaded, loaded.tokenizer, loaded.lm
        self.answers, self.watch, self.batch_tokens = answers or Answers(), watch, batch_tokens
        self.ends = sorted({self.eot_token_id, *loaded.end_ids})
        self.room = room_of(self.lm)
        self.cut = 0
        """Requests longer than the model's context: cut on the left, and counted."""

    @property
    def max_length(self) -> int:
        """The model's context, in tokens."""
        return self.room

    @property
    def eot_token_id(self) -> int:
        """The token that ends a document."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without a context."""
        return self.eot_token_id if self.tokenizer.bos_token_id is None else self.tokenizer.bos_token_id

    @property
    def tokenizer_name(self) -> str:
        """What lm-eval files requests under."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation in the model's own template. Raises UserError where the model has none."""
        if self.tokenizer.chat_template is None:
            raise UserError("this model has no chat template. Measure it without --chat, or tune it first.")
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Ids as the `hf` backend has them: with what the tokenizer adds by itself, unless the text begins so."""
        return self.encode_all([string], add_special_tokens)[0]

    def encode_all(self, texts: Sequence[str], add_special_tokens: bool | None = None) -> list[list[int]]:
        """`tok_encode` of many texts, each distinct one once."""
        prefix = self.tokenizer.decode(self.prefix_token_id)
        distinct = list(dict.fromkeys(texts))
        bare = [add_special_tokens is False or (add_special_tokens is None and t.startswith(prefix)) for t in distinct]
        ids: dict[str, list[int]] = {}
        for without in (False, True):
            some = [text for text, is_bare in zip(distinct, bare, strict=True) if is_bare == without]
            if some:
                ids |= zip(some, self.tokenizer(some, add_special_tokens=not without)["input_ids"], strict=True)
        return [ids[text] for text in texts]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(Σ log p of the continuation in nats, whether it is the greedy one) of each request."""
        found = loglikelihoods(self.lm, self.as_requests(requests), self.answers, self.watch, self.batch_tokens)
        return [(scored.logp, scored.greedy) for scored in found]

    def as_requests(self, requests: Sequence[Instance]) -> list[Request]:
        """The requests in tokens. Spaces at the end of a context belong to the continuation (`_encode_pair`)."""
        pairs = [request.args for request in requests]
        moved = [(c.rstrip(), c[len(c.rstrip()) :] + follows) for c, follows in pairs]
        whole = self.encode_all([context + follows for context, follows in moved if context])
        before = self.encode_all([context for context, _ in moved if context])
        given = iter(zip(before, whole, strict=True))
        alone = iter(self.encode_all([c + f for c, f in pairs if not c.rstrip()], add_special_tokens=False))
        made = []
        for context, _ in moved:
            if context:
                first, both = next(given)
                made.append(self.request(both, len(both) - len(first)))
            else:
                ids = next(alone)
                starts = ids[:1] == [self.prefix_token_id]
                ids = ids if starts else [self.prefix_token_id, *ids]
                made.append(self.request(ids, len(ids) - 1))
        return made

    def request(self, ids: Sequence[int], scored: int) -> Request:
        """A request that fits: what is too long loses its beginning. Raises UserError where nothing is scored, and
        where what is scored alone is longer than the context."""
        if scored < 1:
            raise UserError("a task has an option without a token to score. Give every option some text.")
        if scored > self.max_length:
            raise UserError(f"a task scores {scored} tokens at once; the model's context has {self.max_length}.")
        self.cut += len(ids) > self.max_length + 1
        return Request(np.array(ids[-(self.max_length + 1) :], dtype=np.int32), scored)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Σ log p (nats) of whole texts; long ones in windows that score each token once."""
        windows: list[Request] = []
        sizes = []
        for ids in self.encode_all([request.args[0] for request in requests]):
            cut = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, context_len=1)
            pairs = [make_disjoint_window(window) for window in cut]
            windows += [Request(np.array([*c, *follows], dtype=np.int32), len(follows)) for c, follows in pairs]
            sizes.append(len(pairs))
        found = iter(loglikelihoods(self.lm, windows, self.answers, self.watch, self.batch_tokens))
        return [sum(next(found).logp for _ in range(size)) for size in sizes]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each context, up to the first of the task's stop strings."""
        asked: list[Completion] = []
        times: Counter[Completion] = Counter()
        for context, settings in (request.args for request in requests):
            one = self.completion(context, dict(settings))
            times[one] += 1
            # Asked again, a request that is drawn is drawn anew.
            again = replace(one.how, seed=times[one] - 1) if one.how.temperature > 0 else one.how
            asked.append(one._replace(how=again))
        return complete(self.lm, asked, self.ends, self.tokenizer, self.answers, self.watch)

    def completion(self, context: str, settings: Mapping[str, Any]) -> Completion:
        """A request for text, with lm-eval's settings in our words. Raises UserError on a setting that is not known."""
        known = {"until", "do_sample", "temperature", "top_p", "top_k", *LIMITS}
        if unknown := [name for name in settings if name not in known]:
            raise UserError(
                f"generation_kwargs: {', '.join(unknown)}: not supported. Known: {', '.join(sorted(known))}."
            )
        limit = next((int(settings[name]) for name in LIMITS if settings.get(name) is not None), MAX_NEW_TOKENS)
        temperature = float(settings.get("temperature") or 0.0)
        samples = bool(settings.get("do_sample", temperature > 0))
        until = settings.get("until") or []
        room = self.max_length - limit
        if room < 1:
            raise UserError(
                f"a task lets the model write {limit} tokens; its context has {self.max_length}. Give the task a "
                "smaller max_gen_toks, or take a model with a longer context."
            )
        ids = self.tok_encode(context)
        self.cut += len(ids) > room
        how = Sampling(
            limit,
            (temperature or 1.0) if samples else 0.0,
            top_p=float(settings.get("top_p") or 1.0),
            top_k=settings.get("top_k"),
        )
        return Completion(tuple(ids[-room:]), how, tuple([until] if isinstance(until, str) else until))

    def _loglikelihood_tokens(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
        raise NotImplementedError  # lm-eval declares it abstract; `loglikelihood` does not go through it


LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""What tasks call the most tokens to write, the first that is given counts."""
