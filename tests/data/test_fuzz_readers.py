"""Spoilt files of every kind, read in processes of their own: a few here, ten thousand in benchmarks/fuzz.py."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from fuzzing import SEEDS, mutated, read_case
from luthier.data.readers.faq import questions
from luthier.data.readers.headings import headings
from luthier.data.readers.html import markdown_of
from luthier.data.readers.sections import sections

FILES = 4 * len(SEEDS)
FUZZ = Path(__file__).parents[2] / "benchmarks" / "fuzz.py"


def fuzz_module():
    spec = importlib.util.spec_from_file_location("benchmarks_fuzz", FUZZ)
    module = importlib.util.module_from_spec(spec)
    sys.modules["benchmarks_fuzz"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_spoilt_files_cost_a_reason_and_nothing_else():
    fuzz = fuzz_module()
    cases = fuzz.cases_of(list(SEEDS), FILES)
    found = fuzz.fuzz(cases, 1, longest_s=60)  # a busy machine is no bug; the benchmark asks for 5 s
    assert not found.wrong
    assert found.outcomes.total() == FILES and found.peak_bytes < 1 << 30


def test_a_process_that_dies_or_hangs_is_told():
    """The judge itself: what it says of a reader that crashes, that hangs, and that raises."""
    fuzz = fuzz_module()

    reader = fuzz.Reader(Path("/nonexistent"))
    assert reader.ask("md 1", 60)["said"].startswith(("broke", "crashed"))
    assert reader.ask("md 2", 0.0)["said"].startswith("hung")
    reader.close()


def test_good_seeds_are_read_and_cases_are_always_the_same(tmp_path):
    for reader in SEEDS:
        assert mutated(reader, 3) == mutated(reader, 3)
        assert not read_case(tmp_path, reader, 3).startswith("broke")


MARKDOWN = st.lists(
    st.sampled_from(
        ["# ", "## ", "a", "?", "\n", "\n\n", "```", "~~~", "---", "===", "Q: ", "A: ", "**", "[", "](", "|", " "]
    )
).map("".join)


@given(MARKDOWN)
def test_any_markdown_has_sections_and_questions(text):
    found = list(sections(text, "Title"))
    assert len({section.place for section in found}) == len(found)
    assert "".join(text.split()).startswith(
        "".join("".join(h.body.split()) for h in list(headings(text))[:1] if not h.level)
    )
    asked, others = questions(text)
    assert all(one.question and one.answer for one in asked) and others >= 0


HTML = st.lists(
    st.sampled_from(
        ["<p>", "</p>", "<h1>", "</h2>", "<table>", "<tr>", "<td>", "<pre>", "<li>", "<ul>", "<dl>", "<dt>", "<script>",
         "<br>", "<details>", "<summary>", "a b", "why?", "&#1;", "&#xFFFE;", "&amp;", "<!--", "-->", "<a href='x'>",
         "\n", "<body>"]
    )
).map("".join)  # fmt: skip


@settings(max_examples=60)
@given(HTML)
def test_any_page_is_read_without_its_scripts(html):
    assert "<script" not in markdown_of(f"<html><body><p>words</p>{html}</body></html>")
