"""The load-time check: a tiny random forest is scored both ways before anything relies on it.

As a forest with our attention and head, and sequence by sequence through the model's own forward. Where they differ
the model runs on padded rows; where those differ too, it is refused. No architecture is ever silently wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from luthier.base.errors import RunError
from luthier.base.nouns import Tokens
from luthier.model.attention import NAME
from luthier.model.bidirectional import NAME as BOTH_SIDES
from luthier.model.encoders import encoder_of, fills_masks, first_position
from luthier.model.score import LanguageModel, score
from luthier.model.virtual import virtual_of
from luthier.tokens.masking import Hidden, pack_hidden, unhidden
from luthier.tokens.pack import Batch, forest

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest difference of a log-prob (nats) that counts as rounding."""


@dataclass(frozen=True)
class LoadCheck:
    """What the check found: the layout to use, and why."""

    layout: str
    difference: float | None
    reason: str


def room_of(lm: LanguageModel) -> int:
    """Longest sequence that a model takes, in tokens, after the virtual ones."""
    return context_of(lm.core.config.to_dict()) - virtual_of(lm.module, lm.core).size


def probe_sequences(vocab: int, context: int, window: int | None = None, seed: int = 0) -> list[Tokens]:
    """Random sequences with nested shared prefixes; longer than a sliding window where there is room for it."""
    generator = torch.Generator().manual_seed(seed)
    span = 12 if window is None else min(max(12, window), 96)
    draw = lambda n: torch.randint(0, vocab, (n,), generator=generator).tolist()  # noqa: E731
    root, stem = draw(span), draw(span)
    bodies = [root + stem + draw(9), root + stem + draw(14), root + draw(7), draw(11), draw(1) + draw(span)]
    bodies = [body[: context - 1] for body in bodies]
    return [Tokens(tuple(b), (0.0,) + (1.0,) * (len(b) - 1), "probe") for b in bodies]


@torch.no_grad()
def own_forward(lm: LanguageModel, sequences: list[Tokens]) -> Tensor:
    """Log-probs of every prediction, each sequence alone through the model's own forward: the reference."""
    logps = []
    with library_attention(lm):
        for sequence in sequences:
            ids = torch.tensor([sequence.ids], device=lm.device)
            # Virtual tokens (prompt tuning) have logits too, in front.
            logits = lm.module(input_ids=ids, use_cache=False).logits[0, -ids.shape[1] : -1].float()
            logps.append(torch.log_softmax(logits, -1).gather(1, ids[0, 1:, None]).squeeze(1))
    return torch.cat(logps)


def comparable(lm: LanguageModel, sequences: Sequence[Tokens]) -> Batch:
    """The sequences as the batch on which two forwards of a model are compared."""
    return (forest(sequences) if lm.encoder is None else unhidden(sequences)).to(lm.device)


def probe_rows(sequences: list[Tokens], pad: int | None) -> list[Hidden]:
    """The same for a masked model: every other token is predicted from all. None is padding, which RoBERTa's
    positions do not count."""
    other = 1 if pad == 0 else 0
    ids = [tuple(other if id == pad else id for id in sequence.ids) for sequence in sequences]
    at = [tuple(range(0, len(row), 2)) for row in ids]
    return [Hidden(row, here, tuple(row[i] for i in here), "probe") for row, here in zip(ids, at, strict=True)]


@torch.no_grad()
def own_fillings(lm: LanguageModel, rows: list[Hidden]) -> Tensor:
    """Log-probs of what stood in the hidden places, each row alone through the model's own forward."""
    logps = []
    with library_attention(lm):
        for row in rows:
            logits_LV = lm.module(input_ids=torch.tensor([row.ids], device=lm.device)).logits[0].float()
            at_M, target_M = torch.tensor([row.at, row.targets], device=lm.device)
            logps.append(torch.log_softmax(logits_LV[at_M], -1).gather(1, target_M[:, None]).squeeze(1))
    return torch.cat(logps)


@torch.no_grad()
def difference(lm: LanguageModel, batch: Batch, reference_M: Tensor) -> float:
    """Largest absolute difference of the batch's log-probs from the reference, in nats."""
    return float((score(lm, batch) - reference_M).abs().max())


def library_choice(lm: LanguageModel) -> str:
    """The attention the library would use by itself."""
    return "sdpa" if lm.core._supports_sdpa else "eager"


@contextmanager
def library_attention(lm: LanguageModel) -> Iterator[None]:
    """Inside this block the model attends as the library would by itself."""
    ours = lm.core.config._attn_implementation
    lm.core.set_attn_implementation(library_choice(lm))
    try:
        yield
    finally:
        lm.core.set_attn_implementation(ours)


def choose_layout(module: torch.nn.Module, dtype: torch.dtype = torch.float32) -> tuple[LanguageModel, LoadCheck]:
    """Checks both layouts and sets the model's attention for the one that is right.

    Raises RunError when neither reproduces the model's own log-probs.
    """
    rows = LanguageModel(module, "rows", torch.float32)
    was_training = module.training
    module.eval()
    try:
        # A sliding window or a chunk shows only past its length.
        config = rows.core.config.to_dict()
        sizes = [n for n in (config.get("sliding_window"), config.get("attention_chunk_size")) if n]
        context = context_of(config) - first_position(rows.core)
        sequences = probe_sequences(rows.core.config.vocab_size, context, min(sizes, default=None))
        if fills_masks(rows.core):
            with library_attention(rows):
                rows = replace(rows, encoder=encoder_of(rows.core))
            shown = probe_rows(sequences, config.get("pad_token_id"))
            reference_M, batch = own_fillings(rows, shown), pack_hidden(shown).to(rows.device)
        else:
            reference_M, batch = own_forward(rows, sequences), forest(sequences, min_shared=2).to(rows.device)
        tolerance = TOLERANCE[next(module.parameters()).dtype]
        found, reason = attempt(replace(rows, layout="forest"), batch, reference_M)
        if found is not None and found <= tolerance:
            return replace(rows, layout="forest", dtype=dtype), LoadCheck("forest", found, "equal to its own forward")
        reason = reason or f"log-probs differ by {found:.2g} nats"
        rows.core.set_attn_implementation(library_choice(rows))
        in_rows, failure = attempt(rows, batch, reference_M)
        if in_rows is not None and in_rows <= tolerance:
            return replace(rows, dtype=dtype), LoadCheck("rows", found, f"padded rows, because as a forest {reason}")
        raise RunError(
            f"{type(rows.core).__name__}: neither layout reproduces the model's own log-probs "
            f"(forest: {reason}; rows: {failure or f'differ by {in_rows:.2g} nats'}). "
            "This architecture is not supported."
        )
    finally:
        module.train(was_training)


def attempt(lm: LanguageModel, batch: Batch, reference_M: Tensor) -> tuple[float | None, str]:
    """The difference of one layout, or why it could not be run."""
    try:
        if lm.layout == "forest":
            name = NAME if lm.encoder is None else BOTH_SIDES
            lm.core.set_attn_implementation(name)
            if lm.core.config._attn_implementation != name:
                return None, "it does not use transformers' attention interface"
        return difference(lm, batch, reference_M), ""
    except Exception as error:  # any failure of a foreign forward is an answer here, and it is reported
        return None, f"its forward fails ({type(error).__name__}: {str(error)[:120]})"


def context_of(config: dict[str, object]) -> int:
    """Longest sequence the model takes, in tokens; a large number where the config names none."""
    for key in ("max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_seq_len"):
        value = config.get(key)
        if isinstance(value, int) and value > 0:
            return value
    return 1 << 20
