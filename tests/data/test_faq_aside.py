"""Documents without a question among those of a FAQ: put aside with a count, not rejected."""

import json
from io import StringIO

import pytest
from rich.console import Console

from luthier.base.config import load_recipe
from luthier.base.errors import UserError
from luthier.base.nouns import Rejected
from luthier.base.source import Source
from luthier.data.dataset import put_aside, read_dataset, write_rejected
from luthier.data.look import as_json, look_at
from luthier.data.readers.faq import NO_FAQ
from luthier.run.shards import streamed_dataset
from luthier.verbs.data_words import show_look
from run.small import small_world

FAQ = "# Help\n\n## How do I pay?\n\nBy card.\n\n## Is it safe?\n\nYes, it is.\n\n## May I?\n\nWithin a month.\n"


def folder_of(folder, others=40):
    """Three FAQ pages among documents that ask nothing, as a handbook has them."""
    for n in range(3):
        (folder / f"faq{n}.md").write_text(FAQ.replace("month", f"{n + 2} months"))
    for n in range(others):
        (folder / f"page{n}.md").write_text(f"# Page {n}\n\nThis says how room {n} is kept warm in winter.\n")
    return folder


def test_pages_without_a_question_do_not_count_as_rejected(tmp_path):
    data = read_dataset("help", Source(path=".", format="faq", heldout=0, max_rejected=0), folder_of(tmp_path))
    assert len(data.train) == 9 and put_aside(data) == 40 == len(data.rejected)
    assert {row.reason for row in data.rejected} == {NO_FAQ} and all(row.aside for row in data.rejected)


def test_a_folder_without_any_is_told(tmp_path):
    for n in range(3):
        (tmp_path / f"page{n}.md").write_text("# Heat\n\nRooms are warm.\n")
    with pytest.raises(UserError, match=r"not one usable row.*\n.*no FAQ: it holds no heading that asks. format: text"):
        read_dataset("help", Source(path=".", format="faq"), tmp_path)


def test_it_is_counted_by_itself_where_people_look(tmp_path):
    look = look_at("help", Source(path=".", format="faq"), folder_of(tmp_path, 12))
    screen = Console(record=True, width=140, file=StringIO())
    show_look(look, 1, False, screen)
    said = screen.export_text()
    assert "9 chats, 12 put aside" in said and "rejected" not in said
    told = as_json(look, 1)
    assert told["rejected"] == {} and list(told["aside"].values()) == [12]
    write_rejected(tmp_path / "rejected.jsonl", [look.data.rejected[0], Rejected("a:1", "broken")])
    rows = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert [row.get("aside") for row in rows] == [True, None]


def test_streamed_it_is_the_same(tmp_path):
    (tmp_path / "pages").mkdir()
    folder = folder_of(tmp_path / "pages")
    recipe = load_recipe(small_world(tmp_path / "world"), [f"out={json.dumps(str(tmp_path / 'out'))}"])
    source = Source(path=str(folder), format="faq", heldout=0, max_rejected=0, stream=True)
    recipe = recipe.model_copy(update={"data": {"help": source}})
    data = streamed_dataset(recipe, "help", tmp_path, 1, ())
    assert data.survey is not None and data.survey.count("train") == 9 and put_aside(data) == 40
    plain = read_dataset("help", source.model_copy(update={"stream": False}), tmp_path)
    assert list(data.rejected) == plain.rejected
