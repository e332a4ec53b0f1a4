"""A model that a command line names -> something that can be asked.

`demo`, `runs/demo` (the last stage's model), `demo:sft` (another stage's), `demo:base` (what alignment starts from);
a folder in the Hugging Face layout; a hub id, `org/name`; an endpoint, `https://host/v1#model`.
"""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import torch

from luthier.base.errors import UserError, did_you_mean
from luthier.base.files import hash_of, hash_path, read_json
from luthier.base.nouns import Ask, Chat, Message, Reply, Tokens
from luthier.base.recipe import Base
from luthier.base.seeds import seed_for
from luthier.evals.answers import answer_all
from luthier.evals.endpoint import Endpoint, endpoint_of
from luthier.evals.loss import losses
from luthier.model.draw import Sampling
from luthier.model.load import Loaded, compute_dtype, load_folder, load_model
from luthier.model.verify import room_of
from luthier.run.context import renderer_of
from luthier.run.memo import code_hash, find_stage, versions


@dataclass(frozen=True)
class Asking:
    """How subjects are asked. What is below `seed` is for endpoints."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    """0 is greedy."""
    seed: int = 0
    keys: tuple[tuple[str, str], ...] = ()
    """(host, environment variable that holds its key); the host "" stands for all others."""
    timeout_s: float = 60.0
    retries: int = 5
    concurrency: int = 8
    wait: Callable[[float], object] | None = None
    """What passes the time (s) between two tries; default: it is really waited."""


class Nats(NamedTuple):
    """What a model thinks of one given answer."""

    nats: float
    """−log p, summed over its tokens."""
    tokens: int


@dataclass(frozen=True)
class Subject:
    """A model that can be asked."""

    label: str
    """As it was named; beside others, the part of it that tells them apart."""
    named: str
    """As it was named."""
    kind: str
    """"run", "folder", "hub" or "endpoint"."""
    hash: str
    """Of all that decides its answers but the prompts: the model, and how it is asked."""
    ask: Ask
    nats: Callable[[Sequence[Chat]], list[Nats | None]] | None
    """−log p of each conversation's own answer, None where it has none or is too long; no endpoint can say it."""
    notes: Callable[[], list[str]]
    """What a reader should know about how it was asked; complete when it has been."""
    close: Callable[[], None]
    """Frees its memory; it can be asked again, and is loaded anew then."""
    load: Callable[[], Loaded] | None = None
    """The model itself, loaded anew; an endpoint has none to give."""
    model_hash: str = ""
    """Of the model alone, however it is asked."""


def open_subject(name: str, how: Asking = Asking(), device: str = "auto") -> Subject:
    """The model called `name`; nothing is loaded before it is asked. Raises UserError where there is none."""
    if re.match(r"https?:", name):
        return endpoint_subject(name, how)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    sampling = Sampling(how.max_new_tokens, how.temperature, seed=how.seed)
    if (run := run_folder(name)) is not None:
        return run_subject(name, run, None, sampling, device)
    place, _, stage = name.rpartition(":")
    if (run := run_folder(place)) is not None:
        return run_subject(name, run, stage, sampling, device)
    if Path(name).expanduser().is_dir():
        if not (Path(name).expanduser() / "config.json").exists():
            raise UserError(f"{name}: neither a run nor a model: it has no resolved.json and no config.json.")
        base, files = Base(model=name), hash_path(Path(name).expanduser())
        load = lambda: load_model(base, Path(), device)  # noqa: E731
        return local_subject(name, "folder", {"folder": files}, load, sampling, device)
    if is_hub_id(name):
        base = Base(model=name)
        return local_subject(name, "hub", {"hub": name}, lambda: load_model(base, Path(), device), sampling, device)
    raise UserError(not_found(name))


def open_subjects(names: Sequence[str], how: Asking, device: str = "auto") -> list[Subject]:
    """All of them, or every problem at once; and each of them once."""
    found, wrong = [], []
    for name in names:
        try:
            found.append(open_subject(name, how, device))
        except UserError as error:
            wrong += error.problems
    first: dict[str, str] = {}
    for subject in found:
        if subject.hash in first:
            same = first[subject.hash]
            twice = "it is named twice" if same == subject.label else f"it is the same model as {same}"
            wrong.append(f"{subject.label}: {twice}. Name each once.")
        first.setdefault(subject.hash, subject.label)
    if wrong:
        raise UserError(wrong)
    shorter = [short(subject) for subject in found]
    return [
        replace(subject, label=label if shorter.count(label) == 1 else subject.label)
        for subject, label in zip(found, shorter, strict=True)
    ]


