"""Ways to answer, compared: prompts as they are meant, figures by hand, one real road, gone on with and told."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from luthier.base.config import load_recipe
from luthier.base.errors import UserError
from luthier.base.files import read_json
from luthier.base.nouns import Chat, Message
from luthier.base.recipe import Fresh
from luthier.evals.intervals import paired_bootstrap
from luthier.model.embed import load_embedder
from luthier.model.load import fresh_model, save_model
from luthier.run.against import ways
from luthier.run.against.ask_ways import compare_ways
from luthier.run.against.ways import WAYS, plan_ways
from luthier.run.against.ways_prompts import bare, with_examples, with_passages
from luthier.run.against.ways_words import break_even, dollars, weigh
from luthier.run.upto import reached
from luthier.tokens.tokenizer import train_encoder_tokenizer
from run.small import small_world

PRETRAIN = "{kind: pretrain, data: corpus, steps: 4, batch_tokens: 512, evaluate_every_steps: 9}"
SFT = "{kind: sft, data: questions, steps: 4, batch_tokens: 512, learning_rate: 1e-3, evaluate_every_steps: 9}"
ANSWERS = "{answers: {kind: answers, data: asked, max_new_tokens: 4}}"


@pytest.fixture
def world(tmp_path):
    return small_world(tmp_path / "world")


def loaded(world, *changes):
    out = f'out="{world.parent.parent / "runs"}"'
    return load_recipe(world, [out, "samples=0", f"stages=[{PRETRAIN}, {SFT}]", f"evaluate={ANSWERS}", *changes])


def chat(question, answer=None, origin="a:1"):
    said = [Message("user", question)] + ([Message("assistant", answer)] if answer else [])
    return Chat(tuple(said), origin)


def written(made):
    return [(m.role, m.content) for m in made.chat.messages]


def short(limit):
    """Room for so many words."""
    return lambda one: sum(len(m.content.split()) for m in one.messages) <= limit


def test_examples_are_turns_or_a_document_and_the_farthest_go_first():
    """Nearest last, before the question; without a template, question and answer lines as pretraining knows them."""
    near, far = chat("How high?", "Two metres."), chat("How wide?", "One metre.")
    asked = Chat((Message("system", "Be short."), Message("user", "How deep?")), "b:2")
    turns = with_examples(asked, [near, far], True, short(99))
    assert written(turns) == [
        ("system", "Be short."), ("user", "How wide?"), ("assistant", "One metre."),
        ("user", "How high?"), ("assistant", "Two metres."), ("user", "How deep?"),
    ]  # fmt: skip
    text = with_examples(chat("How deep?"), [near, far], False, short(99))
    assert written(text) == [("user", "How wide?\nOne metre.\n\nHow high?\nTwo metres.\n\nHow deep?")]
    one = with_examples(chat("How deep?"), [near, far], True, short(7))
    assert (one.shown, one.dropped) == (1, 1) and ("user", "How high?") in written(one)
    none = with_examples(chat("How deep?"), [near, far], True, short(3))
    assert (none.shown, none.dropped, none.chat) == (0, 2, chat("How deep?"))


def test_passages_stand_before_the_last_question_only():
    talk = Chat(
        (
            Message("user", "Hello."),
            Message("assistant", "Yes?"),
            Message("user", "How deep?"),
            Message("assistant", "x"),
        ),
        "a:1",
    )
    made = with_passages(talk, ["It is 3 m deep.", "It is blue."], True, short(99))
    *before, (role, last) = written(made)
    assert before == [("user", "Hello."), ("assistant", "Yes?")] and role == "user"
    assert last == "Answer from these passages.\n\nIt is 3 m deep.\n\nIt is blue.\n\nQuestion: How deep?"
    fewer = with_passages(bare(talk), ["It is 3 m deep.", "It is blue."], False, short(10))
    assert written(fewer)[-1][1] == "It is 3 m deep.\n\nHow deep?" and (fewer.shown, fewer.dropped) == (1, 1)


def one_way(right, together_s, prepared_s=0.0, f1=None):
    n = len(right)
    return {
        "answers": ["x"] * n, "right": right, "f1": f1 or [None] * n,
        "together_s": together_s, "prepared_s": prepared_s,
        "waited_s": [0.1, 0.2, 0.3], "tokens_in": [10] * n, "tokens_out": [5] * n, "ended": [True] * n,
        "shown": [0] * n, "dropped": [0] * n, "held": [],
    }  # fmt: skip


def test_money_by_hand():
    """100 answers in 36 s at $10 an hour are $0.1, so 1,000 are $1; tuning of 3,600 s is $10. A way of $2 for 1,000 is
    $1 dearer, so $10 have paid for themselves after 10,000 answers; at 20,000 the whole is 10 + 20 against 40."""
    found = {"rag": one_way([1, 0] * 50, 72.0), "tuned": one_way([1, 0] * 50, 36.0)}
    made = weigh(found, 3600.0, 10.0, None, 0)
    tuned, rag = made["rows"]["tuned"], made["rows"]["rag"]
    assert (tuned["usd_1000"], rag["usd_1000"]) == pytest.approx((1.0, 2.0))
    assert tuned["breaks_even_at"] == 10_000 == break_even(tuned, rag)
    assert (made["tuning_usd"], made["chosen"]) == (10.0, "rag")  # alike in quality: the simpler one
    assert weigh(found, 3600.0, 10.0, 20_000, 0)["chosen"] == "tuned"
    assert "$30.00" in weigh(found, 3600.0, 10.0, 20_000, 0)["said"][0]
    assert weigh(found, 3600.0, 10.0, 5_000, 0)["chosen"] == "rag"
    dear = weigh(found | {"tuned": one_way([1, 0] * 50, 90.0)}, 3600.0, 10.0, None, 0)
    assert dear["rows"]["tuned"]["breaks_even_at"] is None and "pays by quality, if at all" in dear["said"][-1]
    assert tuned["p90_s"] == pytest.approx(np.quantile([0.1, 0.2, 0.3], 0.9)) and tuned["median_s"] == 0.2


def test_the_best_way_is_taken_where_it_is_shown_to_be():
    """90 of 100 against 60: paired, 30 points, far from 0; and the reasons name each other way with that interval."""
    found = {
        "zero-shot": one_way([1] * 60 + [0] * 40, 10.0),
        "rag": one_way([1] * 62 + [0] * 38, 10.0),
        "tuned": one_way([1] * 90 + [0] * 10, 10.0),
    }
    made = weigh(found, 60.0, 1.0, None, 3)
    gap = paired_bootstrap(np.array(found["tuned"]["right"]), np.array(found["rag"]["right"]), 3)
    assert made["chosen"] == "tuned" and made["best_simple"] == "rag"
    assert made["said"][0].startswith("Take tuned: 90.0 % [") and "better than every other way" in made["said"][0]
    assert made["rows"]["tuned"]["over_best_simple"] == gap.as_dict() and gap.value == pytest.approx(0.28)
    assert f"rag: 28.0 points less [{gap.low * 100:.1f}, {gap.high * 100:.1f}]; the difference is real." in made["said"]


def test_nothing_is_recommended_where_nothing_works_and_f1_judges_without_values():
    low = weigh({way: one_way([0] * 60, 1.0) for way in ("zero-shot", "tuned")}, 1.0, 1.0, None, 0)
    assert low["said"][0].startswith("No way answers well")
    soft = {
        way: one_way([None] * 4, 1.0, f1=f1) for way, f1 in (("zero-shot", [0.5, 0.7, 0.6, 0.6]), ("rag", [0.1] * 4))
    }
    made = weigh(soft, 0.0, 1.0, None, 0)
    assert made["measure"].startswith("token F1") and made["rows"]["zero-shot"]["quality"]["value"] == pytest.approx(
        0.6
    )
    assert made["chosen"] == "zero-shot"


def test_dollars_say_something():
    assert [dollars(x) for x in (0, 0.00042, 0.031, 0.5, 12.345)] == ["$0", "$0.00042", "$0.031", "$0.50", "$12.35"]


def test_every_way_is_run_and_kept(world, monkeypatch):
    """A real road: five ways, one of which fails and is told; the same command asks only that one again, and another
    number of examples only few-shot."""
    asked: list[str] = []
    answer = ways.answer_way

    def counted(context, plan, bench, way, loaded):
        asked.append(way)
        if way in broken:
            raise RuntimeError("out of memory")
        return answer(context, plan, bench, way, loaded)

    monkeypatch.setattr(ways, "answer_way", counted)
    recipe = loaded(world)
    broken = {"tuned"}
    first = compare_ways(recipe, world, plan_ways(recipe, shots=1, passages=1))
    assert asked == list(WAYS) and first.made["failed"] == {"tuned": "out of memory"}
    broken, asked[:] = set(), []
    second = compare_ways(recipe, world, plan_ways(recipe, shots=1, passages=1))
    assert asked == ["tuned"] and list(second.made["rows"]) == list(WAYS) and not second.made["failed"]
    asked.clear()
    compare_ways(recipe, world, plan_ways(recipe, shots=2, passages=1))
    assert asked == ["few-shot"]
    made = read_json(second.folder / "ways.json")
    assert made["items"] == 12 and all(row["quality"]["n"] == 12 for row in made["rows"].values())
    assert made["tuning_s"] > 0 and math.isclose(made["tuning_usd"], made["tuning_s"] / 3600, rel_tol=0.05)
    ET.parse(second.folder / "ways.svg")
    page = (second.folder / "ways.html").read_text()
    assert "Answers side by side" in page and "Which colour has the" in page
    kept = read_json(next(second.folder.glob("rag-*.json")))
    assert kept["held"] == [1] * 12 and "held the right value for 100.0 % of them" in page
    assert kept["shown"] == [1] * 12 and all(tokens > 20 for tokens in kept["tokens_in"])


def test_a_right_answer_is_found_where_the_passage_says_it(world):
    """What is looked up for a question is the document about its thing, whose colour is the accepted value."""
    recipe = loaded(world)
    plan = plan_ways(recipe, passages=1)
    with reached(recipe, world, 1) as context:
        bench = ways.bench_for(context, plan)
        model = context.load(context.models["base"])
        made = ways.prompter(context, plan, bench, "rag", model, 80)(bench.asked)
    said = [one.chat.messages[-1].content for one in made]
    assert all(any(value in text for value in chat.accept) for text, chat in zip(said, bench.asked, strict=True))


def test_looking_up_by_meaning_needs_no_shared_word(tmp_path, world):
    """A tiny encoder's mean of last hidden states, one text at a time without padding, is what the batch gives."""
    folder = encoder_folder(tmp_path / "encoder", world)
    texts = ["The lamp is red.", "A boat", "In the shed we keep the blue kite 4, and a good deal else besides."]
    found = load_embedder(folder, "cpu")(texts)
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for row, text in zip(found, texts, strict=True):
        with torch.no_grad():
            mean = model(**tokenizer([text], return_tensors="pt")).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(row, (mean / mean.norm()).numpy(), atol=1e-5)
    with pytest.raises(UserError, match="no model here"):
        load_embedder(tmp_path, "cpu")


