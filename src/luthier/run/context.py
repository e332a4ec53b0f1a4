"""What the stages of one run share: the recipe, the data, and the models made so far."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from luthier.base.abilities import Ability
from luthier.base.curation import Curate
from luthier.base.errors import RunError, UserError
from luthier.base.events import Watcher
from luthier.base.files import disk_errors, hash_of, hash_path, only_reads, read_json
from luthier.base.made import MAKES_DATA, made_first
from luthier.base.mistakes import MistakesProbe
from luthier.base.nouns import Chat, Example, Pair, Rejected, Text
from luthier.base.objective import is_masked
from luthier.base.pages import keep_freed_pages
from luthier.base.probes import AnswersProbe, FillMaskProbe, LossProbe, Probe, PseudoPerplexityProbe, WinRateProbe
from luthier.base.recipe import Recipe
from luthier.base.seeds import seed_for
from luthier.base.source import Source
from luthier.base.tuning import Quantize
from luthier.base.workers import cores
from luthier.data.dataset import Dataset, read_dataset
from luthier.model.load import Loaded, compute_dtype, load_folder, load_model
from luthier.run.kept import kept_dataset
from luthier.run.memo import StageFolder, stage_folder
from luthier.run.shards import store_of, streamed_dataset
from luthier.tokens.render import Renderer
from luthier.train.ranks import here

Asking = AnswersProbe | WinRateProbe | Ability | MistakesProbe
"""Probes that ask a model for answers."""


@dataclass(frozen=True)
class ModelRef:
    """A language model that a stage made, or the base (folder None)."""

    name: str
    folder: Path | None
    hash: str


@dataclass
class Context:
    """One run in progress."""

    recipe: Recipe
    recipe_path: Path
    folder: Path
    device: str
    watchers: tuple[Watcher, ...]
    models: dict[str, ModelRef] = field(default_factory=dict)
    """Language models by the name of the stage that made them, in order; "base" is what alignment starts from."""
    stages: list[StageFolder] = field(default_factory=list)
    datasets: dict[str, Dataset] = field(default_factory=dict)
    raw: dict[str, list[Example | Rejected]] = field(default_factory=dict)
    """Rows of sources as they were before private things were looked for, where a curate stage does that."""
    began: float = field(default_factory=time.monotonic)
    """When this session began."""
    first_rows: int | None = None
    """Look at no more than these of a streamed source. None: at all of them."""
    tokenizer: Path | None = None
    """A fresh model's. None: it is trained on the documents of the first stage."""

    @property
    def root(self) -> Path:
        """The recipe's folder, which relative paths start from."""
        return self.recipe_path.parent

    def dataset(self, name: str) -> Dataset:
        """A source, read once; or what a stage of that name made. Raises RunError where that has made nothing yet."""
        if name not in self.datasets:
            if name in self.recipe.data:
                self.datasets[name] = self._read(name, self.recipe.data[name])
            elif (made := self._maker(name)) is not None:
                self.datasets[name] = kept_dataset(name, made.path, made.hash)
            else:
                raise RunError(f"data.{name}: a stage makes it that has not run yet. Run the whole recipe.")
        return self.datasets[name]

    def there(self, name: str) -> bool:
        """Whether a data set can be read by now: a source always, what a stage makes once it has made it."""
        return name in self.recipe.data or name in self.datasets or self._maker(name) is not None

    def _maker(self, name: str) -> StageFolder | None:
        """The stage that has made the data set of this name."""
        return next((f for f in self.stages if f.kind in MAKES_DATA and f.name == name and f.done), None)

    def _read(self, name: str, source: Source) -> Dataset:
        if not source.stream:
            wanted = any(isinstance(s, Curate) and s.private and name in s.sources for s in self.recipe.stages)
            raw: list[Example | Rejected] | None = [] if wanted else None
            found = read_dataset(name, source, self.root, raw=raw)
            if raw is not None:
                self.raw[name] = raw
            return found
        if self.first_rows is None:
            return streamed_dataset(self.recipe, name, self.root, all_threads(self.recipe), self.watchers)
        store_of(self.recipe)  # a place that cannot be opened is told here too
        limit = min(source.limit or self.first_rows, self.first_rows)
        return read_dataset(name, source.model_copy(update={"limit": limit}), self.root, hashed=False)

    def seed(self, stage: StageFolder) -> int:
        """The stage's own seed: two stages of a run never draw the same numbers, unless they are told to."""
        given = stage.settings.get("seed")
        return seed_for(self.recipe.seed, stage.name if given is None else f"stage seed {given}")

    def stage(self, index: int, name: str, settings: Any, inputs: dict[str, str]) -> StageFolder:
        """The folder of the recipe's stage `index`. How far it gets depends on the budget too."""
        if self.recipe.budget is not None:
            inputs = inputs | {"budget": hash_of(self.recipe.budget.model_dump(mode="json"))}
        made = stage_folder(
            self.folder,
            index + 1,
            name,
            settings.kind,
            settings.model_dump(mode="json"),
            inputs,
            self.recipe.seed,
            self.device,
            all_threads(self.recipe),
            self.watchers,
        )
        made.tidy()
        if made.done:
            made.seconds_before = made.record["seconds"]
        self.stages.append(made)
        return made

    def made(self, stage: StageFolder) -> None:
        """A stage has made a language model."""
        plan = stage.path / "plan.json"  # under a budget, how far it got is no function of its settings
        digest = hash_of({"stage": stage.hash, "plan": read_json(plan)}) if plan.exists() else stage.hash
        self.models[stage.name] = ModelRef(stage.name, stage.path / "model", digest)
        if stage.kind == "pretrain" and self.recipe.base.fresh is not None:
            self.models["base"] = ModelRef("base", stage.path / "model", digest)

    def start(self, init: str | None) -> ModelRef | None:
        """The model a stage starts from; None before anything exists (fresh weights)."""
        if init is not None:
            return self.models[init]
        return list(self.models.values())[-1] if self.models else None

    def load(self, ref: ModelRef, quantize: Quantize | None = None) -> Loaded:
        """The model, checked and on the device; in few bits, if asked."""
        if ref.folder is None:
            return load_model(self.recipe.base, self.root, self.device, quantize, is_masked(self.recipe))
        return load_folder(ref.folder, self.device, self.dtype, quantize)

    @property
    def dtype(self) -> torch.dtype:
        """Arithmetic of matrix products."""
        return compute_dtype(self.recipe.base.dtype, self.device)

    def shown_prompts(self) -> list[Chat]:
        """The held-out prompts whose answers the report shows, the same after every stage: of the first `answers`
        probe, else of data that is made before tuning begins, else of a conversational source. None before that data
        is made: a source's held-out rows may stand among those that were chosen of it."""
        first = made_first(self.recipe.stages)
        if not all(map(self.there, first)):
            return []
        for probe in self.recipe.evaluate.values():
            if isinstance(probe, AnswersProbe) and probe.data in self.recipe.data:
                data = self.dataset(probe.data)
                return chats(data.heldout + data.train)[: self.recipe.samples]
            if isinstance(probe, AnswersProbe) and probe.data in first:
                return chats(self.dataset(probe.data).heldout)[: self.recipe.samples]
        for name in (*first[::-1], *self.recipe.data):
            found = chats(self.dataset(name).heldout)
            if found:
                return found[: self.recipe.samples]
        return []


