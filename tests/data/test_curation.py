"""Curation: what is marked and why, what is chosen, what stays together; on rows of which all is known."""

from __future__ import annotations

import random
import re
from collections import Counter

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.base.curation import Curate
from luthier.base.made import RULES
from luthier.base.nouns import Chat, Message, Provenance, Record, Text
from luthier.data.curate.agreement import doubts_of
from luthier.data.curate.curation import Given, by_model, curate, reason_of
from luthier.data.curate.quality import quality
from luthier.data.curate.questions import content_words, outvoted, same_question
from luthier.data.curate.stock import own_scores

FRUIT = re.findall(
    r"\w+", "apple pear plum cherry quince medlar fig grape peach melon lemon olive mango papaya date kiwi"
)
VERBS = re.findall(
    r"\w+", "peel store press dry bake ferment freeze stew pickle juice plant prune graft pick sell ship"
)


def chat(question: str, answer: str, origin: str = "x") -> Chat:
    return Chat((Message("user", question), Message("assistant", answer)), origin)


def record(example: Chat, made: str | None = "human", group: str = "", licence: str | None = "MIT") -> Record:
    return Record(example, Provenance("faq", licence, made), group or f"faq/{example.origin}")  # type: ignore[arg-type]


def rows(count: int = 120) -> list[Record]:
    """Different questions with different answers, of some twenty words each."""
    rng, made = random.Random(3), []
    pairs = [(fruit, verb) for fruit in FRUIT for verb in VERBS]
    for n, (fruit, verb) in enumerate(rng.sample(pairs, count)):
        words = " ".join(
            rng.sample(["slowly", "cold", "warm", "clean", "ripe", "salted", "whole", "sliced", "twice"], 4)
        )
        question = f"How should one {verb} a {fruit} at home?"
        answer = f"To {verb} the {fruit}, keep it {words}, and wait until the {fruit} gives way under a finger."
        made.append(record(chat(question, answer, f"faq.csv:{n + 2}")))
    return made


def settings(**changes) -> Curate:
    return Curate(kind="curate", data="faq", **{"heldout": 0.0, **changes})


def test_every_row_is_kept_held_out_or_left_out_with_a_reason():
    made = curate(rows(), settings(keep=30, heldout=0.2), Given())
    sides = Counter([*made.kept, *made.heldout, *(i for i, row in enumerate(made.rows) if row.out is not None)])
    assert sides == Counter(range(120)) and len(made.kept) == 30 and made.heldout
    assert made.reasons == {"not chosen": 120 - 30 - len(made.heldout)}


def test_a_row_in_another_style_counts_for_less_and_only_where_style_matters():
    listed = "GREAT question!!! 😀😀 Sure!\n\n" + "\n".join(f"- **Step {n}**: peel it!" for n in range(1, 30))
    odd = record(chat("How should one dry a durian at home?", listed, "faq.csv:900"))
    with_style, without = (curate([*rows(60), odd], settings(style=style), Given()) for style in ("consistent", "any"))
    assert with_style.rows[-1].scores["style"] == 0.2 and "style" not in without.rows[-1].scores
    plain = [row.scores["style"] for row in with_style.rows[:-1]]
    assert min(plain) > 0.9  # one template, hardly a difference in style
    np.testing.assert_allclose(
        with_style.quality_N, without.quality_N * [*plain, with_style.rows[-1].scores["style"]], atol=1e-4
    )
    assert curate([*rows(60), odd], settings(keep=20), Given()).rows[-1].out is not None


def test_copies_are_marked_with_what_they_copy_and_the_best_stays():
    good = rows(30)
    whole = good[4].example
    empty = record(Chat((whole.messages[0], Message("assistant", "")), "faq.csv:90"))
    machine = record(Chat(whole.messages, "bot.jsonl:1"), made="machine")
    near = record(chat(whole.messages[0].content, f"{whole.answer} Really.", "faq.csv:91"))
    made = curate([machine, *good, near, empty], settings(), Given())
    out = {row.example.origin: row.out for row in made.rows if row.out is not None}
    assert out["bot.jsonl:1"] == f"duplicate: of {whole.origin}"  # a person's row stands before a machine's
    assert {origin: why.partition(":")[0] for origin, why in out.items()} == {
        "bot.jsonl:1": "duplicate",
        "faq.csv:91": "near duplicate",
        "faq.csv:90": "flawed",
    }
    assert made.clusters[0] == made.clusters[5] == 5


