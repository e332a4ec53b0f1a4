"""The model that a stage trains, made the same way for every stage: loaded or fresh, then what its `adapter`,
`freeze` and `quantize` say; with how its weights go to a checkpoint and come back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from luthier.base.errors import RunError, UserError
from luthier.base.files import new_folder
from luthier.base.recipe import Pretrain, Recipe, Sft
from luthier.base.tuning import PromptTuning, Training
from luthier.data.dataset import at_hand
from luthier.model.adapt import add_adapter, checkpoint_adapter, restore_adapter, trainable
from luthier.model.freeze import freeze
from luthier.model.load import Loaded, add_chat_template, fresh_model, load_folder, load_tokenizer, save_model, wrap
from luthier.model.quantise import require_bitsandbytes
from luthier.model.score import LanguageModel
from luthier.run.context import Context, renderer_of, texts
from luthier.run.memo import StageFolder
from luthier.tokens.render import Renderer
from luthier.tokens.tokenizer import train_encoder_tokenizer, train_tokenizer
from luthier.train.checkpoint import Weights
from luthier.train.ranks import here

ADAPTER = "policy"


@dataclass(frozen=True)
class Learner:
    """A model about to be trained, with what training it needs."""

    loaded: Loaded
    lm: LanguageModel
    renderer: Renderer
    weights: Weights
    adapter: str | None
    """The adapter that is trained; None: the weights themselves."""


def require_libraries(recipe: Recipe) -> None:
    """Raises UserError where a stage asks for an optional library that is not installed: before the first one runs."""
    if any(isinstance(stage, Training) and stage.quantize is not None for stage in recipe.stages):
        require_bitsandbytes()
    if any(isinstance(stage, Training) and stage.optimizer == "adamw8bit" for stage in recipe.stages):
        require_bitsandbytes("optimizer: adamw8bit")


def learner_for(context: Context, folder: StageFolder, stage: Pretrain | Sft) -> Learner:
    """The model to train on text: loaded or fresh, with a chat template if conversations come."""
    start = context.start(stage.init)
    if start is not None:
        loaded = context.load(start, stage.quantize)
    else:
        assert context.recipe.base.fresh is not None
        tokenizer = new_tokenizer(context, folder, stage)
        model = fresh_model(context.recipe.base.fresh, tokenizer, context.recipe.seed)
        loaded = wrap(model, tokenizer, context.device, context.dtype)
    grown = add_chat_template(loaded, context.recipe.seed) if isinstance(stage, Sft) else ()
    return as_learner(context, folder, stage, loaded, ADAPTER, grown)


def started(
    context: Context, folder: StageFolder, stage: Training, adapter: str = ADAPTER, chat: bool = False
) -> Learner:
    """The model that an earlier stage made, about to be trained further; with a chat template, where `chat` asks for
    one and it has none."""
    start = context.start(stage.init)
    assert start is not None
    loaded = context.load(start, stage.quantize)
    grown = add_chat_template(loaded, context.recipe.seed) if chat else ()
    return as_learner(context, folder, stage, loaded, adapter, grown)


def as_learner(
    context: Context,
    folder: StageFolder,
    stage: Training,
    loaded: Loaded,
    adapter: str,
    new_tokens: tuple[int, ...] = (),
) -> Learner:
    """A loaded model as what the stage trains. `new_tokens` are ids that the model did not know before. Raises
    UserError where the model cannot be trained like this."""
    lm, renderer = loaded.lm, renderer_of(loaded)
    if stage.gradient_checkpointing:
        if not lm.core.supports_gradient_checkpointing:
            raise UserError(
                f"gradient_checkpointing: transformers' {type(lm.core).__name__} cannot compute its blocks again. "
                "Remove it, and lower microbatch_tokens where memory is short."
            )
        lm.core.gradient_checkpointing_enable({"use_reentrant": False})
    if stage.adapter is None:
        if stage.freeze is not None:
            freeze(lm, stage.freeze)
        return Learner(loaded, lm, renderer, full_weights(lm, loaded.tokenizer), adapter=None)
    start = stage.adapter.start if isinstance(stage.adapter, PromptTuning) else None
    start_ids = loaded.tokenizer.encode(start, add_special_tokens=False) if start else ()
    lm = add_adapter(lm, stage.adapter, adapter, context.seed(folder), new_tokens, start_ids)
    if stage.freeze is not None:
        freeze(lm, stage.freeze)
    weights = Weights(
        lambda path: checkpoint_adapter(lm, adapter, path),
        lambda path: restore_adapter(lm, adapter, path),
        sum(p.numel() for p in trainable(lm.module).values()),
    )
    return Learner(replace(loaded, lm=lm), lm, renderer, weights, adapter=adapter)


def full_weights(lm: LanguageModel, tokenizer: Any) -> Weights:
    """All weights, as a Hugging Face folder."""

    def restore(path: Path) -> None:
        saved = load_folder(path, str(lm.device), lm.dtype)
        lm.core.load_state_dict(saved.lm.core.state_dict())

    save: Callable[[Path], None] = lambda path: save_model(lm.core, tokenizer, path)  # noqa: E731
    return Weights(save, restore)


def new_tokenizer(context: Context, folder: StageFolder, stage: Pretrain | Sft) -> Any:
    """The run's own tokenizer, trained once on the stage's documents and kept beside them."""
    if context.tokenizer is not None:
        return load_tokenizer(context.tokenizer)
    kept = folder.path / "tokenizer"

    def make() -> None:
        if kept.is_dir():
            return
        fresh = context.recipe.base.fresh
        assert fresh is not None
        names = [stage.data] if isinstance(stage.data, str) else list(stage.data)
        documents = [t.text for name in names for t in texts(list(at_hand(context.dataset(name))))]
        if not documents:
            raise RunError(f"{folder.name}: no documents to train a tokenizer on. Give a source of texts.")
        with new_folder(kept) as path:
            train = train_encoder_tokenizer if fresh.shape == "encoder" else train_tokenizer
            train(documents, fresh.vocab).save_pretrained(path)

    here().once(make)
    return load_tokenizer(kept)
