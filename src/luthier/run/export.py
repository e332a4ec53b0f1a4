"""Out of the house: a finished model as a Hugging Face folder or a GGUF file, with the proof that it is the same model.

The export certificate compares four things on the run's own prompts, by log-probs and by greedy tokens: what was
trained (base and adapter apart), what was merged, what was exported and read back, and the chat template byte for byte.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from luthier.base.errors import RunError, UserError
from luthier.base.files import disk_errors, new_folder, read_json, write_json, write_text
from luthier.base.nouns import Message, Tokens
from luthier.base.recipe import Recipe
from luthier.base.tuning import Quantize
from luthier.generate import sample
from luthier.model.adapt import load_adapter, takes
from luthier.model.carried import kinds
from luthier.model.draw import Sampling
from luthier.model.gguf import Bits, read_gguf, refusal, require_gguf, rounded, write_gguf
from luthier.model.load import Loaded, load_folder, load_model, wrap
from luthier.model.score import score
from luthier.run.context import Context, base_hash, renderer_of
from luthier.run.greedy import MOST_NATS, same_answers
from luthier.run.memo import find_stage
from luthier.tokens.pack import forest
from luthier.tokens.tokenizer import CHATML

PROMPTS, NEW_TOKENS = 8, 24


class Line(NamedTuple):
    """One line of the certificate."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class Account:
    """What a model says: greedy tokens behind each prompt, and the log-probs (nats) of given continuations."""

    words: list[tuple[int, ...]]
    logp_M: torch.Tensor


def export_model(run: Path, stage: str | None, to: str, bits: Bits, out: Path | None) -> tuple[Path, list[Line]]:
    """Writes the model of a finished stage; (where it is, its certificate). `to` is hf or gguf. Raises UserError where
    it cannot be written like this, RunError where what was written is not what was trained: nothing is left then."""
    folder, record = find_stage(run, stage)
    target = out or run / "export" / f"{record['name']}-{bits if to == 'gguf' else 'hf'}"
    if (file := next((place for place in (target, *target.parents) if place.is_file()), None)) is not None:
        raise UserError(f"--out: {target}: {file} is a file. Give a folder.")
    if to == "gguf":
        require_gguf()
    if target.exists() and any(target.iterdir()):
        raise UserError(f"--out: {target}: is there already and is not empty. Remove it, or give another.")
    merged = load_folder(folder / "model", "cpu", torch.float32)
    if merged.lm.encoder is not None and to == "gguf":
        raise UserError(f"{record['name']}: an encoder is not written as GGUF. Use --to hf.")
    prompts = prompts_of(folder, merged)
    said = account(merged, prompts, None)
    lines = [
        *trained_line(run, folder, record, merged, prompts, said),
        Line("merged", True, f"the model in {folder / 'model'}"),
    ]
    with disk_errors(target), new_folder(target) as place:
        if to == "hf":
            shutil.copytree(folder / "model", place, dirs_exist_ok=True)
            lines += same_lines(load_folder(place, "cpu", torch.float32), merged, prompts, said)
        else:
            lines += write_file(merged, place, bits, f"{run.name}-{record['name']}", prompts, said)
        write_json(place / "certificate.json", [line._asdict() for line in lines])
        if bad := [line for line in lines if not line.ok]:
            raise RunError("\n".join(f"export certificate: {line.name}: {line.detail}" for line in bad))
    return target, lines


def prompts_of(folder: Path, loaded: Loaded) -> list[tuple[int, ...]]:
    """Prompts of the stage's own samples, as ids; where it has none, the first tokens of the vocabulary."""
    renderer = renderer_of(loaded)
    samples = folder / "samples.jsonl"
    told = samples.read_text().splitlines()[:PROMPTS] if samples.exists() and loaded.lm.encoder is None else []
    rows = [json.loads(line) for line in told]
    asked = [tuple(renderer.prompt([Message("user", row["prompt"])])) for row in rows]
    made = [tuple(range(3, 3 + n)) for n in (9, 17, 33)]
    return [ids for ids in (*asked, *made) if len(ids) < loaded.context]


