"""score(lm, batch) -> logp_M: log-probs at the predicted positions, and only there.

The backbone runs over the forest; the M hidden states that predict something are gathered; projection and
log-softmax run over them in chunks, forward and backward, so that T×V logits never exist.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from luthier.model.attention import ForestPlan, using
from luthier.model.bidirectional import BothSidesPlan
from luthier.model.encoders import Encoder, logits_by_head
from luthier.model.logp import CHUNK_LOGITS, Scores, fused_logp, is_plain, logp_and_top
from luthier.model.virtual import virtual_of
from luthier.tokens.pack import Batch, paths


@dataclass(frozen=True)
class LanguageModel:
    """A causal or a masked model as the floors above see it. Weights live in `module`; nothing here copies them."""

    module: Any
    """The transformers model, or the PEFT model around it."""
    layout: Literal["forest", "rows"]
    """forest: attends by the Batch's rule. rows: padded rows through the library's own attention."""
    dtype: torch.dtype = torch.float32
    """Arithmetic of matrix products (autocast); the weights keep their own."""
    encoder: Encoder | None = None
    """How a masked language model is put together; None: a causal one."""

    @property
    def core(self) -> Any:
        """The transformers model inside any adapters."""
        return self.module if isinstance(self.module, PreTrainedModel) else self.module.get_base_model()

    @property
    def backbone(self) -> Any:
        """The part below the head."""
        # Not `base_model`: some architectures (Llama 4) name a prefix there that their text model does not have.
        return next(child for child in self.core.children() if isinstance(child, PreTrainedModel))

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.module.parameters()).device


def states(lm: LanguageModel, batch: Batch, at: Tensor, seq: Tensor) -> Tensor:
    """Final hidden states [len(at), D] at the tokens `at` (indices into T), each as sequence `seq` sees it."""
    backbone = lm.backbone
    if lm.encoder is not None:
        return both_sides(lm, lm.encoder, batch, at, seq)
    with torch.autocast(lm.device.type, dtype=lm.dtype, enabled=lm.dtype != torch.float32):
        if lm.layout == "forest":
            virtual = virtual_of(lm.module, lm.core)
            laid = virtual.above(batch)
            with using(ForestPlan(laid, prefix=virtual.prefix)):
                out = backbone(
                    **virtual.inputs(lm.core, laid.ids_T),
                    position_ids=laid.pos_T[None],
                    attention_mask=torch.ones_like(laid.ids_T)[None],
                    use_cache=False,
                )
            return out.last_hidden_state[0].index_select(0, at + virtual.embedded)
        ids_NL, mask_NL = padded(batch)
        out = backbone(input_ids=ids_NL, attention_mask=mask_NL, use_cache=False)
        return out.last_hidden_state[seq, batch.pos_T[at]]


def both_sides(lm: LanguageModel, encoder: Encoder, batch: Batch, at: Tensor, seq: Tensor) -> Tensor:
    """`states` of a masked model: each as its whole sequence makes it."""
    with torch.autocast(lm.device.type, dtype=lm.dtype, enabled=lm.dtype != torch.float32):
        if lm.layout == "forest":
            with using(BothSidesPlan(batch)):
                out = lm.backbone(
                    input_ids=batch.ids_T[None],
                    position_ids=batch.pos_T[None] + encoder.first_position,
                    attention_mask=torch.ones_like(batch.ids_T)[None],
                )
            return out.last_hidden_state[0].index_select(0, at)
        ids_NL, mask_NL = padded(batch)
        out = lm.backbone(input_ids=ids_NL, attention_mask=mask_NL)
        return out.last_hidden_state[seq, batch.pos_T[at]]


def padded(batch: Batch) -> tuple[Tensor, Tensor]:
    """(ids, mask) of the sequences as rows [N, L]. Padding stands on the right, after everything that a causal model's
    real tokens can see."""
    rows = [batch.ids_T[path] for path in paths(batch)]
    return pad_sequence(rows, batch_first=True), pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)


def logits_transform(config: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """What the architecture does to its logits after the projection. The load-time check (verify.py) fails on any
    that this table does not know, so an omission is never silent."""
    if config.get("final_logit_softcapping"):  # gemma2, gemma3
        cap = config["final_logit_softcapping"]
        return lambda logits: cap * torch.tanh(logits / cap)
    if config.get("logits_scaling"):  # granite
        return lambda logits: logits / config["logits_scaling"]
    if config.get("logit_scale"):  # cohere
        return lambda logits: logits * config["logit_scale"]
    return lambda logits: logits


def logits_scale(config: dict[str, Any]) -> float | None:
    """`logits_transform` as a factor; None where it is more than that."""
    if config.get("final_logit_softcapping"):
        return None
    return float(config.get("logit_scale") or 1.0) / float(config.get("logits_scaling") or 1.0)


def logits_of(lm: LanguageModel, hidden_MD: Tensor) -> Tensor:
    """The model's logits [M, V] in float32 for some hidden states."""
    with torch.autocast(lm.device.type, dtype=lm.dtype, enabled=lm.dtype != torch.float32):
        if lm.encoder is not None:
            return logits_by_head(lm.core, lm.encoder, hidden_MD).float()
        logits_MV = lm.core.get_output_embeddings()(hidden_MD)
    return logits_transform(vars(lm.core.config))(logits_MV).float()