def measured_rows(context: Context, probe: Probe) -> list[Example]:
    """The rows that a probe measures: none of them may be trained on. Of a source all, or its held-out ones where the
    probe says so; of data that a stage makes the held-out ones, for the others are there to be trained on, and none
    before it is made."""
    if not context.there(probe.data):
        return []
    data = context.dataset(probe.data)
    if isinstance(probe, LossProbe | FillMaskProbe | PseudoPerplexityProbe):
        held = probe.heldout_only
    else:
        held = probe.data not in context.recipe.data
    return data.heldout if held else data.train + data.heldout


def chats(examples: list[Example]) -> list[Chat]:
    """The conversations among some examples."""
    return [example for example in examples if isinstance(example, Chat)]


def asked_prompts(examples: list[Example]) -> list[Chat]:
    """What can be answered among some examples: conversations, and the prompts of pairs (each once)."""
    pairs = {e.prompt: Chat(e.prompt, e.origin) for e in examples if isinstance(e, Pair)}
    return [*chats(examples), *pairs.values()]


def probe_prompts(context: Context, probe: Asking) -> list[Chat]:
    """The first prompts of what a probe measures. UserError where there are none."""
    asked = asked_prompts(measured_rows(context, probe))[: probe.limit]
    if not asked:
        raise UserError(f"evaluate: data.{probe.data} holds no conversations.")
    return asked


def texts(examples: list[Example]) -> list[Text]:
    """The documents among some examples."""
    return [example for example in examples if isinstance(example, Text)]


def renderer_of(loaded: Loaded) -> Renderer:
    """The one renderer of a model."""
    return Renderer(loaded.tokenizer, frozenset(loaded.end_ids))


def open_context(recipe: Recipe, recipe_path: Path, watchers: tuple[Watcher, ...]) -> Context:
    """Sets the device and threads, makes the run's folder. Raises RunError where it cannot be written."""
    device = recipe.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device: cuda is asked for, but torch sees no GPU. Use device: cpu, or see `luthier doctor`.")
    keep_freed_pages()
    torch.set_num_threads(recipe.threads or max(1, all_threads(recipe) // here().on_this_machine))
    folder = Path(recipe.out) / recipe.name
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink()
    context = Context(recipe, recipe_path, folder, device, watchers)
    if recipe.base.model is not None:
        context.models["base"] = ModelRef("base", None, base_hash(recipe, context.root))
    return context


def all_threads(recipe: Recipe) -> int:
    """CPU threads that the run is meant to have, however many processes share them."""
    return recipe.threads or cores()


def base_hash(recipe: Recipe, root: Path) -> str:
    """Hash of the base: of a local folder's files, else of the hub id and revision."""
    assert recipe.base.model is not None
    local = (root / recipe.base.model).expanduser()
    settings = recipe.base.model_dump(mode="json")
    made = {"base": settings, "files": hash_path(local) if local.is_dir() else None}
    if (
        recipe.base.chat_template is not None
    ):  # outside the folder, or before it is asked for: a missing one is told later
        template = (root / recipe.base.chat_template).expanduser()
        made["chat_template"] = hash_path(template) if template.is_file() else None
    return hash_of(made)


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Holds the run's folder, so that two commands never write it at once. The system drops the lock with the
    process, however that ends. Raises RunError when another holds it."""
    if only_reads():
        yield  # the main rank holds it for all
        return
    with disk_errors(folder):
        lock = open(folder / ".lock", "w")  # noqa: SIM115  # held while the block runs, whose errors are not the disk's
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"{folder}: another luthier is at work here. Wait for it, or stop it.") from error
        yield
