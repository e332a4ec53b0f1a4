"""Curation by an embedding model: a tiny encoder of random weights, for which texts of the same words are the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from luthier.base.config import load_recipe
from luthier.base.curation import Curate
from luthier.base.errors import UserError
from luthier.base.files import read_json
from luthier.base.nouns import Chat, Message, Provenance, Record
from luthier.base.recipe import Fresh
from luthier.data.curate.curation import Given, curate
from luthier.data.records import read_records
from luthier.model.embed import load_embedder
from luthier.model.load import fresh_model, save_model
from luthier.run.stages import check_recipe, run_recipe
from luthier.tokens.tokenizer import train_encoder_tokenizer
from run.small import questions, stage_folders, write_rows


def record(n: int, question: str, answer: str) -> Record:
    example = Chat((Message("user", question), Message("assistant", answer)), f"faq:{n}")
    return Record(example, Provenance("faq", "MIT", "human"), f"g{n}")


SAID = [
    ("How can I return a lens?", "Send it back within thirty days and we refund you."),
    ("What is the way to give goods back?", "Within a month of delivery, post them to us; money follows."),
    ("Who pays for the parcel?", "We do, whatever its weight may be."),
    ("When is the shop open?", "From nine to five, but never on Sundays."),
    ("How wide is the Altair?", "The tube of the Altair measures 80 mm."),
    ("What does the Deneb measure?", "Its mirror, that of the Deneb, has 90 mm."),
]


def placed(*angles: float):
    """Vectors in a plane, by their angle: the cosine of two is that of their difference."""
    made_ND = np.array([[np.cos(angle), np.sin(angle)] for angle in angles], dtype=np.float32)
    return lambda texts: made_ND[: len(texts)]


def curated(embed, **changes):
    rows = [record(n, *said) for n, said in enumerate(SAID)]
    settings = {"embeddings": "encoder", "heldout": 0.0, "flaws": False, "style": "any", **changes}
    return curate(rows, Curate(kind="curate", data="faq", **settings), Given(embed=embed))


def test_rows_that_say_the_same_in_other_words_are_near_duplicates():
    apart = placed(0.0, 0.1, 1.0, 2.0, 3.0, 3.05)  # cos 0.1 = 0.995, cos 0.05 = 0.9988
    made = curated(apart)
    out = [row.out for row in made.rows]
    best, copy = (0, 1) if out[0] is None else (1, 0)
    assert out[copy] == f"near duplicate: of faq:{best}, in other words" and made.clusters[copy] == best
    assert made.rows[0].group == made.rows[1].group  # one side of every split
    assert out[4] is None and out[5] is None  # the Altair's 80 mm and the Deneb's 90 mm are two facts
    assert not curated(apart, near_meaning=0.9999).reasons and not curated(apart, near_meaning=None).reasons


def test_a_chain_of_likeness_makes_no_copies():
    """cos 0.3 = 0.955 is near, cos 0.6 = 0.825 is not: of three in a row the outer two are both kept, or the middle."""
    made = curated(placed(0.0, 0.3, 0.6, 2.0, 3.0, 4.0))
    kept = [i for i in range(3) if made.rows[i].out is None]
    assert kept in ([0, 2], [1])
    assert all(abs(made.clusters[i] - i) <= 1 for i in range(3))


def test_the_choice_is_among_their_places():
    """Two rows in each of three places: one of each place is chosen."""
    made = curated(placed(0.0, 0.01, 1.6, 1.61, 3.1, 3.11), keep=3, near_meaning=None)
    assert {i // 2 for i in made.kept} == {0, 1, 2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """30 questions with the same answers, and the first five once more with their words in another order."""
    rows = [
        row | {"answer": f"In the house of the {row['question'].split()[-2]} there is a lamp for it and a long table."}
        for row in questions(range(30))
    ]
    for row in rows[:5]:
        words = row["answer"].rstrip(".").split()
        rows.append(row | {"answer": " ".join([*words[7:], *words[:7]]) + "."})
    write_rows(tmp_path / "faq.jsonl", rows)
    (tmp_path / "recipe.yaml").write_text(
        "name: made\ndata:\n  faq: {path: faq.jsonl, format: qa, licence: MIT, made: human}\n"
        "stages:\n  - {kind: curate, name: bot, data: faq, heldout: 0, flaws: false, near: 0.95, embeddings: encoder}\n"
    )
    encoder(tmp_path / "encoder", [f"{row['question']} {row['answer']}" for row in rows], seed=0)
    return tmp_path


def encoder(folder: Path, texts: list[str], seed: int) -> None:
    tokenizer = train_encoder_tokenizer(texts * 4, 300)
    fresh = Fresh(shape="encoder", layers=2, width=32, heads=2, vocab=300, context=64)
    save_model(fresh_model(fresh, tokenizer, seed), tokenizer, folder)


def run(folder, *changes):
    path = folder / "recipe.yaml"
    return run_recipe(load_recipe(path, [f"out={json.dumps(str(folder / 'out'))}", *changes]), path)


def test_an_embedding_model_in_a_recipe(folder):
    asked = [json.loads(line) for line in (folder / "faq.jsonl").read_text().splitlines()]
    texts = [f"{row['question']}\n{row['answer']}" for row in asked]
    vectors_ND = load_embedder(folder / "encoder", "cpu")(texts)
    least = float((vectors_ND[:5] * vectors_ND[30:]).sum(1).min()) - 1e-4
    changes = ["stages.0.keep=20", f"stages.0.near_meaning={least}"]
    made = run(folder, *changes)
    bot = stage_folders(made)["bot"]
    out = {row.example.origin: row.out for row in read_records(bot / "rows.jsonl")}
    pairs = [(f"faq.jsonl:{n + 1}", f"faq.jsonl:{n + 31}") for n in range(5)]
    for a, b in pairs:
        assert (
            out[b] == f"near duplicate: of {a}, in other words" or out[a] == f"near duplicate: of {b}, in other words"
        )
    assert sum("in other words" in (why or "") for why in out.values()) == 5  # others have another number each
    assert "reading 35 texts with encoder" in (bot / "events.jsonl").read_text()
    assert read_json(bot / "curation.json")["embeddings"] == "encoder"
    assert "cosine of the vectors of encoder" in (made / "report.html").read_text()
    assert stage_folders(run(folder, *changes))["bot"] == bot
    encoder(folder / "encoder", texts, seed=1)  # other weights: another data set
    assert stage_folders(run(folder, *changes))["bot"] != bot


def test_check_says_what_the_model_does_and_what_is_not_there(folder):
    path = folder / "recipe.yaml"
    (check,) = check_recipe(load_recipe(path), path)
    assert "near duplicates (Jaccard 0.95) (also in other words: cosine 0.95 by encoder)" in check.note
    with pytest.raises(
        UserError, match=r"curate: embeddings: .*encode: no such folder. Give the folder of an embedding"
    ):
        check_recipe(load_recipe(path, ["stages.0.embeddings=encode"]), path)
    with pytest.raises(UserError, match=r"near_meaning.*compares vectors of an embedding model, and none is named"):
        load_recipe(path, ["stages.0.embeddings=null", "stages.0.near_meaning=0.9"])
    (folder / "encoder" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"embeddings: .*cannot be loaded: .*Give an encoder's folder"):
        run(folder)


def test_the_first_tokens_state_where_the_folder_says_so(folder):
    texts = ["There is a lamp.", "In the house there is a long table for it."]
    (folder / "encoder" / "1_Pooling").mkdir()
    (folder / "encoder" / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    found = load_embedder(folder / "encoder", "cpu")(texts)
    model = AutoModel.from_pretrained(folder / "encoder").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "encoder")
    for row, text in zip(found, texts, strict=True):
        with torch.no_grad():
            first = model(**tokenizer([text], return_tensors="pt")).last_hidden_state[0, 0]
        np.testing.assert_allclose(row, (first / first.norm()).numpy(), atol=1e-5)