def short(subject: Subject) -> str:
    """What a model is called where no other is called so: an endpoint's model, a folder's last part."""
    if subject.kind == "endpoint":
        return subject.label.partition("#")[2]
    return Path(subject.label).name if subject.kind == "folder" else subject.label


def run_folder(name: str) -> Path | None:
    """The folder of a run given by its path or its name."""
    return next((f for f in (Path(name), Path("runs") / name) if name and (f / "resolved.json").exists()), None)


def is_hub_id(name: str) -> bool:
    """Whether a name looks like org/name, and not like a path here."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not Path(name.partition("/")[0]).exists()


def not_found(name: str) -> str:
    """What can be said of a name that nothing has."""
    runs = sorted(str(path.parent) for path in Path("runs").glob("*/resolved.json"))
    beside = [str(path) for path in Path(name).parent.glob("*") if path.is_dir() and (path / "config.json").exists()]
    near = did_you_mean(name, [*runs, *(Path(run).name for run in runs), *beside, "methods", "arena", "ways"])
    there = f" The runs here: {', '.join(runs)}." if runs else ""
    kinds = "A run (runs/demo, demo:sft), a model's folder, org/name of a hub, or https://host/v1#model is wanted."
    return f"{name}: no model of that name.{near}{there} {kinds}"


def endpoint_subject(name: str, how: Asking) -> Subject:
    """A model elsewhere."""
    url, model = endpoint_of(name)
    keys = dict(how.keys)
    key_env = keys.get(urlsplit(url).hostname or "", keys.get(""))
    endpoint = Endpoint(
        url, model, key_env, how.timeout_s, how.retries, how.concurrency, how.max_new_tokens, how.temperature,
        how.seed, how.wait,
    )  # fmt: skip
    asked = {"url": url, "model": model, "asked": [how.max_new_tokens, how.temperature, how.seed]}
    return Subject(name, name, "endpoint", hash_of(asked), endpoint.ask, None, list, lambda: None)


def run_subject(name: str, run: Path, stage: str | None, how: Sampling, device: str) -> Subject:
    """A model of a run: of its last stage, of a stage by name, or the base."""
    resolved = read_json(run / "resolved.json")
    dtype = compute_dtype(resolved["base"]["dtype"], device)
    if stage == "base" and resolved["base"]["fresh"] is None:
        base = Base.model_validate(resolved["base"])
        root = base_root(run, base)
        what = {"base": resolved["base"], "files": hash_path(root / base.model) if root is not None else None}  # type: ignore[operator]
        return local_subject(name, "run", what, lambda: load_model(base, root or Path(), device), how, device)
    if stage == "base":  # what pretraining made of a fresh model
        made = [s.get("name") or s["kind"] for s in resolved["stages"] if s["kind"] == "pretrain"]
        stage = made[-1] if made else stage
    try:
        folder, record = find_stage(run, stage)
    except UserError as error:
        stages = [s.get("name") or s["kind"] for s in resolved["stages"]]
        raise UserError([line + did_you_mean(stage or "", stages) for line in error.problems]) from error
    load = lambda: load_folder(folder / "model", device, dtype)  # noqa: E731
    plan = folder / "plan.json"  # under a budget, how far it got is no function of its settings
    what = {"stage": record["hash"], "plan": read_json(plan) if plan.exists() else None}
    return local_subject(name, "run", what, load, how, device)


def base_root(run: Path, base: Base) -> Path | None:
    """The folder that a run's relative base path starts from, if the base is a local one: nothing keeps where the
    recipe lay, so the places around the run are tried. Raises UserError where a path leads nowhere."""
    assert base.model is not None
    for root in (Path(), *run.resolve().parents):
        if (root / base.model).expanduser().is_dir():
            return root
    if is_hub_id(base.model) or "/" not in base.model:
        return None
    raise UserError(f"{run}: its base, {base.model}, is not found from here. Name its folder instead of {run}:base.")


def local_subject(
    name: str, kind: str, what: dict[str, Any], load: Callable[[], Loaded], how: Sampling, device: str
) -> Subject:
    """A model on this machine."""
    made = {"model": what, "asked": [how.max_new_tokens, how.temperature, how.seed], "device": device}
    digest = hash_of(made | {"versions": versions(), "code": code_hash()})
    model = Local(load, how)
    alone = hash_of({"model": what, "device": device})
    return Subject(name, name, kind, digest, model.ask, model.nats, model.notes, model.close, load, alone)


class Local:
    """A model here: in memory from its first question until it is closed."""

    def __init__(self, load: Callable[[], Loaded], how: Sampling) -> None:
        self.load, self.how = load, how
        self.loaded: Loaded | None = None
        self.plain = False

    def model(self) -> Loaded:
        """The model, loaded now if it is not. Raises UserError where it cannot be, or cannot write."""
        if self.loaded is None:
            self.loaded = self.load()
            if self.loaded.lm.encoder is not None:
                raise UserError("an encoder fills masks and cannot answer. Compare models that write.")
            self.plain = not renderer_of(self.loaded).has_template
        return self.loaded

    def close(self) -> None:
        """Lets go of the model's memory."""
        if self.loaded is None:
            return
        self.loaded = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def notes(self) -> list[str]:
        """How it was asked, where that is not as one would think."""
        words = "it has no chat template: asked in plain text, the last message and a line end"
        return [words] if self.plain else []

    def ask(self, prompts: Sequence[Sequence[Message]]) -> list[Reply]:
        """`Ask`. A prompt that fills the context, or that its template refuses, has its reply's `error`. What is drawn
        for a prompt depends on the prompts that it is asked with."""
        loaded = self.model()
        renderer, room = renderer_of(loaded), room_of(loaded.lm)
        replies: list[Reply | None] = []
        chats = []
        for number, messages in enumerate(prompts):
            try:
                length = len(renderer.prompt(messages, f"prompt {number + 1}"))
            except UserError as error:
                replies.append(Reply("", ended=False, error=error.problems[0].partition(": ")[2]))
                continue
            if length >= room:
                why = f"its prompt of {length} tokens fills the context of {room}"
                replies.append(Reply("", ended=False, error=why))
                continue
            replies.append(None)
            chats.append(Chat(tuple(messages), f"prompt {number + 1}"))
        asked = hash_of([[m.role, m.content] for chat in chats for m in chat.messages])
        how = replace(self.how, seed=seed_for(self.how.seed, asked))  # other prompts, other draws
        answers = iter(answer_all(loaded.lm, renderer, chats, how) if chats else ())
        return [reply or self.said(next(answers)) for reply in replies]

    def said(self, answer: Any) -> Reply:
        """An Answer as a Reply. Its tokens are counted by encoding it again, without its end."""
        assert self.loaded is not None
        ids = self.loaded.tokenizer(answer.text, add_special_tokens=False, verbose=False)["input_ids"]
        return Reply(answer.text, answer.ended, len(ids))

    def nats(self, chats: Sequence[Chat]) -> list[Nats | None]:
        """−log p (nats) of each conversation's answer under the model, with its end where the model has a template."""
        loaded = self.model()
        renderer, room = renderer_of(loaded), room_of(loaded.lm)
        sequences: list[Tokens | None] = []
        for chat in chats:
            if chat.answer is None:
                sequences.append(None)
                continue
            if renderer.has_template:
                made = renderer.completion(chat.prompt, chat.answer, chat.origin)
            else:
                asked = [message.content for message in chat.prompt if message.role == "user"]
                made = renderer.plain(f"{asked[-1]}\n", chat.answer, chat.origin)
            sequences.append(made if len(made.ids) <= room else None)
        kept = [sequence for sequence in sequences if sequence is not None]
        if not kept:
            return [None] * len(chats)
        nats_N, tokens_N = losses(loaded.lm, kept)
        each = iter([Nats(float(nats), int(tokens)) for nats, tokens in zip(nats_N, tokens_N, strict=True)])
        return [None if sequence is None else next(each) for sequence in sequences]


def slug(label: str) -> str:
    """A name for files: letters, digits and dashes."""
    place = label.rpartition("#")[2] if label.startswith("http") else label.removeprefix(f"runs{os.sep}")
    return re.sub(r"[^\w.]+", "-", place).strip("-.")[:40] or "model"
