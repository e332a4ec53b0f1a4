"""Settings that would have no effect where they stand are refused, with the line of the recipe; and so are a source's
templates that cannot be read."""
# ruff: noqa: E501  # a person reads these lines whole, so they stand here whole

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.base.config import load_recipe, pointed
from luthier.base.errors import UserError
from luthier.base.templates import columns_of, pieces_of

RECIPE = """\
name: support
base: {model: small, fresh: null}
data:
  faq: {path: faq.jsonl}
  docs: docs
stages:
  - {kind: sft, data: faq}
  - {kind: prefer, pairs: faq}
  - {kind: reward}
  - {kind: ppo, prompts: faq}
  - {kind: grpo, prompts: faq, rewards: reward}
"""


def problems(tmp_path, monkeypatch, old, new):
    monkeypatch.chdir(tmp_path)
    assert old in RECIPE
    Path("r.yaml").write_text(RECIPE.replace(old, new, 1))
    with pytest.raises(UserError) as refused:
        load_recipe(Path("r.yaml"), [])
    return refused.value.problems


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("data: faq}", "data: faq, replay: {data: faq}}", "r.yaml:7: stages[0].sft.replay.data: faq is what the stage trains on already. Name another source, or remove replay."),
        ("data: faq}", "data: {faq: 1, docs: 1}, replay: {data: docs}}", "r.yaml:7: stages[0].sft.replay.data: docs is what the stage trains on already. Name another source, or remove replay."),
        ("data: faq}", "data: faq, adapter: prefix, layer_decay: 0.9}", "r.yaml:7: stages[0].sft.layer_decay: is for blocks, and prefix trains none. Remove it."),
        ("data: faq}", "data: faq, adapter: ia3, embedding_lr_frac: 0.1}", "r.yaml:7: stages[0].sft.embedding_lr_frac: is for embeddings, and ia3 trains none. Remove it."),
        ("data: faq}", "data: faq, optimizer: adafactor, betas: [0.9, 0.99]}", "r.yaml:7: stages[0].sft.betas: is for AdamW and Lion; adafactor sets its own. Remove it."),
        ("data: faq}", "data: faq, schedule: constant, final_lr_frac: 0.1}", "r.yaml:7: stages[0].sft.final_lr_frac: is where a schedule ends that goes down, and this one is constant. Remove it."),
        ("pairs: faq}", "pairs: faq, noise: 0.1}", "r.yaml:8: stages[1].prefer.noise: is about answers that are drawn, and pairs are read from faq. Remove it."),
        ("ppo, prompts: faq}", "ppo, prompts: faq, kl_horizon: 9}", "r.yaml:10: stages[3].ppo.kl_horizon: is how fast kl adapts, and it is fixed. Give kl_target, or remove it."),
        ("rewards: reward}", "rewards: reward, kl_corrected: true}", "r.yaml:11: stages[4].grpo.kl_corrected: changes the KL's gradient, and kl is 0. Give kl a weight, or remove it."),
        ("path: faq.jsonl}", 'path: faq.jsonl, prompt: "Say {a"}', "r.yaml:4: data.faq.prompt: \"Say {a\": expected '}' before end of string. Write {{ and }} for braces that are meant."),
        ("path: faq.jsonl}", 'path: faq.jsonl, prompt: "{a}", answer: "{a!r}"}', 'r.yaml:4: data.faq.answer: "{a!r}": braces hold the name of a column and nothing else. Write {{ and }} for braces that are meant.'),
        ("path: faq.jsonl}", "path: faq.jsonl, format: template}", 'r.yaml:4: data.faq.format: is template, and there is none. Give prompt: "Summarise: {text}", for example.'),
        ("path: faq.jsonl}", 'path: faq.jsonl, answer: "{a}"}', "r.yaml:4: data.faq.answer: is the answer to a prompt, which is not given. Give prompt, or remove it."),
        ("path: faq.jsonl}", 'path: faq.jsonl, prompt: "{a}", format: qa}', "r.yaml:4: data.faq.format: is qa, but prompt makes a conversation of any row. Remove one of them."),
    ],
)  # fmt: skip
def test_what_has_no_effect_is_told(old, new, said, tmp_path, monkeypatch):
    assert problems(tmp_path, monkeypatch, old, new) == [said]


def test_what_is_about_a_model_from_outside_is_refused_of_a_fresh_one(tmp_path, monkeypatch):
    base = "{fresh: {}, chat_template: chat.jinja, allow_pickle: true}"
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(
        f"name: a\nbase: {base}\ndata: {{docs: docs}}\nstages:\n  - {{kind: pretrain, data: docs}}\n"
    )
    with pytest.raises(UserError) as refused:
        load_recipe(Path("r.yaml"), [])
    said = "is for a model that exists, and this one is fresh. Remove it."
    assert refused.value.problems == [f"r.yaml:2: base.{name}: {said}" for name in ("allow_pickle", "chat_template")]


def test_a_template_in_pieces():
    assert pieces_of("{{a}} {b c}: {d}{d}!") == [
        ("{", None),
        ("a}", None),
        (" ", "b c"),
        (": ", "d"),
        ("", "d"),
        ("!", None),
    ]
    assert columns_of("{b c}: {d}{d}!") == ["b c", "d"]


def test_what_only_the_model_shows_is_told_with_its_line(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.replace("data: faq}", "data: faq,\n     freeze: {pattern: [a]}}", 1))
    recipe = load_recipe(path, [])
    message = pointed(path, recipe, 0, ("freeze", "pattern"), "names nothing.")
    assert message == f"{path}:8: stages[0].sft.freeze.pattern: names nothing."
    # A comparison's stages are not those of the file: no line is better than another stage's.
    other = recipe.model_copy(update={"stages": recipe.stages[1:]})
    assert pointed(path, other, 0, ("freeze", "pattern"), "names nothing.") == "freeze.pattern: names nothing."
