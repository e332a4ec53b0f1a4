"""The same rows here and on a local Ray of two workers."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from luthier.base.errors import UserError
from luthier.base.nouns import Chat, Message
from luthier.data.curate import engine
from luthier.data.curate.engine import on_rows
from luthier.data.curate.quality import flaws, scores_of


def test_here_rows_are_worked_on_one_by_one():
    assert on_rows(str.upper, ["a", "b"]) == ["A", "B"] and on_rows(str.upper, []) == []
    with pytest.raises(ZeroDivisionError):
        on_rows((1).__truediv__, [1, 0])


def test_without_ray_the_message_says_what_to_do(monkeypatch):
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "luthier\[ray\]"'):
        on_rows(str.upper, ["a"], engine="ray")


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
    assert not ray.is_initialized()
    assert set(Path(tempfile.gettempdir()).glob("luthier-ray-*")) == before and "RAY_ADDRESS" not in os.environ