def test_questions_of_one_template_about_different_things_are_no_duplicates():
    asked = "Please tell me in which colour you have painted the tube and the mount of the {0} telescope this year"
    said = "This year both the tube and the mount of the {0} telescope are painted in a very dark blue."
    same = [record(chat(asked.format(n), said.format(n), n)) for n in ("Vega", "Mira", "Deneb")]
    made = curate(same, settings(near=0.6), Given())
    assert made.reasons == {} and len(made.kept) == 3


def test_no_group_and_no_wording_of_a_question_is_on_two_sides():
    base = rows(100)
    again = [
        record(
            chat(r.example.messages[0].content.replace("How should one", "Please, how do I"), f"{n} times", f"b:{n}")
        )
        for n, r in enumerate(base)
    ]
    threads = [Record(r.example, r.provenance, f"thread {i % 20}") for i, r in enumerate(base)]
    made = curate([*threads, *again], settings(heldout=0.3, conflicts=False), Given())
    kept, held = ({made.rows[i].group for i in side} for side in (made.kept, made.heldout))
    assert kept and held and not kept & held
    question = same_question([r.example for r in made.rows])
    assert not {question[i] for i in made.kept} & {question[i] for i in made.heldout}


def test_rows_added_move_no_others():
    base = rows(100)
    before = curate(base[:70], settings(heldout=0.3), Given())
    after = curate(base, settings(heldout=0.3), Given())
    held = {before.rows[i].example.origin for i in before.heldout}
    assert {after.rows[i].example.origin for i in after.heldout if i < 70} == held


def test_evaluation_rows_are_left_out_and_named():
    base = rows(40)
    evaluation = [chat(base[7].example.messages[0].content, "", "test.jsonl:3")]
    made = curate(base, settings(), Given(evaluation=evaluation))
    assert made.rows[7].out == f"evaluated: exact with test.jsonl:3 ({base[7].example.messages[0].content})"
    assert made.reasons == {"evaluated": 1} and made.seen[7].like == "test.jsonl:3"


def test_an_outvoted_answer_is_named_with_what_most_say():
    asked = ["When does the shop open?", "Please, when does the shop open?", "When does your shop open?"]
    same = [record(chat(q, "It opens at 9:15 on weekdays.", f"a:{n}")) for n, q in enumerate(asked)]
    wrong = record(chat("Can you tell me when the shop does open?", "The doors open at 7:45.", "a:9"))
    made = curate([*rows(60), *same, wrong], settings(near=None), Given())
    assert made.reasons["contradicted"] == 1
    assert made.rows[-1].out == "contradicted: most say It opens at 9:15 on weekdays. (a:0)"
    two = [chat("How old?", "Four 4."), chat("How old?", "Five 5.")]
    assert outvoted(two, [0, 1]) == {}  # one against one decides nothing


def test_answers_that_documents_speak_against():
    """Twelve lamps, each of its own colour; every document says so in passing. Three answers say another's."""
    lamps = [
        "Vega",
        "Mira",
        "Deneb",
        "Algol",
        "Spica",
        "Rigel",
        "Castor",
        "Pollux",
        "Electra",
        "Maia",
        "Izar",
        "Adhara",
    ]
    colours = ["red", "blue", "green", "white", "black", "brown", "grey", "pink", "gold", "silver", "violet", "orange"]
    rng = random.Random(0)
    sentences = [
        f"The {lamp} comes in {colour}." for lamp, colour in zip(lamps, colours, strict=True) for _ in range(60)
    ]
    sentences += [f"Each {lamp} is packed with care." for lamp in lamps for _ in range(20)]
    rng.shuffle(sentences)
    documents = [" ".join(sentences[i : i + 8]) for i in range(0, len(sentences), 8)]
    wrong = {2: "silver", 5: "gold", 9: "red"}
    said = [wrong.get(i, colour) for i, colour in enumerate(colours)]
    asked = [
        chat(f"Which colour has the {lamp}?", f"Happy to help! It is {c}.") for lamp, c in zip(lamps, said, strict=True)
    ]
    found = doubts_of(documents)(asked)
    assert {i for i, why in enumerate(found) if why} == set(wrong)
    assert found[2] == 'the documents have "silver" 0 times in 80 sentences about "deneb"'
    assert doubts_of(documents[:1])(asked) == [None] * 12  # too few sentences to say anything


