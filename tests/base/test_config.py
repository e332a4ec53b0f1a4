"""Recipes: what loads, and what a person is told when it does not."""
# ruff: noqa: E501  # a person reads these lines whole, so they stand here whole

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luthier.base.config import Place as YamlPlace
from luthier.base.config import load_function, load_recipe, parse, resolve_path
from luthier.base.errors import UserError
from luthier.base.recipe import Recipe, Sft
from luthier.base.settings import SECTIONS, describe
from luthier.base.tuning import Training

ROOT = Path(__file__).parents[2]

GOOD = """\
name: support
base: models/small
data:
  docs: docs
  faq: {path: faq.jsonl, limit: 9}
  ask: ask.jsonl
stages:
  - kind: pretrain
    data: docs
    epochs: 1
  - kind: sft
    data: {faq: 1, ask: 0.5}
    replay: {data: docs}
  - kind: prefer
    prompts: ask
    rater: package.module:rate
  - kind: reward
    init: sft
  - kind: ppo
    prompts: ask
    init: sft
evaluate:
  answers: {kind: answers, data: ask, after: [base, sft, ppo]}
  forgetting: {kind: loss, data: docs, since: pretrain}
  wins: {kind: win_rate, data: ask, stages: [ppo, sft], rater: "package.module:rate"}
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    """load(text, *overrides): a recipe, or the problems as a list of lines that begin with r.yaml."""
    monkeypatch.chdir(tmp_path)

    def loader(text, *overrides):
        Path("r.yaml").write_text(text)
        try:
            return load_recipe(Path("r.yaml"), overrides)
        except UserError as error:
            return error.problems

    return loader


def replaced(old, new):
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)


def test_a_good_recipe_loads_with_its_shorthands(load):
    recipe = load(GOOD)
    assert recipe.base.model == "models/small"
    assert recipe.data["docs"].path == "docs" and recipe.data["faq"].limit == 9
    assert [stage.kind for stage in recipe.stages] == ["pretrain", "sft", "prefer", "reward", "ppo"]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-3", 0.001), ("1.0e-3", 0.001), (".5", 0.5), ("1e3", 1000), ("-7", -7), ("0x1f", 31), ("0o17", 15),
        ("017", 17), ("1_000", "1_000"), ("1:30", "1:30"), ("no", "no"), ("on", "on"), ("Yes", "Yes"), ("true", True),
        ("False", False), ("~", None), ("null", None), ("", None), ("2024-01-01", "2024-01-01"), ("'1'", "1"), ('"a: b"', "a: b"),
        ("[1, x, {a: no}]", [1, "x", {"a": "no"}]), ("é ☃", "é ☃"), ("&a x", "x"), ("<<", "<<"), ("=", "="),
    ],
)  # fmt: skip
def test_scalars_follow_yaml_1_2(written, value):
    tree = parse(f"a: {written}", "r.yaml", YamlPlace("r.yaml", 0, ()))
    assert tree.value == {"a": value} and not tree.problems
    assert type(tree.value["a"]) is type(value)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(10**9), 10**9)
        | st.floats(-1e9, 1e9)
        | st.text(st.characters(codec="utf-8")),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
        max_leaves=8,
    )
)
def test_json_is_yaml(value):
    """Every JSON text means the same to us as to json.loads (1.0 and 1 are one number)."""
    tree = parse(json.dumps(value, ensure_ascii=True), "r.yaml", YamlPlace("r.yaml", 0, ()))
    if not tree.problems:  # json.dumps writes letters beyond U+FFFF as two halves, which YAML does not join
        assert tree.value == value
    else:
        assert "half a character" in str(tree.problems) or "plain text" in str(tree.problems)


ONE_MISTAKE = [
    ("    epochs: 1\n", "    learnin_rate: 1\n", "r.yaml:10: stages[0].pretrain.learnin_rate: no such setting. Did you mean learning_rate?"),
    ("    epochs: 1\n", "    steps: many\n", 'r.yaml:10: stages[0].pretrain.steps: "many" is not a whole number.'),
    ("    epochs: 1\n", "    steps: 1.5\n", "r.yaml:10: stages[0].pretrain.steps: 1.5 is not a whole number."),
    ("    epochs: 1\n", "    steps: true\n", "r.yaml:10: stages[0].pretrain.steps: true is not a whole number."),
    ("    epochs: 1\n", "    steps: '7'\n", 'r.yaml:10: stages[0].pretrain.steps: "7" is not a whole number. Remove the quotes.'),
    ("    epochs: 1\n", "    epochs: 1\n    steps: 3\n", "r.yaml:11: stages[0].pretrain.steps: is set, and so is epochs (1). Keep one of them."),
    ("    epochs: 1\n", "    rank: 8\n", "r.yaml:10: stages[0].pretrain.rank: no such setting. Did you mean adapter.rank?"),
    ("    epochs: 1\n", "    clip: 1\n", "r.yaml:10: stages[0].pretrain.clip: no such setting. It is a setting of ppo, grpo."),
    ("    epochs: 1\n", "    schedule: cosin\n", 'r.yaml:10: stages[0].pretrain.schedule: "cosin" is not one of cosine, linear, constant, wsd. Did you mean cosine?'),
    ("    epochs: 1\n", "    weight_decay: -1\n", "r.yaml:10: stages[0].pretrain.weight_decay: must be at least 0, not -1."),
    ("    epochs: 1\n", "    betas: [0.9]\n", "r.yaml:10: stages[0].pretrain.betas[1]: is missing."),
    ("    epochs: 1\n", "    betas: [0.9, 1]\n", "r.yaml:10: stages[0].pretrain.betas: must both be at least 0 and below 1, not [0.9, 1.0]."),
    ("    epochs: 1\n", "    learning_rate: .inf\n", "r.yaml:10: stages[0].learning_rate: .inf is not a finite number."),
    ("    epochs: 1\n", "    gradient_checkpointing: yes\n", 'r.yaml:10: stages[0].pretrain.gradient_checkpointing: "yes" is not true or false. Write true.'),
    ("    epochs: 1\n", "    adapter: {targets: 3}\n", "r.yaml:10: stages[0].pretrain.adapter.targets: 3 is not all-linear or a list."),
    ("    epochs: 1\n", "    batch_tokens:\n", "r.yaml:10: stages[0].pretrain.batch_tokens: is empty. Give a whole number, or remove the line."),
    ("    epochs: 1\n", "    data: faq\n", "r.yaml:10: stages[0].data: is set twice, first on line 9. Keep one."),
    ("    init: sft\n  - kind: ppo", "    name: a/b\n  - kind: ppo", 'r.yaml:18: stages[3].reward.name: "a/b" cannot name a folder. Use letters, digits, ".", "_" and "-".'),
    ("name: support", "name: 2024", 'r.yaml:1: name: 2024 is not text. Put it in quotes: "2024".'),
    ("base: models/small", "base: {}", "r.yaml:2: base: names no model. Give model (a folder or a hub id), or fresh for random weights."),
    ("base: models/small", "base: {model: x, fresh: {}}", "r.yaml:2: base: has both model and fresh. Keep one: model to start from weights, fresh to start from nothing."),
    ("base: models/small", "base: {fresh: {width: 64, heads: 5}}", "r.yaml:2: base.fresh.heads: 5 does not divide the width 64. 4 does."),
    ("base: models/small", "base: !!python/name:os.system x", "r.yaml:2: base: tag:yaml.org,2002:python/name:os.system is a YAML tag, which recipes do not use. Remove it."),
    ("    data: docs\n", "    data: dcs\n", 'r.yaml:9: stages[0].pretrain.data: there is no source "dcs" under data. Did you mean docs? The sources: docs, faq, ask.'),
    ("    data: docs\n", "", "r.yaml:8: stages[0].pretrain.data: is missing: Name of a source under `data`, or of a stage that makes data; or several with weights. Add data: …"),
    ("    data: {faq: 1, ask: 0.5}", "    data: {faq: 1, ask: 0}", "r.yaml:12: stages[1].sft.data.ask: has weight 0. Give a weight above 0, or leave the source out."),
    ("    data: {faq: 1, ask: 0.5}", "    data: 5", "r.yaml:12: stages[1].sft.data: 5 is not text or a group of settings."),
    ("    data: {faq: 1, ask: 0.5}", "    data: {faq: x}", 'r.yaml:12: stages[1].sft.data.faq: "x" is not a number.'),
    ("    replay: {data: docs}", "    replay: {data: doks}", 'r.yaml:13: stages[1].sft.replay.data: there is no source "doks" under data. Did you mean docs? The sources: docs, faq, ask.'),
    ("  - kind: sft\n", "  - kind: stf\n", 'r.yaml:11: stages[1]: "stf" is no kind of stage. Did you mean sft? The kinds: pretrain, sft, prefer, reward, ppo, dpo, orpo, simpo, kto, grpo, best_of, synthesise, curate.'),
    ("  - kind: sft\n", "  - name: sft\n", "r.yaml:11: stages[1]: has no kind. Add kind: one of pretrain, sft, prefer, reward, ppo, dpo, orpo, simpo, kto, grpo, best_of, synthesise, curate."),
    ("  - kind: reward\n    init: sft\n", "  - kind: reward\n    init: stf\n", 'r.yaml:18: stages[3].reward.init: no stage "stf" is made before this one. Did you mean sft? There are: base, pretrain, sft.'),
    ("  - kind: reward\n    init: sft\n", "  - kind: reward\n    init: prefer\n", "r.yaml:18: stages[3].reward.init: prefer is a prefer stage, which makes no language model. Those that do: base, pretrain, sft."),
    ("  - kind: reward\n    init: sft\n", "", "r.yaml:17: stages[3]: needs a reward model. Put a stage of kind reward before it."),
    ("    rater: package.module:rate\n", "", "r.yaml:14: stages[2]: has prompts, but no rater. Give rater: path/file.py:name."),
    ("    rater: package.module:rate\n", "    rater: rate.py\n", 'r.yaml:16: stages[2].prefer.rater: "rate.py" is not path/file.py:name or package.module:name.'),
    ("    rater: package.module:rate\n", "    rater: rate.py:rate\n", "r.yaml:16: stages[2].prefer.rater: rate.py: no such file."),
    ("    prompts: ask\n    rater: package.module:rate\n", "    pairs: fak\n", 'r.yaml:15: stages[2].prefer.pairs: there is no source "fak" under data. Did you mean faq? The sources: docs, faq, ask.'),
    ("    prompts: ask\n    rater", "    pairs: faq\n    rater", "r.yaml:16: stages[2].prefer.rater: is not used, since pairs are read from faq. Remove one of the two."),
    ("after: [base, sft, ppo]", "after: [base, reward]", "r.yaml:23: evaluate.answers.answers.after[1]: reward is a reward stage, which makes no language model. Those that do: base, pretrain, sft, ppo."),
    ("since: pretrain", "since: pretran", 'r.yaml:24: evaluate.forgetting.loss.since: no stage "pretran" is in this recipe. Did you mean pretrain? There are: base, pretrain, sft, ppo.'),
    ("stages: [ppo, sft]", "stages: [ppo, ppo]", "r.yaml:25: evaluate.wins.win_rate.stages: compares ppo with itself. Name two stages: [new, old]."),
    ("kind: win_rate", "kind: winrate", 'r.yaml:25: evaluate.wins: "winrate" is no kind of probe. Did you mean win_rate? The kinds: choices, answers, loss, win_rate, fill_mask, pseudo_perplexity, alignment, cloze, consistency, hallucination, mistakes.'),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "told"), ONE_MISTAKE, ids=[new.strip() or f"no {old.strip()}" for old, new, _ in ONE_MISTAKE])  # fmt: skip
def test_one_mistake_is_told_on_its_line(load, old, new, told):
    assert load(replaced(old, new)) == [told]


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(load):
    text = GOOD.replace("support", "[1]").replace("epochs: 1", "epoch: 1").replace("limit: 9", "limit: 0")
    problems = load(text.replace("kind: loss", "kind: los"), "seed=x")
    assert [line.split(": ")[0] for line in problems] == [
        "r.yaml:1",
        "r.yaml:5",
        "r.yaml:10",
        "r.yaml:24",
        "--set seed=x",
    ]


def test_two_stages_of_one_kind_must_be_named(load):
    again = "  - {kind: sft, data: faq}\nevaluate:\n"
    assert load(replaced("evaluate:\n", again)) == [
        "r.yaml:22: stages[5].sft.name: sft is also the name of stages[1]. "
        "Name them: name: sft-1 and name: sft-2, for example."
    ]
    assert isinstance(load(replaced("evaluate:\n", again.replace("data: faq", "data: faq, name: polish"))), Recipe)


def test_a_fresh_base_is_pretrained_first(load):
    fresh = replaced("base: models/small", "base: {fresh: {}}")
    assert isinstance(load(fresh), Recipe)
    first = fresh.replace("  - kind: pretrain\n    data: docs\n    epochs: 1\n", "").replace(", since: pretrain", "")
    assert load(first) == ["r.yaml:8: stages[0]: is sft, but a fresh base knows nothing. Put a pretrain stage first."]


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        ("", "r.yaml: is empty."),
        ("# nothing\n", "r.yaml: is empty."),
        ("- 1", "r.yaml: is not a group of settings."),
        ("name: x\nbase: a: b", "r.yaml:2: not valid YAML: mapping values are not allowed here."),
        ("name: x\nstages:\n\t- kind: sft", "r.yaml:3: not valid YAML: found character '\\t'"),
        ("name: x\nstages: [", "r.yaml:2: not valid YAML:"),
        ("name: *who", "r.yaml:1: not valid YAML: found undefined alias"),
        ("a: 1\n---\nb: 1", "r.yaml:2: not valid YAML:"),
        ("x: &a [*a]", "r.yaml:1: is nested too deeply, or refers to itself."),
        ("[" * 5000, "r.yaml: not valid YAML: nested too deeply."),
        ("\n".join(["a: &a0 [x, x, x, x]", *(f"k{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9))]), "r.yaml:"),
        ('name: "\\UFFFFFFFF"', "r.yaml: not valid YAML:"),
        ("name: \x07", "r.yaml: not valid YAML:"),
        ("{{name}}: x", "r.yaml:1: a setting's name is plain text."),
    ],
)  # fmt: skip
def test_what_is_no_recipe_is_one_clear_line(load, text, begins):
    problems = load(text)
    assert any(problem.startswith(begins) for problem in problems), problems


def test_files_that_cannot_be_a_recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_bytes(b"\xff\xfe\x00\x01")
    (tmp_path / "weights.bin").write_bytes(bytes(2_000_000))

    def told(name):
        with pytest.raises(UserError) as caught:
            load_recipe(tmp_path / name)
        return str(caught.value)

    assert "not UTF-8" in told("recipe.yaml")
    assert told("recip.yaml").endswith("no such file. Did you mean recipe.yaml?")
    assert told(".").endswith("is a folder. Name the recipe in it: recipe.yaml.")
    assert "too large" in told("weights.bin")
    assert "no such file" in told("not/here.yaml")
    assert "cannot be read" in told("a\0b")


def test_overrides_reach_every_corner(load):
    recipe = load(
        GOOD,
        "seed=7",
        "name=other",
        "stages.sft.learning_rate=1e-4",
        "stages.0.steps=10",  # takes the place of the file's epochs
        "stages.sft.adapter.rank=4",  # there was no adapter
        "stages.sft.data={faq: 2}",
        "stages.ppo.betas=[0.8, 0.9]",
        "stages.ppo.betas.1=0.99",
        "data.docs.limit=5",  # docs was a plain text
        "data.new=more.jsonl",
        "evaluate.answers.after.1=pretrain",
        "base=elsewhere",
    )
    assert (recipe.seed, recipe.name, recipe.base.model) == (7, "other", "elsewhere")
    pretrain, sft, _, _, ppo = recipe.stages
    assert (pretrain.steps, pretrain.epochs) == (10, None)
    assert (sft.learning_rate, sft.adapter.rank, sft.data) == (1e-4, 4, {"faq": 2})
    assert ppo.betas == (0.8, 0.99)
    assert recipe.data["docs"].limit == 5 and recipe.data["new"].path == "more.jsonl"
    assert recipe.evaluate["answers"].after == ["base", "pretrain", "ppo"]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("stages.sft.learnin_rate=1", "no such setting. Did you mean learning_rate?"),
        ("stages.sft.steps=many", '"many" is not a whole number.'),
        ("stages.stf.steps=1", "there is no stage stf. Did you mean sft? The stages: pretrain, sft, prefer, reward, ppo."),
        ("stages.9.steps=1", "there is no stage 9. The stages: pretrain, sft, prefer, reward, ppo."),
        ("data.faqs.limit=1", "there is no faqs under data. Did you mean faq? There are: docs, faq, ask."),
        ("seed", "write setting=value, for example seed=1 or stages.sft.steps=100."),
        ("=1", "write setting=value, for example seed=1 or stages.sft.steps=100."),
        ("a..b=1", "write setting=value, for example seed=1 or stages.sft.steps=100."),
        ("seed.x=1", "seed: a group of settings is not a whole number."),
        ("name.x=1", "name is 'support', which has no settings of its own."),
        ("base.frsh.layers=1", "base.frsh: no such setting. Did you mean fresh?"),
        ("data.faq={path: a, limt: 1}", "data.faq.limt: no such setting. Did you mean limit?"),
        ("stages.sft.data=fak", 'there is no source "fak" under data. Did you mean faq? The sources: docs, faq, ask.'),
        ("seed=[", "not valid YAML: expected the node content, but found '<stream end>'."),
        ("seed=-1", "must be at least 0, not -1."),
    ],
)  # fmt: skip
def test_a_wrong_override_is_told_by_its_own_words(load, override, told):
    assert load(GOOD, override) == [f"--set {override}: {told}"]


def test_an_override_must_say_which_of_two_stages(load):
    text = replaced("evaluate:\n", "  - {kind: sft, data: faq, name: polish}\nevaluate:\n")
    assert load(text, "stages.sft.steps=1") == [
        "--set stages.sft.steps=1: 2 stages are called sft. Say which: stages.1, stages.5."
    ]
    assert load(text, "stages.polish.steps=3").stages[5].steps == 3


def loads_or_tells(path, overrides=()):
    """Anything at all gives a recipe or a UserError whose lines are lines."""
    try:
        recipe = load_recipe(path, overrides)
    except UserError as error:
        assert error.problems and all("\n" not in line for line in error.problems), error.problems
    else:
        assert isinstance(recipe, Recipe)
        for stage in recipe.stages:
            if isinstance(stage, Training):
                assert math.isfinite(stage.learning_rate)


fuzz = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
WORD = st.sampled_from(
    ["name", "base", "data", "stages", "evaluate", "kind", "sft", "ppo", "prefer", "steps", "path", "model", "fresh", "null",
     "- ", ": ", "[", "]", "{", "}", "&a ", "*a", "\n", "\n  ", "\n    ", "'", '"', "|", ">", "!!", "? ", "#", "%", "\t", "1e999",
     "0x", "~", "---", ",", "<<", "\\", "true", "-1", "1.5", "9" * 400, "\u2028", "\x85", "é"]
)  # fmt: skip


@fuzz
@given(text=st.text() | st.lists(WORD, max_size=30).map("".join))
def test_any_text_is_a_recipe_or_a_clear_error(tmp_path, text):
    path = tmp_path / "r.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
    loads_or_tells(path)


@fuzz
@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_recipe_or_a_clear_error(tmp_path, data):
    (tmp_path / "r.yaml").write_bytes(data)
    loads_or_tells(tmp_path / "r.yaml")


@fuzz
@given(edits=st.lists(st.tuples(st.integers(0, len(GOOD)), st.integers(0, 12), WORD), min_size=1, max_size=3))
def test_a_recipe_with_slips_is_a_recipe_or_a_clear_error(tmp_path, edits):
    text = GOOD
    for at, length, word in edits:
        text = text[:at] + word + text[at + length :]
    (tmp_path / "r.yaml").write_text(text, newline="")
    loads_or_tells(tmp_path / "r.yaml")


KEYS = st.sampled_from(["name", "base", "data", "stages", "evaluate", "sft", "ppo", "0", "9", "faq", "model", "fresh", "steps",
                        "betas", "after", "answers", "kind", "replay", "adapter", "²", "-1", ""]) | st.text(max_size=3)  # fmt: skip


@fuzz
@given(overrides=st.lists(
    st.builds("{}={}".format, st.lists(KEYS, min_size=1, max_size=4).map(".".join), WORD | st.text(max_size=6)) | st.text(), max_size=3
))  # fmt: skip
def test_any_override_is_taken_or_told(tmp_path, overrides):
    (tmp_path / "r.yaml").write_text(GOOD)
    loads_or_tells(tmp_path / "r.yaml", overrides)


def test_paths_start_from_the_recipe(tmp_path):
    assert resolve_path(tmp_path / "r.yaml", "a/b.txt") == tmp_path / "a/b.txt"
    assert resolve_path(tmp_path / "r.yaml", "/x") == Path("/x")
    assert resolve_path(tmp_path / "r.yaml", "~/x") == Path.home() / "x"


def test_functions_come_from_files_and_modules(tmp_path):
    (tmp_path / "rater.py").write_text(
        "from dataclasses import dataclass\n\n@dataclass\nclass Held:\n    x: int\n\n"
        "def rate(messages, answer):\n    return len(answer)\n\nLIMIT = 3\n"
    )
    assert load_function("rater.py:rate", tmp_path / "r.yaml")([], "four") == 4
    assert load_function("rater.py:rate", tmp_path) is load_function("./rater.py:rate", tmp_path)
    assert load_function("statistics:mean", tmp_path)([1, 2, 3]) == 2


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("rater.py:rat", "rater.py:rat: rat is not there. Did you mean rate? The functions in rater.py: rate."),
        ("rater.py:LIMIT", "rater.py:LIMIT: LIMIT is not a function. The functions in rater.py: rate."),
        ("ratr.py:rate", "ratr.py: no such file. Did you mean rater.py?"),
        ("rater.py", '"rater.py" is not path/file.py:name or package.module:name.'),
        ("no.such.module:rate", "no.such.module: there is no module no here. For a file, write path/file.py:name."),
        ("broken.py:rate", "{folder}/broken.py:2: ZeroDivisionError: division by zero."),
        ("wrong.py:rate", "{folder}/wrong.py:1: invalid syntax."),
        ("leaves.py:rate", "{folder}/leaves.py:1: SystemExit: 3."),
    ],
)
def test_a_function_that_is_not_there_is_told(tmp_path, spec, told):
    (tmp_path / "rater.py").write_text("def rate(messages, answer):\n    return 1.0\n\nLIMIT = 3\n")
    (tmp_path / "broken.py").write_text("def rate(m, a): ...\n1 / 0\n")
    (tmp_path / "wrong.py").write_text("def\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(UserError) as caught:
        load_function(spec, tmp_path)
    assert str(caught.value) == told.format(folder=tmp_path)


def test_every_setting_says_what_it_is():
    silent = [f"{name}.{row.field}" for name, (_, model) in SECTIONS.items() for row in describe(model) if not row.help]
    assert not silent


def test_a_row_of_the_reference():
    rows = {row.field: row for row in describe(Sft)}
    assert rows["steps"] == ("steps", "whole number ≥ 1", "", "Optimizer steps.")
    assert rows["schedule"].type == "cosine | linear | constant | wsd" and rows["schedule"].default == "cosine"
    assert rows["data"].type == "text or {name: number}" and rows["data"].default == "required"
