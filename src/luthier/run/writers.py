"""Who writes and who grades the rows that a stage makes: a model elsewhere or here, with what it replied before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from luthier.base.abilities import is_endpoint
from luthier.base.files import hash_of
from luthier.base.functions import resolve_path
from luthier.base.nouns import Ask
from luthier.base.synthesis import Synthesise
from luthier.data.synthesis.means import Draw
from luthier.evals.endpoint import Endpoint, endpoint_of, is_here
from luthier.model.draw import Sampling
from luthier.model.load import Loaded
from luthier.run.asked import remembering
from luthier.run.context import Context
from luthier.run.paying import Meter, paid
from luthier.run.subjects import Local, Subject, open_subject, slug

AT_ONCE = 16
"""Prompts that a model here answers together, before their replies are written to disk."""


@dataclass(frozen=True)
class Writer:
    """A model that is asked."""

    name: str
    """What rows say of it: an endpoint's model, else as the recipe names it."""
    url: str | None
    """Where it is asked; None: here, in this process."""
    hash: str
    """Of the model."""
    draw: Callable[[float, int, int], Ask]
    """(temperature, most tokens, number of the draw) -> someone who can be asked."""

    @property
    def leaves(self) -> bool:
        """Whether what it is asked leaves this machine."""
        return self.url is not None and not is_here(self.url)


def writer_of(context: Context, stage: Synthesise, name: str, meter: Meter, progress: Callable[[int], None]) -> Writer:
    """The model called `name` in the recipe. Raises UserError where there is none, or an endpoint's key is missing."""
    asked, called = context.folder / "asked", stage.name or stage.kind
    if is_endpoint(name):
        url, model = endpoint_of(name)

        def draw(temperature: float, tokens: int, number: int) -> Ask:
            seed = context.recipe.seed + number
            endpoint = Endpoint(
                url, model, stage.key_env, stage.timeout_s, stage.retries, stage.concurrency, tokens, temperature, seed
            )
            key = hash_of([url, model, tokens, temperature, seed])
            return paid(endpoint, asked / f"{slug(name)}-{key[:8]}.jsonl", meter, called, progress)

        return Writer(model, url, hash_of([url, model]), draw)
    digest, load = local_model(context, name)
    loaded = cache(load)

    def here(temperature: float, tokens: int, number: int) -> Ask:
        how = Sampling(tokens, temperature, seed=context.recipe.seed + number)
        file = asked / f"{slug(name)}-{hash_of([digest, tokens, temperature, how.seed])[:8]}.jsonl"
        seen = 0

        def more(done: int, of: int) -> None:
            nonlocal seen
            progress(max(0, done - seen))
            seen = done if done < of else 0  # the next prompts are counted from 0

        return remembering(Local(loaded, how).ask, file, AT_ONCE, more)

    return Writer(name, None, digest, here)


def local_model(context: Context, name: str) -> tuple[str, Callable[[], Loaded]]:
    """(hash, how it is loaded) of a stage's model, the base, a run or a folder; folders from the recipe's on."""
    if name in context.models:
        ref = context.models[name]
        return ref.hash, lambda: context.load(ref)
    subject = subject_of(context, name)
    assert subject.load is not None
    return subject.model_hash, subject.load


def subject_of(context: Context, name: str) -> Subject:
    """A run or a folder, as seen from the recipe's folder or from here. Raises UserError where there is none."""
    beside = resolve_path(context.recipe_path, name)
    return open_subject(str(beside) if (beside / "config.json").exists() else name, device=context.device)


def draws(writer: Writer, stage: Synthesise) -> Draw:
    """The one who writes, at the recipe's temperature."""
    made: dict[int, Ask] = {}

    def draw(number: int) -> Ask:
        if number not in made:
            made[number] = writer.draw(stage.temperature, stage.max_new_tokens, number)
        return made[number]

    return draw