@torch.no_grad()
def account(loaded: Loaded, prompts: Sequence[tuple[int, ...]], given: Account | None) -> Account:
    """The model's own greedy answers, and its log-probs of those of `given` (of its own, without)."""
    lm = replace(loaded.lm, dtype=torch.float32)
    lm.module.eval()
    if lm.encoder is not None:
        rows = [Tokens(ids, (1.0,) * len(ids), "certificate") for ids in prompts]
        return Account([()] * len(prompts), score(lm, forest(rows, min_shared=10**9)))
    ends = sorted(renderer_of(loaded).end_ids)
    found = sample(lm, prompts, Sampling(NEW_TOKENS, temperature=0), ends, lambda ids: "")
    words = [tuple(one.ids) for (one,) in found]
    follow = words if given is None else given.words
    rows = [
        Tokens(prompt + answer, (0.0,) + (1.0,) * (len(prompt) + len(answer) - 1), "certificate")
        for prompt, answer in zip(prompts, follow, strict=True)
    ]
    return Account(words, torch.cat([score(lm, forest([row])) for row in rows]))


def gap(one: Account, other: Account) -> float:
    """Largest difference of a log-prob in nats."""
    return float((one.logp_M - other.logp_M).abs().max())


def trained_line(
    run: Path, folder: Path, record: dict[str, Any], merged: Loaded, prompts: Sequence[tuple[int, ...]], said: Account
) -> list[Line]:
    """Base and adapter, put together again from their folders, beside the merged model."""
    adapter = folder / "adapter"
    if not adapter.is_dir():
        return []
    held = record["settings"].get("quantize")
    base = base_of(run, record, Quantize(**held) if held else None)
    if base is None:
        return [
            Line("adapter", True, "not compared: the model it was trained on is not there any more, or has changed")
        ]
    lm = base.lm
    if not takes(lm, adapter):
        return [Line("adapter", True, "not compared: its base is another size")]
    # It ends answers as what was trained does: its base may have known no conversations.
    whole = replace(merged, lm=load_adapter(lm, "exported", adapter))
    found = account(whole, prompts, said)
    largest, same = gap(found, said), same_answers(whole.lm, prompts, found.words, said.words)
    on = f"on its base{' in ' + held['kind'] if held else ''}"
    ok = largest <= MOST_NATS and same.ok
    return [Line("adapter", ok, f"adapter {on} = merged: {largest:.1g} nats, {same.words}")]


def base_of(run: Path, record: dict[str, Any], quantize: Quantize | None) -> Loaded | None:
    """The model that a stage's adapter was trained on, with the tokens it had then; None where it is not to be had."""
    wanted = record["inputs"].get("model")
    current = read_json(run / "current.json")
    for name in current["stages"]:
        file = run / name / "stage.json"
        if file.exists() and read_json(file)["hash"] == wanted and (run / name / "model").is_dir():
            return load_folder(run / name / "model", "cpu", torch.float32, quantize)
    recipe = Recipe.model_validate(read_json(run / "resolved.json"))
    if recipe.base.model is None or "root" not in current:
        return None
    root = Path(current["root"])
    return load_model(recipe.base, root, "cpu", quantize) if base_hash(recipe, root) == wanted else None


def same_lines(
    exported: Loaded, merged: Loaded, prompts: Sequence[tuple[int, ...]], said: Account, price: bool = True
) -> list[Line]:
    """What was read back beside what was merged; the template byte for byte."""
    found = account(exported, prompts, said)
    largest, same = gap(found, said), same_answers(merged.lm, prompts, found.words, said.words)
    words = f"{largest:.1g} nats on {len(prompts)} prompts, {same.words}"
    template = exported.tokenizer.chat_template == merged.tokenizer.chat_template
    ids = [merged.tokenizer.encode(text) == exported.tokenizer.encode(text) for text in TEXTS]
    return [
        Line("exported", not price or (largest <= MOST_NATS and same.ok), f"exported = merged: {words}"),
        Line("template", template, "byte for byte" if template else "differs from the one that was trained with"),
        Line("tokenizer", all(ids), f"the same ids for {sum(ids)} of {len(TEXTS)} texts"),
    ]


TEXTS = (
    "Hello, world!",
    "  two  spaces, a\ttab\nand a new line",
    "naïve café — 数字 1234567890, ½ of 3.14; it's O'Neil's",
    "<|im_start|>user\nWho?<|im_end|>\n",
    "def f(x):\n    return x ** 2  # \U0001f600",
)
"""What a tokenizer that was read back is asked."""