def head(
    lm: LanguageModel, hidden_MD: Tensor, target_M: Tensor, temperature: float = 1.0, entropy: bool = False
) -> Scores:
    """Log-probs (nats) of `target_M` under softmax(logits / temperature), in chunks; with the entropy if asked."""
    layer, scale = lm.core.get_output_embeddings(), logits_scale(vars(lm.core.config))
    if scale is not None and is_plain(layer) and lm.encoder is None:
        return fused_logp(layer, hidden_MD, target_M, lm.dtype, scale / temperature, entropy)

    def chunk(hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
        logits = logits_of(lm, hidden)
        logp_V = torch.log_softmax(logits if temperature == 1.0 else logits / temperature, dim=-1)
        logp = logp_V.gather(1, target[:, None]).squeeze(1)
        return logp, -(logp_V.exp() * logp_V).sum(-1) if entropy else None

    size = max(1, CHUNK_LOGITS // lm.core.get_output_embeddings().weight.shape[0])
    if len(target_M) <= size:
        return Scores(*chunk(hidden_MD, target_M))
    parts: list[Any] = [
        # Recomputing a chunk in the backward costs one more projection and saves M×V floats.
        checkpoint(chunk, h, t, use_reentrant=False) if torch.is_grad_enabled() else chunk(h, t)
        for h, t in zip(hidden_MD.split(size), target_M.split(size), strict=True)
    ]
    return Scores(torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]) if entropy else None)


def score(lm: LanguageModel, batch: Batch, temperature: float = 1.0) -> Tensor:
    """Log-probs (nats) of the batch's M predictions."""
    return head(lm, states(lm, batch, batch.from_M, batch.seq_M), batch.target_M, temperature).logp_M


@torch.no_grad()
def score_and_top(lm: LanguageModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Log-probs (nats) of the batch's M predictions, and whether each target is the model's likeliest token. A state
    that predicts several targets (the first tokens of an item's options) meets the head once."""
    order_M = torch.argsort(batch.from_M, stable=True)
    forest = lm.layout == "forest"
    # On padded rows every sequence has states of its own.
    key_M = batch.from_M[order_M] if forest else torch.arange(len(order_M), device=order_M.device)
    at_U, state_M = torch.unique_consecutive(key_M, return_inverse=True)
    if forest:
        hidden_UD = states(lm, batch, at_U, batch.seq_M[:0])
    else:
        hidden_UD = states(lm, batch, batch.from_M[order_M], batch.seq_M[order_M])
    target_M = batch.target_M[order_M]
    layer, scale = lm.core.get_output_embeddings(), logits_scale(vars(lm.core.config))
    if scale is not None and is_plain(layer) and lm.encoder is None:
        logp_M, top_M = logp_and_top(layer, hidden_UD, state_M, target_M, lm.dtype, scale)
    else:
        logits_UV = logits_of(lm, hidden_UD)
        logp_M = torch.log_softmax(logits_UV, dim=-1)[state_M, target_M]
        top_M = logits_UV.argmax(-1)[state_M] == target_M
    return torch.empty_like(logp_M).index_copy_(0, order_M, logp_M), torch.empty_like(top_M).index_copy_(
        0, order_M, top_M
    )


def sequence_sums(values_M: Tensor, batch: Batch) -> Tensor:
    """Sums of per-prediction values over each sequence -> [N]."""
    return values_M.new_zeros(batch.n).index_add(0, batch.seq_M, values_M)