def encoder_folder(folder, world):
    """A BERT of two layers with a tokenizer of the small world's."""
    rows = [json.loads(line)["text"] for line in (world.parent / "corpus.jsonl").read_text().splitlines()]
    tokenizer = train_encoder_tokenizer(rows, 300)
    fresh = Fresh(shape="encoder", layers=2, width=32, heads=2, vocab=300, context=64)
    save_model(fresh_model(fresh, tokenizer, 0), tokenizer, folder)
    return folder


def test_what_is_asked_wrongly_is_told_at_once(world):
    with pytest.raises(UserError) as told:
        plan_ways(loaded(world), ["tune", "rag"], stage="pretrain", test="answer", documents="corpse")
    assert told.value.problems == [
        f"--ways tune: no such way. Did you mean tuned? There are: {', '.join(WAYS)}.",
        "--stage pretrain: tunes no model. There are: sft.",
        "--test answer: no answers probe under evaluate. Did you mean answers? There are: answers.",
        "--documents corpse: no source under data, and no path. Did you mean corpus?",
    ]
    outside = loaded(world, "base=model", f"stages=[{SFT}]")
    plan = plan_ways(outside.model_copy(update={"data": {"questions": outside.data["questions"]}}))
    assert plan.ways == ("zero-shot", "few-shot", "tuned") and set(plan.left_out) == {"rag", "tuned+rag"}
    with pytest.raises(UserError, match="no documents to look things up in"):
        plan_ways(outside.model_copy(update={"data": {"questions": outside.data["questions"]}}), ["rag"])


def test_held_out_rows_are_asked_where_no_probe_asks(world):
    """Of the source that taught the answers, judged by token F1; where none is held out, that is told."""
    recipe = loaded(world, "evaluate={}")
    with reached(recipe, world, 0) as context:
        bench = ways.bench_for(context, plan_ways(recipe))
        held = context.dataset("questions").heldout
    assert [chat.origin for chat in bench.asked] == [row.origin for row in held] and held
    none = loaded(world, "evaluate={}", "data.questions.heldout=0")
    with reached(none, world, 0) as context, pytest.raises(UserError, match="holds no held-out question"):
        ways.bench_for(context, plan_ways(none))