def write_file(
    merged: Loaded, place: Path, bits: Bits, name: str, prompts: Sequence[tuple[int, ...]], said: Account
) -> list[Line]:
    """A GGUF file and a Modelfile; read back through transformers. In fewer bits than the weights have, the file is
    right when it is the merged model with its weights rounded; what that costs is told."""
    core, tokenizer = merged.lm.core, merged.tokenizer
    file = place / f"{name}.gguf"
    held = write_gguf(core, tokenizer, file, bits, name, merged.context)
    write_text(place / "Modelfile", modelfile(merged, file.name))
    read, its_tokenizer = read_gguf(file)
    exported = wrap(read, its_tokenizer, "cpu", torch.float32)
    exported = replace(exported, end_ids=merged.end_ids)
    lines = [Line("held as", True, ", ".join(f"{count} tensors in {kind}" for kind, count in sorted(held.items())))]
    if bits == "f32":
        return lines + same_lines(exported, merged, prompts, said)
    near = replace(merged, lm=replace(merged.lm, module=copy.deepcopy(core)))
    rounded(near.lm.core, bits)
    expected = account(near, prompts, said)
    found = account(exported, prompts, said)
    largest, same = gap(found, expected), same_answers(exported.lm, prompts, found.words, expected.words)
    detail = f"file = weights rounded to {bits}: {largest:.1g} nats, {same.words}"
    lines.append(Line("file", largest <= MOST_NATS and same.ok, detail))
    equal = sum(a == b for a, b in zip(found.words, said.words, strict=True))
    mean = float((found.logp_M - said.logp_M).mean())
    which = "worse" if mean <= 0 else "better"
    cost = f"{bits} beside float32: {abs(mean):.2g} nats a token {which}, at most {gap(found, said):.2g} apart; "
    lines.append(Line("price", True, cost + f"{equal} of {len(prompts)} greedy answers equal"))
    return lines + same_lines(exported, merged, prompts, said, price=False)[1:]


def modelfile(merged: Loaded, file: str) -> str:
    """What `ollama create NAME -f Modelfile` reads. Ollama takes a template in Go's language: ChatML's is given here,
    any other is in the GGUF file as it was trained with."""
    lines = [f"FROM ./{file}"]
    if (merged.tokenizer.chat_template or "").endswith(CHATML):
        lines += [
            'TEMPLATE """{{- range .Messages }}<|im_start|>{{ .Role }}',
            "{{ .Content }}<|im_end|>",
            "{{ end }}<|im_start|>assistant",
            '"""',
        ]
    elif merged.tokenizer.chat_template:
        lines.append("# The chat template that the model was trained with is in the file (tokenizer.chat_template).")
    stops = [merged.tokenizer.convert_ids_to_tokens(i) for i in sorted(renderer_of(merged).end_ids)]
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    return "\n".join([*lines, f"PARAMETER num_ctx {merged.context}", ""])


def check_exports(context: Context, recipe: Recipe) -> None:
    """Says before any training what could not be exported at its end. Raises UserError."""
    if not recipe.export:
        return
    require_gguf()
    fresh = recipe.base.fresh
    if fresh is not None and fresh.shape == "encoder":
        raise UserError("export: an encoder is not written as GGUF. Remove it: the Hugging Face folder is made anyway.")
    carried = ("bottleneck", "prompt", "prefix", "p_tuning")
    for index, stage in enumerate(recipe.stages):
        adapter = stage.model_dump().get("adapter")
        if adapter and adapter["kind"] in carried and stage.kind != "reward":
            raise UserError(
                f"export: stages[{index}] trains a {adapter['kind']} adapter, which stays beside the weights, and GGUF "
                "holds weights only. Use another adapter, or remove export."
            )
    if fresh is None:
        loaded = context.load(context.models["base"])
        why = refusal(loaded.lm.core.config, loaded.tokenizer)
        if why is None and kinds(loaded.lm.core):
            why = "it carries adapters beside its weights, and GGUF holds weights only"
        if why is not None:
            raise UserError(
                f"export: {recipe.base.model}: {why}. Remove export: the Hugging Face folder is made anyway."
            )


def export_all(context: Context, recipe: Recipe) -> list[dict[str, Any]]:
    """What the recipe asks for, of the last model made; what is there already is kept."""
    told = []
    for kind in recipe.export:
        bits: Any = kind.removeprefix("gguf-")
        folder, record = find_stage(context.folder, None)
        target = context.folder / "export" / f"{folder.name}-{bits}"
        if not (target / "certificate.json").exists():
            export_model(context.folder, record["name"], "gguf", bits, target)
        lines = read_json(target / "certificate.json")
        told.append({"kind": kind, "folder": str(target.relative_to(context.folder)), "certificate": lines})
    return told
