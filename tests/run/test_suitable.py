"""Sources that do not hold what a stage or a probe asks of them, and programs that are not there or fail: told before
anything trains where it can be, in one line, with nothing lost."""

from __future__ import annotations

import pytest

from luthier.base.config import load_rater, load_recipe
from luthier.base.errors import RunError, UserError
from luthier.base.nouns import Message
from luthier.base.recipe import Pretrain
from luthier.run.shards import rules_of
from luthier.run.stages import check_recipe
from run.small import questions, run_small, small_world, write_rows

RECIPE = """\
name: small
threads: 1
base:
  fresh: {layers: 1, width: 16, heads: 2, vocab: 300, context: 96}
data:
  corpus: {path: corpus.jsonl, format: text}
  questions: {path: questions.jsonl, format: qa}
  pairs: {path: pairs.jsonl}
stages:
  - {kind: pretrain, data: corpus, steps: 1, batch_tokens: 256}
"""
RATER = """
def rate(messages, answer):
    return len(answer)

def broken(messages, answer):
    return 1 / 0

def nothing(messages, answer):
    return None
"""


@pytest.fixture
def world(tmp_path):
    """A small world with pairs, and raters that fail."""
    recipe = small_world(tmp_path / "world")
    pairs = [{"prompt": q["question"], "chosen": q["answer"], "rejected": "No."} for q in questions(range(30))]
    write_rows(recipe.parent / "pairs.jsonl", pairs)
    (recipe.parent / "rater.py").write_text(RATER)
    return recipe


CASES = {
    "tuning on pairs": (
        "- {kind: sft, data: pairs}",
        "stages[1].sft: data.pairs was read as pairs (pairs.jsonl:1). Give documents",
    ),
    "replay of pairs": (
        "- {kind: sft, data: questions, replay: {data: pairs}}",
        "stages[1].sft: data.pairs was read as pairs (pairs.jsonl:1). Give documents",
    ),
    "prompts that are documents": (
        "- {kind: grpo, prompts: corpus, rewards: 'luthier.evals.gsm8k:answer_is_right'}",
        "stages[1].grpo: data.corpus was read as text (corpus.jsonl:1), and no prompt to answer is among",
    ),
    "a rater that is not there": (
        "- {kind: prefer, prompts: questions, rater: 'rater.py:rat'}",
        "stages[1].prefer.rater: rater.py:rat: rat is not there. Did you mean rate?",
    ),
    "choices of documents": (
        "evaluate: {p: {kind: choices, data: corpus}}",
        "evaluate.p: data.corpus was read as text (corpus.jsonl:1), and choices asks multiple choice",
    ),
    "questions of documents": (
        "evaluate: {p: {kind: answers, data: corpus}}",
        "evaluate.p: data.corpus was read as text (corpus.jsonl:1), and answers asks questions",
    ),
    "loss of pairs": (
        "evaluate: {p: {kind: loss, data: pairs}}",
        "evaluate.p: data.pairs was read as pairs (pairs.jsonl:1), and loss reads documents or conversations",
    ),
    "nothing held out": (
        "evaluate: {p: {kind: loss, data: corpus}}",
        "evaluate.p: data.corpus has no held-out rows to measure. Raise its heldout",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_suit_is_told_before_anything_trains(case, world, tmp_path):
    words, said = CASES[case]
    text = RECIPE + (words if words.startswith("evaluate") else f"  {words}") + "\n"
    if case == "nothing held out":
        text = text.replace("corpus.jsonl, format: text", "corpus.jsonl, format: text, heldout: 0")
    world.write_text(text)
    with pytest.raises(UserError) as checked:
        check_recipe(load_recipe(world), world)
    with pytest.raises(UserError) as ran:
        run_small(world, tmp_path / "out")
    for error in (checked, ran):
        (told,) = error.value.problems
        assert told.startswith(said) and "\n" not in told
    assert not list((tmp_path / "out" / "small").glob("1-*"))


@pytest.mark.parametrize(
    ("name", "said"),
    [("broken", "raised ZeroDivisionError: division by zero (rater.py:6)"), ("nothing", "returned None")],
)
def test_a_rater_that_fails_says_for_which_answer(name, said, world):
    rate = load_rater(f"rater.py:{name}", world)
    with pytest.raises(RunError) as error:
        rate([Message("user", "Which?")], "This.")
    assert said in str(error.value) and "for the answer 'This.' to 'Which?'" in str(error.value)
    assert load_rater("rater.py:rate", world)([Message("user", "Which?")], "This.") == 5.0


@pytest.mark.parametrize("rule", ["error", "drop", "truncate", "split"])
def test_conversations_in_pretraining_follow_the_rule_too(rule):
    """What cannot be split is refused, with the other rules as advice: those must then hold."""
    rules = rules_of(Pretrain(kind="pretrain", data="faq", overlong=rule), 40)
    assert (rules.documents, rules.conversations) == (rule, "error" if rule == "split" else rule)
