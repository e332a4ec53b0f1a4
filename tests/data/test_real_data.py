"""The real files that other people wrote, with exact counts. The data itself is not part of the project."""

from pathlib import Path

import pytest

from luthier.base.errors import UserError
from luthier.base.nouns import Chat, Choice, Pair, Text
from luthier.base.source import Source
from luthier.data.dataset import read_dataset, reasons

DATA = Path(__file__).parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not here")


def read(path, **source):
    return read_dataset("x", Source(path=path, **source), DATA)


NOTHING_LEFT = {"nothing is left without the front matter and the template's tags": 8}  # pages that redirect
SAME = {"chosen and rejected are the same": 6}


@pytest.mark.parametrize(
    ("path", "format", "kind", "files", "rows", "rejected"),
    [
        ("lamini/lamini_docs.jsonl", "qa", Chat, 1, 1396, {"question: is empty": 6}),
        ("hh_rlhf", "hh", Pair, 1, 2312, {"chosen: turn # (assistant) is empty": 4}),
        ("docs_18f_handbook", "text", Text, 241, 241, NOTHING_LEFT),
        ("tinystories/tiny_stories.txt.gz", "text", Text, 1, 1, {}),
        ("gutenberg", "text", Text, 9, 9, {}),
        ("arc", "choices", Choice, 2, 3548, {}),
        ("arc/arc_easy_test.jsonl.gz", "choices", Choice, 1, 2376, {}),
        ("hellaswag", "choices", Choice, 1, 10042, {}),
        ("mmlu", "choices", Choice, 2, 14327, {}),
        ("llms_from_scratch/instruction-data.json", "alpaca", Chat, 1, 1100, {}),
        ("llms_from_scratch/instruction-data-with-preference.json", "pairs", Pair, 1, 1100, SAME),
        ("sharegpt_dummy", "sharegpt", Chat, 1, 500, {}),
        ("gsm8k", "qa", Chat, 2, 8792, {}),
        ("dolly_hhrlhf", "prompt_completion", Chat, 1, 1000, {}),
        ("oasst", "oasst", Pair, 1, 745, {}),
        ("self_instruct", "self_instruct", Chat, 2, 427, {}),
        ("banking77", "text", Text, 2, 13083, {}),
    ],
)
def test_counts(path, format, kind, files, rows, rejected):
    got = read(path)
    assert (got.format, got.files, got.rows) == (format, files, rows)
    assert reasons(got.rejected) == rejected
    assert all(isinstance(example, kind) for example in got.train + got.heldout)
    assert len(got.train) + len(got.heldout) == rows - sum(rejected.values())


def test_hh_pairs_end_in_what_was_compared():
    got = read("hh_rlhf", heldout=0)
    assert all(pair.prompt[-1].role == "user" and pair.chosen != pair.rejected for pair in got.train)
    assert {row.origin.rpartition(":")[2] for row in got.rejected} == {"87", "517", "926", "1104"}
    # Rows 1255 and 1953: the chosen side has two assistant turns in a row, which are one answer.
    assert sum("\n\n" in pair.chosen for pair in got.train if pair.origin.endswith((":1255", ":1953"))) == 2


def test_handbook_pages_are_what_a_reader_sees():
    got = read("docs_18f_handbook", heldout=0)
    assert not [page.origin for page in got.train if page.text.startswith("---")]
    left = [page.origin for page in got.train if "{% page" in page.text or "{% comment" in page.text]
    assert left == ["docs_18f_handbook/updating-the-handbook/shortcodes.md"]  # it explains them, in raw blocks
    page = next(p for p in got.train if p.origin == "docs_18f_handbook/travel-and-leave/paid-parental-leave.md")
    assert page.text.startswith("TTS has paid parental leave (PPL) for the birth")


def test_tables_with_missing_answers_are_refused_by_name():
    with pytest.raises(UserError, match=r"no format fits its columns: .*question, .*description"):
        read("lamini/shopping.jsonl")
    mapped = read("lamini/shopping.jsonl", columns={"answer": "description"})
    assert (mapped.format, mapped.rows) == ("qa", 1001)