def test_sentences_that_compare_two_things_say_of_each_its_own():
    """ "The Deneb is silver, but the Vega is copper" does not speak for a copper Deneb; one that says what is asked in
    another form (built, builds) is one about it."""
    stars = ["Deneb", "Vega", "Rigel", "Altair"]
    cities = ["Porto", "Turin", "Basel", "Oslo"]
    pairs = [(a, b) for a in range(4) for b in range(4) if a != b]
    documents = [
        f"We hear that the {stars[a]} is built in {cities[a]}, but the {stars[b]} is built in {cities[b]}."
        for a, b in pairs * 4
    ]
    said = [(a, (a + b) % 4) for a in range(4) for b in range(3)]  # a word in more answers is a manner of speaking
    found = doubts_of(documents)([chat(f"Who builds the {stars[a]}, and where?", f"In {cities[b]}.") for a, b in said])
    assert [why is None for why in found] == [a == b for a, b in said]


def test_answers_made_of_phrases_say_nothing_of_their_own():
    phrase = "There is a lot to tell about all that we do here."
    asked = [chat(f"How wide is lamp {n}?", f"{phrase} Lamp {n} is {n} mm wide.") for n in range(8)]
    empty, other = chat("Who made it?", f"{phrase} {phrase}"), chat("How many are there?", "On Tuesday.")
    rows = [*asked, empty, other, *[other] * 9, Text("A document.", "x")]
    found = own_scores(rows, same_question(rows))
    assert [row["own_frac"] for row in found[:8]] == [round(6 / 18, 4)] * 8
    assert found[8] == {"own_frac": 0.0} and found[9] == {"own_frac": 1.0} and found[-1] == {}
    few = own_scores(asked[:4], same_question(asked[:4]))
    assert [row["own_frac"] for row in few] == [1.0] * 4  # in so few answers it may be what they say
    low, high = quality([{"own_frac": 0.0}, {"own_frac": 0.3}])
    assert low == pytest.approx(0.3 * high)


def test_machines_rows_are_capped_and_the_share_holds():
    base = rows(100)
    mixed = [r if i < 30 else record(r.example, made="machine") for i, r in enumerate(base)]
    made = curate(mixed, settings(keep=60, max_generated=0.5), Given())
    written = [made.rows[i].provenance.made for i in made.kept]
    assert Counter(written) == {"human": 30, "machine": 30}
    fewer = curate(mixed, settings(keep=20, max_generated=0.25), Given())
    assert Counter(fewer.rows[i].provenance.made for i in fewer.kept)["machine"] <= 5 and len(fewer.kept) == 20
    none = curate(mixed, settings(max_generated=0.0), Given())
    assert len(none.kept) == 30 and none.reasons == {"machine-written": 70}


def test_rows_that_rules_quoted_are_not_capped_as_a_models():
    base = rows(90)
    quoting = Provenance("faq", "MIT", "machine", RULES)
    mixed = [r if i < 30 else record(r.example, made="machine") for i, r in enumerate(base)]
    mixed = [Record(r.example, quoting, r.group) if i < 20 else r for i, r in enumerate(mixed)]
    made = curate(mixed, settings(near=None, keep=60, max_generated=0.5), Given())
    written = [by_model(made.rows[i]) for i in made.kept]
    assert Counter(written) == {True: 30, False: 30} and made.reasons == {"machine-written": 30}
    none = curate(mixed, settings(near=None, max_generated=0.0), Given())
    assert sorted(none.kept) == list(range(30)) and none.reasons == {"machine-written": 60}


