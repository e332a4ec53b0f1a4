"""The same rows here and on a local Ray of two workers."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from luthier.base.curation import Curate
from luthier.base.errors import UserError
from luthier.base.nouns import Chat, Message
from luthier.base.source import Source
from luthier.data.curate import engine
from luthier.data.curate.curation import Curation, Given, curate
from luthier.data.curate.engine import Engine, on_rows
from luthier.data.curate.private import Private
from luthier.data.curate.quality import flaws, scores_of
from luthier.data.records import record_of
from luthier.evals.spelling import Lexicon
from luthier.run.curate_words import Words


def test_here_rows_are_worked_on_one_by_one():
    assert on_rows(str.upper, ["a", "b"]) == ["A", "B"] and on_rows(str.upper, []) == []
    with pytest.raises(ZeroDivisionError):
        on_rows((1).__truediv__, [1, 0])


def test_without_ray_the_message_says_what_to_do(monkeypatch):
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "luthier\[ray\]"'):
        on_rows(str.upper, ["a"], engine="ray")


def curated(examples: list[Chat], where: Engine) -> Curation:
    """Rows of which some hold private things, through all of curation."""
    private = Private()
    mail = Chat((Message("user", "Whom do I ask?"), Message("assistant", "Ask ann@acme.org or (415) 844-9759.")), "x:m")
    records = [record_of(one, "x", Source(path="x", licence="MIT")) for one in [*examples, mail, *examples[:3]]]
    stage = Curate(kind="curate", data="x", engine=where, keep=10)
    words = Words(("en",), False, Lexicon.of("en"))
    return curate(records, stage, Given(clean=private.clean_example, holds=private.holds, words=words))


@pytest.mark.xdist_group("ray")
def test_ray_gives_the_same_rows_in_the_same_order(monkeypatch):
    """On a real Ray. It starts once: what fails is tried on it, too."""
    ray = pytest.importorskip("ray", reason='needs pip install "luthier[ray]"')
    before = set(Path(tempfile.gettempdir()).glob("luthier-ray-*"))
    monkeypatch.setattr(engine, "ROWS_AT_ONCE", 7)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    answers = [
        "It is 114 mm wide.",
        "",
        "As an AI language model, I cannot say.",
        "It is cut. Then it is coated with a",
    ]
    rows = [
        Chat((Message("user", f"How wide is {k}?"), Message("assistant", answers[k % 4] * (1 + k % 3))), f"x:{k}")
        for k in range(60)
    ]
    with engine._ray(2):
        for work in (scores_of, flaws):
            assert on_rows(work, rows, engine="ray") == on_rows(work, rows)
        assert on_rows(flaws, [], engine="ray") == []
        with pytest.raises(ZeroDivisionError):
            on_rows((6).__truediv__, [3, 2, 0, 1], engine="ray")
        here, there = (curated(rows, how) for how in ("process", "ray"))
        assert (here.rows, here.kept, here.heldout, here.flaws) == (there.rows, there.kept, there.heldout, there.flaws)
        assert all("misspelt_frac" in row.scores for row in there.rows if row.example.answer)
        assert any("[email 1] or [phone 1]" in row.example.answer for row in there.rows)
    assert not ray.is_initialized()
    assert set(Path(tempfile.gettempdir()).glob("luthier-ray-*")) == before and "RAY_ADDRESS" not in os.environ
