"""Word metrics against the packages that the field quotes, and by hand."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from luthier.base.errors import UserError
from luthier.evals.formats import regex_check, schema_check
from luthier.evals.wording import corpus_score, exact_match, rouge_l, squad_normal, token_f1

ANSWERS = ["The red boat hangs in the hall.", "It is blue", "", "Red red red, red!", "a door that is 14 mm wide"]
REFERENCES = ["A red boat hangs in the long hall.", "It is blue.", "It is green.", "Red.", "The door is 14 mm wide"]
words = st.text(alphabet="aAbBc ,.1-", max_size=30)


def test_squad_by_hand():
    assert squad_normal("The  Red-boat, an A!") == "redboat"
    assert exact_match("the boat.", ["ship", "Boat"]) and not exact_match("boats", ["boat"])
    # shared: red, boat; 3 words against 4: P 2/3, R 2/4, F 4/7.
    assert token_f1("red boat here", ["the red boat hangs there"]) == pytest.approx(4 / 7)
    assert token_f1("red boat here", ["nothing", "red boat here"]) == 1
    assert token_f1("", ["the"]) == 1 and token_f1("", ["boat"]) == 0


def plain_f1(text: str, gold: str) -> float:
    """SQuAD's f1_score, written out again."""
    ours, theirs = squad_normal(text).split(), squad_normal(gold).split()
    if not ours or not theirs:
        return float(ours == theirs)
    same = sum(min(ours.count(word), theirs.count(word)) for word in set(ours))
    precision, recall = same / len(ours), same / len(theirs)
    return 2 * precision * recall / (precision + recall) if same else 0.0


@given(words, words)
def test_f1_is_squads(text, gold):
    assert token_f1(text, [gold]) == pytest.approx(plain_f1(text, gold))


def test_rouge_reads_other_scripts():
    assert rouge_l("Größe: 14 мм", "größe 14 мм") == 1


@pytest.mark.parametrize(("name", "theirs"), [("bleu", BLEU()), ("chrf", CHRF())])
def test_corpus_scores_are_sacrebleus_for_any_part_of_the_items(name, theirs):
    made = corpus_score(name, ANSWERS, REFERENCES)
    assert made.score(made.stats_NF.sum(axis=0)) == theirs.corpus_score(ANSWERS, [REFERENCES]).score
    drawn = [3, 1, 1, 0]
    part = theirs.corpus_score([ANSWERS[i] for i in drawn], [[REFERENCES[i] for i in drawn]]).score
    assert made.score(made.stats_NF[drawn].sum(axis=0)) == pytest.approx(part)
    assert made.each_N[1] > made.each_N[2] == 0 and "nrefs:1" in made.signature


def test_forms(tmp_path):
    check = regex_check(r"[A-D]\)?")
    assert check(" B)\n") is None and check("The answer is B") == "does not match"
    with pytest.raises(UserError, match="is no regular expression"):
        regex_check("(")
    schema = {
        "type": "object",
        "required": ["size"],
        "properties": {"size": {"$ref": "#/$defs/mm"}},
        "$defs": {"mm": {"type": "integer", "minimum": 1}},
    }
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(schema))
    check = schema_check(file)
    assert check('{"size": 14}') is None
    assert check('{"size": 0}') == "$.size: 0 is less than the minimum of 1"
    assert check("{}") == "$: 'size' is a required property"
    assert check('```json\n{"size": 14}\n```') == "JSON in a code fence"
    assert check("14 mm") == "no JSON" and check("[" * 100_000) == "nested too deeply"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        ("{", "is no JSON"),
        ('{"type": "thing"}', "is no JSON schema"),
        ('{"$ref": "http://127.0.0.1:9/s.json"}', "nothing is fetched"),
    ],
)
def test_schemas_that_are_none(content, words, tmp_path):
    if content is not None:
        (tmp_path / "s.json").write_text(content)
    with pytest.raises(UserError, match=words):
        schema_check(tmp_path / "s.json")