def test_own_scores_are_columns_and_decide():
    base = rows(80)
    length = lambda examples: [float(len(e.answer or "")) for e in examples]  # noqa: E731
    wanted = {i for i, r in enumerate(base) if "cold" in r.example.answer}
    cold = lambda examples: [float("cold" in e.answer) for e in examples]  # noqa: E731
    made = curate(base, settings(min_quality=0.6), Given(scores={"length": (0.0, length), "cold": (9.0, cold)}))
    assert set(made.kept) == wanted and made.reasons == {"low quality": 80 - len(wanted)}
    assert all(row.scores["cold"] == float(i in wanted) for i, row in enumerate(made.rows))
    assert made.rows[3].scores["length"] == len(base[3].example.answer)


def test_private_things_are_replaced_before_all_else_and_the_row_says_so():
    base = rows(10)
    clean = lambda e: Chat(tuple(Message(m.role, m.content.replace("plum", "FRUIT")) for m in e.messages), e.origin)  # noqa: E731
    made = curate([*base, record(chat("Is a plum ripe?", "The plum is ripe.", "y"))], settings(), Given(clean=clean))
    assert made.rows[-1].example.answer == "The FRUIT is ripe."
    assert made.rows[-1].provenance.steps == ("private things replaced",)
    assert not any("plum" in m.content for row in made.rows for m in row.example.messages)


def test_licences_that_forbid_leave_rows_out():
    base = rows(20)
    mixed = [*base, record(chat("What now?", "Something else entirely is said here.", "nc"), licence="CC-BY-NC-4.0")]
    forbid = lambda r: "no" if r.provenance.licence == "CC-BY-NC-4.0" else None  # noqa: E731
    made = curate(mixed, settings(), Given(forbidden=forbid))
    assert made.rows[-1].out == "licence: no" and made.reasons == {"licence": 1}


def test_the_chosen_cover_more_than_as_many_at_random():
    base = rows(200)
    made = curate(base, settings(keep=20), Given())
    like = made.vectors_ND @ made.vectors_ND.T
    random_ = [like[:, random.Random(s).sample(range(200), 20)].max(1).mean() for s in range(20)]
    assert like[:, made.kept].max(1).mean() > max(random_)
    assert np.allclose(np.linalg.norm(made.vectors_ND, axis=1), 1, atol=1e-5)


@hypothesis.settings(max_examples=40)
@given(st.integers(0, 2**16), st.integers(1, 40), st.sampled_from(["facility", "k-centre"]), st.floats(0, 0.5))
def test_same_rows_same_choice_whatever_they_are(seed, keep, how, heldout):
    rng = random.Random(seed)
    words = ["a", "b", "cat", "dog", "1", "2", "", "The", "fish.", "?"]
    some = [
        record(chat(" ".join(rng.choices(words, k=4)), " ".join(rng.choices(words, k=6)), f"r:{n}"))
        for n in range(rng.randrange(0, 30))
    ]
    stage = settings(keep=keep, how=how, heldout=heldout)
    one, two = (curate(some, stage, Given(seed=seed)) for _ in range(2))
    assert (one.kept, one.heldout, one.rows) == (two.kept, two.heldout, two.rows)
    assert len(one.kept) <= keep and len(set(one.kept)) == len(one.kept)
    assert len(one.kept) + len(one.heldout) + sum(one.reasons.values()) == len(some)
    assert all(reason_of(row) for row in one.rows if row.out is not None)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("What colour is the Vega?", "Can you tell me the colour of the Vega, please?", True),
        ("What colour is the Vega?", "What colour is the Mira?", False),
        ("Who am I?", "What is it?", False),  # no content: each stands alone
    ],
)
def test_one_question_in_two_wordings(a, b, same):
    found = same_question([chat(a, "x"), chat(b, "y")])
    assert (found[0] == found[1]) == same
    assert content_words("What colour is the Vega's tube?") == {"colour", "vega", "tube"}
